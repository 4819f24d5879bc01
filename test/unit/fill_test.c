/*
 * fill_test.c - the fill over random forests, against a model that remembers
 * nothing from one admission to the next.
 *
 * The model makes all quotas, usages, claims and candidates anew before each
 * admission, straight from the formulas, and walks down from the roots.
 */
#include "forest.h"

#include <math.h>

#define FORESTS 30000

typedef struct Model
{
	const Plan *plan;
	int64_t		quota[PLAN_NODES];
	int64_t		kept[PLAN_NODES];
	int64_t		used[PLAN_NODES];	/* of tenants given, of cohorts made */
	int64_t		claimed[PLAN_NODES];	/* with claims */
	int			first[PLAN_NODES];	/* task of a tenant, -1: none */
	int			candidate[PLAN_NODES];
	bool		waits[PLAN_TASKS];
	int64_t		aged_from[PLAN_TASKS];	/* of the shape, kept at its first task */
	int64_t		to_age[PLAN_TASKS];
	AdmitFlow	flow[PLAN_NODES][PLAN_FLOWS];
} Model;

static Plan plan;
static Model model;

static int64_t
above(int64_t amount, int64_t limit)
{
	return amount > limit ? amount - limit : 0;
}

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static bool
child_of(int node, int parent)
{
	return plan.node[node].parent == parent;
}

static void
model_quotas(Model *m)
{
	for (int i = plan.nodes - 1; i >= 0; i--)
	{
		m->quota[i] = plan.node[i].nominal;
		for (int c = i + 1; c < plan.nodes; c++)
			m->quota[i] += child_of(c, i) ? m->quota[c] - m->kept[c] : 0;
		m->kept[i] = plan.node[i].lending_limit == NO_LIMIT ? 0 : above(m->quota[i], plan.node[i].lending_limit);
	}
}

/* Make the usage of cohorts from that of the tenants. */
static void
model_usage(const Model *m, int64_t *usage)
{
	for (int i = plan.nodes - 1; i >= 0; i--)
	{
		usage[i] = plan.node[i].cohort ? 0 : usage[i];
		for (int c = i + 1; c < plan.nodes; c++)
			usage[i] += child_of(c, i) ? above(usage[c], m->kept[c]) : 0;
	}
}

static int64_t
model_free(const Model *m, int node, const int64_t *usage)
{
	int64_t		borrowing_limit = plan.node[node].borrowing_limit;
	int64_t		from_parent;

	if (m->quota[node] == NO_LIMIT)
		return NO_LIMIT;
	if (plan.node[node].parent < 0)
		return m->quota[node] - usage[node];
	from_parent = model_free(m, plan.node[node].parent, usage);
	if (borrowing_limit != NO_LIMIT)
		from_parent = least(from_parent, m->quota[node] - m->kept[node] -
							above(usage[node], m->kept[node]) + borrowing_limit);
	return above(m->kept[node], usage[node]) + from_parent;
}

static int64_t
model_potential(const Model *m, int node)
{
	static const int64_t nothing[PLAN_NODES];

	return model_free(m, node, nothing);
}

static bool
same_shape(int a, int b)
{
	const PlanTask *x = &plan.task[a];
	const PlanTask *y = &plan.task[b];

	return x->tenant == y->tenant && x->priority == y->priority && x->slots == y->slots &&
		(plan.order.half_life == 0 || x->flow == y->flow);
}

static int
shape_of(int task)
{
	int			first = 0;

	while (!same_shape(first, task))
		first++;
	return first;
}

static double
model_flow(const Model *m, int task)
{
	const PlanTask *row = &plan.task[task];

	if (plan.order.half_life == 0)
		return 0;
	return admit_flow_usage(&m->flow[row->tenant][row->flow], plan.order.half_life, plan.now);
}

/* Only the first of a shape is asked. */
static int64_t
model_age(const Model *m, int task)
{
	int64_t		asked = plan.task[task].asked;
	int64_t		aged_from = m->aged_from[shape_of(task)];

	return above(plan.now, asked > aged_from ? asked : aged_from);
}

static int64_t
model_effective(const Model *m, int task)
{
	int64_t		base = plan.task[task].priority * 1000;
	double		part;

	if (plan.order.max_age == 0)
		return base;
	part = (double) model_age(m, task) / plan.order.max_age;
	return base + llround(plan.order.age_priority * 1000 * (part > 1 ? 1 : part));
}

