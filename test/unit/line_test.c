/*
 * line_test.c - order inside a tenant: priority, age, usage of its flows.
 */
#include "admit_line.h"

#include <math.h>
#include <string.h>

#include "tap.h"

#define SECOND INT64_C(1000000)
#define ROOM 200

static const AdmitOrder plain = {0};
static AdmitTask task[ROOM];

static AdmitNode
tenant_of(int64_t nominal)
{
	AdmitNode	tenant = {.name = "t", .nominal = nominal, .borrowing_limit = NO_LIMIT,
		.lending_limit = NO_LIMIT, .weight = ADMIT_WEIGHT_ONE};

	admit_prepare(&tenant);
	return tenant;
}

/* Some tasks of the room ask, one after the other. */
static void
ask(AdmitShape *shape, int from, int count, int64_t asked, int64_t apart)
{
	for (int i = from; i < from + count; i++)
	{
		task[i] = (AdmitTask) {.asked = asked + (i - from) * apart, .tie = (uint64_t) i};
		admit_enter(shape, &task[i]);
	}
}

/* Fill, and give back the slots at once; numbers of the tasks in their order. */
static int
fill(AdmitNode *tenant, const AdmitOrder *order, int64_t now, int *admitted)
{
	AdmitFill	fill;
	AdmitTask  *next;
	int			count = 0;

	admit_fill_begin(&fill, order, now);
	admit_fill_add(&fill, tenant);
	while ((next = admit_fill_next(&fill)) != NULL)
		admitted[count++] = (int) (next - task);
	tenant->usage[ADMIT_USED] = 0;
	return count;
}

static void
test_plain(void)
{
	AdmitNode	tenant = tenant_of(6);
	AdmitShape	low;
	AdmitShape	high;
	AdmitShape	wide;
	int			order[ROOM];

	admit_shape_init(&low, &tenant, NULL, 1, 1);
	admit_shape_init(&high, &tenant, NULL, 2, 1);
	admit_shape_init(&wide, &tenant, NULL, 2, 2);
	ask(&low, 0, 3, 0, 1);
	ask(&high, 3, 2, 5, 2);
	ask(&wide, 5, 1, 6, 0);
	ok(tenant.waiting == 6 && admit_head(&tenant, &plain, 100) == &task[3], "the first of all");
	admit_leave(&task[4]);
	ok(tenant.waiting == 5 && high.waiting == 1 && task[4].shape == NULL, "one leaves");
	admit_enter(&high, &task[4]);
	ok(fill(&tenant, &plain, 100, order) == 5 && order[0] == 3 && order[1] == 5 && order[2] == 4 &&
	   order[3] == 0 && order[4] == 1, "priority, then age, over all sizes");
	ok(tenant.waiting == 1 && admit_head(&tenant, &plain, 100) == &task[2], "who is admitted has left");
	admit_shape_unlink(&high);
	ok(tenant.shapes == &wide && wide.next == &low && low.next == NULL, "a shape is taken out");
	admit_leave(&task[2]);
	ok(admit_head(&tenant, &plain, 100) == NULL, "nobody waits");
}

static void
test_waiting(void)
{
	AdmitNode	cohort = tenant_of(0);
	AdmitNode	tenant = tenant_of(1);
	AdmitShape	shape;

	admit_link(&tenant, &cohort);
	admit_shape_init(&shape, &tenant, NULL, 0, 1);
	ask(&shape, 0, 3, 0, 0);
	ok(cohort.waiting == 3, "a cohort counts who waits below it");
	admit_leave(&task[1]);
	ok(cohort.waiting == 2 && tenant.waiting == 2, "and who leaves");
}

static int64_t
effective(AdmitShape *shape, const AdmitOrder *order, int64_t now)
{
	admit_shape_rank(shape, order, now);
	return shape->effective;
}

