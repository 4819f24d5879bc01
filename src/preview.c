/*
 * preview.c - the fill over a policy and a load given as JSON.
 *
 * It needs neither shared memory nor Airflow.  Here JSON becomes rows, and the
 * outcome becomes JSON; trees and lines are made by admit_build.c.
 */
#include "compat.h"

#include <float.h>
#include <math.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "admit_build.h"
#include "admit_turn.h"
#include "shmem.h"

#define SHOWN_BYTES 255			/* of a name in a message */

PG_FUNCTION_INFO_V1(airflow_bp_preview);

/* An object of the input; array NULL: the input itself. */
typedef struct Row
{
	const char *array;
	int			place;
	JsonbContainer *fields;
} Row;

typedef void (*ReadRow) (const Row *row, void *into);

/* A node before the fill. */
typedef struct Before
{
	int64		usage;
	int64		available;
	int64		borrowed;
	double		share;
} Before;

typedef struct TenantNumber
{
	const char *tenant;
	double		number;
} TenantNumber;

/* The input, and what came of it. */
typedef struct Preview
{
	AdmitBuild	build;
	AdmitOrder	order;
	Before	   *before;			/* by place of the node */
	BuildTask **admitted;		/* in order */
	size_t		nadmitted;
	TenantNumber *finishes;		/* slots a minute */
	size_t		nfinishes;
	char	   *watch;			/* id of a task, or NULL */
} Preview;

static void *
allocate(Size count, Size size)
{
	return palloc_extended(Max(count, 1) * size, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* As much of a name as goes into a message. */
static const char *
shown(const char *name)
{
	return name == NULL ? NULL : pnstrdup(name, pg_mbcliplen(name, strlen(name), SHOWN_BYTES));
}

/* Where a field is, as JavaScript would say it. */
static char *
path_of(const Row *row, const char *key)
{
	return row->array == NULL ? pstrdup(key) : psprintf("%s[%d].%s", row->array, row->place, key);
}

static bool
field(const Row *row, const char *key, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(row->fields, key, strlen(key), value) != NULL;
}

static void
check_structure(bool good, const char *path, const char *rule)
{
	if (good)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_BP_STRUCTURE),
			 errmsg("%s %s", path, rule),
			 errhint("The comment on airflow_bp.preview(jsonb) tells the form of the input.")));
}

/* NAN when it is none of this kind. */
static double
number_in(const JsonbValue *value, BuildNumber kind)
{
	Numeric		number = value->val.numeric;
	bool		beyond = false;
	double		result;

	if (value->type != jbvNumeric)
		return NAN;
	if (DatumGetInt32(DirectFunctionCall1(numeric_min_scale, NumericGetDatum(number))) == 0)
		result = numeric_int4_opt_error(number, &beyond);
	else if (kind == BUILD_SLOTS || kind == BUILD_PRIORITY)
		return NAN;
	else
	{
		result = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(number)));
		if (result == 0)
			result = copysign(DBL_MIN, result);	/* it is not 0 */
	}
	return !beyond && admit_build_number(kind, result) ? result : NAN;
}

static double
number_of(const JsonbValue *value, BuildNumber kind, const char *path)
{
	static const char *const rules[] = {
		[BUILD_SLOTS] = "a whole number from 0 to 2147483647",
		[BUILD_PRIORITY] = "a whole number from -2147483648 to 2147483647",
		[BUILD_SECONDS] = "a number from -2147483648 to 2147483647",
		[BUILD_SPAN] = "a number from 0 to 2147483647",
		[BUILD_WEIGHT] = "0, or a number from 0.000000001 to 2147483647",
	};
	double		result = number_in(value, kind);

	if (isnan(result))
		ereport(ERROR,
				(errcode(ERRCODE_BP_NUMBER),
				 errmsg("%s must be %s", path, rules[kind]),
				 errhint("Give a JSON number without quotes.")));
	return result;
}

/* A number of a row; absent when it is not there. */
static double
number(const Row *row, const char *key, BuildNumber kind, double absent)
{
	JsonbValue	value;
	double		result = absent;

	/* The path is made only for a number that is wrong. */
	if (field(row, key, &value) && isnan(result = number_in(&value, kind)))
		result = number_of(&value, kind, path_of(row, key));
	return result;
}

static int64
microseconds(const Row *row, const char *key, BuildNumber kind)
{
	return llround(number(row, key, kind, 0) * 1e6);
}

/* A number of slots where null means that there is no limit. */
static int64
limit(const Row *row, const char *key, int64 absent)
{
	JsonbValue	value;

	if (!field(row, key, &value))
		return absent;
	return value.type == jbvNull ? NO_LIMIT : (int64) number(row, key, BUILD_SLOTS, 0);
}

