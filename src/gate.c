/*
 * gate.c - the triggers on Airflow's tables.
 *
 * They run inside the transactions of Airflow.  They never raise, never wait
 * but for a short LWLock, and use no SPI.  What they cannot judge they admit,
 * and count in DbState.fail_open.
 *
 * Locks: shmem->lock exclusively for each ask, and through pending.c at the end
 * of the transaction.
 */
#include "compat.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "gate.h"
#include "guc.h"
#include "held.h"
#include "log.h"
#include "park.h"
#include "pending.h"
#include "stuck.h"

#define MAX_TOUCHED 4096

/* A decision of the open transaction, carried out when it ends. */
typedef struct Touched
{
	HeldKey		key;
	int			level;
	bool		entry;			/* the held entry goes at commit */
	bool		log;			/* an admission goes to the log at commit */
	bool		failed;			/* a failure goes to the sweep at commit */
	Decision	decision;
} Touched;

static Touched touched[MAX_TOUCHED];
static int	ntouched;

PG_FUNCTION_INFO_V1(airflow_bp_gate);
PG_FUNCTION_INFO_V1(airflow_bp_count);

Key
gate_run_key(Str dag_id, Str run_id)
{
	Str			strs[] = {dag_id, run_id};

	return key_of(KEY_RUN, strs, lengthof(strs));
}

static Touched *
touch(DbState *db, const pg_uuid_t *id)
{
	if (ntouched == MAX_TOUCHED)
		return NULL;
	touched[ntouched] = (Touched) {
		.key = held_key(db, id),
		.level = GetCurrentTransactionNestLevel()
	};
	return &touched[ntouched++];
}

bool
gate_idle(void)
{
	return ntouched == 0;
}

void
gate_commit(DbState *db)
{
	for (int i = 0; i < ntouched; i++)
	{
		HeldEntry  *entry = touched[i].entry ? held_find(&touched[i].key) : NULL;

		if (entry != NULL)
			held_remove(db, entry);
		if (touched[i].log)
			log_decision(&touched[i].decision);
		if (touched[i].failed)
			stuck_failed(db, &touched[i].decision.id);
	}
	ntouched = 0;
}

void
gate_abort(DbState *db, int level)
{
	while (ntouched > 0 && touched[ntouched - 1].level >= level)
	{
		Touched    *last = &touched[--ntouched];
		HeldEntry  *entry = last->entry ? held_find(&last->key) : NULL;

		if (entry != NULL)
			held_restore(db, entry);
	}
}

void
gate_subcommit(int level)
{
	for (int i = 0; i < ntouched; i++)
		touched[i].level = Min(touched[i].level, level - 1);
}

static Decision
decision_of(DbState *db, const TaskRow *row, int tenant, Verdict verdict,
			AdmitReason reason, TimestampTz now)
{
	return (Decision) {
		.at = now,
		.db = db->db,
		.id = row->id,
		.tenant = tenant,
		.slots = row->slots,
		.try_number = row->try_number,
		.verdict = verdict,
		.reason = reason
	};
}

/* Hold: keep or make the entry of the task. */
static void
gate_hold(DbState *db, const TaskRow *row, ClassEntry *class, HeldEntry *entry,
		  AdmitReason reason, TimestampTz now)
{
	TenantState *tenant = account_tenant(class->tenant);
	Decision	decision = decision_of(db, row, class->tenant, VERDICT_HOLD, reason, now);
	bool		first = entry == NULL;

	if (first)
		entry = held_enter(db, row, class, reason, gate_run_key(row->dag_id, row->run_id), now);
	if (entry != NULL)
		held_asked(db, entry, reason, now);
	if (entry == NULL || reason == REASON_STARTING)
		park_run_useful(db, gate_run_key(row->dag_id, row->run_id));
	if (first && tenant != NULL)
		tenant->held_total++;
	if (first)
		log_decision(&decision);
}

