-- Scheduled tasks move between pools, or queues, that can serve the same work.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.plan AS SELECT balance_group, source, target, source_load AS load, source_slots AS slots, target_load, target_slots,
	proposed, reason, allowed FROM airflow_bp.rebalance_plan();
CREATE VIEW test.where AS SELECT dag_id, pool, queue, state, count(*) FROM task_instance GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;
-- Tasks that wait for so long.
CREATE FUNCTION test.wait(dag text, first int, last int, pool text, ago interval, queue text DEFAULT 'default', slots int DEFAULT 1)
RETURNS void LANGUAGE sql AS $$
	INSERT INTO dag (dag_id, is_paused, is_stale, max_active_tasks, max_active_runs, max_consecutive_failed_dag_runs, has_task_concurrency_limits, has_import_errors, bundle_name, timetable_type, partition_mapper_info)
	SELECT dag, false, false, 16, 16, 0, false, false, 'b', '', '{}' WHERE NOT EXISTS (SELECT FROM dag d WHERE d.dag_id = dag);
	SELECT test.tasks(dag, first, last, pool, 'scheduled', slots);
	UPDATE task_instance t SET scheduled_dttm = now() - ago, queue = wait.queue
	WHERE id IN (SELECT test.id(dag, i) FROM generate_series(first, last) i);
$$;
-- As if the last looks and moves had been so long ago.
CREATE FUNCTION test.later(ago interval) RETURNS void LANGUAGE sql AS $$
	UPDATE airflow_bp.balance_group SET uneven_since = uneven_since - ago;
	UPDATE airflow_bp.rebalance SET moved_at = moved_at - ago, measure_at = measure_at - ago;
$$;
-- Memory and tables count the same?
CREATE FUNCTION test.same() RETURNS boolean LANGUAGE sql AS $$
	SELECT test.drift() = 0 AND NOT EXISTS (
		SELECT FROM unnest('{pool,queue}'::text[]) s, LATERAL (
			(SELECT scope_name, scheduled, queued, running, slots_charged FROM airflow_bp.queue_from_memory(s, '{}')
			EXCEPT SELECT scope_name, scheduled, queued, running, slots_charged FROM airflow_bp.queue_from_tables(s, '{}'))
			UNION ALL (SELECT scope_name, scheduled, queued, running, slots_charged FROM airflow_bp.queue_from_tables(s, '{}')
			EXCEPT SELECT scope_name, scheduled, queued, running, slots_charged FROM airflow_bp.queue_from_memory(s, '{}'))) d
		WHERE scheduled + queued + running > 0)
$$;
CREATE FUNCTION test.load(member text, slots bigint, load bigint, scheduled bigint, waits interval, received interval DEFAULT NULL,
	usable boolean DEFAULT true, running bigint DEFAULT 0, starts float8 DEFAULT 0)
RETURNS airflow_bp.balance_load LANGUAGE sql AS $$
	SELECT (member, usable, slots, load, scheduled, running, starts, '2026-01-01'::timestamptz - waits, '2026-01-01'::timestamptz - received)::airflow_bp.balance_load
$$;
CREATE FUNCTION test.policy(kind text, patient boolean DEFAULT true, since text DEFAULT 'a') RETURNS airflow_bp.balance_group LANGUAGE sql AS $$
	SELECT ('g', kind, true, 3, '1 min', '1 min', '10 min', 100, since, '2026-01-01'::timestamptz - CASE WHEN patient THEN interval '1 min' ELSE '59 s' END,
		'2026-01-01', NULL)::airflow_bp.balance_group
$$;
\set ECHO all
INSERT INTO dag_bundle (name) VALUES ('b');
INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES ('a', 4, '', false), ('b', 4, '', false), ('c', 8, '', false),
	('endless', -1, '', false), ('shut', 0, '', false), ('x''); DROP TABLE slot_pool; --', 3, '', false);

