-- Scheduled tasks gain priority while they wait.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.plan AS SELECT dag_id, task_id, pool, date_trunc('minute', waited) AS waited, original, weight, proposed, scope, name, reason, allowed
	FROM airflow_bp.priority_plan();
CREATE VIEW test.weights AS SELECT dag_id, task_id, state, priority_weight FROM task_instance ORDER BY 1, 2;
CREATE FUNCTION test.wait(dag text, first int, last int, pool text, ago interval, weight int DEFAULT 1) RETURNS void LANGUAGE sql AS $$
	INSERT INTO dag (dag_id, is_paused, is_stale, max_active_tasks, max_active_runs, max_consecutive_failed_dag_runs, has_task_concurrency_limits, has_import_errors,
		bundle_name, timetable_type, partition_mapper_info)
	SELECT dag, false, false, 16, 16, 0, false, false, 'b', '', '{}' WHERE NOT EXISTS (SELECT FROM dag d WHERE d.dag_id = dag);
	SELECT test.tasks(dag, first, last, pool, 'scheduled');
	UPDATE task_instance SET scheduled_dttm = now() - ago, priority_weight = weight WHERE id IN (SELECT test.id(dag, i) FROM generate_series(first, last) i);
$$;
CREATE FUNCTION test.later(ago interval) RETURNS void LANGUAGE sql AS
'UPDATE task_instance SET scheduled_dttm = scheduled_dttm - ago WHERE state = ''scheduled''';
\set ECHO all
INSERT INTO dag_bundle (name) VALUES ('b');
INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES ('p', 4, '', false), ('x''); DROP TABLE slot_pool; --', 3, '', false);

-- The rule: own weight, waited, step, every, cap.
SELECT v.*, airflow_bp.priority_next(original, waited::interval, step, every::interval, cap) FROM (VALUES
	(1, '4 min 59 s', 10, '5 min', 100), (1, '5 min', 10, '5 min', 100), (1, '49 min', 10, '5 min', 100), (1, '1 day', 10, '5 min', 95),
	(-50, '10 min', 10, '5 min', 100), (-2147483648, '1 day', 10, '5 min', 100), (2147483640, '1 day', 10, '5 min', 100),
	(2147483647, '30 years', 2147483647, '1 s', 2147483647), (-2147483648, '30 years', 2147483647, '1 s', 2147483647),
	(5, '-1 h', 10, '5 min', 100), (5, NULL, 10, '5 min', 100)) v (original, waited, step, every, cap);

-- Bad input.
SELECT airflow_bp.set_priority_ageing('tenant', 'a');
SELECT airflow_bp.set_priority_ageing(NULL);
SELECT airflow_bp.set_priority_ageing('pool');
SELECT airflow_bp.set_priority_ageing('pool', 'nowhere');
SELECT airflow_bp.set_priority_ageing('dag', '');
SELECT airflow_bp.set_priority_ageing('deployment', 'x');
SELECT airflow_bp.set_priority_ageing('dag', 'a', step => 0);
SELECT airflow_bp.set_priority_ageing('dag', 'a', step => NULL);
SELECT airflow_bp.set_priority_ageing('dag', 'a', step => 10, cap => 9);
SELECT airflow_bp.set_priority_ageing('dag', 'a', cap => NULL);
SELECT airflow_bp.set_priority_ageing('dag', 'a', every => '0');
SELECT airflow_bp.set_priority_ageing('dag', 'a', every => '1000 years');
SELECT airflow_bp.drop_priority_ageing('dag', 'a');
SELECT airflow_bp.drop_priority_ageing(NULL);
SELECT airflow_bp.priority_apply(0);
SELECT airflow_bp.priority_apply(NULL);

-- Proposed only, until act; the nearest policy applies; paused DAGs do not wait for a slot.
SELECT test.wait('a', 1, 2, 'p', '11 min'), test.wait('b', 1, 1, 'p', '21 min', 5), test.wait('c', 1, 1, 'default_pool', '31 min', -3),
	test.wait('d', 1, 1, 'p', '4 min'), test.wait('paused', 1, 1, 'p', '3 h');
