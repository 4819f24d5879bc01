/*
 * locks_sample.c - the sampler.
 *
 * A look that fails is counted with its error, and the next one comes at its time.
 */
#include "compat.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "libpq/pqsignal.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "locks_sample.h"

/* A session looks at so many of its first statements, and then at one of so many. */
#define HEAR_ALL 200
#define HEAR_EACH 64
/* Ticks wait so long before they are written, several at once. */
#define TICKS_WAIT (10 * USECS_PER_SEC)

/* A session of which some statement told the component. */
typedef struct KnownSession
{
	int			pid;
	TimestampTz start;
	LockClass	class;			/* LOCKS_UNKNOWN: several, so a pooler is between */
} KnownSession;

typedef struct Locks
{
	SamplerState sampler;
	uint64		head;			/* ticks ever made */
	int64		last_id;
	int			open[MAX_DATABASES];	/* episodes */
	EpisodeRate rates[MAX_DATABASES];
	LockTick	ticks[MAX_TICKS];
	LockEpisode episodes[MAX_EPISODES + MAX_DATABASES];
	LockCycle	cycles[MAX_CYCLES];
	int			next_cycle;
	KnownSession known[FLEXIBLE_ARRAY_MEMBER];	/* by backend */
} Locks;

static Locks *locks;

Size
locks_shmem_size(void)
{
	return add_size(offsetof(Locks, known), mul_size(MaxBackends, sizeof(KnownSession)));
}

void
locks_shmem_startup(void)
{
	bool		found;

	locks = ShmemInitStruct("airflow_bp locks", locks_shmem_size(), &found);
	if (!found)
		memset(locks, 0, locks_shmem_size());
}

/* Waits of one look that belong to one episode. */
typedef struct WaitGroup
{
	uint64		key;
	int			waiters;
	int64		longest;
	int			node;			/* one that waits */
} WaitGroup;

/* What a node that waits waits for. */
static const LOCKTAG *
wanted(const LocksCopy *copy, int node)
{
	return &copy->waits[copy->sessions[node].waits].wants;
}

static uint64
group_key(const LocksCopy *copy, const uint64 *prints, int node)
{
	LOCKTAG		tag = *wanted(copy, node);

	/* its number says nothing, and is new each time */
	if (tag.locktag_type == LOCKTAG_TRANSACTION || tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION)
		tag.locktag_field1 = tag.locktag_field2 = 0;
	return hash_combine64(hash_combine64(prints[copy->graph.nodes[node].root], prints[node]),
						  hash_bytes_extended((unsigned char *) &tag, sizeof(tag), 0));
}

static int64
waited(const LocksCopy *copy, int place)
{
	TimestampTz since = copy->waits[place].since;

	return since == 0 ? 0 : Max(copy->at - since, 0);
}

/* Sort the waits of a look into groups; each waiter is in one, under the root of its tree. */
static int
make_groups(const LocksCopy *copy, WaitGroup *groups)
{
	uint64	   *prints = palloc(copy->graph.nnodes * sizeof(uint64));
	LockShape	shape;
	int			n = 0;

	for (int node = 0; node < copy->graph.nnodes; node++)
	{
		locks_shape(copy->sessions[node].known ? copy->sessions[node].statement : "", &shape);
		prints[node] = locks_print(&shape);
	}
	for (int node = 0; node < copy->graph.nnodes; node++)
	{
		int			place = copy->sessions[node].waits;
		WaitGroup		group = {.waiters = 1, .node = node};
		int			i = 0;

		if (place < 0)
			continue;
		group.longest = waited(copy, place);
		group.key = group_key(copy, prints, node);
		while (i < n && groups[i].key != group.key)
			i++;
		if (i == n)
			groups[n++] = group;
		else
		{
			groups[i].waiters++;
			groups[i].longest = Max(groups[i].longest, group.longest);
		}
	}
	return n;
}

/* The caller holds locks_lock. */
static LockEpisode *
find_episode(Oid db, uint64 key)
{
	for (int i = 0; i < MAX_EPISODES; i++)
	{
		LockEpisode *episode = &locks->episodes[i];

		if (episode->db == db && episode->key == key && !episode->over)
			return episode;
	}
	return NULL;
}