/* A string of a row; NULL when it is null or not there. */
static char *
string(const Row *row, const char *key)
{
	JsonbValue	value;

	if (!field(row, key, &value) || value.type == jbvNull)
		return NULL;
	if (value.type != jbvString)
		check_structure(false, path_of(row, key), "must be a string");
	return pnstrdup(value.val.string.val, value.val.string.len);
}

static char *
required_string(const Row *row, const char *key)
{
	char	   *result = string(row, key);

	if (result == NULL)
		check_structure(false, path_of(row, key), "is missing");
	return result;
}

static bool
best_effort(const Row *row)
{
	char	   *queueing = string(row, "queueing");

	if (queueing == NULL || strcmp(queueing, "strict") == 0)
		return false;
	if (strcmp(queueing, "best_effort") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_BP_NAME),
				 errmsg("%s is unknown: %s", path_of(row, "queueing"), shown(queueing)),
				 errhint("Use one of strict, best_effort.")));
	return true;
}

static void
read_node(const Row *row, BuildNode *into)
{
	into->node.name = required_string(row, "name");
	into->node.borrowing_limit = limit(row, "borrowing_limit", NO_LIMIT);
	into->node.lending_limit = limit(row, "lending_limit", NO_LIMIT);
	into->node.weight = admit_weight(number(row, "weight", BUILD_WEIGHT, 1));
}

static void
read_cohort(const Row *row, void *into)
{
	BuildNode  *node = into;

	read_node(row, node);
	node->cohort = true;
	node->parent = string(row, "parent");
	node->node.nominal = limit(row, "nominal", 0);
}

static void
read_tenant(const Row *row, void *into)
{
	BuildNode  *node = into;
	JsonbValue	nominal;

	read_node(row, node);
	if (!field(row, "nominal", &nominal))
		check_structure(false, path_of(row, "nominal"), "is missing");
	node->parent = string(row, "cohort");
	node->node.nominal = limit(row, "nominal", 0);
	node->node.best_effort = best_effort(row);
}

static void
read_admitted(const Row *row, void *into)
{
	*(BuildUse *) into = (BuildUse) {
		.tenant = required_string(row, "tenant"),
		.flow = string(row, "dag"),
		.slots = number(row, "slots", BUILD_SLOTS, 1)
	};
}

static void
read_pending(const Row *row, void *into)
{
	*(BuildTask *) into = (BuildTask) {
		.id = required_string(row, "id"),
		.tenant = required_string(row, "tenant"),
		.flow = string(row, "dag"),
		.slots = number(row, "slots", BUILD_SLOTS, 1),
		.priority = number(row, "priority", BUILD_PRIORITY, 0),
		.task.asked = microseconds(row, "created_s", BUILD_SECONDS)
	};
}

/* A container of the input; NULL when it is null or not there. */
static JsonbContainer *
section(const Row *input, const char *key, bool array)
{
	JsonbValue	value;
	JsonbContainer *found;

	if (!field(input, key, &value) || value.type == jbvNull)
		return NULL;
	found = value.val.binary.data;
	if (array)
		check_structure(value.type == jbvBinary && JsonContainerIsArray(found), key, "must be an array");
	else
		check_structure(value.type == jbvBinary && JsonContainerIsObject(found), key, "must be an object");
	return found;
}

static Size
count(const Row *input, const char *array)
{
	JsonbContainer *elements = section(input, array, true);

	return elements == NULL ? 0 : JsonContainerSize(elements);
}

/* Read the objects of an array into elements of that size. */
static void
read_rows(const Row *input, const char *array, ReadRow read, void *into, Size size)
{
	Row			row = {.array = array};
	JsonbContainer *elements = section(input, array, true);
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;

	if (elements == NULL)
		return;
	it = JsonbIteratorInit(elements);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		row.fields = value.val.binary.data;
		if (value.type != jbvBinary || !JsonContainerIsObject(row.fields))
			check_structure(false, psprintf("%s[%d]", array, row.place), "must be an object");
		read(&row, (char *) into + row.place * size);
		row.place++;
	}
}

/* Read an object of numbers by tenant; returns how many there are. */
static Size
read_numbers(const Row *input, const char *key, BuildNumber kind, TenantNumber **into)
{
	JsonbContainer *object = section(input, key, false);
	TenantNumber *next;
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;

	if (object == NULL)
		return 0;
	next = *into = allocate(JsonContainerSize(object), sizeof(TenantNumber));
	it = JsonbIteratorInit(object);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
			next->tenant = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			next->number = number_of(&value, kind, psprintf("%s.%s", key, shown(next->tenant)));
			next++;
		}
	}
	return next - *into;
}

