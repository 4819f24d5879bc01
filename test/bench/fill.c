/*
 * fill.c - time the engine of admission.
 *
 * Half of the tenants wait, with tasks of 20 shapes; the other half lends.
 * Prints one line for each bound, with "ok" or "MISSED".
 */
#include "admit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 7
#define SHAPES 20				/* of the tasks of a tenant */
#define CACHE (64 << 20)		/* more than any cache has */
#define MANY 1000000			/* rounds of what takes nanoseconds */

typedef struct Load
{
	int			tenants;
	int			cohorts;
	int			backlog;		/* tasks of a tenant that waits */
	int			quota;			/* slots of a tenant */
	bool		one_root;		/* above all cohorts */
	int64_t		overused;		/* slots over its quota of a tenant that waits, all others lent them */
	AdmitNode  *node;			/* tenants, cohorts, root */
	char	  (*name)[16];
	AdmitShape *shape;
	AdmitTask  *task;
} Load;

static const AdmitOrder order = {.max_age = 600, .age_priority = 10, .age_tasks = 5};
static int	missed;

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
verdict(double value, double bound, const char *unit, const char *text)
{
	bool		met = value <= bound;

	printf("%-6s  %s: %.3g%s; at most %g%s\n", met ? "ok" : "MISSED", text, value, unit, bound, unit);
	missed |= !met;
}

static int
nodes_of(const Load *load)
{
	return load->tenants + load->cohorts + load->one_root;
}

static AdmitNode *
root_of(const Load *load, int cohort)
{
	return &load->node[load->one_root ? nodes_of(load) - 1 : load->tenants + cohort];
}

static int
roots_of(const Load *load)
{
	return load->one_root ? 1 : load->cohorts;
}

static void
make_node(Load *load, int i, AdmitNode *parent)
{
	AdmitNode  *node = &load->node[i];

	snprintf(load->name[i], sizeof(load->name[i]), "%08d", i);
	node->name = load->name[i];
	node->borrowing_limit = node->lending_limit = NO_LIMIT;
	node->weight = ADMIT_WEIGHT_ONE * (1 + i % 3);
	if (i < load->tenants)
		node->nominal = load->quota;
	if (i < load->tenants && i % 2 == 0)
		node->usage[ADMIT_USED] = load->overused > 0 ? load->quota + load->overused : 0;
	admit_link(node, parent);
}

/* Tasks come in without order, as from a hash table. */
static void
make_lines(Load *load, int tenant)
{
	AdmitShape *shapes = &load->shape[tenant * SHAPES];

	for (int i = 0; i < SHAPES; i++)
		admit_shape_init(&shapes[i], &load->node[tenant], NULL, i % 5, 1 + i / 5 % 4);
	for (int i = 0; i < load->backlog; i++)
	{
		AdmitTask  *task = &load->task[tenant * load->backlog + i];

		task->asked = (tenant * 31 + i * 7919) % 100003;
		task->tie = tenant * load->backlog + i;
		admit_enter(&shapes[i % SHAPES], task);
	}
}

/* Zeroed, and in memory. */
static void *
room(size_t n, size_t size)
{
	return memset(malloc(n * size), 0, n * size);
}

static void
make(Load *load, bool lines)
{
	int			n = nodes_of(load);

	load->node = room(n, sizeof(*load->node));
	load->name = room(n, sizeof(*load->name));
	load->shape = room((size_t) load->tenants * SHAPES, sizeof(*load->shape));
	load->task = room((size_t) load->tenants * load->backlog, sizeof(*load->task));
	for (int i = n - 1; i >= 0; i--)
	{
		AdmitNode  *parent = load->one_root && i < n - 1 ? &load->node[n - 1] : NULL;

		make_node(load, i, i < load->tenants ? &load->node[load->tenants + i / 2 % load->cohorts] : parent);
	}
	for (int i = 0; i < roots_of(load); i++)
		admit_prepare(root_of(load, i));
	for (int i = 0; lines && i < load->tenants; i++)
	{
		if (i % 2 == 0 || load->overused > 0)
			make_lines(load, i);
	}
}

static void
drop(Load *load)
{
	free(load->node);
	free(load->name);
	free(load->shape);
	free(load->task);
}

static int
fill(Load *load, int64_t now)
{
	AdmitFill	fill;
	int			admitted = 0;

	admit_fill_begin(&fill, &order, now);
	for (int i = 0; i < roots_of(load); i++)
		admit_fill_add(&fill, root_of(load, i));
	while (admit_fill_next(&fill) != NULL)
		admitted++;
	return admitted;
}

static void
forget_caches(void)
{
	static volatile char other[CACHE];

	for (int i = 0; i < CACHE; i += 32)
		other[i]++;
}

/* Least time of some rounds in milliseconds, from tasks in memory, not in a cache, to the last admission. */
static double
time_fill(const Load *shape, int *admitted)
{
	double		best = 1e9;

	for (int i = 0; i < ROUNDS; i++)
	{
		Load		load = *shape;
		double		began;
		double		took;

		make(&load, false);
		forget_caches();
		began = seconds();
		for (int t = 0; t < load.tenants; t++)
		{
			if (t % 2 == 0 || load.overused > 0)
				make_lines(&load, t);
		}
		*admitted = fill(&load, 100000);
		took = (seconds() - began) * 1000;
		best = took < best ? took : best;
		drop(&load);
	}
	return best;
}

