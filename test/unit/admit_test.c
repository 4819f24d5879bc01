/*
 * admit_test.c - verdicts, order and modes; the limit over random histories.
 */
#include "admit.h"

#include <string.h>

#include "tap.h"

#define MANY 100000
#define TASKS 200

static AdmitQuota
quota(int64_t nominal, int64_t committed, int64_t reserved, int64_t granted)
{
	return (AdmitQuota) {nominal, committed, reserved, granted};
}

static void
test_verdicts(void)
{
	AdmitQuota	q = quota(10, 3, 2, 1);

	ok(admit_usage(&q) == 6 && admit_available(&q) == 4, "committed, reserved and granted are used");
	ok(admit_verdict(&q, 4, false) == REASON_NONE, "the last slots");
	ok(admit_verdict(&q, 5, false) == REASON_QUOTA, "one slot more than there is");
	ok(admit_verdict(&q, 1, true) == REASON_ORDER, "others wait");
	ok(admit_verdict(&q, 10, false) == REASON_QUOTA && admit_verdict(&q, 11, false) == REASON_NEVER_FITS &&
	   admit_verdict(&q, 11, true) == REASON_NEVER_FITS, "more than the limit never fits");
	q = quota(10, 15, 0, 0);
	ok(admit_available(&q) == 0, "nothing is available above the limit");
	q = quota(0, 0, 0, 0);
	ok(admit_verdict(&q, 1, false) == REASON_NEVER_FITS && admit_verdict(&q, 0, false) == REASON_NONE, "a limit of 0");
	q = quota(NO_LIMIT, INT64_MAX / 2, 0, 0);
	ok(admit_available(&q) == NO_LIMIT && admit_verdict(&q, INT32_MAX, true) == REASON_NONE, "no limit admits all");
}

/* What fits leaves room for what is smaller, and waiting never admits more. */
static void
test_monotone(void)
{
	bool		smaller = true;
	bool		waiting = true;
	bool		inside = true;

	for (int i = 0; i < MANY; i++)
	{
		AdmitQuota	q = quota(tap_random(50), tap_random(40), tap_random(10), tap_random(10));
		int64_t		slots = 1 + tap_random(20);
		bool		fits = admit_verdict(&q, slots, false) == REASON_NONE;

		smaller &= !fits || admit_verdict(&q, tap_random(slots + 1), false) == REASON_NONE;
		waiting &= admit_verdict(&q, slots, true) != REASON_NONE;
		inside &= fits == (admit_usage(&q) + slots <= q.nominal);
	}
	ok(smaller, "what fits leaves room for what is smaller");
	ok(waiting, "nobody passes while others wait");
	ok(inside, "admitted is exactly what stays inside the limit");
}

typedef enum Phase
{
	WAITS, GRANTED, RESERVED, COMMITTED
} Phase;

/* One step of a random task through asks, grants, commits, aborts and ends. */
static void
step(AdmitQuota *q, Phase *phase, int64_t slots)
{
	switch (*phase)
	{
		case WAITS:
			if (admit_verdict(q, slots, false) != REASON_NONE)
				return;
			*phase = tap_random(2) ? GRANTED : RESERVED;
			*(*phase == GRANTED ? &q->granted : &q->reserved) += slots;
			return;
		case GRANTED:
			q->granted -= slots;
			*phase = tap_random(4) ? RESERVED : WAITS;
			if (*phase == RESERVED)
				q->reserved += slots;
			return;
		case RESERVED:
			q->reserved -= slots;
			*phase = tap_random(4) ? COMMITTED : WAITS;
			if (*phase == COMMITTED)
				q->committed += slots;
			return;
		case COMMITTED:
			q->committed -= slots;
			*phase = WAITS;
	}
}

static void
test_history(void)
{
	AdmitQuota	q = quota(25, 0, 0, 0);
	Phase		phase[TASKS] = {0};
	int64_t		slots[TASKS];
	int64_t		most = 0;
	bool		adds_up = true;

	for (int i = 0; i < TASKS; i++)
		slots[i] = 1 + tap_random(6);
	for (int n = 0; n < MANY; n++)
	{
		int64_t		used = 0;
		int			i = (int) tap_random(TASKS);

		step(&q, &phase[i], slots[i]);
		for (int k = 0; k < TASKS; k++)
			used += phase[k] == WAITS ? 0 : slots[k];
		adds_up &= used == admit_usage(&q);
		most = used > most ? used : most;
	}
	ok(adds_up, "usage is the sum of the tasks");
	ok(most == 25, "the limit is reached and never exceeded");
}

static AdmitRank
random_rank(void)
{
	return (AdmitRank) {tap_random(3), tap_random(3), (uint64_t) tap_random(3)};
}

static bool
same_rank(const AdmitRank *a, const AdmitRank *b)
{
	return a->priority == b->priority && a->first_asked == b->first_asked && a->tie == b->tie;
}

static void
test_order(void)
{
	AdmitRank	high = {2, 9, 9};
	AdmitRank	old = {1, 1, 9};
	AdmitRank	young = {1, 2, 1};
	bool		total = true;
	bool		transitive = true;

	ok(admit_compare(&high, &old) < 0 && admit_compare(&old, &young) < 0 && admit_compare(&young, &high) > 0,
	   "priority first, then age");
	for (int i = 0; i < MANY; i++)
	{
		AdmitRank	a = random_rank();
		AdmitRank	b = random_rank();
		AdmitRank	c = random_rank();

		total &= admit_compare(&a, &b) == -admit_compare(&b, &a) &&
			(admit_compare(&a, &b) == 0) == same_rank(&a, &b);
		transitive &= admit_compare(&a, &b) > 0 || admit_compare(&b, &c) > 0 ||
			admit_compare(&a, &c) <= 0;
	}
	ok(total, "of two different ranks one goes first");
	ok(transitive, "the order has no circles");
}

static void
test_modes(void)
{
	static const AdmitMode all[] = {MODE_UNKNOWN, MODE_OFF, MODE_OBSERVE, MODE_ENFORCE};
	bool		off = true;
	bool		own = true;
	bool		paused = true;

	for (int i = 0; i < 4; i++)
	{
		off &= admit_mode(MODE_OFF, all[i], true) == MODE_OFF &&
			admit_mode(MODE_UNKNOWN, all[i], true) == MODE_UNKNOWN;
		for (int d = 2; d < 4; d++)
		{
			own &= admit_mode(all[d], all[i], true) == (all[i] == MODE_UNKNOWN ? all[d] : all[i]);
			paused &= admit_mode(all[d], all[i], false) != MODE_ENFORCE;
		}
	}
	ok(off, "off for the deployment is off for all");
	ok(own, "a tenant's own mode wins");
	ok(paused, "nothing is enforced on an unknown Airflow");
	ok(strcmp(admit_mode_name(MODE_ENFORCE), "enforce") == 0 && admit_reason_name(REASON_NONE) == NULL &&
	   strcmp(admit_reason_name(REASON_NEVER_FITS), "never_fits") == 0, "names");
}

int
main(void)
{
	tap_seed();
	test_verdicts();
	test_monotone();
	test_history();
	test_order();
	test_modes();
	return tap_done();
}
