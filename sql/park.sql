-- Runs at which a look of the scheduler is useless are left out of its examine window.  This session is the scheduler, the API
-- server and, by tick(), the worker.
CREATE DATABASE regress_park;
\c regress_park
SET airflow_bp.parking = on;
CREATE EXTENSION airflow_bp;
\getenv top PG_ABS_SRCDIR
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set q332 :top '/test/fixtures/examine_3_3_2.sql'
\set ECHO none
\i :v332
\set ECHO all

-- Columns that must not be NULL get something.
CREATE FUNCTION put(rel regclass, vals jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SELECT vals || coalesce(jsonb_object_agg(a.attname, CASE t.typcategory WHEN 'N' THEN '0' WHEN 'B' THEN 'false'
			WHEN 'D' THEN to_jsonb(now()) WHEN 'U' THEN to_jsonb(gen_random_uuid()) ELSE '""' END)
			FILTER (WHERE NOT vals ? a.attname AND a.attnotnull AND NOT a.atthasdef), '{}') INTO vals
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped;
	EXECUTE format('INSERT INTO %s (%s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1)', rel,
		(SELECT string_agg(quote_ident(k), ', ') FROM jsonb_object_keys(vals) k)) USING vals;
END
$$;
CREATE FUNCTION id(name text) RETURNS uuid LANGUAGE sql AS 'SELECT md5(name)::uuid';
CREATE FUNCTION version(dag text, number int, spec text) RETURNS void LANGUAGE sql AS $$
	SELECT put('dag_version', jsonb_build_object('id', id(dag || number), 'dag_id', dag, 'version_number', number));
	SELECT put('serialized_dag', jsonb_build_object('dag_id', dag, 'dag_version_id', id(dag || number), 'dag_hash', md5(spec),
		'data', spec::jsonb, 'created_at', now(), 'last_updated', now()));
$$;
CREATE FUNCTION dag(dag text, spec text DEFAULT '{"dag": {"tasks": []}}') RETURNS void LANGUAGE sql AS $$
	SELECT put('dag_bundle', '{"name": "b"}') WHERE NOT EXISTS (SELECT FROM dag_bundle);
	SELECT put('dag', jsonb_build_object('dag_id', dag, 'bundle_name', 'b', 'is_paused', false, 'is_stale', false));
	SELECT version(dag, 1, spec);
$$;
CREATE FUNCTION run(dag text, run text) RETURNS void LANGUAGE sql AS $$
	SELECT put('dag_run', jsonb_build_object('dag_id', dag, 'run_id', run, 'run_type', 'manual', 'run_after', now(), 'state', 'running',
		'start_date', now()));
$$;
CREATE FUNCTION task(dag text, run text, task text, state text, vals jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT put('task_instance', jsonb_build_object('id', id(concat(dag, run, task)), 'dag_id', dag, 'run_id', run, 'task_id', task,
		'state', state, 'pool', 'p', 'queue', 'q', 'pool_slots', 1, 'try_number', 1, 'end_date', now()) || vals);
$$;
-- The window, and a look at everything in it, as DagRun.update_state begins it.
CREATE FUNCTION examine() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT r.run_id::text FROM (
		SELECT dag_run.dag_id, dag_run.run_id FROM dag_run JOIN dag ON dag.dag_id = dag_run.dag_id
		LEFT OUTER JOIN backfill_dag_run ON backfill_dag_run.dag_run_id = dag_run.id
		WHERE dag_run.state = 'running' AND dag.is_paused = false AND dag.is_stale = false AND dag_run.run_after <= now()
		ORDER BY backfill_dag_run.sort_ordinal NULLS FIRST, dag_run.last_scheduling_decision NULLS FIRST, dag_run.run_after
		LIMIT 20 FOR NO KEY UPDATE OF dag_run SKIP LOCKED) r ORDER BY r.run_id;
END
$$;
CREATE FUNCTION look() RETURNS text LANGUAGE sql AS $$
	WITH w AS MATERIALIZED (SELECT examine() AS run_id), u AS (
		UPDATE dag_run r SET last_scheduling_decision = clock_timestamp(), scheduled_by_job_id = 1, updated_at = now()
		FROM w WHERE r.run_id = w.run_id RETURNING r.run_id)
	SELECT string_agg(run_id, ' ' ORDER BY run_id) FROM u
$$;
CREATE PROCEDURE turn(INOUT looked text) LANGUAGE plpgsql AS $$
BEGIN
	looked := look();
	COMMIT;
	PERFORM airflow_bp.tick();
END
$$;
CREATE PROCEDURE until_useful() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		PERFORM airflow_bp.tick();
		COMMIT;
		IF EXISTS (SELECT examine()) THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RAISE 'no run became useful';
END
$$;
CREATE TABLE start (at timestamptz);
CREATE FUNCTION show() RETURNS TABLE (run_id text, reason text, due text) LANGUAGE sql AS $$
	SELECT p.run_id, p.reason, CASE WHEN p.reason = 'change' THEN (p.next_look - p.parked_since BETWEEN '149 s' AND '451 s')::text
		ELSE (5 * round(extract(epoch FROM p.next_look - start.at) / 5))::text END
	FROM airflow_bp.parked() p LEFT JOIN start ON true ORDER BY 1
$$;

SELECT dag('plain');
SELECT airflow_bp.tick();
SELECT airflow_bp.enable();
SELECT run('plain', 'r1'), task('plain', 'r1', 'a', 'scheduled'), task('plain', 'r1', 'b', NULL);

-- A run that is not known is in the window; so is one that was looked at before its DAG was.
SELECT look();
SELECT airflow_bp.tick();
SELECT look();
SELECT * FROM show();
SELECT airflow_bp.tick();
SELECT * FROM show();
SELECT look();
SELECT parked_runs FROM airflow_bp.status();

-- What makes a look useful: the end of a task, another end, None, an insert, a delete; not its way to running.
CREATE FUNCTION useful() RETURNS text LANGUAGE sql AS 'SELECT string_agg(e, '' '') FROM examine() e';
UPDATE task_instance SET state = 'queued' WHERE task_id = 'a';
UPDATE task_instance SET state = 'running' WHERE task_id = 'a';
SELECT useful();
UPDATE task_instance SET state = 'failed' WHERE task_id = 'a';
CALL turn(NULL);
SELECT useful();
UPDATE task_instance SET state = 'success' WHERE task_id = 'a';
CALL turn(NULL);
SELECT task('plain', 'r1', 'c', NULL);
CALL turn(NULL);
DELETE FROM task_instance WHERE task_id = 'c';
CALL turn(NULL);
BEGIN;
UPDATE task_instance SET state = NULL WHERE task_id = 'a';
SELECT useful();
ROLLBACK;
SELECT useful();

-- A change of the run; update_state() of a paused DAG is one.
UPDATE dag_run SET clear_number = clear_number + 1;
CALL turn(NULL);
UPDATE dag_run SET last_scheduling_decision = now();
CALL turn(NULL);
UPDATE dag_run SET updated_at = now(), scheduled_by_job_id = 7;
SELECT useful();

-- A look that is rolled back, wholly or to a savepoint, and a look that changes a task itself.
UPDATE task_instance SET state = 'failed' WHERE task_id = 'a';
BEGIN;
SELECT look();
ROLLBACK;
SELECT airflow_bp.tick();
SELECT useful();
BEGIN;
SAVEPOINT s;
SELECT look();
ROLLBACK TO s;
COMMIT;
SELECT airflow_bp.tick();
SELECT useful();
BEGIN;
SELECT look();
UPDATE task_instance SET state = 'skipped' WHERE task_id = 'b';
COMMIT;
SELECT airflow_bp.tick();
CALL turn(NULL);
SELECT useful();

-- Another version of the DAG.
SELECT version('plain', 2, '{"dag": {"tasks": [], "more": 1}}');
CALL until_useful();
CALL turn(NULL);
SELECT useful();
UPDATE serialized_dag SET dag_hash = 'in place', last_updated = now() + interval '2 s' WHERE dag_version_id = id('plain2');
CALL until_useful();
CALL turn(NULL);
SELECT useful();

-- A run that ends is forgotten.
UPDATE dag_run SET state = 'success';
SELECT useful();

-- Dates: retries without and with backoff, as overridden, of a mapped task; reschedules; dagrun_timeout.
SELECT dag('dates', '{"dag": {"dagrun_timeout": 3600.0, "tasks": [{"__var": {"task_id": "retry", "retry_delay": 60.0}},
	{"__var": {"task_id": "growing", "retry_delay": 60.0, "retry_exponential_backoff": true}}, {"__var": {"task_id": "sensor",
	"reschedule": true}}, {"__var": {"task_id": "mapped", "_is_mapped": true, "partial_kwargs": {"retry_delay": {"__type":
	"timedelta", "__var": 90.0}}}}]}}');
