/*
 * worker.c - the launcher, and a worker for each database of airflow_bp.database.
 *
 * The launcher is connected to no database, so none is kept from being dropped
 * by it.  It starts a worker for each listed database that exists and has none,
 * and again when one has ended.  DROP DATABASE stops the worker of its database
 * first; if the database is still there after a while, the launcher goes on.
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "drain.h"
#include "held.h"
#include "guc.h"
#include "shmem.h"
#include "tick.h"
#include "version.h"
#include "worker.h"

#define LAUNCH_PERIOD_MS 2000
#define DROP_GRACE_US (10 * USECS_PER_SEC)
#define WORKER_PERIOD_MS 1000

PG_FUNCTION_INFO_V1(airflow_bp_tick);

static object_access_hook_type prev_object_access_hook = NULL;

/* A worker that the launcher has started. */
typedef struct Launched
{
	Oid			db;				/* InvalidOid: free */
	BackgroundWorkerHandle *handle;
} Launched;

static Launched launched[MAX_DATABASES];

/* A database is about to be dropped: its worker must not be in the way. */
static void
stop_worker_of(Oid dboid)
{
	DbState    *db = shmem == NULL ? NULL : shmem_find_db(dboid);
	pid_t		pid = db == NULL ? 0 : db->worker_pid;

	if (pid == 0)
		return;
	db->last_full = GetCurrentTimestamp();
	db->dropping = true;
	kill(pid, SIGTERM);
}

static void
on_object_access(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class, object, sub, arg);
	if (access == OAT_DROP && class == DatabaseRelationId)
		stop_worker_of(object);
}

static bool
is_running(Launched *entry)
{
	pid_t		pid;

	return entry->handle != NULL &&
		GetBackgroundWorkerPid(entry->handle, &pid) != BGWH_STOPPED;
}

static Launched *
launch_place(Oid db)
{
	Launched   *place = NULL;

	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (launched[i].db == db)
			return &launched[i];
		if (place == NULL && !is_running(&launched[i]))
			place = &launched[i];
	}
	if (place != NULL)
		place->db = db;
	return place;
}

static bool
is_dropping(Oid dboid)
{
	DbState    *db = shmem_find_db(dboid);

	if (db == NULL || !db->dropping)
		return false;
	if (GetCurrentTimestamp() - db->last_full > DROP_GRACE_US)
		db->dropping = false;
	return db->dropping;
}

/* The launcher may have ended, and its workers not. */
static bool
has_worker(Oid dboid)
{
	DbState    *db = shmem_find_db(dboid);

	return db != NULL && db->worker_pid != 0;
}

static void
name_process(BackgroundWorker *worker, const char *what)
{
	snprintf(worker->bgw_name, BGW_MAXLEN, "airflow_bp %s", what);
	snprintf(worker->bgw_type, BGW_MAXLEN, "airflow_bp %s", what);
	strlcpy(worker->bgw_library_name, "airflow_bp", sizeof(worker->bgw_library_name));
	snprintf(worker->bgw_function_name, BGW_MAXLEN, "airflow_bp_%s", what);
}

static void
launch(Oid db)
{
	static bool said = false;
	bool		registered;
	Launched   *place = launch_place(db);
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_main_arg = ObjectIdGetDatum(db),
		.bgw_notify_pid = MyProcPid
	};

	if (place == NULL || is_running(place) || is_dropping(db) || has_worker(db))
		return;
	name_process(&worker, "worker");
	if (place->handle != NULL)
		pfree(place->handle);
	place->handle = NULL;
	registered = RegisterDynamicBackgroundWorker(&worker, &place->handle);
	if (!registered && !said)
		ereport(LOG,
				(errmsg("airflow_bp: no background worker slot is free"),
				 errhint("Raise max_worker_processes.")));
	said = !registered;
}

/*
 * OID of a database by a scan without index: after a start, a process that is
 * connected to no database may not have the means to open one.
 */
static Oid
database_oid(const char *name)
{
	Oid			oid = InvalidOid;
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_database_datname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(name));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		oid = ((Form_pg_database) GETSTRUCT(tuple))->oid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

static void
launch_all(MemoryContext keep)
{
	List	   *names;
	ListCell   *cell;

	StartTransactionCommand();
	shmem_forget_dropped();
	if (!SplitIdentifierString(pstrdup(guc_database), ',', &names))
		ereport(LOG,
				(errmsg("airflow_bp: airflow_bp.database is not a list of names")));
	else
	{
		foreach(cell, names)
		{
			Oid			db = database_oid(lfirst(cell));
			MemoryContext context = MemoryContextSwitchTo(keep);

			if (OidIsValid(db))
				launch(db);
			MemoryContextSwitchTo(context);
		}
	}
	CommitTransactionCommand();
}

