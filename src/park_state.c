/*
 * park_state.c - when a look of the scheduler at a run is useful.  Pure.
 */
#include "park_state.h"

/* Has something happened that the last look may not have seen? */
bool
park_state_marked(const ParkState *run, const ParkDagState *dag, uint64_t all)
{
	return run->marked > run->looked || dag->changed > run->looked || all > run->looked ||
		(run->chained && dag->ended > run->looked);
}

bool
park_state_useful(const ParkState *run, const ParkDagState *dag, uint64_t all, int64_t now)
{
	return run->parked == 0 || now >= run->next_look || park_state_marked(run, dag, all);
}

/*
 * A look begins.  It sees what was committed before the mark "seen" was the
 * last; "decided" is now by the scheduler's clock.
 */
void
park_state_look(ParkState *run, uint64_t seen, int64_t decided, int64_t now)
{
	run->looked = seen;
	run->looks++;
	run->open = true;
	run->ahead = decided > now ? decided - now : 0;
	run->parked = 0;
	run->next_look = 0;
}

void
park_state_look_failed(ParkState *run, uint64_t mark)
{
	run->marked = mark;
	run->open = false;
}

/* Note the version of a DAG; true when all its runs must be looked at again. */
bool
park_state_version(ParkDagState *dag, int64_t stamp, uint64_t mark)
{
	if (dag->stamp == stamp && stamp != 0)
		return false;
	dag->stamp = stamp;
	dag->changed = mark;
	return true;
}

/*
 * Park a run after a look, until the first instant at which another may be
 * useful.  False when it must stay in the window.
 */
bool
park_state_settle(ParkState *run, const ParkDagState *dag, uint64_t all,
				  const ParkFacts *facts, int64_t park_for, int64_t now)
{
	int64_t		next = now + park_for;
	ParkReason	reason = PARK_CHANGE;

	run->chained = facts->chained;
	if (!facts->known || run->open || park_state_marked(run, dag, all))
		return false;
	for (ParkReason i = PARK_RETRY; i <= PARK_TIMEOUT; i++)
	{
		int64_t		date = facts->dates[i] - PARK_EARLY - run->ahead;

		if (facts->dates[i] != 0 && date < next)
		{
			next = date;
			reason = i;
		}
	}
	if (next <= now)
		return false;
	run->reason = reason;
	run->parked = now;
	run->next_look = next;
	return true;
}

/* Half to one and a half of park_for, the same for the same hash. */
int64_t
park_state_spread(int64_t park_for, uint64_t hash)
{
	return park_for / 2 + (int64_t) ((double) park_for * (hash >> 32) / UINT32_MAX);
}

const char *
park_reason_name(ParkReason reason)
{
	static const char *const names[] = {
		[PARK_CHANGE] = "change",
		[PARK_RETRY] = "retry_delay",
		[PARK_RESCHEDULE] = "reschedule_delay",
		[PARK_TIMEOUT] = "dagrun_timeout",
	};

	return names[reason];
}
