/*
 * fuzz_test.c - random rows, good and bad, through the builder and the engine.
 *
 * Half of the cases are made wrong in some way; what is wrong with them is found
 * again in a plain manner.  CASES is how many, a million without it; two
 * processes share them.
 */
#include "admit_build.h"

#include <math.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

#define MAX_ROWS 48
#define NAMES 64
#define PROCESSES 2

typedef struct Rows
{
	bool		spoilt;
	bool		chain;			/* each cohort below the one before */
	int			nodes;
	int			cohorts;		/* the first of the nodes */
	int			uses;
	int			tasks;
	BuildNode	node[MAX_ROWS];
	BuildUse	use[MAX_ROWS];
	BuildTask	task[MAX_ROWS];
	AdmitOrder	order;
	int64_t		now;
} Rows;

typedef struct Outcome
{
	BuildError	error;
	int			admitted;
	char		order[MAX_ROWS][4];	/* ids */
} Outcome;

typedef struct Counts
{
	int64_t		built;
	int64_t		refused[BUILD_TOO_DEEP + 1];
	int64_t		admitted;
	int64_t		wrong_error;
	int64_t		wrong_order;
	int64_t		over_limit;
} Counts;

static char names[NAMES][4];

static bool
chance(int percent)
{
	return tap_random(100) < percent;
}

static double
odd_number(void)
{
	static const double odd[] = {NAN, INFINITY, -INFINITY, -1, -0.0, 0.5, 1e-9, 1e-10, 4.9e-324, 1e300, -1e300,
	2147483647, 2147483648.0, -2147483648.0, -2147483649.0, 9007199254740993.0, 9.3e18, 1e19};

	return odd[tap_random(sizeof(odd) / sizeof(*odd))];
}

/* A number that somebody wrote, as the reader of rows takes or refuses it. */
static double
number(const Rows *rows, BuildNumber kind, double usual)
{
	for (int i = 0; i < 10 && (rows->spoilt ? chance(20) : chance(3)); i++)
	{
		double		value = odd_number();

		if (admit_build_number(kind, value))
			return value;
	}
	return usual;
}

static int64_t
limit(const Rows *rows)
{
	return chance(50) ? NO_LIMIT : (int64_t) number(rows, BUILD_SLOTS, tap_random(8));
}

/* Row i has name i, but where the rows are spoilt. */
static const char *
name(const Rows *rows, int64_t i)
{
	return rows->spoilt && chance(2) ? chance(20) ? "" : names[tap_random(NAMES)] : names[i];
}

static void
make_nodes(Rows *rows)
{
	int			cohorts = rows->chain ? rows->nodes - 2 : (int) tap_random(rows->nodes);

	rows->cohorts = cohorts;
	for (int i = 0; i < rows->nodes; i++)
	{
		BuildNode  *row = &rows->node[i];
		int			above = i < cohorts && !(rows->spoilt && chance(10)) ? i : cohorts;

		*row = (BuildNode) {.cohort = i < cohorts};
		row->node.name = name(rows, i);
		if (above > 0 && chance(rows->chain ? 99 : 80))
			row->parent = name(rows, rows->chain && above <= i ? above - 1 : tap_random(above));
		row->node.nominal = (int64_t) number(rows, BUILD_SLOTS, tap_random(8));
		if ((!row->cohort && row->parent == NULL && chance(10)) || (rows->spoilt && chance(1)))
			row->node.nominal = NO_LIMIT;
		row->node.borrowing_limit = limit(rows);
		row->node.lending_limit = limit(rows);
		row->node.weight = admit_weight(number(rows, BUILD_WEIGHT, tap_random(20) / 10.0));
		row->node.best_effort = chance(40);
	}
}

static const char *
tenant_name(const Rows *rows)
{
	int			first = rows->spoilt && chance(2) ? 0 : rows->cohorts;

	return name(rows, first + tap_random(rows->nodes - first));
}

