-- Who may start: hold, order, release, modes, the log.  No worker here: tick() is its turn.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.held AS
SELECT dag_id, task_id, tenant, slots, priority, asks, reason, granted FROM airflow_bp.held() ORDER BY dag_id, task_id COLLATE "C";
CREATE VIEW test.tenants AS
SELECT name, nominal, usage, available, held FROM airflow_bp.tenants() ORDER BY name COLLATE "C";
CREATE VIEW test.decisions AS
SELECT verdict, reason, tenant, dag_id, task_id, try_number, slots FROM airflow_bp.decision ORDER BY at, dag_id, task_id;
\set ECHO all

-- Inside the limit all pass; over it they are held as they were, and their turn comes in the order of asking.
SELECT test.tasks('a1', 1, 9), test.tasks('b1', 1, 3);
SELECT test.enforce(2);
SELECT airflow_bp.tick();
TRUNCATE airflow_bp.decision;
SELECT test.ask('a1', 1), test.ask('a1', 2), test.ask('a1', 3), test.ask('a1', 4);
SELECT test.ask('a1', 4);
SELECT test.ask('b1', 1, 3);
SELECT * FROM test.held;
SELECT * FROM test.tenants;
SELECT task_id, state, try_number, scheduled_dttm IS NULL AS not_dated FROM task_instance WHERE dag_id = 'a1' AND task_id < 't5' ORDER BY 1;
SELECT airflow_bp.tick();
SELECT test.ask('a1', 3);
-- A slot gets free: the first in line gets a grant, and nobody else may take it.
SELECT test.set_state('a1', 1, 'success');
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT test.ask('a1', 4), test.ask('a1', 5);
SELECT * FROM test.tenants WHERE name = 'a';
SELECT test.ask('a1', 3);
SELECT * FROM test.held;
SELECT * FROM test.tenants WHERE name = 'a';
-- Without a turn between: the head of the line passes by itself, the next does not.
SELECT test.set_state('a1', 2, 'failed');
SELECT test.ask('a1', 5), test.ask('a1', 4);
SELECT * FROM test.held;
SELECT test.drift();

-- A higher priority goes first.
UPDATE task_instance SET priority_weight = 10 WHERE id = test.id('a1', 7);
SELECT test.ask('a1', 6), test.ask('a1', 7);
SELECT test.set_state('a1', 3, 'success'), test.set_state('a1', 4, 'success');
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT test.ask('a1', 6), test.ask('a1', 5), test.ask('a1', 7);
SELECT test.used('a%'), test.drift();

-- What is rolled back is given back, and the place in line with it.
BEGIN;
SELECT test.set_state('a1', 5, 'success');
SAVEPOINT s;
SELECT test.set_state('a1', 7, 'success');
ROLLBACK TO s;
COMMIT;
SELECT airflow_bp.tick();
BEGIN;
SELECT test.ask('a1', 6);
SELECT count(*) FROM test.held;
ROLLBACK;
SELECT * FROM test.held;
SELECT test.ask('a1', 6);
SELECT test.drift();

-- A held task that leaves by another way, is deleted, or does not exist any more.
SELECT test.ask('a1', 8), test.ask('a1', 9);
SELECT test.set_state('a1', 8, 'skipped');
SELECT count(*) FROM test.held;
DELETE FROM task_instance WHERE id = test.id('a1', 9);
SELECT count(*) FROM test.held;
SET client_min_messages = warning;
TRUNCATE task_instance CASCADE;
RESET client_min_messages;
SELECT airflow_bp.tick();
SELECT * FROM test.tenants;
SELECT test.drift();

-- The log: holds once, admissions of tenants with a limit when they are committed.
SELECT * FROM test.decisions WHERE reason IS NULL LIMIT 3;
SELECT verdict, reason, count(*) FROM airflow_bp.decision GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM airflow_bp.decision WHERE tenant = 'b';
TRUNCATE airflow_bp.decision;