/* Does one task of a tenant go before another? */
static bool
task_before(const Model *m, int a, int b)
{
	if (!same_shape(a, b))
	{
		if (model_flow(m, a) != model_flow(m, b))
			return model_flow(m, a) < model_flow(m, b);
		if (model_effective(m, a) != model_effective(m, b))
			return model_effective(m, a) > model_effective(m, b);
	}
	return plan.task[a].asked != plan.task[b].asked ? plan.task[a].asked < plan.task[b].asked : a < b;
}

/* Is it the oldest of its shape? */
static bool
leads(const Model *m, int task)
{
	for (int i = 0; i < plan.tasks; i++)
	{
		if (m->waits[i] && same_shape(i, task) && task_before(m, i, task))
			return false;
	}
	return true;
}

static bool
inside(const Model *m, int task)
{
	int			tenant = plan.task[task].tenant;

	return m->used[tenant] + plan.task[task].slots <= m->quota[tenant];
}

static bool
task_fits(const Model *m, int task)
{
	return plan.task[task].slots <=
		above(model_free(m, plan.task[task].tenant, inside(m, task) ? m->used : m->claimed), 0);
}

/* The first task of a tenant, or the first that fits. */
static int
first_task(const Model *m, int tenant, bool fitting)
{
	int			first = -1;

	for (int i = 0; i < plan.tasks; i++)
	{
		if (m->waits[i] && plan.task[i].tenant == tenant && plan.task[i].slots <= model_potential(m, tenant) &&
			leads(m, i) && (!fitting || task_fits(m, i)) && (first < 0 || task_before(m, i, first)))
			first = i;
	}
	return first;
}

static bool
claims(const Model *m, int tenant)
{
	int			task = m->first[tenant];

	return task >= 0 && inside(m, task) && !task_fits(m, task);
}

static void
model_claim(Model *m, int tenant)
{
	int64_t		amount;

	model_usage(m, m->claimed);
	amount = above(model_free(m, tenant, m->claimed), 0);
	m->claimed[tenant] += least(amount, plan.task[m->first[tenant]].slots);
}

static void
model_look(Model *m)
{
	model_usage(m, m->used);
	memcpy(m->claimed, m->used, sizeof(m->used));
	for (int i = 0; i < plan.nodes; i++)
		m->first[i] = first_task(m, i, false);
	for (int i = 0; i < plan.nodes; i++)
	{
		if (claims(m, i))
			model_claim(m, i);
	}
	model_usage(m, m->claimed);
	for (int i = 0; i < plan.nodes; i++)
	{
		m->candidate[i] = plan.node[i].best_effort ? first_task(m, i, true) : m->first[i];
		if (m->candidate[i] >= 0 && !task_fits(m, m->candidate[i]))
			m->candidate[i] = -1;
	}
}

/* Slots over the quota of a node after a task; the share is this by weight and potential above. */
static int64_t
borrowed_after(const Model *m, int node, int task)
{
	int64_t		usage[PLAN_NODES];

	if (plan.node[node].parent < 0 || model_potential(m, plan.node[node].parent) <= 0)
		return 0;
	memcpy(usage, m->used, sizeof(usage));
	usage[plan.task[task].tenant] += plan.task[task].slots;
	model_usage(m, usage);
	return above(usage[node], m->quota[node]);
}

static int
compare_shares(int64_t borrowed_a, int64_t weight_a, int64_t borrowed_b, int64_t weight_b)
{
	bool		infinite_a = borrowed_a > 0 && weight_a == 0;
	bool		infinite_b = borrowed_b > 0 && weight_b == 0;
	__int128	a = (__int128) borrowed_a * weight_b;
	__int128	b = (__int128) borrowed_b * weight_a;

	if (borrowed_a == 0 || borrowed_b == 0)
		return (borrowed_a > 0) - (borrowed_b > 0);
	if (infinite_a || infinite_b)
		return infinite_a - infinite_b;
	return (a > b) - (a < b);
}

/* Has a task all of its age, while its tenant uses nothing? */
static bool
overdue(const Model *m, int task)
{
	return plan.order.max_age > 0 && model_age(m, task) >= plan.order.max_age &&
		m->used[plan.task[task].tenant] == 0;
}

