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
#include "common/hashfn.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "gate.h"
#include "guc.h"
#include "log.h"
#include "park.h"
#include "pending.h"

#define MAX_TOUCHED 4096
#define FILL_BATCH 256
#define MAX_PASSED 1000

/* A decision of the open transaction, carried out when it ends. */
typedef struct Touched
{
	HeldKey		key;
	int			level;
	bool		entry;			/* the held entry goes at commit */
	bool		log;			/* an admission goes to the log at commit */
	Decision	decision;
} Touched;

static HTAB *held;
static Touched touched[MAX_TOUCHED];
static int	ntouched;

PG_FUNCTION_INFO_V1(airflow_bp_gate);
PG_FUNCTION_INFO_V1(airflow_bp_count);

static uint32
held_hash(const void *key, Size size)
{
	return DatumGetUInt32(hash_any(key, size));
}

Size
gate_shmem_size(void)
{
	return hash_estimate_size(guc_max_held, sizeof(HeldEntry));
}

void
gate_shmem_startup(void)
{
	HASHCTL		info = {
		.keysize = sizeof(HeldKey),
		.entrysize = sizeof(HeldEntry),
		.hash = held_hash
	};

	held = ShmemInitHash("airflow_bp held", guc_max_held, guc_max_held, &info,
						 HASH_ELEM | HASH_FUNCTION | HASH_FIXED_SIZE);
}

Key
gate_run_key(Str dag_id, Str run_id)
{
	Str			strs[] = {dag_id, run_id};

	return key_of(KEY_RUN, strs, lengthof(strs));
}

static HeldKey
held_key(DbState *db, const pg_uuid_t *id)
{
	return (HeldKey) {db->db, *id};
}

static HeldEntry *
held_find(const HeldKey *key)
{
	return hash_search(held, key, HASH_FIND, NULL);
}

/* pairingheap_comparator: the greatest is on top. */
static int
held_compare(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const HeldEntry *x = pairingheap_const_container(HeldEntry, place, a);
	const HeldEntry *y = pairingheap_const_container(HeldEntry, place, b);

	return admit_compare(&y->rank, &x->rank);
}

/* The comparator is an address of this process; set it before each use. */
static pairingheap *
line_of(TenantState *tenant)
{
	tenant->line.ph_compare = held_compare;
	return &tenant->line;
}

static bool
held_is_head(TenantState *tenant, HeldEntry *entry)
{
	return entry != NULL && entry->state == HELD_WAITING &&
		pairingheap_first(line_of(tenant)) == &entry->place;
}

/* Is a task in line that goes before this ask?  With best effort none that waits has fitted. */
static bool
others_first(TenantState *tenant, HeldEntry *entry)
{
	return tenant->waiting > 0 && !tenant->best_effort && !held_is_head(tenant, entry);
}

/* Take an entry out of its line or its grant. */
static void
held_unplace(HeldEntry *entry)
{
	TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state == HELD_WAITING)
	{
		pairingheap_remove(line_of(tenant), &entry->place);
		tenant->waiting--;
	}
	if (entry->state == HELD_GRANTED)
		tenant->quota.granted -= entry->slots;
	entry->state = HELD_ASIDE;
}

/* Put an entry that stands aside where its tenant says. */
static void
held_place(HeldEntry *entry)
{
	TenantState *tenant;

	entry->tenant = entry->class->tenant;
	tenant = account_tenant(entry->tenant);
	if (tenant == NULL)
		return;
	if (entry->slots > tenant->quota.nominal)
	{
		entry->reason = REASON_NEVER_FITS;
		return;
	}
	if (entry->reason == REASON_NEVER_FITS)
		entry->reason = REASON_QUOTA;
	pairingheap_add(line_of(tenant), &entry->place);
	tenant->waiting++;
	entry->state = HELD_WAITING;
}

