/*
 * park.c - runs at which a look of the scheduler is useless.
 *
 * Each loop the scheduler looks at a few running runs, also at those that can
 * only wait.  Shared memory keeps, for each run that was looked at, whether
 * anything has happened since, and when to look again anyway; look_useful()
 * tells the examine query (examine.c).  Whatever is not known is useful.
 *
 * Marks are numbered; ParkRoot.marks is the last number.  A run is marked when
 * its last mark is above what its last look has seen.  Why no mark is lost:
 *	 - A mark is made when its change is committed and visible to all
 *	   (XACT_EVENT_COMMIT), never before.
 *	 - A look has seen the marks up to the number that was the last when the
 *	   transaction before it ended in its backend.  Whatever snapshot the look
 *	   reads with was taken later, so it shows what those marks are for.  A
 *	   mark that comes while the scheduler reads has a higher number and stays.
 *	   (Airflow 3.0 and 3.1 read the tasks with the examine query itself,
 *	   before last_scheduling_decision is written.)
 *	 - Marks on a run without an entry are kept by hash in ParkRoot.strangers;
 *	   a new entry starts with them.
 *	 - A look that is rolled back, also to a savepoint, marks its run.
 *	 - What the look itself changes marks at its commit like any other change.
 *	 - The worker settles a run after the commit of the look, from a later
 *	   snapshot.  It parks only if no mark and no other look came since.
 *	 - A date that lies between the look and the worker's query is after the
 *	   look's last_scheduling_decision, so the query finds it.
 *	 - The version of a DAG is read at two settlings, before and after the look
 *	   between them: the look saw the version that it parks with.
 *	 - An array that overflows marks all runs.  A prepared transaction blinds
 *	   us until no transaction is prepared; then all runs are marked.
 *	 - Only a look by the examine query counts.  Any other change of
 *	   last_scheduling_decision is a mark: update_state() of paused DAGs sets it
 *	   and starts nothing.
 *	 - An entry made under one trigger is void under another, so what happened
 *	   between disable() and enable() does no harm.
 *
 * Locks: shmem->park_lock, for all of it; shmem->lock may be held before.
 */
#include "compat.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "examine.h"
#include "gate.h"
#include "guc.h"
#include "park.h"

#define MAX_NOTES 1024
#define MAX_STRANGERS 4096		/* a power of two */
#define KEY_DAG 16

typedef struct ParkRoot
{
	pg_atomic_uint64 marks;
	uint64		strangers[MAX_STRANGERS];
	ParkDb		dbs[MAX_DATABASES];
} ParkRoot;

/* What the open transaction has to say of a run when it ends. */
typedef struct Note
{
	Key			run;
	Key			dag;
	bool		mark;
	bool		look;
	bool		gone;			/* it does not run any more */
	int32		id;				/* of one that has started */
	TimestampTz started;		/* 0: it has not */
} Note;

/* dag_run as this backend saw it last; relid is invalid when stale. */
static struct
{
	Oid			relid;
	bool		usable;
	AttrNumber	id;
	AttrNumber	dag_id;
	AttrNumber	run_id;
	AttrNumber	state;
	AttrNumber	decided;
	AttrNumber	started;		/* may be absent */
	AttrNumber	quiet[2];		/* columns that tell nothing */
}			columns;

static ParkRoot *root;
static HTAB *runs;
static HTAB *dags;
static Note notes[MAX_NOTES];
static int	nnotes;
static bool notes_lost;
static bool examining;			/* the open transaction examines runs */
static uint64 seen_marks;		/* the last mark when the last transaction ended */

PG_FUNCTION_INFO_V1(airflow_bp_look_useful);
PG_FUNCTION_INFO_V1(airflow_bp_run_changed);

static int
max_dags(void)
{
	return Min(guc_max_dags, guc_max_runs);
}

Size
park_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(ParkRoot));

	size = add_size(size, hash_estimate_size(guc_max_runs, sizeof(ParkRun)));
	return add_size(size, hash_estimate_size(max_dags(), sizeof(ParkDag)));
}

