/*
 * pool.c - writing to a table of Airflow.
 *
 * Triggers, constraints and indexes of the table run code of its owner, so the
 * statement runs with the rights of the owner and not with ours.
 */
#include "compat.h"

#include "access/relation.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "shmem.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(airflow_bp_write_as_owner);

/* An error leaves it to the abort to restore user and settings. */
static uint64
execute_as(Oid user, const char *statement)
{
	Oid			caller;
	int			context;
	int			nest;
	uint64		written;

	GetUserIdAndSecContext(&caller, &context);
	SetUserIdAndSecContext(user, context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	nest = NewGUCNestLevel();
	SPI_connect();
	written = spi_write(0, NULL, NULL, NULL, "%s", statement);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	SetUserIdAndSecContext(caller, context);
	return written;
}

/* write_as_owner(relation regclass, statement text) returns bigint: rows written */
Datum
airflow_bp_write_as_owner(PG_FUNCTION_ARGS)
{
	Relation	relation = try_relation_open(PG_GETARG_OID(0), RowExclusiveLock);
	uint64		written;

	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_BP_NAME),
				 errmsg("there is no relation with OID %u", PG_GETARG_OID(0)),
				 errhint("It may have been dropped just now; try again.")));
	written = execute_as(relation->rd_rel->relowner, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	relation_close(relation, NoLock);
	PG_RETURN_INT64((int64) written);
}
