/*
 * park_state.h - when a look of the scheduler at a run is useful.
 *
 * Pure: no PostgreSQL, no clock, no memory of its own.  Instants are
 * microseconds; marks are numbered in the order in which they are made.
 */
#ifndef AIRFLOW_BP_PARK_STATE_H
#define AIRFLOW_BP_PARK_STATE_H

#include <stdbool.h>
#include <stdint.h>

/* A date that comes is looked at this much early: clocks differ. */
#define PARK_EARLY 1000000

/* What a parked run waits for, unless it is marked before. */
typedef enum ParkReason
{
	PARK_CHANGE,				/* nothing is known to come: a safety look */
	PARK_RETRY,
	PARK_RESCHEDULE,
	PARK_TIMEOUT,
} ParkReason;

typedef struct ParkState
{
	uint64_t	marked;			/* number of its last mark */
	uint64_t	looked;			/* the last look saw all up to this mark */
	uint32_t	looks;			/* tells one look from the next */
	bool		chained;		/* waits for tasks of other runs of its DAG */
	bool		open;			/* the last look is not committed */
	ParkReason	reason;
	int64_t		ahead;			/* least that the scheduler's clock is ahead of ours */
	int64_t		parked;			/* since when; 0: not parked */
	int64_t		next_look;
} ParkState;

/* What all runs of a DAG have in common. */
typedef struct ParkDagState
{
	uint64_t	changed;		/* mark: another version */
	uint64_t	ended;			/* mark: something became of a task in one of its runs */
	int64_t		stamp;			/* of the version; 0: not known yet */
} ParkDagState;

/* What the tables say of a run; dates are 0 when there is none. */
typedef struct ParkFacts
{
	bool		known;			/* no date but these matters */
	bool		chained;
	int64_t		stamp;
	int64_t		dates[PARK_TIMEOUT + 1];	/* by ParkReason */
} ParkFacts;

extern bool park_state_marked(const ParkState *run, const ParkDagState *dag, uint64_t all);
extern bool park_state_useful(const ParkState *run, const ParkDagState *dag, uint64_t all,
							  int64_t now);
extern void park_state_look(ParkState *run, uint64_t seen, int64_t decided, int64_t now);
extern void park_state_look_failed(ParkState *run, uint64_t mark);
extern bool park_state_version(ParkDagState *dag, int64_t stamp, uint64_t mark);
extern bool park_state_settle(ParkState *run, const ParkDagState *dag, uint64_t all,
							  const ParkFacts *facts, int64_t park_for, int64_t now);
extern int64_t park_state_spread(int64_t park_for, uint64_t hash);
extern const char *park_reason_name(ParkReason reason);

#endif							/* AIRFLOW_BP_PARK_STATE_H */
