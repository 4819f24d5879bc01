/*
 * drain_test.c - what a drain holds.
 */
#include "drain_state.h"

#include "tap.h"

static void
test_holds(void)
{
	bool		none = true;
	bool		all = true;

	for (int i = 0; i < 200; i++)
	{
		none &= !drain_holds(DRAIN_NONE, i % 7, i);
		all &= drain_holds(DRAIN_ALL, i % 7, i);
	}
	ok(none && all, "without a drain all pass, under one of tasks none does");
	ok(!drain_holds(100, 0, 99) && !drain_holds(100, 0, 0), "the run had started");
	ok(drain_holds(100, 0, 100) && drain_holds(100, 0, 101), "it had not");
	ok(!drain_holds(100, 99, 0) && !drain_holds(100, 99, 101),
	   "who was asked for before the drain has a run that had started");
	ok(drain_holds(100, 100, 101) && !drain_holds(100, 101, 99), "asked for since");
}

static void
test_join(void)
{
	ok(drain_join(DRAIN_NONE, true, 100) == 100, "one drain");
	ok(drain_join(100, true, 90) == 90 && drain_join(90, true, 100) == 90, "the first of two says which runs finish");
	ok(drain_join(DRAIN_NONE, false, 100) == DRAIN_ALL && drain_join(90, false, 100) == DRAIN_ALL &&
	   drain_join(DRAIN_ALL, true, 100) == DRAIN_ALL, "one that lets no run finish wins");
}

int
main(void)
{
	test_holds();
	test_join();
	return tap_done();
}
