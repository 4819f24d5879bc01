/*
 * held.c - the tasks that the gate holds, their lines and their grants.
 *
 * Locks: shmem->lock, exclusively for all that writes; held.h says who takes it.
 */
#include "compat.h"

#include "common/hashfn.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "held.h"
#include "park.h"

#define FILL_BATCH 256
#define MAX_PASSED 1000

static HTAB *held;

static uint32
held_hash(const void *key, Size size)
{
	return DatumGetUInt32(hash_any(key, size));
}

Size
held_shmem_size(void)
{
	return hash_estimate_size(guc_max_held, sizeof(HeldEntry));
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

/* pairingheap_comparator: the greatest is on top. */
static int
held_compare(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const HeldEntry *x = pairingheap_const_container(HeldEntry, place, a);
	const HeldEntry *y = pairingheap_const_container(HeldEntry, place, b);

	return admit_compare(&y->rank, &x->rank);
}

/* The comparator is an address of this process; set it before each use. */
static pairingheap *
line_of(TenantState *tenant)
{
	tenant->line.ph_compare = held_compare;
	return &tenant->line;
}

static bool
held_is_head(TenantState *tenant, HeldEntry *entry)
{
	return entry != NULL && entry->state == HELD_WAITING &&
		pairingheap_first(line_of(tenant)) == &entry->place;
}

/* Is a task in line that goes before this ask?  With best effort none that waits has fitted. */
bool
held_others_first(TenantState *tenant, HeldEntry *entry)
{
	return tenant->waiting > 0 && !tenant->best_effort && !held_is_head(tenant, entry);
}

/* Take an entry out of its line or its grant. */
void
held_unplace(HeldEntry *entry)
{
	TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state == HELD_WAITING)
	{
		pairingheap_remove(line_of(tenant), &entry->place);
		tenant->waiting--;
	}
	if (entry->state == HELD_GRANTED)
		tenant->quota.granted -= entry->slots;
	entry->state = HELD_ASIDE;
}

/* Put an entry that stands aside where its tenant says. */
static void
held_place(HeldEntry *entry)
{
	TenantState *tenant;

	entry->tenant = entry->class->tenant;
	tenant = account_tenant(entry->tenant);
	if (tenant == NULL)
		return;
	if (entry->slots > tenant->quota.nominal)
	{
		entry->reason = REASON_NEVER_FITS;
		return;
	}
	if (entry->reason == REASON_NEVER_FITS)
		entry->reason = REASON_QUOTA;
	pairingheap_add(line_of(tenant), &entry->place);
	tenant->waiting++;
	entry->state = HELD_WAITING;
}

/* Follow what has changed of the task and its tenant since it was asked for last. */
void
held_refresh(HeldEntry *entry, const TaskRow *row, ClassEntry *class)
{
	if (entry->class != class || entry->tenant != class->tenant ||
		entry->slots != row->slots || entry->rank.priority != row->priority)
	{
		held_unplace(entry);
		pg_atomic_fetch_sub_u32(&entry->class->pins, 1);
		pg_atomic_fetch_add_u32(&class->pins, 1);
		entry->class = class;
		entry->slots = row->slots;
		entry->rank.priority = row->priority;
	}
	if (entry->state == HELD_ASIDE)
		held_place(entry);
}

void
held_remove(DbState *db, HeldEntry *entry)
{
	held_unplace(entry);
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
	HeldEntry  *entry = hash_search(held, &key, HASH_ENTER_NULL, &found);

	if (entry == NULL)
	{
		db->held_lost++;
		return NULL;
	}
	if (found)
		return NULL;			/* it has passed in this transaction */
	memset((char *) entry + sizeof(HeldKey), 0, sizeof(HeldEntry) - sizeof(HeldKey));
	entry->slots = row->slots;
	entry->reason = reason;
	entry->rank = (AdmitRank) {row->priority, now, hash_bytes_extended(row->id.data, UUID_LEN, 0)};
	entry->class = class;
	pg_atomic_fetch_add_u32(&class->pins, 1);
	entry->run = run;
	entry->tenant = NO_TENANT;
	held_place(entry);
	db->held++;
	return entry;
}

