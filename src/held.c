/*
 * held.c - the tasks that the gate holds, their lines and their grants.
 *
 * Locks: shmem->lock, exclusively for all that writes; held.h says who takes it.
 */
#include "compat.h"

#include "common/hashfn.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "admit_line.h"
#include "guc.h"
#include "held.h"
#include "park.h"
#include "spi.h"

#define FILL_BATCH 256
#define HELD_PER_SHAPE 8		/* tasks for each shape that there is room for */

/* Tasks of a tenant that are alike; of one DAG and pool, where that matters. */
typedef struct ShapeKey
{
	NameEntry  *dag;			/* NULL: of any */
	NameEntry  *pool;			/* NULL: of any */
	int32		tenant;
	int32		priority;
	int32		slots;
	int32		unused;			/* 0 */
} ShapeKey;

typedef struct ShapeEntry
{
	ShapeKey	key;
	AdmitShape	shape;
} ShapeEntry;

static HTAB *held;
static HTAB *shapes;

static uint32
held_hash(const void *key, Size size)
{
	return DatumGetUInt32(hash_any(key, size));
}

static long
max_shapes(void)
{
	return guc_max_held / HELD_PER_SHAPE + 16;
}

Size
held_shmem_size(void)
{
	return add_size(hash_estimate_size(guc_max_held, sizeof(HeldEntry)),
					hash_estimate_size(max_shapes(), sizeof(ShapeEntry)));
}

void
held_shmem_startup(void)
{
	HASHCTL		info = {
		.keysize = sizeof(HeldKey),
		.entrysize = sizeof(HeldEntry),
		.hash = held_hash
	};

	held = ShmemInitHash("airflow_bp held", guc_max_held, guc_max_held, &info,
						 HASH_ELEM | HASH_FUNCTION | HASH_FIXED_SIZE);
	info.keysize = sizeof(ShapeKey);
	info.entrysize = sizeof(ShapeEntry);
	shapes = ShmemInitHash("airflow_bp shapes", max_shapes(), max_shapes(), &info,
						   HASH_ELEM | HASH_FUNCTION | HASH_FIXED_SIZE);
}

HeldKey
held_key(DbState *db, const pg_uuid_t *id)
{
	return (HeldKey) {db->db, *id};
}

HeldEntry *
held_find(const HeldKey *key)
{
	return hash_search(held, key, HASH_FIND, NULL);
}

/* Shape of a task in its tenant, made when absent; NULL when there is no room. */
static AdmitShape *
shape_get(DbState *db, const HeldEntry *entry)
{
	bool		by_usage = db->order.half_life > 0;
	bool		by_room = db->ahead >= 0;
	NameEntry  *dag = by_usage || by_room ? entry->class->names[NAME_DAG] : NULL;
	NameEntry  *pool = by_room ? entry->class->names[NAME_POOL] : NULL;
	ShapeKey	key = {dag, pool, entry->tenant, entry->priority, entry->slots, 0};
	bool		found;
	ShapeEntry *shape = shmem_enter(shapes, max_shapes(), &key, &found);

	if (shape == NULL)
		return NULL;
	if (!found)
		admit_shape_init(&shape->shape, &account_tenant(entry->tenant)->node,
						 by_usage ? &dag->flow : NULL, entry->priority, entry->slots);
	shape->shape.pool = by_room ? &pool->room : NULL;
	shape->shape.dag = by_room ? &dag->room : NULL;
	return &shape->shape;
}

/* A task has left its line. */
static void
shape_release(AdmitShape *shape)
{
	if (shape->waiting > 0)
		return;
	admit_shape_unlink(shape);
	hash_search(shapes, &heap_entry(ShapeEntry, shape, shape)->key, HASH_REMOVE, NULL);
}

/* List an entry by the time when it is to be looked at again. */
static void
held_list(DbState *db, HeldEntry *entry, TimestampTz now)
{
	entry->listed_at = now;
	dlist_push_tail(entry->state == HELD_GRANTED ? &db->granted : &db->asked, &entry->listed);
}

static void
held_relist(DbState *db, HeldEntry *entry, TimestampTz now)
{
	dlist_delete(&entry->listed);
	held_list(db, entry, now);
}