static void
make_load(Rows *rows)
{
	for (int i = 0; i < rows->uses; i++)
		rows->use[i] = (BuildUse) {
			.tenant = tenant_name(rows),
			.flow = chance(50) ? NULL : names[tap_random(3)],
			.slots = (int64_t) number(rows, BUILD_SLOTS, tap_random(6))
		};
	for (int i = 0; i < rows->tasks; i++)
		rows->task[i] = (BuildTask) {
			.id = name(rows, i),
			.tenant = tenant_name(rows),
			.flow = chance(50) ? NULL : names[tap_random(3)],
			.priority = (int64_t) number(rows, BUILD_PRIORITY, tap_random(3)),
			.slots = (int64_t) number(rows, BUILD_SLOTS, tap_random(4)),
			.task.asked = (int64_t) (number(rows, BUILD_SECONDS, tap_random(100)) * 1e6)
		};
}

static void
make_rows(Rows *rows)
{
	rows->spoilt = chance(50);
	rows->chain = chance(5);
	rows->nodes = rows->chain ? ADMIT_MAX_DEPTH - 2 + (int) tap_random(8) :
		2 + (int) tap_random(chance(10) ? MAX_ROWS - 1 : 10);
	rows->uses = (int) tap_random(6);
	rows->tasks = (int) tap_random(chance(10) ? MAX_ROWS : 12);
	make_nodes(rows);
	make_load(rows);
	rows->now = (int64_t) (number(rows, BUILD_SECONDS, 100) * 1e6);
	rows->order = (AdmitOrder) {0};
	if (chance(40))
		rows->order = (AdmitOrder) {
			.max_age = (int64_t) (number(rows, BUILD_SPAN, tap_random(100)) * 1e6),
			.age_priority = (int64_t) number(rows, BUILD_SLOTS, tap_random(5)),
			.age_tasks = (int64_t) number(rows, BUILD_SLOTS, tap_random(5)),
			.half_life = (int64_t) (number(rows, BUILD_SPAN, tap_random(1000)) * 1e6)
		};
}

static const BuildNode *
node_named(const Rows *rows, const char *wanted, bool cohort)
{
	for (int i = 0; i < rows->nodes; i++)
	{
		if (rows->node[i].cohort == cohort && strcmp(rows->node[i].node.name, wanted) == 0)
			return &rows->node[i];
	}
	return NULL;
}

static bool
node_faulty(const Rows *rows, int i)
{
	const BuildNode *row = &rows->node[i];
	int			most = row->cohort ? ADMIT_MAX_DEPTH - 1 : ADMIT_MAX_DEPTH;

	if (row->node.name[0] == '\0' || (row->node.nominal == NO_LIMIT && (row->cohort || row->parent != NULL)))
		return true;
	for (int k = 0; k < i; k++)
	{
		if (strcmp(rows->node[k].node.name, row->node.name) == 0)
			return true;
	}
	for (; row->parent != NULL && most > 0; most--)
	{
		if ((row = node_named(rows, row->parent, true)) == NULL)
			return true;
	}
	return most == 0;
}

/* Is anything wrong with the rows? */
static bool
faulty(const Rows *rows)
{
	for (int i = 0; i < rows->nodes; i++)
	{
		if (node_faulty(rows, i))
			return true;
	}
	for (int i = 0; i < rows->uses; i++)
	{
		if (node_named(rows, rows->use[i].tenant, false) == NULL)
			return true;
	}
	for (int i = 0; i < rows->tasks; i++)
	{
		if (rows->task[i].id[0] == '\0' || node_named(rows, rows->task[i].tenant, false) == NULL)
			return true;
		for (int k = 0; k < i; k++)
		{
			if (strcmp(rows->task[i].id, rows->task[k].id) == 0)
				return true;
		}
	}
	return false;
}

/* Exactly as much room as is said, so that a step beyond it is seen. */
static void *
room(const void *from, size_t n, size_t size)
{
	void	   *made = calloc(n > 0 ? n : 1, n > 0 ? size : 1);

	if (from != NULL && n > 0)
		memcpy(made, from, n * size);
	return made;
}

