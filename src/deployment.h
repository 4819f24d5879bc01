/*
 * deployment.h - which Airflow is in this database, as it was seen last.
 */
#ifndef AIRFLOW_BP_DEPLOYMENT_H
#define AIRFLOW_BP_DEPLOYMENT_H

#include "postgres.h"

typedef struct Deployment
{
	char		airflow_schema[NAMEDATALEN];	/* empty: no Airflow here */
	bool		head_known;		/* its alembic head */
	bool		gate_enabled;	/* our triggers are there */
} Deployment;

extern void deployment_init(void);
extern void deployment_forget(void);
extern const Deployment *deployment_look(void);

#endif							/* AIRFLOW_BP_DEPLOYMENT_H */
