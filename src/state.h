/*
 * state.h - the states of a task, as small integers.  Pure: no PostgreSQL.
 */
#ifndef AIRFLOW_BP_STATE_H
#define AIRFLOW_BP_STATE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum TaskState
{
	TASK_NONE,
	TASK_SCHEDULED,
	TASK_QUEUED,
	TASK_RUNNING,
	TASK_RESTARTING,
	TASK_DEFERRED,
	TASK_UP_FOR_RETRY,
	TASK_UP_FOR_RESCHEDULE,
	TASK_AWAITING_INPUT,		/* since Airflow 3.3 */
	TASK_FINISHED,				/* success, failed, skipped, and all else */
} TaskState;

#define NUM_UNFINISHED TASK_FINISHED

extern TaskState task_state_parse(const char *name, size_t len);
extern const char *task_state_name(TaskState state);

/* The scheduler asks only from these states. */
static inline bool
task_state_may_ask(TaskState state)
{
	return state == TASK_NONE || state == TASK_UP_FOR_RETRY ||
		state == TASK_UP_FOR_RESCHEDULE;
}

/* Does a task in this state use slots of its tenant? */
static inline bool
task_state_charged(TaskState state, bool count_deferred)
{
	return (state >= TASK_SCHEDULED && state <= TASK_RESTARTING) ||
		(count_deferred && state == TASK_DEFERRED);
}

/* Is a task in this state able to start, and not yet started? */
static inline bool
task_state_claimable(TaskState state)
{
	return state == TASK_SCHEDULED || state == TASK_QUEUED;
}

#endif							/* AIRFLOW_BP_STATE_H */
