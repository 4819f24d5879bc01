/*
 * locks_copy.c - one copy of the locks that somebody waits for.
 *
 * Locks: all partitions of the lock table, shared, in their order, and nothing
 * else while they are held.
 */
#include "compat.h"

#include "access/twophase.h"
#include "common/ip.h"
#include "postmaster/bgworker.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "locks_copy.h"

/* Airflow's transaction lock over its critical section. */
#define CRITICAL_SECTION_KEY 2
#define COPY_TRIES 4

/* Prepared transactions stand behind all processes. */
static int
count_procs(void)
{
	return ProcGlobal->allProcCount + max_prepared_xacts;
}

/* A first look without locks: the copy tells. */
bool
locks_anybody_waits(Oid db)
{
	for (int i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];

		if (proc->databaseId == db && proc->waitStatus == PROC_WAIT_STATUS_WAITING)
			return true;
	}
	return false;
}

static int
node_of(LocksCopy *copy, PGPROC *proc)
{
	PGPROC	   *leader = proc->lockGroupLeader != NULL ? proc->lockGroupLeader : proc;
	int		   *node = &copy->node_of[leader - ProcGlobal->allProcs];

	if (*node < 0)
	{
		*node = copy->graph.nnodes++;
		copy->sessions[*node] = (LockSession) {.pid = leader->pid, .xid = leader->xid, .waits = -1};
	}
	return *node;
}

static bool
copy_holders(LocksCopy *copy, LOCK *lock, ContendedLock *to)
{
	to->holder = copy->nholders;
	to->nholders = 0;
	for (PROCLOCK *held = NULL; (held = lock_next_holder(lock, held)) != NULL;)
	{
		if (held->holdMask == 0)
			continue;
		if (copy->nholders == copy->holders_room)
			return false;
		copy->holders[copy->nholders++] = (LockHolder) {node_of(copy, held->tag.myProc), held->holdMask};
		to->nholders++;
	}
	return true;
}

/* Who waits for a transaction has locked the tuple that it wants from it. */
static void
find_wanted(PGPROC *proc, LockWait *wait)
{
	const LOCKTAG *waits_for = &proc->waitLock->tag;

	wait->wants = *waits_for;
	if (waits_for->locktag_type != LOCKTAG_TRANSACTION)
		return;
	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
	{
		for (PROCLOCK *held = NULL; (held = proc_next_lock(proc, i, held)) != NULL;)
		{
			if (held->tag.myLock->tag.locktag_type != LOCKTAG_TUPLE || held->holdMask == 0)
				continue;
			wait->wants = held->tag.myLock->tag;
			return;
		}
	}
}

static void
copy_waiters(LocksCopy *copy, LOCK *lock, ContendedLock *to)
{
	to->waiter = copy->nwaiters;
	for (PGPROC *proc = NULL; (proc = lock_next_waiter(lock, proc)) != NULL;)
	{
		int			node = node_of(copy, proc);
		int			place = copy->nwaiters++;

		copy->waiters[place] = (LockWaiter) {node, proc->waitLockMode};
		copy->waits[place].since = pg_atomic_read_u64(&proc->waitStart);
		copy->copied[proc - ProcGlobal->allProcs] = true;
		find_wanted(proc, &copy->waits[place]);
		if (copy->sessions[node].waits < 0)
			copy->sessions[node].waits = place;
	}
	to->nwaiters = copy->nwaiters - to->waiter;
}

/* The caller holds all partitions.  False when there is no room for the holders. */
static bool
copy_contended(LocksCopy *copy, Oid db)
{
	for (int i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];
		ContendedLock *to = &copy->locks[copy->graph.nlocks];

		if (proc->databaseId != db || proc->waitLock == NULL || copy->copied[i])
			continue;
		copy->tags[copy->graph.nlocks++] = proc->waitLock->tag;
		copy_waiters(copy, proc->waitLock, to);
		if (!copy_holders(copy, proc->waitLock, to))
			return false;
	}
	return true;
}