void
park_shmem_startup(void)
{
	bool		found;

	root = ShmemInitStruct("airflow_bp park", sizeof(ParkRoot), &found);
	if (!found)
	{
		memset(root, 0, sizeof(ParkRoot));
		pg_atomic_init_u64(&root->marks, 1);
		for (int i = 0; i < MAX_DATABASES; i++)
			dlist_init(&root->dbs[i].looked);
	}
	runs = shmem_table("airflow_bp runs", guc_max_runs, sizeof(ParkRun));
	dags = shmem_table("airflow_bp run DAGs", max_dags(), sizeof(ParkDag));
}

static int
db_index(DbState *db)
{
	return db - shmem->dbs;
}

ParkDb *
park_db(DbState *db)
{
	return &root->dbs[db_index(db)];
}

static ParkRun *
run_find(Key key)
{
	return hash_search(runs, &key, HASH_FIND, NULL);
}

static ParkDag *
dag_find(Key key)
{
	return hash_search(dags, &key, HASH_FIND, NULL);
}

static uint64
next_mark(void)
{
	return pg_atomic_add_fetch_u64(&root->marks, 1);
}

static uint64 *
stranger(Key run)
{
	return &root->strangers[run.low & (MAX_STRANGERS - 1)];
}

static void
unlist(ParkDb *db, ParkRun *run)
{
	if (!run->listed)
		return;
	dlist_delete(&run->place);
	db->nlooked--;
	run->listed = false;
}

static void
list(ParkDb *db, ParkRun *run)
{
	unlist(db, run);
	dlist_push_tail(&db->looked, &run->place);
	db->nlooked++;
	run->listed = true;
}

static bool
run_marked(const ParkDb *db, const ParkRun *run)
{
	return park_state_marked(&run->state, &run->dag->state, db->all);
}

static bool
run_useful(const ParkDb *db, const ParkRun *run, TimestampTz now)
{
	return db->blind || park_state_useful(&run->state, &run->dag->state, db->all, now);
}

static void
run_mark(ParkRun *run, Key key, uint64 mark)
{
	if (run != NULL)
		run->state.marked = mark;
	else
		*stranger(key) = mark;
}

static void
run_remove(ParkRun *run)
{
	unlist(&root->dbs[run->dag->db], run);
	run->dag->runs--;
	hash_search(runs, &run->key, HASH_REMOVE, NULL);
}

static ParkDag *
dag_enter(DbState *db, Key key)
{
	bool		found;
	ParkDag    *dag = shmem_enter(dags, max_dags(), &key, &found);

	if (dag != NULL && !found)
	{
		memset((char *) dag + sizeof(Key), 0, sizeof(ParkDag) - sizeof(Key));
		dag->db = db_index(db);
		dag->state.ended = pg_atomic_read_u64(&root->marks);
	}
	return dag;
}

/* Entry of a run, new if need be; NULL when there is no room. */
static ParkRun *
run_enter(DbState *db, Key key, Key dag_key)
{
	bool		found;
	ParkDag    *dag = dag_enter(db, dag_key);
	ParkRun    *run = dag == NULL ? NULL : shmem_enter(runs, guc_max_runs, &key, &found);

	if (run != NULL && !found)
	{
		memset((char *) run + sizeof(Key), 0, sizeof(ParkRun) - sizeof(Key));
		run->dag = dag;
		run->state.marked = *stranger(key);
		dag->runs++;
	}
	return run;
}

static Key
dag_key(Str dag_id)
{
	return key_of(KEY_DAG, &dag_id, 1);
}

/* A change could not be told: mark all runs when it is committed. */
void
park_lost(void)
{
	notes_lost = true;
}

/* Note of a run in the open transaction; NULL when there is no room. */
static Note *
note(Str dag_id, Str run_id)
{
	Key			run = gate_run_key(dag_id, run_id);

	for (int i = nnotes - 1; i >= Max(nnotes - 32, 0); i--)
	{
		if (notes[i].run.low == run.low && notes[i].run.high == run.high)
			return &notes[i];
	}
	if (nnotes == MAX_NOTES)
	{
		park_lost();
		return NULL;
	}
	notes[nnotes] = (Note) {.run = run, .dag = dag_key(dag_id)};
	return &notes[nnotes++];
}

