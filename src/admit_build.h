/*
 * admit_build.h - trees and lines out of rows that somebody wrote.
 *
 * Pure: no PostgreSQL, no memory of its own but what qsort() takes.  The caller
 * fills the rows, gives zeroed room for what is made of them, and calls
 * admit_build() once.  Numbers in the rows must have passed admit_build_number();
 * all else is checked here.  What comes out does not depend on the order of the
 * rows.
 *
 *	AdmitBuild	build = {.nodes = ..., .nnodes = ..., .by_name = ..., ...};
 *	BuildFault	fault = admit_build(&build);
 *
 * Then build.by_name[] holds all nodes in order of name, linked and prepared;
 * those without node.parent go to admit_fill_add() one after the other.
 */
#ifndef AIRFLOW_BP_ADMIT_BUILD_H
#define AIRFLOW_BP_ADMIT_BUILD_H

#include <stddef.h>

#include "admit.h"

typedef enum BuildError
{
	BUILD_OK,
	BUILD_EMPTY_NAME,
	BUILD_NAME_TWICE,			/* name: of two nodes */
	BUILD_TASK_TWICE,			/* name: id of two tasks */
	BUILD_UNKNOWN_COHORT,		/* name: of the cohort; user: of the node below it */
	BUILD_UNKNOWN_TENANT,		/* name: of the tenant; user: id of the task */
	BUILD_UNKNOWN_USER,			/* name: of a tenant said to use slots */
	BUILD_UNLIMITED,			/* name: of a node that may not be */
	BUILD_CYCLE,				/* name: of a node in it or below it */
	BUILD_TOO_DEEP,				/* name: of the node at the bottom */
} BuildError;

typedef struct BuildFault
{
	BuildError	error;
	const char *name;
	const char *user;
} BuildFault;

typedef enum BuildNumber
{
	BUILD_SLOTS, BUILD_PRIORITY, BUILD_SECONDS, BUILD_SPAN, BUILD_WEIGHT
} BuildNumber;

/* A cohort or a tenant. */
typedef struct BuildNode
{
	AdmitNode	node;			/* name and policy are given */
	const char *parent;			/* name of the cohort above, or NULL */
	bool		cohort;
	size_t		place;			/* in by_name */
	int64_t		admitted_tasks; /* for the caller to count in */
	int64_t		admitted_slots;
	int64_t		held_tasks;
	int64_t		held_slots;
} BuildNode;

/* Slots in use. */
typedef struct BuildUse
{
	const char *tenant;
	const char *flow;			/* NULL: none */
	int64_t		slots;
} BuildUse;

/* A task that waits. */
typedef struct BuildTask
{
	AdmitTask	task;			/* asked is given */
	const char *id;
	const char *tenant;
	const char *flow;			/* NULL: none */
	int64_t		priority;
	int64_t		slots;
	BuildNode  *node;
	bool		admitted;		/* for the caller */
} BuildTask;

typedef struct BuildFlow
{
	AdmitFlow	flow;
	const BuildNode *node;
	const char *name;
} BuildFlow;

typedef struct AdmitBuild
{
	BuildNode  *nodes;
	size_t		nnodes;
	BuildUse   *uses;
	size_t		nuses;
	BuildTask  *tasks;
	size_t		ntasks;
	int64_t		now;			/* at which flows start */

	/* room for the caller to give */
	BuildNode **by_name;		/* nnodes */
	BuildTask **lines;			/* ntasks: by tenant, flow, priority, slots, age */
	AdmitShape *shapes;			/* ntasks */
	BuildFlow  *flows;			/* ntasks */
	size_t		nflows;
} AdmitBuild;

extern bool admit_build_number(BuildNumber kind, double value);
extern BuildNode *admit_build_find(const AdmitBuild *build, const char *name, bool cohort);
extern BuildFault admit_build(AdmitBuild *build);

#endif							/* AIRFLOW_BP_ADMIT_BUILD_H */