static bool
held_is_head(TenantState *tenant, HeldEntry *entry, const AdmitOrder *order, TimestampTz now)
{
	return entry != NULL && entry->state == HELD_WAITING &&
		admit_shape_first(entry->task.shape) == &entry->task &&
		admit_head(&tenant->node, order, now) == &entry->task;
}

/* More slots than its pool has: the executor could never have it. */
static bool
never_in_pool(const DbState *db, const ClassEntry *class, int64 slots)
{
	int64		limit = class->names[NAME_POOL]->room.limit;

	return db->ahead >= 0 && limit != NO_LIMIT && slots > limit - db->ahead;
}

static AdmitReason
room_verdict(const DbState *db, const ClassEntry *class, int64 slots)
{
	if (db->ahead < 0)
		return REASON_NONE;
	if (never_in_pool(db, class, slots) || !admit_room_fits(&class->names[NAME_POOL]->room, slots))
		return REASON_POOL;
	return admit_room_fits(&class->names[NAME_DAG]->room, 1) ? REASON_NONE : REASON_DAG;
}

/* May an ask without a grant pass?  With best effort none of the line has fitted. */
AdmitReason
held_verdict(DbState *db, ClassEntry *class, HeldEntry *entry, int64 slots, TimestampTz now)
{
	TenantState *tenant = account_tenant(class->tenant);
	bool		waits = entry != NULL && entry->state == HELD_WAITING;
	bool		in_line = tenant->node.waiting > 0 && !tenant->node.best_effort &&
		!held_is_head(tenant, entry, &db->order, now);
	AdmitReason reason = admit_verdict(&tenant->node, slots, in_line,
									   admit_root(&tenant->node)->waiting == (waits ? 1 : 0));

	return reason == REASON_NONE ? room_verdict(db, class, slots) : reason;
}

/* Take an entry out of its line or its grant; it stays listed. */
static void
held_unplace(HeldEntry *entry)
{
	TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state == HELD_WAITING)
	{
		AdmitShape *shape = entry->task.shape;

		admit_leave(&entry->task);
		shape_release(shape);
	}
	if (entry->state == HELD_GRANTED)
	{
		account_use(tenant, &tenant->granted, -entry->slots);
		if (entry->room)
			account_promise(entry->class, -entry->slots, -1);
	}
	entry->state = HELD_ASIDE;
}

/* The same, when what it leaves may go to others. */
static void
held_withdraw(DbState *db, HeldEntry *entry, TimestampTz now)
{
	bool		placed = entry->state == HELD_WAITING || entry->state == HELD_GRANTED;

	held_unplace(entry);
	if (placed)
		account_due(db, account_tenant(entry->tenant));
	held_relist(db, entry, now);
}

/* Is an entry kept out of the lines by a drain? */
static bool
held_drained(const HeldEntry *entry)
{
	int64		from = entry->class->drained_from;

	return from != DRAIN_NONE && drain_holds(from, entry->task.asked, entry->undrained ? 0 : from);
}

/* Put an entry that stands aside where its tenant says. */
static void
held_place(DbState *db, HeldEntry *entry)
{
	TenantState *tenant;
	AdmitShape *shape;

	entry->tenant = entry->class->tenant;
	tenant = account_tenant(entry->tenant);
	if (held_drained(entry))
	{
		entry->reason = REASON_DRAIN;
		return;
	}
	if (tenant == NULL)
		return;
	if (entry->slots > tenant->node.potential)
	{
		entry->reason = REASON_NEVER_FITS;
		return;
	}
	if (entry->reason == REASON_NEVER_FITS || entry->reason == REASON_DRAIN)
		entry->reason = REASON_QUOTA;
	if (never_in_pool(db, entry->class, entry->slots))
	{
		entry->reason = REASON_POOL;
		return;
	}
	shape = shape_get(db, entry);
	if (shape == NULL)
	{
		db->held_lost++;
		return;
	}
	admit_enter(shape, &entry->task);
	entry->state = HELD_WAITING;
	account_due(db, tenant);
}

