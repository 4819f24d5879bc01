/*
 * spi.c - running SQL from the worker.
 */
#include "compat.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "spi.h"

static void
spi_check(int code, const char *sql)
{
	if (code == SPI_ERROR_COPY || code == SPI_ERROR_TRANSACTION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a statement that a function runs cannot be COPY, BEGIN, COMMIT or the like: %s", sql)));
	if (code < 0)
		elog(ERROR, "SPI failed with %s: %s", SPI_result_code_string(code), sql);
}

#define FORMAT_INTO(buffer, format) \
	do { \
		va_list		args; \
		int			need; \
		initStringInfo(&(buffer)); \
		do { \
			va_start(args, format); \
			need = appendStringInfoVA(&(buffer), format, args); \
			va_end(args); \
			if (need > 0) \
				enlargeStringInfo(&(buffer), need); \
		} while (need > 0); \
	} while (0)

/* Read what is committed now; number of rows in SPI_tuptable. */
uint64
spi_query(const char *format,...)
{
	StringInfoData sql;

	FORMAT_INTO(sql, format);
	spi_check(SPI_execute(sql.data, false, 0), sql.data);
	return SPI_processed;
}

/* Read with the snapshot given. */
uint64
spi_query_at(Snapshot snapshot, const char *format,...)
{
	StringInfoData sql;
	SPIPlanPtr	plan;

	FORMAT_INTO(sql, format);
	plan = SPI_prepare(sql.data, 0, NULL);
	if (plan == NULL)
		spi_check(SPI_result, sql.data);
	spi_check(SPI_execute_snapshot(plan, NULL, NULL, snapshot, InvalidSnapshot,
								   true, false, 0), sql.data);
	return SPI_processed;
}

/* Write; number of rows. */
uint64
spi_write(int nargs, Oid *types, Datum *values, const char *nulls, const char *format,...)
{
	StringInfoData sql;

	FORMAT_INTO(sql, format);
	spi_check(SPI_execute_with_args(sql.data, nargs, types, values, nulls, false, 0),
			  sql.data);
	return SPI_processed;
}

/* Columns are numbered from 1.  NULL when the value is. */
char *
spi_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static Datum
spi_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

bool
spi_null(uint64 row, int column)
{
	bool		isnull;

	(void) spi_datum(row, column, &isnull);
	return isnull;
}

/* Of a bigint. */
int64
spi_int(uint64 row, int column, int64 if_null)
{
	bool		isnull;
	Datum		value = spi_datum(row, column, &isnull);

	return isnull ? if_null : DatumGetInt64(value);
}

bool
spi_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = spi_datum(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

/* 0 when NULL. */
TimestampTz
spi_instant(uint64 row, int column)
{
	bool		isnull;
	Datum		value = spi_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}