/* Does node a with task x go before its sibling b with task y? */
static bool
node_before(const Model *m, int a, int x, int b, int y)
{
	int64_t		borrowed_a = borrowed_after(m, a, x);
	int64_t		borrowed_b = borrowed_after(m, b, y);
	int			shares = compare_shares(borrowed_a, plan.node[a].weight, borrowed_b, plan.node[b].weight);

	if (borrowed_a > 0 && borrowed_b > 0 && overdue(m, x) != overdue(m, y))
		return overdue(m, x);
	if (shares != 0)
		return shares < 0;
	if (model_effective(m, x) != model_effective(m, y))
		return model_effective(m, x) > model_effective(m, y);
	return plan.task[x].asked != plan.task[y].asked ? plan.task[x].asked < plan.task[y].asked : a < b;
}

/* The task that wins below a node; -1 as the parent of the roots. */
static int
winner(const Model *m, int parent)
{
	int			best = -1;
	int			best_node = -1;

	for (int i = parent + 1; i < plan.nodes; i++)
	{
		int			task = !child_of(i, parent) ? -1 : plan.node[i].cohort ? winner(m, i) : m->candidate[i];

		if (task >= 0 && (best < 0 || node_before(m, i, task, best_node, best)))
			best = task, best_node = i;
	}
	return best;
}

static void
model_admit(Model *m, int task)
{
	const PlanTask *row = &plan.task[task];
	AdmitFlow  *flow = &m->flow[row->tenant][row->flow];
	int			shape = shape_of(task);

	m->waits[task] = false;
	m->used[row->tenant] += row->slots;
	if (plan.order.age_tasks > 0 && ++m->to_age[shape] == plan.order.age_tasks)
	{
		m->to_age[shape] = 0;
		m->aged_from[shape] = plan.now;
	}
	if (plan.order.half_life > 0)
	{
		flow->usage = model_flow(m, task) + row->slots * (1 - exp2(-60e6 / plan.order.half_life));
		flow->at = plan.now;
	}
}

static void
model_begin(Model *m)
{
	memset(m, 0, sizeof(*m));
	memcpy(m->flow, plan.flow, sizeof(m->flow));
	model_quotas(m);
	for (int i = 0; i < plan.nodes; i++)
		m->used[i] = plan.node[i].usage;
	for (int i = 0; i < plan.tasks; i++)
	{
		m->waits[i] = true;
		m->aged_from[i] = INT64_MIN;
	}
}

/* Nobody has more than its limits because of an admission. */
static bool
limits_kept(const Model *m, const int64_t *before)
{
	for (int i = 0; i < plan.nodes; i++)
	{
		int64_t		usage = above(m->used[i], plan.node[i].parent < 0 ? 0 : m->kept[i]);
		int64_t		limit = plan.node[i].borrowing_limit;

		if (m->quota[i] == NO_LIMIT || m->used[i] <= before[i])
			continue;
		if (plan.node[i].parent < 0 ? usage > m->quota[i] :
			limit != NO_LIMIT && usage > m->quota[i] - m->kept[i] + limit)
			return false;
	}
	return true;
}

/* No borrower goes before a task inside its quota that fits, where all tenants have one parent. */
static bool
guarantees_first(const Model *m, int task)
{
	int			parent = plan.node[plan.task[task].tenant].parent;

	if (parent < 0 || plan.node[parent].parent >= 0 || inside(m, task) || plan.task[task].slots == 0)
		return true;
	for (int i = parent + 1; i < plan.nodes; i++)
	{
		if (child_of(i, parent) && plan.node[i].cohort)
			return true;
	}
	for (int i = parent + 1; i < plan.nodes; i++)
	{
		if (child_of(i, parent) && m->first[i] >= 0 && inside(m, m->first[i]) && task_fits(m, m->first[i]))
			return false;
	}
	return true;
}

/* No borrower takes of what somebody inside its quota waits for. */
static bool
lenders_keep(const Model *m, int task)
{
	int64_t		after[PLAN_NODES];

	if (inside(m, task))
		return true;
	memcpy(after, m->used, sizeof(after));
	after[plan.task[task].tenant] += plan.task[task].slots;
	model_usage(m, after);
	for (int i = 0; i < plan.nodes; i++)
	{
		if (claims(m, i) && above(model_free(m, i, after), 0) < plan.task[m->first[i]].slots &&
			model_free(m, i, after) < model_free(m, i, m->used))
			return false;
	}
	return true;
}

