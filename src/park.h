/*
 * park.h - runs at which a look of the scheduler is useless (parking).
 *
 * The runs table is protected by shmem->park_lock.
 */
#ifndef AIRFLOW_BP_PARK_H
#define AIRFLOW_BP_PARK_H

#include "catalog.h"

extern void park_init(void);
extern Size park_shmem_size(void);
extern void park_shmem_startup(void);

/* Called by the gate; may be called with shmem->lock held where it says so. */
extern void park_task_changed(DbState *db, const TaskRow *from, const TaskRow *to);
extern void park_run_useful(DbState *db, Key run);	/* at once, any lock order */
extern bool park_run_parked(DbState *db, Key run);
extern int64 park_count(DbState *db);	/* parked runs */
extern void park_turn(DbState *db);	/* of the worker, in a transaction with SPI */

#endif							/* AIRFLOW_BP_PARK_H */
