/*
 * locks_class.h - what a statement is, and which component of Airflow sends it.
 *
 * Pure: no PostgreSQL, no memory of its own.  Any bytes are taken, whole or cut
 * off anywhere, as track_activity_query_size cuts them.  What is not certain is
 * LOCKS_UNKNOWN.
 */
#ifndef AIRFLOW_BP_LOCKS_CLASS_H
#define AIRFLOW_BP_LOCKS_CLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum LockComponent
{
	LOCKS_UNKNOWN,
	LOCKS_SCHEDULER,
	LOCKS_API_SERVER,
	LOCKS_DAG_PROCESSOR,
	LOCKS_TRIGGERER,
	LOCKS_MIGRATION,
	LOCKS_WORKER,
	LOCKS_OURS,
	LOCKS_PG_DUMP,
	LOCKS_VACUUM,
	NUM_LOCK_COMPONENTS
} LockComponent;

typedef struct LockClass
{
	LockComponent component;
	int			rule;			/* that says so; 0: none does */
} LockClass;

/* Rules that look at the session, not at its statement. */
#define LOCKS_RULE_OUR_WORKER 1
#define LOCKS_RULE_AUTOVACUUM 2
#define LOCKS_RULE_PG_DUMP 3

#define LOCKS_SHAPE_BYTES 256

/*
 * A statement without values: ASCII, literals are ?, of a list of columns the
 * first is left, and lists of values are one.
 */
typedef struct LockShape
{
	int			len;
	char		text[LOCKS_SHAPE_BYTES];
} LockShape;

extern void locks_shape(const char *statement, LockShape *shape);
extern uint64_t locks_print(const LockShape *shape);
extern void locks_label(const LockShape *shape, char *label, size_t size);
extern LockClass locks_class(const char *statement, const char *application);
extern const char *locks_component_name(LockComponent component);
extern const char *locks_rule_name(int rule);

#endif							/* AIRFLOW_BP_LOCKS_CLASS_H */
