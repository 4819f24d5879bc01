/*
 * tick.c - one turn of the worker.
 *
 * It runs each step in a subtransaction of its own, so that one that fails is
 * noted and the others go on.  Turns of one database exclude each other by an
 * advisory lock; only they compile policy, add tenants and prune classes.
 */
#include "compat.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "deployment.h"
#include "guc.h"
#include "held.h"
#include "locks_sample.h"
#include "log.h"
#include "park.h"
#include "pending.h"
#include "policy.h"
#include "recount.h"
#include "spi.h"
#include "stuck.h"
#include "tick.h"

#ifdef USE_VALGRIND
#define STEP_TIMEOUT_MS (500 * 100)
#else
#define STEP_TIMEOUT_MS 500
#endif
#define RECOUNT_SHARE 100		/* a recount may take 1/100 of the time */
#define RECOUNT_SHARE_WANTED 10	/* and 1/10 when counters are known to be wrong */
#define TURN_PERIOD_US USECS_PER_SEC
#define ADVISORY_CLASS 0x616270 /* "abp" */
#define ADVISORY_TURN 1

typedef struct Turn
{
	DbState    *db;
	TimestampTz now;
	const char *airflow_schema; /* NULL: no Airflow here */
	bool		own_timeout;	/* set statement_timeout ourselves */
	bool		ends_soon;		/* the transaction ends with the turn */
} Turn;

typedef struct Step
{
	const char *name;
	void		(*run) (Turn *turn);	/* or */
	const char *sql;
	int			period;			/* seconds from its start to its next; 0: each turn */
	bool		unbounded;		/* may take longer than a step may */
	bool		needs_gate;		/* only while our triggers are there */
	bool		ends;			/* locks rows of Airflow: the transaction must end with the turn */
} Step;

/* Is there work that needs tables? */
bool
tick_due(DbState *db, TimestampTz now)
{
	return db->policy_wanted != db->policy_version || db->unresolved > 0 ||
		(db->enabled && (!db->ready || park_due(db))) || now - db->last_full >= TURN_PERIOD_US ||
		now < db->last_full;
}

/* The clock was set back: what waits for a time that it has shown would wait for it again. */
static void
turn_set_back(DbState *db, TimestampTz now)
{
	memset(db->step_at, 0, sizeof(db->step_at));
	db->last_recount = 0;
	db->ticks_written = Min(db->ticks_written, now);
	db->stuck.ended = Min(db->stuck.ended, now);
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->since = Min(db->since, now);
	db->counted_since = Min(db->counted_since, now);
	db->log_from = Min(db->log_from, now);
	held_set_back(db, now);
	LWLockRelease(shmem->lock);
	park_set_back(db);
}

/* What Airflow is here, and are we part of it? */
static void
step_inspect(Turn *turn)
{
	DbState    *db = turn->db;
	const Deployment *here = deployment_look();

	if (here->airflow_schema[0] != '\0')
		turn->airflow_schema = here->airflow_schema;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	if (db->may_enforce != here->head_known)
		db->policy_wanted++;	/* drains are in force, or not */
	db->may_enforce = here->head_known;
	if (db->enabled != here->gate_enabled)
	{
		held_clear(db);
		db->since = turn->now;
	}
	db->enabled = here->gate_enabled;
	LWLockRelease(shmem->lock);
}

static void
step_policy(Turn *turn)
{
	if (turn->db->policy_wanted != turn->db->policy_version)
		policy_compile(turn->db);
}

/* A prepared transaction that ended has changed tasks or policy behind our back. */
static void
step_prepared(Turn *turn)
{
	DbState    *db = turn->db;
	int64		mark;

	if (max_prepared_xacts == 0)
		return;
	spi_query("SELECT coalesce(sum(transaction::text::bigint), 0)::bigint "
			  "FROM pg_prepared_xacts WHERE database = current_database()");
	mark = spi_int(0, 1, 0);
	if (mark != db->prepared_mark || db->prepared)
	{
		db->recount_wanted = true;
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		db->policy_wanted++;
		LWLockRelease(shmem->lock);
	}
	db->prepared_mark = mark;
	db->prepared = false;
}

static void
step_recount(Turn *turn)
{
	DbState    *db = turn->db;
	int64		period = Max((int64) guc_recount_period * 1000, db->recount_us * RECOUNT_SHARE);
	TimestampTz start = GetCurrentTimestamp();
	RecountRow *found;

	if (db->recount_wanted)
		period = db->recount_us * RECOUNT_SHARE_WANTED;
	if (pending_any() || (db->ready && turn->now - db->last_recount < period))
		return;
	found = palloc(account_max_tenants() * sizeof(RecountRow));
	recount(db, turn->airflow_schema, found);
	db->last_recount = start;
	db->recount_us = GetCurrentTimestamp() - start;
}

static void
step_resolve(Turn *turn)
{
	if (turn->db->unresolved > 0)
		policy_resolve(turn->db);
}

static void
step_expire(Turn *turn)
{
	held_set_order(turn->db);
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	held_expire(turn->db, turn->now);
	account_prune(turn->db);
	LWLockRelease(shmem->lock);
}

/* What pools and DAGs can take. */
static void
step_rooms(Turn *turn)
{
	if (turn->db->ahead >= 0)
		held_set_rooms(turn->db, turn->airflow_schema);
}

static void
step_grant(Turn *turn)
{
	held_grant_all(turn->db);
}

static void
step_park(Turn *turn)
{
	park_turn(turn->db, turn->airflow_schema);
}

static void
step_log(Turn *turn)
{
	if (turn->airflow_schema != NULL)
		log_flush(turn->db, turn->airflow_schema);
}

static void
step_purge(Turn *turn)
{
	log_purge();
}

