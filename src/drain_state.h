/*
 * drain_state.h - whether a drain holds an ask.  Pure: no PostgreSQL, no clock.
 *
 * All drains over a class of tasks come to one instant: tasks of runs that had
 * started before it may still be admitted.
 */
#ifndef AIRFLOW_BP_DRAIN_STATE_H
#define AIRFLOW_BP_DRAIN_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define DRAIN_NONE INT64_MAX	/* no drain: every run */
#define DRAIN_ALL INT64_MIN		/* no run */

extern int64_t drain_join(int64_t from, bool finish_runs, int64_t since);
extern bool drain_holds(int64_t from, int64_t asked, int64_t started);

#endif							/* AIRFLOW_BP_DRAIN_STATE_H */
