/*
 * recount.c - counting the tables again, exactly, while transactions run.
 *
 * A snapshot is taken while shmem->lock is held, and published.  Deltas are
 * applied after their transaction has become visible, under the same lock.  So
 * one that is applied after the snapshot was published is either visible in it,
 * and counted by the query, or it is not, and is added to Counts.since as well.
 * In the end, when all that are visible have been applied, counters = counted +
 * since; what that changes is drift.
 */
#include "compat.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "held.h"
#include "recount.h"
#include "spi.h"

#define WAIT_MS 1000

/* One row of the query. */
typedef struct Counted
{
	Str			names[NUM_NAME_KINDS];
	TaskState	state;
	int64		tasks;
	int64		slots;
	TimestampTz claim_from;		/* 0: none */
	TimestampTz claim_to;
} Counted;

static void
forget_since(ClassEntry *class, void *arg)
{
	memset(&class->since, 0, sizeof(Counts));
}

/* Take a snapshot and have every later commit compared with it. */
static Snapshot
recount_begin(DbState *db)
{
	SeenXids   *seen = &db->seen;
	Snapshot	snapshot;

	(void) GetLatestSnapshot();	/* allocates its arrays, once */
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	snapshot = GetLatestSnapshot();
	seen->xmin = snapshot->xmin;
	seen->xmax = snapshot->xmax;
	seen->count = snapshot->xcnt;
	memcpy(seen->xip, snapshot->xip, snapshot->xcnt * sizeof(TransactionId));
	seen->active = true;
	account_each_class(db, forget_since, NULL);
	LWLockRelease(shmem->lock);
	return RegisterSnapshot(snapshot);
}

static Str
row_text(uint64 row, int column)
{
	char	   *text = spi_text(row, column);

	return text == NULL ? (Str) {"", -1} : (Str) {text, strlen(text)};
}

static Counted
row_counted(uint64 row)
{
	Counted		counted;
	Str			state = row_text(row, 5);

	for (int i = 0; i < NUM_NAME_KINDS; i++)
		counted.names[i] = row_text(row, i + 1);
	counted.state = state.len < 0 ? TASK_NONE : task_state_parse(state.data, state.len);
	counted.tasks = spi_int(row, 6, 0);
	counted.slots = spi_int(row, 7, 0);
	counted.claim_from = spi_instant(row, 8);
	counted.claim_to = spi_instant(row, 9);
	return counted;
}

/* Tasks that can start are split by the logarithm of their age, for the sketch. */
static Counted *
recount_query(Snapshot snapshot, const char *airflow_schema, uint64 *n)
{
	Counted    *rows;

	*n = spi_query_at(snapshot,
					  "SELECT dag_id, pool, queue, executor, state, count(*), "
					  "sum(pool_slots)::bigint, min(at), max(at) "
					  "FROM (SELECT dag_id, pool, queue, executor, state, pool_slots, "
					  "CASE WHEN state IN ('scheduled', 'queued') THEN scheduled_dttm END AS at "
					  "FROM %s.task_instance WHERE state IS NULL OR state IN "
					  "('scheduled', 'queued', 'running', 'restarting', 'deferred', "
					  "'up_for_retry', 'up_for_reschedule', 'awaiting_input')) t "
					  "GROUP BY 1, 2, 3, 4, 5, floor(2 * ln("
					  "greatest(1, date_part('epoch', now() - at))))",
					  quote_identifier(airflow_schema));
	rows = palloc(Max(*n, 1) * sizeof(Counted));
	for (uint64 i = 0; i < *n; i++)
		rows[i] = row_counted(i);
	return rows;
}

/* Start from the deltas that the snapshot did not see. */
static void
class_start(ClassEntry *class, void *arg)
{
	class->live = class->since;
	age_reset(&class->ages);
}

static void
class_add(DbState *db, const Counted *counted, TimestampTz now)
{
	ClassEntry *class = account_class_by_names(db, counted->names);

	if (class == NULL)
	{
		pg_atomic_fetch_add_u64(&db->fail_open, 1);
		return;
	}
	class->live.tasks[counted->state] += counted->tasks;
	class->live.slots[counted->state] += counted->slots;
	if (counted->claim_from != 0)
		age_add(&class->ages, counted->claim_from, counted->claim_to, counted->tasks, now);
}

/* Usage of each tenant as the counters have it. */
static int
tenants_copy(DbState *db, RecountRow *rows)
{
	int			n = 0;

	for (int i = 0; i < account_max_tenants(); i++)
	{
		TenantState *tenant = account_tenant(i);

		if (tenant->db != db->db || tenant->cohort)
			continue;
		rows[n].tenant = i;
		rows[n++].counter = tenant->committed;
	}
	return n;
}

static int64
measure_drift(RecountRow *rows, int n)
{
	int64		drift = 0;

	for (int i = 0; i < n; i++)
	{
		rows[i].counted = account_tenant(rows[i].tenant)->committed;
		drift += Max(rows[i].counted, rows[i].counter) - Min(rows[i].counted, rows[i].counter);
	}
	return drift;
}

/* Between becoming visible and being applied there are microseconds. */
static void
recount_wait(DbState *db)
{
	for (int i = 0; !shmem_all_applied(&db->seen); i++)
	{
		if (i == WAIT_MS)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a transaction that has committed does not end"),
					 errhint("See pg_stat_activity; the recount is tried again.")));
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
}

static int
recount_end(DbState *db, const Counted *rows, uint64 n, RecountRow *found)
{
	TimestampTz now = GetCurrentTimestamp();
	int			nfound;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	nfound = tenants_copy(db, found);
	account_each_class(db, class_start, NULL);
	for (uint64 i = 0; i < n; i++)
		class_add(db, &rows[i], now);
	account_charge_all(db);
	db->drift_slots = measure_drift(found, nfound);
	if (!db->ready)
	{
		db->drift_slots = 0;
		db->counted_since = now;
	}
	db->drift_at = now;
	db->seen.active = false;
	db->ready = true;
	held_place_all(db);
	LWLockRelease(shmem->lock);
	return nfound;
}

/*
 * Count again; what was found for each tenant goes to found, room for
 * account_max_tenants().  Needs SPI; on an error the counters stay as they were.
 */
int
recount(DbState *db, const char *airflow_schema, RecountRow *found)
{
	Snapshot	snapshot;
	Counted    *rows;
	uint64		n;
	int			nfound = 0;

	db->recount_wanted = false;
	snapshot = recount_begin(db);
	PG_TRY();
	{
		rows = recount_query(snapshot, airflow_schema, &n);
		recount_wait(db);
		nfound = recount_end(db, rows, n, found);
	}
	PG_CATCH();
	{
		db->seen.active = false;
		db->recount_wanted = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
	UnregisterSnapshot(snapshot);
	return nfound;
}
