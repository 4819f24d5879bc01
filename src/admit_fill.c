/*
 * admit_fill.c - who goes next, over whole trees.  Pure: no PostgreSQL.
 *
 * Progressive filling: one task at a time, from the root down to the child
 * whose share would be lowest after the admission, unless one is overdue.  Each cohort keeps its
 * children in a heap, so an admission touches one path.  During a fill usage
 * only grows; what did not fit is left out until the next fill.  It is out as
 * soon as it does not fit, lest it stand for its cohort: after an admission
 * those are looked at below whom a node is nearly full.
 *
 * A tenant inside its quota that cannot be served has lent its slots.  What is
 * free of them it claims: borrowers see usage with all claims, others as it is.
 *
 * Room in pools and DAGs goes to those whose turn it is.  The first that finds
 * too little closes the room, so that small tasks do not pass large ones; it
 * is in the way of nobody else.
 */
#include <string.h>

#include "admit_line.h"

__extension__ typedef __int128 Wide;

/* Slots over its quota once the head is admitted. */
static int64_t
borrowed_then(const AdmitNode *node)
{
	if (node->parent == NULL || node->parent->potential <= 0)
		return 0;
	return admit_above(node->usage[ADMIT_USED] + node->entering, node->quota);
}

/*
 * Who borrows nothing, then who is overdue, then by share: siblings have the
 * same potential above them, so it does not matter.
 */
static int
compare_shares(const AdmitNode *x, const AdmitNode *y)
{
	int64_t		bx = borrowed_then(x);
	int64_t		by = borrowed_then(y);
	Wide		left = (Wide) bx * y->weight;
	Wide		right = (Wide) by * x->weight;

	if (bx == 0 || by == 0)
		return (bx > 0) - (by > 0);
	if (x->overdue != y->overdue)
		return x->overdue ? -1 : 1;
	return (left > right) - (left < right);
}

static bool
node_before(const HeapNode *a, const HeapNode *b)
{
	const AdmitNode *x = heap_entry(const AdmitNode, place, a);
	const AdmitNode *y = heap_entry(const AdmitNode, place, b);
	int			shares = compare_shares(x, y);
	int64_t		x_asked = admit_shape_first(x->head)->asked;
	int64_t		y_asked = admit_shape_first(y->head)->asked;

	if (shares != 0)
		return shares < 0;
	if (x->head->effective != y->head->effective)
		return x->head->effective > y->head->effective;
	return x_asked != y_asked ? x_asked < y_asked : strcmp(x->name, y->name) < 0;
}

/* First shape of a tenant; others of its flow may have been admitted since it was ranked. */
static AdmitShape *
first_shape(const AdmitFill *fill, AdmitNode *tenant)
{
	for (;;)
	{
		AdmitShape *shape = heap_entry(AdmitShape, place, tenant->contest.top);

		if (shape->flow_usage >= admit_shape_flow_usage(shape, &fill->order, fill->now))
			return shape;
		heap_remove(&tenant->contest, &shape->place, admit_shape_before);
		admit_shape_rank(shape, &fill->order, fill->now);
		heap_add(&tenant->contest, &shape->place, admit_shape_before);
	}
}

/* Has a tenant waited so long for a first slot that its share no longer matters? */
static bool
is_overdue(const AdmitFill *fill, const AdmitNode *tenant)
{
	return fill->order.max_age > 0 && tenant->usage[ADMIT_USED] <= 0 &&
		admit_shape_age(tenant->head, fill->now) >= fill->order.max_age;
}

/* Enter a node for the contest above it with the best that it has. */
static void
contend(AdmitFill *fill, AdmitNode *node)
{
	Heap	   *contest = node->parent ? &node->parent->contest : &fill->contest;

	if (node->contends)
		heap_remove(contest, &node->place, node_before);
	node->contends = node->contest.top != NULL;
	if (!node->contends)
		return;
	if (node->child == NULL)
	{
		node->head = first_shape(fill, node);
		node->entering = node->head->slots;
		node->overdue = is_overdue(fill, node);
	}
	else
	{
		AdmitNode  *winner = heap_entry(AdmitNode, place, node->contest.top);
		int64_t		usage = winner->usage[ADMIT_USED];

		node->head = winner->head;
		node->entering = admit_above(usage + winner->entering, winner->kept) -
			admit_above(usage, winner->kept);
		node->overdue = winner->overdue;
	}
	heap_add(contest, &node->place, node_before);
}

