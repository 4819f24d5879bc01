/*
 * examine.h - the scheduler's query for the runs to look at.
 */
#ifndef AIRFLOW_BP_EXAMINE_H
#define AIRFLOW_BP_EXAMINE_H

extern void examine_init(void);

#endif							/* AIRFLOW_BP_EXAMINE_H */
