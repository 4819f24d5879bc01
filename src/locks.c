/*
 * locks.c - SQL functions of the lock report.
 *
 * lock_waits(), sessions() and what reads statements work without shared memory
 * of ours and on a standby.  Texts of other sessions may be cut off in the midst
 * of a character, or be of another encoding.
 */
#include "compat.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "catalog/pg_type_d.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "locks_sample.h"
#include "show.h"

PG_FUNCTION_INFO_V1(airflow_bp_lock_waits);
PG_FUNCTION_INFO_V1(airflow_bp_sessions);
PG_FUNCTION_INFO_V1(airflow_bp_statement_component);
PG_FUNCTION_INFO_V1(airflow_bp_statement_shape);
PG_FUNCTION_INFO_V1(airflow_bp_statement_class);
PG_FUNCTION_INFO_V1(airflow_bp_row_at);
PG_FUNCTION_INFO_V1(airflow_bp_share_now);
PG_FUNCTION_INFO_V1(airflow_bp_end_session);
PG_FUNCTION_INFO_V1(airflow_bp_sampler_memory);
PG_FUNCTION_INFO_V1(airflow_bp_sampler_ticks);
PG_FUNCTION_INFO_V1(airflow_bp_sampler_ticks_done);
PG_FUNCTION_INFO_V1(airflow_bp_lock_episodes_open);
PG_FUNCTION_INFO_V1(airflow_bp_lock_episode_done);
PG_FUNCTION_INFO_V1(airflow_bp_lock_cycles);

#define LABEL_BYTES 128

/* A text of another session, in the encoding of this database. */
static Datum
foreign_text(const char *text, bool *isnull)
{
	int			len = text == NULL ? 0 : (int) strlen(text);
	char	   *clean;

	*isnull = text == NULL;
	if (text == NULL)
		return (Datum) 0;
	if (pg_verify_mbstr(GetDatabaseEncoding(), text, len, true))
		return CStringGetTextDatum(text);
	clean = pstrdup(text);
	for (int i = 0; i < len; i++)
	{
		if ((unsigned char) clean[i] >= 0x80)
			clean[i] = '?';
	}
	return CStringGetTextDatum(clean);
}

static Datum
instant(TimestampTz at, bool *isnull)
{
	*isnull = at == 0;
	return TimestampTzGetDatum(at);
}

static Datum
pid_or_null(int pid, bool *isnull)
{
	*isnull = pid == 0;
	return Int32GetDatum(pid);
}

static Datum
label_of(const char *statement, bool *isnull)
{
	char		label[LABEL_BYTES];
	LockShape	shape;

	locks_shape(statement ? statement : "", &shape);
	locks_label(&shape, label, sizeof(label));
	return show_text(label[0] ? label : NULL, isnull);
}

static const char *
state_name(BackendState state)
{
	switch (state)
	{
		case STATE_IDLE:
			return "idle";
		case STATE_RUNNING:
			return "active";
		case STATE_IDLEINTRANSACTION:
			return "idle in transaction";
		case STATE_FASTPATH:
			return "fastpath function call";
		case STATE_IDLEINTRANSACTION_ABORTED:
			return "idle in transaction (aborted)";
		case STATE_DISABLED:
			return "disabled";
		default:
			return NULL;
	}
}

/* Component and rule of a session, by its statement or by an earlier one. */
static void
put_class(LockClass class, int pid, TimestampTz start, Datum *values, bool *nulls)
{
	bool		earlier = class.component == LOCKS_UNKNOWN && locks_known_session(pid, start, &class);
	const char *rule = locks_rule_name(class.rule);

	values[0] = CStringGetTextDatum(locks_component_name(class.component));
	values[1] = show_text(earlier ? psprintf("earlier: %s", rule) : rule, &nulls[1]);
}

/* Relation, block, place in it, and a word for locks on other things. */
static void
put_tag(const LOCKTAG *tag, Datum *values, bool *nulls)
{
	const char *subject = NULL;

	nulls[0] = tag->locktag_type > LOCKTAG_TUPLE || tag->locktag_type == LOCKTAG_DATABASE_FROZEN_IDS;
	nulls[1] = tag->locktag_type != LOCKTAG_PAGE && tag->locktag_type != LOCKTAG_TUPLE;
	nulls[2] = tag->locktag_type != LOCKTAG_TUPLE;
	values[0] = ObjectIdGetDatum(tag->locktag_field2);
	values[1] = Int64GetDatum(tag->locktag_field3);
	values[2] = Int32GetDatum(tag->locktag_field4);
	if (tag->locktag_type == LOCKTAG_ADVISORY && tag->locktag_field4 == 1)
		subject = psprintf(INT64_FORMAT, ((int64) tag->locktag_field2 << 32) | tag->locktag_field3);
	else if (tag->locktag_type == LOCKTAG_ADVISORY)
		subject = psprintf("%d, %d", (int) tag->locktag_field2, (int) tag->locktag_field3);
	values[3] = show_text(subject, &nulls[3]);
}

