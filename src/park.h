/*
 * park.h - runs at which a look of the scheduler is useless (parking).
 *
 * The runs and their DAGs are protected by shmem->park_lock.
 */
#ifndef AIRFLOW_BP_PARK_H
#define AIRFLOW_BP_PARK_H

#include "lib/ilist.h"

#include "catalog.h"
#include "park_state.h"

typedef struct ParkDag
{
	Key			key;
	int32		db;				/* index in shmem->dbs */
	int32		runs;			/* entries that point here */
	int32		run_id;			/* dag_run.id of one of its runs */
	ParkDagState state;
} ParkDag;

typedef struct ParkRun
{
	Key			key;
	ParkDag    *dag;
	int32		id;				/* dag_run.id */
	Oid			trigger;		/* that saw the look */
	bool		listed;			/* in ParkDb.looked */
	dlist_node	place;
	TimestampTz started;		/* 0: before anybody looked */
	ParkState	state;
} ParkRun;

typedef struct ParkDb
{
	uint64		all;			/* mark on every run */
	bool		blind;			/* a prepared transaction took marks with it */
	int32		nlooked;
	dlist_head	looked;			/* runs to settle: looked at, and not marked since */
	int32		batch;			/* of them to settle by one query */
	TimestampTz versions_at;	/* next check of the versions */
	TimestampTz sweep_at;		/* next search for runs that are gone */
} ParkDb;

/* A run as the worker takes it from the table and puts it back. */
typedef struct ParkJob
{
	Key			key;
	int32		id;
	uint32		looks;
} ParkJob;

extern void park_init(void);
extern Size park_shmem_size(void);
extern void park_shmem_startup(void);

/* Called by the gate in Airflow's transaction; takes effect at commit. */
extern void park_task_changed(DbState *db, const TaskRow *from, const TaskRow *to);
extern void park_lost(void);

/* At once; the caller may hold shmem->lock. */
extern void park_run_useful(DbState *db, Key run);
extern TimestampTz park_run_started(Key run);
extern bool park_run_parked(DbState *db, Key run);
extern bool park_run_away(DbState *db, Key run, int64 grace);
extern int64 park_count(DbState *db);

/* For the worker. */
extern bool park_due(DbState *db);
extern void park_turn(DbState *db, const char *airflow_schema);
extern ParkDb *park_db(DbState *db);
extern void park_note_start(DbState *db, Str dag_id, Str run_id, int32 id, TimestampTz started);
extern int	park_take_looked(DbState *db, ParkJob *jobs, int room);
extern void park_settle(DbState *db, const ParkJob *job, const ParkFacts *facts);
extern int	park_copy_runs(DbState *db, ParkJob *jobs, int room);
extern int	park_copy_dags(DbState *db, ParkJob *jobs, int room);
extern void park_forget(DbState *db, const ParkJob *job);
extern void park_version(DbState *db, const ParkJob *dag, int64 stamp);
extern void park_sighted(DbState *db);
extern void park_set_back(DbState *db);
extern void park_sweep_dags(DbState *db);
extern void park_forget_db(DbState *db);
extern int	park_copy_parked(DbState *db, ParkRun *out, int room);

#endif							/* AIRFLOW_BP_PARK_H */
