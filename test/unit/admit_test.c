/*
 * admit_test.c - quotas, availability and shares worked out by hand; verdicts,
 * weights, modes; the limits over random histories of asks and ends.
 */
#include "forest.h"

#include <math.h>

#define HISTORIES 3000
#define STEPS 60

static AdmitNode
node(const char *name, int64_t nominal, int64_t borrowing_limit, int64_t lending_limit, double weight)
{
	return (AdmitNode) {.name = name, .nominal = nominal, .borrowing_limit = borrowing_limit,
		.lending_limit = lending_limit, .weight = admit_weight(weight)};
}

static bool
is(const AdmitNode *n, int64_t quota, int64_t kept, int64_t potential, int64_t usage, int64_t available)
{
	return n->quota == quota && n->kept == kept && n->potential == potential &&
		n->usage[ADMIT_USED] == usage && admit_available(n) == available;
}

static bool
near(double a, double b)
{
	return fabs(a - b) <= 1e-12 * fabs(b);
}

static void
test_flat(void)
{
	AdmitNode	all = node("all", 2, NO_LIMIT, NO_LIMIT, 1);
	AdmitNode	a = node("a", 10, 3, 4, 1);
	AdmitNode	b = node("b", 5, NO_LIMIT, NO_LIMIT, 2);

	admit_link(&b, &all);
	admit_link(&a, &all);
	admit_prepare(&all);
	ok(is(&all, 11, 0, 11, 0, 11) && is(&a, 10, 6, 13, 0, 13) && is(&b, 5, 0, 11, 0, 11),
	   "a lends 4 of its 10 and borrows 3");
	admit_use(&a, 6);
	ok(is(&all, 11, 0, 11, 0, 11) && is(&b, 5, 0, 11, 0, 11), "what is kept is used first, and only by its owner");
	admit_use(&b, 8);
	ok(is(&all, 11, 0, 11, 8, 3) && is(&a, 10, 6, 13, 6, 3) && is(&b, 5, 0, 11, 8, 3), "b borrows 3");
	ok(admit_borrowed(&b) == 3 && near(admit_share(&b), 3.0 / 11 / 2), "share is what is borrowed, by potential and weight");
	ok(admit_borrowed(&a) == 0 && admit_share(&a) == 0 && admit_borrowed(&all) == 0 && admit_share(&all) == 0,
	   "nobody else has a share");
	admit_use(&a, 5);
	ok(is(&all, 11, 0, 11, 13, 0) && admit_free(&b, ADMIT_USED) == -2, "over the quota of the root nothing is left");
	b.weight = 0;
	ok(isinf(admit_share(&b)), "weight 0 while borrowing");
}

static void
test_nested(void)
{
	AdmitNode	root = node("root", 1, NO_LIMIT, NO_LIMIT, 1);
	AdmitNode	left = node("left", 4, 2, 3, 1);
	AdmitNode	right = node("right", 0, NO_LIMIT, NO_LIMIT, 4);
	AdmitNode	l = node("l", 6, NO_LIMIT, 0, 1);
	AdmitNode	r = node("r", 5, NO_LIMIT, NO_LIMIT, 0.5);
	AdmitNode  *walk[5] = {&l, &left, &r, &right, &root};
	AdmitNode  *next = admit_first(&root);
	bool		in_order = true;

	admit_link(&right, &root);
	admit_link(&left, &root);
	admit_link(&r, &right);
	admit_link(&l, &left);
	l.waiting = 2;
	r.waiting = 3;
	admit_prepare(&root);
	next = admit_first(&root);
	for (int i = 0; i < 5; i++, next = admit_next(next, &root))
		in_order &= next == walk[i] && admit_root(next) == &root;
	ok(in_order && next == NULL, "a walk comes to each node after those below it");
	ok(left.waiting == 2 && root.waiting == 5, "who waits is counted");
	/* left: 4 + (6 - 6); root: 1 + (4 - 1) + 5 */
	ok(is(&left, 4, 1, 6, 0, 6) && is(&right, 5, 0, 9, 0, 9) && is(&root, 9, 0, 9, 0, 9) &&
	   is(&l, 6, 6, 12, 0, 12) && is(&r, 5, 0, 9, 0, 9), "limits at two levels");
	admit_use(&l, 12);
	ok(is(&l, 6, 6, 12, 12, 0) && is(&left, 4, 1, 6, 6, 0) && is(&root, 9, 0, 9, 5, 4) && is(&r, 5, 0, 9, 0, 4),
	   "each level passes up what it does not keep");
	ok(near(admit_share(&l), 6.0 / 6) && near(admit_share(&left), 2.0 / 9), "shares at two levels");
	admit_use(&r, 6);
	ok(near(admit_share(&right), 1.0 / 9 / 4) && near(admit_share(&r), 1.0 / 9 / 0.5) && is(&l, 6, 6, 12, 12, 0) &&
	   admit_free(&l, ADMIT_USED) == -2, "a fraction as weight");
}

