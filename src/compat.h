/*
 * compat.h - the only place that looks at the server's version.
 *
 * Wrappers carry the newest server's signature.
 */
#ifndef AIRFLOW_BP_COMPAT_H
#define AIRFLOW_BP_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "airflow_bp needs PostgreSQL 15 or later"
#endif

#include "miscadmin.h"

#if PG_VERSION_NUM < 160000
/* Of functions only. */
#define object_aclcheck(classid, objectid, roleid, mode) \
	pg_proc_aclcheck((objectid), (roleid), (mode))
#endif

/* Index of this backend, from 0, below MaxBackends. */
#if PG_VERSION_NUM >= 170000
#define my_backend_index() (MyProcNumber)
#else
#include "storage/backendid.h"
#define my_backend_index() (MyBackendId - 1)
#endif

#endif							/* AIRFLOW_BP_COMPAT_H */