typedef struct Seen
{
	bool		same_order;
	bool		limits;
	bool		guarantees;
	bool		lenders;
	bool		order_of_rows;
	bool		ends;
	bool		restored;
	bool		prepared;
	int64_t		admitted;
	int64_t		held;
	int64_t		kept_back;
} Seen;

/* Once more with the rows in another order. */
static bool
shuffled_same(const int *order, int admitted)
{
	static Forest forest;
	AdmitFill	fill;

	forest_build(&forest, &plan, true);
	forest_begin(&forest, &plan, &fill, true);
	for (int i = 0; i <= admitted; i++)
	{
		if (forest_next(&forest, &fill) != (i < admitted ? order[i] : -1))
			return false;
	}
	return true;
}

/* Usage along the way is what admit_prepare would make of the tenants' own. */
static bool
as_prepared(const Forest *forest)
{
	for (int i = 0; i < plan.nodes; i++)
	{
		const AdmitNode *node = &forest->node[i];

		if (node->usage[ADMIT_USED] != model.used[i] || node->quota != model.quota[i] ||
			node->kept != model.kept[i] || node->potential != model_potential(&model, i))
			return false;
	}
	return true;
}

static bool
released(Forest *forest, const int *order, int admitted)
{
	static Forest fresh;

	for (int i = 0; i < admitted; i++)
		admit_use(&forest->node[plan.task[order[i]].tenant], -plan.task[order[i]].slots);
	forest_build(&fresh, &plan, false);
	for (int i = 0; i < plan.nodes; i++)
	{
		if (fresh.node[i].usage[ADMIT_USED] != forest->node[i].usage[ADMIT_USED])
			return false;
	}
	return true;
}

static void
look_at_forest(Seen *seen)
{
	static Forest forest;
	AdmitFill	fill;
	int			order[PLAN_TASKS];
	int			admitted = 0;

	plan_random(&plan);
	forest_build(&forest, &plan, false);
	forest_begin(&forest, &plan, &fill, false);
	model_begin(&model);
	for (;;)
	{
		int64_t		before[PLAN_NODES];
		int			task = forest_next(&forest, &fill);

		model_look(&model);
		memcpy(before, model.used, sizeof(before));
		seen->same_order &= task == winner(&model, -1);
		if (task < 0)
			break;
		seen->guarantees &= guarantees_first(&model, task);
		seen->lenders &= lenders_keep(&model, task);
		for (int i = 0; i < plan.nodes; i++)
			seen->kept_back += claims(&model, i);
		order[admitted++] = task;
		model_admit(&model, task);
		model_usage(&model, model.used);
		seen->limits &= limits_kept(&model, before);
	}
	seen->prepared &= as_prepared(&forest);
	seen->order_of_rows &= shuffled_same(order, admitted);
	forest_begin(&forest, &plan, &fill, false);
	seen->restored &= released(&forest, order, admitted);
	for (int i = 0; i < admitted; i++)
		admit_use(&forest.node[plan.task[order[i]].tenant], plan.task[order[i]].slots);
	forest_begin(&forest, &plan, &fill, false);
	seen->ends &= forest_next(&forest, &fill) < 0;
	seen->admitted += admitted;
	seen->held += plan.tasks - admitted;
}

static void
test_forests(void)
{
	Seen		seen = {true, true, true, true, true, true, true, true, 0, 0, 0};

	for (int i = 0; i < FORESTS; i++)
		look_at_forest(&seen);
	printf("# %lld admitted, %lld held, %lld times a claim\n", (long long) seen.admitted,
		   (long long) seen.held, (long long) seen.kept_back);
	ok(seen.same_order, "the order of admission is that of the model");
	ok(seen.limits, "no admission exceeds a limit");
	ok(seen.guarantees, "nobody borrows while a task inside its quota fits");
	ok(seen.lenders, "no borrower takes what a lender waits for");
	ok(seen.order_of_rows, "the order of rows does not matter");
	ok(seen.ends, "a second fill admits nobody");
	ok(seen.prepared, "quotas, potentials and usage are those of the formulas");
	ok(seen.restored, "admitted and released is as before");
	ok(seen.admitted > FORESTS && seen.held > FORESTS && seen.kept_back > FORESTS / 100,
	   "the forests are neither empty nor full");
}

/*
 * Scenes: a cohort of tenants with one task each.  Returns the order as digits.
 */
typedef struct Row
{
	int64_t		nominal;
	double		weight;
	int64_t		usage;
	int64_t		slots;
	int64_t		priority;
} Row;

