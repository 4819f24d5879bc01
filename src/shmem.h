/*
 * shmem.h - shared memory: what is in it, and the locks over it.
 *
 * Everything hangs off one ShmemRoot.  It exists only when the library is
 * preloaded; else shmem is NULL and every caller must say so or admit.
 *
 * Locks, in the order they may be taken together:
 *	 shmem->lock	counters, names, tenants, held table, databases
 *	 shmem->park_lock	runs (park.c)
 *	 shmem->log_lock	ring of decisions (log.c)
 *	 shmem->locks_lock	what the sampler has seen (locks_sample.c)
 * All are held for at most some table scans in memory, never across I/O, SPI or
 * anything that can fail.
 */
#ifndef AIRFLOW_BP_SHMEM_H
#define AIRFLOW_BP_SHMEM_H

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#include "admit.h"
#include "drain_state.h"

#define ERRCODE_BP_NAME MAKE_SQLSTATE('B', 'P', '0', '0', '1')
#define ERRCODE_BP_NUMBER MAKE_SQLSTATE('B', 'P', '0', '0', '2')
#define ERRCODE_BP_CONFLICT MAKE_SQLSTATE('B', 'P', '0', '0', '4')
#define ERRCODE_BP_UNAVAILABLE MAKE_SQLSTATE('B', 'P', '0', '0', '5')
#define ERRCODE_BP_NESTING MAKE_SQLSTATE('B', 'P', '0', '0', '7')
#define ERRCODE_BP_STRUCTURE MAKE_SQLSTATE('B', 'P', '0', '0', '8')

#define MAX_DATABASES 8
#define MAX_STEPS 24
#define NO_TENANT (-1)
#define NOTE_BYTES 256

/* 128 bits of hash over a database and some strings; see key_of(). */
typedef struct Key
{
	uint64		high;
	uint64		low;
} Key;

/* A piece of text inside a row or a shared name; not terminated. */
typedef struct Str
{
	const char *data;
	int			len;			/* -1: NULL */
} Str;

/* What a recount has seen: the transactions that its snapshot sees as over. */
typedef struct SeenXids
{
	bool		active;
	TransactionId xmin;
	TransactionId xmax;
	int			count;
	TransactionId *xip;
} SeenXids;

#define FAILED_RING 1024

/* Tasks that have failed for good since the last sweep; see stuck.c. */
typedef struct FailedRing
{
	uint64		head;			/* next to write */
	uint64		tail;			/* next to take */
	uint64		lost;			/* found no place since the last full look */
	pg_uuid_t	ids[FAILED_RING];
} FailedRing;

/* How far the sweep over stuck tasks has come; see stuck.c. */
typedef struct StuckSweep
{
	char		after_dag[1024];	/* dag_id has at most 250 characters */
	int32		after_run;
	int32		runs;			/* at a time */
	int64		after_letter;
	TimestampTz began;			/* the present pass; 0: none */
	TimestampTz ended;			/* the last whole pass */
	int64		took;
} StuckSweep;

/* A minute of the clock, in a ring of so many. */
#define RATE_MINUTES 16

/* Tasks of a database that entered scheduled and queued in one minute. */
typedef struct EntryMinute
{
	uint32		minute;
	uint32		n[2];
} EntryMinute;

/* One database with triggers of ours, or with a worker. */
typedef struct DbState
{
	Oid			db;				/* InvalidOid: free */
	AdmitMode	mode;
	bool		may_enforce;	/* alembic head known, columns there */
	bool		ready;			/* counters are exact */
	bool		recount_wanted;
	bool		limited;		/* some tenant has a limit */
	bool		draining;		/* some drain is in force */
	int64		drained_from;	/* by drains of the whole deployment; drain_state.h */
	TimestampTz since;			/* start of the present wait for readiness */
	TimestampTz counted_since;	/* start of the rates */
	uint64		policy_version; /* compiled */
	uint64		policy_wanted;	/* committed */
	Latch	   *worker_latch;
	pid_t		worker_pid;
	TimestampTz last_tick;
	int64		tick_us;
	int64		drift_slots;
	TimestampTz drift_at;
	int64		held;			/* entries of the held table */
	int64		held_lost;		/* asks held without a place: table full */
	dlist_head	asked;			/* held entries, the longest unasked first */
	dlist_head	granted;		/* the oldest grant first */
	int32		due;			/* first root of a tree in which somebody may go */
	AdmitOrder	order;			/* from the settings of the worker */
	int32		ahead;			/* admitted beyond what a pool or DAG can take; -1: no limit */
	int64		unresolved;		/* classes without a tenant */
	int			tenants_lost;	/* tenants and cohorts that found no place */
	int			cohorts_cut;	/* cohorts in a cycle or nested too deep */
	bool		prepared;		/* a prepared transaction took deltas with it */
	int64		prepared_mark;	/* of the prepared transactions there are */
	bool		enabled;		/* our triggers are there */
	TimestampTz enabled_at;		/* when they were made */
	TimestampTz log_from;		/* the same by the present clock, which may have been set back */
	int			missing;		/* column of task_instance, from 1; 0: none */
	bool		dropping;		/* DROP DATABASE has stopped the worker */
	TimestampTz last_full;		/* last whole turn */
	TimestampTz last_recount;
	TimestampTz step_at[MAX_STEPS]; /* last start of each step of a turn */
	int64		recount_us;
	char		note[NOTE_BYTES];	/* last error of the worker */
	SeenXids	seen;			/* by the running recount */
	StuckSweep	stuck;
	FailedRing	failed;
	EntryMinute entered[RATE_MINUTES];
	uint64		ticks_tail;		/* looks of the sampler that are written */
	TimestampTz ticks_written;
	pg_atomic_uint64 fail_open;
} DbState;

typedef struct ShmemRoot
{
	LWLock	   *lock;
	LWLock	   *park_lock;
	LWLock	   *log_lock;
	LWLock	   *locks_lock;
	DbState		dbs[MAX_DATABASES];
	volatile TransactionId *committing; /* by backend: not applied yet */
} ShmemRoot;

extern ShmemRoot *shmem;

extern void shmem_init(void);
extern DbState *shmem_db(bool create);
extern DbState *shmem_find_db(Oid db);
extern void shmem_forget_dropped(void);
extern void shmem_committing(TransactionId xid);
extern bool shmem_all_applied(const SeenXids *seen);
extern bool shmem_db_has_worker(Oid db);
extern void shmem_wake_worker(DbState *db);
extern Key	key_of(int kind, const Str *strs, int nstrs);
extern HTAB *shmem_table(const char *name, long entries, Size entry_size);
extern void *shmem_enter(HTAB *table, long max, const void *key, bool *found);
extern bool str_equal(Str a, Str b);

#define KEY_NAME 1
#define KEY_CLASS 2
#define KEY_RUN 3

#endif							/* AIRFLOW_BP_SHMEM_H */