/* Can another look find something to do because of this change of a task? */
static bool
task_matters(const TaskRow *from, const TaskRow *to)
{
	if (from == NULL || to == NULL)
		return true;
	if (from->state == TASK_DEFERRED || from->state == TASK_AWAITING_INPUT)
		return true;			/* it kept a deadlock from being seen */
	return to->state == TASK_FINISHED || task_state_may_ask(to->state);
}

void
park_task_changed(DbState *db, const TaskRow *from, const TaskRow *to)
{
	const TaskRow *row = to ? to : from;
	Note	   *mine;

	if (root == NULL || !task_matters(from, to))
		return;
	mine = note(row->dag_id, row->run_id);
	if (mine != NULL)
		mine->mark = true;
}

void
park_run_useful(DbState *db, Key key)
{
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	run_mark(run_find(key), key, next_mark());
	LWLockRelease(shmem->park_lock);
}

bool
park_run_parked(DbState *db, Key key)
{
	TimestampTz now = GetCurrentTimestamp();
	ParkRun    *run;
	bool		parked;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	run = run_find(key);
	parked = run != NULL && !run_useful(park_db(db), run, now);
	LWLockRelease(shmem->park_lock);
	return parked;
}

/* Was the run parked by its last look, and is it due for no longer than grace? */
bool
park_run_away(DbState *db, Key key, int64 grace)
{
	TimestampTz now = GetCurrentTimestamp();
	ParkRun    *run;
	bool		away;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	run = run_find(key);
	away = run != NULL && run->state.parked != 0 && now < run->state.next_look + grace;
	LWLockRelease(shmem->park_lock);
	return away;
}

/* A look begins: the scheduler has written last_scheduling_decision. */
static void
look_begin(DbState *db, Note *mine, int32 id, Oid trigger, TimestampTz decided)
{
	TimestampTz now = GetCurrentTimestamp();
	ParkRun    *run;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	run = run_enter(db, mine->run, mine->dag);
	if (run != NULL)
	{
		run->id = id;
		run->trigger = trigger;
		run->dag->run_id = id;
		unlist(park_db(db), run);
		park_state_look(&run->state, seen_marks, decided, now);
	}
	LWLockRelease(shmem->park_lock);
	mine->look = run != NULL;
}

/* Keep when a run started.  The caller holds shmem->park_lock. */
static void
run_starts(DbState *db, Key key, Key dag_key, int32 id, TimestampTz started)
{
	ParkRun    *run = run_enter(db, key, dag_key);

	if (run != NULL)
	{
		run->id = run->dag->run_id = id;
		run->started = started;
	}
	else if (db->draining)
		pg_atomic_fetch_add_u64(&db->fail_open, 1);
}

/* A run starts: known before anybody can ask for its tasks, and once more at commit. */
static void
start_begin(DbState *db, Note *mine, int32 id, TimestampTz started)
{
	mine->id = id;
	mine->started = started != 0 ? started : GetCurrentTimestamp();
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	run_starts(db, mine->run, mine->dag, id, mine->started);
	LWLockRelease(shmem->park_lock);
}

/* A run that was found running. */
void
park_note_start(DbState *db, Str dag_id, Str run_id, int32 id, TimestampTz started)
{
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	run_starts(db, gate_run_key(dag_id, run_id), dag_key(dag_id), id, started);
	LWLockRelease(shmem->park_lock);
}

/* 0: before any drain that is on, as far as can be known. */
TimestampTz
park_run_started(Key key)
{
	ParkRun    *run;
	TimestampTz started;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	run = run_find(key);
	started = run ? run->started : 0;
	LWLockRelease(shmem->park_lock);
	return started;
}

static void
look_end(ParkDb *db, ParkRun *run)
{
	run->state.open = false;
	if (!run_marked(db, run))
		list(db, run);
}

static void
note_apply(DbState *state, const Note *mine, uint64 mark)
{
	ParkDb	   *db = park_db(state);
	ParkRun    *run = run_find(mine->run);
	ParkDag    *dag;

	if (mine->started != 0 && run == NULL)
	{
		run_starts(state, mine->run, mine->dag, mine->id, mine->started);
		run = run_find(mine->run);
	}
	dag = run ? run->dag : dag_find(mine->dag);
	if (mine->mark)
		run_mark(run, mine->run, mark);
	if (mine->mark && dag != NULL)
		dag->state.ended = mark;
	if (mine->look && run != NULL)
		look_end(db, run);
	if (mine->gone && run != NULL)
		run_remove(run);
}

