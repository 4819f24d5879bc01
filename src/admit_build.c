/*
 * admit_build.c - trees and lines out of rows that somebody wrote.  Pure: no PostgreSQL.
 */
#include "admit_build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COHORTS (ADMIT_MAX_DEPTH - 1)	/* above a tenant */

/* May a number of this kind have this value? */
bool
admit_build_number(BuildNumber kind, double value)
{
	bool		whole = value == floor(value);

	if (!(value >= INT32_MIN && value <= INT32_MAX))
		return false;
	switch (kind)
	{
		case BUILD_SLOTS:
			return whole && value >= 0;
		case BUILD_PRIORITY:
			return whole;
		case BUILD_SECONDS:
			return true;
		case BUILD_SPAN:
			return value >= 0;
		case BUILD_WEIGHT:
			return value == 0 || value >= 1.0 / ADMIT_WEIGHT_ONE;
	}
	return false;
}

static BuildFault
fault(BuildError error, const char *name, const char *user)
{
	return (BuildFault) {error, name, user};
}

static int
compare_nodes(const void *a, const void *b)
{
	const BuildNode *x = *(BuildNode *const *) a;
	const BuildNode *y = *(BuildNode *const *) b;

	return strcmp(x->node.name, y->node.name);
}

static int
compare_name(const void *name, const void *node)
{
	return strcmp(name, (*(BuildNode *const *) node)->node.name);
}

/* A cohort or a tenant of that name, or NULL. */
BuildNode *
admit_build_find(const AdmitBuild *build, const char *name, bool cohort)
{
	BuildNode **found = NULL;

	if (build->nnodes > 0)
		found = bsearch(name, build->by_name, build->nnodes, sizeof(*found), compare_name);
	return found != NULL && (*found)->cohort == cohort ? *found : NULL;
}

/* Put the nodes in order of name, which must be unique. */
static BuildFault
name_nodes(AdmitBuild *build)
{
	for (size_t i = 0; i < build->nnodes; i++)
		build->by_name[i] = &build->nodes[i];
	if (build->nnodes > 0)
		qsort(build->by_name, build->nnodes, sizeof(*build->by_name), compare_nodes);
	for (size_t i = 0; i < build->nnodes; i++)
	{
		const char *name = build->by_name[i]->node.name;

		if (name[0] == '\0')
			return fault(BUILD_EMPTY_NAME, name, NULL);
		if (i > 0 && strcmp(name, build->by_name[i - 1]->node.name) == 0)
			return fault(BUILD_NAME_TWICE, name, NULL);
		build->by_name[i]->place = i;
	}
	return fault(BUILD_OK, NULL, NULL);
}

/* Nodes from this one to its root; no more than limit. */
static size_t
depth_of(const AdmitNode *node, size_t limit)
{
	size_t		depth = 0;

	for (; node != NULL && depth < limit; node = node->parent)
		depth++;
	return depth;
}

static BuildFault
check_depth(const AdmitBuild *build, const BuildNode *row)
{
	size_t		most = row->cohort ? MAX_COHORTS : MAX_COHORTS + 1;

	if (depth_of(&row->node, most + 1) <= most)
		return fault(BUILD_OK, NULL, NULL);
	if (depth_of(&row->node, build->nnodes + 1) > build->nnodes)
		return fault(BUILD_CYCLE, row->node.name, NULL);
	return fault(BUILD_TOO_DEEP, row->node.name, NULL);
}

static BuildFault
find_parents(AdmitBuild *build)
{
	for (size_t i = 0; i < build->nnodes; i++)
	{
		BuildNode  *row = build->by_name[i];
		BuildNode  *parent;

		if (row->node.nominal == NO_LIMIT && (row->cohort || row->parent != NULL))
			return fault(BUILD_UNLIMITED, row->node.name, NULL);
		if (row->parent == NULL)
			continue;
		if ((parent = admit_build_find(build, row->parent, true)) == NULL)
			return fault(BUILD_UNKNOWN_COHORT, row->parent, row->node.name);
		row->node.parent = &parent->node;
	}
	return fault(BUILD_OK, NULL, NULL);
}

static BuildFault
link_nodes(AdmitBuild *build)
{
	BuildFault	found = find_parents(build);

	for (size_t i = 0; i < build->nnodes && found.error == BUILD_OK; i++)
		found = check_depth(build, build->by_name[i]);
	if (found.error != BUILD_OK)
		return found;
	for (size_t i = build->nnodes; i-- > 0;)
		admit_link(&build->by_name[i]->node, build->by_name[i]->node.parent);
	return found;
}

static BuildFault
add_usage(AdmitBuild *build)
{
	for (size_t i = 0; i < build->nuses; i++)
	{
		BuildNode  *row = admit_build_find(build, build->uses[i].tenant, false);

		if (row == NULL)
			return fault(BUILD_UNKNOWN_USER, build->uses[i].tenant, NULL);
		row->node.usage[ADMIT_USED] += build->uses[i].slots;
	}
	return fault(BUILD_OK, NULL, NULL);
}