SELECT run('dates', r) FROM unnest('{none, timeout, retry, growing, grown, override, mapped, sensor, orphan, unknown}'::text[]) r;
BEGIN;
INSERT INTO start VALUES (now());
UPDATE dag_run SET start_date = now() - interval '3500 s' WHERE run_id = 'timeout';
SELECT task('dates', 'retry', 'retry', 'up_for_retry'), task('dates', 'growing', 'growing', 'up_for_retry'),
	task('dates', 'grown', 'growing', 'up_for_retry', jsonb_build_object('end_date', now() - interval '1 hour')),
	task('dates', 'override', 'growing', 'up_for_retry', '{"retry_delay_override": 45}'),
	task('dates', 'mapped', 'mapped', 'up_for_retry'), task('dates', 'sensor', 'sensor', 'up_for_reschedule'),
	task('dates', 'orphan', 'sensor', NULL), task('dates', 'unknown', 'nobody', 'up_for_retry');
SELECT put('task_reschedule', jsonb_build_object('id', n, 'ti_id', id('dates' || r || 'sensor'), 'reschedule_date', now() + d * interval '1 s'))
FROM (VALUES (1, 'sensor', 10), (2, 'sensor', 30), (3, 'orphan', 20)) v (n, r, d);
COMMIT;
CALL turn(NULL);
CALL turn(NULL);
SELECT * FROM show();
SELECT look();
UPDATE dag_run SET state = 'failed';