static Datum
blockers_of(const LocksCopy *copy, int number)
{
	const LockNode *node = &copy->graph.nodes[number];
	Datum	   *pids = palloc(Max(node->nedges, 1) * sizeof(Datum));

	for (int i = 0; i < node->nedges; i++)
		pids[i] = Int32GetDatum(copy->sessions[copy->graph.edges[node->first_edge + i].to].pid);
	return PointerGetDatum(construct_array(pids, node->nedges, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

/* What a node waits for, or by what it blocks others. */
static void
put_lock(const LocksCopy *copy, int number, Datum *values, bool *nulls)
{
	const LockSession *session = &copy->sessions[number];
	bool		waits = session->waits >= 0;
	LOCKMODE	mode;
	int			lock = waits ? locks_of_waiter(copy, session->waits) : locks_held(copy, number, &mode);

	if (lock < 0)
	{
		memset(nulls, true, 6 * sizeof(bool));
		return;
	}
	if (waits)
		mode = copy->waiters[session->waits].mode;
	values[0] = CStringGetTextDatum(GetLockNameFromTagType(copy->tags[lock].locktag_type));
	values[1] = CStringGetTextDatum(GetLockmodeName(copy->tags[lock].locktag_lockmethodid, mode));
	put_tag(waits ? &copy->waits[session->waits].wants : locks_wanted(copy, lock), &values[2], &nulls[2]);
}

static void
put_wait(FunctionCallInfo fcinfo, const LocksCopy *copy, int place)
{
	int			number = copy->graph.order[place];
	const LockNode *node = &copy->graph.nodes[number];
	const LockSession *session = &copy->sessions[number];
	Datum		values[24] = {0};
	bool		nulls[24] = {0};

	values[0] = Int32GetDatum(place + 1);
	values[1] = pid_or_null(session->pid, &nulls[1]);
	values[2] = pid_or_null(copy->sessions[node->root].pid, &nulls[2]);
	values[3] = Int32GetDatum(node->depth);
	values[4] = blockers_of(copy, number);
	values[5] = Int32GetDatum(node->waiters);
	nulls[6] = session->pid != 0;
	values[6] = TransactionIdGetDatum(session->xid);
	values[7] = show_text(session->pid == 0 ? "prepared" : session->known ? state_name(session->state) : NULL,
						  &nulls[7]);
	/* who has begun to wait just now has no time yet */
	values[8] = instant(session->waits < 0 ? 0 : copy->waits[session->waits].since, &nulls[8]);
	if (session->waits >= 0 && nulls[8])
		values[8] = instant(copy->at, &nulls[8]);
	values[9] = instant(session->known ? session->xact_start : 0, &nulls[9]);
	values[10] = instant(session->known ? session->backend_start : 0, &nulls[10]);
	values[11] = instant(session->known ? session->state_change : 0, &nulls[11]);
	put_lock(copy, number, &values[12], &nulls[12]);
	values[18] = foreign_text(session->known ? session->statement : NULL, &nulls[18]);
	values[19] = label_of(session->known ? session->statement : NULL, &nulls[19]);
	values[20] = foreign_text(session->known ? session->application : NULL, &nulls[20]);
	values[21] = show_text(session->known ? session->client : NULL, &nulls[21]);
	put_class(session->class, session->pid, session->known ? session->backend_start : 0, &values[22],
			  &nulls[22]);
	show_row(fcinfo, values, nulls);
}

Datum
airflow_bp_lock_waits(PG_FUNCTION_ARGS)
{
	LocksCopy  *copy;

	show_begin(fcinfo);
	copy = locks_copy(MyDatabaseId);
	for (int i = 0; i < copy->graph.nnodes; i++)
		put_wait(fcinfo, copy, i);
	return (Datum) 0;
}

static void
put_session(FunctionCallInfo fcinfo, const PgBackendStatus *entry)
{
	const char *statement = pgstat_clip_activity(entry->st_activity_raw);
	Datum		values[9] = {0};
	bool		nulls[9] = {0};

	values[0] = Int32GetDatum(entry->st_procpid);
	put_class(locks_classify(entry, statement), entry->st_procpid, entry->st_proc_start_timestamp, &values[1],
			  &nulls[1]);
	values[3] = show_text(state_name(entry->st_state), &nulls[3]);
	values[4] = instant(entry->st_proc_start_timestamp, &nulls[4]);
	values[5] = instant(entry->st_xact_start_timestamp, &nulls[5]);
	values[6] = instant(entry->st_state_start_timestamp, &nulls[6]);
	values[7] = show_text(locks_client(entry), &nulls[7]);
	values[8] = foreign_text(statement, &nulls[8]);
	show_row(fcinfo, values, nulls);
}

Datum
airflow_bp_sessions(PG_FUNCTION_ARGS)
{
	show_begin(fcinfo);
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		const PgBackendStatus *entry = &pgstat_get_local_beentry_by_index(i)->backendStatus;

		if (entry->st_procpid > 0 && entry->st_databaseid == MyDatabaseId)
			put_session(fcinfo, entry);
	}
	pgstat_clear_backend_activity_snapshot();
	return (Datum) 0;
}

Datum
airflow_bp_statement_component(PG_FUNCTION_ARGS)
{
	LockClass	class = locks_class(text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL);

	PG_RETURN_TEXT_P(cstring_to_text(locks_component_name(class.component)));
}

Datum
airflow_bp_statement_shape(PG_FUNCTION_ARGS)
{
	LockShape	shape;

	locks_shape(text_to_cstring(PG_GETARG_TEXT_PP(0)), &shape);
	PG_RETURN_TEXT_P(cstring_to_text(shape.text));
}

Datum
airflow_bp_statement_class(PG_FUNCTION_ARGS)
{
	bool		isnull;
	Datum		label = label_of(text_to_cstring(PG_GETARG_TEXT_PP(0)), &isnull);

	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(label);
}

/* Columns that say which row of Airflow it is; id where there is none of the others. */
static Datum
name_row(TupleTableSlot *slot)
{
	static const char *const names[] = {
		"dag_id", "run_id", "task_id", "map_index", "pool", "job_type", "hostname", "name", "key", "id"
	};
	TupleDesc	desc = slot->tts_tupleDescriptor;
	StringInfoData json;

	initStringInfo(&json);
	for (int i = 0; i < lengthof(names); i++)
	{
		AttrNumber	attno = InvalidAttrNumber;
		bool		isnull = true;
		Datum		value = (Datum) 0;
		Oid			output;
		bool		varlena;

		for (int a = 0; a < desc->natts && attno == InvalidAttrNumber; a++)
		{
			if (!TupleDescAttr(desc, a)->attisdropped &&
				strcmp(NameStr(TupleDescAttr(desc, a)->attname), names[i]) == 0)
				attno = a + 1;
		}
		if (attno != InvalidAttrNumber)
			value = slot_getattr(slot, attno, &isnull);
		if (isnull || (strcmp(names[i], "id") == 0 && json.len > 0))
			continue;
		getTypeOutputInfo(TupleDescAttr(desc, attno - 1)->atttypid, &output, &varlena);
		/* a value that is kept elsewhere may be gone with its row */
		if (varlena && VARATT_IS_EXTERNAL(DatumGetPointer(value)))
			continue;
		appendStringInfoString(&json, json.len == 0 ? "{" : ", ");
		escape_json(&json, names[i]);
		appendStringInfoString(&json, ": ");
		escape_json(&json, OidOutputFunctionCall(output, value));
	}
	if (json.len == 0)
		return (Datum) 0;
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

static Datum
read_row(Relation rel, BlockNumber block, OffsetNumber place)
{
	TupleTableSlot *slot;
	ItemPointerData tid;
	Datum		row = (Datum) 0;

	if (rel->rd_rel->relkind != RELKIND_RELATION || block >= RelationGetNumberOfBlocks(rel) || place == 0)
		return row;
	ItemPointerSet(&tid, block, place);
	slot = table_slot_create(rel, NULL);
	if (table_tuple_fetch_row_version(rel, &tid, SnapshotAny, slot))
		row = name_row(slot);
	ExecDropSingleTupleTableSlot(slot);
	return row;
}

/*
 * row_at(relation oid, block bigint, place int) returns jsonb: whatever version
 * is there, also one that is dead, as who waits for it has asked for that one.
 */
Datum
airflow_bp_row_at(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;
	Datum		row = (Datum) 0;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		PG_RETURN_NULL();
	rel = try_relation_open(relid, NoLock);
	if (rel != NULL)
	{
		row = read_row(rel, (BlockNumber) PG_GETARG_INT64(1), (OffsetNumber) PG_GETARG_INT32(2));
		relation_close(rel, NoLock);
	}
	UnlockRelationOid(relid, AccessShareLock);
	if (row == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(row);
}

/* share_now(relation) returns boolean: a reader's lock till the end of the transaction, if it is free */
Datum
airflow_bp_share_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ConditionalLockRelationOid(PG_GETARG_OID(0), AccessShareLock));
}

/*
 * end_session(pid, backend_start, xact_start, terminate) returns boolean: false
 * when that transaction is not idle any more, or is in the critical section.
 */
Datum
airflow_bp_end_session(PG_FUNCTION_ARGS)
{
	int			pid = PG_GETARG_INT32(0);
	const PgBackendStatus *entry = locks_activity(pid);
	bool		same = entry != NULL && entry->st_backendType == B_BACKEND &&
		entry->st_databaseid == MyDatabaseId && entry->st_proc_start_timestamp == PG_GETARG_TIMESTAMPTZ(1) &&
		entry->st_xact_start_timestamp == PG_GETARG_TIMESTAMPTZ(2) && locks_is_idle(entry->st_state);
	LocalTransactionId xact;

	pgstat_clear_backend_activity_snapshot();
	if (!same || pid == MyProcPid || locks_critical_holder(MyDatabaseId, &xact) == pid)
		PG_RETURN_BOOL(false);
	ereport(LOG,
			(errmsg("airflow_bp: a rule %s the session with PID %d, idle in its transaction",
					PG_GETARG_BOOL(3) ? "terminates" : "cancels", pid)));
	PG_RETURN_BOOL(kill(pid, PG_GETARG_BOOL(3) ? SIGTERM : SIGINT) == 0);
}

Datum
airflow_bp_sampler_memory(PG_FUNCTION_ARGS)
{
	SamplerState state;
	Datum		values[9] = {0};
	bool		nulls[9] = {0};

	show_begin(fcinfo);
	if (shmem == NULL)
		return (Datum) 0;
	state = locks_sampler_state();
	values[0] = pid_or_null(state.pid, &nulls[0]);
	values[1] = instant(state.began, &nulls[1]);
	values[2] = instant(state.last, &nulls[2]);
	values[3] = Float8GetDatum(state.period / 1000.0);
	nulls[3] = state.period == 0;
	values[4] = Int64GetDatum(state.ticks);
	values[5] = Int64GetDatum(state.errors);
	values[6] = Int64GetDatum(state.lost_ticks);
	values[7] = Int64GetDatum(state.crowded);
	values[8] = foreign_text(state.error[0] ? state.error : NULL, &nulls[8]);
	show_row(fcinfo, values, nulls);
	return (Datum) 0;
}

static void
put_tick(FunctionCallInfo fcinfo, const LockTick *tick, uint64 upto)
{
	Datum		values[12] = {0};
	bool		nulls[12] = {0};

	values[0] = Int64GetDatum((int64) upto);
	values[1] = TimestampTzGetDatum(tick->planned);
	values[2] = TimestampTzGetDatum(tick->began);
	values[3] = Int64GetDatum(tick->took);
	values[4] = Int64GetDatum(tick->period);
	values[5] = Int32GetDatum(tick->waiters);
	values[6] = BoolGetDatum(tick->cut);
	values[7] = show_text(tick->sqlstate ? unpack_sql_state(tick->sqlstate) : NULL, &nulls[7]);
	values[8] = pid_or_null(tick->critical_pid, &nulls[8]);
	values[9] = Int64GetDatum(tick->critical_xact);
	values[10] = Int64GetDatum(tick->critical_age);
	nulls[9] = nulls[10] = tick->critical_pid == 0;
	nulls[10] |= tick->critical_age < 0;
	values[11] = show_text(tick->critical_client[0] ? tick->critical_client : NULL, &nulls[11]);
	show_row(fcinfo, values, nulls);
}

Datum
airflow_bp_sampler_ticks(PG_FUNCTION_ARGS)
{
	DbState    *db;
	LockTick   *ticks;
	uint64		upto;
	int			n;

	show_begin(fcinfo);
	if ((db = shmem_db(false)) == NULL)
		return (Datum) 0;
	ticks = palloc(MAX_TICKS * sizeof(LockTick));
	n = locks_ticks(db, ticks, &upto);
	for (int i = 0; i < n; i++)
		put_tick(fcinfo, &ticks[i], upto);
	return (Datum) 0;
}

Datum
airflow_bp_sampler_ticks_done(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);

	if (db != NULL)
		locks_ticks_done(db, PG_ARGISNULL(0) ? 0 : (uint64) PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

static void
put_statement(const LockShape *shape, Datum *values, bool *nulls)
{
	char		label[LABEL_BYTES];

	locks_label(shape, label, sizeof(label));
	values[0] = Int64GetDatum((int64) locks_print(shape));
	values[1] = show_text(label, &nulls[1]);
	values[2] = show_text(shape->text, &nulls[2]);
}

static void
put_episode(FunctionCallInfo fcinfo, const LockEpisode *episode)
{
	EpisodeSums sums = episode_since(&episode->sums, &episode->written_sums);
	Datum		values[31] = {0};
	bool		nulls[31] = {0};

	values[0] = Int64GetDatum(episode->id);
	values[1] = BoolGetDatum(episode->written == 0);
	values[2] = BoolGetDatum(episode->over);
	values[3] = TimestampTzGetDatum(episode->written == 0 ? episode->began : episode->written_to);
	values[4] = TimestampTzGetDatum(episode->last);
	values[5] = Int64GetDatum(sums.samples);
	values[6] = Float8GetDatum(sums.waiter_us / 1e6);
	values[7] = Float8GetDatum(sums.idle_us / 1e6);
	values[8] = show_interval(sums.longest_us);
	values[9] = Int32GetDatum(sums.most_waiters);
	values[10] = CStringGetTextDatum(GetLockNameFromTagType(episode->lock_type));
	values[11] = CStringGetTextDatum(GetLockmodeName(DEFAULT_LOCKMETHOD, Max(episode->mode, NoLock)));
	put_tag(&episode->tag, &values[12], &nulls[12]);
	values[16] = show_text(episode->row[0] ? episode->row : NULL, &nulls[16]);
	values[17] = pid_or_null(episode->blocker_pid, &nulls[17]);
	values[18] = instant(episode->blocker_xact, &nulls[18]);
	values[19] = show_text(episode->blocker_client[0] ? episode->blocker_client : NULL, &nulls[19]);
	values[20] = pid_or_null(episode->blocked_pid, &nulls[20]);
	values[21] = CStringGetTextDatum(locks_component_name(episode->blocker_class.component));
	values[22] = show_text(locks_rule_name(episode->blocker_class.rule), &nulls[22]);
	values[23] = CStringGetTextDatum(locks_component_name(episode->blocked_class.component));
	values[24] = show_text(locks_rule_name(episode->blocked_class.rule), &nulls[24]);
	put_statement(&episode->blocker, &values[25], &nulls[25]);
	put_statement(&episode->blocked, &values[28], &nulls[28]);
	show_row(fcinfo, values, nulls);
}

/* lock_episodes_open(telling boolean): what has come since it was written, of all or of those that are due */
Datum
airflow_bp_lock_episodes_open(PG_FUNCTION_ARGS)
{
	bool		telling = PG_GETARG_BOOL(0);
	DbState    *db;
	LockEpisode *episodes;
	int			n;

	show_begin(fcinfo);
	if ((db = shmem_db(false)) == NULL)
		return (Datum) 0;
	episodes = palloc((MAX_EPISODES + MAX_DATABASES) * sizeof(LockEpisode));
	n = locks_episodes(db, episodes, telling);
	for (int i = 0; i < n; i++)
		put_episode(fcinfo, &episodes[i]);
	return (Datum) 0;
}

/* lock_episode_done(id bigint, airflow_row text) returns void */
Datum
airflow_bp_lock_episode_done(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);

	if (db != NULL && !PG_ARGISNULL(0))
		locks_episode_done(db, PG_GETARG_INT64(0),
						   PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

static void
put_cycle(FunctionCallInfo fcinfo, const LockCycle *cycle)
{
	for (int i = 0; i < cycle->nedges; i++)
	{
		Datum		values[9] = {0};
		bool		nulls[9] = {0};

		values[0] = TimestampTzGetDatum(cycle->at);
		values[1] = pid_or_null(cycle->edges[i].pid, &nulls[1]);
		values[2] = pid_or_null(cycle->edges[i].blocked_by, &nulls[2]);
		values[3] = CStringGetTextDatum(locks_component_name(cycle->edges[i].class.component));
		values[4] = CStringGetTextDatum(cycle->edges[i].statement.text);
		put_tag(&cycle->edges[i].tag, &values[5], &nulls[5]);
		show_row(fcinfo, values, nulls);
	}
}

Datum
airflow_bp_lock_cycles(PG_FUNCTION_ARGS)
{
	LockCycle	cycles[MAX_CYCLES];
	DbState    *db;
	int			n;

	show_begin(fcinfo);
	if ((db = shmem_db(false)) == NULL)
		return (Datum) 0;
	n = locks_cycles(db, cycles);
	for (int i = 0; i < n; i++)
		put_cycle(fcinfo, &cycles[i]);
	return (Datum) 0;
}
