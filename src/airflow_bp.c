/*
 * airflow_bp.c - entry point of the library.
 */
#include "compat.h"

#include "fmgr.h"

#include "catalog.h"
#include "deployment.h"
#include "guc.h"
#include "park.h"
#include "pending.h"
#include "policy.h"
#include "shmem.h"
#include "worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	guc_init(process_shared_preload_libraries_in_progress);
	if (!process_shared_preload_libraries_in_progress)
		return;
	shmem_init();
	catalog_init();
	deployment_init();
	pending_init();
	policy_init();
	park_init();
	worker_init();
}