/* Follow what has changed of the task and its tenant since it was asked for last. */
static void
held_refresh(HeldEntry *entry, const TaskRow *row, ClassEntry *class)
{
	if (entry->class != class || entry->tenant != class->tenant ||
		entry->slots != row->slots || entry->rank.priority != row->priority)
	{
		held_unplace(entry);
		pg_atomic_fetch_sub_u32(&entry->class->pins, 1);
		pg_atomic_fetch_add_u32(&class->pins, 1);
		entry->class = class;
		entry->slots = row->slots;
		entry->rank.priority = row->priority;
	}
	if (entry->state == HELD_ASIDE)
		held_place(entry);
}

static void
held_remove(DbState *db, HeldEntry *entry)
{
	held_unplace(entry);
	pg_atomic_fetch_sub_u32(&entry->class->pins, 1);
	hash_search(held, &entry->key, HASH_REMOVE, NULL);
	db->held--;
}

/* New entry for a held task; NULL when the table is full. */
static HeldEntry *
held_enter(DbState *db, const TaskRow *row, ClassEntry *class, AdmitReason reason,
		   TimestampTz now)
{
	HeldKey		key = held_key(db, &row->id);
	bool		found;
	HeldEntry  *entry = hash_search(held, &key, HASH_ENTER_NULL, &found);

	if (entry == NULL)
	{
		db->held_lost++;
		return NULL;
	}
	if (found)
		return NULL;			/* it has passed in this transaction */
	memset((char *) entry + sizeof(HeldKey), 0, sizeof(HeldEntry) - sizeof(HeldKey));
	entry->slots = row->slots;
	entry->reason = reason;
	entry->rank = (AdmitRank) {row->priority, now, hash_bytes_extended(row->id.data, UUID_LEN, 0)};
	entry->class = class;
	pg_atomic_fetch_add_u32(&class->pins, 1);
	entry->run = gate_run_key(row->dag_id, row->run_id);
	entry->tenant = NO_TENANT;
	held_place(entry);
	db->held++;
	return entry;
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

bool
gate_commit(DbState *db)
{
	bool		freed = false;

	for (int i = 0; i < ntouched; i++)
	{
		HeldEntry  *entry = touched[i].entry ? held_find(&touched[i].key) : NULL;

		if (entry != NULL)
		{
			held_remove(db, entry);
			freed = true;
		}
		if (touched[i].log)
			log_decision(&touched[i].decision);
	}
	ntouched = 0;
	return freed;
}

/* May an entry keep its grant, or have it back? */
static bool
grant_stands(const HeldEntry *entry, int64 more)
{
	const TenantState *tenant = account_tenant(entry->tenant);

	return tenant != NULL && entry->tenant == entry->class->tenant &&
		admit_usage(&tenant->quota) + more <= tenant->quota.nominal;
}

/* A task that passed in what is rolled back is held again, its grant with it. */
static void
held_restore(HeldEntry *entry)
{
	TenantState *tenant = account_tenant(entry->tenant);

	if (entry->state != HELD_PASSING)
		return;
	entry->state = HELD_ASIDE;
	if (entry->was_granted && grant_stands(entry, entry->slots))
	{
		entry->state = HELD_GRANTED;
		tenant->quota.granted += entry->slots;
	}
	else
		held_place(entry);
}

void
gate_abort(DbState *db, int level)
{
	while (ntouched > 0 && touched[ntouched - 1].level >= level)
	{
		Touched    *last = &touched[--ntouched];
		HeldEntry  *entry = last->entry ? held_find(&last->key) : NULL;

		if (entry != NULL)
			held_restore(entry);
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
		entry = held_enter(db, row, class, reason, now);
	if (entry != NULL)
	{
		entry->last_asked = now;
		entry->asks++;
		if (entry->state == HELD_WAITING)
			entry->reason = reason;
	}
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
	bool		log = tenant != NULL && tenant->quota.nominal != NO_LIMIT;
	Touched    *mine = entry != NULL || log ? touch(db, &row->id) : NULL;

	if (entry != NULL)
	{
		bool		granted = entry->state == HELD_GRANTED;

		held_unplace(entry);
		entry->state = HELD_PASSING;
		entry->was_granted = granted;
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
	pending_admitted(db);
}

/* Nobody knows yet how much is used, or whose task this is. */
static AdmitReason
gate_starting(DbState *db, const ClassEntry *class, TimestampTz now)
{
	TimestampTz since = db->ready ? Max(db->since, class->first_seen) : db->since;

	if (db->mode == MODE_OFF || db->mode == MODE_OBSERVE ||
		(db->ready && (!db->limited || !db->may_enforce)))
		return REASON_NONE;
	if (!class->unplaced && now - since < (int64) guc_startup_hold * 1000)
		return REASON_STARTING;
	pg_atomic_fetch_add_u64(&db->fail_open, 1);
	return REASON_NONE;
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

	if (entry != NULL && entry->state == HELD_PASSING)
		entry = NULL;
	if (entry != NULL)
		held_refresh(entry, row, class);
	if (starting)
		reason = gate_starting(db, class, now);
	else
	{
		mode = admit_mode(db->mode, tenant->mode, db->may_enforce);
		reason = mode == MODE_OFF || (entry != NULL && entry->state == HELD_GRANTED) ?
			REASON_NONE :
			admit_verdict(&tenant->quota, row->slots,
						  mode == MODE_ENFORCE && others_first(tenant, entry));
	}
	if (reason != REASON_NONE && (starting || mode == MODE_ENFORCE))
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

/* A clear gives a task another id. */
static bool
same_id(const TaskRow *a, const TaskRow *b)
{
	return memcmp(&a->id, &b->id, sizeof(pg_uuid_t)) == 0;
}

/* False: the row stays as it was. */
static bool
gate_update(DbState *db, const TaskRow *from, const TaskRow *to)
{
	ClassEntry *from_class = pending_class(db, from);
	ClassEntry *to_class = pending_class(db, to);
	bool		asks = task_state_may_ask(from->state) && to->state == TASK_SCHEDULED;

	if (asks && to_class != NULL && !gate_ask(db, to, to_class))
		return false;
	if (!asks && (from->state != to->state || !same_id(from, to)))
		gate_forget(db, from);
	pending_move(db, from, from_class, to, to_class);
	if (!str_equal(from->state_name, to->state_name))
		park_task_changed(db, from, to);
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

/* The triggers are gone: nobody is held, and the counters say nothing. */
void
gate_clear(DbState *db)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	db->ready = false;
	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db == db->db && entry->state != HELD_PASSING)
			held_remove(db, entry);
	}
}

/* Put every entry where the compiled policy says; grants stay where they fit. */
void
gate_place_all(DbState *db)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING ||
			(entry->state == HELD_GRANTED && grant_stands(entry, 0)))
			continue;
		held_unplace(entry);
		held_place(entry);
		if (db->ready && entry->state == HELD_WAITING && entry->reason == REASON_STARTING)
			entry->reason = REASON_QUOTA;
	}
}