/* Follow what has changed of the task and its tenant since it was asked for last. */
void
held_refresh(DbState *db, HeldEntry *entry, const TaskRow *row, ClassEntry *class, bool drained)
{
	bool		in_place = entry->state == HELD_WAITING || entry->state == HELD_GRANTED;

	if ((drained && in_place) || entry->class != class || entry->tenant != class->tenant ||
		entry->slots != row->slots || entry->priority != row->priority)
	{
		held_withdraw(db, entry, entry->listed_at);
		pg_atomic_fetch_sub_u32(&entry->class->pins, 1);
		pg_atomic_fetch_add_u32(&class->pins, 1);
		entry->class = class;
		entry->slots = row->slots;
		entry->priority = row->priority;
	}
	entry->undrained = !drained;
	if (entry->state == HELD_ASIDE)
		held_place(db, entry);
}

/* The task was asked for, and held again. */
void
held_asked(DbState *db, HeldEntry *entry, AdmitReason reason, TimestampTz now)
{
	entry->last_asked = now;
	entry->asks++;
	if (entry->state == HELD_WAITING)
		entry->reason = reason;
	held_relist(db, entry, now);
}

/* The task passes in the open transaction, which takes its slots. */
void
held_pass(DbState *db, HeldEntry *entry)
{
	bool		waited = entry->state == HELD_WAITING;

	entry->was_granted = entry->state == HELD_GRANTED;
	held_unplace(entry);
	dlist_delete(&entry->listed);
	entry->state = HELD_PASSING;
	if (waited)
		account_due(db, account_tenant(entry->tenant));
}

void
held_remove(DbState *db, HeldEntry *entry)
{
	if (entry->state != HELD_PASSING)
	{
		held_withdraw(db, entry, entry->listed_at);
		dlist_delete(&entry->listed);
	}
	pg_atomic_fetch_sub_u32(&entry->class->pins, 1);
	hash_search(held, &entry->key, HASH_REMOVE, NULL);
	db->held--;
}

/* New entry for a held task; NULL when the table is full. */
HeldEntry *
held_enter(DbState *db, const TaskRow *row, ClassEntry *class, AdmitReason reason,
		   Key run, TimestampTz now)
{
	HeldKey		key = held_key(db, &row->id);
	bool		found;
	HeldEntry  *entry = shmem_enter(held, guc_max_held, &key, &found);

	if (entry == NULL)
	{
		db->held_lost++;
		return NULL;
	}
	if (found)
		return NULL;			/* it has passed in this transaction */
	memset((char *) entry + sizeof(HeldKey), 0, sizeof(HeldEntry) - sizeof(HeldKey));
	entry->slots = row->slots;
	entry->priority = row->priority;
	entry->reason = reason;
	entry->task.asked = now;
	entry->task.tie = hash_bytes_extended(row->id.data, UUID_LEN, 0);
	entry->class = class;
	pg_atomic_fetch_add_u32(&class->pins, 1);
	entry->run = run;
	entry->undrained = reason != REASON_DRAIN;
	entry->tenant = NO_TENANT;
	held_place(db, entry);
	held_list(db, entry, now);
	db->held++;
	return entry;
}

/* May an entry keep its grant, or have it back? */
static bool
grant_stands(const HeldEntry *entry, int64 more)
{
	const TenantState *tenant = account_tenant(entry->tenant);

	return tenant != NULL && entry->tenant == entry->class->tenant && !held_drained(entry) &&
		admit_free(&tenant->node, ADMIT_USED) >= more;
}

/* A task that passed in what is rolled back is held again, its grant with it. */
void
held_restore(DbState *db, HeldEntry *entry)
{
	TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state != HELD_PASSING)
		return;
	entry->state = HELD_ASIDE;
	if (entry->was_granted && grant_stands(entry, entry->slots))
	{
		entry->state = HELD_GRANTED;
		account_use(tenant, &tenant->granted, entry->slots);
		if (entry->room)
			account_promise(entry->class, entry->slots, 1);
	}
	else
		held_place(db, entry);
	held_list(db, entry, entry->listed_at);
}

/* The triggers are gone: nobody is held, and the counters say nothing. */
void
held_clear(DbState *db)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	db->ready = false;
	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db == db->db && entry->state != HELD_PASSING)
			held_remove(db, entry);
	}
}