/* A free place, or the one for all that have none. */
static LockEpisode *
new_episode(int slot, Oid db, uint64 key, TimestampTz now)
{
	LockEpisode *rest = &locks->episodes[MAX_EPISODES + slot];
	LockEpisode *place = NULL;

	for (int i = 0; i < MAX_EPISODES && place == NULL; i++)
	{
		if (!OidIsValid(locks->episodes[i].db))
			place = &locks->episodes[i];
	}
	if (place == NULL || !episode_may_begin(&locks->rates[slot], MAX_EPISODES, now))
	{
		locks->sampler.crowded++;
		if (OidIsValid(rest->db))
		{
			rest->over = false;
			return rest;
		}
		place = rest;
		key = 0;
	}
	locks->last_id = Max(locks->last_id + 1, now);
	locks->open[slot]++;
	memset(place, 0, sizeof(LockEpisode));
	place->db = db;
	place->key = key;
	place->id = locks->last_id;
	place->began = now;
	return place;
}

/* What an earlier statement of a session has told.  The caller holds locks_lock. */
static LockClass
known_class(int pid, TimestampTz start)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		if (locks->known[i].pid == pid && locks->known[i].start == start)
			return locks->known[i].class;
	}
	return (LockClass) {LOCKS_UNKNOWN, 0};
}

/* Has an earlier statement of a session told its component? */
bool
locks_known_session(int pid, TimestampTz start, LockClass *class)
{
	if (locks == NULL)
		return false;
	LWLockAcquire(shmem->locks_lock, LW_SHARED);
	*class = known_class(pid, start);
	LWLockRelease(shmem->locks_lock);
	return class->component != LOCKS_UNKNOWN;
}

static LockClass
class_of(const LockSession *session)
{
	if (session->class.component != LOCKS_UNKNOWN || !session->known)
		return session->class;
	return known_class(session->pid, session->backend_start);
}

static void
describe(LockEpisode *episode, const LocksCopy *copy, const WaitGroup *group)
{
	const LockSession *blocked = &copy->sessions[group->node];
	const LockSession *blocker = &copy->sessions[copy->graph.nodes[group->node].root];

	episode->tag = *wanted(copy, group->node);
	episode->lock_type = copy->tags[locks_of_waiter(copy, blocked->waits)].locktag_type;
	episode->mode = copy->waiters[blocked->waits].mode;
	episode->blocker_class = class_of(blocker);
	episode->blocked_class = class_of(blocked);
	episode->blocker_pid = blocker->pid;
	episode->blocked_pid = blocked->pid;
	episode->blocker_xact = blocker->xact_start;
	strlcpy(episode->blocker_client, blocker->client ? blocker->client : "", CLIENT_BYTES);
	locks_shape(blocker->known ? blocker->statement : "", &episode->blocker);
	locks_shape(blocked->known ? blocked->statement : "", &episode->blocked);
}

/* A name for what had no place: no statement, no row. */
static void
describe_rest(LockEpisode *episode)
{
	episode->blocker.len = snprintf(episode->blocker.text, LOCKS_SHAPE_BYTES, "(several)");
	episode->blocked = episode->blocker;
}

static void
add_group(int slot, Oid db, const LocksCopy *copy, const WaitGroup *group, int64 stands_for)
{
	LockEpisode *episode = find_episode(db, group->key);
	const LockSession *blocker = &copy->sessions[copy->graph.nodes[group->node].root];

	if (episode == NULL)
		episode = new_episode(slot, db, group->key, copy->at);
	if (episode->key == 0)
		describe_rest(episode);
	else if (group->waiters > episode->sums.most_waiters)
		describe(episode, copy, group);
	episode_add(&episode->sums, group->waiters, stands_for,
				blocker->known && locks_is_idle(blocker->state), group->longest);
	episode->last = copy->at;
}