static void
held_grant(TenantState *tenant, HeldEntry *entry, TimestampTz now)
{
	held_unplace(entry);
	entry->state = HELD_GRANTED;
	entry->granted_at = now;
	tenant->quota.granted += entry->slots;
}

/*
 * Grant what fits of one line, in order.  Strict stops at the first that does
 * not fit; best effort looks past it, at most MAX_PASSED times.
 */
static int
fill_line(TenantState *tenant, AdmitMode mode, TimestampTz now, Key *runs, int max_runs)
{
	pairingheap *line = line_of(tenant);
	HeldEntry  *passed[MAX_PASSED];
	int			npassed = 0;
	int			nruns = 0;

	while (!pairingheap_is_empty(line) && nruns < max_runs)
	{
		HeldEntry  *entry = pairingheap_container(HeldEntry, place, pairingheap_first(line));

		if (mode != MODE_ENFORCE || entry->slots <= admit_available(&tenant->quota))
		{
			held_grant(tenant, entry, now);
			runs[nruns++] = entry->run;
			continue;
		}
		if (!tenant->best_effort || npassed == MAX_PASSED || admit_available(&tenant->quota) == 0)
			break;
		passed[npassed++] = entry;
		pairingheap_remove_first(line);
	}
	for (int i = 0; i < npassed; i++)
		pairingheap_add(line, &passed[i]->place);
	return nruns;
}