static void
read_order(const Row *input, Preview *preview)
{
	preview->build.now = microseconds(input, "now_s", BUILD_SECONDS);
	preview->order = (AdmitOrder) {
		.max_age = microseconds(input, "max_age_s", BUILD_SPAN),
		.age_priority = number(input, "age_priority", BUILD_SLOTS, 0),
		.age_tasks = number(input, "age_tasks", BUILD_SLOTS, 0),
		.half_life = microseconds(input, "half_life_s", BUILD_SPAN)
	};
}

static void
read_input(const Row *input, Preview *preview)
{
	AdmitBuild *build = &preview->build;
	TenantNumber *usage;
	Size		ncohorts = count(input, "cohorts");
	Size		nused = read_numbers(input, "usage", BUILD_SLOTS, &usage);

	read_order(input, preview);
	build->nnodes = ncohorts + count(input, "tenants");
	build->nodes = allocate(build->nnodes, sizeof(BuildNode));
	read_rows(input, "cohorts", read_cohort, build->nodes, sizeof(BuildNode));
	read_rows(input, "tenants", read_tenant, build->nodes + ncohorts, sizeof(BuildNode));
	build->nuses = nused + count(input, "admitted");
	build->uses = allocate(build->nuses, sizeof(BuildUse));
	for (Size i = 0; i < nused; i++)
		build->uses[i] = (BuildUse) {.tenant = usage[i].tenant, .slots = usage[i].number};
	read_rows(input, "admitted", read_admitted, build->uses + nused, sizeof(BuildUse));
	build->ntasks = count(input, "pending");
	build->tasks = allocate(build->ntasks, sizeof(BuildTask));
	read_rows(input, "pending", read_pending, build->tasks, sizeof(BuildTask));
	preview->nfinishes = read_numbers(input, "finishes", BUILD_SPAN, &preview->finishes);
	preview->watch = string(input, "watch");
}

/* Say what is wrong with the tree; formats take name and user. */
static void
report(const BuildFault *fault)
{
	static const struct
	{
		int			code;
		const char *message;
		const char *hint;
	}			reports[] = {
		[BUILD_EMPTY_NAME] = {ERRCODE_BP_NAME, "a name is empty",
		"Each cohort and tenant needs a name, each pending task an id."},
		[BUILD_NAME_TWICE] = {ERRCODE_BP_NAME, "there are two nodes named \"%s\"",
		"Tenants and cohorts share one space of names."},
		[BUILD_TASK_TWICE] = {ERRCODE_BP_NAME, "there are two pending tasks with the id \"%s\"",
		"Give each pending task an id of its own."},
		[BUILD_UNKNOWN_COHORT] = {ERRCODE_BP_NAME, "there is no cohort \"%s\" for \"%s\"",
		"List it in cohorts."},
		[BUILD_UNKNOWN_TENANT] = {ERRCODE_BP_NAME, "there is no tenant \"%s\" for the pending task \"%s\"",
		"List it in tenants."},
		[BUILD_UNKNOWN_USER] = {ERRCODE_BP_NAME, "there is no tenant \"%s\"",
		"List it in tenants."},
		[BUILD_UNLIMITED] = {ERRCODE_BP_NUMBER, "nominal of \"%s\" must be a number",
		"Only a tenant without cohort may be unlimited."},
		[BUILD_CYCLE] = {ERRCODE_BP_NESTING, "the cohorts above \"%s\" form a cycle",
		"The parent of a root cohort is null."},
		[BUILD_TOO_DEEP] = {ERRCODE_BP_NESTING, "\"%s\" is too deep in cohorts",
		"Nest at most 32 cohorts."},
	};

	if (fault->error != BUILD_OK)
		ereport(ERROR,
				(errcode(reports[fault->error].code),
				 errmsg(reports[fault->error].message, shown(fault->name), shown(fault->user)),
				 errhint("%s", reports[fault->error].hint)));
}

static void
make_tree(Preview *preview)
{
	AdmitBuild *build = &preview->build;
	BuildFault	fault;

	build->by_name = allocate(build->nnodes, sizeof(BuildNode *));
	build->lines = allocate(build->ntasks, sizeof(BuildTask *));
	build->shapes = allocate(build->ntasks, sizeof(AdmitShape));
	build->flows = allocate(build->ntasks, sizeof(BuildFlow));
	fault = admit_build(build);
	report(&fault);
	for (Size i = 0; i < preview->nfinishes; i++)
	{
		if (admit_build_find(build, preview->finishes[i].tenant, false) == NULL)
			report(&(BuildFault) {BUILD_UNKNOWN_USER, preview->finishes[i].tenant, NULL});
	}
}

