/*
 * drain_test.c - what a drain holds.
 */
#include "drain_state.h"

#include "tap.h"

static void
test_verdict(void)
{
	bool		none = true;
	bool		all = true;

	for (int i = 0; i < 200; i++)
	{
		none &= drain_verdict(DRAIN_NONE, i % 7, i) == DRAIN_PASS;
		all &= drain_verdict(DRAIN_ALL, i % 7, i) == DRAIN_HOLD;
	}
	ok(none && all, "without a drain all pass, under one of tasks none does");
	ok(drain_verdict(100, 0, 99) == DRAIN_PASS, "the run had started");
	ok(drain_verdict(100, 0, 100) == DRAIN_HOLD && drain_verdict(100, 0, 101) == DRAIN_HOLD, "it had not");
	ok(drain_verdict(100, 0, 0) == DRAIN_UNKNOWN && drain_verdict(100, 100, 0) == DRAIN_UNKNOWN, "it is not known");
	ok(drain_verdict(100, 99, 0) == DRAIN_PASS && drain_verdict(100, 99, 101) == DRAIN_PASS,
	   "who was asked for before the drain has a run that had started");
	ok(drain_verdict(100, 100, 101) == DRAIN_HOLD && drain_verdict(100, 101, 99) == DRAIN_PASS, "asked for since");
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
	test_verdict();
	test_join();
	return tap_done();
}
