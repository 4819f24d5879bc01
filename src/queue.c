/*
 * queue.c - the counters of shared memory, summed by scope for queue().
 *
 * Everything is summed in one shared hold of shmem->lock, into memory that was
 * allocated before; rows are made after it is released.
 */
#include "compat.h"

#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "port/pg_bitutils.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "held.h"
#include "show.h"

#define NUM_WINDOWS 3
#define MAX_UNCUT (NAME_BYTES - MAX_MULTIBYTE_CHAR_LEN)
#define LEAST_ELAPSED USECS_PER_SEC

PG_FUNCTION_INFO_V1(queue_from_memory);
PG_FUNCTION_INFO_V1(entry_rates);

static const int window_minutes[NUM_WINDOWS] = {1, 5, 15};

typedef enum Scope
{
	SCOPE_DAG, SCOPE_POOL, SCOPE_QUEUE, SCOPE_EXECUTOR, /* as NameKind */
	SCOPE_TENANT, SCOPE_STATE, SCOPE_DEPLOYMENT, NUM_SCOPES
} Scope;

static const char *const scope_names[NUM_SCOPES] = {
	"dag", "pool", "queue", "executor", "tenant", "state", "deployment"
};

/* Sums over the classes of one pool, queue, ... */
typedef struct Tally
{
	const void *key;
	char		name[NAME_BYTES];
	Counts		counts;
	uint64		moves[NUM_WINDOWS][NUM_CLASS_RATES];
	int64		held;
	int64		held_slots;
	TimestampTz oldest;			/* 0: nobody is able to start */
} Tally;

typedef struct Tallies
{
	Scope		scope;
	DbState    *db;
	TimestampTz now;
	Str		   *blocked;		/* sorted: DAGs whose tasks are not able to start */
	int			nblocked;
	bool		usable;			/* no name was cut, no class lacks a tenant */
	int			n;
	Tally	   *tally;
	uint32		mask;
	int		   *index;			/* open addressing; 0: free, else 1 + place in tally */
} Tallies;

static int
str_compare(const void *a, const void *b)
{
	const Str  *x = a;
	const Str  *y = b;

	return x->len != y->len ? x->len - y->len : memcmp(x->data, y->data, x->len);
}

static Scope
scope_parse(const char *name)
{
	Scope		scope = 0;

	while (scope < NUM_SCOPES && strcmp(scope_names[scope], name) != 0)
		scope++;
	return scope;
}

/* What tells the classes of one scope name from those of another. */
static const void *
scope_key(const Tallies *all, const ClassEntry *class)
{
	if (all->scope < SCOPE_TENANT)
		return class->names[all->scope];
	return all->scope == SCOPE_TENANT ? (void *) account_tenant(class->tenant) : (void *) all;
}

static void
tally_name(Tallies *all, Tally *tally)
{
	if (all->scope == SCOPE_TENANT)
		strlcpy(tally->name, ((const TenantState *) tally->key)->name, NAME_BYTES);
	else if (all->scope < SCOPE_TENANT)
	{
		const NameEntry *name = tally->key;

		if (name->len >= MAX_UNCUT)
			all->usable = false;
		strlcpy(tally->name, name->len < 0 ? "(default)" : name->name, NAME_BYTES);
	}
	else
		strlcpy(tally->name, scope_names[all->scope], NAME_BYTES);
}

/* The tally of a class; NULL when it cannot be told. */
static Tally *
tally_of(Tallies *all, const ClassEntry *class)
{
	const void *key = scope_key(all, class);
	uint32		place = (uint32) hash_bytes_extended((unsigned char *) &key, sizeof(key), 0);

	if (key == NULL)
	{
		all->usable = false;
		return NULL;
	}
	for (;; place++)
	{
		int		   *slot = &all->index[place & all->mask];

		if (*slot != 0 && all->tally[*slot - 1].key == key)
			return &all->tally[*slot - 1];
		if (*slot == 0)
		{
			*slot = ++all->n;
			memset(&all->tally[all->n - 1], 0, sizeof(Tally));
			all->tally[all->n - 1].key = key;
			tally_name(all, &all->tally[all->n - 1]);
			return &all->tally[all->n - 1];
		}
	}
}

static void
add_oldest(Tallies *all, Tally *tally, const ClassEntry *class, TimestampTz since)
{
	const NameEntry *dag = class->names[NAME_DAG];
	Str			dag_id = {dag->name, dag->len};

	if (since == 0 || (tally->oldest != 0 && tally->oldest <= since) ||
		(all->nblocked > 0 &&
		 bsearch(&dag_id, all->blocked, all->nblocked, sizeof(Str), str_compare)))
		return;
	tally->oldest = since;
}