/* Admit: reserve the slots, and let the entry go when this commits. */
static void
gate_admit(DbState *db, const TaskRow *row, ClassEntry *class, HeldEntry *entry,
		   Verdict verdict, AdmitReason reason, TimestampTz now)
{
	TenantState *tenant = account_tenant(class->tenant);
	bool		log = reason != REASON_NONE || (tenant != NULL && tenant->node.quota != NO_LIMIT);
	Touched    *mine = entry != NULL || log ? touch(db, &row->id) : NULL;

	if (entry != NULL)
	{
		held_pass(db, entry);
		if (mine == NULL)
			held_remove(db, entry);
	}
	if (mine != NULL)
	{
		mine->entry = entry != NULL;
		mine->log = log;
		mine->decision = decision_of(db, row, class->tenant, verdict, reason, now);
	}
	else if (log)
		log_lost();
	if (tenant != NULL)
		tenant->admitted_total++;
	pending_reserve(db, class, class->tenant, row->slots);
	pending_enter(db, class, row->slots);
	pending_admitted(db);
}

/* Nobody knows yet how much is used, or whose task this is. */
static AdmitReason
gate_starting(DbState *db, const ClassEntry *class, TimestampTz now)
{
	bool		drains = db->draining && class->tenant == NO_TENANT;
	bool		limits = db->mode != MODE_OBSERVE && (!db->ready || (db->limited && db->may_enforce));
	TimestampTz since = db->ready || drains ? Max(db->since, class->first_seen) : db->since;

	if (db->mode == MODE_OFF || !(drains || limits))
		return REASON_NONE;
	if (!class->unplaced && now - since < (int64) guc_startup_hold * 1000)
		return REASON_STARTING;
	pg_atomic_fetch_add_u64(&db->fail_open, 1);
	return REASON_NONE;
}

/* Is the task of a drained class held? */
static bool
gate_drained(DbState *db, const TaskRow *row, const ClassEntry *class, const HeldEntry *entry)
{
	TimestampTz started = 0;

	if (class->drained_from != DRAIN_ALL)
		started = park_run_started(gate_run_key(row->dag_id, row->run_id));
	return drain_holds(class->drained_from, entry ? entry->task.asked : 0, started);
}

/* The verdict on one ask; true admits.  The caller holds shmem->lock. */
static bool
gate_judge(DbState *db, const TaskRow *row, ClassEntry *class, TimestampTz now)
{
	HeldKey		key = held_key(db, &row->id);
	HeldEntry  *entry = db->held > 0 ? held_find(&key) : NULL;
	TenantState *tenant = account_tenant(class->tenant);
	bool		starting = db->mode == MODE_UNKNOWN || !db->ready || tenant == NULL;
	AdmitMode	mode = MODE_UNKNOWN;
	AdmitReason reason;
	bool		drained;

	if (entry != NULL && entry->state == HELD_PASSING)
		entry = NULL;
	drained = class->drained_from != DRAIN_NONE && gate_drained(db, row, class, entry);
	if (entry != NULL)
		held_refresh(db, entry, row, class, drained);
	if (drained)
		reason = REASON_DRAIN;
	else if (starting)
		reason = gate_starting(db, class, now);
	else
	{
		mode = admit_mode(db->mode, tenant->mode, db->may_enforce);
		reason = mode == MODE_OFF || (entry != NULL && entry->state == HELD_GRANTED) ?
			REASON_NONE :
			held_verdict(db, class, entry, row->slots, now);
	}
	if (reason != REASON_NONE && (drained || starting || mode == MODE_ENFORCE))
	{
		gate_hold(db, row, class, entry, reason, now);
		return false;
	}
	gate_admit(db, row, class, entry,
			   reason == REASON_NONE ? VERDICT_ADMIT : VERDICT_WOULD_HOLD, reason, now);
	return true;
}

static bool
gate_ask(DbState *db, const TaskRow *row, ClassEntry *class)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		admitted;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	admitted = gate_judge(db, row, class, now);
	LWLockRelease(shmem->lock);
	return admitted;
}

/* A held task that changes otherwise is held no more. */
static void
gate_forget(DbState *db, const TaskRow *row)
{
	Touched    *mine = db->held > 0 && task_state_may_ask(row->state) ?
		touch(db, &row->id) : NULL;

	if (mine != NULL)
		mine->entry = true;
}

/* A task that has failed for good is told to the sweep when this commits. */
static void
gate_failed(DbState *db, const TaskRow *row)
{
	static const Str failed = {"failed", 6};
	Touched    *mine;

	if (row->try_number <= row->max_tries || !str_equal(row->state_name, failed))
		return;
	mine = touch(db, &row->id);
	if (mine == NULL)
	{
		stuck_failed(db, NULL);
		return;
	}
	mine->failed = true;
	mine->decision.id = row->id;
}

