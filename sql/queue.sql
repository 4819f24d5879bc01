-- Why each task waits, and how deep the queue is, on the real schema of each Airflow version.
\set SHOW_CONTEXT never
\pset null '(null)'
-- In a database of its own: only there is the Airflow to find the only one.
CREATE DATABASE regress_queue;
\c regress_queue
CREATE EXTENSION airflow_bp;
SET datestyle = ISO;
SET intervalstyle = postgres;

-- Nothing to read yet.
SELECT * FROM airflow_bp.waiting();
SELECT * FROM airflow_bp.queue('pool');
\echo :LAST_ERROR_SQLSTATE

\getenv top PG_ABS_SRCDIR
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set ECHO none
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
RESET search_path;
\set ECHO all

-- Several Airflows: which one has to be said.
SELECT airflow_bp.airflow_schema_name();
SET airflow_bp.airflow_schema = 'pg_catalog';
SELECT airflow_bp.airflow_schema_name();
SET airflow_bp.airflow_schema = '3.0.6';
SELECT airflow_bp.airflow_schema_name();
SELECT airflow_bp.airflow_relation('3.0.6', 'slot_pool', 'pool text', 'slots', 'team_name text');
SELECT airflow_bp.airflow_relation('3.0.6', 'no_such', 'id int');

CREATE SCHEMA craft;