static void
wait_on_latch(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static void
worker_signals(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
}

void
airflow_bp_launcher(Datum arg)
{
	worker_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	for (;;)
	{
		launch_all(TopMemoryContext);
		wait_on_latch(LAUNCH_PERIOD_MS);
	}
}

static void
worker_exit(int code, Datum arg)
{
	DbState    *db = (DbState *) DatumGetPointer(arg);

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	if (db->worker_pid == MyProcPid)
	{
		db->worker_pid = 0;
		db->worker_latch = NULL;
	}
	LWLockRelease(shmem->lock);
}

static void
worker_enter(DbState *db)
{
	bool		taken;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	taken = db->worker_pid != 0;
	if (!taken)
	{
		db->worker_pid = MyProcPid;
		db->worker_latch = MyLatch;
		db->dropping = false;
	}
	LWLockRelease(shmem->lock);
	if (taken)
		proc_exit(0);			/* by the worker of a launcher that has ended */
	before_shmem_exit(worker_exit, PointerGetDatum(db));
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "50ms", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", "airflow_bp worker", PGC_USERSET, PGC_S_OVERRIDE);
}

/* The extension is gone, or of another version: nothing is held. */
static void
worker_idle(DbState *db)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	held_clear(db);
	db->enabled = false;
	db->mode = MODE_OFF;
	drain_forget(db);
	db->policy_wanted = db->policy_version + 1;
	LWLockRelease(shmem->lock);
	db->last_full = GetCurrentTimestamp();
}

/* Is there an extension, and is it ours?  If it is not, say so once. */
static bool
worker_fits(void)
{
	static bool said = false;
	char	   *objects = version_of_objects();
	bool		fits = objects != NULL && strcmp(objects, version_of_library) == 0;

	if (objects != NULL && !fits && !said)
		ereport(LOG,
				(errmsg("airflow_bp: the library is of version %s, the SQL objects are of %s: the worker stands still",
						version_of_library, objects)));
	said = objects != NULL && !fits;
	return fits;
}

static void
worker_turn(DbState *db)
{
	pgstat_report_activity(STATE_RUNNING, "turn");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (worker_fits())
		tick_whole(db, true);
	else
		worker_idle(db);
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Milliseconds to the next whole turn, without drift; not long when the clock was set back. */
static long
worker_pause(TimestampTz *next)
{
	TimestampTz now = GetCurrentTimestamp();

	if (*next - now > WORKER_PERIOD_MS * 1000L)
		*next = now;
	while (*next <= now)
		*next += WORKER_PERIOD_MS * 1000L;
	return (long) ((*next - now) / 1000 + 1);
}

void
airflow_bp_worker(Datum arg)
{
	TimestampTz next = GetCurrentTimestamp();
	DbState    *db;

	worker_signals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	db = shmem_db(true);
	if (db == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("airflow_bp works in at most %d databases", MAX_DATABASES)));
	worker_enter(db);
	for (;;)
	{
		if (tick_due(db, GetCurrentTimestamp()))
			worker_turn(db);
		held_grant_all(db);
		wait_on_latch(worker_pause(&next));
	}
}

/* airflow_bp.tick(): a whole turn by hand; false when another is at it. */
Datum
airflow_bp_tick(PG_FUNCTION_ARGS)
{
	DbState    *db;

	if (shmem == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_BP_UNAVAILABLE),
				 errmsg("airflow_bp is not preloaded"),
				 errhint("Add airflow_bp to shared_preload_libraries and restart the server.")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_BP_UNAVAILABLE),
				 errmsg("a standby takes no turns"),
				 errhint("Call airflow_bp.tick() on the primary.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a turn has to see what is committed meanwhile"),
				 errhint("Call airflow_bp.tick() at isolation level READ COMMITTED.")));
	db = shmem_db(true);
	if (db == NULL)
	{
		shmem_forget_dropped();
		db = shmem_db(true);
	}
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("airflow_bp works in at most %d databases", MAX_DATABASES)));
	/* pg_cron may run its jobs in the midst of pg_upgrade */
	if (IsBinaryUpgrade)
		PG_RETURN_BOOL(false);
	if (version_of_others() != NULL)
	{
		worker_idle(db);
		version_check();
	}
	PG_RETURN_BOOL(tick_whole(db, false));
}

static void
register_process(const char *what)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 5
	};

	name_process(&worker, what);
	RegisterBackgroundWorker(&worker);
}

void
worker_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = on_object_access;
	if (!IsBinaryUpgrade && guc_database[0] != '\0')
	{
		register_process("launcher");
		register_process("sampler");
	}
}
