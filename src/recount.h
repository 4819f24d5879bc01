/*
 * recount.h - counting the tables again, exactly, while transactions run.
 */
#ifndef AIRFLOW_BP_RECOUNT_H
#define AIRFLOW_BP_RECOUNT_H

#include "account.h"

/* What the last recount found for one tenant, in slots. */
typedef struct RecountRow
{
	int			tenant;			/* index */
	int64		counter;
	int64		counted;
} RecountRow;

extern int	recount(DbState *db, const char *airflow_schema, RecountRow *found);

#endif							/* AIRFLOW_BP_RECOUNT_H */
