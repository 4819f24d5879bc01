/*
 * version.h - is the library of the same version as the SQL objects?
 */
#ifndef AIRFLOW_BP_VERSION_H
#define AIRFLOW_BP_VERSION_H

#include "postgres.h"

extern const char version_of_library[];

extern char *version_of_objects(void);
extern char *version_of_others(void);
extern void version_check(void);

#endif							/* AIRFLOW_BP_VERSION_H */
