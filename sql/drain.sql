-- Drains: hold what is new in a scope, let what has started finish, go on.  No worker here: tick() is its turn.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.held AS
SELECT dag_id, task_id, tenant, asks, reason, granted FROM airflow_bp.held() ORDER BY dag_id COLLATE "C", task_id COLLATE "C";
CREATE VIEW test.drains AS
SELECT scope, name, finish, at_timeout, state, in_force, scheduled, queued, running, deferred, waiting, runs, held, round(progress::numeric, 2) AS progress
FROM airflow_bp.drain_status();
-- The scheduler starts a run whose start_date is so long ago, and asks for tasks.
CREATE FUNCTION test.look(dag text, ago interval, first int, last int DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
	UPDATE dag_run SET state = 'queued', start_date = NULL WHERE dag_id = dag;
	UPDATE dag_run SET state = 'running', start_date = clock_timestamp() - ago WHERE dag_id = dag;
	SELECT test.ask(dag, first, last)
$$;
CREATE FUNCTION test.stop() RETURNS bigint LANGUAGE sql AS 'SELECT count(airflow_bp.drain_stop(id)) FROM airflow_bp.drain WHERE stopped_at IS NULL';
INSERT INTO dag_bundle (name, active) VALUES ('b', true);
CREATE FUNCTION test.dags(VARIADIC dags text[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits,
		exceeds_max_non_backfill, timetable_type, partition_mapper_info)
	SELECT d, false, false, 'b', 16, 0, false, false, '', '{}' FROM unnest(dags) d
$$;
SELECT test.dags('a1', 'a2', 'b1') \g /dev/null
INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES ('p', 9, '', false);
\set ECHO all

-- Where nothing would be held.
SELECT airflow_bp.drain_start('deployment');
SELECT test.enforce(NULL);
SELECT airflow_bp.set_mode('off');
SELECT airflow_bp.drain_start('deployment');
SELECT airflow_bp.set_mode('observe');
SELECT airflow_bp.set_tenant('a', NULL, mode => 'off');
SELECT airflow_bp.drain_start('tenant', 'a');
SELECT airflow_bp.set_tenant('a', NULL);
-- Bad input.
SELECT airflow_bp.drain_start('world');
SELECT airflow_bp.drain_start(NULL);
SELECT airflow_bp.drain_start('deployment', 'all');
SELECT airflow_bp.drain_start('dag');
SELECT airflow_bp.drain_start('dag', 'nowhere');
SELECT airflow_bp.drain_start('pool', 'nowhere');
SELECT airflow_bp.drain_start('queue', 'nowhere');
SELECT airflow_bp.drain_start('executor', 'x''); DROP TABLE task_instance; --');
SELECT airflow_bp.drain_start('tenant', 'nobody');
SELECT airflow_bp.drain_start('deployment', finish => 'none');
SELECT airflow_bp.drain_start('deployment', timeout => '0');
SELECT airflow_bp.drain_start('deployment', timeout => '1000 years');
SELECT airflow_bp.drain_start('deployment', at_timeout => 'kill', timeout => '1 s');
SELECT airflow_bp.drain_start('deployment', at_timeout => 'inbox');
SELECT airflow_bp.drain_stop(0);
SELECT airflow_bp.drain_stop(NULL);
SELECT count(*) FROM airflow_bp.drain;
SELECT answer, reason, active, example FROM airflow_bp.may_i_upgrade();

-- The deployment, in mode observe, of tenants without limits: nothing new, whatever the state it comes from.
SELECT test.tasks('a1', 1, 9), test.tasks('b1', 1, 3), test.tasks('a2', 1, 1, state => 'up_for_retry');
UPDATE dag_run SET start_date = now() - interval '1 h';
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1, 2);
SELECT airflow_bp.drain_start('deployment', finish => 'tasks') > 0;
SELECT * FROM test.drains;
SELECT answer, reason, active, example, detail FROM airflow_bp.may_i_upgrade();
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1, 3), test.ask('b1', 1), test.ask('a2', 1), test.look('b1', '1 day', 2);
SELECT * FROM test.held;
SELECT * FROM test.drains;
-- DAGs that come now.
SELECT test.tasks('new', 1, 1);
SELECT test.ask('new', 1);
SELECT airflow_bp.tick();
SELECT test.ask('new', 1);
SELECT airflow_bp.drain_start('deployment');
INSERT INTO job (id, job_type, state, latest_heartbeat) VALUES (1, 'SchedulerJob', 'running', now());
SELECT test.dags('new');
SELECT dag_id, task_id, state, reason, detail FROM airflow_bp.waiting() WHERE reason LIKE 'held%' ORDER BY dag_id COLLATE "C", task_id COLLATE "C";
SELECT sum(tasks) = (SELECT count(*) FROM airflow_bp.waiting()) AS adds_up FROM airflow_bp.waiting_summary();
SELECT name, usage, held FROM airflow_bp.tenants() ORDER BY 1;
SELECT fact, subject, slots, detail FROM airflow_bp.explain_tenant('a');
SELECT note LIKE '%drains: 1%' AS told FROM airflow_bp.status();
SELECT verdict, reason, count(*) FROM airflow_bp.decision GROUP BY 1, 2;
-- What goes on ends, and then all is drained.
UPDATE task_instance SET state = CASE task_id WHEN 't1' THEN 'running' ELSE 'deferred' END WHERE state = 'scheduled';
SELECT scheduled, running, deferred, runs, progress FROM test.drains;
UPDATE task_instance SET state = 'success' WHERE state = 'running';
SELECT answer, reason, active, example FROM airflow_bp.may_i_upgrade();
SELECT running, deferred, runs, progress, state FROM test.drains;
-- A triggerer could resume it, and then it starts without asking.
INSERT INTO job (id, job_type, state, latest_heartbeat) VALUES (2, 'TriggererJob', 'running', now());
SELECT answer, reason, active, example, detail FROM airflow_bp.may_i_upgrade();
UPDATE task_instance SET state = 'scheduled' WHERE state = 'deferred';
SELECT answer, reason, active, example FROM airflow_bp.may_i_upgrade();
UPDATE task_instance SET state = 'success' WHERE state = 'scheduled';
SELECT answer, reason, active FROM airflow_bp.may_i_upgrade();
SELECT state, runs, progress, eta FROM airflow_bp.drain_status();
-- On again: held tasks are in their old order.
SELECT test.stop();
SELECT * FROM test.drains;
SELECT airflow_bp.tick();
SELECT test.ask('a1', 3, 4), test.ask('b1', 1, 2), test.ask('a2', 1), test.ask('new', 1);
SELECT count(*) FROM airflow_bp.held_entries();
SELECT airflow_bp.drain_stop((SELECT max(id) FROM airflow_bp.drain));
-- Nobody has a limit, and a DAG is new: it is held until it is known which drains it is in.
SELECT airflow_bp.drain_start('pool', 'p', finish => 'tasks') > 0;
SELECT airflow_bp.tick();
SELECT test.tasks('in', 1, 1, 'p'), test.tasks('out', 1, 1);
SELECT test.ask('in', 1), test.ask('out', 1);
SELECT * FROM test.held;
SELECT airflow_bp.tick();
SELECT test.ask('in', 1), test.ask('out', 1);
SELECT * FROM test.held;
SELECT test.stop();
SELECT airflow_bp.tick();
SELECT test.ask('in', 1);
SELECT action, coalesce(new, old) ->> 'scope' AS scope, coalesce(new, old) ->> 'finish' AS finish, actor = session_user AS mine
FROM airflow_bp.act WHERE action LIKE 'drain%' ORDER BY act_id;
SELECT fail_open_total, test.drift() FROM airflow_bp.status();