static void
note_before(Preview *preview)
{
	preview->before = allocate(preview->build.nnodes, sizeof(Before));
	for (Size i = 0; i < preview->build.nnodes; i++)
	{
		const AdmitNode *node = &preview->build.by_name[i]->node;

		preview->before[i] = (Before) {
			.usage = node->usage[ADMIT_USED],
			.available = admit_available(node),
			.borrowed = admit_borrowed(node),
			.share = admit_share(node)
		};
	}
}

static void
fill(Preview *preview)
{
	AdmitFill	fill;
	AdmitTask  *next;

	preview->admitted = allocate(preview->build.ntasks, sizeof(BuildTask *));
	admit_fill_begin(&fill, &preview->order, preview->build.now);
	for (Size i = 0; i < preview->build.nnodes; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (preview->build.by_name[i]->node.parent == NULL)
			admit_fill_add(&fill, &preview->build.by_name[i]->node);
	}
	while ((next = admit_fill_next(&fill)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		preview->admitted[preview->nadmitted++] = heap_entry(BuildTask, task, next);
	}
}

static BuildNode *
above(const BuildNode *row)
{
	return row->node.parent == NULL ? NULL : heap_entry(BuildNode, node, row->node.parent);
}

/* Count the outcome, for each tenant and for the cohorts above it. */
static void
count_outcome(Preview *preview)
{
	for (Size i = 0; i < preview->nadmitted; i++)
	{
		preview->admitted[i]->admitted = true;
		for (BuildNode *row = preview->admitted[i]->node; row != NULL; row = above(row))
		{
			row->admitted_tasks++;
			row->admitted_slots += preview->admitted[i]->slots;
		}
	}
	for (Size i = 0; i < preview->build.ntasks; i++)
	{
		const BuildTask *task = &preview->build.tasks[i];

		for (BuildNode *row = task->node; row != NULL && !task->admitted; row = above(row))
		{
			row->held_tasks++;
			row->held_slots += task->slots;
		}
	}
}

static void
put_text(JsonbParseState **out, JsonbIteratorToken token, const char *text)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	pushJsonbValue(out, token, &value);
}

static void
put_number(JsonbParseState **out, const char *key, Numeric number)
{
	JsonbValue	value = {.type = jbvNumeric};

	value.val.numeric = number;
	put_text(out, WJB_KEY, key);
	pushJsonbValue(out, WJB_VALUE, &value);
}

static void
put_null(JsonbParseState **out, const char *key)
{
	JsonbValue	value = {.type = jbvNull};

	put_text(out, WJB_KEY, key);
	pushJsonbValue(out, WJB_VALUE, &value);
}

static void
put_float(JsonbParseState **out, const char *key, double number)
{
	put_number(out, key, DatumGetNumeric(DirectFunctionCall1(float8_numeric, Float8GetDatum(number))));
}

static void
put_slots(JsonbParseState **out, const char *key, int64 slots)
{
	if (slots == NO_LIMIT)
		put_null(out, key);
	else
		put_number(out, key, int64_to_numeric(slots));
}

static void
put_share(JsonbParseState **out, double share)
{
	if (isinf(share))
	{
		put_text(out, WJB_KEY, "share");
		put_text(out, WJB_VALUE, "inf");
	}
	else
		put_float(out, "share", share * 1000);
}

static void
put_bool(JsonbParseState **out, const char *key, bool truth)
{
	JsonbValue	value = {.type = jbvBool};

	value.val.boolean = truth;
	put_text(out, WJB_KEY, key);
	pushJsonbValue(out, WJB_VALUE, &value);
}

static void
put_node(JsonbParseState **out, const BuildNode *row, const Before *before)
{
	put_text(out, WJB_KEY, row->node.name);
	pushJsonbValue(out, WJB_BEGIN_OBJECT, NULL);
	put_slots(out, "quota", row->node.quota);
	put_slots(out, "usage", before->usage);
	put_slots(out, "available", before->available);
	put_slots(out, "potential", row->node.potential);
	put_share(out, before->share);
	put_bool(out, "borrowing", before->borrowed > 0);
	put_slots(out, "admitted_tasks", row->admitted_tasks);
	put_slots(out, "admitted_slots", row->admitted_slots);
	put_slots(out, "held_tasks", row->held_tasks);
	put_slots(out, "held_slots", row->held_slots);
	pushJsonbValue(out, WJB_END_OBJECT, NULL);
}

