/*
 * locks_state_test.c - when the sampler looks, and what episodes add up to.
 */
#include "locks_state.h"

#include "tap.h"

#define SECOND INT64_C(1000000)

static void
test_period(void)
{
	int64_t		period = SECOND;

	ok(locks_next_period(SECOND, SECOND, 10000) == SECOND, "1 % of the period is allowed");
	ok(locks_next_period(SECOND, SECOND, 10001) == 2 * SECOND, "more than 1 %: half as often");
	for (int i = 0; i < 20; i++)
		period = locks_next_period(period, SECOND, 700000);
	ok(period == LOCKS_LONGEST_PERIOD, "up to a minute");
	for (int i = 0; i < 20; i++)
		period = locks_next_period(period, SECOND, 100);
	ok(period == SECOND, "and back as looks are cheap again");
	ok(locks_next_period(4 * SECOND, SECOND, 15000) == 4 * SECOND, "not back when that would soon be too dear");
	ok(locks_next_period(SECOND, 100000, 10) == 500000, "towards a shorter period");
	ok(locks_next_period(100000, SECOND, 10) == SECOND, "a longer one holds at once");
	ok(locks_next_period(LOCKS_LONGEST_PERIOD, LOCKS_LONGEST_PERIOD, 2 * SECOND) == LOCKS_LONGEST_PERIOD, "a minute is the longest");
}

static void
test_look(void)
{
	ok(locks_next_look(10 * SECOND, SECOND, 10 * SECOND + 300) == 11 * SECOND, "lateness does not add up");
	ok(locks_next_look(10 * SECOND, SECOND, 11 * SECOND) == 12 * SECOND, "one that is due now is past");
	ok(locks_next_look(10 * SECOND, SECOND, 14 * SECOND + 5) == 15 * SECOND, "missed ones are left out");
	ok(locks_planned_look(100 * SECOND, SECOND, 10 * SECOND) == 11 * SECOND, "a clock that is set back");
	ok(locks_planned_look(11 * SECOND, SECOND, 10 * SECOND + 300) == 11 * SECOND, "one that is not leaves the plan");
	ok(locks_stands_for(9 * SECOND, 10 * SECOND + 7, SECOND) == SECOND + 7, "a look stands for the time since the last");
	ok(locks_stands_for(SECOND, 90 * SECOND, SECOND) == 2 * SECOND, "but not for what nobody saw");
	ok(locks_stands_for(0, 90 * SECOND, SECOND) == SECOND && locks_stands_for(91 * SECOND, 90 * SECOND, SECOND) == SECOND,
	   "the first one, and one after the clock was set back");
}

static void
test_episode(void)
{
	EpisodeSums sums = {0};
	EpisodeSums then;

	episode_add(&sums, 3, SECOND, false, 5 * SECOND);
	then = sums;
	episode_add(&sums, 2, 2 * SECOND, true, 4 * SECOND);
	ok(sums.samples == 2 && sums.waiter_us == 7 * SECOND && sums.idle_us == 4 * SECOND && sums.longest_us == 5 * SECOND &&
	   sums.most_waiters == 3, "an episode adds up");
	sums = episode_since(&sums, &then);
	ok(sums.samples == 1 && sums.waiter_us == 4 * SECOND && sums.idle_us == 4 * SECOND && sums.most_waiters == 3, "since it was written");
	ok(episode_due(false, SECOND, 0, SECOND), "a new one is written at once");
	ok(episode_due(true, SECOND, 2 * SECOND, 2 * SECOND + 1), "and one that is over");
	ok(!episode_due(false, SECOND, 2 * SECOND, 2 * SECOND + 999999) && episode_due(false, SECOND, 2 * SECOND, 3 * SECOND), "then after a second");
	ok(!episode_due(false, 0, 20 * SECOND, 39 * SECOND) && episode_due(false, 0, 20 * SECOND, 40 * SECOND), "then ever less often");
	ok(!episode_due(false, 0, 1000 * SECOND, 1059 * SECOND) && episode_due(false, 0, 1000 * SECOND, 1060 * SECOND), "but each minute");
}

static void
test_rate(void)
{
	EpisodeRate rate = {0};
	int			begun = 0;

	for (int i = 0; i < 100; i++)
		begun += episode_may_begin(&rate, 40, 60 * SECOND + i);
	ok(begun == 40, "so many episodes begin in a minute");
	ok(!episode_may_begin(&rate, 40, 120 * SECOND - 1) && episode_may_begin(&rate, 40, 120 * SECOND), "and again in the next");
	ok(episode_may_begin(&rate, 1, 60 * SECOND), "and after a clock that was set back");
}

int
main(void)
{
	test_period();
	test_look();
	test_episode();
	test_rate();
	return tap_done();
}