-- Insert a row: columns that the version lacks are left out, columns that must not be NULL get something.
CREATE FUNCTION craft.put(rel text, vals jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	cols text;
BEGIN
	SELECT string_agg(quote_ident(a.attname), ', '), vals || coalesce(jsonb_object_agg(a.attname, CASE t.typcategory
			WHEN 'N' THEN '0' WHEN 'B' THEN 'false' WHEN 'D' THEN to_jsonb(now()) WHEN 'U' THEN
				CASE WHEN t.typname = 'uuid' THEN to_jsonb(gen_random_uuid()) ELSE '{}' END ELSE '""' END)
			FILTER (WHERE NOT vals ? a.attname), '{}')
	INTO cols, vals
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	WHERE a.attrelid = quote_ident(rel)::regclass AND a.attnum > 0 AND NOT a.attisdropped
		AND (vals ? a.attname OR a.attnotnull AND NOT a.atthasdef);
	EXECUTE format('INSERT INTO %3$I.%1$I (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%3$I.%1$I, $1)',
		rel, cols, current_schema) USING vals;
END
$$;

CREATE FUNCTION craft.ago(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT (now() - $1::interval)::text';

CREATE FUNCTION craft.dag(dag_id text, vals jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT craft.put('dag', jsonb_build_object('dag_id', dag_id, 'is_paused', false, 'is_stale', false, 'max_active_tasks', 16,
		'max_active_runs', 16, 'bundle_name', 'b') || vals);
$$;

CREATE FUNCTION craft.run(dag_id text, run_id text, vals jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT craft.put('dag_run', jsonb_build_object('dag_id', dag_id, 'run_id', run_id, 'state', 'running', 'run_type', 'manual',
		'run_after', craft.ago('1 hour'), 'last_scheduling_decision', craft.ago('1 hour')) || vals);
$$;

CREATE FUNCTION craft.task(dag_id text, run_id text, task_id text, state text, vals jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT craft.put('task_instance', jsonb_build_object('dag_id', dag_id, 'run_id', run_id, 'task_id', task_id, 'state', state,
		'map_index', -1, 'try_number', 1, 'max_tries', 3, 'pool', 'wide', 'pool_slots', 1, 'queue', 'q',
		'scheduled_dttm', CASE WHEN state IN ('scheduled', 'queued', 'running') THEN craft.ago('1 minute') END,
		'queued_dttm', CASE WHEN state IN ('queued', 'running') THEN craft.ago('30 seconds') END,
		'updated_at', craft.ago('20 minutes')) || vals);
$$;

-- A version of a DAG; what it serializes comes as JSON, or compressed.
CREATE FUNCTION craft.version(dag_id text, number int, data jsonb, compressed bytea DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	id uuid := gen_random_uuid();
BEGIN
	PERFORM craft.put('dag_version', jsonb_build_object('id', id, 'dag_id', dag_id, 'version_number', number));
	PERFORM craft.put('serialized_dag', jsonb_build_object('dag_version_id', id, 'dag_id', dag_id, 'data', data,
		'data_compressed', compressed));
	RETURN id;
END
$$;

CREATE FUNCTION craft.serialized(VARIADIC tasks jsonb[]) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('__version', 3, 'dag', jsonb_build_object('tasks',
		(SELECT jsonb_agg(jsonb_build_object('__type', 'operator', '__var', t)) FROM unnest(tasks) t)));
$$;

-- The name of each task is the reason that it must get, up to a slash.  Goes to the schema that comes first.
CREATE FUNCTION craft.everything() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	hostile text := rpad('o''"%s\ünï; DROP $1 {', 250, 'x');
	old uuid;
BEGIN
	PERFORM craft.put('dag_bundle', '{"name": "b"}');
	PERFORM craft.put('slot_pool', jsonb_build_object('pool', p, 'slots', s, 'include_deferred', d))
	FROM (VALUES ('wide', -1, false), ('tight', 3, false), ('parked', 2, true), ('unparked', 2, false)) v (p, s, d);
	PERFORM craft.put('job', jsonb_build_object('id', 900 + n, 'job_type', t, 'state', 'running', 'latest_heartbeat', craft.ago('5 seconds')))
	FROM (VALUES (1, 'SchedulerJob'), (2, 'TriggererJob')) v (n, t);
	PERFORM craft.put('trigger', jsonb_build_object('id', n, 'created_date', craft.ago('3 minutes'), 'triggerer_id', j))
	FROM (VALUES (1, 902), (2, NULL), (3, 902)) v (n, j);

	PERFORM craft.dag(d) FROM unnest(ARRAY['ok', 'future', 'retry', 'compressed', 'versions', 'unreadable', hostile]) d;
	PERFORM craft.dag('stale', '{"is_stale": true}');
	PERFORM craft.dag('paused', '{"is_paused": true}');
	PERFORM craft.dag('full', '{"max_active_runs": 1}');
	PERFORM craft.dag('busy', '{"max_active_tasks": 2}');
	PERFORM craft.dag('limited', '{"has_task_concurrency_limits": true}');
	PERFORM craft.dag('unlimited', '{"has_task_concurrency_limits": false}');

	PERFORM craft.run(d, 'r') FROM unnest(ARRAY['ok', 'stale', 'paused', 'gone', 'full', 'busy', 'limited', 'unlimited', 'retry',
		'compressed', 'versions', 'unreadable', hostile]) d;
	PERFORM craft.run('ok', s, jsonb_build_object('state', s)) FROM unnest(ARRAY['success', 'failed']) s;
	PERFORM craft.run('full', 'r2', '{"state": "queued"}');
	PERFORM craft.run('busy', 'r2');
	PERFORM craft.run('limited', 'r2');
	PERFORM craft.run('future', 'r', jsonb_build_object('run_after', craft.ago('-1 hour')));

	-- The run and the DAG come before the task.
	PERFORM craft.task('ok', 'success', 'run_finished/none', NULL);
	PERFORM craft.task('ok', 'failed', 'run_finished/scheduled', 'scheduled');
	PERFORM craft.task('stale', 'r', 'dag_stale', 'scheduled');
	PERFORM craft.task('gone', 'r', 'dag_stale', NULL);
	PERFORM craft.task('paused', 'r', 'dag_paused/scheduled', 'scheduled');
	PERFORM craft.task('paused', 'r', 'dag_paused/deferred', 'deferred');
	PERFORM craft.task('future', 'r', 'run_in_future', NULL);
	PERFORM craft.task('full', 'r2', 'run_queued', NULL);

	-- Delays and triggers.
	PERFORM craft.task('retry', 'r', t, 'up_for_retry', jsonb_build_object('end_date', craft.ago(e), 'try_number', n))
	FROM (VALUES ('retry_delay/plain', '4 minutes', 1), ('executor_slots/plain', '6 minutes', 1),
		('retry_delay/mapped', '30 seconds', 1), ('executor_slots/mapped', '90 seconds', 1),
		-- 100 s doubled twice, and up to that much again
		('retry_delay/backoff', '399 seconds', 3), ('executor_slots/backoff', '811 seconds', 3),
		('retry_delay/capped', '40 seconds', 9), ('executor_slots/capped', '80 seconds', 9),
		('retry_delay/gone', '5 hours', 1)) v (t, e, n);
	PERFORM craft.task('retry', 'r', 'ready/plain', 'up_for_retry', jsonb_build_object('end_date', craft.ago('303 seconds')));
	PERFORM craft.task('retry', 'r', CASE WHEN current_schema = '3.3.2' THEN 'executor_slots/policy' ELSE 'retry_delay/policy' END,
		'up_for_retry', jsonb_build_object('end_date', craft.ago('4 minutes'), 'retry_delay_override', 60));
	PERFORM craft.version('retry', 1, craft.serialized('{"task_id": "retry_delay/plain"}',
		'{"task_id": "executor_slots/plain"}', '{"task_id": "ready/plain", "retry_delay": 300.0}', '{"task_id": "retry_delay/policy"}',
		'{"task_id": "executor_slots/policy"}',
		'{"task_id": "retry_delay/mapped", "partial_kwargs": {"retry_delay": {"__type": "timedelta", "__var": 60.0}}}',
		'{"task_id": "executor_slots/mapped", "partial_kwargs": {"retry_delay": 60.0}}',
		'{"task_id": "retry_delay/backoff", "retry_delay": 100.0, "retry_exponential_backoff": true}',
		'{"task_id": "executor_slots/backoff", "retry_delay": 100.0, "retry_exponential_backoff": 2.0}',
		'{"task_id": "retry_delay/capped", "retry_delay": 100.0, "retry_exponential_backoff": true, "max_retry_delay": 60.0}',
		'{"task_id": "executor_slots/capped", "retry_delay": 100.0, "retry_exponential_backoff": 2, "max_retry_delay": 60.0}'));
	-- {"dag": {"tasks": [{"__var": {"task_id": "executor_slots/a", "retry_delay": 60.0}}, {"__var": {"task_id": "retry_delay/b"}}]},
	--  "client_defaults": {"tasks": {"retry_delay": 3600.0}}}
	PERFORM craft.version('compressed', 1, NULL, '\x789cab564a494c57b252a8562a492cce2e06b2a2ab95e2e3cb128be082f1992940b6526a456a7269497e517c714e7e49b17ea2928e8252516a4951657c4a6a4e6225508999819e416dad8e020e039014eb2729d5d6c602952a25e764a6e6950045d3124b734a8a515c528d66beb19901d8865a00601b3c86');
	PERFORM craft.task('compressed', 'r', t, 'up_for_retry', jsonb_build_object('end_date', craft.ago('10 minutes')))
	FROM unnest(ARRAY['executor_slots/a', 'retry_delay/b']) t;
	-- The latest version counts, but for a run that is bound to its bundle.
	old := craft.version('versions', 1, craft.serialized('{"task_id": "executor_slots/bound", "retry_delay": 60.0}',
		'{"task_id": "retry_delay/latest", "retry_delay": 60.0}'));
	PERFORM craft.version('versions', 2, craft.serialized('{"task_id": "executor_slots/bound", "retry_delay": 3600.0}',
		'{"task_id": "retry_delay/latest", "retry_delay": 3600.0}'));
	PERFORM craft.run('versions', 'bound', jsonb_build_object('bundle_version', 'sha', 'created_dag_version_id', old));
	PERFORM craft.task('versions', 'bound', 'executor_slots/bound', 'up_for_retry', jsonb_build_object('end_date', craft.ago('10 minutes')));
	PERFORM craft.task('versions', 'r', 'retry_delay/latest', 'up_for_retry', jsonb_build_object('end_date', craft.ago('10 minutes')));
	PERFORM craft.version('unreadable', 1, NULL, '\x789cdeadbeef');
	PERFORM craft.task('unreadable', 'r', 'retry_delay/unreadable', 'up_for_retry', jsonb_build_object('end_date', craft.ago('10 days')));

	PERFORM craft.task('ok', 'r', t, 'up_for_reschedule', jsonb_build_object('id', md5(t)::uuid))
	FROM unnest(ARRAY['reschedule_delay', 'executor_slots/reschedule', 'ready/reschedule']) t;
	PERFORM craft.put('task_reschedule', jsonb_build_object('id', n, 'ti_id', md5(t)::uuid, 'end_date', craft.ago('5 minutes'),
		'reschedule_date', craft.ago(a)))
	FROM (VALUES (1, 'reschedule_delay', '4 minutes'), (2, 'reschedule_delay', '-1 minute'),
		(3, 'executor_slots/reschedule', '-1 minute'), (4, 'executor_slots/reschedule', '2 minutes'),
		(5, 'ready/reschedule', '3 seconds')) v (n, t, a);
	PERFORM craft.task('ok', 'r', 'trigger_missing', 'deferred');
	PERFORM craft.task('ok', 'r', 'trigger_pending/taken', 'deferred', '{"trigger_id": 1}');
	PERFORM craft.task('ok', 'r', 'trigger_pending/waits', 'deferred', '{"trigger_id": 2}');
	PERFORM craft.task('ok', 'r', 'awaiting_input', 'awaiting_input');

	-- Executor, pools, limits of the DAG.
	PERFORM craft.task('ok', 'r', 'executor_queue', 'queued');
	PERFORM craft.task('ok', 'r', 'pool_missing', 'scheduled', '{"pool": "none such"}');
	PERFORM craft.task('ok', 'r', 'pool_too_small', 'scheduled', '{"pool": "tight", "pool_slots": 4}');
	PERFORM craft.task('ok', 'r', 'uses/tight', 'running', '{"pool": "tight", "pool_slots": 2}');
	PERFORM craft.task('ok', 'r', 'pool_full/of two', 'scheduled', '{"pool": "tight", "pool_slots": 2}');
	PERFORM craft.task('ok', 'r', 'executor_slots/one fits', 'scheduled', '{"pool": "tight"}');
	PERFORM craft.task('ok', 'r', 'trigger_pending/parks', 'deferred', '{"pool": "parked", "pool_slots": 2, "trigger_id": 3}');
	PERFORM craft.task('ok', 'r', 'pool_full/deferred', 'scheduled', '{"pool": "parked"}');
	PERFORM craft.task('ok', 'r', 'trigger_missing/no park', 'deferred', '{"pool": "unparked", "pool_slots": 2}');
	PERFORM craft.task('ok', 'r', 'uses/restarting', 'restarting', '{"pool": "unparked", "pool_slots": 2}');
	PERFORM craft.task('ok', 'r', 'executor_slots/not parked', 'scheduled', '{"pool": "unparked"}');
	PERFORM craft.task('busy', 'r', 'uses/one', 'running');
	PERFORM craft.task('busy', 'r', 'executor_queue', 'queued');
	PERFORM craft.task('busy', 'r', 'dag_max_active_tasks', 'scheduled');
	PERFORM craft.task('busy', 'r2', 'executor_slots/limit is per run', 'scheduled');
	PERFORM craft.version('limited', 1, craft.serialized('{"task_id": "task_concurrency/dag", "max_active_tis_per_dag": 2}',
		'{"task_id": "task_concurrency/run", "max_active_tis_per_dagrun": 1}',
		'{"task_id": "executor_slots/run", "max_active_tis_per_dagrun": 1}',
		'{"task_id": "executor_slots/below", "max_active_tis_per_dag": 2}',
		'{"task_id": "task_concurrency/mapped", "_is_mapped": true, "partial_kwargs": {"max_active_tis_per_dag": 1}}',
		'{"task_id": "task_concurrency/deferred", "max_active_tis_per_dag": 1}'));
	PERFORM craft.version('unlimited', 1, craft.serialized('{"task_id": "executor_slots/not read", "max_active_tis_per_dag": 0}'));
	PERFORM craft.task('unlimited', 'r', 'executor_slots/not read', 'scheduled');
	PERFORM craft.task('limited', r, t, s, jsonb_build_object('map_index', m))
	FROM (VALUES ('r', 'task_concurrency/dag', 'running', 0), ('r2', 'task_concurrency/dag', 'running', 1),
		('r', 'task_concurrency/dag', 'scheduled', 2), ('r', 'task_concurrency/run', 'running', 0),
		('r', 'task_concurrency/run', 'scheduled', 1), ('r', 'executor_slots/run', 'running', 0),
		('r2', 'executor_slots/run', 'scheduled', 1), ('r', 'executor_slots/below', 'running', 0),
		('r', 'executor_slots/below', 'scheduled', 1), ('r', 'task_concurrency/mapped', 'running', 0),
		('r', 'task_concurrency/mapped', 'scheduled', 1)) v (r, t, s, m);
	-- Deferred tasks count against the limit of a task since 3.2.
	PERFORM craft.task('limited', 'r', 'task_concurrency/deferred', s, jsonb_build_object('map_index', m))
	FROM (VALUES ('deferred', 0), ('scheduled', 1)) v (s, m);
	PERFORM craft.task('ok', 'r', 'upstream_unfinished', NULL);
	PERFORM craft.task('ok', 'r', 'ready', 'scheduled', jsonb_build_object('scheduled_dttm', craft.ago('1 second')));
	PERFORM craft.task('ok', 'r', 'executor_slots/scheduled', 'scheduled');
	PERFORM craft.task(hostile, 'r', 'executor_queue', 'queued', '{"executor": "a.\"B\"", "queue": null}');
END
$$;

-- A call with one of the four Airflows.
CREATE FUNCTION craft.waiting(version text) RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('airflow_bp.airflow_schema', version, true);
	RETURN QUERY SELECT * FROM airflow_bp.waiting();
END
$$;

CREATE VIEW craft.waiting AS
SELECT v.version, w.*
FROM unnest(ARRAY['3.0.6', '3.1.8', '3.2.2', '3.3.2']) v (version)
CROSS JOIN LATERAL craft.waiting(v.version) w (dag_id text, run_id text, task_id text, map_index int, try_number int, tenant text,
	pool text, queue text, state text, reason text, detail text, waiting_since timestamptz, claimable_age interval);

\set ECHO none
SET search_path = "3.0.6";
SELECT craft.everything() \g /dev/null
SET search_path = "3.1.8";
SELECT craft.everything() \g /dev/null
SET search_path = "3.2.2";
SELECT craft.everything() \g /dev/null
SET search_path = "3.3.2";
SELECT craft.everything() \g /dev/null
RESET search_path;
\set ECHO all

-- Each task has its reason; one of them only since 3.2.
SELECT version, dag_id, task_id, map_index, state, reason, detail FROM craft.waiting
WHERE reason <> split_part(task_id, '/', 1) AND (task_id, state) <> ('task_concurrency/deferred', 'deferred') ORDER BY 1, 2, 3, 4;
SELECT version, count(*), count(DISTINCT reason) AS reasons FROM craft.waiting GROUP BY 1 ORDER BY 1;
SELECT DISTINCT reason, regexp_replace(detail, '\d{4}-\S+ \S+', '(date)', 'g') AS detail FROM craft.waiting WHERE version = '3.3.2' ORDER BY 1, 2;

-- Since when, and how long able to start, in whole minutes.
SELECT task_id, state, date_trunc('minute', now() - waiting_since) AS waits, date_trunc('minute', claimable_age) AS claimable
FROM craft.waiting WHERE version = '3.3.2' AND dag_id IN ('ok', 'paused', 'retry', 'future') ORDER BY 1;

-- Hostile names are plain text.
SELECT length(dag_id), left(dag_id, 25), queue, detail FROM craft.waiting WHERE dag_id LIKE 'o''%' AND version = '3.1.8';

-- The summary counts what waiting() lists.
SET airflow_bp.airflow_schema = '3.3.2';
SELECT left(scope_name, 25), queued FROM airflow_bp.queue('dag') WHERE scope_name LIKE 'o''%';
SELECT reason, tasks, slots, date_trunc('minute', oldest) AS oldest, CASE WHEN tasks = 1 OR reason = 'retry_delay' THEN example END AS example
FROM airflow_bp.waiting_summary() ORDER BY reason;
SELECT (SELECT sum(tasks) FROM airflow_bp.waiting_summary()) = (SELECT count(*) FROM airflow_bp.waiting()) AS summary,
	(SELECT count(*) FROM airflow_bp.waiting()) = (SELECT count(*) FROM "3.3.2".task_instance WHERE state IS NULL OR state NOT IN
		('running', 'restarting', 'success', 'failed', 'skipped', 'upstream_failed', 'removed')) AS backlog;

-- Depth by scope.
CREATE TEMP VIEW depth AS
SELECT s.scope, q.* FROM unnest(ARRAY['deployment', 'pool', 'queue', 'executor', 'tenant', 'dag', 'state']) s (scope)
CROSS JOIN LATERAL airflow_bp.queue(s.scope) q;
SELECT scope, scope_name, waiting, "none", scheduled, queued, running, deferred, up_for_retry, up_for_reschedule,
	slots_used, slots_total, date_trunc('minute', oldest_claimable) AS oldest FROM depth WHERE scope <> 'dag' ORDER BY 1, 2;
SELECT scope, sum(waiting) = (SELECT count(*) FROM airflow_bp.waiting()) AS all_there FROM depth GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM airflow_bp.queue_by_dag;

-- Without a scheduler nothing that is left to it moves.
BEGIN;
UPDATE "3.3.2".job SET latest_heartbeat = now() - interval '31 seconds' WHERE job_type = 'SchedulerJob';
SELECT reason, count(*) FROM airflow_bp.waiting() GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- What shared memory holds has its own reasons.
BEGIN;
CREATE TABLE craft.held AS SELECT id AS ti_id, dag_id::text, 'default'::text AS tenant, 1 AS slots,
	1 AS priority, now() - interval '2 minutes' AS first_asked, now() AS last_asked, 7::bigint AS asks,
	'held_quota'::text AS reason, false AS granted, false AS run_parked FROM "3.3.2".task_instance WHERE false;
CREATE OR REPLACE FUNCTION airflow_bp.held_entries() RETURNS TABLE (ti_id uuid, dag_id text, tenant text, slots int, priority int, first_asked timestamptz, last_asked timestamptz, asks bigint, reason text,
	granted boolean, run_parked boolean) LANGUAGE sql AS 'SELECT * FROM craft.held';
SET LOCAL search_path = "3.3.2";
SELECT craft.task('ok', 'r', r, s) FROM (VALUES ('never_fits', NULL), ('held_starting', NULL), ('held_drain', 'up_for_reschedule'),
	('held_breaker', NULL), ('held_rate', NULL), ('held_quota', 'up_for_reschedule'), ('held_order', NULL), ('executor_slots/granted', NULL),
	('executor_slots/let go', 'scheduled')) v (r, s) \g /dev/null
INSERT INTO craft.held SELECT id, dag_id, 'default', 1, 1, now() - interval '2 minutes', now(), 7,
	CASE WHEN task_id NOT LIKE 'executor%' THEN task_id END, task_id LIKE '%granted', task_id = 'held_order'
FROM task_instance WHERE task_id ~ '^(held|never)|granted|let go';
SELECT task_id, state, reason, detail, date_trunc('minute', now() - waiting_since) AS waits, date_trunc('minute', claimable_age) AS claimable
FROM airflow_bp.waiting() WHERE task_id ~ '^(held|never)|granted|let go' ORDER BY 1;
ROLLBACK;

-- Tables and columns that are not there: the rest is told.
BEGIN;
SET LOCAL client_min_messages = warning;
ALTER TABLE "3.3.2".task_instance DROP COLUMN queued_dttm, DROP COLUMN pool_slots, DROP COLUMN queue;
ALTER TABLE "3.3.2".dag DROP COLUMN is_stale;
DROP TABLE "3.3.2".trigger, "3.3.2".task_reschedule, "3.3.2".job, "3.3.2".serialized_dag CASCADE;
SELECT reason, tasks, slots FROM airflow_bp.waiting_summary() ORDER BY 1;
SELECT scope_name, waiting, slots_used FROM airflow_bp.queue('queue');
ROLLBACK;

-- Bad input.
SELECT * FROM airflow_bp.queue('pools');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM airflow_bp.queue(NULL);
SELECT * FROM airflow_bp.queue_rates($$'; DROP TABLE dag$$);
SELECT airflow_bp.inflate('\x78');
\echo :LAST_ERROR_SQLSTATE

-- Nothing depends on Airflow's tables, and nothing writes.
SELECT count(*) FROM pg_depend d JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
JOIN pg_depend e ON e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e' WHERE c.relnamespace = '"3.3.2"'::regnamespace;
SET default_transaction_read_only = on;
SELECT (SELECT count(*) FROM airflow_bp.waiting()) > 0 AS waiting, (SELECT count(*) FROM airflow_bp.waiting_summary()) > 0 AS summary,
	(SELECT count(*) FROM airflow_bp.queue_by_tenant) > 0 AS queue;
RESET default_transaction_read_only;

-- Delays of retries, as Airflow 3.3.2 computes them.
SELECT airflow_bp.retry_delay('d', 't', '2026-03-29 01:30:00.5+02', 3, 10, 2, NULL) AS backoff,
	airflow_bp.retry_delay('d', 't', NULL, 3, 10, 2, NULL) AS no_date, airflow_bp.retry_delay('d', 't', NULL, 3, 10, 2, 20) AS capped,
	airflow_bp.retry_delay('d', 't', NULL, 9999, 10, 2, NULL) AS most, airflow_bp.retry_delay('d', 't', NULL, 3, 1.5, 0, 1) AS plain;

-- A role that may read here, and nothing else.
CREATE ROLE regress_airflow_bp_reader;
SET ROLE regress_airflow_bp_reader;
SELECT * FROM airflow_bp.waiting_summary();
RESET ROLE;
SELECT airflow_bp.grant_reader('regress_airflow_bp_reader');
SET ROLE regress_airflow_bp_reader;
SELECT count(*) > 0 AS reads FROM airflow_bp.waiting();
SELECT count(*) > 0 AS reads FROM airflow_bp.waiting_summary();
SELECT count(*) > 0 AS reads FROM airflow_bp.queue_by_pool;
SELECT count(*) > 0 AS reads FROM airflow_bp.queue_rates('pool');
SELECT count(*) FROM "3.3.2".task_instance;
SET airflow_bp.airflow_schema = 'craft';
RESET ROLE;
DROP OWNED BY regress_airflow_bp_reader;
DROP ROLE regress_airflow_bp_reader;

-- Sums on a random load.
\set load :top '/test/fixtures/load.sql'
\set ECHO none
CREATE SCHEMA load;
SET search_path = load;
\i :v332
\i :load
\set ECHO all
\echo seed 20261123
SELECT load_gen.load(seed => 20261123, dags => 30, runs => 5, tasks => 10) \g /dev/null
RESET search_path;
SET airflow_bp.airflow_schema = 'load';
SELECT (SELECT sum(tasks) FROM airflow_bp.waiting_summary()) = (SELECT count(*) FROM airflow_bp.waiting()) AS summary,
	(SELECT count(*) FROM airflow_bp.waiting()) = (SELECT count(*) FROM load.task_instance WHERE state IS NULL OR state NOT IN
		('running', 'restarting', 'success', 'failed', 'skipped', 'upstream_failed', 'removed')) AS backlog;
SELECT scope, sum(waiting) = (SELECT count(*) FROM airflow_bp.waiting()) AS all_there FROM depth GROUP BY 1 ORDER BY 1;
-- Slots of pools, as Airflow sums them.
SELECT count(*) > 0 AS pools, bool_and(q.slots_used = coalesce(t.slots, 0)) AS slots_used,
	bool_and(q.slots_total IS NOT DISTINCT FROM nullif(p.slots, -1)) AS slots_total
FROM airflow_bp.queue('pool') q JOIN load.slot_pool p ON p.pool = q.scope_name
LEFT JOIN LATERAL (SELECT sum(t.pool_slots) AS slots FROM load.task_instance t WHERE t.pool = p.pool
	AND t.state = ANY (CASE WHEN p.include_deferred THEN '{running,queued,deferred}' ELSE '{running,queued}' END::text[])) t ON true;
\c postgres
DROP DATABASE regress_queue;
