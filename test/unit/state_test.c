/*
 * state_test.c - names of states, and what each state means for the counters.
 */
#include "state.h"

#include <string.h>

#include "tap.h"

static TaskState
parse(const char *name)
{
	return task_state_parse(name, strlen(name));
}

static void
test_names(void)
{
	bool		both_ways = true;

	for (int i = TASK_SCHEDULED; i < NUM_UNFINISHED; i++)
		both_ways &= parse(task_state_name(i)) == (TaskState) i;
	ok(both_ways, "every unfinished state is known by its name");
	ok(parse("success") == TASK_FINISHED && parse("failed") == TASK_FINISHED &&
	   parse("skipped") == TASK_FINISHED && parse("upstream_failed") == TASK_FINISHED &&
	   parse("removed") == TASK_FINISHED, "finished states of Airflow");
	ok(parse("") == TASK_FINISHED && parse("runnin") == TASK_FINISHED &&
	   parse("runningg") == TASK_FINISHED && parse("Running") == TASK_FINISHED &&
	   parse("none") == TASK_FINISHED && parse("x") == TASK_FINISHED, "all else is finished");
	ok(task_state_parse("running and more", 7) == TASK_RUNNING &&
	   task_state_parse("running\0", 8) == TASK_FINISHED, "a name ends where its length says");
}

static void
test_meaning(void)
{
	bool		asks = true;
	bool		charged = true;
	bool		claimable = true;

	for (TaskState s = TASK_NONE; s <= TASK_FINISHED; s++)
	{
		bool		active = s == TASK_SCHEDULED || s == TASK_QUEUED ||
			s == TASK_RUNNING || s == TASK_RESTARTING;

		asks &= task_state_may_ask(s) ==
			(s == TASK_NONE || s == TASK_UP_FOR_RETRY || s == TASK_UP_FOR_RESCHEDULE);
		charged &= task_state_charged(s, false) == active;
		charged &= task_state_charged(s, true) == (active || s == TASK_DEFERRED);
		claimable &= task_state_claimable(s) == (s == TASK_SCHEDULED || s == TASK_QUEUED);
	}
	ok(asks, "the scheduler asks from none, up_for_retry and up_for_reschedule");
	ok(charged, "scheduled to restarting use slots, deferred where it counts");
	ok(claimable, "scheduled and queued tasks are able to start");
}

int
main(void)
{
	test_names();
	test_meaning();
	return tap_done();
}