static void
park_commit(DbState *db)
{
	ParkDb	   *mine = park_db(db);
	int			before;
	bool		wake;
	uint64		mark;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	before = mine->nlooked;
	mark = next_mark();
	for (int i = 0; i < nnotes; i++)
		note_apply(db, &notes[i], mark);
	if (notes_lost)
		mine->all = mark;
	wake = mine->nlooked > before;
	LWLockRelease(shmem->park_lock);
	if (wake)
		shmem_wake_worker(db);
}

/* Looks of this transaction did not happen, wholly or in part. */
static void
park_abort(void)
{
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	for (int i = 0; i < nnotes; i++)
	{
		ParkRun    *run = notes[i].look ? run_find(notes[i].run) : NULL;

		if (run != NULL)
			park_state_look_failed(&run->state, next_mark());
	}
	LWLockRelease(shmem->park_lock);
}

/* Somebody else will commit this: we shall not hear of it. */
static void
park_prepare(DbState *db)
{
	park_abort();
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	park_db(db)->blind = true;
	LWLockRelease(shmem->park_lock);
}

static void
park_xact(XactEvent event, void *arg)
{
	DbState    *db;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if ((nnotes > 0 || notes_lost) && (db = shmem_db(false)) != NULL)
	{
		if (event == XACT_EVENT_COMMIT)
			park_commit(db);
		else if (event == XACT_EVENT_ABORT)
			park_abort();
		else
			park_prepare(db);
	}
	nnotes = 0;
	notes_lost = false;
	examining = false;
	if (root != NULL)
		seen_marks = pg_atomic_read_u64(&root->marks);
	pg_memory_barrier();
}

static void
park_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && nnotes > 0)
		park_abort();
}

static void
columns_forget(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == columns.relid)
		columns.relid = InvalidOid;
}

void
park_init(void)
{
	RegisterXactCallback(park_xact, NULL);
	RegisterSubXactCallback(park_subxact, NULL);
	CacheRegisterRelcacheCallback(columns_forget, (Datum) 0);
	examine_init();
}

/* Are all columns of dag_run there? */
static bool
columns_known(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (columns.relid == RelationGetRelid(rel))
		return columns.usable;
	columns.id = catalog_column(desc, "id", INT4OID);
	columns.dag_id = catalog_column(desc, "dag_id", VARCHAROID);
	columns.run_id = catalog_column(desc, "run_id", VARCHAROID);
	columns.state = catalog_column(desc, "state", VARCHAROID);
	columns.decided = catalog_column(desc, "last_scheduling_decision", TIMESTAMPTZOID);
	columns.started = catalog_column(desc, "start_date", TIMESTAMPTZOID);
	columns.quiet[0] = catalog_column(desc, "updated_at", TIMESTAMPTZOID);
	columns.quiet[1] = catalog_column(desc, "scheduled_by_job_id", INT4OID);
	columns.usable = columns.id && columns.dag_id && columns.run_id && columns.state &&
		columns.decided;
	columns.relid = RelationGetRelid(rel);
	return columns.usable;
}

/* Is a column updated that may make a look useful? */
static bool
columns_matter(const Bitmapset *updated)
{
	int			member = -1;

	while ((member = bms_next_member(updated, member)) >= 0)
	{
		AttrNumber	attno = member + FirstLowInvalidHeapAttributeNumber;

		if (attno != columns.decided && attno != columns.quiet[0] && attno != columns.quiet[1])
			return true;
	}
	return false;
}