-- depends_on_past: what becomes of a task in one run is looked at in all.
SELECT dag('past', '{"dag": {"tasks": [{"__var": {"task_id": "a", "depends_on_past": true}}]}}');
SELECT run('past', 'p1'), task('past', 'p1', 'a', 'running'), run('past', 'p2'), task('past', 'p2', 'a', NULL);
CALL turn(NULL);
CALL turn(NULL);
SELECT useful();
UPDATE task_instance SET state = 'success' WHERE run_id = 'p1';
SELECT useful();
CALL turn(NULL);

-- Switched off, for a role that may not call it, without the trigger, and without us, Airflow is plain.
SET airflow_bp.parking = off;
SELECT useful();
SET airflow_bp.parking = on;
CALL turn(NULL);
CALL turn(NULL);
SELECT useful();
CREATE ROLE regress_airflow;
GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO regress_airflow;
SET ROLE regress_airflow;
SELECT useful();
RESET ROLE;
REVOKE EXECUTE ON FUNCTION airflow_bp.look_useful FROM PUBLIC;
SET ROLE regress_airflow;
SELECT useful();
RESET ROLE;
GRANT EXECUTE ON FUNCTION airflow_bp.look_useful TO PUBLIC;
SELECT useful();
ALTER TABLE dag_run DISABLE TRIGGER zz_airflow_bp_run;
SELECT useful();
ALTER TABLE dag_run ENABLE TRIGGER zz_airflow_bp_run;
SELECT useful();
SELECT airflow_bp.disable();
SELECT useful();
UPDATE task_instance SET state = NULL WHERE run_id = 'p1';
SELECT airflow_bp.enable();
SELECT useful();