static void
test_lone(void)
{
	AdmitNode	lone = node("lone", 7, 3, 2, 1);
	AdmitNode	free_one = node("free", NO_LIMIT, NO_LIMIT, NO_LIMIT, 1);
	AdmitNode	nothing = node("nothing", 0, NO_LIMIT, NO_LIMIT, 1);

	admit_prepare(&lone);
	admit_prepare(&free_one);
	admit_prepare(&nothing);
	admit_use(&lone, 9);
	admit_use(&free_one, INT32_MAX);
	ok(is(&lone, 7, 5, 7, 9, 0) && admit_borrowed(&lone) == 0 && admit_share(&lone) == 0,
	   "without a cohort nothing is lent or borrowed");
	ok(admit_available(&free_one) == NO_LIMIT && admit_verdict(&free_one, INT32_MAX, true, false) == REASON_NONE,
	   "no limit admits all");
	ok(admit_verdict(&nothing, 1, false, true) == REASON_NEVER_FITS &&
	   admit_verdict(&nothing, 0, false, true) == REASON_NONE, "a limit of 0");
}

static void
test_verdicts(void)
{
	AdmitNode	all = node("all", 0, NO_LIMIT, NO_LIMIT, 1);
	AdmitNode	a = node("a", 4, 3, NO_LIMIT, 1);
	AdmitNode	b = node("b", 6, NO_LIMIT, NO_LIMIT, 1);

	admit_link(&b, &all);
	admit_link(&a, &all);
	admit_prepare(&all);
	admit_use(&a, 2);
	ok(admit_verdict(&a, 2, false, false) == REASON_NONE, "inside its quota, though others wait");
	ok(admit_verdict(&a, 2, true, true) == REASON_ORDER, "others of the tenant go before");
	ok(admit_verdict(&a, 3, false, false) == REASON_ORDER, "nobody borrows while others wait");
	ok(admit_verdict(&a, 5, false, true) == REASON_NONE && admit_verdict(&a, 6, false, true) == REASON_QUOTA,
	   "borrowing up to the limit while nobody waits");
	ok(admit_verdict(&a, 7, false, true) == REASON_QUOTA && admit_verdict(&a, 8, false, true) == REASON_NEVER_FITS &&
	   admit_verdict(&a, 8, true, false) == REASON_NEVER_FITS, "more than could ever be available");
	admit_use(&b, 8);
	ok(admit_verdict(&a, 1, false, true) == REASON_QUOTA, "its own slots are lent");
	admit_use(&b, -1);
	ok(admit_verdict(&a, 1, false, false) == REASON_NONE && admit_verdict(&a, 2, false, false) == REASON_QUOTA &&
	   admit_verdict(&b, 1, false, false) == REASON_ORDER && admit_verdict(&b, 1, false, true) == REASON_NONE,
	   "what comes back is for its owner");
}

static void
test_weights(void)
{
	bool		near_enough = true;

	ok(admit_weight(1) == ADMIT_WEIGHT_ONE && admit_weight(0) == 0 && admit_weight(0.3) == 300000000,
	   "a weight in billionths");
	ok(admit_weight(1e-300) == 1 && admit_weight(1e-9) == 1, "a weight above 0 is never 0");
	ok(admit_weight(2147483647) == INT64_C(2147483647000000000), "the greatest weight");
	for (int64_t i = 0; i < 1000000; i++)
		near_enough &= admit_weight((double) i / 1000) == i * 1000000;
	ok(near_enough, "a weight is rounded, not cut");
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
	   strcmp(admit_reason_name(REASON_QUOTA), "held_quota") == 0 &&
	   strcmp(admit_reason_name(REASON_ORDER), "held_order") == 0 &&
	   strcmp(admit_reason_name(REASON_STARTING), "held_starting") == 0 &&
	   strcmp(admit_reason_name(REASON_NEVER_FITS), "never_fits") == 0, "names");
}

