/*
 * pending.h - what the open transaction has done to the counters.
 *
 * Kept in fixed arrays of the backend, aware of savepoints, and applied when
 * the transaction is over.  Nothing here allocates or fails; when an array is
 * full, the rest is left to a recount.
 */
#ifndef AIRFLOW_BP_PENDING_H
#define AIRFLOW_BP_PENDING_H

#include "account.h"

extern void pending_init(void);
extern bool pending_any(void);
extern ClassEntry *pending_class(DbState *db, const TaskRow *row);
extern void pending_move(DbState *db, const TaskRow *from, ClassEntry *from_class,
						 const TaskRow *to, ClassEntry *to_class);
extern void pending_reserve(DbState *db, ClassEntry *class, int tenant, int64 slots);
extern void pending_enter(DbState *db, ClassEntry *class, int64 slots);
extern void pending_admitted(DbState *db);
extern void pending_lost(DbState *db);

#endif							/* AIRFLOW_BP_PENDING_H */
