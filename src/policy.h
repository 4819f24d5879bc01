/*
 * policy.h - tables of policy, compiled into shared memory.
 *
 * Compiled are: the mode, the tenants with their quotas, and for each class its
 * tenant.  It is put in force under one exclusive hold of shmem->lock, so the
 * gate sees the old policy or the new one.
 */
#ifndef AIRFLOW_BP_POLICY_H
#define AIRFLOW_BP_POLICY_H

#include "account.h"

#define DEFAULT_TENANT "default"

extern void policy_init(void);
extern void policy_compile(DbState *db);
extern void policy_resolve(DbState *db);

#endif							/* AIRFLOW_BP_POLICY_H */