/* Transitions in the present minute and in whole minutes before it. */
static void
add_moves(Tally *tally, const uint32 *n, uint32 age)
{
	for (int w = 0; w < NUM_WINDOWS; w++)
	{
		for (int r = 0; r < NUM_CLASS_RATES && age <= window_minutes[w]; r++)
			tally->moves[w][r] += n[r];
	}
}

/* ClassVisitor */
static void
add_class(ClassEntry *class, void *arg)
{
	Tallies    *all = arg;
	Tally	   *tally = tally_of(all, class);
	int64		oldest = age_oldest(&class->ages);
	uint32		minute = (uint32) (all->now / USECS_PER_MINUTE);

	if (tally == NULL)
		return;
	for (int i = 0; i < NUM_UNFINISHED; i++)
	{
		tally->counts.tasks[i] += class->live.tasks[i];
		tally->counts.slots[i] += class->live.slots[i];
	}
	for (int i = 0; i < RATE_MINUTES; i++)
		add_moves(tally, class->rates[i].n, minute - class->rates[i].minute);
	add_oldest(all, tally, class, oldest == AGE_NONE ? 0 : oldest);
}

/* HeldVisitor */
static void
add_held(HeldEntry *entry, void *arg)
{
	Tallies    *all = arg;
	Tally	   *tally;

	if (entry->state == HELD_GRANTED || entry->state == HELD_PASSING ||
		(tally = tally_of(all, entry->class)) == NULL)
		return;
	tally->held++;
	tally->held_slots += entry->slots;
	add_oldest(all, tally, entry->class, entry->task.asked);
}

static void
sum_memory(Tallies *all)
{
	LWLockAcquire(shmem->lock, LW_SHARED);
	all->usable = all->db->ready;
	if (all->usable)
	{
		account_each_class(all->db, add_class, all);
		held_each(all->db, add_held, all);
	}
	LWLockRelease(shmem->lock);
}

/* Time for which a window of so many minutes has been counted; 0: too short to tell a rate. */
static int64
window_elapsed(const DbState *db, TimestampTz now, int minutes)
{
	int64		elapsed = Min(minutes * USECS_PER_MINUTE + now % USECS_PER_MINUTE, now - db->counted_since);

	return elapsed < LEAST_ELAPSED ? 0 : elapsed;
}

static double
per_minute(uint64 moves, int64 elapsed)
{
	return moves * (double) USECS_PER_MINUTE / elapsed;
}

