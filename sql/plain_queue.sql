-- Queue analysis where the library is not preloaded.
-- In a database of its own: only there is the Airflow to find the only one.
CREATE DATABASE regress_plain_queue;
\c regress_plain_queue
CREATE EXTENSION airflow_bp;
\pset null '(null)'
\getenv top PG_ABS_SRCDIR
\set fixture :top '/test/fixtures/airflow_3_1_8.sql'
\set load :top '/test/fixtures/load.sql'
\set ECHO none
CREATE SCHEMA "plain 3.1.8";
SET search_path = "plain 3.1.8";
\i :fixture
\i :load
\set ECHO all
SELECT load_gen.load(seed => 3, dags => 5, runs => 4, tasks => 10) \g /dev/null
RESET search_path;
SET airflow_bp.airflow_schema = 'plain 3.1.8';
SELECT (SELECT sum(tasks) FROM airflow_bp.waiting_summary()) = (SELECT count(*) FROM airflow_bp.waiting()) AS summary,
	(SELECT waiting FROM airflow_bp.queue_by_deployment) = (SELECT count(*) FROM airflow_bp.waiting()) AS depth;
-- What shared memory alone knows is unknown, not nothing.
SELECT scope_name, waiting > 0 AS waiting, held, arrivals_per_min, starts_per_min, finishes_per_min, growth_per_min, clears_in
FROM airflow_bp.queue('deployment');
SELECT * FROM airflow_bp.queue_rates('deployment');
SELECT count(*) FROM airflow_bp.queue_from_memory('pool', '{}');
-- Numbers of a DAG that no interval or integer can hold stop nobody.
SELECT airflow_bp.seconds(n) FROM unnest('{1.5,-1e300,1e300,Infinity,NaN,NULL}'::float8[]) n;
SELECT task_id, max_tis_per_dag, max_tis_per_dagrun FROM airflow_bp.serialized_tasks('{"dag": {"tasks": [
	{"__var": {"task_id": "a", "max_active_tis_per_dag": 1e10, "max_active_tis_per_dagrun": 3}}, {"__var": {"task_id": "b"}}]}}');
\c postgres
DROP DATABASE regress_plain_queue;