-- Multi-slot tasks, strict: nobody passes the head of the line.
SELECT test.clean();
SELECT test.tasks('a1', 1, 3), test.tasks('a2', 1, 2, slots => 3), test.tasks('a3', 1, 1, slots => 5), test.tasks('a4', 1, 2, slots => 4);
SELECT test.enforce(4);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2), test.ask('a2', 1), test.ask('a1', 3), test.ask('a3', 1);
SELECT * FROM test.held;
SELECT airflow_bp.tick();
SELECT test.ask('a1', 3);
SELECT count(*) FROM test.held WHERE granted;
-- What can never run does not block; it can when the limit is raised.
SELECT test.set_state('a1', 1, 'success');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 3), test.ask('a2', 1);
SELECT * FROM test.held;
SELECT airflow_bp.set_tenant('a', 8);
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT test.ask('a2', 1), test.ask('a1', 3), test.ask('a3', 1);
SELECT * FROM test.tenants WHERE name = 'a';

-- Best effort: what fits passes what does not.
SELECT test.clean();
SELECT test.tasks('a1', 1, 6), test.tasks('a2', 1, 2, slots => 3), test.tasks('a4', 1, 2, slots => 4), test.tasks('a5', 1, 2, slots => 2);
SELECT test.enforce(4);
SELECT airflow_bp.set_tenant('a', 4, queueing => 'best_effort');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2), test.ask('a2', 1), test.ask('a4', 1), test.ask('a1', 3), test.ask('a1', 4), test.ask('a5', 1), test.ask('a1', 5);
SELECT * FROM test.held;
SELECT airflow_bp.tick();
SELECT * FROM test.held WHERE granted;
-- Two slots free: of those in line the first that fits, not who asks first now.
SELECT test.set_state('a1', 1, 'success'), test.set_state('a1', 2, 'success');
SELECT test.ask('a1', 6);
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT test.ask('a1', 6), test.ask('a5', 1);
SELECT test.set_state('a1', 3, 'success');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 5), test.used('a%');
SELECT test.drift();

-- Slots given back belong to who waits for them.
SELECT test.clean();
SELECT test.tasks('a1', 1, 4), test.tasks('a5', 1, 2, slots => 2);
SELECT test.enforce(4);
SELECT airflow_bp.set_tenant('a', 4, queueing => 'best_effort');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
BEGIN;
SAVEPOINT s;
SELECT test.ask('a5', 1);
SELECT test.ask('a5', 2);
ROLLBACK TO s;
SELECT test.ask('a1', 3);
COMMIT;
SELECT airflow_bp.tick();
SELECT * FROM test.held;

-- Limits of 0, below what is used, and taken away.
SELECT test.clean();
SELECT test.tasks('a1', 1, 6);
SELECT test.enforce(3);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1, 3);
SELECT airflow_bp.set_tenant('a', 1);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 4);
SELECT * FROM test.tenants WHERE name = 'a';
SELECT airflow_bp.set_tenant('a', 0);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 5);
SELECT * FROM test.held;
SELECT airflow_bp.set_tenant('a', NULL);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 4, 6);
SELECT * FROM test.held;
SELECT * FROM test.tenants WHERE name = 'a';

-- Ways around the gate pass, and are counted: resumed, started by hand, moved, resized.
SELECT test.clean();
SELECT test.tasks('a1', 1, 3, state => 'deferred'), test.tasks('a2', 1, 2), test.tasks('b1', 1, 2, state => 'queued');
SELECT test.enforce(1, 5);
SELECT airflow_bp.tick();
SELECT test.set_state('a1', 1, 'scheduled'), test.set_state('a1', 2, 'scheduled'), test.set_state('a2', 1, 'queued');
SELECT * FROM test.tenants;
SELECT test.ask('a2', 2);
UPDATE task_instance SET pool_slots = 3 WHERE id = test.id('b1', 1);
SELECT * FROM test.tenants WHERE name = 'b';
SELECT airflow_bp.add_tenant_rule('b', 'queue', 'gpu', 1);
SELECT airflow_bp.tick();
UPDATE task_instance SET queue = 'gpu' WHERE id = test.id('a1', 1);
SELECT airflow_bp.tick();
SELECT * FROM test.tenants;
SELECT test.drift();

-- Deferred tasks count where the tenant says so.
SELECT airflow_bp.set_tenant('a', 1, count_deferred => true);
SELECT airflow_bp.tick();
SELECT usage FROM test.tenants WHERE name = 'a';
SELECT test.set_state('a1', 3, 'success');
SELECT usage FROM test.tenants WHERE name = 'a';