static void
step_stuck(Turn *turn)
{
	if (stuck_due(turn->db, turn->now))
		spi_query("SELECT airflow_bp.stuck_sweep()");
}

static void
step_locks(Turn *turn)
{
	locks_look_in_turn();
	if (locks_due(turn->db, turn->now))
		spi_query("SELECT airflow_bp.lock_turn()");
}

/* Those that lock rows of Airflow come last; slot_pool, whose rows stop every scheduler, last of all. */
static const Step steps[] = {
	{"inspect", .run = step_inspect},
	{"policy", .run = step_policy, .unbounded = true},
	{"prepared", .run = step_prepared, .needs_gate = true},
	{"recount", .run = step_recount, .unbounded = true, .needs_gate = true},
	{"resolve", .run = step_resolve, .unbounded = true, .needs_gate = true},
	{"expire", .run = step_expire, .needs_gate = true},
	{"rooms", .run = step_rooms, .needs_gate = true},
	{"grant", .run = step_grant, .needs_gate = true},
	{"park", .run = step_park, .needs_gate = true},
	{"drain", .sql = "SELECT airflow_bp.drain_turn()", .unbounded = true, .needs_gate = true},
	{"log", .run = step_log},
	{"purge", .run = step_purge, .period = 600},
	{"locks", .run = step_locks},
	{"lock_roll", .sql = "SELECT airflow_bp.lock_roll()", .period = 600},
	{"lock_rules", .sql = "SELECT airflow_bp.lock_rule_apply()"},
	{"stuck", .run = step_stuck, .needs_gate = true},
	{"letters", .sql = "SELECT airflow_bp.dlq_purge(make_interval(days => current_setting('airflow_bp.letter_retention')::int))", .period = 600},
	{"gauges", .sql = "SELECT airflow_bp.gauge_turn()", .period = 10},
	{"gauge_roll", .sql = "SELECT airflow_bp.gauge_roll()", .period = 600},
	{"retry", .sql = "SELECT airflow_bp.dlq_auto()", .period = 10, .needs_gate = true, .ends = true},
	{"rebalance", .sql = "SELECT airflow_bp.rebalance_apply()", .period = 15, .needs_gate = true, .ends = true},
	{"priority", .sql = "SELECT airflow_bp.priority_apply()", .period = 15, .needs_gate = true, .ends = true},
	{"pool", .sql = "SELECT airflow_bp.pool_apply()", .needs_gate = true, .ends = true},
};

StaticAssertDecl(lengthof(steps) <= MAX_STEPS, "DbState has a place for each step");

/* Is it the turn of this step? */
static bool
step_due(const Turn *turn, int step)
{
	const DbState *db = turn->db;

	if (steps[step].needs_gate && (!db->enabled || turn->airflow_schema == NULL))
		return false;
	if (steps[step].ends && !(db->ready && turn->ends_soon))
		return false;
	return turn->now - db->step_at[step] >= steps[step].period * USECS_PER_SEC;
}

/* Keep what went wrong for status(), and say it once. */
static void
note_error(Turn *turn, const Step *step, const ErrorData *error)
{
	char	   *note = psprintf("%s: %s", step->name, error->message);

	note[pg_mbcliplen(note, strlen(note), NOTE_BYTES - 1)] = '\0';
	if (strcmp(note, turn->db->note) != 0)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("airflow_bp: step %s failed: %s", step->name, error->message)));
	strlcpy(turn->db->note, note, NOTE_BYTES);
}

/* Run one step; false when it failed. */
static bool
step_run(Turn *turn, const Step *step)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	if (turn->own_timeout && !step->unbounded)
		enable_timeout_after(STATEMENT_TIMEOUT, STEP_TIMEOUT_MS);
	PG_TRY();
	{
		if (step->sql != NULL)
			spi_query("%s", step->sql);
		else
			step->run(turn);
		disable_timeout(STATEMENT_TIMEOUT, false);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		disable_timeout(STATEMENT_TIMEOUT, false);
		RollbackAndReleaseCurrentSubTransaction();
		note_error(turn, step, error);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/* An advisory lock that SQL cannot take: there the last number is 1 or 2. */
static LOCKTAG
turn_tag(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, ADVISORY_CLASS, ADVISORY_TURN, 3);
	return tag;
}

static bool
turn_lock(void)
{
	LOCKTAG		tag = turn_tag();

	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* Wait for the present turn to end, and keep others out until tick_include(). */
void
tick_exclude(void)
{
	LOCKTAG		tag = turn_tag();

	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* The transaction may stay open for long: what a turn keeps is not in tables. */
void
tick_include(void)
{
	LOCKTAG		tag = turn_tag();

	LockRelease(&tag, ExclusiveLock, false);
}

static void
turn_steps(Turn *turn)
{
	bool		clean = true;

	for (int i = 0; i < lengthof(steps); i++)
	{
		if (!step_due(turn, i))
			continue;
		turn->db->step_at[i] = turn->now;
		clean &= step_run(turn, &steps[i]);
	}
	if (clean)
		turn->db->note[0] = '\0';
}

/*
 * A whole turn, in the open transaction; false when another is at it.  The
 * caller sees to it that search_path and lock_timeout are ours.
 */
bool
tick_whole(DbState *db, bool own_timeout)
{
	Turn		turn = {
		.db = db,
		.now = GetCurrentTimestamp(),
		.own_timeout = own_timeout,
		.ends_soon = !IsTransactionBlock()
	};

	if (!turn_lock())
		return false;
	if (turn.now < db->last_full)
		turn_set_back(db, turn.now);
	SPI_connect();
	turn_steps(&turn);
	SPI_finish();
	tick_include();
	db->last_full = turn.now;
	db->last_tick = GetCurrentTimestamp();
	db->tick_us = db->last_tick - turn.now;
	return true;
}
