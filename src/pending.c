/*
 * pending.c - what the open transaction has done to the counters.
 *
 * Locks: takes shmem->lock exclusively at the end of a (sub)transaction, for
 * gate.c too.  The commit callback runs after the transaction has become
 * visible; account_seen() relies on that.
 */
#include "compat.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "gate.h"
#include "held.h"
#include "pending.h"

#define MAX_DELTAS 1024
#define NUM_BUCKETS 1024		/* a power of two */
#define MAX_CLAIMS_OUT 4096

/* A task that was claimable since this instant and is so no more. */
typedef struct ClaimOut
{
	ClassEntry *class;
	int			level;
	TimestampTz at;
} ClaimOut;

/* A class that the open transaction has changed. */
typedef struct Pinned
{
	ClassEntry *class;
	struct Pinned *next;		/* in its bucket */
	int			delta;			/* its newest, or -1 */
} Pinned;

static ClassDelta deltas[MAX_DELTAS];
static int	ndeltas;
static ClaimOut claims_out[MAX_CLAIMS_OUT];
static int	nclaims_out;
static Pinned pinned[MAX_DELTAS];
static int	npinned;
static Pinned *buckets[NUM_BUCKETS];	/* of pinned, by key */
static bool lost;				/* an array was full */
static int	admitted_level;		/* outermost level of an admission; 0: none */
static TransactionId top_xid;

static ClassEntry *recent;		/* class of the last row */

static Pinned **
bucket_of(const Key *key)
{
	return &buckets[key->low % NUM_BUCKETS];
}

static Pinned *
pinned_find(const Key *key)
{
	Pinned	   *found = *bucket_of(key);

	while (found != NULL && memcmp(&found->class->key, key, sizeof(Key)) != 0)
		found = found->next;
	return found;
}

/* Something could not be kept: have everything counted again. */
void
pending_lost(DbState *db)
{
	lost = true;
	pg_atomic_fetch_add_u64(&db->fail_open, 1);
}

static Pinned *
pinned_add(DbState *db, const Key *key, const Str *strs)
{
	Pinned	  **bucket = bucket_of(key);
	ClassEntry *class = npinned < MAX_DELTAS ? account_pin(db, key, strs) : NULL;

	if (class == NULL)
		return NULL;
	pinned[npinned] = (Pinned) {.class = class, .next = *bucket, .delta = -1};
	return *bucket = &pinned[npinned++];
}

/* Class of a row, pinned until the transaction ends; NULL when there is no room. */
ClassEntry *
pending_class(DbState *db, const TaskRow *row)
{
	Str			strs[NUM_NAME_KINDS] = {row->dag_id, row->pool, row->queue, row->executor};
	Pinned	   *found;
	Key			key;

	if (recent != NULL && account_class_is(recent, strs))
		return recent;
	key = account_class_key(strs);
	found = pinned_find(&key);
	if (found == NULL)
		found = pinned_add(db, &key, strs);
	if (found == NULL)
	{
		pending_lost(db);
		return NULL;
	}
	return recent = found->class;
}

/*
 * Delta of a class at a level, to charge a tenant unless that is
 * NO_TENANT; NULL when there is no room.  A class has more than one when it went
 * to another tenant meanwhile.
 */
static ClassDelta *
delta_at(DbState *db, ClassEntry *class, int tenant, int level)
{
	Pinned	   *pin = pinned_find(&class->key);

	for (int i = pin->delta; i >= 0 && deltas[i].level >= level; i--)
	{
		ClassDelta *delta = &deltas[i];

		if (delta->class != class || delta->level != level ||
			(tenant != NO_TENANT && delta->tenant != NO_TENANT && delta->tenant != tenant))
			continue;
		if (tenant != NO_TENANT)
			delta->tenant = tenant;
		return delta;
	}
	if (ndeltas == MAX_DELTAS)
	{
		pending_lost(db);
		return NULL;
	}
	pin->delta = ndeltas;
	deltas[ndeltas] = (ClassDelta) {.class = class, .level = level, .tenant = tenant};
	return &deltas[ndeltas++];
}

static ClassDelta *
delta_of(DbState *db, ClassEntry *class, int tenant)
{
	return delta_at(db, class, tenant, GetCurrentTransactionNestLevel());
}

static void
note_claim_in(ClassDelta *delta, TimestampTz at)
{
	if (delta->claims == 0 || at < delta->claim_from)
		delta->claim_from = at;
	if (delta->claims == 0 || at > delta->claim_to)
		delta->claim_to = at;
	delta->claims++;
}

static void
note_claim_out(ClassDelta *delta, TimestampTz at)
{
	if (nclaims_out < MAX_CLAIMS_OUT)
		claims_out[nclaims_out++] = (ClaimOut) {delta->class, delta->level, at};
}

