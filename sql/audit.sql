-- Findings on weights and pools, on the serialized form of DAGs and on what runs; and moves and ageing, on the schema of each Airflow version.
\set SHOW_CONTEXT never
\getenv top PG_ABS_SRCDIR
\set tasks :top '/test/fixtures/tasks.sql'
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set ECHO none
SET client_min_messages = warning;
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
\i :tasks
-- Insert a row: columns that the version lacks are left out, columns that must not be NULL get something.
CREATE FUNCTION test.put(rel text, vals jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	cols text;
BEGIN
	SELECT string_agg(quote_ident(a.attname), ', '), vals || coalesce(jsonb_object_agg(a.attname, CASE t.typcategory
			WHEN 'N' THEN '0' WHEN 'B' THEN 'false' WHEN 'D' THEN to_jsonb(now()) WHEN 'U' THEN
				CASE WHEN t.typname = 'uuid' THEN to_jsonb(gen_random_uuid()) ELSE '{}' END ELSE '""' END) FILTER (WHERE NOT vals ? a.attname), '{}')
	INTO cols, vals
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	WHERE a.attrelid = quote_ident(rel)::regclass AND a.attnum > 0 AND NOT a.attisdropped AND (vals ? a.attname OR a.attnotnull AND NOT a.atthasdef);
	EXECUTE format('INSERT INTO %1$I (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$I, $1)', rel, cols) USING vals;
END
$$;
-- A DAG with its tasks in one pool, each as {"task_id": ..., "to": [...], ...}.
CREATE FUNCTION test.dag(dag text, VARIADIC tasks jsonb[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	version uuid := gen_random_uuid();
BEGIN
	PERFORM test.put('dag', jsonb_build_object('dag_id', dag, 'bundle_name', 'b', 'max_active_tasks', 16, 'max_active_runs', 16));
	PERFORM test.put('dag_version', jsonb_build_object('id', version, 'dag_id', dag, 'version_number', 1));
	PERFORM test.put('serialized_dag', jsonb_build_object('dag_version_id', version, 'dag_id', dag, 'data',
		jsonb_build_object('__version', 3, 'client_defaults', '{"tasks": {"pool": "p"}}'::jsonb, 'dag', jsonb_build_object('tasks', (SELECT jsonb_agg(
			jsonb_build_object('__type', 'operator', '__var', t - 'to' || jsonb_build_object('downstream_task_ids', coalesce(t -> 'to', '[]')))) FROM unnest(tasks) t)))));
END
$$;
CREATE FUNCTION test.state(dag text, i int, state text, weight int, ago interval) RETURNS void LANGUAGE sql AS $$
	UPDATE task_instance SET state = state.state, priority_weight = weight, scheduled_dttm = now() - ago, queued_dttm = now() - ago WHERE id = test.id(dag, i)
$$;
CREATE FUNCTION test.story() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('airflow_bp.airflow_schema', current_schema(), false);
	PERFORM test.put('dag_bundle', '{"name": "b"}');
	PERFORM test.put('slot_pool', jsonb_build_object('pool', p, 'slots', s)) FROM (VALUES ('p', 2), ('q', 2), ('endless', -1)) v (p, s);
	-- By rule downstream, which is the default, and upstream; by hand.
	PERFORM test.dag('plain', '{"task_id": "t1", "to": ["t2"]}', '{"task_id": "t2"}');
	PERFORM test.dag('upstream', '{"task_id": "t1", "to": ["t2"], "weight_rule": "upstream"}', '{"task_id": "t2", "weight_rule": "upstream"}');
	PERFORM test.dag('low_child', '{"task_id": "t1", "to": ["t2", "t3", "t4"], "weight_rule": "absolute", "priority_weight": 9}',
		'{"task_id": "t2", "weight_rule": "absolute"}', '{"task_id": "t3", "weight_rule": "absolute", "pool": "q"}',
		'{"task_id": "t4", "weight_rule": "absolute", "priority_weight": 9}');
	PERFORM test.dag('high_child', '{"task_id": "t1", "to": ["t2"], "weight_rule": "absolute"}',
		'{"task_id": "t2", "to": ["t3"], "weight_rule": "absolute"}', '{"task_id": "t3", "weight_rule": "absolute", "priority_weight": 50}');
	PERFORM test.dag('own', '{"task_id": "t1", "to": ["t2"], "weight_rule": "my.Rule", "priority_weight": 9}', '{"task_id": "t2"}');
	PERFORM test.dag('pools', '{"task_id": "t1", "pool": "nowhere"}', '{"task_id": "t2", "pool_slots": 3}', '{"task_id": "t3", "pool_slots": 3, "pool": "endless"}',
		'{"task_id": "t4", "_is_mapped": true, "partial_kwargs": {"pool_slots": 4}}', '{"task_id": "t5", "pool_slots": 2}');
	PERFORM test.dag('broken', '{"task_id": "t1"}');
	PERFORM test.dag('torn', '{}', '{"pool": "q"}');
	PERFORM test.dag('stale', '{"task_id": "t1", "pool": "nowhere"}');
	UPDATE dag SET is_stale = true WHERE dag_id = 'stale';
	UPDATE serialized_dag SET data = '{"dag": 7}' WHERE dag_id = 'broken';
	RETURN QUERY SELECT concat_ws(' ', a.severity, a.dag_id, a.task_id, a.finding, '-', a.detail) FROM airflow_bp.audit() a;
END
$$;
-- Tasks wait while others pass.
CREATE FUNCTION test.load() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM test.tasks('plain', 1, 2, 'p', 'scheduled'), test.tasks('high_child', 1, 2, 'p', 'scheduled'), test.tasks('other', 1, 3, 'p', 'scheduled');
	-- t2 of one run waits while t1 of another was started; t1 of high_child is passed by what is below its t3.
	PERFORM test.state('plain', 2, 'scheduled', 1, '10 min'), test.state('plain', 1, 'running', 2, '5 min'),
		test.state('high_child', 1, 'scheduled', 1, '4 min'), test.state('other', 1, 'running', 20, '3 min'), test.state('other', 2, 'queued', 50, '3 min'),
		test.state('other', 3, 'running', 20, '5 min'), test.state('high_child', 2, NULL, 1, NULL);
	RETURN QUERY SELECT concat_ws(' ', a.severity, a.dag_id, a.task_id, a.finding, '-', a.detail) FROM airflow_bp.audit() a
		WHERE a.finding IN ('child_overtaken', 'priority_inversion');
	UPDATE dag SET is_paused = true;
	RETURN QUERY SELECT 'paused: ' || count(*) FROM airflow_bp.audit() a WHERE a.finding IN ('child_overtaken', 'priority_inversion');
	UPDATE dag SET is_paused = false;
END
$$;
-- A move and a gain of weight.
CREATE FUNCTION test.start() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM task_instance;
	PERFORM test.tasks('plain', 1, 9, 'p', 'scheduled');
	UPDATE task_instance SET scheduled_dttm = now() - interval '1 h';
	PERFORM airflow_bp.set_balance_group('g', 'pool', '{p,q}', true, patience => '1 s'), airflow_bp.set_priority_ageing('pool', 'q', act => true);
	PERFORM airflow_bp.enable();
END
$$;
CREATE FUNCTION test.moves() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM airflow_bp.rebalance_apply();
	UPDATE airflow_bp.balance_group SET uneven_since = uneven_since - interval '1 min';
	RETURN QUERY SELECT 'moved ' || airflow_bp.rebalance_apply();
	RETURN QUERY SELECT 'weights ' || airflow_bp.priority_apply();
	RETURN QUERY SELECT concat_ws(' ', t.pool, t.priority_weight, count(*)) FROM task_instance t GROUP BY t.pool, t.priority_weight ORDER BY 1;
	PERFORM airflow_bp.undo(a.act_id) FROM airflow_bp.act a WHERE a.action IN ('rebalance', 'priority') ORDER BY a.act_id DESC;
	RETURN QUERY SELECT concat_ws(' ', t.pool, t.priority_weight, count(*)) FROM task_instance t GROUP BY t.pool, t.priority_weight ORDER BY 1;
END
$$;
CREATE FUNCTION test.ends() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM airflow_bp.disable(), airflow_bp.drop_balance_group('g');
	DELETE FROM airflow_bp.act;
	DELETE FROM airflow_bp.rebalance;
	DELETE FROM airflow_bp.priority_aged;
END
$$;
\set ECHO all

SET search_path = "3.0.6";
SELECT * FROM test.story();
SELECT * FROM test.load();
SELECT test.start();
SELECT airflow_bp.tick();
SELECT * FROM test.moves();
SELECT test.drift(), test.ends();
SET search_path = "3.1.8";
SELECT * FROM test.story();
SELECT * FROM test.load();
SELECT test.start();
SELECT airflow_bp.tick();
SELECT * FROM test.moves();
SELECT test.drift(), test.ends();
SET search_path = "3.2.2";
SELECT * FROM test.story();
SELECT * FROM test.load();
SELECT test.start();
SELECT airflow_bp.tick();
SELECT * FROM test.moves();
SELECT test.drift(), test.ends();
SET search_path = "3.3.2";
SELECT * FROM test.story();
SELECT * FROM test.load();
SELECT test.start();
SELECT airflow_bp.tick();
SELECT * FROM test.moves();
SELECT test.drift(), test.ends();

-- Weights as Airflow's rules make them.
SELECT r.rule, w.* FROM unnest('{absolute,downstream,upstream,my.Rule}'::text[]) r (rule)
CROSS JOIN LATERAL airflow_bp.audit_weights('{a,b,c,d}', '{1,2,4,8}', array_fill(r.rule, '{4}'), '{"a": ["b", "c"], "b": ["d"], "c": ["d", "d"], "d": ["gone"]}') w;

\set ECHO none
SET client_min_messages = warning;
DROP EXTENSION airflow_bp;
DROP SCHEMA "3.0.6", "3.1.8", "3.2.2", "3.3.2", airflow_bp, test CASCADE;