-- With limits: grants are taken back, the order of asking stays, nothing over the limit.
SELECT test.clean();
DELETE FROM airflow_bp.act;
SELECT test.tasks('a1', 1, 6), test.tasks('a2', 1, 3, 'p'), test.tasks('b1', 1, 3, 'p');
SELECT test.enforce(2);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1, 2), test.ask('a2', 1), test.ask('a1', 3), test.ask('a1', 4);
SELECT test.set_state('a1', 1, 'success');
SELECT * FROM test.held;
SELECT airflow_bp.drain_start('pool', 'p', finish => 'tasks') > 0;
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT name, usage, available, held FROM airflow_bp.tenants() WHERE name = 'a';
SELECT fact, subject, slots, detail FROM airflow_bp.explain_tenant('a');
SELECT test.ask('a2', 1, 2), test.ask('b1', 1), test.ask('a1', 3);
SELECT * FROM test.held;
SELECT scope, name, held, scheduled, in_force FROM test.drains;
-- Overlapping.
SELECT airflow_bp.drain_start('dag', 'a1', finish => 'tasks') > 0, airflow_bp.drain_start('tenant', 'b', finish => 'tasks') > 0,
	airflow_bp.drain_start('queue', 'default', finish => 'tasks') > 0, airflow_bp.drain_start('executor', '(default)', finish => 'tasks') > 0;
