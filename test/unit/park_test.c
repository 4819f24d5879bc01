/*
 * park_test.c - when a look at a run is useful.
 *
 * Most of it is a random interleaving of two changers, a scheduler and the
 * worker, step by step as they run in different processes.  A change that is
 * committed and that no committed look has read must keep the run in the
 * window; when nothing happens any more, the run must leave it.
 */
#include "park_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MINUTE 60000000LL

static int	tests;

static void
ok(bool passed, const char *name)
{
	printf("%sok %d - %s\n", passed ? "" : "not ", ++tests, name);
}

static void
test_dates(void)
{
	ParkDagState dag = {.stamp = 1};
	ParkState	run = {0};
	ParkFacts	facts = {.known = true, .stamp = 1};
	int64_t		now = 100 * MINUTE;

	ok(park_state_useful(&run, &dag, 0, now), "a run without a look is useful");
	park_state_look(&run, 5, now, now);
	ok(!park_state_settle(&run, &dag, 0, &facts, MINUTE, now), "an open look does not park");
	run.open = false;
	ok(park_state_settle(&run, &dag, 0, &facts, MINUTE, now) &&
	   run.reason == PARK_CHANGE && run.next_look == now + MINUTE, "nothing to come: a safety look");
	ok(!park_state_useful(&run, &dag, 0, now + MINUTE - 1) &&
	   park_state_useful(&run, &dag, 0, now + MINUTE), "useful again at its time");

	facts.dates[PARK_RETRY] = now + 30000000;
	facts.dates[PARK_TIMEOUT] = now + 40000000;
	ok(park_state_settle(&run, &dag, 0, &facts, MINUTE, now) && run.reason == PARK_RETRY &&
	   run.next_look == now + 30000000 - PARK_EARLY, "the earliest date wins, looked at early");
	run.ahead = 2000000;
	ok(park_state_settle(&run, &dag, 0, &facts, MINUTE, now) &&
	   run.next_look == now + 28000000 - PARK_EARLY, "earlier still when the scheduler's clock is ahead");
	facts.dates[PARK_RETRY] = now + PARK_EARLY;
	ok(!park_state_settle(&run, &dag, 0, &facts, MINUTE, now), "a date at hand does not park");
	facts.known = false;
	facts.dates[PARK_RETRY] = 0;
	ok(!park_state_settle(&run, &dag, 0, &facts, MINUTE, now), "what is not understood does not park");

	park_state_look(&run, 5, now + 3, now);
	ok(run.ahead == 3 && run.parked == 0, "a look unparks and compares the clocks");
	park_state_look(&run, 5, now - 3, now);
	ok(run.ahead == 0, "a clock that is behind does no harm");
}

static void
test_dags(void)
{
	ParkDagState dag = {0};
	ParkState	run = {.looked = 5, .chained = true};
	ParkFacts	facts = {.known = true, .stamp = 7};

	ok(park_state_version(&dag, 7, 6), "a version not seen before marks");
	ok(!park_state_settle(&run, &dag, 0, &facts, MINUTE, 1), "its runs are looked at once more");
	park_state_look(&run, 6, 1, 1);
	run.open = false;
	ok(!park_state_version(&dag, 7, 8) && park_state_settle(&run, &dag, 0, &facts, MINUTE, 1),
	   "the same version does not mark");
	ok(park_state_version(&dag, 9, 9) && park_state_useful(&run, &dag, 0, 2), "another version marks");

	dag = (ParkDagState) {.stamp = 7, .ended = 10};
	run.looked = 9;
	ok(!park_state_marked(&run, &dag, 0), "an end elsewhere does not mark a run that waits for no other");
	facts.chained = true;
	ok(!park_state_settle(&run, &dag, 0, &facts, MINUTE, 1) && park_state_marked(&run, &dag, 0),
	   "it marks one that does");
	ok(park_state_marked(&(ParkState) {.looked = 9}, &dag, 10), "a mark on all");
	ok(park_state_version(&dag, 0, 11) && park_state_version(&dag, 0, 12), "an unknown version always marks");
}