static int
compare_ids(const void *a, const void *b)
{
	return strcmp((*(BuildTask *const *) a)->id, (*(BuildTask *const *) b)->id);
}

/* Find the tenants of the tasks; among tasks of one age the order is that of their ids. */
static BuildFault
name_tasks(AdmitBuild *build)
{
	for (size_t i = 0; i < build->ntasks; i++)
	{
		BuildTask  *task = build->lines[i] = &build->tasks[i];

		if ((task->node = admit_build_find(build, task->tenant, false)) == NULL)
			return fault(BUILD_UNKNOWN_TENANT, task->tenant, task->id);
	}
	if (build->ntasks > 0)
		qsort(build->lines, build->ntasks, sizeof(*build->lines), compare_ids);
	for (size_t i = 0; i < build->ntasks; i++)
	{
		if (build->lines[i]->id[0] == '\0')
			return fault(BUILD_EMPTY_NAME, build->lines[i]->id, NULL);
		if (i > 0 && strcmp(build->lines[i]->id, build->lines[i - 1]->id) == 0)
			return fault(BUILD_TASK_TWICE, build->lines[i]->id, NULL);
		build->lines[i]->task.tie = i;
	}
	return fault(BUILD_OK, NULL, NULL);
}

static int
order(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

static int
compare_flows(const BuildNode *x, const char *x_flow, const BuildNode *y, const char *y_flow)
{
	if (x != y)
		return x->place < y->place ? -1 : 1;
	if (x_flow == NULL || y_flow == NULL)
		return (x_flow != NULL) - (y_flow != NULL);
	return strcmp(x_flow, y_flow);
}

/* By shape. */
static int
compare_shapes(const BuildTask *x, const BuildTask *y)
{
	int			result = compare_flows(x->node, x->flow, y->node, y->flow);

	if (result == 0)
		result = order(y->priority, x->priority);
	return result != 0 ? result : order(x->slots, y->slots);
}

/* By shape and age. */
static int
compare_tasks(const void *a, const void *b)
{
	const BuildTask *x = *(BuildTask *const *) a;
	const BuildTask *y = *(BuildTask *const *) b;
	int			result = compare_shapes(x, y);

	if (result == 0)
		result = order(x->task.asked, y->task.asked);
	return result != 0 ? result : order(x->task.tie, y->task.tie);
}

static AdmitFlow *
add_flow(AdmitBuild *build, const BuildTask *task)
{
	BuildFlow  *last = build->nflows > 0 ? &build->flows[build->nflows - 1] : NULL;

	if (task->flow == NULL)
		return NULL;
	if (last == NULL || compare_flows(last->node, last->name, task->node, task->flow) != 0)
	{
		last = &build->flows[build->nflows++];
		*last = (BuildFlow) {.node = task->node, .name = task->flow, .flow.at = build->now};
	}
	return &last->flow;
}

/* Put the tasks in line, those of one shape together. */
static void
line_up(AdmitBuild *build)
{
	AdmitShape *shape = build->shapes;

	if (build->ntasks > 0)
		qsort(build->lines, build->ntasks, sizeof(*build->lines), compare_tasks);
	for (size_t i = 0; i < build->ntasks; i++)
	{
		BuildTask  *task = build->lines[i];

		if (i == 0 || compare_shapes(build->lines[i - 1], task) != 0)
		{
			shape += i > 0;
			admit_shape_init(shape, &task->node->node, add_flow(build, task), task->priority, task->slots);
		}
		admit_enter(shape, &task->task);
	}
}

static int
compare_flow(const void *use, const void *flow)
{
	const BuildFlow *x = use;
	const BuildFlow *y = flow;

	return compare_flows(x->node, x->name, y->node, y->name);
}

/* What runs has been running for long. */
static void
use_flows(AdmitBuild *build)
{
	for (size_t i = 0; i < build->nuses && build->nflows > 0; i++)
	{
		const BuildUse *use = &build->uses[i];
		BuildFlow	key = {.node = admit_build_find(build, use->tenant, false), .name = use->flow};
		BuildFlow  *found;

		if (use->flow == NULL)
			continue;
		found = bsearch(&key, build->flows, build->nflows, sizeof(key), compare_flow);
		if (found == NULL)
			continue;
		found->flow.slots += use->slots;
		found->flow.usage += use->slots;
	}
}

/* Make trees and lines; the first fault, if any, ends it. */
BuildFault
admit_build(AdmitBuild *build)
{
	BuildFault	found = name_nodes(build);

	if (found.error == BUILD_OK)
		found = link_nodes(build);
	if (found.error == BUILD_OK)
		found = add_usage(build);
	if (found.error == BUILD_OK)
		found = name_tasks(build);
	if (found.error != BUILD_OK)
		return found;
	for (size_t i = 0; i < build->nnodes; i++)
	{
		if (build->by_name[i]->node.parent == NULL)
			admit_prepare(&build->by_name[i]->node);
	}
	line_up(build);
	use_flows(build);
	return found;
}