SELECT airflow_bp.tick();
SELECT scope, name, held, scheduled FROM test.drains;
SELECT airflow_bp.drain_stop(id) FROM airflow_bp.drain WHERE scope IN ('pool', 'queue', 'executor') AND stopped_at IS NULL;
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT test.set_state('a1', 2, 'success'), test.set_state('a1', 3, 'success');
SELECT * FROM test.held;
SELECT test.ask('b1', 1), test.ask('a1', 4), test.ask('a2', 1);
SELECT test.used('a%'), test.drift();
SELECT test.stop();
SELECT airflow_bp.tick();
SELECT * FROM test.held;

-- A drain that was taken back, and one that cannot be any more.
SELECT airflow_bp.undo(max(act_id)) FROM airflow_bp.act WHERE action = 'drain';
SELECT airflow_bp.drain_start('dag', 'b1') > 0;
SELECT airflow_bp.undo(max(act_id)) FROM airflow_bp.act WHERE action = 'drain';
SELECT * FROM test.drains;

-- Runs that had started finish; runs that start later wait.
SELECT test.clean();
SELECT test.tasks('a1', 1, 6), test.tasks('a2', 1, 6), test.tasks('b1', 1, 6);
SELECT test.enforce(2);
SELECT airflow_bp.tick();
SELECT test.look('a1', '1 min', 1, 3);
SELECT * FROM test.held;
SELECT airflow_bp.drain_start('deployment') > 0;
SELECT airflow_bp.tick();
-- What was held before the drain has a run that had started.
SELECT * FROM test.held;
SELECT scheduled, waiting, runs, held, progress FROM test.drains;
SELECT answer, reason, active, example FROM airflow_bp.may_i_upgrade();
SELECT test.look('a2', '-1 s', 1), test.look('b1', '-1 s', 1, 2), test.look('a1', '1 min', 4);
SELECT * FROM test.held;
SELECT test.set_state('a1', 1, 'success');
SELECT * FROM test.held WHERE granted;
SELECT test.look('a1', '1 min', 3), test.look('a2', '-1 s', 1);
-- Who was not seen to start had started before; others are found in the table.
SELECT test.tasks('new', 1, 2);
SELECT test.ask('new', 2);
UPDATE dag_run SET start_date = now() WHERE dag_id = 'new';
SELECT airflow_bp.drain_start('queue', 'default') > 0;
SELECT airflow_bp.tick();
SELECT test.ask('new', 1), test.ask('b1', 3);
-- A paused DAG does not go on; what is active of it does.
UPDATE dag SET is_paused = dag_id = 'a1';
SELECT scheduled, waiting, runs, state FROM test.drains;
SELECT test.stop();
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT fail_open_total, test.drift() FROM airflow_bp.status();

