-- How fast the schedulers are, where the library is not preloaded.
CREATE DATABASE regress_plain_speed;
\c regress_plain_speed
CREATE EXTENSION airflow_bp;
\pset null '(null)'
\getenv top PG_ABS_SRCDIR
\set fixture :top '/test/fixtures/airflow_3_1_8.sql'
\set craft :top '/test/fixtures/craft.sql'
\set ECHO none
CREATE SCHEMA "plain 3.1.8";
SET search_path = "plain 3.1.8";
\i :fixture
\i :craft
\set ECHO all
SELECT craft.put('dag_bundle', '{"name": "b"}'), craft.dag('d'), craft.run('d', 'r'), craft.put('job', jsonb_build_object('id', 1, 'job_type', 'SchedulerJob',
	'state', 'running', 'latest_heartbeat', now())) \g /dev/null
RESET search_path;
SELECT schedulers, running_runs, looks_per_min, look_lag_max > '1 hour' AS lag, never_looked, admissions_per_min, queued_per_min, examine_window_loops
FROM airflow_bp.scheduler_loops();
SELECT job_id, job_type, threshold, alive FROM airflow_bp.job_heartbeats();
SELECT dag_id, duration, import_errors FROM airflow_bp.dag_parses();
SELECT component, connections, per_hour FROM airflow_bp.connections() WHERE component = '(all)';
SELECT count(*) FROM airflow_bp.hot_tables();
SELECT count(*) FROM airflow_bp.slow_statements();
SELECT airflow_bp.gauge_turn() AS written \gset
SELECT count(*) = :written AS shown, count(*) FILTER (WHERE name = 'look_lag_max') AS lags, count(*) FILTER (WHERE name = 'admissions_per_min') AS admissions
FROM airflow_bp.gauges();
SELECT airflow_bp.gauge_roll();
\c postgres
DROP DATABASE regress_plain_speed;