static void
note_claims(ClassDelta *from_delta, const TaskRow *from, ClassDelta *to_delta,
			const TaskRow *to)
{
	bool		was = from && task_state_claimable(from->state) && from->scheduled != 0;
	bool		is = to && task_state_claimable(to->state) && to->scheduled != 0;

	if (was && is && from_delta == to_delta && from->scheduled == to->scheduled)
		return;
	if (was && from_delta)
		note_claim_out(from_delta, from->scheduled);
	if (is && to_delta)
		note_claim_in(to_delta, to->scheduled);
}

static bool
row_unfinished(const TaskRow *row)
{
	return row != NULL && row->state < NUM_UNFINISHED;
}

static void
note_rates(ClassDelta *from_delta, const TaskRow *from, ClassDelta *to_delta,
		   const TaskRow *to)
{
	if (row_unfinished(to) && !row_unfinished(from) && to_delta)
		to_delta->rates[RATE_ARRIVED]++;
	if (row_unfinished(from) && !row_unfinished(to) && from_delta)
		from_delta->rates[RATE_FINISHED]++;
	if (!from || !to || from->state == to->state || !to_delta)
		return;
	to_delta->rates[RATE_STARTED] += to->state == TASK_RUNNING;
	to_delta->rates[RATE_ADMITTED] += to->state == TASK_SCHEDULED;
	to_delta->rates[RATE_QUEUED] += to->state == TASK_QUEUED;
}

static int64
charge_of(const TaskRow *row, ClassEntry *class)
{
	TenantState *tenant = row && class ? account_tenant(class->tenant) : NULL;

	if (tenant == NULL || !task_state_charged(row->state, tenant->count_deferred))
		return 0;
	return row->slots;
}

/* Keep slots that the open transaction takes from others at once. */
void
pending_reserve(DbState *db, ClassEntry *class, int tenant, int64 slots)
{
	ClassDelta *delta;

	if (tenant == NO_TENANT || slots <= 0)
		return;
	delta = delta_of(db, class, tenant);
	if (delta == NULL)
		return;
	delta->reserved += slots;
	account_use(account_tenant(tenant), &account_tenant(tenant)->reserved, slots);
}

/* Keep room in the pool and the DAG of a task that the open transaction admits. */
void
pending_enter(DbState *db, ClassEntry *class, int64 slots)
{
	ClassDelta *delta = db->ahead < 0 ? NULL : delta_of(db, class, class->tenant);

	if (delta == NULL)
		return;
	delta->room_slots += slots;
	delta->room_tasks++;
	account_promise(class, slots, 1);
}

/* Charge a move that did not pass the gate. */
static void
charge_move(DbState *db, const TaskRow *from, ClassEntry *from_class,
			const TaskRow *to, ClassEntry *to_class)
{
	int64		before = charge_of(from, from_class);
	int64		after = charge_of(to, to_class);

	if (before > 0 && from_class->tenant == to_class->tenant)
		after -= before;
	if (after <= 0)
		return;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	pending_reserve(db, to_class, to_class->tenant, after);
	LWLockRelease(shmem->lock);
}

/*
 * A row has gone from one state, class or size to another; NULL: it did not
 * exist or exists no more.  Classes may be NULL when the row is.
 */
void
pending_move(DbState *db, const TaskRow *from, ClassEntry *from_class,
			 const TaskRow *to, ClassEntry *to_class)
{
	ClassDelta *from_delta = from_class ? delta_of(db, from_class, NO_TENANT) : NULL;
	ClassDelta *to_delta = to_class == from_class ? from_delta :
		to_class ? delta_of(db, to_class, NO_TENANT) : NULL;

	if (row_unfinished(from) && from_delta)
	{
		from_delta->counts.tasks[from->state]--;
		from_delta->counts.slots[from->state] -= from->slots;
	}
	if (row_unfinished(to) && to_delta)
	{
		to_delta->counts.tasks[to->state]++;
		to_delta->counts.slots[to->state] += to->slots;
	}
	note_rates(from_delta, from, to_delta, to);
	note_claims(from_delta, from, to_delta, to);
	if (to_class && !(from && task_state_may_ask(from->state) && to->state == TASK_SCHEDULED))
		charge_move(db, from, from_class, to, to_class);
}

/* An admission is pending: it cannot be prepared. */
void
pending_admitted(DbState *db)
{
	int			level = GetCurrentTransactionNestLevel();

	if (admitted_level == 0 || level < admitted_level)
		admitted_level = level;
}

static void
pending_reset(void)
{
	for (int i = 0; i < npinned; i++)
	{
		*bucket_of(&pinned[i].class->key) = NULL;
		pg_atomic_fetch_sub_u32(&pinned[i].class->pins, 1);
	}
	npinned = ndeltas = nclaims_out = 0;
	recent = NULL;
	lost = false;
	admitted_level = 0;
	top_xid = InvalidTransactionId;
	shmem_committing(InvalidTransactionId);
}