-- Only the examine query is touched: on each version, and no view of it.
CREATE FUNCTION filtered(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
	found boolean := false;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
		found := found OR line ~ 'look_useful';
	END LOOP;
	RETURN found;
END
$$;
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set q306 `cat "$PG_ABS_SRCDIR/test/fixtures/examine_3_0_6.sql"`
\set q318 `cat "$PG_ABS_SRCDIR/test/fixtures/examine_3_1_8.sql"`
\set q322 `cat "$PG_ABS_SRCDIR/test/fixtures/examine_3_2_2.sql"`
\set q332 `cat "$PG_ABS_SRCDIR/test/fixtures/examine_3_3_2.sql"`
\set ECHO none
CREATE SCHEMA a306; SET search_path = a306; \i :v306
CREATE SCHEMA a318; SET search_path = a318; \i :v318
CREATE SCHEMA a322; SET search_path = a322; \i :v322
\set ECHO all
RESET search_path;
CREATE TRIGGER run BEFORE UPDATE ON a306.dag_run FOR EACH ROW EXECUTE FUNCTION airflow_bp.run_changed();
CREATE TRIGGER run BEFORE UPDATE ON a318.dag_run FOR EACH ROW EXECUTE FUNCTION airflow_bp.run_changed();
CREATE TRIGGER run BEFORE UPDATE ON a322.dag_run FOR EACH ROW EXECUTE FUNCTION airflow_bp.run_changed();
CREATE TABLE query (version text, examine text, queued text);
INSERT INTO query SELECT v, split_part(q, ';', 1), split_part(q, ';', 2)
FROM (VALUES ('a306', :'q306'), ('a318', :'q318'), ('a322', :'q322'), ('public', :'q332')) f (v, q);
SELECT q.version, filtered(q.examine), filtered(q.queued) AS queued
FROM query q, LATERAL (SELECT set_config('search_path', concat_ws(', ', q.version, 'public'), false)) s ORDER BY 1;
RESET search_path;
SELECT change, filtered(replace(examine, change, other)) FROM query,
	(VALUES ('= ''running''', '= ''queued'''), ('SKIP LOCKED', ''), (' FOR NO KEY UPDATE OF dag_run SKIP LOCKED', ''), ('LIMIT 20', ''),
		('LIMIT 20', 'LIMIT 20 OFFSET 1'), ('OF dag_run', 'OF dag'), (', dag_run.run_after LIMIT', ' LIMIT'),
		('LEFT OUTER JOIN backfill_dag_run', 'LEFT OUTER JOIN (TABLE backfill_dag_run) backfill_dag_run')) c (change, other)
WHERE version = 'public';
SELECT 'CREATE VIEW v AS ' || examine AS make FROM query WHERE version = 'public' \gset
:make;
SELECT pg_get_viewdef('v') ~ 'look_useful' AS in_view;
SET airflow_bp.airflow_schema = public;
CALL turn(NULL);
CALL turn(NULL);
SELECT 'PREPARE e AS ' || examine AS make FROM query WHERE version = 'public' \gset
:make;
\pset tuples_only on
EXECUTE e;
SET client_min_messages = error;
DROP EXTENSION airflow_bp CASCADE;
SELECT count(*) FROM examine();
-- A cached plan is made anew.
EXECUTE e \g (format=unaligned) /dev/null
\echo :SQLSTATE
\pset tuples_only off
\c postgres
DROP DATABASE regress_park;
DROP ROLE regress_airflow;