static void
put_nodes(JsonbParseState **out, const Preview *preview)
{
	put_text(out, WJB_KEY, "nodes");
	pushJsonbValue(out, WJB_BEGIN_OBJECT, NULL);
	for (Size i = 0; i < preview->build.nnodes; i++)
	{
		CHECK_FOR_INTERRUPTS();
		put_node(out, preview->build.by_name[i], &preview->before[i]);
	}
	pushJsonbValue(out, WJB_END_OBJECT, NULL);
}

static void
put_order(JsonbParseState **out, const Preview *preview)
{
	put_text(out, WJB_KEY, "order");
	pushJsonbValue(out, WJB_BEGIN_ARRAY, NULL);
	for (Size i = 0; i < preview->nadmitted; i++)
		put_text(out, WJB_ELEM, preview->admitted[i]->id);
	pushJsonbValue(out, WJB_END_ARRAY, NULL);
}

static void
put_held(JsonbParseState **out, const Preview *preview)
{
	put_text(out, WJB_KEY, "held");
	pushJsonbValue(out, WJB_BEGIN_ARRAY, NULL);
	for (Size i = 0; i < preview->build.ntasks; i++)
	{
		const BuildTask *task = preview->build.lines[i];

		CHECK_FOR_INTERRUPTS();
		if (task->admitted)
			continue;
		pushJsonbValue(out, WJB_BEGIN_OBJECT, NULL);
		put_text(out, WJB_KEY, "id");
		put_text(out, WJB_VALUE, task->id);
		put_text(out, WJB_KEY, "reason");
		put_text(out, WJB_VALUE, admit_reason_name(admit_fill_reason(&task->node->node, task->slots)));
		pushJsonbValue(out, WJB_END_OBJECT, NULL);
	}
	pushJsonbValue(out, WJB_END_ARRAY, NULL);
}

/* Those of a tree that give slots back; returns how many there are. */
static Size
sources_of(const Preview *preview, const AdmitNode *root, AdmitSource *sources)
{
	Size		n = 0;

	for (Size i = 0; i < preview->nfinishes; i++)
	{
		const TenantNumber *rate = &preview->finishes[i];
		BuildNode  *row = admit_build_find(&preview->build, rate->tenant, false);

		if (rate->number > 0 && admit_root(&row->node) == root)
			sources[n++] = (AdmitSource) {.tenant = &row->node, .period = 60 / rate->number};
	}
	return n;
}

/* Seconds until the turn of a task, or NAN. */
static double
turn_of(const Preview *preview, const BuildTask *task)
{
	AdmitNode  *root = admit_root(&task->node->node);
	AdmitSource *sources = allocate(preview->nfinishes, sizeof(AdmitSource));
	Size		nsources = sources_of(preview, root, sources);

	return admit_turn(&preview->order, preview->build.now, &task->task, sources, nsources);
}

static const BuildTask *
watched(const Preview *preview)
{
	for (Size i = 0; i < preview->build.ntasks; i++)
	{
		if (strcmp(preview->build.tasks[i].id, preview->watch) == 0)
			return &preview->build.tasks[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_BP_NAME), errmsg("there is no pending task \"%s\" to watch", shown(preview->watch)),
			 errhint("List it in pending.")));
}

/* After this lines and usage are used up. */
static void
put_turn(JsonbParseState **out, const Preview *preview)
{
	const BuildTask *task;
	double		turn;

	if (preview->watch == NULL)
		return;
	task = watched(preview);
	turn = task->admitted ? 0 : turn_of(preview, task);
	if (isnan(turn))
		put_null(out, "turn_s");
	else
		put_float(out, "turn_s", turn);
}

static Jsonb *
outcome(const Preview *preview)
{
	JsonbParseState *out = NULL;

	pushJsonbValue(&out, WJB_BEGIN_OBJECT, NULL);
	put_nodes(&out, preview);
	put_order(&out, preview);
	put_held(&out, preview);
	put_turn(&out, preview);
	return JsonbValueToJsonb(pushJsonbValue(&out, WJB_END_OBJECT, NULL));
}

/* preview(input jsonb) returns jsonb */
Datum
airflow_bp_preview(PG_FUNCTION_ARGS)
{
	Row			input = {.fields = &PG_GETARG_JSONB_P(0)->root};
	Preview		preview = {0};

	check_structure(JsonContainerIsObject(input.fields), "the input", "must be an object");
	read_input(&input, &preview);
	make_tree(&preview);
	note_before(&preview);
	fill(&preview);
	count_outcome(&preview);
	PG_RETURN_JSONB_P(outcome(&preview));
}
