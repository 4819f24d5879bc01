/*
 * stuck.c - how far the sweep over stuck tasks has come, and what failed since.
 *
 * Each turn goes on where the one before ended.  Failures stay in their ring
 * until the sweep says that they are written, so an error loses none.
 *
 * Lock: shmem->lock.
 */
#include "compat.h"

#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "show.h"
#include "stuck.h"

#define FIRST_RUNS 100
/* Between two passes: four times as long as one takes, within these bounds. */
#define LEAST_PAUSE_US (10 * USECS_PER_SEC)
#define LONGEST_PAUSE_US USECS_PER_MINUTE

PG_FUNCTION_INFO_V1(airflow_bp_stuck_progress);
PG_FUNCTION_INFO_V1(airflow_bp_set_stuck_progress);
PG_FUNCTION_INFO_V1(airflow_bp_stuck_ring);
PG_FUNCTION_INFO_V1(airflow_bp_stuck_ring_done);

/* Keep a failure for the sweep.  The caller holds the lock, but for NULL: one that has no place. */
void
stuck_failed(DbState *db, const pg_uuid_t *id)
{
	FailedRing *ring = &db->failed;

	if (id == NULL || ring->head - ring->tail == FAILED_RING)
		ring->lost++;
	else
		ring->ids[ring->head++ % FAILED_RING] = *id;
}

/* Has the sweep something to do? */
bool
stuck_due(const DbState *db, TimestampTz now)
{
	int64		pause = Min(Max(4 * db->stuck.took, LEAST_PAUSE_US), LONGEST_PAUSE_US);

	return db->stuck.began != 0 || db->failed.head != db->failed.tail ||
		now - db->stuck.ended >= pause;
}

/* stuck_ring() returns (ids uuid[], upto, lost bigint) */
Datum
airflow_bp_stuck_ring(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = show_one(fcinfo);
	pg_uuid_t	ids[FAILED_RING];
	Datum		elements[FAILED_RING];
	Datum		values[3] = {0};
	bool		nulls[3] = {0};
	DbState    *db = shmem_db(true);
	uint64		head = 0;
	uint64		lost = 0;
	int			n = 0;

	if (db != NULL)
	{
		LWLockAcquire(shmem->lock, LW_SHARED);
		head = db->failed.head;
		lost = db->failed.lost;
		for (uint64 i = db->failed.tail; i < head; i++)
			ids[n++] = db->failed.ids[i % FAILED_RING];
		LWLockRelease(shmem->lock);
	}
	for (int i = 0; i < n; i++)
		elements[i] = UUIDPGetDatum(&ids[i]);
	values[0] = PointerGetDatum(construct_array(elements, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = Int64GetDatum((int64) head);
	values[2] = Int64GetDatum((int64) lost);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* stuck_ring_done(upto, lost bigint) returns void */
Datum
airflow_bp_stuck_ring_done(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(true);

	if (db == NULL)
		PG_RETURN_VOID();
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->failed.tail = Max(db->failed.tail, Min((uint64) PG_GETARG_INT64(0), db->failed.head));
	db->failed.lost -= Min((uint64) PG_GETARG_INT64(1), db->failed.lost);
	LWLockRelease(shmem->lock);
	PG_RETURN_VOID();
}

/* stuck_progress() returns (after_dag, after_run, runs, after_letter, began, ended, took) */
Datum
airflow_bp_stuck_progress(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = show_one(fcinfo);
	Datum		values[7] = {0};
	bool		nulls[7] = {0};
	DbState    *db = shmem_db(true);
	StuckSweep	sweep = {0};

	if (db != NULL)
	{
		LWLockAcquire(shmem->lock, LW_SHARED);
		sweep = db->stuck;
		LWLockRelease(shmem->lock);
	}
	values[0] = CStringGetTextDatum(sweep.after_dag);
	values[1] = Int32GetDatum(sweep.after_run);
	values[2] = Int32GetDatum(sweep.runs > 0 ? sweep.runs : FIRST_RUNS);
	values[3] = Int64GetDatum(sweep.after_letter);
	values[4] = TimestampTzGetDatum(sweep.began);
	values[5] = TimestampTzGetDatum(sweep.ended);
	values[6] = show_interval(sweep.took);
	nulls[0] = nulls[1] = sweep.after_dag[0] == '\0';
	nulls[2] = nulls[3] = db == NULL;
	nulls[4] = sweep.began == 0;
	nulls[5] = nulls[6] = sweep.ended == 0;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* set_stuck_progress(what stuck_progress() returns) returns void */
Datum
airflow_bp_set_stuck_progress(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(true);
	StuckSweep	sweep = {0};

	if (db == NULL)
		PG_RETURN_VOID();
	if (!PG_ARGISNULL(0))
		strlcpy(sweep.after_dag, text_to_cstring(PG_GETARG_TEXT_PP(0)), sizeof(sweep.after_dag));
	sweep.after_run = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	sweep.runs = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	sweep.after_letter = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3);
	sweep.began = PG_ARGISNULL(4) ? 0 : PG_GETARG_TIMESTAMPTZ(4);
	sweep.ended = PG_ARGISNULL(5) ? 0 : PG_GETARG_TIMESTAMPTZ(5);
	sweep.took = PG_ARGISNULL(6) ? 0 : PG_GETARG_INTERVAL_P(6)->time;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->stuck = sweep;
	LWLockRelease(shmem->lock);
	PG_RETURN_VOID();
}
