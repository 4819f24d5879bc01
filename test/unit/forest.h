/*
 * forest.h - random tenants, cohorts and waiting tasks, for tests of the engine.
 *
 * A plan is plain rows; a forest is what the engine makes of it.  Rows of nodes
 * are in order of name, parents before children.
 */
#ifndef FOREST_H
#define FOREST_H

#include "admit.h"

#include <string.h>

#include "tap.h"

#define PLAN_NODES 14
#define PLAN_TASKS 40
#define PLAN_FLOWS 3			/* of each tenant */
#define PLAN_LEVELS 4			/* of cohorts */

typedef struct PlanNode
{
	int			parent;			/* -1: a root */
	int			level;
	bool		cohort;
	int64_t		nominal;
	int64_t		borrowing_limit;
	int64_t		lending_limit;
	int64_t		weight;
	bool		best_effort;
	int64_t		usage;			/* of a tenant */
} PlanNode;

typedef struct PlanTask
{
	int			tenant;
	int			flow;
	int64_t		priority;
	int64_t		slots;
	int64_t		asked;
} PlanTask;

typedef struct Plan
{
	int			nodes;
	int			tasks;
	PlanNode	node[PLAN_NODES];
	PlanTask	task[PLAN_TASKS];
	AdmitFlow	flow[PLAN_NODES][PLAN_FLOWS];
	AdmitOrder	order;
	int64_t		now;
} Plan;

typedef struct Forest
{
	char		name[PLAN_NODES][8];
	AdmitNode	node[PLAN_NODES];
	AdmitFlow	flow[PLAN_NODES][PLAN_FLOWS];
	AdmitShape	shape[PLAN_TASKS];
	int			shapes;
	AdmitTask	task[PLAN_TASKS];
} Forest;

static inline bool
chance(int percent)
{
	return tap_random(100) < percent;
}

static inline int64_t
plan_limit(void)
{
	return chance(50) ? NO_LIMIT : chance(40) ? 0 : tap_random(6);
}

static inline PlanNode
plan_node(const Plan *plan, int number, int cohorts)
{
	static const double weights[] = {0, 1e-9, 0.1, 0.3, 0.5, 1, 1, 1, 2, 3, 2147483647};
	PlanNode	node = {.parent = -1, .cohort = number < cohorts};

	if (cohorts > 0 && chance(85) && (number < cohorts ? number > 0 : true))
		node.parent = (int) tap_random(number < cohorts ? number : cohorts);
	if (node.parent >= 0)
		node.level = plan->node[node.parent].level + 1;
	if (node.level >= PLAN_LEVELS && node.cohort)
		node.parent = -1, node.level = 0;
	node.nominal = chance(30) ? 0 : tap_random(8);
	if (node.parent < 0 && !node.cohort && chance(20))
		node.nominal = NO_LIMIT;
	node.borrowing_limit = plan_limit();
	node.lending_limit = plan_limit();
	node.weight = admit_weight(weights[tap_random(11)]);
	node.best_effort = chance(40);
	node.usage = node.cohort || chance(50) ? 0 : tap_random(chance(20) ? 12 : 4);
	return node;
}

static inline void
plan_order(Plan *plan)
{
	plan->order = (AdmitOrder) {0};
	plan->now = 10;
	if (chance(40))
		plan->order = (AdmitOrder) {.max_age = 1 + tap_random(8), .age_priority = 1 + tap_random(3), .age_tasks = tap_random(3)};
	if (chance(30))
		plan->order.half_life = 1000000 * (1 + tap_random(100));
}