static const char *
scene(int64_t nominal, const Row *rows, int n)
{
	static char order[PLAN_NODES];
	static Forest forest;
	AdmitFill	fill;
	int			task;
	int			count = 0;

	plan = (Plan) {.nodes = n + 1, .tasks = n, .now = 10};
	plan.node[0] = (PlanNode) {.parent = -1, .cohort = true, .nominal = nominal,
	.borrowing_limit = NO_LIMIT, .lending_limit = NO_LIMIT, .weight = ADMIT_WEIGHT_ONE};
	for (int i = 0; i < n; i++)
	{
		plan.node[i + 1] = (PlanNode) {.nominal = rows[i].nominal, .borrowing_limit = NO_LIMIT, .lending_limit = NO_LIMIT,
			.weight = admit_weight(rows[i].weight), .usage = rows[i].usage};
		plan.task[i] = (PlanTask) {.tenant = i + 1, .slots = rows[i].slots, .priority = rows[i].priority};
	}
	forest_build(&forest, &plan, false);
	forest_begin(&forest, &plan, &fill, false);
	while ((task = forest_next(&forest, &fill)) >= 0)
		order[count++] = (char) ('a' + task);
	order[count] = '\0';
	return order;
}

#define SCENE(nominal, ...) \
	scene(nominal, (const Row[]) {__VA_ARGS__}, sizeof((const Row[]) {__VA_ARGS__}) / sizeof(Row))

static bool
is(const char *order, const char *expected)
{
	if (strcmp(order, expected) == 0)
		return true;
	printf("# %s, not %s\n", order, expected);
	return false;
}

static void
test_scenes(void)
{
	ok(is(SCENE(9, {0, 1, 3, 1, 0}, {0, 1, 2, 1, 0}, {0, 1, 1, 1, 0}), "cba"), "lowest share first");
	ok(is(SCENE(12, {0, 1, 3, 1, 0}, {0, 4, 3, 1, 0}, {0, 2, 3, 1, 0}), "bca"), "by weight");
	ok(is(SCENE(4, {2, 1, 1, 1, 0}, {0, 9, 0, 1, 9}), "ab"), "not borrowing goes before weight and priority");
	ok(is(SCENE(9, {0, 0, 0, 1, 9}, {0, 1e-9, 7, 1, 0}), "ba"), "weight 0 goes last");
	ok(is(SCENE(9, {0, 1, 0, 1, 1}, {0, 1, 0, 1, 2}, {0, 1, 0, 1, 1}), "bac"), "then priority, then name");
	ok(is(SCENE(9, {0, 1, 0, 4, 0}, {0, 1, 2, 1, 0}), "ba"), "the share after the admission counts");
	ok(is(SCENE(0, {6, 1, 0, 4, 0}, {0, 1, 3, 1, 9}), ""), "a lender whose task does not fit keeps what is free");
	ok(is(SCENE(0, {6, 1, 4, 4, 0}, {0, 1, 1, 1, 9}), "b"), "one that would borrow keeps nothing");
	ok(is(SCENE(0, {6, 1, 0, 7, 0}, {0, 1, 3, 1, 9}), "b"), "one that never fits keeps nothing");
}

/* Shares that a float cannot tell apart, or tells apart though they are one. */
static void
test_exact(void)
{
	int64_t		n = INT32_MAX;

	ok(0.1 / 0.3 != 1.0 / 3.0 || 3 * 0.1 != 0.3, "floats do not see these ties");
	ok(is(SCENE(99, {0, 0.1, 0, 1, 0}, {0, 0.3, 2, 1, 1}), "ba") &&
	   is(SCENE(99, {0, 0.1, 0, 1, 1}, {0, 0.3, 2, 1, 0}), "ab"), "1 by 0.1 and 3 by 0.3 are one share");
	ok(is(SCENE(99, {0, 0.7, 6, 1, 0}, {0, 0.1, 0, 1, 1}), "ba") &&
	   is(SCENE(99, {0, 0.7, 6, 1, 1}, {0, 0.1, 0, 1, 0}), "ab"), "7 by 0.7 and 1 by 0.1 are one share");
	ok(is(SCENE(4 * n, {0, n, n - 2, 1, 9}, {0, n - 1, n - 3, 1, 0}), "ba"), "a difference in the 19th digit");
	ok(is(SCENE(30000 * n, {0, n, 10000 * n - 1, 1, 9}, {0, n - 1, 10000 * (n - 1) - 2, 1, 0}), "ba") &&
	   is(SCENE(30000 * n, {0, n, 10000 * n - 1, 1, 0}, {0, n - 1, 10000 * (n - 1) - 1, 1, 1}), "ba") &&
	   is(SCENE(30000 * n, {0, n, 10000 * n - 1, 1, 1}, {0, n - 1, 10000 * (n - 1) - 1, 1, 0}), "ab"),
	   "ten thousand times the greatest quota by the greatest weight");
}

