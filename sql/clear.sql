-- Tasks cleared as each version of Airflow clears them, and taken back.  test/e2e/test_clear.py compares with Airflow itself.
\set SHOW_CONTEXT never
\pset null '(null)'
\getenv top PG_ABS_SRCDIR
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set ECHO none
SET client_min_messages = warning;
CREATE DATABASE regress_clear;
\c regress_clear
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = ISO;
CREATE EXTENSION airflow_bp;
CREATE SCHEMA "3.0.6";
SET search_path = "3.0.6";
\i :v306
CREATE SCHEMA "3.1.8";
SET search_path = "3.1.8";
\i :v318
CREATE SCHEMA "3.2.2";
SET search_path = "3.2.2";
\i :v322
CREATE SCHEMA "3.3.2";
SET search_path = "3.3.2";
\i :v332
CREATE SCHEMA test;
CREATE FUNCTION test.name(part text) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT part || rpad('''; DROP TABLE "x" %s $1 \ {"a": ünï', 200, 'x') $$;
CREATE FUNCTION test.id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT lpad(n::text, 32, '0')::uuid $$;
CREATE FUNCTION test.spec(id text, below text, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('__type', 'operator', '__var', jsonb_build_object('task_id', test.name(id), 'task_type', 'It''s',
		'downstream_task_ids', (SELECT coalesce(jsonb_agg(test.name(b)), '[]') FROM string_to_table(below, ' ') b)) || more)
$$;
-- One run of a DAG with hostile names, the same for all versions.
CREATE FUNCTION test.make() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('airflow_bp.airflow_schema', current_schema(), false);
	-- Whatever else the versions want to be told of a DAG is not looked at.
	SET LOCAL session_replication_role = replica;
	INSERT INTO dag_version (id, version_number, dag_id, created_at, last_updated)
	VALUES (test.id(900), 1, test.name('d'), now(), now()), (test.id(901), 1, 'unread', now(), now());
	INSERT INTO serialized_dag (id, dag_id, data, created_at, last_updated, dag_hash, dag_version_id) VALUES
		(test.id(910), test.name('d'), jsonb_build_object('__version', 3, 'dag', jsonb_build_object('tasks', jsonb_build_array(
			test.spec('a', 'b c', '{"retries": 2, "priority_weight": 5, "executor_config": {"__type": "dict", "__var": {"it''s": [1.5, -7, null]}}}'),
			test.spec('b', 'c', '{"weight_rule": "absolute", "pool": "it''s", "pool_slots": 3, "executor": "E", "_operator_name": "@it''s"}'),
			test.spec('c', '', '{"_is_mapped": true, "weight_rule": "upstream", "partial_kwargs": {"retries": 7, "queue": "it''s"}}'),
			test.spec('s', 'a t', '{"is_setup": true, "weight_rule": "of.a.Plugin"}'), test.spec('t', '', '{"is_teardown": true}'))))::json,
			now(), now(), 'x', test.id(900)),
		(test.id(911), 'unread', '{"dag": 7}', now(), now(), 'x', test.id(901));
	INSERT INTO dag_run (id, dag_id, run_id, run_type, run_after, state, created_dag_version_id, queued_at, start_date, end_date)
	SELECT id, dag, test.name('r'), 'manual', '2026-01-01', state, version, '2026-01-01', '2026-01-01 00:00:01', finished
	FROM (VALUES (77, test.name('d'), 'failed', test.id(900), '2026-01-01 00:00:09'::timestamptz), (78, 'unread', 'running', test.id(901), NULL),
		(79, 'gone', 'success', test.id(999), '2026-01-02'), (80, 'bare', 'failed', NULL, '2026-01-02')) r (id, dag, state, version, finished);
	INSERT INTO task_instance (id, dag_id, run_id, task_id, map_index, state, try_number, max_tries, pool, pool_slots, queue, priority_weight, operator,
		start_date, end_date, duration, updated_at, dag_version_id, external_executor_id, next_method, trigger_id, executor_config)
	SELECT test.id(n), coalesce(dag, test.name('d')), test.name('r'), test.name(t), i, state, try, 1, 'p', 1, 'q', 9, 'Old', '2026-01-01 00:00:02',
		CASE WHEN state = 'failed' THEN '2026-01-01 00:00:05'::timestamptz END, 3, '2026-01-01 00:00:05', test.id(900), 'x', 'm', NULL, '\x80047d942e'
	FROM (VALUES (1, NULL, 'a', -1, 'failed', 3), (2, NULL, 'b', -1, 'running', 1), (3, NULL, 'c', 0, 'deferred', 2), (4, NULL, 'c', 1, NULL, 0),
		(5, NULL, 's', -1, 'failed', 1), (6, NULL, 't', -1, 'removed', 1), (7, NULL, 'ghost', -1, 'failed', 5),
		(8, 'unread', 'a', -1, 'failed', 1), (9, 'gone', 'a', -1, 'failed', 4), (10, 'bare', 'a', -1, 'failed', 1)) v (n, dag, t, i, state, try);
	INSERT INTO task_reschedule (id, ti_id, start_date, end_date, duration, reschedule_date)
	SELECT n, test.id(3), '2026-01-01 00:00:02', '2026-01-01 00:00:03', 1, '2026-01-01 00:00:04.000001' FROM generate_series(1, 2) n;
	INSERT INTO task_instance_note (ti_id, content, created_at, updated_at) VALUES (test.id(1), 'it''s', '2026-01-01', '2026-01-01');
	INSERT INTO task_instance_history (task_instance_id, dag_id, run_id, task_id, map_index, try_number, pool, pool_slots, state)
	VALUES (test.id(500), test.name('d'), test.name('r'), test.name('s'), -1, 1, 'p', 1, 'failed');
END
$$;
-- All rows of all tables that a clear writes to.
CREATE FUNCTION test.all() RETURNS TABLE (rel text, digest text) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH rel IN ARRAY '{task_instance,task_instance_history,task_reschedule,task_instance_note,dag_run,deadline}'::text[] LOOP
		EXECUTE format('SELECT md5(coalesce(string_agg(t::text, ''/'' ORDER BY t::text), '''')) FROM %I t', rel) INTO digest;
		RETURN NEXT;
	END LOOP;