-- The rule: of pools.
SELECT what, n.* FROM (VALUES
	('nothing', ARRAY[test.load('a', 4, 0, 0, NULL), test.load('b', 4, 0, 0, NULL)], true),
	('it fits', ARRAY[test.load('a', 4, 4, 4, '1 h'), test.load('b', 4, 0, 0, NULL)], true),
	('idle beside', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 4, 0, 0, NULL)], true),
	('larger beside', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 12, 0, 0, NULL)], true),
	('far larger', ARRAY[test.load('a', 4, 6, 2, '1 h'), test.load('b', 100, 0, 0, NULL)], true),
	('many', ARRAY[test.load('a', 4, 2000, 1996, '1 h'), test.load('b', 4, 0, 0, NULL)], true),
	('endless', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', NULL, 900, 0, NULL)], true),
	('endless waits', ARRAY[test.load('a', NULL, 20, 16, '1 h'), test.load('b', 4, 0, 0, NULL)], true),
	('young', ARRAY[test.load('a', 4, 20, 16, '59 s'), test.load('b', 4, 0, 0, NULL)], true),
	('nearly as old', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 4, 8, 4, '21 min')], true),
	('old by the ratio', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 4, 8, 4, '20 min')], true),
	('loads are even', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 4, 20, 16, '1 min')], true),
	('not for long', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 4, 0, 0, NULL)], false),
	('was another', ARRAY[test.load('c', 4, 20, 16, '1 h'), test.load('b', 4, 0, 0, NULL)], true),
	('received', ARRAY[test.load('a', 4, 20, 16, '1 h', '9 min'), test.load('b', 4, 0, 0, NULL)], true),
	('received long ago', ARRAY[test.load('a', 4, 20, 16, '1 h', '10 min'), test.load('b', 4, 0, 0, NULL)], true),
	('missing', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', NULL, 0, 0, NULL, NULL, false)], true),
	('the idlest of three', ARRAY[test.load('a', 4, 20, 16, '1 h'), test.load('b', 4, 3, 0, NULL), test.load('c', 8, 4, 0, NULL)], true),
	('huge', ARRAY[test.load('a', 2147483647, 9223372036854775807, 16, '1 h'), test.load('b', 2147483647, 0, 0, NULL)], true))
	v (what, loads, patient) CROSS JOIN airflow_bp.rebalance_next(loads, test.policy('pool', patient), '2026-01-01') n;
-- Of queues.
SELECT what, n.* FROM (VALUES
	('even loads', ARRAY[test.load('a', NULL, 20, 16, '1 h', running => 4), test.load('b', NULL, 4, 0, NULL, running => 4)]),
	('never seen at work', ARRAY[test.load('a', NULL, 20, 16, '1 h', running => 4), test.load('b', NULL, 0, 0, NULL)]),
	('idle, but was at work', ARRAY[test.load('a', NULL, 20, 16, '1 h', running => 4), test.load('b', NULL, 0, 0, NULL, starts => 0.1)]),
	('has some and starts none', ARRAY[test.load('a', NULL, 20, 16, '1 h', running => 4), test.load('b', NULL, 1, 0, '1 min')]),
	('only in the executor', ARRAY[test.load('a', NULL, 20, 0, '1 h', running => 4), test.load('b', NULL, 0, 0, NULL)]))
	v (what, loads) CROSS JOIN airflow_bp.rebalance_next(loads, test.policy('queue'), '2026-01-01') n;
-- For any input: the source waits longest, nobody gets more load per slot than the source keeps, and nothing comes back at once.
SELECT setseed(0.20261124);
WITH r AS MATERIALIZED (
	SELECT i, array_agg(test.load(m, slots, load, least(load, scheduled), waits)) AS loads
	FROM generate_series(1, 1000) i, unnest('{a,b,c}'::text[]) m,
		LATERAL (SELECT 1 + (random() * 20)::int + 0 * length(m) * i, (random() * 90)::int, (random() * 60)::int, make_interval(mins => (random() * 30)::int)) v (slots, load, scheduled, waits)
	GROUP BY i
), n AS MATERIALIZED (
	SELECT r.loads, n.* FROM r CROSS JOIN unnest('{a,b,c}'::text[]) since
	CROSS JOIN LATERAL airflow_bp.rebalance_next(loads, test.policy('pool', since => since), '2026-01-01') n WHERE n.proposed > 0
)
SELECT count(*) > 100 AS some_move,
	bool_and((s.load - n.proposed)::numeric / s.slots >= (t.load + n.proposed)::numeric / t.slots) AS not_too_much,
	bool_and(s.oldest <= o.oldest) FILTER (WHERE o.load > o.slots AND o.scheduled > 0) AS from_the_oldest,
	bool_and(back.proposed = 0 AND back.reason = 'received lately') AS nothing_comes_back