/* Sessions in the tree of a root that is itself blocked. */
static void
keep_cycle(Oid db, const LocksCopy *copy, int root)
{
	LockCycle  *cycle = &locks->cycles[locks->next_cycle++ % MAX_CYCLES];

	cycle->db = db;
	cycle->at = copy->at;
	cycle->nedges = 0;
	for (int i = 0; i < copy->graph.nedges && cycle->nedges < CYCLE_EDGES; i++)
	{
		const LockEdge *edge = &copy->graph.edges[i];
		const LockSession *session = &copy->sessions[edge->from];

		if (copy->graph.nodes[edge->from].root != root)
			continue;
		cycle->edges[cycle->nedges].pid = session->pid;
		cycle->edges[cycle->nedges].blocked_by = copy->sessions[edge->to].pid;
		cycle->edges[cycle->nedges].class = class_of(session);
		cycle->edges[cycle->nedges].tag = *wanted(copy, edge->from);
		locks_shape(session->known ? session->statement : "", &cycle->edges[cycle->nedges].statement);
		cycle->nedges++;
	}
}

static void
keep_waits(int slot, Oid db, const LocksCopy *copy, int64 stands_for)
{
	WaitGroup	   *groups = palloc(Max(copy->nwaiters, 1) * sizeof(WaitGroup));
	int			n = make_groups(copy, groups);

	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
		add_group(slot, db, copy, &groups[i], stands_for);
	for (int i = 0; i < copy->graph.nnodes; i++)
	{
		const LockNode *node = &copy->graph.nodes[i];

		if (node->root == i && node->nedges > 0)
			keep_cycle(db, copy, i);
	}
	LWLockRelease(shmem->locks_lock);
}

/* Episodes that this look has not seen are over. */
static void
end_episodes(int slot, Oid db, TimestampTz began)
{
	if (locks->open[slot] == 0)
		return;
	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(locks->episodes); i++)
	{
		LockEpisode *episode = &locks->episodes[i];

		if (episode->db == db && episode->last < began)
			episode->over = true;
	}
	LWLockRelease(shmem->locks_lock);
}

/* Who is in the critical section, from where, and for how long at most. */
static void
look_at_critical(LockTick *tick)
{
	const PgBackendStatus *holder;
	char	   *client;

	tick->critical_age = -1;
	tick->critical_pid = locks_critical_holder(tick->db, &tick->critical_xact);
	if (tick->critical_pid == 0)
		return;
	holder = locks_activity(tick->critical_pid);
	if (holder != NULL && holder->st_xact_start_timestamp != 0)
	{
		client = locks_client(holder);
		strlcpy(tick->critical_client, client ? client : "", CLIENT_BYTES);
		tick->critical_age = Max(tick->began - holder->st_xact_start_timestamp, 0);
	}
	pgstat_clear_backend_activity_snapshot();
}

static void
keep_tick(const LockTick *tick)
{
	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	locks->ticks[locks->head++ % MAX_TICKS] = *tick;
	LWLockRelease(shmem->locks_lock);
}

static void
look_at(int slot, LockTick *tick, int64 stands_for)
{
	Oid			db = tick->db;

	tick->began = GetCurrentTimestamp();
	look_at_critical(tick);
	if (locks_anybody_waits(db))
	{
		LocksCopy  *copy = locks_copy(db);

		tick->waiters = copy->nwaiters;
		tick->cut = copy->cut;
		if (copy->graph.nnodes > 0)
			keep_waits(slot, db, copy, stands_for);
	}
	end_episodes(slot, db, tick->began);
	tick->took = GetCurrentTimestamp() - tick->began;
}

/*
 * Each session looks at its own statements, as they are parsed.  A connection of
 * Airflow belongs to one process for its life, so one statement that only a
 * scheduler sends tells for all; most others are COMMIT and the like, so whoever
 * looks from time to time learns little.  What functions run is not looked at.
 */
void
locks_hear(const char *statement)
{
	static uint64 heard = 0;
	KnownSession *mine;
	LockClass	now;
	bool		before;

	if (locks == NULL || statement == NULL || statement != debug_query_string ||
		MyBackendType != B_BACKEND || (heard++ >= HEAR_ALL && heard % HEAR_EACH != 0))
		return;
	mine = &locks->known[my_backend_index()];
	before = mine->pid == MyProcPid && mine->start == MyStartTimestamp;
	now = locks_class(statement, NULL);
	if (now.component == LOCKS_UNKNOWN ||
		(before && (mine->class.component == LOCKS_UNKNOWN || mine->class.component == now.component)))
		return;
	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	*mine = (KnownSession) {MyProcPid, MyStartTimestamp, before ? (LockClass) {LOCKS_UNKNOWN, 0} : now};
	LWLockRelease(shmem->locks_lock);
}