-- Rules that change: held tasks go to the line of their new tenant.
SELECT test.clean();
SELECT test.tasks('a1', 1, 2), test.tasks('b1', 1, 1);
SELECT test.enforce(1, 1);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
SELECT airflow_bp.add_tenant_rule('b', 'dag_id', 'a1', 5);
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT * FROM test.tenants;
SELECT airflow_bp.drop_tenant_rule(5), airflow_bp.drop_tenant_rule(10), airflow_bp.drop_tenant('a');
SELECT airflow_bp.tick();
SELECT * FROM test.held;
SELECT * FROM test.tenants;
SELECT test.ask('a1', 2);

-- Modes of the tenant and of the deployment.
SELECT airflow_bp.tick();
TRUNCATE airflow_bp.decision;
SELECT test.clean();
SELECT test.tasks('a1', 1, 9), test.tasks('b1', 1, 9);
SELECT test.enforce(1, 1);
SELECT airflow_bp.set_tenant('a', 1, mode => 'observe');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2), test.ask('b1', 1), test.ask('b1', 2);
SELECT * FROM test.held;
SELECT airflow_bp.tick();
SELECT * FROM test.decisions;
TRUNCATE airflow_bp.decision;
SELECT airflow_bp.set_tenant('a', 1, mode => 'off');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 3);
SELECT airflow_bp.tick();
SELECT * FROM test.decisions;
SELECT airflow_bp.set_mode('observe'), airflow_bp.set_tenant('a', 1, mode => 'enforce');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 4), test.ask('b1', 2), test.ask('b1', 3);
SELECT * FROM test.held;
SELECT airflow_bp.set_mode('off');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 4, 5), test.ask('b1', 4);
SELECT * FROM test.held;
SELECT test.drift();

-- A policy is in force from the turn that compiles it; what ran before counts.
SELECT test.clean();
SELECT test.tasks('a1', 1, 2), test.enforce(1);
SELECT test.ask('a1', 1);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 2);
SELECT * FROM test.held;

-- Hostile names: 250 characters, quotes, percent, newlines, other scripts.
SELECT test.clean();
CREATE TABLE test.names AS SELECT row_number() OVER () AS n, name FROM unnest(ARRAY[repeat('n', 250), repeat('☃', 250), E'it''s "100%s"\\ \n\t$1', E'\u200b', '%', '''; DROP TABLE dag_run; --']) name;
SELECT test.tasks(name, 1, 2) FROM test.names;
SELECT test.enforce(1);
SELECT airflow_bp.set_tenant('h', 1), airflow_bp.add_tenant_rule('h', 'dag_id', '*', 99);
-- By its whole name, though it is longer than shared memory keeps.
INSERT INTO dag_bundle (name, active) VALUES ('b', true);
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits, timetable_type, partition_mapper_info)
SELECT repeat('☃', 250), false, false, 'b', 16, 0, false, '', '{}';
SELECT airflow_bp.set_tenant('snow', 0), airflow_bp.add_tenant_rule('snow', 'dag_id', repeat('☃', 250), 98);
SELECT airflow_bp.tick();
SELECT n, test.ask(name, 1) FROM test.names ORDER BY n;
SELECT n, h.dag_id IS NOT DISTINCT FROM name AS same, h.tenant, h.task_id, h.reason
FROM airflow_bp.held() h JOIN test.names ON test.id(name, 1) = h.ti_id ORDER BY n;
SELECT airflow_bp.tick();
SELECT n, tenant, verdict FROM airflow_bp.decision d JOIN test.names ON name = d.dag_id ORDER BY n;
SELECT test.drift();

-- Off and on again with held tasks; dropped with held tasks.
SELECT airflow_bp.disable();
SELECT airflow_bp.tick();
SELECT count(*) FROM test.held;
SELECT sum(test.ask(name, 1, 2)) FROM test.names;
SELECT test.clean();
SELECT test.tasks('a1', 1, 3), test.enforce(1);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
-- status() says which step failed, in whole characters.
CREATE FUNCTION test.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'x%', repeat('ü', 300); END $$;
CREATE TRIGGER fail BEFORE INSERT ON airflow_bp.decision FOR EACH ROW EXECUTE FUNCTION test.fail();
SELECT airflow_bp.tick();
SELECT left(note, 8) AS note, length(note), octet_length(note) FROM airflow_bp.memory_state();
DROP VIEW test.held, test.tenants, test.decisions;
DROP EXTENSION airflow_bp;
SELECT test.ask('a1', 2), test.ask('a1', 3);

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA airflow, airflow_bp, test CASCADE;
