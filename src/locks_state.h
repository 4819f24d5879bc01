/*
 * locks_state.h - when the sampler looks next, and what episodes add up to.
 *
 * Pure: no PostgreSQL, no clock.  Instants and lengths are microseconds.
 */
#ifndef AIRFLOW_BP_LOCKS_STATE_H
#define AIRFLOW_BP_LOCKS_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define LOCKS_LONGEST_PERIOD INT64_C(60000000)
#define LOCKS_COST_SHARE 100	/* a look may take 1/100 of its period */

/* What has been seen of an episode. */
typedef struct EpisodeSums
{
	int64_t		samples;
	int64_t		waiter_us;		/* waiters, times the time that each look stands for */
	int64_t		idle_us;		/* the part of it in which the blocker was idle in its transaction */
	int64_t		longest_us;		/* wait */
	int			most_waiters;
} EpisodeSums;

/* Episodes that began in a minute. */
typedef struct EpisodeRate
{
	int64_t		minute;
	int			begun;
} EpisodeRate;

extern int64_t locks_next_period(int64_t period, int64_t wanted, int64_t took);
extern int64_t locks_next_look(int64_t planned, int64_t period, int64_t now);
extern int64_t locks_planned_look(int64_t planned, int64_t period, int64_t now);
extern int64_t locks_stands_for(int64_t last, int64_t now, int64_t period);
extern void episode_add(EpisodeSums *sums, int waiters, int64_t stands_for, bool idle, int64_t longest);
extern EpisodeSums episode_since(const EpisodeSums *now, const EpisodeSums *then);
extern bool episode_may_begin(EpisodeRate *rate, int most, int64_t now);
extern bool episode_due(bool over, int64_t began, int64_t written, int64_t now);

#endif							/* AIRFLOW_BP_LOCKS_STATE_H */
