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
 * Of a task first asked for at an instant (0: now), of a run that started at
 * another (0: before all drains).  Only tasks of runs that have started are asked for.
 */
bool
drain_holds(int64_t from, int64_t asked, int64_t started)
{
	if (from == DRAIN_NONE || from == DRAIN_ALL)
		return from == DRAIN_ALL;
	return started >= from && (asked == 0 || asked >= from);
}
