/*
 * gate.h - the triggers on Airflow's tables, and the tasks they hold.
 *
 * The held table is protected by shmem->lock.  An entry is in its tenant's line
 * while it waits; it leaves the line with a grant or when it can never run.
 */
#ifndef AIRFLOW_BP_GATE_H
#define AIRFLOW_BP_GATE_H

#include "account.h"

typedef struct HeldKey
{
	Oid			db;
	pg_uuid_t	id;				/* task_instance.id */
} HeldKey;

typedef enum HeldState
{
	HELD_ASIDE,					/* tenant unknown yet, never fits, or let a grant lapse */
	HELD_WAITING,				/* in line */
	HELD_GRANTED,				/* may pass at its next ask */
	HELD_PASSING,				/* passed in an open transaction */
} HeldState;

typedef struct HeldEntry
{
	HeldKey		key;
	HeldState	state;
	AdmitReason reason;
	int			tenant;			/* index, or NO_TENANT */
	int32		slots;
	AdmitRank	rank;
	bool		was_granted;	/* while passing */
	ClassEntry *class;			/* pinned */
	Key			run;
	TimestampTz last_asked;
	TimestampTz granted_at;
	uint64		asks;
	pairingheap_node place;
} HeldEntry;

extern Size gate_shmem_size(void);
extern void gate_shmem_startup(void);
extern Key	gate_run_key(Str dag_id, Str run_id);

/* End of a (sub)transaction.  The caller holds shmem->lock exclusively. */
extern bool gate_idle(void);
extern bool gate_commit(DbState *db);
extern void gate_abort(DbState *db, int level);
extern void gate_subcommit(int level);

/* At once, where slots have become free; takes the locks itself. */
extern void gate_grant(DbState *db);

/* A copy of the held table; its classes are pinned until gate_copy_done(). */
extern int	gate_copy(DbState *db, HeldEntry *out, int room);
extern void gate_copy_done(HeldEntry *copy, int n);
typedef void (*HeldVisitor) (HeldEntry *entry, void *arg);
extern void gate_each_held(DbState *db, HeldVisitor visit, void *arg);
extern void gate_sum(DbState *db, int64 *counts, TimestampTz *oldest);

/* For the worker.  The caller holds shmem->lock exclusively. */
extern void gate_clear(DbState *db);
extern void gate_place_all(DbState *db);
extern void gate_expire(DbState *db, TimestampTz now);

#endif							/* AIRFLOW_BP_GATE_H */
