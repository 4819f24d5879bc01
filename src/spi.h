/*
 * spi.h - running SQL from the worker.  Errors are raised as usual.
 *
 * The caller sees to it that search_path is pg_catalog, pg_temp.
 */
#ifndef AIRFLOW_BP_SPI_H
#define AIRFLOW_BP_SPI_H

#include "executor/spi.h"
#include "utils/snapshot.h"

extern uint64 spi_query(const char *format,...) pg_attribute_printf(1, 2);
extern uint64 spi_query_at(Snapshot snapshot, const char *format,...) pg_attribute_printf(2, 3);
extern uint64 spi_write(int nargs, Oid *types, Datum *values, const char *nulls,
						const char *format,...) pg_attribute_printf(5, 6);
extern char *spi_text(uint64 row, int column);
extern int64 spi_int(uint64 row, int column, int64 if_null);
extern bool spi_bool(uint64 row, int column);
extern TimestampTz spi_instant(uint64 row, int column);
extern bool spi_null(uint64 row, int column);

#endif							/* AIRFLOW_BP_SPI_H */
