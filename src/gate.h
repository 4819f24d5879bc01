/*
 * gate.h - the triggers on Airflow's tables.
 */
#ifndef AIRFLOW_BP_GATE_H
#define AIRFLOW_BP_GATE_H

#include "shmem.h"

extern Key	gate_run_key(Str dag_id, Str run_id);

/* End of a (sub)transaction.  The caller holds shmem->lock exclusively. */
extern bool gate_idle(void);
extern void gate_commit(DbState *db);
extern void gate_abort(DbState *db, int level);
extern void gate_subcommit(int level);

#endif							/* AIRFLOW_BP_GATE_H */
