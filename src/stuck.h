/*
 * stuck.h - what the sweep over stuck tasks keeps in shared memory.
 */
#ifndef AIRFLOW_BP_STUCK_H
#define AIRFLOW_BP_STUCK_H

#include "shmem.h"

extern bool stuck_due(const DbState *db, TimestampTz now);
extern void stuck_failed(DbState *db, const pg_uuid_t *id);

#endif							/* AIRFLOW_BP_STUCK_H */