static bool
copy_once(LocksCopy *copy, Oid db)
{
	bool		whole;

	copy->graph.nlocks = copy->graph.nnodes = copy->nholders = copy->nwaiters = 0;
	memset(copy->node_of, -1, count_procs() * sizeof(int));
	memset(copy->copied, false, count_procs() * sizeof(bool));
	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
		LWLockAcquire(LockHashPartitionLockByIndex(i), LW_SHARED);
	copy->at = GetCurrentTimestamp();
	whole = copy_contended(copy, db);
	for (int i = NUM_LOCK_PARTITIONS; --i >= 0;)
		LWLockRelease(LockHashPartitionLockByIndex(i));
	return whole;
}

static LocksCopy *
copy_room(void)
{
	int			procs = count_procs();
	LocksCopy  *copy = palloc0(sizeof(LocksCopy));

	copy->waiters = palloc(procs * sizeof(LockWaiter));
	copy->waits = palloc(procs * sizeof(LockWait));
	copy->locks = palloc0(procs * sizeof(ContendedLock));
	copy->tags = palloc(procs * sizeof(LOCKTAG));
	copy->sessions = palloc(procs * sizeof(LockSession));
	copy->node_of = palloc(procs * sizeof(int));
	copy->copied = palloc(procs * sizeof(bool));
	copy->holders_room = 4 * procs;
	copy->holders = palloc(copy->holders_room * sizeof(LockHolder));
	return copy;
}

/* Index by pid, for finding sessions. */
typedef struct PidNode
{
	int			pid;
	int			node;
} PidNode;

static int
pid_order(const void *a, const void *b)
{
	return ((const PidNode *) a)->pid - ((const PidNode *) b)->pid;
}

/* Address of the client; NULL: a local socket, or none. */
char *
locks_client(const PgBackendStatus *entry)
{
	char		host[NI_MAXHOST];

	if (entry->st_clientaddr.addr.ss_family != AF_INET && entry->st_clientaddr.addr.ss_family != AF_INET6)
		return NULL;
	if (pg_getnameinfo_all(&entry->st_clientaddr.addr, entry->st_clientaddr.salen, host, sizeof(host),
						   NULL, 0, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return NULL;
	return pstrdup(host);
}

/* What a process does, read anew; NULL: there is none.  The caller clears the snapshot that it is in. */
const PgBackendStatus *
locks_activity(int pid)
{
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		const PgBackendStatus *entry = &pgstat_get_local_beentry_by_index(i)->backendStatus;

		if (entry->st_procpid == pid)
			return entry;
	}
	return NULL;
}

static bool
is_ours(const PgBackendStatus *entry)
{
	const char *type;

	if (entry->st_backendType != B_BG_WORKER)
		return false;
	type = GetBackgroundWorkerTypeByPid(entry->st_procpid);
	return type != NULL && strncmp(type, "airflow_bp", 10) == 0;
}

/* What a session is by its kind, its name and its statement. */
LockClass
locks_classify(const PgBackendStatus *entry, const char *statement)
{
	if (is_ours(entry))
		return (LockClass) {LOCKS_OURS, LOCKS_RULE_OUR_WORKER};
	if (entry->st_backendType == B_AUTOVAC_WORKER)
		return (LockClass) {LOCKS_VACUUM, LOCKS_RULE_AUTOVACUUM};
	return locks_class(statement, entry->st_appname);
}

static void
fill_session(LockSession *session, const PgBackendStatus *entry)
{
	session->known = true;
	session->state = entry->st_state;
	session->backend_start = entry->st_proc_start_timestamp;
	session->xact_start = entry->st_xact_start_timestamp;
	session->state_change = entry->st_state_start_timestamp;
	session->application = pstrdup(entry->st_appname);
	session->statement = pgstat_clip_activity(entry->st_activity_raw);
	session->client = locks_client(entry);
	session->class = locks_classify(entry, session->statement);
}

/* A process that started after the copy has the pid of one that is gone. */
static void
read_activity(LocksCopy *copy)
{
	int			n = copy->graph.nnodes;
	PidNode    *index = palloc(n * sizeof(PidNode));

	for (int i = 0; i < n; i++)
		index[i] = (PidNode) {copy->sessions[i].pid, i};
	qsort(index, n, sizeof(PidNode), pid_order);
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		const PgBackendStatus *entry = &pgstat_get_local_beentry_by_index(i)->backendStatus;
		PidNode		key = {entry->st_procpid, 0};
		PidNode    *found = bsearch(&key, index, n, sizeof(PidNode), pid_order);

		if (found != NULL && key.pid != 0 && entry->st_proc_start_timestamp <= copy->at)
			fill_session(&copy->sessions[found->node], entry);
	}
	pgstat_clear_backend_activity_snapshot();
}