END
$$;
CREATE TABLE test.before (rel text, digest text);
CREATE FUNCTION test.note() RETURNS void LANGUAGE sql AS $$ DELETE FROM test.before; INSERT INTO test.before SELECT * FROM test.all() $$;
CREATE FUNCTION test.changed() RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(rel, ', ' ORDER BY rel), 'nothing') FROM test.before b JOIN test.all() a USING (rel) WHERE a.digest <> b.digest
$$;
CREATE FUNCTION test.short(name text) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN length(name) > 199 THEN regexp_replace(name, '''.*', '') ELSE name END $$;
CREATE VIEW test.last AS SELECT max(act_id) AS act_id FROM airflow_bp.act WHERE action = 'clear';
CREATE FUNCTION test.tasks() RETURNS TABLE (task text, i int, state varchar, is_new boolean, tries text, pool text, queue varchar, weight int, operator text,
	executor varchar, config int, ended boolean, executor_id boolean, method varchar) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT test.short(t.task_id), t.map_index, t.state, substr(t.id::text, 15, 1) = '7', t.try_number || '/' || t.max_tries,
		t.pool || ' ' || t.pool_slots, t.queue, t.priority_weight, concat_ws(' ', t.operator, t.custom_operator_name), t.executor,
		length(t.executor_config), t.end_date > now() - interval '1 hour' AND t.duration > 1000, t.external_executor_id IS NOT NULL, t.next_method
	FROM task_instance t WHERE t.dag_id = test.name('d') ORDER BY 1, 2;
END
$$;
CREATE FUNCTION test.run() RETURNS TABLE (state varchar, clears int, queued boolean, started timestamptz, ended timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT r.state, r.clear_number, r.queued_at > now() - interval '1 hour', r.start_date, r.end_date FROM dag_run r WHERE r.id = 77;
END
$$;
CREATE FUNCTION test.history() RETURNS TABLE (task text, i int, state varchar, try int, ended boolean, is_old boolean) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT test.short(h.task_id), h.map_index, h.state, h.try_number, h.end_date IS NOT NULL, h.task_instance_id < test.id(100)
	FROM task_instance_history h ORDER BY 1, 2;
END
$$;
-- All that is to be seen on one version.
CREATE FUNCTION test.story() RETURNS TABLE (step text, outcome text) LANGUAGE plpgsql AS $$
DECLARE
	done bigint;
BEGIN
	PERFORM test.make();
	SET CONSTRAINTS ALL IMMEDIATE;
	PERFORM test.note();
	SELECT min(c.act_id), string_agg(concat_ws(' ', test.short(c.task_id), c.map_index, coalesce(c.old_state, 'none'), coalesce(c.new_state, 'none')), ', '
		ORDER BY c.old_id) INTO done, outcome
	FROM airflow_bp.clear_tasks(ARRAY(SELECT test.id(n) FROM generate_series(1, 7) n)) c;
	RETURN QUERY SELECT 'cleared', outcome UNION ALL SELECT 'wrote to', test.changed()
		UNION ALL SELECT 'task', t::text FROM test.tasks() t UNION ALL SELECT 'run', r::text FROM test.run() r
		UNION ALL SELECT 'history', h::text FROM test.history() h
		UNION ALL SELECT 'reschedules', count(*)::text FROM task_reschedule
		UNION ALL SELECT 'note of', test.short(t.task_id) FROM task_instance t JOIN task_instance_note n ON n.ti_id = t.id
		UNION ALL SELECT 'traces', count(*)::text FROM task_instance t JOIN dag_run r USING (dag_id, run_id)
			WHERE t.context_carrier #>> '{__var,traceparent}' ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$' AND t.context_carrier = r.context_carrier;
	PERFORM airflow_bp.undo(done);
	RETURN QUERY SELECT 'undone, changed', test.changed();
	SELECT string_agg(concat_ws(' ', test.short(c.task_id), c.map_index), ', ' ORDER BY c.task_id, c.map_index) INTO outcome
	FROM airflow_bp.clear_tasks(ARRAY[test.id(1)]) c;
	RETURN QUERY SELECT 'only a', outcome;
	PERFORM airflow_bp.undo(max(act_id)) FROM test.last;
	SELECT string_agg(concat_ws(' ', test.short(c.task_id), c.map_index), ', ' ORDER BY c.task_id, c.map_index) INTO outcome
	FROM airflow_bp.clear_tasks(ARRAY[test.id(2)], true) c;
	RETURN QUERY SELECT 'b and below', outcome;
	PERFORM airflow_bp.undo(max(act_id)) FROM test.last;
	RETURN QUERY SELECT 'undone, changed', test.changed();
	-- Again and again, each time from the ids that the time before left.
	FOR n IN 1 .. 3 LOOP
		PERFORM airflow_bp.clear_tasks(ARRAY(SELECT t.id FROM task_instance t WHERE t.dag_id = test.name('d') AND t.task_id = test.name('a')));
	END LOOP;
	RETURN QUERY SELECT 'three times', concat_ws(' ', (SELECT r.clears FROM test.run() r), (SELECT count(*) FROM test.history() h WHERE h.task = 'a'));
	FOR n IN 1 .. 3 LOOP
		PERFORM airflow_bp.undo(max(act_id) - n + 1) FROM test.last;
	END LOOP;
	RETURN QUERY SELECT 'undone, changed', test.changed();
	SELECT string_agg(concat_ws(' ', test.short(c.task_id), c.old_state), ', ') INTO outcome FROM airflow_bp.clear_tasks(ARRAY[test.id(9)]) c;
	RETURN QUERY SELECT 'no DAG any more', outcome || ' ' || (SELECT t.max_tries FROM task_instance t WHERE t.dag_id = 'gone');
	PERFORM airflow_bp.undo(max(act_id)) FROM test.last;
	RETURN QUERY SELECT 'undone, changed', test.changed();
END
$$;
\set ECHO all

SET search_path = "3.0.6";
SELECT * FROM test.story();
SET search_path = "3.1.8";
SELECT * FROM test.story();
SET search_path = "3.2.2";
SELECT * FROM test.story();
SET search_path = "3.3.2";
SELECT * FROM test.story();

-- Nothing to do.
SELECT * FROM airflow_bp.clear_tasks('{}');
SELECT * FROM airflow_bp.clear_tasks(NULL);

-- Bad input changes nothing.
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1), test.id(404)]);
\echo :LAST_ERROR_SQLSTATE
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1), NULL]);
SELECT airflow_bp.clear_tasks(ARRAY[[test.id(1)], [NULL::uuid]]);
SELECT airflow_bp.clear_tasks(ARRAY[test.id(9)], true);
\echo :LAST_ERROR_SQLSTATE
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1), test.id(8)]);
\echo :LAST_ERROR_SQLSTATE
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1), test.id(10)]);
\echo :LAST_ERROR_SQLSTATE
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
\echo :LAST_ERROR_SQLSTATE
SELECT test.changed();

-- Taken back only where Airflow has not moved on.
SELECT count(*) FROM airflow_bp.clear_tasks(ARRAY[test.id(1), test.id(2)]);
SELECT test.note();
BEGIN;
UPDATE task_instance SET state = 'scheduled', updated_at = now() WHERE task_id = test.name('a') AND dag_id = test.name('d');
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
ROLLBACK;
BEGIN;
UPDATE dag_run SET state = 'running' WHERE id = 77;
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
ROLLBACK;
BEGIN;
SET LOCAL client_min_messages = error;
DELETE FROM task_instance WHERE task_id = test.name('a') AND dag_id = test.name('d');
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
ROLLBACK;
SELECT test.changed();
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
SELECT test.changed();

-- A task that is cleared has another id: the second of two operators is told so.
SELECT test.note();
SELECT count(*) FROM airflow_bp.clear_tasks(ARRAY[test.id(1)]);
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1)]);
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
SELECT test.changed();

-- A version that nobody knows, tables that are not there.
BEGIN;
UPDATE alembic_version SET version_num = 'later';
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1)]);
ROLLBACK;
BEGIN;
DROP TABLE hitl_detail_history;
SELECT airflow_bp.clear_tasks(ARRAY[test.id(1)]);
ROLLBACK;
BEGIN;
ALTER TABLE task_instance_history DROP COLUMN span_status, DROP COLUMN context_carrier;
SELECT count(*) FROM airflow_bp.clear_tasks(ARRAY[test.id(1)]);
ROLLBACK;
SELECT test.changed();

-- An operator needs no right on the tables of Airflow; what its owner has put there runs as the owner.
CREATE ROLE regress_clear_operator;
CREATE ROLE regress_clear_airflow;
SELECT airflow_bp.grant_operator('regress_clear_operator');
BEGIN;
CREATE FUNCTION test.who() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN NULL; END $$;
GRANT ALL ON SCHEMA "3.3.2", test TO regress_clear_airflow;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA test TO PUBLIC;
GRANT USAGE ON SCHEMA test TO PUBLIC;
DO $$
DECLARE
	rel regclass;
BEGIN
	FOR rel IN SELECT c.oid FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = '"3.3.2"'::regnamespace LOOP
		EXECUTE format('ALTER TABLE %s OWNER TO regress_clear_airflow', rel);
	END LOOP;
END
$$;
CREATE TRIGGER who AFTER UPDATE ON task_instance EXECUTE FUNCTION test.who();
CREATE TRIGGER who AFTER INSERT ON task_instance_history EXECUTE FUNCTION test.who();
CREATE TRIGGER who AFTER UPDATE ON dag_run EXECUTE FUNCTION test.who();
CREATE TRIGGER who AFTER DELETE OR INSERT ON task_reschedule EXECUTE FUNCTION test.who();
SET ROLE regress_clear_operator;
SELECT task_id = test.name('a') AS a, new_state FROM airflow_bp.clear_tasks(ARRAY[test.id(1)]);
SELECT airflow_bp.undo(max(act_id)) FROM airflow_bp.act;
ROLLBACK;
SELECT test.changed();

-- The counters follow.
SELECT airflow_bp.enable('enforce');
SELECT airflow_bp.tick();
SELECT count(*) FROM airflow_bp.clear_tasks(ARRAY[test.id(1), test.id(2), test.id(3)]);
SELECT sum(abs(drift)) FROM airflow_bp.recount();
SELECT airflow_bp.undo(max(act_id)) FROM test.last;
SELECT sum(abs(drift)) FROM airflow_bp.recount();
SELECT airflow_bp.disable();
SELECT test.changed();

-- What is pickled is plain data.
SELECT airflow_bp.pickled(v::jsonb) FROM (VALUES ('{}'), ('{"__type": "dict", "__var": {"a": [1, -2.5, true, false, null, "ü"]}}'),
	('{"pod_override": {"__type": "k8s.V1Pod", "__var": {"a": 1}}}'), ('{"a": {"__type": "set", "__var": [1]}}'), ('[{"__type": "tuple", "__var": []}]')) t (v);
SELECT count(DISTINCT u), bool_and(u::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab]'), bool_and(abs(extract(epoch FROM now())
	- ('x' || left(replace(u::text, '-', ''), 12))::bit(48)::bigint / 1000.0) < 60)
FROM (SELECT airflow_bp.uuid7() FROM generate_series(1, 1000)) t (u);

\c postgres
DROP DATABASE regress_clear;
DROP ROLE regress_clear_operator, regress_clear_airflow;