static void
look_at_all(TimestampTz planned, LockTick *tick)
{
	SamplerState *sampler = &locks->sampler;
	TimestampTz now = GetCurrentTimestamp();
	int64		stands_for = locks_stands_for(sampler->last, now, tick->period);

	for (int slot = 0; slot < MAX_DATABASES; slot++)
	{
		Oid			db = shmem->dbs[slot].db;

		if (!OidIsValid(db))
			continue;
		*tick = (LockTick) {.db = db, .planned = planned, .period = tick->period};
		look_at(slot, tick, stands_for);
		keep_tick(tick);
	}
	sampler->last = now;
}

/* An error belongs to the look at the database at which it came. */
static void
keep_error(LockTick *tick, const ErrorData *error)
{
	SamplerState *sampler = &locks->sampler;

	tick->sqlstate = error->sqlerrcode;
	tick->took = GetCurrentTimestamp() - tick->began;
	if (OidIsValid(tick->db))
		keep_tick(tick);
	sampler->errors++;
	if (strncmp(sampler->error, error->message, NOTE_BYTES - 1) != 0)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("airflow_bp: a look of the sampler failed: %s", error->message)));
	strlcpy(sampler->error, error->message, NOTE_BYTES);
}

/* One look at all databases.  What it allocates goes; an error is kept, not raised. */
void
locks_look(TimestampTz planned)
{
	SamplerState *sampler = &locks->sampler;
	int64		wanted = guc_lock_sample_period * INT64CONST(1000);
	MemoryContext before = CurrentMemoryContext;
	MemoryContext mine = AllocSetContextCreate(before, "airflow_bp look", ALLOCSET_DEFAULT_SIZES);
	LockTick   *volatile tick;
	TimestampTz began = GetCurrentTimestamp();

	sampler->period = Max(sampler->period, wanted);
	MemoryContextSwitchTo(mine);
	tick = palloc0(sizeof(LockTick));
	tick->period = sampler->period;
	PG_TRY();
	{
		look_at_all(planned, (LockTick *) tick);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		LWLockReleaseAll();
		MemoryContextSwitchTo(mine);
		error = CopyErrorData();
		FlushErrorState();
		keep_error((LockTick *) tick, error);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(before);
	MemoryContextDelete(mine);
	sampler->ticks++;
	sampler->period = locks_next_period(sampler->period, wanted, GetCurrentTimestamp() - began);
}

/* Where no process samples, each turn of the worker or of pg_cron is a look. */
void
locks_look_in_turn(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (locks->sampler.pid == 0 && guc_lock_sample_period > 0 && !RecoveryInProgress() &&
		(now < locks->sampler.last ||
		 now - locks->sampler.last >= guc_lock_sample_period * INT64CONST(1000) / 2))
		locks_look(now);
}

/* Is there something that the worker should write? */
bool
locks_due(DbState *db, TimestampTz now)
{
	int			slot = db - shmem->dbs;
	uint64		ticks = locks->head - db->ticks_tail;
	bool		due = ticks > 0 && (now - db->ticks_written >= TICKS_WAIT || ticks > MAX_TICKS / 2);

	if (due || locks->open[slot] == 0)
		return due;
	LWLockAcquire(shmem->locks_lock, LW_SHARED);
	for (int i = 0; i < lengthof(locks->episodes) && !due; i++)
	{
		const LockEpisode *episode = &locks->episodes[i];

		due = episode->db == db->db && episode_due(episode->over, episode->began, episode->written, now);
	}
	LWLockRelease(shmem->locks_lock);
	return due;
}

SamplerState
locks_sampler_state(void)
{
	SamplerState state;

	LWLockAcquire(shmem->locks_lock, LW_SHARED);
	state = locks->sampler;
	LWLockRelease(shmem->locks_lock);
	return state;
}

/* Looks at a database that are not written yet; room for MAX_TICKS. */
int
locks_ticks(DbState *db, LockTick *out, uint64 *upto)
{
	int			n = 0;

	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	*upto = locks->head;
	if (locks->head - db->ticks_tail > MAX_TICKS)
	{
		if (db->ticks_tail > 0)
			locks->sampler.lost_ticks += locks->head - db->ticks_tail - MAX_TICKS;
		db->ticks_tail = locks->head - MAX_TICKS;
	}
	for (uint64 i = db->ticks_tail; i < locks->head; i++)
	{
		if (locks->ticks[i % MAX_TICKS].db == db->db)
			out[n++] = locks->ticks[i % MAX_TICKS];
	}
	LWLockRelease(shmem->locks_lock);
	return n;
}

void
locks_ticks_done(DbState *db, uint64 upto)
{
	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	if (upto <= locks->head)
		db->ticks_tail = Max(db->ticks_tail, upto);
	db->ticks_written = GetCurrentTimestamp();
	LWLockRelease(shmem->locks_lock);
}

/* Episodes of a database, all, or those that it is time to write; room for MAX_EPISODES + MAX_DATABASES. */
int
locks_episodes(DbState *db, LockEpisode *out, bool telling)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(locks->episodes); i++)
	{
		LockEpisode *episode = &locks->episodes[i];

		if (episode->db != db->db)
			continue;
		if (telling && !episode_due(episode->over, episode->began, episode->written, now))
			continue;
		if (telling)
			episode->told = episode->sums;
		out[n++] = *episode;
	}
	LWLockRelease(shmem->locks_lock);
	return n;
}