static void
solve(LocksCopy *copy)
{
	LockGraph  *graph = &copy->graph;
	void	   *room;

	graph->holders = copy->holders;
	graph->waiters = copy->waiters;
	graph->locks = copy->locks;
	graph->conflicts = (const uint32_t *) GetLockTagsMethodTable(&copy->tags[0])->conflictTab;
	room = MemoryContextAllocHuge(CurrentMemoryContext, Max(locks_graph_room(graph), 1));
	graph->edges = MemoryContextAllocHuge(CurrentMemoryContext,
										  Max(locks_graph_edges(graph, NULL, room), 1) * sizeof(LockEdge));
	locks_graph_edges(graph, graph->edges, room);
	graph->nodes = palloc(Max(graph->nnodes, 1) * sizeof(LockNode));
	graph->order = palloc(Max(graph->nnodes, 1) * sizeof(int));
	locks_graph_solve(graph, MemoryContextAllocHuge(CurrentMemoryContext, locks_graph_solve_room(graph)));
}

/* Copy the waits of a database, in the current memory context.  No nodes: nobody waits. */
LocksCopy *
locks_copy(Oid db)
{
	LocksCopy  *copy = copy_room();

	for (int try = 1; !copy_once(copy, db); try++)
	{
		if (try == COPY_TRIES)
		{
			copy->cut = true;
			break;
		}
		copy->holders_room *= 8;
		copy->holders = repalloc_huge(copy->holders, (Size) copy->holders_room * sizeof(LockHolder));
	}
	if (copy->graph.nnodes > 0)
	{
		read_activity(copy);
		solve(copy);
	}
	return copy;
}

/* A tuple that somebody who waits for a lock wants, else the lock. */
const LOCKTAG *
locks_wanted(const LocksCopy *copy, int lock)
{
	const ContendedLock *of = &copy->locks[lock];

	for (int i = of->waiter; i < of->waiter + of->nwaiters; i++)
	{
		if (copy->waits[i].wants.locktag_type == LOCKTAG_TUPLE)
			return &copy->waits[i].wants;
	}
	return &copy->tags[lock];
}

/* Lock that the waiter at a place waits for.  Waiters lie by lock, in the order of the locks. */
int
locks_of_waiter(const LocksCopy *copy, int place)
{
	int			low = 0;
	int			high = copy->graph.nlocks - 1;

	while (low < high)
	{
		int			middle = (low + high + 1) / 2;

		if (copy->locks[middle].waiter <= place)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Of the locks by which a node blocks others, the one most wait for, and its strongest mode; -1: none. */
int
locks_held(const LocksCopy *copy, int node, LOCKMODE *mode)
{
	int			best = -1;

	for (int i = 0; i < copy->graph.nedges; i++)
	{
		const LockEdge *edge = &copy->graph.edges[i];

		if (edge->to == node && (best < 0 || copy->locks[edge->lock].nwaiters > copy->locks[best].nwaiters))
			best = edge->lock;
	}
	*mode = NoLock;
	for (int i = 0; best >= 0 && i < copy->locks[best].nholders; i++)
	{
		const LockHolder *holder = &copy->holders[copy->locks[best].holder + i];

		for (LOCKMODE m = 1; holder->node == node && m <= MaxLockMode; m++)
			*mode = (holder->modes & LOCKBIT_ON(m)) ? Max(*mode, m) : *mode;
	}
	return best;
}

/* Who is in the critical section of Airflow's schedulers; 0: nobody. */
pid_t
locks_critical_holder(Oid db, LocalTransactionId *lxid)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;
	PGPROC	   *proc;

	SET_LOCKTAG_ADVISORY(tag, db, 0, CRITICAL_SECTION_KEY, 1);
	holders = GetLockConflicts(&tag, ExclusiveLock, NULL);
	*lxid = holders[0].localTransactionId;
	if (!VirtualTransactionIdIsValid(holders[0]))
		return 0;
	proc = compat_vxid_proc(holders[0]);
	return proc == NULL ? 0 : proc->pid;
}

bool
locks_is_idle(BackendState state)
{
	return state == STATE_IDLEINTRANSACTION || state == STATE_IDLEINTRANSACTION_ABORTED;
}
