/*
 * admit.c - the tree of quotas, and the verdict on one ask.  Pure: no PostgreSQL.
 */
#include "admit.h"

#include <math.h>

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

void
admit_link(AdmitNode *node, AdmitNode *parent)
{
	node->parent = parent;
	if (parent == NULL)
		return;
	node->next = parent->child;
	parent->child = node;
}

/* First node of a walk that comes to each node after those below it. */
AdmitNode *
admit_first(AdmitNode *root)
{
	while (root->child != NULL)
		root = root->child;
	return root;
}

AdmitNode *
admit_next(const AdmitNode *node, const AdmitNode *root)
{
	if (node == root)
		return NULL;
	return node->next != NULL ? admit_first(node->next) : node->parent;
}

AdmitNode *
admit_root(AdmitNode *node)
{
	while (node->parent != NULL)
		node = node->parent;
	return node;
}

/*
 * Slots that a node may still take, less than nothing when it or those above
 * it have too much; usage NULL: as if nothing were used.
 */
static int64_t
path_free(const AdmitNode *node, const AdmitView *view)
{
	const AdmitNode *path[ADMIT_MAX_DEPTH];
	int			depth = 0;
	int64_t		amount;

	for (; node->parent != NULL; node = node->parent)
		path[depth++] = node;
	if (node->quota == NO_LIMIT)
		return NO_LIMIT;
	amount = node->quota - (view ? node->usage[*view] : 0);
	while (depth > 0)
	{
		int64_t		usage;
		int64_t		borrowable;

		node = path[--depth];
		usage = view ? node->usage[*view] : 0;
		borrowable = node->quota - node->kept - admit_above(usage, node->kept);
		if (node->borrowing_limit != NO_LIMIT)
			amount = least(amount, borrowable + node->borrowing_limit);
		amount += admit_above(node->kept, usage);
	}
	return amount;
}

int64_t
admit_free(const AdmitNode *node, AdmitView view)
{
	return path_free(node, &view);
}

/* Slots that an admission may still take; never negative. */
int64_t
admit_available(const AdmitNode *node)
{
	return admit_above(admit_free(node, ADMIT_USED), 0);
}

/* Sum up what those below a cohort bring to it. */
static void
sum_children(AdmitNode *cohort)
{
	cohort->quota = cohort->nominal;
	cohort->usage[ADMIT_USED] = 0;
	cohort->waiting = 0;
	for (AdmitNode *child = cohort->child; child != NULL; child = child->next)
	{
		cohort->quota += child->quota - child->kept;
		cohort->usage[ADMIT_USED] += admit_above(child->usage[ADMIT_USED], child->kept);
		cohort->waiting += child->waiting;
	}
}

/* Make what follows of policy and usage; to be called when a tree has changed. */
void
admit_prepare(AdmitNode *root)
{
	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
	{
		if (node->child != NULL)
			sum_children(node);
		else
			node->quota = node->nominal;
		node->kept = node->lending_limit == NO_LIMIT ? 0 : admit_above(node->quota, node->lending_limit);
	}
	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
		node->potential = path_free(node, NULL);
}

/* Add to one view of the usage; returns the highest node that it reaches. */
AdmitNode *
admit_use_in(AdmitNode *tenant, int64_t slots, AdmitView view)
{
	AdmitNode  *highest = tenant;

	for (AdmitNode *node = tenant; node != NULL && slots != 0; node = node->parent)
	{
		int64_t		before = admit_above(node->usage[view], node->kept);

		node->usage[view] += slots;
		slots = admit_above(node->usage[view], node->kept) - before;
		highest = node;
	}
	return highest;
}

/* A tenant takes slots, or gives them back. */
void
admit_use(AdmitNode *tenant, int64_t slots)
{
	admit_use_in(tenant, slots, ADMIT_USED);
}

/* Slots over its quota that a node has from others. */
int64_t
admit_borrowed(const AdmitNode *node)
{
	return node->parent == NULL ? 0 : admit_above(node->usage[ADMIT_USED], node->quota);
}

/* How far over its quota a node is, per weight, as part of what it could have. */
double
admit_share(const AdmitNode *node)
{
	int64_t		borrowed = admit_borrowed(node);

	if (borrowed == 0 || node->parent->potential <= 0)
		return 0;
	if (node->weight == 0)
		return INFINITY;
	return (double) borrowed / node->parent->potential / ((double) node->weight / ADMIT_WEIGHT_ONE);
}

/* A weight above 0 never becomes 0. */
int64_t
admit_weight(double weight)
{
	int64_t		units = llround(weight * ADMIT_WEIGHT_ONE);

	return weight > 0 && units == 0 ? 1 : units;
}

/*
 * May an ask without a grant pass?  in_line: tasks of the tenant go before it;
 * alone: nobody else waits in its tree.
 */
AdmitReason
admit_verdict(const AdmitNode *tenant, int64_t slots, bool in_line, bool alone)
{
	if (tenant->quota == NO_LIMIT)
		return REASON_NONE;
	if (slots > tenant->potential)
		return REASON_NEVER_FITS;
	if (slots > admit_available(tenant))
		return REASON_QUOTA;
	if (in_line || (!alone && tenant->usage[ADMIT_USED] + slots > tenant->quota))
		return REASON_ORDER;
	return REASON_NONE;
}

/* Has a pool or DAG room for so many slots or tasks? */
bool
admit_room_fits(const AdmitRoom *room, int64_t amount)
{
	return room->limit == NO_LIMIT ||
		(!room->closed && room->committed + room->promised + amount <= room->limit);
}

/* A tenant's own mode wins, but "off" for the deployment is off for all. */
AdmitMode
admit_mode(AdmitMode deployment, AdmitMode tenant, bool may_enforce)
{
	AdmitMode	mode = deployment;

	if (deployment > MODE_OFF && tenant != MODE_UNKNOWN)
		mode = tenant;
	if (mode == MODE_ENFORCE && !may_enforce)
		mode = MODE_OBSERVE;
	return mode;
}

const char *
admit_reason_name(AdmitReason reason)
{
	static const char *const names[] = {
		NULL, "held_starting", "held_drain", "held_quota", "held_order", "never_fits",
		"pool_full", "dag_max_active_tasks"
	};

	return names[reason];
}

const char *
admit_mode_name(AdmitMode mode)
{
	static const char *const names[] = {NULL, "off", "observe", "enforce"};

	return names[mode];
}