/* Two tenants at any numbers that can be. */
static void
test_huge(void)
{
	int64_t		most = INT64_C(10000) * INT32_MAX;
	bool		exact = true;

	for (int i = 0; i < FORESTS; i++)
	{
		Row			rows[2];
		int64_t		weight[2];
		int			expected;

		for (int k = 0; k < 2; k++)
		{
			rows[k] = (Row) {0, (double) tap_random(INT32_MAX) / (chance(50) ? 1e9 : 1), tap_random(most) >> tap_random(40), 1, 0};
			weight[k] = admit_weight(rows[k].weight);
		}
		expected = compare_shares(rows[0].usage + 1, weight[0], rows[1].usage + 1, weight[1]);
		exact &= scene(4 * most, rows, 2)[0] == (expected <= 0 ? 'a' : 'b');
	}
	ok(exact, "any two shares");
}

/*
 * The first task of a, of 4 slots, keeps the 3 that are free.  When one of its
 * flow has passed, one of 6 is the first: that would borrow, and keeps nothing.
 */
static void
test_passed(void)
{
	static Forest forest;
	AdmitFill	fill;

	plan = (Plan) {.nodes = 3, .tasks = 4, .now = 10, .order.half_life = 60000000};
	plan.node[0] = (PlanNode) {-1, 0, true, 0, NO_LIMIT, NO_LIMIT, 1, false, 0};
	plan.node[1] = (PlanNode) {0, 1, false, 6, NO_LIMIT, NO_LIMIT, 1, true, 0};
	plan.node[2] = (PlanNode) {0, 1, false, 0, NO_LIMIT, NO_LIMIT, 1, false, 3};
	plan.task[0] = (PlanTask) {1, 0, 1, 4, 0};
	plan.task[1] = (PlanTask) {1, 0, 0, 1, 0};
	plan.task[2] = (PlanTask) {1, 1, 0, 6, 0};
	plan.task[3] = (PlanTask) {2, 0, 0, 1, 0};
	plan.flow[1][1] = (AdmitFlow) {.usage = 0.1};
	forest_build(&forest, &plan, false);
	forest_begin(&forest, &plan, &fill, false);
	ok(forest_next(&forest, &fill) == 1 && forest_next(&forest, &fill) == 3 && forest_next(&forest, &fill) == -1,
	   "a claim ends when another task is the first");
}

/*
 * Tenants of one cohort with 5 slots, all used by the heavy one of weight 6.
 * Each instant one slot is given back, by who has had it longest, and filled.
 * The heavy one has 5 / 6 then and a light one of weight 1 has 1 / 1: it goes
 * only when it is overdue, at 10, and then at each 10 more.  Returns the
 * instants at which light tasks are admitted; nested: light is below a cohort.
 */
static const char *
light_instants(double weight, bool nested)
{
	static char instants[100];
	static Forest forest;
	AdmitFill	fill;
	int			uses[5] = {3, 3, 3, 3, 3};
	int			length = 0;

	instants[0] = '\0';
	plan = (Plan) {.nodes = 4, .tasks = 40, .order = {.max_age = 10, .age_tasks = 1}};
	plan.node[0] = (PlanNode) {-1, 0, true, 5, NO_LIMIT, NO_LIMIT, 1, false, 0};
	plan.node[1] = (PlanNode) {0, 1, true, 0, NO_LIMIT, NO_LIMIT, admit_weight(weight), false, 0};
	plan.node[2] = (PlanNode) {nested ? 1 : 0, 1, false, 0, NO_LIMIT, NO_LIMIT, admit_weight(weight), false, 0};
	plan.node[3] = (PlanNode) {0, 1, false, 0, NO_LIMIT, NO_LIMIT, admit_weight(6), false, 5};
	for (int i = 0; i < plan.tasks; i++)
		plan.task[i] = (PlanTask) {.tenant = i < 4 ? 2 : 3, .slots = 1};
	forest_build(&forest, &plan, false);
	for (plan.now = 0; plan.now <= 35; plan.now++)
	{
		int		   *oldest = &uses[plan.now % 5];

		admit_use(&forest.node[*oldest], -1);
		forest_begin(&forest, &plan, &fill, false);
		*oldest = plan.task[forest_next(&forest, &fill)].tenant;
		if (*oldest == 2)
			length += snprintf(instants + length, sizeof(instants) - length, "%d ", (int) plan.now);
	}
	return instants;
}

