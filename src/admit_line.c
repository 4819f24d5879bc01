/*
 * admit_line.c - the waiting tasks of a tenant and their order.  Pure: no PostgreSQL.
 *
 * Tasks of one priority and size form a shape; only its oldest competes, so a
 * long queue of one shape costs no more than a short one.  Priority rises with
 * age: linearly, up to age_priority at max_age.  Of each shape age_tasks age
 * together; when they are gone, the next start from then.  So old tasks of low
 * priority come forth, but a flood of them does not at once.
 *
 * The usage of a flow decays as in the fair tree of Slurm and the admission fair
 * sharing of Kueue: new = old * (1 - a) + now * a, a = 1 - 0.5 ^ (elapsed / half-life).
 */
#include "admit_line.h"

#include <math.h>

#define ENTRY_TIME INT64_C(60000000)	/* charged in advance at an admission */

bool
admit_task_before(const HeapNode *a, const HeapNode *b)
{
	const AdmitTask *x = heap_entry(const AdmitTask, place, a);
	const AdmitTask *y = heap_entry(const AdmitTask, place, b);

	return x->asked != y->asked ? x->asked < y->asked : x->tie < y->tie;
}

/* The one of a shape that goes first. */
AdmitTask *
admit_shape_first(const AdmitShape *shape)
{
	return heap_entry(AdmitTask, place, shape->tasks.top);
}

/* Does the first task of one shape go before that of another of the tenant? */
bool
admit_shape_before(const HeapNode *a, const HeapNode *b)
{
	const AdmitShape *x = heap_entry(const AdmitShape, place, a);
	const AdmitShape *y = heap_entry(const AdmitShape, place, b);

	if (x->flow_usage != y->flow_usage)
		return x->flow_usage < y->flow_usage;
	if (x->effective != y->effective)
		return x->effective > y->effective;
	return admit_task_before(x->tasks.top, y->tasks.top);
}

static double
weight_of_time(int64_t elapsed, int64_t half_life)
{
	return 1 - exp2(-(double) elapsed / half_life);
}

double
admit_flow_usage(const AdmitFlow *flow, int64_t half_life, int64_t now)
{
	double		a = now > flow->at ? weight_of_time(now - flow->at, half_life) : 0;

	return flow->usage * (1 - a) + flow->slots * a;
}

/* The tasks of a flow use more slots from now on, or fewer. */
void
admit_flow_use(AdmitFlow *flow, int64_t slots, int64_t half_life, int64_t now)
{
	if (half_life > 0)
	{
		flow->usage = admit_flow_usage(flow, half_life, now);
		flow->at = now;
	}
	flow->slots += slots;
}

/* Slots are promised to a flow: let its next task see it, though no time has gone by. */
static void
flow_charge(AdmitFlow *flow, int64_t slots, int64_t half_life, int64_t now)
{
	flow->usage = admit_flow_usage(flow, half_life, now) + slots * weight_of_time(ENTRY_TIME, half_life);
	flow->at = now;
}

double
admit_shape_flow_usage(const AdmitShape *shape, const AdmitOrder *order, int64_t now)
{
	if (shape->flow == NULL || order->half_life == 0)
		return 0;
	return admit_flow_usage(shape->flow, order->half_life, now);
}

/* Age of the first of a shape. */
int64_t
admit_shape_age(const AdmitShape *shape, int64_t now)
{
	int64_t		from = admit_shape_first(shape)->asked;

	if (shape->aged_from > from)
		from = shape->aged_from;
	return now > from ? now - from : 0;
}

/* Note what the order of a shape that is not empty depends on. */
void
admit_shape_rank(AdmitShape *shape, const AdmitOrder *order, int64_t now)
{
	int64_t		age = admit_shape_age(shape, now);

	if (age > order->max_age)
		age = order->max_age;
	shape->effective = shape->priority * 1000;
	if (order->max_age > 0)
		shape->effective += llround((double) order->age_priority * 1000 * age / order->max_age);
	shape->flow_usage = admit_shape_flow_usage(shape, order, now);
}

/* A task of the shape was admitted. */
void
admit_shape_admitted(AdmitShape *shape, const AdmitOrder *order, int64_t now)
{
	if (shape->to_age == 0)
		shape->to_age = order->age_tasks;
	if (shape->to_age > 0 && --shape->to_age == 0)
		shape->aged_from = now;
	if (shape->flow != NULL && order->half_life > 0)
		flow_charge(shape->flow, shape->slots, order->half_life, now);
}

void
admit_shape_init(AdmitShape *shape, AdmitNode *tenant, AdmitFlow *flow, int64_t priority,
				 int64_t slots)
{
	*shape = (AdmitShape) {
		.tenant = tenant,
		.flow = flow,
		.next = tenant->shapes,
		.priority = priority,
		.slots = slots,
		.aged_from = INT64_MIN
	};
	tenant->shapes = shape;
}

/* Take an empty shape from its tenant. */
void
admit_shape_unlink(AdmitShape *shape)
{
	AdmitShape **link = &shape->tenant->shapes;

	while (*link != shape)
		link = &(*link)->next;
	*link = shape->next;
}

static void
count_waiting(AdmitShape *shape, int change)
{
	shape->waiting += change;
	for (AdmitNode *node = shape->tenant; node != NULL; node = node->parent)
		node->waiting += change;
}

void
admit_enter(AdmitShape *shape, AdmitTask *task)
{
	task->shape = shape;
	heap_add(&shape->tasks, &task->place, admit_task_before);
	count_waiting(shape, 1);
}

void
admit_leave(AdmitTask *task)
{
	heap_remove(&task->shape->tasks, &task->place, admit_task_before);
	count_waiting(task->shape, -1);
	task->shape = NULL;
}

/* The task of a tenant that goes first, or NULL. */
AdmitTask *
admit_head(const AdmitNode *tenant, const AdmitOrder *order, int64_t now)
{
	AdmitShape *first = NULL;

	for (AdmitShape *shape = tenant->shapes; shape != NULL; shape = shape->next)
	{
		if (shape->waiting == 0)
			continue;
		admit_shape_rank(shape, order, now);
		if (first == NULL || admit_shape_before(&shape->place, &first->place))
			first = shape;
	}
	return first == NULL ? NULL : admit_shape_first(first);
}
