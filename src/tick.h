/*
 * tick.h - one turn of the worker.
 */
#ifndef AIRFLOW_BP_TICK_H
#define AIRFLOW_BP_TICK_H

#include "shmem.h"

extern bool tick_due(DbState *db, TimestampTz now);
extern void tick_exclude(void);
extern void tick_include(void);
extern bool tick_whole(DbState *db, bool own_timeout);

#endif							/* AIRFLOW_BP_TICK_H */