/* An instant of a row; 0: none. */
static TimestampTz
instant_of(TupleTableSlot *slot, AttrNumber attno)
{
	bool		isnull = attno == InvalidAttrNumber;
	Datum		value = isnull ? (Datum) 0 : slot_getattr(slot, attno, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

static bool
is_running(TupleTableSlot *slot)
{
	Str			state;

	return !catalog_read_text(slot, columns.state, &state) ||
		str_equal(state, (Str) {"running", 7});
}

static void
run_changed(DbState *db, TriggerData *trigger)
{
	TimestampTz decided = instant_of(trigger->tg_newslot, columns.decided);
	bool		looked = decided != instant_of(trigger->tg_trigslot, columns.decided);
	bool		matters = columns_matter(trigger->tg_updatedcols);
	bool		isnull;
	int32		id;
	Str			dag_id;
	Str			run_id;
	Note	   *mine;

	if (!looked && !matters)
		return;
	if (!catalog_read_text(trigger->tg_trigslot, columns.dag_id, &dag_id) ||
		!catalog_read_text(trigger->tg_trigslot, columns.run_id, &run_id))
	{
		park_lost();
		return;
	}
	mine = note(dag_id, run_id);
	if (mine == NULL)
		return;
	id = DatumGetInt32(slot_getattr(trigger->tg_trigslot, columns.id, &isnull));
	if (looked && examining)
		look_begin(db, mine, id, trigger->tg_trigger->tgoid, decided);
	mine->mark |= matters || (looked && !examining);
	mine->gone = !is_running(trigger->tg_newslot);
	if (!mine->gone && !is_running(trigger->tg_trigslot))
		start_begin(db, mine, id, instant_of(trigger->tg_newslot, columns.started));
}

/* BEFORE UPDATE FOR EACH ROW on dag_run.  Changes nothing. */
Datum
airflow_bp_run_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	DbState    *db;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("airflow_bp.run_changed() is a trigger of airflow_bp.enable()")));
	db = shmem_db(true);
	if (db != NULL && columns_known(trigger->tg_relation))
		run_changed(db, trigger);
	else if (db != NULL)
		park_lost();
	PG_RETURN_POINTER(trigger->tg_newtuple);
}

static Str
text_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *value = PG_GETARG_TEXT_PP(n);

	return (Str) {VARDATA_ANY(value), (int) VARSIZE_ANY_EXHDR(value)};
}

/* look_useful(dag_id varchar, run_id varchar, trigger oid): false leaves the run out. */
Datum
airflow_bp_look_useful(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);
	TimestampTz now;
	ParkRun    *run;
	bool		useful;
	Key			key;

	examining = true;
	if (db == NULL || !guc_parking || PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_BOOL(true);
	now = GetCurrentTimestamp();
	key = gate_run_key(text_argument(fcinfo, 0), text_argument(fcinfo, 1));
	LWLockAcquire(shmem->park_lock, LW_SHARED);
	run = run_find(key);
	useful = run == NULL || run->trigger != PG_GETARG_OID(2) ||
		run_useful(park_db(db), run, now);
	LWLockRelease(shmem->park_lock);
	PG_RETURN_BOOL(useful);
}

/* Is there a run that was looked at and waits to be settled? */
bool
park_due(DbState *db)
{
	return park_db(db)->nlooked > 0;
}

static ParkJob
job_of(const ParkRun *run)
{
	return (ParkJob) {.key = run->key, .id = run->id, .looks = run->state.looks};
}

/* Take runs that were looked at; whoever does not settle them leaves them useful. */
int
park_take_looked(DbState *db, ParkJob *jobs, int room)
{
	ParkDb	   *mine = park_db(db);
	int			n = 0;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	while (n < room && !dlist_is_empty(&mine->looked))
	{
		ParkRun    *run = dlist_head_element(ParkRun, place, &mine->looked);

		unlist(mine, run);
		jobs[n++] = job_of(run);
	}
	LWLockRelease(shmem->park_lock);
	return n;
}

/* What the tables say of a run that was taken. */
void
park_settle(DbState *db, const ParkJob *job, const ParkFacts *facts)
{
	ParkDb	   *mine = park_db(db);
	int64		park_for = park_state_spread((int64) guc_park_for * 1000, job->key.high);
	TimestampTz now = GetCurrentTimestamp();
	ParkRun    *run;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	run = run_find(job->key);
	if (run != NULL && run->state.looks == job->looks)
	{
		park_state_version(&run->dag->state, facts->stamp, next_mark());
		park_state_settle(&run->state, &run->dag->state, mine->all, facts, park_for, now);
	}
	LWLockRelease(shmem->park_lock);
}

