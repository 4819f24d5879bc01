/*
 * locks_copy.h - one copy of the locks that somebody waits for, and of what the
 * sessions in it do.
 *
 * The copy is taken while all partitions of the lock table are share-locked, so
 * it is of one instant, as that of pg_locks.  Only locks with waiters are read,
 * and no memory is allocated meanwhile.  The activity is read right after.
 */
#ifndef AIRFLOW_BP_LOCKS_COPY_H
#define AIRFLOW_BP_LOCKS_COPY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/lock.h"
#include "utils/backend_status.h"

#include "locks_class.h"
#include "locks_graph.h"

/* A node of the graph. */
typedef struct LockSession
{
	int			pid;			/* 0: a prepared transaction */
	TransactionId xid;			/* of the whole transaction, if it has one */
	int			waits;			/* its place among the waiters; -1: none */
	bool		known;			/* what follows is there */
	BackendState state;
	TimestampTz backend_start;
	TimestampTz xact_start;		/* 0: none */
	TimestampTz state_change;
	const char *application;
	char	   *statement;		/* running, or the last one; may be empty */
	char	   *client;			/* address; NULL: a local socket or no client */
	LockClass	class;
} LockSession;

/* Of each waiter. */
typedef struct LockWait
{
	TimestampTz since;			/* 0: just now */
	LOCKTAG		wants;			/* tuple locked to wait for a transaction, else that lock */
} LockWait;

typedef struct LocksCopy
{
	TimestampTz at;
	LockGraph	graph;
	LockHolder *holders;
	LockWaiter *waiters;
	LockWait   *waits;
	ContendedLock *locks;
	LOCKTAG    *tags;			/* by lock */
	LockSession *sessions;		/* by node */
	int			nholders;
	int			nwaiters;
	int			holders_room;
	bool		cut;			/* more holders than there was room for */
	int		   *node_of;		/* by process */
	bool	   *copied;			/* by process: its queue is in the copy */
} LocksCopy;

extern bool locks_anybody_waits(Oid db);
extern LocksCopy *locks_copy(Oid db);
extern const LOCKTAG *locks_wanted(const LocksCopy *copy, int lock);
extern int	locks_of_waiter(const LocksCopy *copy, int place);
extern int	locks_held(const LocksCopy *copy, int node, LOCKMODE *mode);
extern pid_t locks_critical_holder(Oid db, LocalTransactionId *lxid);
extern const PgBackendStatus *locks_activity(int pid);
extern char *locks_client(const PgBackendStatus *entry);
extern LockClass locks_classify(const PgBackendStatus *entry, const char *statement);
extern bool locks_is_idle(BackendState state);

#endif							/* AIRFLOW_BP_LOCKS_COPY_H */