static void
contend_path(AdmitFill *fill, AdmitNode *tenant)
{
	for (AdmitNode *node = tenant; node != NULL; node = node->parent)
		contend(fill, node);
}

/* Keep for a tenant what is free of the slots that it waits for. */
static void
claim(AdmitNode *tenant)
{
	int64_t		amount = admit_above(admit_free(tenant, ADMIT_CLAIMED), 0);

	admit_use_in(tenant, amount < tenant->claim ? amount : tenant->claim, ADMIT_CLAIMED);
}

/* Others inside their quota may have taken what was claimed. */
static void
claim_all(AdmitNode *root)
{
	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
		node->usage[ADMIT_CLAIMED] = node->usage[ADMIT_USED];
	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
	{
		if (node->claim > 0)
			claim(node);
	}
	root->claims_stale = false;
}

static bool
inside_quota(const AdmitNode *tenant, int64_t slots)
{
	return tenant->usage[ADMIT_USED] + slots <= tenant->quota;
}

static bool
fits(AdmitNode *tenant, int64_t slots)
{
	AdmitNode  *root = admit_root(tenant);

	if (inside_quota(tenant, slots))
		return slots <= admit_above(admit_free(tenant, ADMIT_USED), 0);
	if (slots <= admit_above(admit_free(tenant, ADMIT_CLAIMED), 0))
		return true;
	if (!root->claims_stale)
		return false;
	claim_all(root);
	return slots <= admit_above(admit_free(tenant, ADMIT_CLAIMED), 0);
}

/* The best task of a tenant does not fit: the next of its shapes, if it may, else nobody. */
static void
refuse(AdmitFill *fill, AdmitNode *tenant)
{
	AdmitShape *shape = tenant->head;

	if (tenant->refused == NULL)
	{
		tenant->refused = shape;
		if (inside_quota(tenant, shape->slots))
		{
			tenant->claim = shape->slots;
			admit_root(tenant)->claims++;
			claim(tenant);
		}
	}
	if (tenant->best_effort)
		heap_remove(&tenant->contest, &shape->place, admit_shape_before);
	else
		tenant->contest.top = NULL;
	contend_path(fill, tenant);
}

static void
refuse_unfit(AdmitFill *fill, AdmitNode *top, bool borrowers)
{
	for (AdmitNode *node = admit_first(top); node != NULL; node = admit_next(node, top))
	{
		while (node->child == NULL && node->contends &&
			   (borrowers || inside_quota(node, node->head->slots)) && !fits(node, node->head->slots))
			refuse(fill, node);
	}
}

/* Leave only tasks that fit below a node.  Claims are made before borrowers are looked at. */
static void
settle(AdmitFill *fill, AdmitNode *top)
{
	AdmitNode  *root = admit_root(top);
	int64_t		claims = root->claims;

	refuse_unfit(fill, top, false);
	refuse_unfit(fill, root->claims > claims ? root : top, true);
}

/* Only below a node with less than the largest task left can a task have ceased to fit. */
static AdmitNode *
highest_full(const AdmitFill *fill, AdmitNode *tenant, const AdmitNode *highest)
{
	AdmitNode  *full = tenant;

	for (AdmitNode *node = tenant; node != highest; node = node->parent)
	{
		if (admit_free(node->parent, ADMIT_CLAIMED) < fill->largest)
			full = node->parent;
	}
	return full;
}

/* Is another task the first of a tenant, after some have passed it? */
static bool
first_changed(const AdmitFill *fill, const AdmitNode *tenant)
{
	AdmitShape	first = *tenant->refused;

	admit_shape_rank(&first, &fill->order, fill->now);
	for (const AdmitShape *shape = tenant->shapes; shape != NULL; shape = shape->next)
	{
		AdmitShape	other = *shape;

		if (shape == tenant->refused || shape->waiting == 0 || shape->slots > tenant->potential)
			continue;
		admit_shape_rank(&other, &fill->order, fill->now);
		if (admit_shape_before(&other.place, &first.place))
			return true;
	}
	return false;
}

/* Has a tenant lost its claim by what has passed its first task? */
static bool
claim_ends(const AdmitFill *fill, const AdmitNode *tenant)
{
	if (tenant->refused == NULL)
		return false;
	return (tenant->claim > 0 && !inside_quota(tenant, tenant->claim)) ||
		(fill->order.half_life > 0 && first_changed(fill, tenant));
}

