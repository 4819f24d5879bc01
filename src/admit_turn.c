/*
 * admit_turn.c - when the turn of a waiting task comes.  Pure: no PostgreSQL.
 *
 * Plays the future: each tenant gives its slots back one by one, at an even
 * pace, and what is free is filled.  Nobody new comes.
 */
#include "admit_turn.h"

#include <math.h>

#define MAX_WORK 20000000		/* nodes and shapes looked at */
#define MAX_SECONDS 1e9			/* looked ahead */
#define MICROSECONDS 1e6

/* Tenants that had nothing to give back may have by now. */
static void
start_sources(AdmitSource *sources, size_t nsources, double at)
{
	for (size_t i = 0; i < nsources; i++)
	{
		AdmitSource *source = &sources[i];

		if (source->tenant->usage[ADMIT_USED] <= 0)
			source->next = INFINITY;
		else if (isinf(source->next))
			source->next = at + source->period;
	}
}

static AdmitSource *
next_source(AdmitSource *sources, size_t nsources)
{
	AdmitSource *next = NULL;

	for (size_t i = 0; i < nsources; i++)
	{
		if (!isinf(sources[i].next) && (next == NULL || sources[i].next < next->next))
			next = &sources[i];
	}
	return next;
}

/* Fill a tree; is the task among those that are admitted? */
static bool
fill_admits(const AdmitOrder *order, int64_t now, AdmitNode *root, const AdmitTask *task)
{
	AdmitFill	fill;
	AdmitTask  *next;
	bool		found = false;

	admit_fill_begin(&fill, order, now);
	admit_fill_add(&fill, root);
	while (!found && (next = admit_fill_next(&fill)) != NULL)
		found = next == task;
	return found;
}

/* Nodes and shapes that a fill looks at. */
static int64_t
work_of(AdmitNode *root)
{
	int64_t		n = 0;

	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
	{
		n++;
		for (AdmitShape *shape = node->shapes; shape != NULL; shape = shape->next)
			n++;
	}
	return n;
}

/*
 * Seconds until a task in line is admitted; NAN when it cannot be known.  The
 * sources are of its tree; lines and usage are used up.
 */
double
admit_turn(const AdmitOrder *order, int64_t now, const AdmitTask *task,
		   AdmitSource *sources, size_t nsources)
{
	AdmitNode  *root = admit_root(task->shape->tenant);
	int64_t		steps = MAX_WORK / (work_of(root) + nsources);
	double		at = 0;

	if (task->shape->slots > task->shape->tenant->potential)
		return NAN;
	for (size_t i = 0; i < nsources; i++)
		sources[i].next = INFINITY;
	while (!fill_admits(order, now + llround(at * MICROSECONDS), root, task))
	{
		AdmitSource *source;

		start_sources(sources, nsources, at);
		source = next_source(sources, nsources);
		if (source == NULL || source->next > MAX_SECONDS || steps-- <= 0)
			return NAN;
		at = source->next;
		source->next += source->period;
		admit_use(source->tenant, -1);
	}
	return at;
}
