/*
 * park_turn.c - the worker's part of parking: what the tables say of a run.
 *
 * Locks: only through park.c, never across a query.  A run that was taken and
 * is not settled, because a query failed, stays in the window until its next
 * look.
 */
#include "compat.h"

#include "access/twophase.h"
#include "catalog/pg_type_d.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "park.h"
#include "show.h"
#include "spi.h"

#define SETTLE_BATCH 256
#define SETTLE_TIME_US (200 * 1000)
#define VERSIONS_PERIOD_US USECS_PER_SEC
#define VERSIONS_SHARE 20		/* of the time may go into it: one twentieth */
#define SWEEP_PERIOD_US USECS_PER_MINUTE

PG_FUNCTION_INFO_V1(airflow_bp_park_entries);

/* Call a function of ours with the schema and the ids; number of rows. */
static uint64
ask(const char *function, const char *airflow_schema, const ParkJob *jobs, int n)
{
	Oid			types[] = {TEXTOID, INT4ARRAYOID};
	Datum		values[2];
	Datum	   *ids = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		ids[i] = Int32GetDatum(jobs[i].id);
	values[0] = CStringGetTextDatum(airflow_schema);
	values[1] = PointerGetDatum(construct_array(ids, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	return spi_write(lengthof(values), types, values, NULL,
					 "SELECT * FROM airflow_bp.%s($1, $2)", function);
}

/* Columns of park_facts(). */
static ParkFacts
facts_of(uint64 row)
{
	return (ParkFacts) {
		.known = spi_bool(row, 2),
		.chained = spi_bool(row, 3),
		.stamp = spi_int(row, 4, 0),
		.dates[PARK_RETRY] = spi_instant(row, 5),
		.dates[PARK_RESCHEDULE] = spi_instant(row, 6),
		.dates[PARK_TIMEOUT] = spi_instant(row, 7)
	};
}

/* Settle so many runs; their number.  Runs that do not run any more have no facts. */
static int
settle_batch(DbState *db, const char *airflow_schema, ParkJob *jobs, int room)
{
	int			n = park_take_looked(db, jobs, room);
	uint64		rows = n == 0 ? 0 : ask("park_facts", airflow_schema, jobs, n);

	for (uint64 i = 0; i < rows; i++)
	{
		ParkFacts	facts = facts_of(i);

		park_settle(db, &jobs[spi_int(i, 1, 0) - 1], &facts);
	}
	return n;
}

/* After a failure one run at a time, so that a bad one is alone in the next. */
static void
settle(DbState *db, const char *airflow_schema, TimestampTz now)
{
	ParkJob    *jobs = palloc(SETTLE_BATCH * sizeof(ParkJob));
	ParkDb	   *mine = park_db(db);
	int			room;
	int			n;

	do
	{
		room = Max(mine->batch, 1);
		mine->batch = 1;
		n = settle_batch(db, airflow_schema, jobs, room);
		mine->batch = Min(room * 4, SETTLE_BATCH);
	} while (n == room && GetCurrentTimestamp() - now < SETTLE_TIME_US);
}

/* Mark the runs of DAGs that have another version. */
static void
check_versions(DbState *db, const char *airflow_schema, TimestampTz now)
{
	ParkJob    *jobs = palloc(guc_max_runs * sizeof(ParkJob));
	int			n = park_copy_dags(db, jobs, guc_max_runs);
	uint64		rows = n == 0 ? 0 : ask("park_stamps", airflow_schema, jobs, n);
	int64		took;

	for (uint64 i = 0; i < rows; i++)
		park_version(db, &jobs[spi_int(i, 1, 0) - 1], spi_int(i, 2, 0));
	took = GetCurrentTimestamp() - now;
	park_db(db)->versions_at = now + Max(VERSIONS_PERIOD_US, took * VERSIONS_SHARE);
}

static void
sweep(DbState *db, const char *airflow_schema, TimestampTz now)
{
	ParkJob    *jobs = palloc(guc_max_runs * sizeof(ParkJob));
	int			n = park_copy_runs(db, jobs, guc_max_runs);
	uint64		rows = n == 0 ? 0 : ask("park_gone", airflow_schema, jobs, n);

	for (uint64 i = 0; i < rows; i++)
		park_forget(db, &jobs[spi_int(i, 1, 0) - 1]);
	park_sweep_dags(db);
	spi_write(0, NULL, NULL, NULL,
			  "DELETE FROM airflow_bp.park_version WHERE read_at < now() - interval '1 day'");
	park_db(db)->sweep_at = now + SWEEP_PERIOD_US;
}

/* Marks went with a transaction that was prepared: see again when none is left. */
static void
look_for_prepared(DbState *db)
{
	if (!park_db(db)->blind)
		return;
	if (max_prepared_xacts == 0 ||
		spi_query("SELECT FROM pg_prepared_xacts WHERE database = current_database() LIMIT 1") == 0)
		park_sighted(db);
}

void
park_turn(DbState *db, const char *airflow_schema)
{
	TimestampTz now = GetCurrentTimestamp();

	settle(db, airflow_schema, now);
	look_for_prepared(db);
	if (now >= park_db(db)->versions_at)
		check_versions(db, airflow_schema, now);
	if (now >= park_db(db)->sweep_at)
		sweep(db, airflow_schema, now);
}

/* park_entries() */
Datum
airflow_bp_park_entries(PG_FUNCTION_ARGS)
{
	DbState    *db;
	ParkRun    *parked;
	int			n;

	show_begin(fcinfo);
	if ((db = shmem_db(false)) == NULL)
		return (Datum) 0;
	parked = MemoryContextAllocHuge(CurrentMemoryContext, (Size) guc_max_runs * sizeof(ParkRun));
	n = park_copy_parked(db, parked, guc_max_runs);
	for (int i = 0; i < n; i++)
	{
		Datum		values[] = {
			Int32GetDatum(parked[i].id),
			CStringGetTextDatum(park_reason_name(parked[i].state.reason)),
			TimestampTzGetDatum(parked[i].state.parked),
			TimestampTzGetDatum(parked[i].state.next_look)
		};
		bool		nulls[lengthof(values)] = {false};

		show_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}