static void
test_ageing(void)
{
	AdmitOrder	order = {.max_age = 100, .age_priority = 10, .age_tasks = 3};
	AdmitNode	tenant = tenant_of(1000);
	AdmitShape	shape;
	bool		linear = true;

	admit_shape_init(&shape, &tenant, NULL, 2, 1);
	ask(&shape, 0, 5, 50, 0);
	for (int age = 0; age <= 100; age++)
		linear &= effective(&shape, &order, 50 + age) == 2000 + 100 * age;
	ok(linear, "priority rises with age");
	ok(effective(&shape, &order, 1000) == 12000 && effective(&shape, &order, 0) == 2000, "from the ask up to the cap");
	ok(effective(&shape, &plain, 1000) == 2000, "without ageing it stays");
	admit_shape_admitted(&shape, &order, 200);
	admit_shape_admitted(&shape, &order, 210);
	ok(effective(&shape, &order, 300) == 12000, "as many as may age do so together");
	admit_shape_admitted(&shape, &order, 220);
	ok(effective(&shape, &order, 220) == 2000 && effective(&shape, &order, 270) == 7000, "the next age from then");
	admit_shape_admitted(&shape, &order, 280);
	admit_shape_admitted(&shape, &order, 290);
	ok(effective(&shape, &order, 320) == 12000, "and as many again");
	admit_shape_admitted(&shape, &order, 330);
	ok(effective(&shape, &order, 330) == 2000, "and so on");
}

static void
test_flood(void)
{
	AdmitOrder	order = {.max_age = 100, .age_priority = 10, .age_tasks = 3};
	AdmitNode	tenant = tenant_of(30);
	AdmitShape	low;
	AdmitShape	high;
	int			admitted[ROOM];
	bool		as_planned = true;

	admit_shape_init(&low, &tenant, NULL, 0, 1);
	admit_shape_init(&high, &tenant, NULL, 5, 1);
	ask(&low, 0, 100, 0, 0);
	ask(&high, 100, 20, 1000, 0);
	ok(fill(&tenant, &order, 1000, admitted) == 30, "all slots are used");
	for (int i = 0; i < 30; i++)
		as_planned &= admitted[i] == (i < 3 ? i : i < 23 ? 100 + i - 3 : i - 20);
	ok(as_planned, "of a flood of old tasks only some go before those of high priority");
}

/*
 * A slot a second, and a task of high priority each second: when do 20 of low
 * priority end?
 */
static int
last_low(const AdmitOrder *order)
{
	AdmitNode	tenant = tenant_of(1);
	AdmitShape	low;
	AdmitShape	high;
	int			left = 20;

	memset(task, 0, sizeof(task));
	admit_shape_init(&low, &tenant, NULL, 0, 1);
	admit_shape_init(&high, &tenant, NULL, 5, 1);
	ask(&low, 0, left, 0, 0);
	for (int now = 0; now < 2000; now++)
	{
		int			i = 0;

		while (task[i].shape != NULL)
			i++;
		ask(&high, i, 1, now, 0);
		if (fill(&tenant, order, now, &i) == 1 && task[i].shape == &low && --left == 0)
			return now;
		task[i].shape = NULL;
	}
	return -1;
}

static void
test_starvation(void)
{
	AdmitOrder	order = {.max_age = 100, .age_priority = 10, .age_tasks = 2};
	int			last = last_low(&order);

	printf("# the last of low priority at %d s\n", last);
	/* Two of them each time that the age has made up for 5 of 10 points. */
	ok(last >= 400 && last <= 600, "under constant pressure each task comes to its turn");
	ok(last_low(&plain) < 0, "without ageing none does");
}

