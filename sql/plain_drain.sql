-- Drains where the library is not preloaded: nothing is held, and nobody is told that it is.
CREATE DATABASE regress_plain_drain;
\c regress_plain_drain
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
SELECT test.tasks('a1', 1, 2, state => 'scheduled'), test.tasks('a1', 3, 3, state => 'running'), test.tasks('a1', 4, 4, state => 'restarting'),
	test.tasks('a1', 5, 5, state => 'deferred'), test.tasks('a1', 6, 6, state => 'up_for_retry'), test.tasks('b1', 1, 1);
SELECT airflow_bp.drain_start('deployment');
SELECT answer, reason, active, example, detail FROM airflow_bp.may_i_upgrade();
-- One that came with a dump.
INSERT INTO airflow_bp.drain (scope, finish, left_at_start, in_force_at) VALUES ('deployment', 'tasks', 10, now());
SELECT scope, state, in_force, scheduled, running, deferred, waiting, runs, held, round(progress::numeric, 2) AS progress, eta FROM airflow_bp.drain_status();
SELECT answer, reason, active, example FROM airflow_bp.may_i_upgrade();
SELECT note LIKE '%drains not in force: 1%' AS told FROM airflow_bp.status();
SELECT airflow_bp.drain_turn();
SELECT test.ask('b1', 1);
SELECT airflow_bp.drain_stop(id) FROM airflow_bp.drain;
SELECT count(*) FROM airflow_bp.drain_status();
-- Without Airflow.
ALTER TABLE alembic_version RENAME TO gone;
SELECT airflow_bp.drain_start('deployment');
SELECT airflow_bp.may_i_upgrade();
SELECT airflow_bp.drain_status();
\c postgres
DROP DATABASE regress_plain_drain;
