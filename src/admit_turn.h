/*
 * admit_turn.h - when the turn of a waiting task comes.  Pure: no PostgreSQL.
 */
#ifndef AIRFLOW_BP_ADMIT_TURN_H
#define AIRFLOW_BP_ADMIT_TURN_H

#include <stddef.h>

#include "admit.h"

/* A tenant that gives slots back. */
typedef struct AdmitSource
{
	AdmitNode  *tenant;
	double		period;			/* seconds in which it gives one back */
	double		next;			/* when it does so */
} AdmitSource;

extern double admit_turn(const AdmitOrder *order, int64_t now, const AdmitTask *task,
						 AdmitSource *sources, size_t nsources);

#endif							/* AIRFLOW_BP_ADMIT_TURN_H */