#define SHUFFLE(rows, n) \
	for (size_t i_ = (n); i_ > 1; i_--) \
	{ \
		size_t		k_ = (size_t) tap_random((int64_t) i_); \
		__typeof__(*(rows)) swap_ = (rows)[i_ - 1]; \
		(rows)[i_ - 1] = (rows)[k_]; \
		(rows)[k_] = swap_; \
	}

static AdmitBuild
open_build(const Rows *rows, bool shuffled)
{
	AdmitBuild	build = {.nnodes = rows->nodes, .nuses = rows->uses, .ntasks = rows->tasks, .now = rows->now};

	build.nodes = room(rows->node, build.nnodes, sizeof(*build.nodes));
	build.uses = room(rows->use, build.nuses, sizeof(*build.uses));
	build.tasks = room(rows->task, build.ntasks, sizeof(*build.tasks));
	build.by_name = room(NULL, build.nnodes, sizeof(*build.by_name));
	build.lines = room(NULL, build.ntasks, sizeof(*build.lines));
	build.shapes = room(NULL, build.ntasks, sizeof(*build.shapes));
	build.flows = room(NULL, build.ntasks, sizeof(*build.flows));
	if (shuffled)
	{
		SHUFFLE(build.nodes, build.nnodes);
		SHUFFLE(build.uses, build.nuses);
		SHUFFLE(build.tasks, build.ntasks);
	}
	return build;
}

static void
close_build(AdmitBuild *build)
{
	free(build->nodes);
	free(build->uses);
	free(build->tasks);
	free(build->by_name);
	free(build->lines);
	free(build->shapes);
	free(build->flows);
}

/* Would a task bring its tenant, or a cohort, over what it may have? */
static bool
over_limit(const AdmitNode *tenant, int64_t before)
{
	return tenant->quota != NO_LIMIT && tenant->usage[ADMIT_USED] > before &&
		(tenant->usage[ADMIT_USED] - before > tenant->potential || admit_free(tenant, ADMIT_USED) < 0);
}

static void
run_fill(const Rows *rows, AdmitBuild *build, Outcome *outcome, Counts *counts)
{
	AdmitFill	fill;
	AdmitTask  *task;

	admit_fill_begin(&fill, &rows->order, rows->now);
	for (size_t i = 0; i < build->nnodes; i++)
	{
		if (build->by_name[i]->node.parent == NULL)
			admit_fill_add(&fill, &build->by_name[i]->node);
	}
	while ((task = admit_fill_next(&fill)) != NULL)
	{
		AdmitNode  *tenant = task->shape->tenant;

		counts->over_limit += over_limit(tenant, tenant->usage[ADMIT_USED] - task->shape->slots);
		strcpy(outcome->order[outcome->admitted++], heap_entry(BuildTask, task, task)->id);
	}
	for (size_t i = 0; i < build->ntasks; i++)
		admit_fill_reason(&build->tasks[i].node->node, build->tasks[i].slots);
	for (size_t i = 0; i < build->nnodes; i++)
		counts->over_limit += !(admit_share(&build->nodes[i].node) >= 0);
}

static void
try(const Rows *rows, bool shuffled, Outcome *outcome, Counts *counts)
{
	AdmitBuild	build = open_build(rows, shuffled);

	memset(outcome, 0, sizeof(*outcome));
	outcome->error = admit_build(&build).error;
	if (outcome->error == BUILD_OK)
		run_fill(rows, &build, outcome, counts);
	close_build(&build);
}

static void
look_at_case(Counts *counts)
{
	static Rows rows;
	static Outcome first;
	static Outcome second;

	make_rows(&rows);
	try(&rows, false, &first, counts);
	try(&rows, true, &second, counts);
	counts->wrong_order += memcmp(&first, &second, sizeof(first)) != 0;
	counts->wrong_error += faulty(&rows) != (first.error != BUILD_OK);
	counts->built += first.error == BUILD_OK;
	counts->refused[first.error]++;
	counts->admitted += first.admitted;
}

/* Some of the cases in a process of its own; it writes its counts. */
static pid_t
start(int64_t cases, uint64_t seed, int to)
{
	Counts		counts = {0};
	pid_t		pid;

	fflush(stdout);
	if ((pid = fork()) != 0)
		return pid;
	tap_random_state = seed;
	for (int64_t i = 0; i < cases; i++)
		look_at_case(&counts);
	exit(write(to, &counts, sizeof(counts)) != sizeof(counts));
}