static void
test_spread(void)
{
	bool		inside = true;
	int64_t		least = INT64_MAX;
	int64_t		most = 0;

	for (uint64_t i = 0; i < 10000; i++)
	{
		int64_t		spread = park_state_spread(5 * MINUTE, i * 0x9E3779B97F4A7C15);

		inside &= spread >= 5 * MINUTE / 2 && spread <= 5 * MINUTE * 3 / 2;
		least = spread < least ? spread : least;
		most = spread > most ? spread : most;
	}
	ok(inside && least < 151 * MINUTE / 60 && most > 449 * MINUTE / 60, "safety looks are spread by half either way");
}

/* Changers make a change visible, and mark it in a later step. */
typedef struct Changer
{
	bool		visible;		/* committed, not marked yet */
} Changer;

typedef struct World
{
	uint64_t	marks;
	int			committed;		/* changes that are visible */
	int			told;			/* of them marked */
	int			read;			/* of them read by the last committed look */
	ParkState	run;
	ParkDagState dag;
	Changer		changers[2];
	int			step;			/* of the scheduler */
	uint64_t	seen;
	int			snapshot;
	bool		taken;			/* by the worker */
	uint32_t	looks;
	bool		listed;
} World;

static void
change(World *w, Changer *changer)
{
	if (!changer->visible)
		w->committed++;
	else
	{
		w->told++;
		w->run.marked = ++w->marks;
	}
	changer->visible = !changer->visible;
}

static void
end_look(World *w, bool commit)
{
	if (!commit)
		park_state_look_failed(&w->run, ++w->marks);
	w->run.open = false;
	if (commit)
		w->read = w->snapshot;
	w->listed = commit && !park_state_marked(&w->run, &w->dag, 0);
}

/* The end of the transaction before; examine; write last_scheduling_decision; end. */
static void
schedule(World *w, bool commit)
{
	switch (w->step)
	{
		case 0:
			w->seen = w->marks;
			break;
		case 1:
			if (!park_state_useful(&w->run, &w->dag, 0, 1))
			{
				w->step = 0;
				return;
			}
			w->snapshot = w->committed;
			break;
		case 2:
			w->listed = false;
			park_state_look(&w->run, w->seen, 1, 1);
			break;
		case 3:
			end_look(w, commit);
			break;
	}
	w->step = (w->step + 1) % 4;
}

static void
work(World *w)
{
	ParkFacts	facts = {.known = true, .stamp = 1};

	if (!w->taken && w->listed)
	{
		w->taken = true;
		w->listed = false;
		w->looks = w->run.looks;
	}
	else if (w->taken)
	{
		if (w->looks == w->run.looks)
			park_state_settle(&w->run, &w->dag, 0, &facts, MINUTE, 1);
		w->taken = false;
	}
}

/* All changes that are marked have been read, or the run is in the window. */
static bool
sound(const World *w)
{
	bool		told = !w->changers[0].visible && !w->changers[1].visible;

	return !told || w->read >= w->told || w->step >= 2 || park_state_useful(&w->run, &w->dag, 0, 1);
}

static bool
comes_to_rest(World *w)
{
	for (int i = 0; i < 2; i++)
	{
		if (w->changers[i].visible)
			change(w, &w->changers[i]);
	}
	for (int i = 0; i < 20; i++)
	{
		schedule(w, true);
		work(w);
	}
	return w->read == w->committed && !park_state_useful(&w->run, &w->dag, 0, 1);
}

static void
test_interleavings(unsigned seed)
{
	bool		always_sound = true;
	bool		always_rests = true;
	int			parked = 0;

	printf("# seed %u\n", seed);
	srandom(seed);
	for (int i = 0; i < 20000; i++)
	{
		World		w = {.marks = 1, .dag = {.stamp = 1}};

		for (int step = 0; step < 60; step++)
		{
			long		dice = random() % 16;

			if (dice < 2)
				change(&w, &w.changers[dice]);
			else if (dice < 10)
				schedule(&w, dice > 2);
			else
				work(&w);
			always_sound &= sound(&w);
			parked += w.run.parked != 0;
		}
		always_rests &= comes_to_rest(&w);
	}
	ok(always_sound, "no committed change is missed");
	ok(always_rests, "a run at rest is parked");
	ok(parked > 100000, "the interleavings do park");
}

int
main(int argc, char **argv)
{
	test_dates();
	test_dags();
	test_spread();
	test_interleavings(argc > 1 ? (unsigned) atoi(argv[1]) : (unsigned) time(NULL));
	printf("1..%d\n", tests);
	return 0;
}
