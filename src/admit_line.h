/*
 * admit_line.h - what the fill knows of lines.  Pure: no PostgreSQL.
 */
#ifndef AIRFLOW_BP_ADMIT_LINE_H
#define AIRFLOW_BP_ADMIT_LINE_H

#include "admit.h"

extern bool admit_task_before(const HeapNode *a, const HeapNode *b);
extern bool admit_shape_before(const HeapNode *a, const HeapNode *b);
extern AdmitTask *admit_shape_first(const AdmitShape *shape);
extern int64_t admit_shape_age(const AdmitShape *shape, int64_t now);
extern void admit_shape_rank(AdmitShape *shape, const AdmitOrder *order, int64_t now);
extern double admit_shape_flow_usage(const AdmitShape *shape, const AdmitOrder *order, int64_t now);
extern void admit_shape_admitted(AdmitShape *shape, const AdmitOrder *order, int64_t now);

#endif							/* AIRFLOW_BP_ADMIT_LINE_H */