static Datum
rates_datum(const Tallies *all, const Tally *tally, int window, bool *isnull)
{
	int64		elapsed = window_elapsed(all->db, all->now, window_minutes[window]);
	Datum		rates[NUM_CLASS_RATES];

	*isnull = all->scope == SCOPE_STATE || elapsed == 0;
	if (*isnull)
		return (Datum) 0;
	for (int i = 0; i < NUM_CLASS_RATES; i++)
		rates[i] = Float8GetDatum(per_minute(tally->moves[window][i], elapsed));
	return PointerGetDatum(construct_array(rates, NUM_CLASS_RATES, FLOAT8OID, sizeof(float8),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* One row of airflow_bp.queue_count. */
static void
put_tally(FunctionCallInfo fcinfo, const Tallies *all, const Tally *tally)
{
	const int32 *tasks = tally->counts.tasks;
	const int64 *slots = tally->counts.slots;
	Datum		values[17] = {0};
	bool		nulls[17] = {0};

	values[0] = CStringGetTextDatum(tally->name);
	values[1] = Int64GetDatum(tasks[TASK_NONE]);
	values[2] = Int64GetDatum(tasks[TASK_SCHEDULED]);
	values[3] = Int64GetDatum(tasks[TASK_QUEUED]);
	values[4] = Int64GetDatum(tasks[TASK_RUNNING] + tasks[TASK_RESTARTING]);
	values[5] = Int64GetDatum(tasks[TASK_DEFERRED] + tasks[TASK_AWAITING_INPUT]);
	values[6] = Int64GetDatum(tasks[TASK_UP_FOR_RETRY]);
	values[7] = Int64GetDatum(tasks[TASK_UP_FOR_RESCHEDULE]);
	values[8] = Int64GetDatum(slots[TASK_QUEUED] + slots[TASK_RUNNING]);
	values[9] = Int64GetDatum(account_charged(&tally->counts, false));
	values[10] = Int64GetDatum(slots[TASK_DEFERRED]);
	values[11] = Int64GetDatum(tally->held);
	values[12] = Int64GetDatum(tally->held_slots);
	nulls[11] = nulls[12] = all->scope == SCOPE_STATE;
	values[13] = TimestampTzGetDatum(tally->oldest);
	nulls[13] = tally->oldest == 0;
	for (int w = 0; w < NUM_WINDOWS; w++)
		values[14 + w] = rates_datum(all, tally, w, &nulls[14 + w]);
	show_row(fcinfo, values, nulls);
}

/* The whole, split by state.  Ages and transitions are not kept by state. */
static void
put_states(FunctionCallInfo fcinfo, const Tallies *all, const Tally *whole)
{
	for (int i = 0; i < NUM_UNFINISHED; i++)
	{
		Tally		state = {0};

		if (whole->counts.tasks[i] == 0)
			continue;
		strlcpy(state.name, task_state_name(i), NAME_BYTES);
		state.counts.tasks[i] = whole->counts.tasks[i];
		state.counts.slots[i] = whole->counts.slots[i];
		put_tally(fcinfo, all, &state);
	}
}

static bool
tally_idle(const Tally *tally)
{
	int64		sum = tally->held;

	for (int i = 0; i < NUM_UNFINISHED; i++)
		sum += tally->counts.tasks[i];
	for (int r = 0; r < NUM_CLASS_RATES; r++)
		sum += tally->moves[NUM_WINDOWS - 1][r];
	return sum == 0;
}

/* Where the column dag_id is missing all are NULL. */
static Str *
blocked_dags(ArrayType *array, int *n)
{
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;
	Str		   *strs;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &nelements);
	strs = palloc(nelements * sizeof(Str) + 1);
	*n = 0;
	for (int i = 0; i < nelements; i++)
	{
		if (!nulls[i])
			strs[(*n)++] = (Str) {VARDATA_ANY(elements[i]), VARSIZE_ANY_EXHDR(elements[i])};
	}
	qsort(strs, *n, sizeof(Str), str_compare);
	return strs;
}

/* queue_from_memory(scope text, blocked_dags text[]) returns setof queue_count */
Datum
queue_from_memory(PG_FUNCTION_ARGS)
{
	int			room = account_max_classes() + 1;
	Tallies		all = {
		.scope = scope_parse(text_to_cstring(PG_GETARG_TEXT_PP(0))),
		.db = shmem_db(false),
		.now = GetCurrentTimestamp(),
		.mask = pg_nextpower2_32(2 * room) - 1,
	};

	show_begin(fcinfo);
	if (all.db == NULL || all.scope == NUM_SCOPES)
		return (Datum) 0;
	all.blocked = blocked_dags(PG_GETARG_ARRAYTYPE_P(1), &all.nblocked);
	all.tally = MemoryContextAllocHuge(CurrentMemoryContext, (Size) room * sizeof(Tally));
	all.index = MemoryContextAllocExtended(CurrentMemoryContext, ((Size) all.mask + 1) * sizeof(int),
										   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	sum_memory(&all);
	for (int i = 0; i < all.n && all.usable; i++)
	{
		if (all.scope == SCOPE_STATE)
			put_states(fcinfo, &all, &all.tally[i]);
		else if (all.scope == SCOPE_DEPLOYMENT || !tally_idle(&all.tally[i]))
			put_tally(fcinfo, &all, &all.tally[i]);
	}
	return (Datum) 0;
}

/* entry_rates(out admissions_per_min float8, out queued_per_min float8) */
Datum
entry_rates(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);
	TimestampTz now = GetCurrentTimestamp();
	uint64		entered[lengthof(db->entered[0].n)] = {0};
	int64		elapsed = 0;
	Datum		values[lengthof(entered)] = {0};
	bool		nulls[lengthof(entered)] = {0};
	TupleDesc	desc = show_one(fcinfo);

	if (db != NULL)
	{
		LWLockAcquire(shmem->lock, LW_SHARED);
		if (db->ready)
			elapsed = window_elapsed(db, now, 1);
		for (int i = 0; i < RATE_MINUTES; i++)
		{
			bool		counts = (uint32) (now / USECS_PER_MINUTE) - db->entered[i].minute <= 1;

			for (int r = 0; r < lengthof(entered) && counts; r++)
				entered[r] += db->entered[i].n[r];
		}
		LWLockRelease(shmem->lock);
	}
	for (int r = 0; r < lengthof(entered); r++)
	{
		nulls[r] = elapsed == 0;
		if (elapsed > 0)
			values[r] = Float8GetDatum(per_minute(entered[r], elapsed));
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
