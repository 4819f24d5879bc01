/*
 * log.h - the decision log: a ring in shared memory that the worker empties
 * into the table airflow_bp.decision.
 *
 * Lock: shmem->log_lock, taken last.  A full ring drops the newest and counts.
 */
#ifndef AIRFLOW_BP_LOG_H
#define AIRFLOW_BP_LOG_H

#include "utils/uuid.h"

#include "shmem.h"

typedef enum Verdict
{
	VERDICT_ADMIT,
	VERDICT_HOLD,
	VERDICT_WOULD_HOLD,
} Verdict;

typedef struct Decision
{
	TimestampTz at;
	Oid			db;
	pg_uuid_t	id;				/* task_instance.id */
	int			tenant;
	int32		slots;
	int32		try_number;
	uint8		verdict;
	uint8		reason;			/* AdmitReason */
} Decision;

extern Size log_shmem_size(void);
extern void log_shmem_startup(void);
extern void log_decision(const Decision *decision);
extern void log_lost(void);
extern int64 log_dropped(void);
extern void log_flush(DbState *db, const char *airflow_schema);
extern void log_purge(void);

#endif							/* AIRFLOW_BP_LOG_H */