/* Does an entry stand where it would be put? */
static bool
held_in_place(const DbState *db, const HeldEntry *entry)
{
	const TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state == HELD_GRANTED)
		return grant_stands(entry, 0);
	return entry->state == HELD_WAITING && entry->tenant == entry->class->tenant && !held_drained(entry) &&
		entry->slots <= tenant->node.potential &&
		(entry->task.shape->flow != NULL) == (db->order.half_life > 0) &&
		(entry->task.shape->pool != NULL) == (db->ahead >= 0) &&
		!never_in_pool(db, entry->class, entry->slots);
}

/* Put every entry where the compiled policy says; grants stay where they fit. */
void
held_place_all(DbState *db)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING)
			continue;
		if (!held_in_place(db, entry))
		{
			held_withdraw(db, entry, entry->listed_at);
			held_place(db, entry);
		}
		if (entry->state == HELD_WAITING)
			account_due(db, account_tenant(entry->tenant));
		if (db->ready && entry->state == HELD_WAITING && entry->reason == REASON_STARTING)
			entry->reason = REASON_QUOTA;
	}
}

/* Less is drained than was: have the scheduler ask again for what was held by it. */
void
held_wake_drained(DbState *db)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db == db->db && entry->reason == REASON_DRAIN)
			park_run_useful(db, entry->run);
	}
}

/* Take over the settings that say who goes first. */
void
held_set_order(DbState *db)
{
	AdmitOrder	order = {
		.max_age = (int64) guc_max_age * 1000,
		.age_priority = guc_age_priority,
		.age_tasks = guc_age_tasks,
		.half_life = (int64) guc_usage_half_life * 1000
	};

	if (memcmp(&order, &db->order, sizeof(AdmitOrder)) == 0 && db->ahead == guc_admit_ahead)
		return;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->order = order;
	db->ahead = guc_admit_ahead;
	held_place_all(db);
	LWLockRelease(shmem->lock);
}

/* One row of airflow_bp.rooms(). */
typedef struct RoomRow
{
	NameKind	kind;
	Str			name;
	int64		most;
} RoomRow;

/* Have the gate admit what pools and DAGs can take now, and some ahead.  Needs SPI. */
void
held_set_rooms(DbState *db, const char *airflow_schema)
{
	uint64		n = spi_query("SELECT kind = 'dag', name, most FROM airflow_bp.rooms(%s)",
							  quote_literal_cstr(airflow_schema));
	RoomRow    *rows = palloc(Max(n, 1) * sizeof(RoomRow));

	for (uint64 i = 0; i < n; i++)
	{
		char	   *name = spi_text(i, 2);

		rows[i].kind = spi_bool(i, 1) ? NAME_DAG : NAME_POOL;
		rows[i].name = (Str) {name, strlen(name)};
		rows[i].most = spi_int(i, 3, 0);
	}
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	account_clear_rooms(db);
	for (uint64 i = 0; i < n; i++)
		account_set_room(rows[i].kind, rows[i].name, rows[i].most + db->ahead);
	held_place_all(db);
	LWLockRelease(shmem->lock);
}

static HeldEntry *
entry_of(const AdmitTask *task)
{
	return heap_entry(HeldEntry, task, task);
}

/* The slots are used already. */
static void
held_grant(DbState *db, HeldEntry *entry, TimestampTz now)
{
	account_tenant(entry->tenant)->granted += entry->slots;
	entry->room = entry->task.shape != NULL && entry->task.shape->pool != NULL;
	entry->state = HELD_GRANTED;
	held_relist(db, entry, now);
}

/* Of tenants whose limit is not enforced everybody may go. */
static int
release_tenants(DbState *db, AdmitNode *root, TimestampTz now, Key *runs, int max_runs)
{
	int			nruns = 0;

	for (AdmitNode *node = admit_first(root); node != NULL; node = admit_next(node, root))
	{
		TenantState *tenant = account_tenant_of(node);

		if (tenant->cohort || admit_mode(db->mode, tenant->mode, db->may_enforce) == MODE_ENFORCE)
			continue;
		while (nruns < max_runs && node->waiting > 0)
		{
			HeldEntry  *entry = entry_of(admit_head(node, &db->order, now));

			held_unplace(entry);
			admit_use(node, entry->slots);
			held_grant(db, entry, now);
			runs[nruns++] = entry->run;
		}
	}
	return nruns;
}

