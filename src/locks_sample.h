/*
 * locks_sample.h - the sampler: looks at the waits of each database with state of
 * ours at a period, and keeps what it saw in shared memory until the worker
 * writes it to tables.
 *
 * It is a process of its own, so that it sees also while the worker is busy, or
 * itself waits.  It touches no table.  Where it does not run, each turn looks.
 *
 * Lock: shmem->locks_lock, taken last.  Lengths are microseconds.
 */
#ifndef AIRFLOW_BP_LOCKS_SAMPLE_H
#define AIRFLOW_BP_LOCKS_SAMPLE_H

#include "locks_copy.h"
#include "locks_state.h"
#include "shmem.h"

#define MAX_EPISODES 400		/* at a time, and that begin in a minute; one more for the rest */
#define MAX_TICKS 1024			/* not written yet */
#define MAX_CYCLES 8
#define CYCLE_EDGES 8
#define CLIENT_BYTES 46
#define ROW_BYTES 256

/* One look at one database. */
typedef struct LockTick
{
	Oid			db;
	TimestampTz planned;
	TimestampTz began;
	int64		took;
	int64		period;
	int			waiters;
	bool		cut;			/* not all holders had room */
	int			sqlstate;		/* of an error; 0: none */
	pid_t		critical_pid;	/* in the critical section; 0: nobody */
	LocalTransactionId critical_xact;
	int64		critical_age;	/* of its transaction; -1: not known */
	char		critical_client[CLIENT_BYTES];
} LockTick;

/* Waits of the same statements for the same row or relation, look after look. */
typedef struct LockEpisode
{
	Oid			db;				/* InvalidOid: free */
	uint64		key;
	int64		id;				/* unlike any other, also after a restart */
	bool		over;
	TimestampTz began;
	TimestampTz last;			/* look that saw it */
	TimestampTz written;		/* 0: never */
	TimestampTz written_to;
	EpisodeSums sums;
	EpisodeSums told;			/* to who is writing it */
	EpisodeSums written_sums;
	LOCKTAG		tag;			/* row where it is known, else what is waited for */
	LOCKMODE	mode;
	uint8		lock_type;
	LockClass	blocker_class;
	LockClass	blocked_class;
	int			blocker_pid;	/* at the look with most waiters */
	int			blocked_pid;
	TimestampTz blocker_xact;
	char		blocker_client[CLIENT_BYTES];
	LockShape	blocker;
	LockShape	blocked;
	char		row[ROW_BYTES]; /* as the worker has found it; may be empty */
} LockEpisode;

/* Sessions that wait for each other, as a look has seen them. */
typedef struct LockCycle
{
	Oid			db;
	TimestampTz at;
	int			nedges;
	struct
	{
		int			pid;
		int			blocked_by;
		LockClass	class;
		LOCKTAG		tag;
		LockShape	statement;
	}			edges[CYCLE_EDGES];
} LockCycle;

typedef struct SamplerState
{
	pid_t		pid;			/* 0: no process samples */
	TimestampTz began;
	TimestampTz last;			/* look */
	int64		period;			/* in force; 0: none yet */
	int64		ticks;
	int64		errors;
	int64		lost_ticks;		/* never written */
	int64		crowded;		/* samples of episodes that had no place of their own */
	char		error[NOTE_BYTES];
} SamplerState;

extern Size locks_shmem_size(void);
extern void locks_shmem_startup(void);
extern void locks_look(TimestampTz planned);
extern void locks_look_in_turn(void);
extern bool locks_due(DbState *db, TimestampTz now);
extern SamplerState locks_sampler_state(void);
extern int	locks_ticks(DbState *db, LockTick *out, uint64 *upto);
extern void locks_ticks_done(DbState *db, uint64 upto);
extern int	locks_episodes(DbState *db, LockEpisode *out, bool telling);
extern void locks_episode_done(DbState *db, int64 id, const char *row);
extern int	locks_cycles(DbState *db, LockCycle *out);
extern void locks_hear(const char *statement);
extern bool locks_known_session(int pid, TimestampTz start, LockClass *class);
extern void locks_forget(DbState *db);
extern PGDLLEXPORT void airflow_bp_sampler(Datum arg);

#endif							/* AIRFLOW_BP_LOCKS_SAMPLE_H */
