/*
 * guc.c - settings.
 */
#include "compat.h"

#include <limits.h>

#include "utils/guc.h"

#include "deployment.h"
#include "guc.h"

char	   *guc_database;
char	   *guc_airflow_schema;
int			guc_max_held = DEFAULT_MAX_HELD;
int			guc_max_tenants = DEFAULT_MAX_TENANTS;
int			guc_max_dags = DEFAULT_MAX_DAGS;
int			guc_max_runs = DEFAULT_MAX_RUNS;
int			guc_startup_hold;
int			guc_ask_timeout;
int			guc_grant_timeout;
int			guc_ready_grace;
int			guc_park_for;
int			guc_recount_period;
int			guc_lock_sample_period;
int			guc_log_retention_days;
int			guc_letter_retention_days;
int			guc_max_age;
int			guc_admit_ahead;
int			guc_age_priority;
int			guc_age_tasks;
int			guc_usage_half_life;
int			guc_task_queued_timeout;
int			guc_task_queued_check;
int			guc_heartbeat_timeout;
int			guc_scheduler_threshold;
int			guc_triggerer_threshold;
int			guc_orphans_check;
bool		guc_parking;

static void
define_capacity(const char *name, const char *what, int *value, int dflt, int most)
{
	DefineCustomIntVariable(name, what,
							"Takes shared memory; a full table admits and is counted in status().",
							value, dflt, 16, most, PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static void
define_time(const char *name, const char *what, int *value, int dflt, int least)
{
	DefineCustomIntVariable(name, what, NULL, value, dflt, least, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* Off, or from a tenth of a second. */
static bool
check_lock_sample_period(int *value, void **extra, GucSource source)
{
	if (*value == 0 || *value >= 100)
		return true;
	GUC_check_errdetail("The sampler looks every 100 ms at most.");
	return false;
}

static void
airflow_schema_changed(const char *schema, void *extra)
{
	deployment_forget();
}

/* Settings that size shared memory exist only where it can still be had. */
static void
guc_init_preloaded(void)
{
	DefineCustomStringVariable("airflow_bp.database",
							   "Databases that get a background worker, separated by commas.",
							   NULL, &guc_database, "", PGC_POSTMASTER, GUC_LIST_INPUT,
							   NULL, NULL, NULL);
	define_capacity("airflow_bp.max_held", "Held tasks that keep their place in line.",
					&guc_max_held, DEFAULT_MAX_HELD, 10000000);
	define_capacity("airflow_bp.max_tenants", "Tenants, and a quarter as many cohorts.",
					&guc_max_tenants, DEFAULT_MAX_TENANTS, 1000000);
	define_capacity("airflow_bp.max_dags", "DAGs whose tasks are counted.",
					&guc_max_dags, DEFAULT_MAX_DAGS, 1000000);
	define_capacity("airflow_bp.max_runs", "Running DAG runs that may be parked.",
					&guc_max_runs, DEFAULT_MAX_RUNS, 10000000);
}

/* What airflow.cfg says; SQL reads them by name. */
static void
guc_init_airflow(void)
{
	define_time("airflow_bp.task_queued_timeout",
				"[scheduler] task_queued_timeout of airflow.cfg.",
				&guc_task_queued_timeout, 600 * 1000, 0);
	define_time("airflow_bp.task_queued_timeout_check_interval",
				"[scheduler] task_queued_timeout_check_interval of airflow.cfg.",
				&guc_task_queued_check, 120 * 1000, 0);
	define_time("airflow_bp.task_instance_heartbeat_timeout",
				"[scheduler] task_instance_heartbeat_timeout of airflow.cfg.",
				&guc_heartbeat_timeout, 300 * 1000, 0);
	define_time("airflow_bp.scheduler_health_check_threshold",
				"[scheduler] scheduler_health_check_threshold of airflow.cfg.",
				&guc_scheduler_threshold, 30 * 1000, 1000);
	define_time("airflow_bp.triggerer_health_check_threshold",
				"[triggerer] triggerer_health_check_threshold of airflow.cfg.",
				&guc_triggerer_threshold, 30 * 1000, 1000);
	define_time("airflow_bp.orphaned_tasks_check_interval",
				"[scheduler] orphaned_tasks_check_interval of airflow.cfg.",
				&guc_orphans_check, 300 * 1000, 0);
}

void
guc_init(bool preloaded)
{
	if (preloaded)
		guc_init_preloaded();
	DefineCustomStringVariable("airflow_bp.airflow_schema",
							   "Schema of the Airflow tables; empty: detect.",
							   NULL, &guc_airflow_schema, "", PGC_SUSET, 0,
							   NULL, airflow_schema_changed, NULL);
	define_time("airflow_bp.startup_hold",
				"How long the gate holds while the counters are not ready.",
				&guc_startup_hold, 10 * 1000, 0);
	define_time("airflow_bp.ask_timeout",
				"A held task that is not asked for again for this long loses its place.",
				&guc_ask_timeout, 2 * 60 * 1000, 1000);
	define_time("airflow_bp.grant_timeout",
				"A grant that is not used for this long returns.",
				&guc_grant_timeout, 60 * 1000, 1000);
	define_time("airflow_bp.ready_grace",
				"A task with nothing in its way is ready for this long, then it waits for the executor.",
				&guc_ready_grace, 10 * 1000, 0);
	define_time("airflow_bp.park_for",
				"Longest time between two looks at a parked run, spread by half either way.",
				&guc_park_for, 5 * 60 * 1000, 1000);
	define_time("airflow_bp.recount_period",
				"Time between two recounts that measure drift.",
				&guc_recount_period, 60 * 1000, 1000);
	define_time("airflow_bp.max_age",
				"Age at which a held task has gained airflow_bp.age_priority; 0: tasks do not age.",
				&guc_max_age, 60 * 60 * 1000, 0);
	define_time("airflow_bp.usage_half_life",
				"Half-life of the usage by which the DAGs of one tenant share; 0: they go by priority alone.",
				&guc_usage_half_life, 0, 0);
	DefineCustomIntVariable("airflow_bp.admit_ahead",
							"Slots of a pool, and tasks of a DAG, that may be admitted beyond what they can take; -1: any number.",
							NULL, &guc_admit_ahead, -1, -1, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("airflow_bp.age_priority",
							"Most that a held task gains by its age, in units of priority_weight.",
							NULL, &guc_age_priority, 100, 0, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("airflow_bp.age_tasks",
							"Held tasks of one tenant, priority and size that age at a time; 0: all.",
							NULL, &guc_age_tasks, 10, 0, INT_MAX, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("airflow_bp.lock_sample_period",
							"Time between two looks of the sampler at who waits for whom; 0: it does not look.",
							NULL, &guc_lock_sample_period, 1000, 0, 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							check_lock_sample_period, NULL, NULL);
	DefineCustomIntVariable("airflow_bp.log_retention",
							"Days that rows of the decision log are kept.",
							NULL, &guc_log_retention_days, 7, 1, 3650, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("airflow_bp.letter_retention",
							"Days that closed letters are kept.",
							NULL, &guc_letter_retention_days, 30, 1, 3650, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("airflow_bp.parking",
							 "Leave runs at which a look is useless out of the window of the scheduler.",
							 NULL, &guc_parking, false, PGC_SUSET, 0, NULL, NULL, NULL);
	guc_init_airflow();
	MarkGUCPrefixReserved("airflow_bp");
}
