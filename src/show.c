/*
 * show.c - shared memory as rows, for the functions of the *.api.sql files.
 *
 * Rows are copied under shmem->lock into memory that was allocated before, and
 * turned into tuples after it is released.
 */
#include "compat.h"

#include <math.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "held.h"
#include "guc.h"
#include "log.h"
#include "park.h"
#include "pending.h"
#include "recount.h"
#include "show.h"
#include "spi.h"
#include "tick.h"
#include "version.h"

PG_FUNCTION_INFO_V1(airflow_bp_held_entries);
PG_FUNCTION_INFO_V1(airflow_bp_tenant_usage);
PG_FUNCTION_INFO_V1(airflow_bp_memory_state);
PG_FUNCTION_INFO_V1(airflow_bp_preloaded);
PG_FUNCTION_INFO_V1(airflow_bp_recount);

Datum
airflow_bp_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(shmem != NULL);
}

/* Rows follow, of the columns that the SQL objects of our version have. */
void
show_begin(FunctionCallInfo fcinfo)
{
	version_check();
	InitMaterializedSRF(fcinfo, 0);
}

/* The same for a function that returns one row. */
TupleDesc
show_one(FunctionCallInfo fcinfo)
{
	TupleDesc	desc;

	version_check();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(desc);
}

void
show_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
show_text(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

Datum
show_interval(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return IntervalPGetDatum(interval);
}

static Datum
name_datum(const NameEntry *name, bool *isnull)
{
	return show_text(name->len < 0 ? NULL : name->name, isnull);
}

/* Why it waits now, which may be another reason than at its last ask. */
static AdmitReason
reason_now(const HeldEntry *entry)
{
	AdmitReason now;

	if (entry->state == HELD_GRANTED)
		return REASON_NONE;
	if (entry->state != HELD_WAITING || entry->reason == REASON_STARTING)
		return entry->reason;
	now = admit_verdict(&account_tenant(entry->tenant)->node, entry->slots, true, false);
	if (now == REASON_NONE || (now == REASON_ORDER && entry->reason >= REASON_POOL))
		return entry->reason;
	return now;
}

static void
put_held(FunctionCallInfo fcinfo, DbState *db, const HeldEntry *entry)
{
	const TenantState *tenant = account_tenant(entry->tenant);
	Datum		values[11] = {0};
	bool		nulls[11] = {0};

	values[0] = UUIDPGetDatum(&entry->key.id);
	values[1] = name_datum(entry->class->names[NAME_DAG], &nulls[1]);
	values[2] = show_text(tenant ? tenant->name : NULL, &nulls[2]);
	values[3] = Int32GetDatum(entry->slots);
	values[4] = Int32GetDatum(entry->priority);
	values[5] = TimestampTzGetDatum(entry->task.asked);
	values[6] = TimestampTzGetDatum(entry->last_asked);
	values[7] = Int64GetDatum(entry->asks);
	values[8] = show_text(admit_reason_name(reason_now(entry)), &nulls[8]);
	values[9] = BoolGetDatum(entry->state == HELD_GRANTED);
	values[10] = BoolGetDatum(park_run_parked(db, entry->run));
	show_row(fcinfo, values, nulls);
}

Datum
airflow_bp_held_entries(PG_FUNCTION_ARGS)
{
	DbState    *db;
	HeldEntry  *entries;
	int			room;
	int			n;

	show_begin(fcinfo);
	if ((db = shmem_db(false)) == NULL || db->held == 0)
		return (Datum) 0;
	room = db->held + 1024;
	entries = MemoryContextAllocHuge(CurrentMemoryContext, (Size) room * sizeof(HeldEntry));
	n = held_copy(db, entries, room);
	for (int i = 0; i < n; i++)
		put_held(fcinfo, db, &entries[i]);
	held_copy_done(entries, n);
	return (Datum) 0;
}

typedef struct TenantShown
{
	TenantState state;
	int64		available;
	double		share;
	int64		held;			/* without a grant */
	TimestampTz oldest;			/* 0: nobody is held */
} TenantShown;

/* What needs the tree; the caller holds shmem->lock. */
static TenantShown
show_tenant(const TenantState *tenant)
{
	return (TenantShown) {
		.state = *tenant,
		.available = admit_available(&tenant->node),
		.share = ceil(1000 * admit_share(&tenant->node))
	};
}

static int
copy_tenants(DbState *db, TenantShown *rows)
{
	TimestampTz *oldest = palloc0(account_max_tenants() * sizeof(TimestampTz));
	int64	   *counts = palloc0(account_max_tenants() * sizeof(int64));
	int			n = 0;

	LWLockAcquire(shmem->lock, LW_SHARED);
	held_sum(db, counts, oldest);
	for (int i = 0; db->ready && i < account_max_tenants(); i++)
	{
		const TenantState *tenant = account_tenant(i);

		if (tenant->db != db->db || !tenant->listed || tenant->cohort)
			continue;
		rows[n] = show_tenant(tenant);
		rows[n].held = counts[i];
		rows[n++].oldest = oldest[i];
	}
	LWLockRelease(shmem->lock);
	return n;
}

static void
put_tenant(FunctionCallInfo fcinfo, const TenantShown *row)
{
	const AdmitNode *node = &row->state.node;
	Datum		values[10] = {0};
	bool		nulls[10] = {0};

	values[0] = CStringGetTextDatum(row->state.name);
	nulls[1] = nulls[3] = node->quota == NO_LIMIT;
	values[1] = Int64GetDatum(node->nominal);
	values[2] = Int64GetDatum(node->usage[ADMIT_USED]);
	values[3] = Int64GetDatum(row->available);
	values[4] = Int64GetDatum(admit_borrowed(node));
	values[5] = Float8GetDatum(row->share);
	values[6] = Int64GetDatum(row->held);
	nulls[7] = row->oldest == 0;
	if (!nulls[7])
		values[7] = show_interval(Max(GetCurrentTimestamp() - row->oldest, 0));
	values[8] = Int64GetDatum(row->state.admitted_total);
	values[9] = Int64GetDatum(row->state.held_total);
	show_row(fcinfo, values, nulls);
}

Datum
airflow_bp_tenant_usage(PG_FUNCTION_ARGS)
{
	DbState    *db;
	TenantShown *rows;
	int			n;

	show_begin(fcinfo);
	if ((db = shmem_db(false)) == NULL)
		return (Datum) 0;
	rows = MemoryContextAllocHuge(CurrentMemoryContext,
								  (Size) account_max_tenants() * sizeof(TenantShown));
	n = copy_tenants(db, rows);
	for (int i = 0; i < n; i++)
		put_tenant(fcinfo, &rows[i]);
	return (Datum) 0;
}

/* What the gate or the policy lacks, or else the last error of the worker. */
static char *
note_of(DbState *db)
{
	int			missing = db->missing;

	if (missing > 0)
		return psprintf("column %s of task_instance is missing or of another type: nothing is counted or held",
						catalog_column_name(missing - 1));
	if (db->cohorts_cut > 0)
		return psprintf("%d cohorts are in a cycle or nested deeper than %d and stand alone: mend them by airflow_bp.set_cohort()",
						db->cohorts_cut, ADMIT_MAX_DEPTH - 1);
	if (db->tenants_lost > 0)
		return psprintf("%d tenants or cohorts have no place and admit all: raise airflow_bp.max_tenants", db->tenants_lost);
	return db->note[0] ? pstrdup(db->note) : NULL;
}

Datum
airflow_bp_memory_state(PG_FUNCTION_ARGS)
{
	Datum		values[13] = {0};
	bool		nulls[13] = {0};
	DbState    *db;

	/* no row of another version: status() has to say so */
	InitMaterializedSRF(fcinfo, 0);
	if (version_of_others() != NULL || (db = shmem_db(false)) == NULL)
		return (Datum) 0;
	values[0] = show_text(admit_mode_name(db->mode), &nulls[0]);
	values[1] = BoolGetDatum(db->may_enforce);
	values[2] = BoolGetDatum(db->ready);
	nulls[3] = db->worker_pid == 0;
	values[3] = Int32GetDatum(db->worker_pid);
	nulls[4] = nulls[5] = db->last_tick == 0;
	values[4] = TimestampTzGetDatum(db->last_tick);
	values[5] = Float8GetDatum(db->tick_us / 1000.0);
	nulls[6] = db->drift_at == 0;
	values[6] = Int64GetDatum(db->drift_slots);
	values[7] = Int64GetDatum(db->held);
	values[8] = Int64GetDatum(park_count(db));
	values[9] = Int64GetDatum(pg_atomic_read_u64(&db->fail_open));
	values[10] = Int64GetDatum(db->held_lost);
	values[11] = Int64GetDatum(log_dropped());
	values[12] = show_text(note_of(db), &nulls[12]);
	show_row(fcinfo, values, nulls);
	return (Datum) 0;
}

static void
put_recount(FunctionCallInfo fcinfo, const RecountRow *row)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {0};

	values[0] = CStringGetTextDatum(account_tenant(row->tenant)->name);
	values[1] = Int64GetDatum(row->counter);
	values[2] = Int64GetDatum(row->counted);
	values[3] = Int64GetDatum(row->counted - row->counter);
	show_row(fcinfo, values, nulls);
}

/* Schema of Airflow's tables; raises when there is none. */
static char *
airflow_schema(void)
{
	spi_query("SELECT airflow_bp.airflow_schema_name()");
	return spi_text(0, 1);
}

Datum
airflow_bp_recount(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);
	RecountRow *found;
	int			n;

	show_begin(fcinfo);
	if (db == NULL || !db->enabled || RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_BP_UNAVAILABLE),
				 errmsg("there are no counters here"),
				 errhint("Counters need the primary, airflow_bp in shared_preload_libraries, airflow_bp.enable() and a turn of the worker.")));
	if (pending_any())
		ereport(ERROR,
				(errcode(ERRCODE_BP_CONFLICT),
				 errmsg("cannot recount in a transaction that has changed tasks"),
				 errhint("Call airflow_bp.recount() in a transaction of its own.")));
	found = palloc(account_max_tenants() * sizeof(RecountRow));
	tick_exclude();
	SPI_connect();
	n = recount(db, airflow_schema(), found);
	SPI_finish();
	tick_include();
	for (int i = 0; i < n; i++)
		put_recount(fcinfo, &found[i]);
	return (Datum) 0;
}