void
admit_fill_begin(AdmitFill *fill, const AdmitOrder *order, int64_t now)
{
	*fill = (AdmitFill) {.order = *order, .now = now};
}

static void
node_reset(AdmitNode *node)
{
	node->contest.top = NULL;
	node->contends = node->claims_stale = false;
	node->refused = NULL;
	node->claim = node->claims = 0;
	node->usage[ADMIT_CLAIMED] = node->usage[ADMIT_USED];
}

static void
line_up(AdmitFill *fill, AdmitNode *tenant)
{
	for (AdmitShape *shape = tenant->shapes; shape != NULL; shape = shape->next)
	{
		if (shape->waiting == 0 || shape->slots > tenant->potential)
			continue;
		if (shape->pool != NULL)
			shape->pool->closed = shape->dag->closed = false;
		admit_shape_rank(shape, &fill->order, fill->now);
		heap_add(&tenant->contest, &shape->place, admit_shape_before);
		if (shape->slots > fill->largest)
			fill->largest = shape->slots;
	}
}

/* Have the tenants of a tree take part. */
void
admit_fill_add(AdmitFill *fill, AdmitNode *root)
{
	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
		node_reset(node);
	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
	{
		if (node->child == NULL)
			line_up(fill, node);
		contend(fill, node);
	}
	settle(fill, root);
}

/* Others may have what a tenant claimed. */
static void
start_over(AdmitFill *fill, AdmitNode *root)
{
	if (root->contends)
		heap_remove(&fill->contest, &root->place, node_before);
	admit_fill_add(fill, root);
}

/* Leave a shape out whose pool or DAG has no room. */
static bool
finds_room(AdmitFill *fill, AdmitShape *shape)
{
	bool		pool;
	bool		dag;

	if (shape->pool == NULL)
		return true;
	pool = admit_room_fits(shape->pool, shape->slots);
	dag = admit_room_fits(shape->dag, 1);
	if (pool && dag)
		return true;
	shape->pool->closed |= dag;
	shape->dag->closed |= pool;
	heap_remove(&shape->tenant->contest, &shape->place, admit_shape_before);
	contend_path(fill, shape->tenant);
	return false;
}

static AdmitTask *
take(AdmitFill *fill, AdmitNode *tenant)
{
	AdmitShape *shape = tenant->head;
	AdmitTask  *task = admit_shape_first(shape);
	AdmitNode  *root = admit_root(tenant);
	AdmitNode  *highest;

	root->claims_stale |= root->claims > 0 && inside_quota(tenant, shape->slots);
	heap_remove(&tenant->contest, &shape->place, admit_shape_before);
	admit_leave(task);
	task->shape = shape;
	admit_shape_admitted(shape, &fill->order, fill->now);
	if (shape->waiting > 0)
	{
		admit_shape_rank(shape, &fill->order, fill->now);
		heap_add(&tenant->contest, &shape->place, admit_shape_before);
	}
	if (shape->pool != NULL)
	{
		shape->pool->promised += shape->slots;
		shape->dag->promised++;
	}
	admit_use_in(tenant, shape->slots, ADMIT_USED);
	highest = admit_use_in(tenant, shape->slots, ADMIT_CLAIMED);
	contend_path(fill, tenant);
	if (claim_ends(fill, tenant))
		start_over(fill, root);
	else
		settle(fill, highest_full(fill, tenant, highest));
	return task;
}

/*
 * Admit the next task: it has left its line, and its slots are used.  Its shape
 * stays set, for the caller.  NULL when nobody fits.
 */
AdmitTask *
admit_fill_next(AdmitFill *fill)
{
	while (fill->contest.top != NULL)
	{
		AdmitShape *shape = heap_entry(AdmitNode, place, fill->contest.top)->head;

		if (finds_room(fill, shape))
			return take(fill, shape->tenant);
	}
	return NULL;
}

/* Why a task still waits, at the end of a fill. */
AdmitReason
admit_fill_reason(AdmitNode *tenant, int64_t slots)
{
	if (slots > tenant->potential)
		return REASON_NEVER_FITS;
	return fits(tenant, slots) ? REASON_ORDER : REASON_QUOTA;
}