static void
add_counts(Counts *all, const Counts *some)
{
	int64_t    *sum = (int64_t *) all;
	const int64_t *part = (const int64_t *) some;

	for (size_t i = 0; i < sizeof(*all) / sizeof(*sum); i++)
		sum[i] += part[i];
}

static bool
run(int64_t cases, Counts *all)
{
	uint64_t	seed = tap_random_state;
	bool		ended_well = true;
	int			ends[2];

	if (pipe(ends) != 0)
		return false;
	for (int i = 0; i < PROCESSES; i++)
		ended_well &= start(cases / PROCESSES, seed + (uint64_t) i, ends[1]) > 0;
	close(ends[1]);
	for (int i = 0; i < PROCESSES; i++)
	{
		Counts		some;
		int			status;

		ended_well &= wait(&status) > 0 && status == 0;
		if (read(ends[0], &some, sizeof(some)) == sizeof(some))
			add_counts(all, &some);
		else
			ended_well = false;
	}
	close(ends[0]);
	return ended_well;
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static void
test_numbers(void)
{
	ok(!admit_build_number(BUILD_SLOTS, NAN) && !admit_build_number(BUILD_WEIGHT, NAN) &&
	   !admit_build_number(BUILD_SECONDS, INFINITY) && !admit_build_number(BUILD_PRIORITY, -INFINITY) &&
	   !admit_build_number(BUILD_SPAN, NAN), "what is no number is refused");
	ok(!admit_build_number(BUILD_SLOTS, -1) && !admit_build_number(BUILD_SLOTS, 0.5) &&
	   !admit_build_number(BUILD_SLOTS, 2147483648.0) && admit_build_number(BUILD_SLOTS, 2147483647) &&
	   admit_build_number(BUILD_SLOTS, 0), "slots are whole and from 0 to 2147483647");
	ok(admit_build_number(BUILD_PRIORITY, -2147483648.0) && !admit_build_number(BUILD_PRIORITY, -2147483649.0) &&
	   !admit_build_number(BUILD_PRIORITY, 0.5), "a priority is whole");
	ok(admit_build_number(BUILD_WEIGHT, 0) && admit_build_number(BUILD_WEIGHT, 1e-9) &&
	   !admit_build_number(BUILD_WEIGHT, 1e-10) && !admit_build_number(BUILD_WEIGHT, -1), "a weight is 0 or from 1e-9");
	ok(admit_build_number(BUILD_SECONDS, -0.5) && !admit_build_number(BUILD_SPAN, -0.5), "a span is not negative");
}

int
main(void)
{
	const char *given = getenv("CASES");
	int64_t		cases = given ? strtoll(given, NULL, 10) : 1000000;
	double		began = seconds();
	Counts		counts = {0};
	bool		all_refused = true;

	for (int i = 0; i < NAMES; i++)
		memcpy(names[i], (char[]) {(char) (i / 8 + 48), (char) (i % 8 + 48), 0}, 3);
	tap_seed();
	test_numbers();
	ok(run(cases, &counts), "no case crashes, leaks or does what is undefined");
	printf("# %lld cases, %.0f a second; built %lld, admitted %lld; refused", (long long) cases,
		   (double) cases / (seconds() - began), (long long) counts.built, (long long) counts.admitted);
	for (int i = BUILD_OK + 1; i <= BUILD_TOO_DEEP; i++)
	{
		printf(" %lld", (long long) counts.refused[i]);
		all_refused &= counts.refused[i] > cases / 10000;
	}
	printf("\n");
	ok(counts.wrong_error == 0, "bad rows are refused, good ones are not");
	ok(counts.wrong_order == 0, "the order of rows matters neither to a fault nor to the order of admission");
	ok(counts.over_limit == 0, "no limit is exceeded");
	ok(counts.built > cases / 4 && all_refused, "each fault is met, and many cases have none");
	return tap_done();
}
