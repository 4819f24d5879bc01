-- Pools where the library is not preloaded: plans and writes by hand, nobody is held.
CREATE DATABASE regress_plain_pool;
\c regress_plain_pool
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/airflow_3_0_6.sql'
\set tasks :top '/test/fixtures/tasks.sql'
\set ECHO none
SET client_min_messages = warning;
\i :setup
CREATE EXTENSION airflow_bp;
\i :tasks
SET client_min_messages = error;
SELECT airflow_bp.enable() \g /dev/null
RESET client_min_messages;
\set ECHO all
\set SHOW_CONTEXT never
SELECT test.tasks('a1', 1, 7, state => 'scheduled'), test.tasks('a1', 8, 9, state => 'running');
UPDATE slot_pool SET slots = 3;
SELECT airflow_bp.set_pool('default_pool', 1, 20, act => true);
SELECT * FROM airflow_bp.pool_plan();
SELECT airflow_bp.pool_apply();
SELECT * FROM airflow_bp.pool_plan();
SELECT airflow_bp.drop_pool('default_pool');
SELECT slots FROM slot_pool;
SELECT action, old, new FROM airflow_bp.act ORDER BY act_id;
-- Without Airflow.
SELECT airflow_bp.set_pool('default_pool', 1, 20);
DROP TABLE slot_pool;
SELECT * FROM airflow_bp.pool_plan();
ALTER TABLE alembic_version RENAME TO gone;
SELECT * FROM airflow_bp.pool_plan();
SELECT airflow_bp.pool_apply();
SELECT airflow_bp.set_pool('default_pool', 1, 20);
SELECT airflow_bp.drop_pool('default_pool');
\c postgres
DROP DATABASE regress_plain_pool;
