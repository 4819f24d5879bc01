/*
 * worker.h - the launcher, and a worker for each database of airflow_bp.database.
 */
#ifndef AIRFLOW_BP_WORKER_H
#define AIRFLOW_BP_WORKER_H

#include "postgres.h"

extern void worker_init(void);
extern PGDLLEXPORT void airflow_bp_launcher(Datum arg);
extern PGDLLEXPORT void airflow_bp_worker(Datum arg);

#endif							/* AIRFLOW_BP_WORKER_H */