static inline void
plan_random(Plan *plan)
{
	int			cohorts;

	memset(plan, 0, sizeof(*plan));
	plan->nodes = 1 + (int) tap_random(PLAN_NODES);
	plan->tasks = (int) tap_random(1 + (chance(20) ? PLAN_TASKS : 16));
	cohorts = chance(40) ? 1 : (int) tap_random(6);
	if (cohorts >= plan->nodes)
		cohorts = plan->nodes - 1;
	for (int i = 0; i < plan->nodes; i++)
		plan->node[i] = plan_node(plan, i, cohorts);
	for (int i = 0; i < plan->tasks; i++)
		plan->task[i] = (PlanTask) {
			.tenant = cohorts + (int) tap_random(plan->nodes - cohorts),
			.flow = (int) tap_random(PLAN_FLOWS),
			.priority = tap_random(3),
			.slots = chance(60) ? 1 : tap_random(7),
			.asked = tap_random(10)
		};
	for (int i = 0; i < plan->nodes * PLAN_FLOWS; i++)
		plan->flow[i / PLAN_FLOWS][i % PLAN_FLOWS] = (AdmitFlow) {.usage = (double) tap_random(3), .slots = tap_random(3)};
	plan_order(plan);
}

/* Numbers from 0 to below n, in order or in any. */
static inline void
plan_sequence(int *order, int n, bool shuffled)
{
	for (int i = 0; i < n; i++)
	{
		int			k = shuffled ? (int) tap_random(i + 1) : i;

		order[i] = order[k];
		order[k] = i;
	}
}

static inline AdmitShape *
forest_shape(Forest *forest, const PlanTask *task, bool flows)
{
	AdmitNode  *tenant = &forest->node[task->tenant];
	AdmitFlow  *flow = flows ? &forest->flow[task->tenant][task->flow] : NULL;

	for (AdmitShape *shape = tenant->shapes; shape != NULL; shape = shape->next)
	{
		if (shape->flow == flow && shape->priority == task->priority && shape->slots == task->slots)
			return shape;
	}
	admit_shape_init(&forest->shape[forest->shapes], tenant, flow, task->priority, task->slots);
	return &forest->shape[forest->shapes++];
}

static inline void
forest_build(Forest *forest, const Plan *plan, bool shuffled)
{
	int			order[PLAN_TASKS];

	memset(forest, 0, sizeof(*forest));
	memcpy(forest->flow, plan->flow, sizeof(forest->flow));
	for (int i = plan->nodes - 1; i >= 0; i--)
	{
		const PlanNode *row = &plan->node[i];
		AdmitNode  *node = &forest->node[i];

		snprintf(forest->name[i], sizeof(forest->name[i]), "%d", i + 100);
		node->name = forest->name[i];
		node->nominal = row->nominal;
		node->borrowing_limit = row->borrowing_limit;
		node->lending_limit = row->lending_limit;
		node->weight = row->weight;
		node->best_effort = row->best_effort;
		node->usage[ADMIT_USED] = row->usage;
		admit_link(node, row->parent < 0 ? NULL : &forest->node[row->parent]);
	}
	for (int i = 0; i < plan->nodes; i++)
	{
		if (forest->node[i].parent == NULL)
			admit_prepare(&forest->node[i]);
	}
	plan_sequence(order, plan->tasks, shuffled);
	for (int i = 0; i < plan->tasks; i++)
	{
		const PlanTask *row = &plan->task[order[i]];
		AdmitTask  *task = &forest->task[order[i]];

		task->asked = row->asked;
		task->tie = (uint64_t) order[i];
		admit_enter(forest_shape(forest, row, plan->order.half_life > 0), task);
	}
}

static inline void
forest_begin(Forest *forest, const Plan *plan, AdmitFill *fill, bool shuffled)
{
	int			order[PLAN_NODES];

	plan_sequence(order, plan->nodes, shuffled);
	admit_fill_begin(fill, &plan->order, plan->now);
	for (int i = 0; i < plan->nodes; i++)
	{
		if (forest->node[order[i]].parent == NULL)
			admit_fill_add(fill, &forest->node[order[i]]);
	}
}

/* Number of the task admitted next, -1 for nobody. */
static inline int
forest_next(Forest *forest, AdmitFill *fill)
{
	AdmitTask  *task = admit_fill_next(fill);

	return task == NULL ? -1 : (int) (task - forest->task);
}

#endif							/* FOREST_H */
