/*
 * admit.h - who may start: the verdict on one ask and the order of the held.
 *
 * Pure: no PostgreSQL, no clock, no memory of its own.  All amounts are slots.
 */
#ifndef AIRFLOW_BP_ADMIT_H
#define AIRFLOW_BP_ADMIT_H

#include <stdbool.h>
#include <stdint.h>

#define NO_LIMIT INT64_MAX

typedef enum AdmitMode
{
	MODE_UNKNOWN,				/* after a start, until the policy is compiled */
	MODE_OFF,
	MODE_OBSERVE,
	MODE_ENFORCE,
} AdmitMode;

/* Why a task is held; REASON_NONE admits it. */
typedef enum AdmitReason
{
	REASON_NONE,
	REASON_STARTING,
	REASON_QUOTA,
	REASON_ORDER,
	REASON_NEVER_FITS,
} AdmitReason;

typedef struct AdmitQuota
{
	int64_t		nominal;		/* NO_LIMIT: unlimited */
	int64_t		committed;		/* used by committed tasks */
	int64_t		reserved;		/* used by admissions of open transactions */
	int64_t		granted;		/* promised to held tasks */
} AdmitQuota;

/* Place of a held task in its tenant's order. */
typedef struct AdmitRank
{
	int64_t		priority;
	int64_t		first_asked;	/* microseconds */
	uint64_t	tie;
} AdmitRank;

extern int64_t admit_usage(const AdmitQuota *quota);
extern int64_t admit_available(const AdmitQuota *quota);
extern AdmitReason admit_verdict(const AdmitQuota *quota, int64_t slots, bool others_wait);
extern int	admit_compare(const AdmitRank *a, const AdmitRank *b);
extern AdmitMode admit_mode(AdmitMode deployment, AdmitMode tenant, bool may_enforce);
extern const char *admit_reason_name(AdmitReason reason);
extern const char *admit_mode_name(AdmitMode mode);

#endif							/* AIRFLOW_BP_ADMIT_H */
