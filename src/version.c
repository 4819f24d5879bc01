/*
 * version.c - is the library of the same version as the SQL objects?
 *
 * A server keeps the library that it has started with, and ALTER EXTENSION
 * UPDATE changes the objects, so for a while they may differ.  Then the worker
 * stands still, and what returns rows refuses: the columns may not be those
 * that the library fills.  The triggers go on, whose entry points never change.
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "shmem.h"
#include "version.h"

const char	version_of_library[] = BP_VERSION;

PG_FUNCTION_INFO_V1(airflow_bp_library_version);

Datum
airflow_bp_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(version_of_library));
}

/* Of the SQL objects in this database; NULL: there are none. */
char *
version_of_objects(void)
{
	char	   *version = NULL;
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("airflow_bp"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/* The same when it is not ours; else NULL. */
char *
version_of_others(void)
{
	char	   *version = version_of_objects();

	return version != NULL && strcmp(version, version_of_library) != 0 ? version : NULL;
}

/* For what does not know which columns, or which functions, there are. */
void
version_check(void)
{
	char	   *others = version_of_others();

	if (others != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_BP_UNAVAILABLE),
				 errmsg("the library of airflow_bp is of version %s, its SQL objects are of %s",
						version_of_library, others),
				 errhint("See note in airflow_bp.status().")));
}
