/*
 * guc.h - settings.  Times in milliseconds unless the name says otherwise.
 */
#ifndef AIRFLOW_BP_GUC_H
#define AIRFLOW_BP_GUC_H

#define DEFAULT_MAX_HELD 50000
#define DEFAULT_MAX_TENANTS 1000
#define DEFAULT_MAX_DAGS 10000
#define DEFAULT_MAX_RUNS 20000

extern char *guc_database;
extern char *guc_airflow_schema;
extern int	guc_max_held;
extern int	guc_max_tenants;
extern int	guc_max_dags;
extern int	guc_max_runs;
extern int	guc_startup_hold;
extern int	guc_ask_timeout;
extern int	guc_grant_timeout;
extern int	guc_ready_grace;
extern int	guc_park_for;
extern int	guc_recount_period;
extern int	guc_lock_sample_period;
extern int	guc_log_retention_days;
extern int	guc_letter_retention_days;
extern int	guc_max_age;
extern int	guc_admit_ahead;
extern int	guc_age_priority;
extern int	guc_age_tasks;
extern int	guc_usage_half_life;
extern int	guc_task_queued_timeout;
extern int	guc_task_queued_check;
extern int	guc_heartbeat_timeout;
extern int	guc_scheduler_threshold;
extern int	guc_triggerer_threshold;
extern int	guc_orphans_check;
extern bool guc_parking;

extern void guc_init(bool preloaded);

#endif							/* AIRFLOW_BP_GUC_H */