/* A clear gives a task another id. */
static bool
same_id(const TaskRow *a, const TaskRow *b)
{
	return memcmp(&a->id, &b->id, sizeof(pg_uuid_t)) == 0;
}

/* False: the row stays as it was.  What a subscription brings has been judged where it comes from. */
static bool
gate_update(DbState *db, const TaskRow *from, const TaskRow *to)
{
	ClassEntry *from_class = pending_class(db, from);
	ClassEntry *to_class = pending_class(db, to);
	bool		asks = task_state_may_ask(from->state) && to->state == TASK_SCHEDULED &&
		SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA;

	if (asks && to_class != NULL && !gate_ask(db, to, to_class))
		return false;
	if (!asks && (from->state != to->state || !same_id(from, to)))
		gate_forget(db, from);
	pending_move(db, from, from_class, to, to_class);
	if (!str_equal(from->state_name, to->state_name))
	{
		if (to->state == TASK_FINISHED)
			gate_failed(db, to);
		park_task_changed(db, from, to);
	}
	return true;
}

/* A change could not be read. */
static void
gate_lost(DbState *db)
{
	pending_lost(db);
	park_lost();
}

/* The present database, when its triggers have something to do. */
static DbState *
gate_db(Relation rel)
{
	DbState    *db = shmem_db(true);
	bool		known;

	if (db == NULL)
		return NULL;
	known = catalog_knows_tasks(rel);
	if (db->missing != catalog_missing_column() + 1)
		db->missing = catalog_missing_column() + 1;
	if (!known)
		gate_lost(db);
	return known ? db : NULL;
}

static bool
same_place(const TaskRow *a, const TaskRow *b)
{
	return str_equal(a->state_name, b->state_name) && a->slots == b->slots && a->scheduled == b->scheduled &&
		same_id(a, b) &&
		str_equal(a->pool, b->pool) && str_equal(a->queue, b->queue) &&
		str_equal(a->executor, b->executor) && str_equal(a->dag_id, b->dag_id);
}

/* BEFORE UPDATE FOR EACH ROW on task_instance. */
Datum
airflow_bp_gate(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	DbState    *db;
	TaskRow		from;
	TaskRow		to;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("airflow_bp.gate() is a trigger of airflow_bp.enable()")));
	db = gate_db(trigger->tg_relation);
	if (db == NULL || !catalog_touches_task(trigger->tg_updatedcols))
		PG_RETURN_POINTER(trigger->tg_newtuple);
	if (!catalog_read_task(trigger->tg_trigslot, &from) ||
		!catalog_read_task(trigger->tg_newslot, &to))
		gate_lost(db);
	else if (!same_place(&from, &to) && !gate_update(db, &from, &to))
		PG_RETURN_POINTER(NULL);
	PG_RETURN_POINTER(trigger->tg_newtuple);
}

static void
count_row(DbState *db, TupleTableSlot *slot, bool inserted)
{
	TaskRow		row;
	ClassEntry *class;

	if (!catalog_read_task(slot, &row))
	{
		gate_lost(db);
		return;
	}
	if (!inserted)
		gate_forget(db, &row);
	class = row.state == TASK_FINISHED ? NULL : pending_class(db, &row);
	if (class != NULL && inserted)
		pending_move(db, NULL, NULL, &row, class);
	else if (class != NULL)
		pending_move(db, &row, class, NULL, NULL);
	park_task_changed(db, inserted ? NULL : &row, inserted ? &row : NULL);
}

/* AFTER INSERT OR DELETE FOR EACH ROW, AFTER TRUNCATE FOR EACH STATEMENT. */
Datum
airflow_bp_count(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	DbState    *db;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("airflow_bp.count() is a trigger of airflow_bp.enable()")));
	db = gate_db(trigger->tg_relation);
	if (db == NULL)
		PG_RETURN_POINTER(NULL);
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		gate_lost(db);
	else
		count_row(db, trigger->tg_trigslot, TRIGGER_FIRED_BY_INSERT(trigger->tg_event));
	PG_RETURN_POINTER(NULL);
}