/*
 * Grant held tasks of all tenants; the runs of the granted are returned to be
 * unparked.  Stops when the array is full: call again.
 */
static int
fill_lines(DbState *db, TimestampTz now, Key *runs, int max_runs)
{
	int			nruns = 0;

	for (int i = 0; db->ready && i < account_max_tenants() && nruns < max_runs; i++)
	{
		TenantState *tenant = account_tenant(i);
		AdmitMode	mode = admit_mode(db->mode, tenant->mode, db->may_enforce);

		if (tenant->db != db->db)
			continue;
		if (tenant->waiting > 0)
			nruns += fill_line(tenant, mode, now, &runs[nruns], max_runs - nruns);
	}
	return nruns;
}

/* Grant what fits, and have the runs of the granted looked at. */
void
gate_grant(DbState *db)
{
	Key			runs[FILL_BATCH];
	int			n;

	do
	{
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		n = fill_lines(db, GetCurrentTimestamp(), runs, FILL_BATCH);
		LWLockRelease(shmem->lock);
		for (int i = 0; i < n; i++)
			park_run_useful(db, runs[i]);
	} while (n == FILL_BATCH);
}

/*
 * Drop entries that are asked for no more, take back grants that are not used.
 * Who let a grant lapse stands aside until the next ask, and keeps its rank.
 */
void
gate_expire(DbState *db, TimestampTz now)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING)
			continue;
		if (entry->state == HELD_GRANTED)
		{
			if (now - entry->granted_at >= (int64) guc_grant_timeout * 1000)
				held_unplace(entry);
		}
		else if (now - entry->last_asked >= (int64) guc_ask_timeout * 1000 &&
				 !park_run_away(db, entry->run, (int64) guc_ask_timeout * 1000))
			held_remove(db, entry);
	}
}

int
gate_copy(DbState *db, HeldEntry *out, int room)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;
	int			n = 0;

	LWLockAcquire(shmem->lock, LW_SHARED);
	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db != db->db || entry->state == HELD_PASSING || n == room)
			continue;
		out[n++] = *entry;
		pg_atomic_fetch_add_u32(&entry->class->pins, 1);
	}
	LWLockRelease(shmem->lock);
	return n;
}

void
gate_copy_done(HeldEntry *copy, int n)
{
	for (int i = 0; i < n; i++)
		pg_atomic_fetch_sub_u32(&copy[i].class->pins, 1);
}

/* Calls visit for each held entry of the database.  The caller holds shmem->lock. */
void
gate_each_held(DbState *db, HeldVisitor visit, void *arg)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->key.db == db->db)
			visit(entry, arg);
	}
}

/*
 * How many of each tenant are held, and the first ask of the oldest; both
 * arrays start as zeros.  The caller holds shmem->lock.
 */
void
gate_sum(DbState *db, int64 *counts, TimestampTz *oldest)
{
	HASH_SEQ_STATUS scan;
	HeldEntry  *entry;

	hash_seq_init(&scan, held);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		int			i = entry->tenant;

		if (entry->key.db != db->db || i == NO_TENANT ||
			(entry->state != HELD_WAITING && entry->state != HELD_ASIDE))
			continue;
		counts[i]++;
		if (oldest[i] == 0 || entry->rank.first_asked < oldest[i])
			oldest[i] = entry->rank.first_asked;
	}
}