UPDATE dag SET is_paused = true WHERE dag_id = 'paused';
SELECT airflow_bp.set_priority_ageing('pool', 'p', 10), airflow_bp.set_priority_ageing('dag', 'b', 100, cap => 300);
SELECT * FROM test.plan;
SELECT test.enforce(NULL);
SELECT airflow_bp.tick();
SELECT airflow_bp.priority_apply();
SELECT airflow_bp.set_priority_ageing('pool', 'p', 10, act => true), airflow_bp.set_priority_ageing('deployment', step => 1, act => true);
SELECT airflow_bp.set_mode('off');
SELECT airflow_bp.priority_apply();
SELECT airflow_bp.set_mode('observe');
SELECT * FROM test.plan;
-- Those that wait longest first, so many at a time.
SELECT airflow_bp.priority_apply(1);
TABLE test.weights;
SELECT airflow_bp.priority_apply(), airflow_bp.priority_apply();
TABLE test.weights;
SELECT old, new FROM airflow_bp.act WHERE action = 'priority' ORDER BY act_id LIMIT 1;
-- It never compounds, and ends at the cap.
SELECT test.later('5 min'), airflow_bp.priority_apply(), airflow_bp.priority_apply();
SELECT priority_weight FROM test.weights WHERE dag_id = 'a';
SELECT test.later('10 h'), airflow_bp.priority_apply(), test.later('10 h');
SELECT airflow_bp.priority_apply();
TABLE test.weights;
SELECT * FROM test.plan;
-- The next try begins anew, from its own weight, though its id is another.
UPDATE task_instance SET id = test.id('a', 101), state = 'up_for_retry' WHERE id = test.id('a', 1);
SELECT airflow_bp.priority_apply();
UPDATE task_instance SET state = 'scheduled', scheduled_dttm = now() - interval '6 min' WHERE id = test.id('a', 101);
SELECT * FROM test.plan WHERE dag_id = 'a';
SELECT airflow_bp.priority_apply();
SELECT priority_weight FROM test.weights WHERE dag_id = 'a';
-- A weight that somebody gives by hand is the own one from then on.
UPDATE task_instance SET priority_weight = 7 WHERE id = test.id('a', 101);
SELECT airflow_bp.priority_apply();
SELECT original, ours FROM airflow_bp.priority_aged WHERE dag_id = 'a' ORDER BY 1;

-- Undone: those still scheduled with what we wrote; they are left alone in this wait.
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'priority'));
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'priority'));
SELECT airflow_bp.undo((SELECT min(act_id) FROM airflow_bp.act WHERE action = 'priority'));
SELECT priority_weight FROM test.weights WHERE dag_id = 'a';
SELECT airflow_bp.priority_apply();
SELECT * FROM test.plan;
UPDATE task_instance SET scheduled_dttm = now() - interval '16 min' WHERE id = test.id('a', 101);
SELECT airflow_bp.priority_apply();
SELECT priority_weight FROM test.weights WHERE dag_id = 'a';
UPDATE task_instance SET state = 'queued' WHERE id = test.id('a', 101);
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'priority'));
SELECT test.drift();

-- What is over is forgotten after a day, not before, and not while it waits.
UPDATE airflow_bp.priority_aged SET aged_at = now() - interval '23 h';
UPDATE task_instance SET state = 'success' WHERE dag_id IN ('a', 'c');
DELETE FROM task_instance WHERE dag_id = 'd';
SELECT airflow_bp.priority_apply();
SELECT dag_id, task_id FROM airflow_bp.priority_aged ORDER BY 1, 2;
SELECT test.wait('b', 2, 2, 'p', '1 min');
INSERT INTO airflow_bp.priority_aged VALUES ('b', 'run', 't2', -1, 1, 1);
UPDATE airflow_bp.priority_aged SET aged_at = now() - interval '25 h';
SELECT airflow_bp.priority_apply();
SELECT dag_id, task_id, aged_at > now() - interval '1 h' AS fresh FROM airflow_bp.priority_aged ORDER BY 1, 2;
SELECT airflow_bp.drop_priority_ageing('deployment'), airflow_bp.drop_priority_ageing('dag', 'b');

-- Hostile names, and a trigger of the owner that is in the way.
SELECT test.wait('x''); DROP TABLE dag; --', 1, 1, 'x''); DROP TABLE slot_pool; --', '1 h');
SELECT airflow_bp.set_priority_ageing('pool', 'x''); DROP TABLE slot_pool; --', act => true);
SELECT airflow_bp.set_priority_ageing('dag', 'x''); DROP TABLE dag; --', act => true);
CREATE FUNCTION test.spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER spy BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION test.spy();
SELECT airflow_bp.priority_apply();
DROP TRIGGER spy ON task_instance;
SELECT airflow_bp.priority_apply();
SELECT priority_weight FROM test.weights WHERE dag_id LIKE 'x%';

-- Rights.
CREATE ROLE regress_reader;
CREATE ROLE regress_operator;
SELECT airflow_bp.grant_reader('regress_reader'), airflow_bp.grant_operator('regress_operator');
SET ROLE regress_reader;
SELECT count(*) FROM airflow_bp.priority_plan();
SELECT airflow_bp.priority_apply();
SELECT airflow_bp.set_priority_ageing('deployment');
SET ROLE regress_operator;
SELECT airflow_bp.priority_apply(), airflow_bp.set_priority_ageing('deployment');
UPDATE airflow_bp.priority_policy SET act = true;
RESET ROLE;

\set ECHO none
SET client_min_messages = warning;
SELECT airflow_bp.disable() \g /dev/null
DROP EXTENSION airflow_bp CASCADE;
DROP SCHEMA test CASCADE;
DROP SCHEMA airflow CASCADE;
DROP OWNED BY regress_reader, regress_operator;
DROP ROLE regress_reader, regress_operator;
