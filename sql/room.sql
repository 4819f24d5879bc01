-- No more in scheduled than a pool or a DAG can take, and a few.  No worker here: tick() is its turn.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.held AS
SELECT dag_id, reason, granted, count(*) AS tasks FROM airflow_bp.held() GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
CREATE VIEW test.scheduled AS
SELECT pool, sum(pool_slots) AS slots FROM task_instance WHERE state = 'scheduled' GROUP BY 1 ORDER BY 1;
INSERT INTO slot_pool (id, pool, slots, include_deferred) VALUES (101, 'small', 3, false), (102, 'endless', -1, false), (103, 'patient', 3, true);
INSERT INTO dag_bundle (name, active) VALUES ('b', true) ON CONFLICT DO NOTHING;
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits, timetable_type, partition_mapper_info)
SELECT dag, false, false, 'b', most, 0, false, 'x', '{}' FROM (VALUES ('w1', 100), ('w2', 100), ('w3', 2), ('w4', 100)) d (dag, most);
ALTER SYSTEM SET airflow_bp.admit_ahead = 1;
SELECT pg_reload_conf();
\c
SET search_path = airflow;
\set ECHO all

SELECT test.settled('airflow_bp.admit_ahead', '1');
SELECT test.tasks('w1', 1, 20, 'small'), test.tasks('w2', 1, 20, 'endless'), test.tasks('w3', 1, 20), test.tasks('w4', 1, 20, 'patient');
SELECT airflow_bp.enable('enforce');
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT * FROM airflow_bp.rooms() WHERE name ~ '^w|small|endless|patient' ORDER BY 1, 2;

-- Nobody has a limit: a pool and a DAG have room for what they can take and one more; the other pools go on.
SELECT test.ask('w1', 1, 10), test.ask('w2', 1, 20), test.ask('w3', 1, 10);
SELECT * FROM test.held;
-- What comes free goes to the highest priority.
UPDATE task_instance SET priority_weight = 7 WHERE id = test.id('w1', 12);
SELECT test.ask('w1', 12);
SELECT test.set_state('w1', 1, 'success'), test.set_state('w3', 1, 'success');
SELECT dag_id, task_id, priority FROM airflow_bp.held() WHERE granted ORDER BY 1;
SELECT test.ask_again();
SELECT * FROM test.scheduled;
-- A rollback gives the room back at once.
SELECT test.set_state('w1', 2, 'success');
BEGIN;
SELECT test.ask_again();
ROLLBACK;
SELECT * FROM test.held;
SELECT test.ask_again();
SELECT * FROM test.scheduled;

-- Small tasks do not pass a large one that goes before them; one that is larger than the pool is in nobody's way.
SELECT test.tasks('w1', 31, 31, 'small', slots => 3), test.tasks('w1', 32, 32, 'small', slots => 4);
UPDATE task_instance SET priority_weight = 9 WHERE id IN (test.id('w1', 31), test.id('w1', 32));
SELECT test.ask('w1', 31), test.ask('w1', 32);
SELECT test.set_state('w1', n, 'success') FROM generate_series(3, 4) n;
SELECT * FROM test.held;
SELECT test.ask('w1', 20), test.ask('w1', 13);
SELECT test.set_state('w1', 12, 'success');
SELECT task_id, slots FROM airflow_bp.held() WHERE granted;
SELECT test.ask_again();
SELECT * FROM test.scheduled;

-- A larger pool, and one whose deferred tasks count.
UPDATE slot_pool SET slots = 5 WHERE pool = 'small';
UPDATE task_instance SET state = 'deferred' WHERE id IN (test.id('w4', 19), test.id('w4', 20));
SELECT airflow_bp.tick();
SELECT test.ask('w4', 1, 10), test.ask_again();
SELECT * FROM test.scheduled;
SELECT test.drift();

-- Without the setting nobody waits for room.
ALTER SYSTEM RESET airflow_bp.admit_ahead;
SELECT pg_reload_conf();
\c
SET search_path = airflow;
SELECT test.settled('airflow_bp.admit_ahead', '-1');
SELECT airflow_bp.tick();
SELECT test.ask_again();
SELECT count(*) FROM airflow_bp.held();
-- And all that was promised has been given back: the same again.
UPDATE task_instance SET state = 'success' WHERE state IN ('scheduled', 'deferred');
ALTER SYSTEM SET airflow_bp.admit_ahead = 0;
SELECT pg_reload_conf();
\c
SET search_path = airflow;
SELECT test.settled('airflow_bp.admit_ahead', '0');
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT test.tasks('w1', 41, 60, 'small'), test.tasks('w3', 41, 60);
SELECT airflow_bp.tick();
SELECT test.ask('w1', 41, 60), test.ask('w3', 41, 60);
SELECT * FROM test.scheduled;
-- A pool without a name has no room, and is in nobody's way.
INSERT INTO slot_pool (id, pool, slots, include_deferred) VALUES (104, NULL, 3, false);
SELECT airflow_bp.tick();
SELECT count(*) FROM airflow_bp.rooms() WHERE name IS NULL;
ALTER SYSTEM RESET airflow_bp.admit_ahead;
SELECT pg_reload_conf();
SELECT test.clean();
SELECT airflow_bp.tick();
DROP VIEW test.held, test.scheduled;
DROP EXTENSION airflow_bp;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA airflow, airflow_bp, test CASCADE;
