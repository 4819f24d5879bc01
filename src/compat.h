/*
 * compat.h - the only place that looks at the server's version.
 *
 * Wrappers carry the newest server's signature.
 */
#ifndef AIRFLOW_BP_COMPAT_H
#define AIRFLOW_BP_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "airflow_bp needs PostgreSQL 15 or later"
#endif

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/backend_status.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 160000
/* Of functions only. */
#define object_aclcheck(classid, objectid, roleid, mode) \
	pg_proc_aclcheck((objectid), (roleid), (mode))
#endif

/* Index of this backend, from 0, below MaxBackends. */
#if PG_VERSION_NUM >= 170000
#define my_backend_index() (MyProcNumber)
#else
#include "storage/backendid.h"
#define my_backend_index() (MyBackendId - 1)
#endif

/* Lists of the lock manager: each returns the next after prev, the first after NULL, NULL at the end. */
#if PG_VERSION_NUM >= 160000
static inline dlist_node *
compat_next_node(dlist_head *head, dlist_node *prev)
{
	dlist_node *next;

	if (prev == NULL)
		return dlist_is_empty(head) ? NULL : dlist_head_node(head);
	next = prev->next;
	return next == &head->head ? NULL : next;
}

static inline PROCLOCK *
lock_next_holder(LOCK *lock, PROCLOCK *prev)
{
	dlist_node *node = compat_next_node(&lock->procLocks, prev ? &prev->lockLink : NULL);

	return node == NULL ? NULL : dlist_container(PROCLOCK, lockLink, node);
}

static inline PROCLOCK *
proc_next_lock(PGPROC *proc, int partition, PROCLOCK *prev)
{
	dlist_node *node = compat_next_node(&proc->myProcLocks[partition], prev ? &prev->procLink : NULL);

	return node == NULL ? NULL : dlist_container(PROCLOCK, procLink, node);
}

static inline PGPROC *
lock_next_waiter(LOCK *lock, PGPROC *prev)
{
	dlist_node *node = compat_next_node(&lock->waitProcs.dlist, prev ? &prev->links : NULL);

	return node == NULL ? NULL : dlist_container(PGPROC, links, node);
}
#else
static inline PROCLOCK *
lock_next_holder(LOCK *lock, PROCLOCK *prev)
{
	return (PROCLOCK *) SHMQueueNext(&lock->procLocks, prev ? &prev->lockLink : &lock->procLocks,
									 offsetof(PROCLOCK, lockLink));
}

static inline PROCLOCK *
proc_next_lock(PGPROC *proc, int partition, PROCLOCK *prev)
{
	SHM_QUEUE  *head = &proc->myProcLocks[partition];

	return (PROCLOCK *) SHMQueueNext(head, prev ? &prev->procLink : head, offsetof(PROCLOCK, procLink));
}

static inline PGPROC *
lock_next_waiter(LOCK *lock, PGPROC *prev)
{
	SHM_QUEUE  *head = &lock->waitProcs.links;

	return (PGPROC *) SHMQueueNext(head, prev ? &prev->links : head, offsetof(PGPROC, links));
}
#endif

/* Sessions of the local copy of all activity, from 1. */
#if PG_VERSION_NUM < 160000
#define pgstat_get_local_beentry_by_index(index) pgstat_fetch_stat_local_beentry(index)
#endif

/* Process of a virtual transaction; NULL when it is gone. */
#if PG_VERSION_NUM >= 170000
#include "storage/procarray.h"
#define compat_vxid_proc(vxid) ProcNumberGetProc((vxid).procNumber)
#else
#include "storage/sinvaladt.h"
#define compat_vxid_proc(vxid) BackendIdGetProc((vxid).backendId)
#endif

#endif							/* AIRFLOW_BP_COMPAT_H */
