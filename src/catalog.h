/*
 * catalog.h - where Airflow's columns are.
 *
 * Columns are found by name in the descriptor that the trigger is handed and
 * kept until a relcache invalidation.  No catalog lookup is made.
 */
#ifndef AIRFLOW_BP_CATALOG_H
#define AIRFLOW_BP_CATALOG_H

#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "shmem.h"
#include "state.h"

/* What the gate reads of a task_instance row.  Strings point into the slot. */
typedef struct TaskRow
{
	Str			dag_id;
	Str			run_id;
	Str			pool;
	Str			queue;
	Str			executor;
	Str			state_name;		/* tells finished states apart */
	TaskState	state;
	int32		slots;
	int32		priority;
	int32		try_number;
	int32		max_tries;
	TimestampTz scheduled;		/* 0: NULL */
	pg_uuid_t	id;
} TaskRow;

extern void catalog_init(void);
extern bool catalog_knows_tasks(Relation rel);
extern int	catalog_missing_column(void);
extern const char *catalog_column_name(int column);
extern bool catalog_touches_task(const Bitmapset *updated);
extern bool catalog_read_task(TupleTableSlot *slot, TaskRow *row);
extern bool catalog_read_text(TupleTableSlot *slot, AttrNumber attno, Str *out);
extern AttrNumber catalog_column(TupleDesc desc, const char *name, Oid type);

#endif							/* AIRFLOW_BP_CATALOG_H */