/* All runs of the database. */
int
park_copy_runs(DbState *db, ParkJob *jobs, int room)
{
	HASH_SEQ_STATUS scan;
	ParkRun    *run;
	int			n = 0;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	hash_seq_init(&scan, runs);
	while ((run = hash_seq_search(&scan)) != NULL)
	{
		if (run->dag->db == db_index(db) && n < room)
			jobs[n++] = job_of(run);
	}
	LWLockRelease(shmem->park_lock);
	return n;
}

/* A run of each DAG of the database; key is that of the DAG. */
int
park_copy_dags(DbState *db, ParkJob *jobs, int room)
{
	HASH_SEQ_STATUS scan;
	ParkDag    *dag;
	int			n = 0;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	hash_seq_init(&scan, dags);
	while ((dag = hash_seq_search(&scan)) != NULL)
	{
		if (dag->db == db_index(db) && dag->runs > 0 && n < room)
			jobs[n++] = (ParkJob) {.key = dag->key, .id = dag->run_id};
	}
	LWLockRelease(shmem->park_lock);
	return n;
}

/* A run does not run any more. */
void
park_forget(DbState *db, const ParkJob *job)
{
	ParkRun    *run;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	run = run_find(job->key);
	if (run != NULL)
		run_remove(run);
	LWLockRelease(shmem->park_lock);
}

/* The version of a DAG as it is now. */
void
park_version(DbState *db, const ParkJob *job, int64 stamp)
{
	ParkDag    *dag;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	dag = dag_find(job->key);
	if (dag != NULL)
		park_state_version(&dag->state, stamp, next_mark());
	LWLockRelease(shmem->park_lock);
}

/* No transaction is prepared any more. */
void
park_sighted(DbState *db)
{
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	park_db(db)->blind = false;
	park_db(db)->all = next_mark();
	LWLockRelease(shmem->park_lock);
}

/* The clock was set back: no time to look again is known. */
void
park_set_back(DbState *db)
{
	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	park_db(db)->all = next_mark();
	park_db(db)->versions_at = 0;
	park_db(db)->sweep_at = 0;
	LWLockRelease(shmem->park_lock);
}

/* The database is gone. */
void
park_forget_db(DbState *db)
{
	HASH_SEQ_STATUS scan;
	ParkRun    *run;
	ParkDb	   *mine = park_db(db);

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, runs);
	while ((run = hash_seq_search(&scan)) != NULL)
	{
		if (run->dag->db == db_index(db))
			run_remove(run);
	}
	memset(mine, 0, sizeof(ParkDb));
	dlist_init(&mine->looked);
	LWLockRelease(shmem->park_lock);
	park_sweep_dags(db);
}

void
park_sweep_dags(DbState *db)
{
	HASH_SEQ_STATUS scan;
	ParkDag    *dag;

	LWLockAcquire(shmem->park_lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, dags);
	while ((dag = hash_seq_search(&scan)) != NULL)
	{
		if (dag->db == db_index(db) && dag->runs == 0)
			hash_search(dags, &dag->key, HASH_REMOVE, NULL);
	}
	LWLockRelease(shmem->park_lock);
}

/* Copies of the parked runs. */
int
park_copy_parked(DbState *db, ParkRun *out, int room)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS scan;
	ParkRun    *run;
	int			n = 0;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	hash_seq_init(&scan, runs);
	while ((run = hash_seq_search(&scan)) != NULL)
	{
		if (run->dag->db != db_index(db) || run_useful(park_db(db), run, now))
			continue;
		if (n < room)
			out[n++] = *run;
	}
	LWLockRelease(shmem->park_lock);
	return n;
}

int64
park_count(DbState *db)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS scan;
	ParkRun    *run;
	int64		n = 0;

	LWLockAcquire(shmem->park_lock, LW_SHARED);
	hash_seq_init(&scan, runs);
	while ((run = hash_seq_search(&scan)) != NULL)
		n += run->dag->db == db_index(db) && !run_useful(park_db(db), run, now);
	LWLockRelease(shmem->park_lock);
	return n;
}