/* May an entry keep its grant, or have it back? */
static bool
grant_stands(const HeldEntry *entry, int64 more)
{
	const TenantState *tenant = account_tenant(entry->tenant);

	return tenant != NULL && entry->tenant == entry->class->tenant &&
		admit_usage(&tenant->quota) + more <= tenant->quota.nominal;
}

/* A task that passed in what is rolled back is held again, its grant with it. */
void
held_restore(HeldEntry *entry)
{
	TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state != HELD_PASSING)
		return;
	entry->state = HELD_ASIDE;
	if (entry->was_granted && grant_stands(entry, entry->slots))
	{
		entry->state = HELD_GRANTED;
		tenant->quota.granted += entry->slots;
	}
	else
		held_place(entry);
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

/* Put every entry where the compiled policy says; grants stay where they fit. */
void
held_place_all(DbState *db)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING ||
			(entry->state == HELD_GRANTED && grant_stands(entry, 0)))
			continue;
		held_unplace(entry);
		held_place(entry);
		if (db->ready && entry->state == HELD_WAITING && entry->reason == REASON_STARTING)
			entry->reason = REASON_QUOTA;
	}
}

static void
held_grant(TenantState *tenant, HeldEntry *entry, TimestampTz now)
{
	held_unplace(entry);
	entry->state = HELD_GRANTED;
	entry->granted_at = now;
	tenant->quota.granted += entry->slots;
}

/*
 * Grant what fits of one line, in order.  Strict stops at the first that does
 * not fit; best effort looks past it, at most MAX_PASSED times.
 */
static int
fill_line(TenantState *tenant, AdmitMode mode, TimestampTz now, Key *runs, int max_runs)
{
	pairingheap *line = line_of(tenant);
	HeldEntry  *passed[MAX_PASSED];
	int			npassed = 0;
	int			nruns = 0;

	while (!pairingheap_is_empty(line) && nruns < max_runs)
	{
		HeldEntry  *entry = pairingheap_container(HeldEntry, place, pairingheap_first(line));

		if (mode != MODE_ENFORCE || entry->slots <= admit_available(&tenant->quota))
		{
			held_grant(tenant, entry, now);
			runs[nruns++] = entry->run;
			continue;
		}
		if (!tenant->best_effort || npassed == MAX_PASSED || admit_available(&tenant->quota) == 0)
			break;
		passed[npassed++] = entry;
		pairingheap_remove_first(line);
	}
	for (int i = 0; i < npassed; i++)
		pairingheap_add(line, &passed[i]->place);
	return nruns;
}

/*
 * Grant held tasks of all tenants; the runs of the granted are returned to be
 * unparked.  Stops when the array is full: call again.
 */
static int
fill_lines(DbState *db, TimestampTz now, Key *runs, int max_runs)
{
	int			nruns = 0;

	for (int i = 0; db->ready && i < account_max_tenants() && nruns < max_runs; i++)
	{
		TenantState *tenant = account_tenant(i);
		AdmitMode	mode = admit_mode(db->mode, tenant->mode, db->may_enforce);

		if (tenant->db != db->db)
			continue;
		if (tenant->waiting > 0)
			nruns += fill_line(tenant, mode, now, &runs[nruns], max_runs - nruns);
	}
	return nruns;
}

/* Grant what fits, and have the runs of the granted looked at. */
void
held_grant_all(DbState *db)
{
	Key			runs[FILL_BATCH];
	int			n;

	do
	{
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		n = fill_lines(db, GetCurrentTimestamp(), runs, FILL_BATCH);
		LWLockRelease(shmem->lock);
		for (int i = 0; i < n; i++)
			park_run_useful(db, runs[i]);
	} while (n == FILL_BATCH);
}

/*
 * Drop entries that are asked for no more, take back grants that are not used.
 * Who let a grant lapse stands aside until the next ask, and keeps its rank.
 */
void
held_expire(DbState *db, TimestampTz now)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING)
			continue;
		if (entry->state == HELD_GRANTED)
		{
			if (now - entry->granted_at >= (int64) guc_grant_timeout * 1000)
				held_unplace(entry);
		}
		else if (now - entry->last_asked >= (int64) guc_ask_timeout * 1000 &&
				 !park_run_away(db, entry->run, (int64) guc_ask_timeout * 1000))
			held_remove(db, entry);
	}
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
		if (oldest[i] == 0 || entry->rank.first_asked < oldest[i])
			oldest[i] = entry->rank.first_asked;
	}
}