-- Deadlines: wait only tells, extend moves it, inbox records what is still active.
UPDATE dag SET is_paused = false;
SELECT airflow_bp.drain_start('dag', 'a1', '1 h', 'tasks') > 0, airflow_bp.drain_start('dag', 'b1', '1 h', 'tasks', 'extend') > 0,
	airflow_bp.drain_start('deployment', NULL, '1 h', 'tasks', 'inbox') > 0;
SELECT airflow_bp.tick();
SELECT scope, name, state, deadline - since = '1 h' AS in_time FROM airflow_bp.drain_status();
UPDATE airflow_bp.drain SET deadline = now() WHERE stopped_at IS NULL;
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT scope, name, state, deadline > now() AS later FROM airflow_bp.drain_status();
SELECT l.dag_id, l.run_id, l.task_id, l.cause, l.state, l.tenant, l.status, l.times_seen, l.evidence - 'drain' - 'since' - 'deadline' AS evidence,
	l.ti_id = t.id AS same
FROM airflow_bp.dead_letter l JOIN task_instance t USING (dag_id, run_id, task_id) ORDER BY dag_id COLLATE "C", task_id COLLATE "C";
SELECT dag_id, task_id, state FROM task_instance WHERE state IS NOT NULL ORDER BY dag_id COLLATE "C", task_id COLLATE "C";

-- Of any scope, at most so many at a time.
SELECT s ->> 'scope' AS scope, s ->> 'name' AS name, airflow_bp.drain_to_inbox(jsonb_populate_record(d, s), 1)
FROM airflow_bp.drain d, (VALUES ('{"id": -1, "scope": "tenant", "name": "a"}'::jsonb), ('{"id": -2, "scope": "tenant", "name": "b"}'),
	('{"id": -3, "scope": "queue", "name": "default"}'), ('{"id": -4, "scope": "pool", "name": "p"}'), ('{"id": -5, "scope": "executor", "name": "(default)"}'),
	('{"id": -6, "scope": "dag", "name": "new"}')) v (s)
WHERE d.scope = 'deployment' AND d.stopped_at IS NULL;

-- Not in force: mode off, an unknown head, our triggers gone; in force again after it.
SELECT airflow_bp.set_mode('off');
SELECT airflow_bp.tick();
SELECT scope, name, in_force FROM test.drains;
SELECT answer, reason FROM airflow_bp.may_i_upgrade() WHERE reason LIKE 'drain%';
SELECT note LIKE '%drains not in force: 3%' AS told FROM airflow_bp.status();
SELECT test.ask('b1', 4);
SELECT airflow_bp.set_mode('observe');
SELECT airflow_bp.tick();
SELECT test.ask('b1', 5);
UPDATE alembic_version SET version_num = 'f00';
SELECT airflow_bp.tick();
SELECT airflow_bp.drain_start('dag', 'a2');
SELECT scope, name, in_force FROM test.drains;
SELECT test.ask('b1', 5);
UPDATE alembic_version SET version_num = 'd2f4e1b3c5a7';
SELECT airflow_bp.tick();
SELECT test.ask('b1', 6);
SELECT scope, name, in_force FROM test.drains;
-- The mode of one tenant.
SELECT airflow_bp.set_tenant('b', NULL, mode => 'off');
SELECT airflow_bp.tick();
SELECT test.ask('b1', 6), test.ask('a2', 2);
-- Airflow has renamed a column: which runs have started is not known.
UPDATE airflow_bp.drain SET finish = 'runs' WHERE stopped_at IS NULL;
UPDATE dag_run SET start_date = clock_timestamp() WHERE state = 'running';
BEGIN;
ALTER TABLE dag_run RENAME COLUMN run_id TO gone;
SELECT airflow_bp.tick();
SELECT note FROM airflow_bp.memory_state();
ROLLBACK;
SELECT airflow_bp.disable();
SELECT airflow_bp.tick();
SELECT in_force FROM test.drains;

\set ECHO none
SET client_min_messages = warning;
DROP EXTENSION airflow_bp CASCADE;
DROP SCHEMA test CASCADE;
DROP SCHEMA airflow CASCADE;