/* What was told last of an episode is written, with the row if that was found. */
void
locks_episode_done(DbState *db, int64 id, const char *row)
{
	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(locks->episodes); i++)
	{
		LockEpisode *episode = &locks->episodes[i];

		if (episode->db != db->db || episode->id != id)
			continue;
		episode->written = GetCurrentTimestamp();
		episode->written_to = episode->last;
		episode->written_sums = episode->told;
		if (row != NULL && strlen(row) < ROW_BYTES)
			strlcpy(episode->row, row, ROW_BYTES);
		if (episode->over && episode->told.samples == episode->sums.samples)
		{
			episode->db = InvalidOid;
			locks->open[db - shmem->dbs]--;
		}
	}
	LWLockRelease(shmem->locks_lock);
}

/* Cycles of a database, any age; room for MAX_CYCLES. */
int
locks_cycles(DbState *db, LockCycle *out)
{
	int			n = 0;

	LWLockAcquire(shmem->locks_lock, LW_SHARED);
	for (int i = 0; i < MAX_CYCLES; i++)
	{
		if (locks->cycles[i].db == db->db)
			out[n++] = locks->cycles[i];
	}
	LWLockRelease(shmem->locks_lock);
	return n;
}

/* A database is gone. */
void
locks_forget(DbState *db)
{
	LWLockAcquire(shmem->locks_lock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(locks->episodes); i++)
	{
		if (locks->episodes[i].db == db->db)
			locks->episodes[i].db = InvalidOid;
	}
	locks->open[db - shmem->dbs] = 0;
	LWLockRelease(shmem->locks_lock);
}

static void
sampler_exit(int code, Datum arg)
{
	locks->sampler.pid = 0;
}

/* Wait for the time of the next look, or for a signal; true when it has come. */
static bool
sampler_wait(TimestampTz planned)
{
	TimestampTz now = GetCurrentTimestamp();
	long		timeout = guc_lock_sample_period == 0 ? -1 : Max(planned - now + 999, 0) / 1000;

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
					 timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return guc_lock_sample_period > 0 && GetCurrentTimestamp() >= planned;
}

void
airflow_bp_sampler(Datum arg)
{
	TimestampTz planned = GetCurrentTimestamp();

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	locks->sampler.pid = MyProcPid;
	locks->sampler.began = planned;
	locks->sampler.period = 0;
	before_shmem_exit(sampler_exit, 0);
	for (;;)
	{
		planned = locks_planned_look(planned, locks->sampler.period, GetCurrentTimestamp());
		if (sampler_wait(planned))
		{
			locks_look(planned);
			planned = locks_next_look(planned, locks->sampler.period, GetCurrentTimestamp());
		}
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			locks->sampler.period = 0;
			planned = GetCurrentTimestamp();
		}
	}
}