static int
fill_trees(DbState *db, TimestampTz now, Key *runs, int max_runs)
{
	AdmitFill	fill;
	AdmitTask  *task;
	int			nruns = 0;

	admit_fill_begin(&fill, &db->order, now);
	for (int i = db->due; i != NO_TENANT; i = account_tenant(i)->next_due)
	{
		AdmitNode  *root = &account_tenant(i)->node;

		nruns += release_tenants(db, root, now, &runs[nruns], max_runs - nruns);
		admit_fill_add(&fill, root);
	}
	while (nruns < max_runs && (task = admit_fill_next(&fill)) != NULL)
	{
		AdmitShape *shape = task->shape;

		runs[nruns++] = entry_of(task)->run;
		held_grant(db, entry_of(task), now);
		task->shape = NULL;
		shape_release(shape);
	}
	return nruns;
}

/* Grant what fits where somebody may go, and have the runs of the granted looked at. */
void
held_grant_all(DbState *db)
{
	Key			runs[FILL_BATCH];
	int			n = FILL_BATCH;

	while (db->due != NO_TENANT && n == FILL_BATCH)
	{
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		n = db->ready ? fill_trees(db, GetCurrentTimestamp(), runs, FILL_BATCH) : 0;
		if (n < FILL_BATCH && db->ready)
			account_forget_due(db);
		LWLockRelease(shmem->lock);
		for (int i = 0; i < n; i++)
			park_run_useful(db, runs[i]);
	}
}

/* First of a list when it was listed so long ago, else NULL. */
static HeldEntry *
listed_before(dlist_head *list, TimestampTz then)
{
	HeldEntry  *entry = dlist_is_empty(list) ? NULL :
		dlist_head_element(HeldEntry, listed, list);

	return entry != NULL && entry->listed_at <= then ? entry : NULL;
}

/*
 * Drop entries that are asked for no more, take back grants that are not used.
 * Who let a grant lapse stands aside until the next ask, and keeps its rank.
 * The time that a run was parked does not count.
 */
void
held_expire(DbState *db, TimestampTz now)
{
	int64		ask_timeout = (int64) guc_ask_timeout * 1000;
	HeldEntry  *entry;

	while ((entry = listed_before(&db->granted, now - (int64) guc_grant_timeout * 1000)) != NULL)
		held_withdraw(db, entry, now);
	while ((entry = listed_before(&db->asked, now - ask_timeout)) != NULL)
	{
		if (now - entry->last_asked >= ask_timeout && !park_run_away(db, entry->run, ask_timeout))
			held_remove(db, entry);
		else
			held_relist(db, entry, now);
	}
}

static void
list_set_back(dlist_head *list, TimestampTz now)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		HeldEntry  *entry = dlist_container(HeldEntry, listed, iter.cur);

		entry->listed_at = Min(entry->listed_at, now);
		entry->last_asked = Min(entry->last_asked, now);
	}
}

/* The clock was set back; nobody was asked for or granted later than now. */
void
held_set_back(DbState *db, TimestampTz now)
{
	list_set_back(&db->granted, now);
	list_set_back(&db->asked, now);
}

int
held_copy(DbState *db, HeldEntry *out, int room)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;
	int			n = 0;

	LWLockAcquire(shmem->lock, LW_SHARED);
	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING || n == room)
			continue;
		out[n++] = *entry;
		pg_atomic_fetch_add_u32(&entry->class->pins, 1);
	}
	LWLockRelease(shmem->lock);
	return n;
}

void
held_copy_done(HeldEntry *copy, int n)
{
	for (int i = 0; i < n; i++)
		pg_atomic_fetch_sub_u32(&copy[i].class->pins, 1);
}

/* Calls visit for each held entry of the database.  The caller holds shmem->lock. */
void
held_each(DbState *db, HeldVisitor visit, void *arg)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db == db->db)
			visit(entry, arg);
	}
}

/*
 * How many of each tenant are held, and the first ask of the oldest; both
 * arrays start as zeros.  The caller holds shmem->lock.
 */
void
held_sum(DbState *db, int64 *counts, TimestampTz *oldest)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		int			i = entry->tenant;

		if (entry->key.db != db->db || i == NO_TENANT ||
			(entry->state != HELD_WAITING && entry->state != HELD_ASIDE))
			continue;
		counts[i]++;
		if (oldest[i] == 0 || entry->task.asked < oldest[i])
			oldest[i] = entry->task.asked;
	}
}
