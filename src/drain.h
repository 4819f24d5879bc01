/*
 * drain.h - drains of maintenance, compiled into the classes of tasks.
 *
 * ClassEntry.drained_from says what is held; DbState.drained_from is that of the
 * drains of the whole deployment, which classes start with.
 */
#ifndef AIRFLOW_BP_DRAIN_H
#define AIRFLOW_BP_DRAIN_H

#include "account.h"

/* A drain, read from the table. */
typedef struct DrainRow
{
	int64		id;
	bool		deployment;
	bool		by_tenant;
	NameKind	kind;			/* of the name, else */
	Key			name;
	int			tenant;
	bool		finish_runs;
	TimestampTz since;
} DrainRow;

typedef struct DrainList
{
	int			n;
	int			unnoted;		/* of which the table does not say that they are in force */
	DrainRow   *rows;
	bool		loosened;		/* something is drained less than it was */
} DrainList;

/* Needs SPI. */
extern DrainList drain_read(DbState *db);
extern void drain_in_force(DbState *db, const DrainList *list);

/* The caller of these holds shmem->lock exclusively. */
extern void drain_apply(DbState *db, DrainList *list);
extern void drain_forget(DbState *db);

#endif							/* AIRFLOW_BP_DRAIN_H */