/* Has the open transaction changed what is counted? */
bool
pending_any(void)
{
	return npinned > 0 || lost;
}

static bool
pending_idle(void)
{
	return npinned == 0 && !lost && gate_idle();
}

static void
pending_commit(DbState *db)
{
	TimestampTz now = GetCurrentTransactionStopTimestamp();
	bool		since;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	since = db->seen.active && !account_seen(&db->seen, top_xid);
	gate_commit(db);
	for (int i = 0; i < ndeltas; i++)
		account_apply(db, &deltas[i], since, now);
	for (int i = 0; i < nclaims_out; i++)
		account_claim_removed(claims_out[i].class, claims_out[i].at);
	if (lost)
		db->recount_wanted = true;
	LWLockRelease(shmem->lock);
	pending_reset();
	held_grant_all(db);
	if (db->unresolved > 0)
		shmem_wake_worker(db);
}

/* Deltas have moved. */
static void
find_newest(void)
{
	for (int i = 0; i < npinned; i++)
		pinned[i].delta = -1;
	for (int i = 0; i < ndeltas; i++)
		pinned_find(&deltas[i].class->key)->delta = i;
}

static void
delta_undo(DbState *db, const ClassDelta *delta)
{
	TenantState *tenant = account_tenant(delta->tenant);

	account_promise(delta->class, -delta->room_slots, -delta->room_tasks);
	if (delta->room_slots > 0)
		account_due_all(db);
	if (tenant == NULL)
		return;
	account_use(tenant, &tenant->reserved, -delta->reserved);
	account_due(db, tenant);
}

/* Give back what was taken at this level and below it. */
static void
pending_abort(DbState *db, int level)
{
	int			kept = 0;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ndeltas; i++)
	{
		if (deltas[i].level < level)
			deltas[kept++] = deltas[i];
		else
			delta_undo(db, &deltas[i]);
	}
	ndeltas = kept;
	gate_abort(db, level);
	LWLockRelease(shmem->lock);
	find_newest();

	kept = 0;
	for (int i = 0; i < nclaims_out; i++)
	{
		if (claims_out[i].level < level)
			claims_out[kept++] = claims_out[i];
	}
	nclaims_out = kept;
	if (admitted_level >= level)
		admitted_level = 0;
	held_grant_all(db);
}

static void
delta_merge(ClassDelta *into, const ClassDelta *delta)
{
	into->reserved += delta->reserved;
	into->room_slots += delta->room_slots;
	into->room_tasks += delta->room_tasks;
	account_counts_add(&into->counts, &delta->counts);
	for (int i = 0; i < NUM_RATES; i++)
		into->rates[i] += delta->rates[i];
	if (delta->claims == 0)
		return;
	into->claim_from = into->claims == 0 ? delta->claim_from : Min(into->claim_from, delta->claim_from);
	into->claim_to = Max(into->claim_to, delta->claim_to);
	into->claims += delta->claims;
}

/* What was done at this level becomes part of the level above. */
static void
pending_subcommit(DbState *db, int level)
{
	int			first = ndeltas;
	int			end = ndeltas;

	while (first > 0 && deltas[first - 1].level >= level)
		first--;
	ndeltas = first;
	find_newest();
	for (int i = first; i < end; i++)
	{
		ClassDelta	child = deltas[i];

		delta_merge(delta_at(db, child.class, child.tenant, level - 1), &child);
	}
	for (int i = 0; i < nclaims_out; i++)
		claims_out[i].level = Min(claims_out[i].level, level - 1);
	admitted_level = Min(admitted_level, level - 1);
	gate_subcommit(level);
}

/* The transaction goes on without us: a recount must find what it did. */
static void
pending_prepare(DbState *db)
{
	pending_abort(db, 0);
	db->prepared = true;
	pending_reset();
}

static void
pending_xact(XactEvent event, void *arg)
{
	DbState    *db;

	if (pending_idle() || (db = shmem_db(false)) == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			top_xid = GetTopTransactionIdIfAny();
			shmem_committing(top_xid);
			break;
		case XACT_EVENT_COMMIT:
			pending_commit(db);
			break;
		case XACT_EVENT_ABORT:
			pending_abort(db, 0);
			pending_reset();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (admitted_level > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot prepare a transaction in which airflow_bp has admitted a task"),
						 errhint("Commit the transaction instead.")));
			break;
		case XACT_EVENT_PREPARE:
			pending_prepare(db);
			break;
		default:
			break;
	}
}

static void
pending_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
				void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	DbState    *db;

	if (pending_idle() || (db = shmem_db(false)) == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		pending_abort(db, level);
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		pending_subcommit(db, level);
}

void
pending_init(void)
{
	RegisterXactCallback(pending_xact, NULL);
	RegisterSubXactCallback(pending_subxact, NULL);
}
