/*
 * shmem.c - allocation of shared memory, and finding a database in it.
 */
#include "compat.h"

#include "access/twophase.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "account.h"
#include "held.h"
#include "locks_sample.h"
#include "log.h"
#include "park.h"
#include "shmem.h"

ShmemRoot  *shmem = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Most transactions that one snapshot can list. */
static int
max_xids(void)
{
	return MaxBackends + max_prepared_xacts + NUM_AUXILIARY_PROCS + 16;
}

static Size
root_size(void)
{
	return add_size(MAXALIGN(sizeof(ShmemRoot)),
					mul_size(MAX_DATABASES + 1, mul_size(max_xids(), sizeof(TransactionId))));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(root_size());
	RequestAddinShmemSpace(account_shmem_size());
	RequestAddinShmemSpace(held_shmem_size());
	RequestAddinShmemSpace(park_shmem_size());
	RequestAddinShmemSpace(log_shmem_size());
	RequestAddinShmemSpace(locks_shmem_size());
	RequestNamedLWLockTranche("airflow_bp", 4);
}

static void
root_init(ShmemRoot *root)
{
	LWLockPadded *locks = GetNamedLWLockTranche("airflow_bp");
	TransactionId *xip = (TransactionId *) ((char *) root + MAXALIGN(sizeof(ShmemRoot)));

	memset(root, 0, sizeof(ShmemRoot));
	root->lock = &locks[0].lock;
	root->park_lock = &locks[1].lock;
	root->log_lock = &locks[2].lock;
	root->locks_lock = &locks[3].lock;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		pg_atomic_init_u64(&root->dbs[i].fail_open, 0);
		root->dbs[i].seen.xip = xip + (Size) i * max_xids();
	}
	root->committing = xip + (Size) MAX_DATABASES * max_xids();
	memset((void *) root->committing, 0, max_xids() * sizeof(TransactionId));
}

static void
shmem_startup(void)
{
	bool		found;
	ShmemRoot  *root;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	root = ShmemInitStruct("airflow_bp", root_size(), &found);
	if (!found)
		root_init(root);
	account_shmem_startup();
	held_shmem_startup();
	park_shmem_startup();
	log_shmem_startup();
	locks_shmem_startup();
	shmem = root;
	LWLockRelease(AddinShmemInitLock);
}

void
shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

static void
db_reset(DbState *state, Oid db)
{
	TransactionId *seen = state->seen.xip;

	memset(state, 0, sizeof(DbState));
	pg_atomic_init_u64(&state->fail_open, 0);
	state->seen.xip = seen;
	state->since = GetCurrentTimestamp();
	state->policy_wanted = 1;
	state->due = NO_TENANT;
	state->ahead = -1;
	state->drained_from = DRAIN_NONE;
	state->db = db;
}

/* State of a database; of InvalidOid: a free place.  NULL when there is none. */
DbState *
shmem_find_db(Oid db)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (shmem->dbs[i].db == db)
			return &shmem->dbs[i];
	}
	return NULL;
}

/*
 * State of this database; NULL without shared memory or when all places are
 * taken.  The pointer stays good: a place is freed when its database is gone.
 * A standby makes none: startup_hold counts from the promotion on.
 */
DbState *
shmem_db(bool create)
{
	static DbState *mine = NULL;

	if (mine != NULL || shmem == NULL || !OidIsValid(MyDatabaseId))
		return mine;
	LWLockAcquire(shmem->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	mine = shmem_find_db(MyDatabaseId);
	if (mine == NULL && create && !RecoveryInProgress() &&
		(mine = shmem_find_db(InvalidOid)) != NULL)
		db_reset(mine, MyDatabaseId);
	LWLockRelease(shmem->lock);
	return mine;
}

/* Free the places of databases that were dropped.  Needs a transaction. */
void
shmem_forget_dropped(void)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DbState    *state = &shmem->dbs[i];
		Oid			db = state->db;

		/* it may have been made after the last look at the catalog */
		AcceptInvalidationMessages();
		if (!OidIsValid(db) || SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(db)))
			continue;
		park_forget_db(state);
		locks_forget(state);
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		held_clear(state);
		account_forget(state);
		db_reset(state, InvalidOid);
		LWLockRelease(shmem->lock);
	}
}

/* The transaction of this backend is about to become visible, or has been applied. */
void
shmem_committing(TransactionId xid)
{
	shmem->committing[my_backend_index()] = xid;
}

/* Have all transactions that a recount sees been applied? */
bool
shmem_all_applied(const SeenXids *seen)
{
	for (int i = 0; i < max_xids(); i++)
	{
		TransactionId xid = shmem->committing[i];

		if (TransactionIdIsValid(xid) && account_seen(seen, xid))
			return false;
	}
	return true;
}

/* Does somebody empty the ring of decisions for this database? */
bool
shmem_db_has_worker(Oid db)
{
	DbState    *state = shmem_find_db(db);

	return state != NULL && state->worker_latch != NULL;
}

/* Wake the worker of a database; it may be gone, the latch is never freed. */
void
shmem_wake_worker(DbState *db)
{
	Latch	   *latch = db->worker_latch;

	if (latch != NULL)
		SetLatch(latch);
}

/* Key of some strings in this database.  Lengths are part of it. */
Key
key_of(int kind, const Str *strs, int nstrs)
{
	Key			key = {
		.high = hash_combine64(MyDatabaseId, kind),
		.low = hash_combine64(kind, MyDatabaseId)
	};

	for (int i = 0; i < nstrs; i++)
	{
		const unsigned char *data = (const unsigned char *) strs[i].data;
		int			len = Max(strs[i].len, 0);

		key.high = hash_combine64(key.high, hash_bytes_extended(data, len, strs[i].len));
		key.low = hash_combine64(key.low, hash_bytes_extended(data, len, ~key.low));
	}
	return key;
}

/* HashValueFunc for tables whose entry starts with a Key. */
static uint32
key_hash(const void *key, Size size)
{
	Assert(size == sizeof(Key));
	return (uint32) ((const Key *) key)->low;
}

/* Table of entries that start with a Key, for a shmem_startup function. */
HTAB *
shmem_table(const char *name, long entries, Size entry_size)
{
	HASHCTL		info = {
		.keysize = sizeof(Key),
		.entrysize = entry_size,
		.hash = key_hash
	};

	return ShmemInitHash(name, entries, entries, &info,
						 HASH_ELEM | HASH_FUNCTION | HASH_FIXED_SIZE);
}

/*
 * Entry of a key, new if need be; NULL when the table is full.  Where a process
 * attaches to a table (EXEC_BACKEND) it is not told that the size is fixed.
 */
void *
shmem_enter(HTAB *table, long max, const void *key, bool *found)
{
	void	   *entry = hash_search(table, key, HASH_FIND, found);

	if (entry != NULL || hash_get_num_entries(table) >= max)
		return entry;
	return hash_search(table, key, HASH_ENTER_NULL, found);
}

bool
str_equal(Str a, Str b)
{
	return a.len == b.len && (a.len <= 0 || memcmp(a.data, b.data, a.len) == 0);
}