FROM n CROSS JOIN LATERAL unnest(loads) s CROSS JOIN LATERAL unnest(loads) t CROSS JOIN LATERAL unnest(loads) o
CROSS JOIN LATERAL (SELECT array_agg(CASE l.member WHEN n.target THEN test.load(l.member, l.slots, 1000, 1000, '1 day', '1 s')
	WHEN n.source THEN test.load(l.member, l.slots, 0, 0, NULL) ELSE l END) AS loads FROM unnest(n.loads) l) after
CROSS JOIN LATERAL airflow_bp.rebalance_next(after.loads, test.policy('pool', since => n.target), '2026-01-01') back
WHERE s.member = n.source AND t.member = n.target;

-- Bad input.
SELECT airflow_bp.set_balance_group('', 'pool', '{a,b}');
SELECT airflow_bp.set_balance_group(NULL, 'pool', '{a,b}');
SELECT airflow_bp.set_balance_group('g', 'dag', '{a,b}');
SELECT airflow_bp.set_balance_group('g', NULL, '{a,b}');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,nowhere}');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,NULL}');
SELECT airflow_bp.set_balance_group('g', 'queue', '{a,""}');
SELECT airflow_bp.set_balance_group('g', 'pool', NULL);
SELECT airflow_bp.set_balance_group('g', 'pool', '{}');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a}');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,a}');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', ratio => 'NaN');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', ratio => 0.5);
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', least_age => '-1 s');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', patience => '1000 years');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', stay => '0');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', batch => 0);
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', batch => NULL);
SELECT airflow_bp.drop_balance_group('g');
SELECT airflow_bp.drop_balance_group(NULL);
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}'), airflow_bp.set_balance_group('g', 'pool', '{a,b,c}');
SELECT airflow_bp.set_balance_group('h', 'pool', '{c,endless}');
SELECT airflow_bp.set_balance_group('g', 'queue', '{a,b}');
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}'), airflow_bp.set_balance_group('q', 'queue', '{a,b}');
TABLE airflow_bp.balance_member;

-- Before anything is enabled there is a plan, from the tables, and no move.
SELECT test.wait('a1', 1, 12, 'a', '1 h');
SELECT * FROM test.plan;
SELECT airflow_bp.rebalance_apply();
SELECT test.enforce(NULL);
SELECT airflow_bp.tick();

-- Not at once, not when it is only a plan, not in mode off.
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', batch => 3);
SELECT airflow_bp.rebalance_apply(), test.later('1 min');
SELECT * FROM test.plan WHERE balance_group = 'g';
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', true, batch => 3);
SELECT airflow_bp.rebalance_apply(), airflow_bp.rebalance_apply();
SELECT reason FROM test.plan WHERE balance_group = 'g';
SELECT test.later('1 min'), airflow_bp.set_mode('off');
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.set_mode('enforce');
SELECT * FROM test.plan WHERE balance_group = 'g';
-- Nothing goes to where a drain is.
INSERT INTO airflow_bp.drain (scope, name, finish) VALUES ('pool', 'b', 'runs');
SELECT reason FROM test.plan WHERE balance_group = 'g';
DELETE FROM airflow_bp.drain;
-- A batch at a time, counted exactly, and logged.
SELECT airflow_bp.rebalance_apply(), airflow_bp.rebalance_apply();
TABLE test.where;
SELECT test.same();
SELECT old - 'tasks' AS old, new - 'tasks' AS new, old -> 'tasks' = new -> 'tasks' AS same, jsonb_array_length(old -> 'tasks') AS tasks
FROM airflow_bp.act WHERE action = 'rebalance';
SELECT reason FROM test.plan WHERE balance_group = 'g';
SELECT test.later('1 min'), airflow_bp.rebalance_apply();
SELECT reason, load, target_load FROM test.plan WHERE balance_group = 'g';
SELECT test.later('1 min'), airflow_bp.rebalance_apply();
-- The ages afterwards; nothing comes back while it stays.
SELECT test.wait('b1', 1, 9, 'b', '5 h');
UPDATE task_instance SET state = 'success' WHERE dag_id = 'a1' AND pool = 'a';
SELECT airflow_bp.rebalance_apply();
SELECT test.later('8 min'), airflow_bp.rebalance_apply();
SELECT source, target, reason FROM test.plan WHERE balance_group = 'g';
SELECT test.later('1 h'), airflow_bp.rebalance_apply();
SELECT balance_group, source, target, tasks, date_trunc('hour', age_before) AS before, target_age_before IS NULL AS idle, date_trunc('hour', age_after) AS after,
	date_trunc('hour', target_age_after) AS target_after, measured_at IS NOT NULL AS measured FROM airflow_bp.rebalance ORDER BY moved_at;

