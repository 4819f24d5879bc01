/*
 * stuck.c - how far the sweep over stuck tasks has come.
 *
 * It is in shared memory, as each turn goes on where the one before ended.  Only
 * the holder of the lock over turns writes it, or a caller by hand.
 *
 * Lock: shmem->lock.
 */
#include "compat.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "shmem.h"

#define FIRST_RUNS 100

PG_FUNCTION_INFO_V1(airflow_bp_stuck_progress);
PG_FUNCTION_INFO_V1(airflow_bp_set_stuck_progress);

/* stuck_progress() returns (after_dag, after_run, runs, after_letter, began, ended, took) */
Datum
airflow_bp_stuck_progress(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[7] = {0};
	bool		nulls[7] = {0};
	DbState    *db = shmem_db(true);
	StuckSweep	sweep = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
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
	values[6] = IntervalPGetDatum(palloc0(sizeof(Interval)));
	DatumGetIntervalP(values[6])->time = sweep.took;
	nulls[0] = nulls[1] = sweep.after_dag[0] == '\0';
	nulls[2] = nulls[3] = db == NULL;
	nulls[4] = sweep.began == 0;
	nulls[5] = nulls[6] = sweep.ended == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
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