static void
bench_fill(const char *name, bool one_root, int64_t overused)
{
	Load		load = {.tenants = 1000, .cohorts = 50, .backlog = overused > 0 ? 50 : 100, .quota = 25,
		.one_root = one_root, .overused = overused};
	char		text[256];
	int			admitted;
	double		few = time_fill(&load, &admitted);
	double		many;

	snprintf(text, sizeof(text), "%s: 1,000 tenants in 50 cohorts, 50,000 pending, %d admitted", name, admitted);
	verdict(few, 100, " ms", text);
	load.tenants = 10000;
	load.cohorts = 500;
	many = time_fill(&load, &admitted);
	snprintf(text, sizeof(text), "%s: ten times all of it, %d admitted, %.3g x", name, admitted, many / few);
	verdict(many, 15 * 100, " ms", text);
	if (overused > 0)
		return;
	load.backlog = 10;
	load.quota = 2;
	many = time_fill(&load, &admitted);
	snprintf(text, sizeof(text), "%s: ten times the tenants and cohorts, 50,000 pending, %d admitted, %.3g ms", name, admitted, many);
	verdict(many / few, 15, " x", text);
}

/* Microseconds for one task of one shape in a queue of a length: admitted, ended, another comes. */
static double
time_queue(int length)
{
	AdmitNode	tenant = {.name = "t", .nominal = 1, .borrowing_limit = NO_LIMIT, .lending_limit = NO_LIMIT, .weight = 1};
	AdmitShape	shape;
	AdmitTask  *task = calloc(length, sizeof(*task));
	double		began = 0;
	int			rounds = 200000;

	admit_prepare(&tenant);
	admit_shape_init(&shape, &tenant, NULL, 1, 1);
	for (int i = 0; i < length; i++)
	{
		task[i].asked = i;
		admit_enter(&shape, &task[i]);
	}
	for (int i = -length; i < rounds; i++)
	{
		AdmitFill	fill;
		AdmitTask  *next;

		if (i == 0)
			began = seconds();
		admit_fill_begin(&fill, &order, length + i);
		admit_fill_add(&fill, &tenant);
		next = admit_fill_next(&fill);
		admit_use(&tenant, -1);
		next->asked = 2 * length + i;
		admit_enter(&shape, next);
	}
	free(task);
	return (seconds() - began) / rounds * 1e6;
}

static void
bench_queue(void)
{
	char		text[128];
	double		few = time_queue(5);
	double		many = time_queue(50000);

	snprintf(text, sizeof(text), "an admission from 50,000 of one shape, %.3g us, against from 5, %.3g us", many, few);
	verdict(many / few, 3, " x", text);
}

static void
bench_verdict(int levels)
{
	AdmitNode	node[3] = {0};
	char		text[64];
	volatile int sink = 0;
	double		began;

	for (int i = 0; i < levels; i++)
	{
		node[i] = (AdmitNode) {.name = "n", .nominal = 10, .borrowing_limit = 5, .lending_limit = 5, .weight = 1};
		admit_link(&node[i], i > 0 ? &node[i - 1] : NULL);
	}
	admit_prepare(node);
	began = seconds();
	for (int i = 0; i < MANY; i++)
		sink += admit_verdict(&node[levels - 1], i & 3, false, true);
	snprintf(text, sizeof(text), "a verdict at depth %d", levels);
	verdict((seconds() - began) / MANY * 1e9, levels == 1 ? 100 : 300, " ns", text);
}

/* All tenants wait and nothing is free but one slot. */
static void
bench_freed(int cohorts)
{
	Load		load = {.tenants = 1000, .cohorts = cohorts, .backlog = 50, .quota = 20};
	double		best = 1e9;
	double		idle = 1e9;
	char		text[128];
	int			admitted = 1;

	load.overused = 1;
	make(&load, true);
	for (int i = 1; i < load.tenants; i += 2)
		admit_use(&load.node[i], load.quota - 1);
	for (int i = 0; i < 100; i++)
	{
		double		began;
		double		took;

		fill(&load, i);
		began = seconds();
		fill(&load, i);
		took = (seconds() - began) * 1000;
		idle = took < idle ? took : idle;
		admit_use(&load.node[i], -4);
		began = seconds();
		admitted &= fill(&load, i) > 0;
		took = (seconds() - began) * 1000;
		best = took < best ? took : best;
	}
	snprintf(text, sizeof(text), "a task ends, 1,000 tenants wait in %d cohorts", cohorts);
	verdict(admitted ? best : 1e9, 1, " ms", text);
	snprintf(text, sizeof(text), "nothing is free, 1,000 tenants wait in %d cohorts", cohorts);
	verdict(idle, 1, " ms", text);
	drop(&load);
}

int
main(void)
{
	bench_fill("50 roots", false, 0);
	bench_fill("one root", true, 0);
	bench_fill("one root, lenders wait", true, 15);
	bench_queue();
	bench_verdict(1);
	bench_verdict(3);
	bench_freed(1);
	bench_freed(50);
	return missed;
}
