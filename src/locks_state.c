/*
 * locks_state.c - when the sampler looks next, and what episodes add up to.
 */
#include "locks_state.h"

#define MINUTE INT64_C(60000000)

/* An episode that goes on is written after a second, and then at times that double up to a minute. */
#define WRITE_FIRST INT64_C(1000000)
#define WRITE_LONGEST MINUTE

#define least(a, b) ((a) < (b) ? (a) : (b))
#define most(a, b) ((a) > (b) ? (a) : (b))

/* Half as often after a look that took too long, and back when that would be cheap. */
int64_t
locks_next_period(int64_t period, int64_t wanted, int64_t took)
{
	if (period < wanted)
		return wanted;
	if (took * LOCKS_COST_SHARE > period)
		return most(wanted, least(period * 2, LOCKS_LONGEST_PERIOD));
	if (took * LOCKS_COST_SHARE * 4 <= period)
		return most(wanted, period / 2);
	return period;
}

/* The first instant of the ideal row that is still to come: lateness does not add up. */
int64_t
locks_next_look(int64_t planned, int64_t period, int64_t now)
{
	int64_t		next = planned + period;

	if (next <= now)
		next += (now - next) / period * period + period;
	return next;
}

/* No look is planned for later than a period from now: the clock may have been set back. */
int64_t
locks_planned_look(int64_t planned, int64_t period, int64_t now)
{
	return least(planned, now + period);
}

/* A look stands for the time since the one before it, but not for time in which nobody looked. */
int64_t
locks_stands_for(int64_t last, int64_t now, int64_t period)
{
	if (last == 0 || now <= last)
		return period;
	return least(now - last, 2 * period);
}

void
episode_add(EpisodeSums *sums, int waiters, int64_t stands_for, bool idle, int64_t longest)
{
	sums->samples++;
	sums->waiter_us += waiters * stands_for;
	if (idle)
		sums->idle_us += waiters * stands_for;
	sums->longest_us = most(sums->longest_us, longest);
	sums->most_waiters = most(sums->most_waiters, waiters);
}

/* What came since then.  The greatest are of the whole episode. */
EpisodeSums
episode_since(const EpisodeSums *now, const EpisodeSums *then)
{
	return (EpisodeSums) {
		.samples = now->samples - then->samples,
		.waiter_us = now->waiter_us - then->waiter_us,
		.idle_us = now->idle_us - then->idle_us,
		.longest_us = now->longest_us,
		.most_waiters = now->most_waiters
	};
}

/* At most so many in a minute of the clock, or waits that are new at each look would fill the disk. */
bool
episode_may_begin(EpisodeRate *rate, int most, int64_t now)
{
	if (rate->minute != now / MINUTE)
		*rate = (EpisodeRate) {.minute = now / MINUTE};
	if (rate->begun >= most)
		return false;
	rate->begun++;
	return true;
}

/* Is a piece of it to be written?  written: when that was done last; 0: never. */
bool
episode_due(bool over, int64_t began, int64_t written, int64_t now)
{
	if (over || written == 0)
		return true;
	return now - written >= most(WRITE_FIRST, least(written - began, WRITE_LONGEST));
}
