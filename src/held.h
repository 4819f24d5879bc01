/*
 * held.h - the tasks that the gate holds, their lines and their grants.
 *
 * The held table is protected by shmem->lock.  An entry is in its tenant's line
 * while it waits; it leaves the line with a grant or when it can never run.
 * Each entry that does not pass is in a list of its database, by the time when
 * it is to be looked at again.
 */
#ifndef AIRFLOW_BP_HELD_H
#define AIRFLOW_BP_HELD_H

#include "account.h"

typedef struct HeldKey
{
	Oid			db;
	pg_uuid_t	id;				/* task_instance.id */
} HeldKey;

typedef enum HeldState
{
	HELD_ASIDE,					/* drained, no tenant yet, never fits, no room in line, or grant lapsed */
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
	int32		priority;
	uint32		asks;
	bool		was_granted;	/* while passing */
	bool		room;			/* its grant has room in pool and DAG */
	bool		undrained;		/* drains let its run finish, its last ask said */
	AdmitTask	task;			/* in line while it waits */
	ClassEntry *class;			/* pinned */
	Key			run;
	TimestampTz last_asked;
	TimestampTz listed_at;		/* granted, asked for, or looked at */
	dlist_node	listed;
} HeldEntry;

extern Size held_shmem_size(void);
extern void held_shmem_startup(void);

/* For the gate.  The caller holds shmem->lock exclusively. */
extern HeldKey held_key(DbState *db, const pg_uuid_t *id);
extern HeldEntry *held_find(const HeldKey *key);
extern HeldEntry *held_enter(DbState *db, const TaskRow *row, ClassEntry *class,
							 AdmitReason reason, Key run, TimestampTz now);
extern void held_refresh(DbState *db, HeldEntry *entry, const TaskRow *row, ClassEntry *class,
						 bool drained);
extern AdmitReason held_verdict(DbState *db, ClassEntry *class, HeldEntry *entry,
								int64 slots, TimestampTz now);
extern void held_asked(DbState *db, HeldEntry *entry, AdmitReason reason, TimestampTz now);
extern void held_pass(DbState *db, HeldEntry *entry);
extern void held_restore(DbState *db, HeldEntry *entry);
extern void held_remove(DbState *db, HeldEntry *entry);

/* At once, where slots have become free; takes the locks itself. */
extern void held_grant_all(DbState *db);

/* A copy of the table; its classes are pinned until held_copy_done(). */
extern int	held_copy(DbState *db, HeldEntry *out, int room);
extern void held_copy_done(HeldEntry *copy, int n);
typedef void (*HeldVisitor) (HeldEntry *entry, void *arg);
extern void held_each(DbState *db, HeldVisitor visit, void *arg);
extern void held_sum(DbState *db, int64 *counts, TimestampTz *oldest);

/* For the worker.  The caller holds shmem->lock exclusively. */
extern void held_clear(DbState *db);
extern void held_place_all(DbState *db);
extern void held_wake_drained(DbState *db);
extern void held_set_order(DbState *db);
extern void held_set_rooms(DbState *db, const char *airflow_schema);
extern void held_expire(DbState *db, TimestampTz now);
extern void held_set_back(DbState *db, TimestampTz now);

#endif							/* AIRFLOW_BP_HELD_H */