/* Does a node have more than it may take from above, or a root more than there is? */
static bool
over_limit(const AdmitNode *n)
{
	int64_t		passed = n->usage[ADMIT_USED] - n->kept;

	if (n->quota == NO_LIMIT)
		return false;
	if (n->parent == NULL)
		return n->usage[ADMIT_USED] > n->quota;
	return n->borrowing_limit != NO_LIMIT && passed > n->quota - n->kept + n->borrowing_limit;
}

/* Usage of a node from that of those below it. */
static int64_t
summed(const Forest *forest, const Plan *plan, int i)
{
	int64_t		sum = 0;

	for (int c = i + 1; c < plan->nodes; c++)
	{
		const AdmitNode *n = &forest->node[c];

		if (plan->node[c].parent == i && n->usage[ADMIT_USED] > n->kept)
			sum += n->usage[ADMIT_USED] - n->kept;
	}
	return sum;
}

typedef struct Sound
{
	bool		limits;
	bool		sums;
	bool		empty;
	bool		smaller;
	bool		waiting;
	int64_t		admitted;
	int64_t		refused;
} Sound;

static void
check_forest(const Forest *forest, const Plan *plan, Sound *sound)
{
	for (int i = 0; i < plan->nodes; i++)
	{
		sound->limits &= !over_limit(&forest->node[i]);
		if (plan->node[i].cohort)
			sound->sums &= forest->node[i].usage[ADMIT_USED] == summed(forest, plan, i);
	}
}

/* Asks and ends without order, from nothing back to nothing. */
static void
history(Sound *sound)
{
	static Plan plan;
	static Forest forest;
	int64_t		used[PLAN_NODES] = {0};

	plan_random(&plan);
	for (int i = 0; i < plan.nodes; i++)
		plan.node[i].usage = 0;
	forest_build(&forest, &plan, false);
	for (int n = 0; n < STEPS; n++)
	{
		int			i = (int) tap_random(plan.nodes);
		AdmitNode  *tenant = &forest.node[i];
		int64_t		slots = tap_random(5);

		if (plan.node[i].cohort)
			continue;
		if (chance(30))
			slots = used[i] > 0 ? -tap_random(used[i] + 1) : 0;
		else if (admit_verdict(tenant, slots, false, true) != REASON_NONE)
		{
			sound->refused++;
			sound->waiting &= admit_verdict(tenant, slots, true, false) != REASON_NONE;
			continue;
		}
		else if (slots > 0)
			sound->smaller &= admit_verdict(tenant, slots - 1, false, true) == REASON_NONE;
		sound->admitted += slots > 0;
		admit_use(tenant, slots);
		used[i] += slots;
		check_forest(&forest, &plan, sound);
	}
	for (int i = 0; i < plan.nodes; i++)
		admit_use(&forest.node[i], -used[i]);
	for (int i = 0; i < plan.nodes; i++)
		sound->empty &= forest.node[i].usage[ADMIT_USED] == 0;
}

static void
test_histories(void)
{
	Sound		sound = {true, true, true, true, true, 0, 0};

	for (int i = 0; i < HISTORIES; i++)
		history(&sound);
	ok(sound.limits, "no history of verdicts exceeds a limit");
	ok(sound.sums, "usage is the sum of what is passed up");
	ok(sound.empty, "nothing is left when all has ended");
	ok(sound.smaller, "what fits leaves room for what is smaller");
	ok(sound.waiting, "waiting never admits more");
	ok(sound.admitted > HISTORIES && sound.refused > HISTORIES, "the histories admit and refuse");
}

int
main(void)
{
	tap_seed();
	test_flat();
	test_nested();
	test_lone();
	test_verdicts();
	test_weights();
	test_modes();
	test_histories();
	return tap_done();
}
