/*
 * show.h - rows of functions that return them.
 */
#ifndef AIRFLOW_BP_SHOW_H
#define AIRFLOW_BP_SHOW_H

#include "funcapi.h"

extern void show_begin(FunctionCallInfo fcinfo);
extern TupleDesc show_one(FunctionCallInfo fcinfo);
extern void show_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls);
extern Datum show_text(const char *text, bool *isnull);
extern Datum show_interval(int64 us);

#endif							/* AIRFLOW_BP_SHOW_H */