static void
test_flow_usage(void)
{
	AdmitFlow	flow = {0};
	int64_t		half_life = 300 * SECOND;
	double		exact = 0;
	double		worst = 0;
	int64_t		now = 0;

	for (int i = 0; i < 50; i++)
	{
		int64_t		slots = tap_random(20);
		int64_t		until = now + tap_random(400 * SECOND);

		admit_flow_use(&flow, slots - flow.slots, half_life, now);
		for (; now < until; now += SECOND / 20)
			exact += (slots - exact) * log(2) / half_life * (SECOND / 20);
		worst = fmax(worst, fabs(exact - admit_flow_usage(&flow, half_life, now)));
	}
	printf("# largest difference %g slots\n", worst);
	ok(worst < 0.01, "usage decays as its equation says");
	flow = (AdmitFlow) {.usage = 8, .slots = 0, .at = 100};
	ok(fabs(admit_flow_usage(&flow, half_life, 100 + half_life) - 4) < 1e-12 &&
	   fabs(admit_flow_usage(&flow, half_life, 100 + 3 * half_life) - 1) < 1e-12, "half of it is gone after the half-life");
	ok(admit_flow_usage(&flow, half_life, 50) == 8, "a clock that goes back takes nothing away");
	admit_flow_use(&flow, 2, 0, 500);
	ok(flow.slots == 2 && flow.usage == 8 && flow.at == 100, "without a half-life only slots are counted");
}

static void
test_flow_charge(void)
{
	AdmitOrder	order = {.half_life = 60 * SECOND};
	AdmitNode	tenant = tenant_of(100);
	AdmitFlow	flow = {.usage = 4, .slots = 0, .at = 0};
	AdmitShape	shape;

	admit_shape_init(&shape, &tenant, &flow, 0, 6);
	admit_shape_admitted(&shape, &order, 60 * SECOND);
	ok(fabs(flow.usage - (2 + 3)) < 1e-12 && flow.at == 60 * SECOND && flow.slots == 0,
	   "an admission is charged with a minute of its slots");
}

static void
test_flows(int64_t half_life, int expected, const char *name)
{
	AdmitOrder	order = {.half_life = half_life};
	AdmitNode	tenant = tenant_of(20);
	AdmitFlow	flood = {0};
	AdmitFlow	small = {0};
	AdmitShape	shapes[3];
	int			admitted[ROOM];
	int			of_small = 0;

	admit_shape_init(&shapes[0], &tenant, &flood, 0, 1);
	admit_shape_init(&shapes[1], &tenant, &flood, 9, 1);
	admit_shape_init(&shapes[2], &tenant, &small, 0, 1);
	ask(&shapes[0], 0, 50, 0, 1);
	ask(&shapes[1], 50, 50, 0, 1);
	ask(&shapes[2], 100, 15, 900, 1);
	fill(&tenant, &order, 1000, admitted);
	for (int i = 0; i < 20; i++)
		of_small += admitted[i] >= 100;
	ok(of_small == expected, name);
}

/* Who has used much waits until the other has as much. */
static void
test_used_flow(void)
{
	AdmitOrder	order = {.half_life = 3600 * SECOND};
	AdmitNode	tenant = tenant_of(30);
	AdmitFlow	used = {.usage = 10 * (1 - exp2(-1.0 / 60)), .slots = 0, .at = 0};
	AdmitFlow	fresh = {0};
	AdmitShape	shapes[2];
	int			admitted[ROOM];
	int			of_fresh = 0;

	admit_shape_init(&shapes[0], &tenant, &used, 0, 1);
	admit_shape_init(&shapes[1], &tenant, &fresh, 0, 1);
	ask(&shapes[0], 0, 50, 0, 0);
	ask(&shapes[1], 50, 50, 1, 0);
	fill(&tenant, &order, 0, admitted);
	for (int i = 0; i < 30; i++)
		of_fresh += admitted[i] >= 50;
	ok(admitted[0] >= 50 && admitted[9] >= 50 && of_fresh == 20, "ten minutes ahead are ten tasks of the other");
}

int
main(void)
{
	tap_seed();
	test_plain();
	test_waiting();
	test_ageing();
	test_flood();
	test_starvation();
	test_flow_usage();
	test_flow_charge();
	test_flows(3600 * SECOND, 10, "a flood and a small flow take turns");
	test_flows(0, 0, "without a half-life a flood goes first");
	test_used_flow();
	return tap_done();
}
