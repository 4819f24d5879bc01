/*
 * drain_state.c - whether a drain holds an ask.  Pure: no PostgreSQL.
 */
#include "drain_state.h"

/* One more drain over what is drained from an instant on. */
int64_t
drain_join(int64_t from, bool finish_runs, int64_t since)
{
	if (!finish_runs)
		return DRAIN_ALL;
	return since < from ? since : from;
}

/*
 * On a task first asked for at an instant, of a run that started at another;
 * 0: not known.  Only tasks of runs that have started are asked for.
 */
DrainVerdict
drain_verdict(int64_t from, int64_t asked, int64_t started)
{
	if (from == DRAIN_NONE || from == DRAIN_ALL)
		return from == DRAIN_NONE ? DRAIN_PASS : DRAIN_HOLD;
	if (asked != 0 && asked < from)
		return DRAIN_PASS;
	if (started == 0)
		return DRAIN_UNKNOWN;
	return started < from ? DRAIN_PASS : DRAIN_HOLD;
}
