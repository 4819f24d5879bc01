/*
 * log.c - the decision log.
 *
 * The ring keeps the id of the task only; the worker looks up its names when it
 * writes the row.  A task that is gone by then leaves them NULL.
 */
#include "compat.h"

#include "catalog/pg_type_d.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "account.h"
#include "guc.h"
#include "log.h"
#include "spi.h"

#define RING_SIZE 16384			/* a power of two */
#define FLUSH_BATCH 8192		/* in one turn */

typedef struct Ring
{
	uint64		head;			/* next to write */
	uint64		tail;			/* next to flush */
	uint64		dropped;
	Decision	decisions[RING_SIZE];
} Ring;

static Ring *ring;

Size
log_shmem_size(void)
{
	return MAXALIGN(sizeof(Ring));
}

void
log_shmem_startup(void)
{
	bool		found;

	ring = ShmemInitStruct("airflow_bp log", log_shmem_size(), &found);
	if (!found)
		ring->head = ring->tail = ring->dropped = 0;
}

/* May be called with shmem->lock held. */
void
log_decision(const Decision *decision)
{
	LWLockAcquire(shmem->log_lock, LW_EXCLUSIVE);
	if (ring->head - ring->tail == RING_SIZE)
		ring->dropped++;
	else
		ring->decisions[ring->head++ % RING_SIZE] = *decision;
	LWLockRelease(shmem->log_lock);
}

/* A decision could not even be kept until its commit. */
void
log_lost(void)
{
	LWLockAcquire(shmem->log_lock, LW_EXCLUSIVE);
	ring->dropped++;
	LWLockRelease(shmem->log_lock);
}

int64
log_dropped(void)
{
	return (int64) ring->dropped;
}

/* Take decisions out of the ring; those of other databases go back to its end. */
static int
ring_take(DbState *db, Decision *out, int most)
{
	int			n = 0;

	LWLockAcquire(shmem->log_lock, LW_EXCLUSIVE);
	for (uint64 left = ring->head - ring->tail; left > 0 && n < most; left--)
	{
		Decision	decision = ring->decisions[ring->tail++ % RING_SIZE];

		if (decision.db == db->db)
		{
			/* those of triggers that were there before belong to nobody */
			if (decision.at >= db->log_from)
				out[n++] = decision;
		}
		else if (shmem_db_has_worker(decision.db))
			ring->decisions[ring->head++ % RING_SIZE] = decision;
	}
	LWLockRelease(shmem->log_lock);
	return n;
}

/* What could not be written is first again; what has no room is dropped. */
static void
ring_put_back(const Decision *batch, int n)
{
	LWLockAcquire(shmem->log_lock, LW_EXCLUSIVE);
	for (int i = n - 1; i >= 0; i--)
	{
		if (ring->head - ring->tail == RING_SIZE)
			ring->dropped++;
		else
			ring->decisions[--ring->tail % RING_SIZE] = batch[i];
	}
	LWLockRelease(shmem->log_lock);
}

static Datum
make_array(Datum *values, bool *nulls, int n, Oid type, int len, bool byval, char align)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, type, len,
											  byval, align));
}

/* The columns of the batch, as arrays for unnest(). */
static void
batch_columns(const Decision *batch, int n, Datum *columns)
{
	static const char *const verdicts[] = {"admit", "hold", "would_hold"};
	Datum	   *v[7];
	bool	   *none[7];

	for (int c = 0; c < lengthof(v); c++)
	{
		v[c] = palloc(n * sizeof(Datum));
		none[c] = palloc0(n * sizeof(bool));
	}
	for (int i = 0; i < n; i++)
	{
		const TenantState *tenant = account_tenant(batch[i].tenant);
		const char *reason = admit_reason_name(batch[i].reason);

		v[0][i] = TimestampTzGetDatum(batch[i].at);
		v[1][i] = CStringGetTextDatum(verdicts[batch[i].verdict]);
		none[2][i] = reason == NULL;
		v[2][i] = none[2][i] ? (Datum) 0 : CStringGetTextDatum(reason);
		none[3][i] = tenant == NULL;
		v[3][i] = none[3][i] ? (Datum) 0 : CStringGetTextDatum(tenant->name);
		v[4][i] = UUIDPGetDatum(&batch[i].id);
		v[5][i] = Int32GetDatum(batch[i].slots);
		v[6][i] = Int32GetDatum(batch[i].try_number);
	}
	columns[0] = make_array(v[0], none[0], n, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	for (int c = 1; c <= 3; c++)
		columns[c] = make_array(v[c], none[c], n, TEXTOID, -1, false, TYPALIGN_INT);
	columns[4] = make_array(v[4], none[4], n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR);
	for (int c = 5; c <= 6; c++)
		columns[c] = make_array(v[c], none[c], n, INT4OID, 4, true, TYPALIGN_INT);
}

static void
write_batch(const Decision *batch, int n, const char *airflow_schema)
{
	static Oid	types[] = {
		TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, UUIDARRAYOID,
		INT4ARRAYOID, INT4ARRAYOID
	};
	Datum		columns[lengthof(types)];

	batch_columns(batch, n, columns);
	spi_write(lengthof(types), types, columns, NULL,
			  "INSERT INTO airflow_bp.decision (at, verdict, reason, tenant, dag_id, run_id, "
			  "task_id, map_index, try_number, slots) "
			  "SELECT d.at, d.verdict, d.reason, d.tenant, t.dag_id, t.run_id, t.task_id, "
			  "t.map_index, d.try_number, d.slots "
			  "FROM unnest($1, $2, $3, $4, $5, $6, $7) WITH ORDINALITY AS "
			  "d (at, verdict, reason, tenant, id, slots, try_number, n) "
			  "LEFT JOIN %s.task_instance t ON t.id = d.id ORDER BY d.n",
			  quote_identifier(airflow_schema));
}

/* Write the oldest of what is in the ring to the table.  Needs SPI. */
void
log_flush(DbState *db, const char *airflow_schema)
{
	Decision   *batch = palloc(FLUSH_BATCH * sizeof(Decision));
	int			n = ring_take(db, batch, FLUSH_BATCH);

	if (n == 0)
		return;
	PG_TRY();
	{
		write_batch(batch, n, airflow_schema);
	}
	PG_CATCH();
	{
		ring_put_back(batch, n);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Delete old rows, a batch at a time.  Needs SPI. */
void
log_purge(void)
{
	spi_write(0, NULL, NULL, NULL,
			  "DELETE FROM airflow_bp.decision WHERE ctid = ANY (ARRAY("
			  "SELECT ctid FROM airflow_bp.decision WHERE at < now() - make_interval(days => %d) "
			  "LIMIT 10000))", guc_log_retention_days);
}