-- Undone: those that still wait there go back, and stay.
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'rebalance'));
TABLE test.where;
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'rebalance'));
SELECT airflow_bp.undo((SELECT min(act_id) FROM airflow_bp.act WHERE action = 'rebalance'));
SELECT airflow_bp.undo((SELECT min(act_id) FROM airflow_bp.act WHERE action = 'rebalance'));
SELECT test.same();
DELETE FROM task_instance;
SELECT test.wait('a1', 1, 12, 'a', '1 h');
SELECT test.later('1 h'), airflow_bp.rebalance_apply(), test.later('1 min');
SELECT airflow_bp.rebalance_apply();
UPDATE task_instance SET state = 'queued' WHERE id = (SELECT id FROM task_instance WHERE pool = 'b' ORDER BY id LIMIT 1);
SELECT count(*) FILTER (WHERE pool = 'b') AS moved FROM task_instance;
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'rebalance'));
SELECT count(*) FILTER (WHERE pool = 'b' AND state = 'scheduled') AS here FROM task_instance;
UPDATE task_instance SET state = 'success' WHERE pool = 'b';
SELECT airflow_bp.rebalance_apply(), test.later('2 min');
SELECT reason, allowed FROM test.plan WHERE balance_group = 'g';

-- Who may not move: DAG paused, run not running, too large, charged elsewhere, pool of another team.
DELETE FROM task_instance;
DELETE FROM airflow_bp.rebalance;
-- The turn below must not move any, though it may be its 15 s.
SELECT airflow_bp.drop_balance_group('g');
SELECT test.wait('paused', 1, 2, 'a', '9 h'), test.wait('finished', 1, 2, 'a', '8 h'), test.wait('large', 1, 1, 'a', '7 h', slots => 5),
	test.wait('c1', 1, 2, 'a', '6 h'), test.wait('b1', 1, 9, 'a', '5 h', 'q');
UPDATE dag SET is_paused = true WHERE dag_id = 'paused';
UPDATE dag_run SET state = 'success' WHERE dag_id = 'finished';
SELECT airflow_bp.set_tenant('guest', 100), airflow_bp.add_tenant_rule('guest', 'pool', 'b', 15);
SELECT airflow_bp.set_tenant('host', 100), airflow_bp.add_tenant_rule('host', 'dag_id', '~^(b1|large|paused|finished)$', 5);
SELECT airflow_bp.tick();
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,b}', true, patience => '0');
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.rebalance_apply();
TABLE test.where;
SELECT test.same();
SELECT airflow_bp.drop_tenant_rule(5), airflow_bp.drop_tenant_rule(15);
DELETE FROM airflow_bp.rebalance;
DELETE FROM task_instance;
INSERT INTO team (name) VALUES ('red');
UPDATE slot_pool SET team_name = 'red' WHERE pool = 'b';
SELECT test.wait('b1', 1, 9, 'a', '5 h');
SELECT airflow_bp.rebalance_apply();
SELECT reason, allowed FROM test.plan WHERE balance_group = 'g';
SELECT error FROM airflow_bp.balance_group WHERE name = 'g';
INSERT INTO dag_bundle_team VALUES ('b', 'red');
SELECT airflow_bp.rebalance_apply();
SELECT error FROM airflow_bp.balance_group WHERE name = 'g';
TABLE test.where;
-- Pools that are gone, shut or without limit; hostile names are names.
DELETE FROM task_instance;
DELETE FROM airflow_bp.rebalance;
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,shut}', true, patience => '0');
SELECT test.wait('b1', 1, 9, 'a', '5 h'), test.wait('b2', 1, 9, 'shut', '6 h');
SELECT airflow_bp.rebalance_apply();
SELECT * FROM test.plan WHERE balance_group = 'g';
SELECT airflow_bp.set_balance_group('g', 'pool', ARRAY['a', 'x''); DROP TABLE slot_pool; --'], true, patience => '0');
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.rebalance_apply();
TABLE test.where;
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'rebalance'));
DELETE FROM slot_pool WHERE pool LIKE 'x%';
DELETE FROM airflow_bp.rebalance;
SELECT airflow_bp.rebalance_apply();
SELECT * FROM test.plan WHERE balance_group = 'g';
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,endless}', true, patience => '0');
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.rebalance_apply();
TABLE test.where;