static void
test_overdue(void)
{
	ok(is(light_instants(1, false), "10 20 30 "), "who has less than a slot has one at each max_age");
	ok(is(light_instants(0, false), "10 20 30 "), "with weight 0 as well");
	ok(is(light_instants(1, true), "10 20 30 "), "and below a cohort");
	ok(is(light_instants(2, false), "0 5 10 15 "), "who has a slot by its weight goes by its weight");
}

/* The tasks that one fill of the plan admits. */
static int
admitted_set(bool *admitted)
{
	static Forest forest;
	AdmitFill	fill;
	int			count = 0;
	int			task;

	memset(admitted, 0, PLAN_TASKS * sizeof(*admitted));
	forest_build(&forest, &plan, false);
	forest_begin(&forest, &plan, &fill, false);
	for (; (task = forest_next(&forest, &fill)) >= 0; count++)
		admitted[task] = true;
	return count;
}

/*
 * One tenant below one cohort; in a strict line, or of one size.  A task that
 * never fits could come to fit, and to stand before others: there is none.
 */
static void
test_capacity(void)
{
	bool		kept = true;
	int			more = 0;

	for (int i = 0; i < FORESTS / 10; i++)
	{
		bool		before[PLAN_TASKS];
		bool		after[PLAN_TASKS];
		int			few;

		do
			plan_random(&plan);
		while (plan.nodes < 2 || !plan.node[0].cohort || plan.node[1].cohort || plan.node[1].parent < 0);
		plan.nodes = 2;
		model_begin(&model);
		for (int t = 0; t < plan.tasks; t++)
			plan.task[t] = (PlanTask) {1, plan.task[t].flow, plan.task[t].priority,
				plan.node[1].best_effort ? 1 : least(plan.task[t].slots, model_potential(&model, 1)), plan.task[t].asked};
		few = admitted_set(before);
		plan.node[tap_random(2)].nominal += 1 + tap_random(5);
		more += admitted_set(after) - few;
		for (int t = 0; t < plan.tasks; t++)
			kept &= after[t] || !before[t];
	}
	ok(kept && more > 0, "more capacity takes no admission away from who is alone in its cohort");
}

/* Why who waits at the end waits. */
static void
test_reasons(void)
{
	AdmitNode	tenant = {.name = "t", .nominal = 5, .borrowing_limit = NO_LIMIT, .lending_limit = NO_LIMIT, .weight = 1};
	AdmitShape	shapes[3];
	AdmitTask	tasks[3] = {{.asked = 1}, {.asked = 2}, {.asked = 3}};
	AdmitOrder	order = {0};
	AdmitFill	fill;

	tenant.usage[ADMIT_USED] = 2;
	admit_prepare(&tenant);
	for (int i = 0; i < 3; i++)
	{
		admit_shape_init(&shapes[i], &tenant, NULL, 0, (const int[]) {6, 4, 2}[i]);
		admit_enter(&shapes[i], &tasks[i]);
	}
	admit_fill_begin(&fill, &order, 10);
	admit_fill_add(&fill, &tenant);
	ok(admit_fill_next(&fill) == NULL && admit_fill_reason(&tenant, 6) == REASON_NEVER_FITS &&
	   admit_fill_reason(&tenant, 4) == REASON_QUOTA && admit_fill_reason(&tenant, 2) == REASON_ORDER,
	   "in a strict line a task waits for the first that could fit");
	tenant.best_effort = true;
	admit_fill_begin(&fill, &order, 10);
	admit_fill_add(&fill, &tenant);
	ok(admit_fill_next(&fill) == &tasks[2] && tasks[2].shape == &shapes[2] && admit_fill_next(&fill) == NULL,
	   "best effort lets a smaller one pass");
}

int
main(void)
{
	tap_seed();
	test_scenes();
	test_exact();
	test_huge();
	test_passed();
	test_overdue();
	test_capacity();
	test_reasons();
	test_forests();
	return tap_done();
}