-- Queues: one to begin with, and no second while it is not started.
DELETE FROM task_instance;
DELETE FROM airflow_bp.rebalance;
SELECT airflow_bp.set_balance_group('q', 'queue', ARRAY['a', 'q''"); --'], true, patience => '0');
SELECT test.wait('b1', 1, 9, 'endless', '5 h', 'a');
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.rebalance_apply();
SELECT * FROM test.plan WHERE balance_group = 'q';
UPDATE task_instance SET state = 'running' WHERE queue LIKE 'q%';
SELECT * FROM test.plan WHERE balance_group = 'q';
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.rebalance_apply();
TABLE test.where;
SELECT test.same();

-- Code of the owner of task_instance runs with his rights, and what fails is said.
DELETE FROM task_instance;
DELETE FROM airflow_bp.rebalance;
CREATE ROLE regress_airflow;
GRANT USAGE ON SCHEMA airflow, test TO regress_airflow;
ALTER TABLE task_instance OWNER TO regress_airflow;
CREATE FUNCTION test.spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% moves a task to %', current_user, new.pool;
	RETURN NULL;
END
$$;
CREATE TRIGGER spy BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION test.spy();
SELECT airflow_bp.set_balance_group('g', 'pool', '{a,endless}', true, patience => '0', batch => 1);
INSERT INTO task_instance (id, dag_id, run_id, task_id, try_number, pool, pool_slots, queue, state, priority_weight, scheduled_dttm)
SELECT test.id('b1', i), 'b1', 'run', 't' || i, 0, 'a', 1, 'default', 'scheduled', 1, now() - interval '1 h' FROM generate_series(1, 9) i;
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.rebalance_apply();
SELECT error FROM airflow_bp.balance_group WHERE name = 'g';
SELECT count(*) FROM airflow_bp.rebalance;
DROP TRIGGER spy ON task_instance;
UPDATE airflow_bp.balance_group SET uneven_since = uneven_since - interval '1 min';

-- Rights.
CREATE ROLE regress_reader;
CREATE ROLE regress_operator;
SELECT airflow_bp.grant_reader('regress_reader'), airflow_bp.grant_operator('regress_operator');
SET ROLE regress_reader;
SELECT count(*) FROM airflow_bp.rebalance_plan();
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.set_balance_group('q', 'queue', '{a,b}');
SET ROLE regress_operator;
SELECT airflow_bp.rebalance_apply();
SELECT airflow_bp.undo(max(act_id)) FROM airflow_bp.act WHERE undone_at IS NULL AND action = 'rebalance';
SELECT airflow_bp.drop_balance_group('q');
UPDATE airflow_bp.balance_group SET act = true;
RESET ROLE;

\set ECHO none
SET client_min_messages = warning;
SELECT airflow_bp.disable() \g /dev/null
DROP EXTENSION airflow_bp CASCADE;
DROP SCHEMA test CASCADE;
DROP SCHEMA airflow CASCADE;
DROP OWNED BY regress_airflow, regress_reader, regress_operator;
DROP ROLE regress_airflow, regress_reader, regress_operator;
