-- Tasks that are stuck, on the real schema of each Airflow version.
\set SHOW_CONTEXT never
\pset null '(null)'
-- In a database of its own: only there is the Airflow to find the only one.
CREATE DATABASE regress_stuck;
\c regress_stuck
CREATE EXTENSION airflow_bp;
SET datestyle = ISO;
SET intervalstyle = postgres;

-- Nothing to read yet.
SELECT * FROM airflow_bp.stuck();
\echo :LAST_ERROR_SQLSTATE

\getenv top PG_ABS_SRCDIR
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set craft :top '/test/fixtures/craft.sql'
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
\i :craft
\set ECHO all

-- The name of each task is what stuck() must say of it: cause, severity, and what tells it from others of the same.
CREATE FUNCTION craft.log(dag_id text, task_id text, event text, ago text, try_number int DEFAULT 1) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM craft.put('log', jsonb_build_object('id', (SELECT coalesce(max(id), 0) + 1 FROM log), 'dag_id', dag_id, 'run_id', 'r', 'task_id', task_id,
		'map_index', -1, 'try_number', try_number, 'event', event, 'dttm', craft.ago(ago)));
END
$$;
CREATE FUNCTION craft.surroundings() RETURNS void LANGUAGE sql AS $$
	SELECT craft.put('dag_bundle', '{"name": "b"}');
	SELECT craft.put('slot_pool', jsonb_build_object('pool', p, 'slots', s, 'include_deferred', d))
	FROM (VALUES ('wide', -1, false), ('tight', 3, false), ('parked', 2, true)) v (p, s, d);
	-- A scheduler and a triggerer that live, and those that died.
	SELECT craft.put('job', jsonb_build_object('id', n, 'job_type', t, 'state', s, 'latest_heartbeat', craft.ago(h), 'hostname', 'host-' || n, 'end_date', e))
	FROM (VALUES (901, 'SchedulerJob', 'running', '5 seconds', NULL), (902, 'TriggererJob', 'running', '5 seconds', NULL),
		(903, 'SchedulerJob', 'running', '20 minutes', NULL), (904, 'TriggererJob', 'running', '20 minutes', NULL),
		(905, 'SchedulerJob', 'failed', '2 minutes', NULL), (906, 'TriggererJob', 'success', '5 seconds', now())) v (n, t, s, h, e);
	SELECT craft.put('trigger', jsonb_build_object('id', n, 'created_date', craft.ago('20 minutes'), 'triggerer_id', j, 'classpath', 'some.Trigger'))
	FROM (VALUES (1, 902), (2, NULL), (3, 904), (4, 906)) v (n, j);
$$;
CREATE FUNCTION craft.stuck_tasks() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM craft.dag('ok', '{"max_active_tasks": 100}'), craft.dag('busy');
	PERFORM craft.dag('limited', '{"has_task_concurrency_limits": true}');
	PERFORM craft.dag('retry'), craft.dag('stale', '{"is_stale": true}'), craft.dag('paused', '{"is_paused": true}');
	PERFORM craft.run(d, 'r', jsonb_build_object('start_date', craft.ago('1 day'))) FROM unnest('{ok,busy,limited,retry,stale,paused,gone}'::text[]) d;
	PERFORM craft.run('ok', 'failed', '{"state": "failed"}'), craft.run('ok', 'future', jsonb_build_object('run_after', craft.ago('-1 hour')));

	-- In scheduled: pools, age, limits.
	PERFORM craft.task('ok', 'r', t, 'scheduled', v || jsonb_build_object('scheduled_dttm', craft.ago(a)))
	FROM (VALUES ('pool_missing/stuck', '2 minutes', '{"pool": "none such"}'::jsonb), ('none/pool missing for a moment', '30 seconds', '{"pool": "none such"}'),
		('pool_too_small/stuck', '2 minutes', '{"pool": "tight", "pool_slots": 4}'), ('none/pool just wide enough', '2 minutes', '{"pool": "tight", "pool_slots": 3}'),
		('scheduled_too_long/stuck/executor_slots', '2 hours', '{}'), ('scheduled_too_long/warning/executor_slots', '20 minutes', '{}'), ('none/young', '1 minute', '{}'),
		('scheduled_too_long/stuck/pool_full', '2 hours', '{"pool": "tight", "pool_slots": 2}'),
		('scheduled_too_long/stuck/pool_full deferred', '2 hours', '{"pool": "parked"}')) v (t, a, v);
	PERFORM craft.task('ok', 'r', 'none/uses tight', 'running', '{"pool": "tight", "pool_slots": 2, "queued_by_job_id": 901}' || craft.beats('5 seconds'));
	PERFORM craft.task('ok', 'r', 'none/uses parked', 'deferred', '{"pool": "parked", "pool_slots": 2, "trigger_id": 1}');
	PERFORM craft.task('busy', 'r', 'none/' || n, 'running', craft.beats('1 second')) FROM generate_series(1, 16) n;
	PERFORM craft.task('busy', 'r', 'scheduled_too_long/stuck/dag_max_active_tasks', 'scheduled', jsonb_build_object('scheduled_dttm', craft.ago('2 hours')));
	PERFORM craft.version('limited', 1, craft.serialized('{"task_id": "scheduled_too_long/stuck/task_concurrency", "max_active_tis_per_dag": 1}'));
	PERFORM craft.task('limited', 'r', 'scheduled_too_long/stuck/task_concurrency', s, jsonb_build_object('map_index', m, 'scheduled_dttm', craft.ago('2 hours'))
		|| craft.beats('1 second')) FROM (VALUES ('running', 0), ('scheduled', 1)) v (s, m);

	-- In queued: by whom, how long, how often.
	PERFORM craft.task('ok', 'r', t, 'queued', jsonb_build_object('queued_dttm', craft.ago(a), 'queued_by_job_id', j))
	FROM (VALUES ('none/queued', '4 minutes', 901), ('queued_too_long/warning', '11 minutes', 901), ('queued_too_long/stuck', '13 minutes', 901),
		('queued_too_long/stuck/by nobody', '11 minutes', NULL), ('queued_by_dead_scheduler/stuck', '25 minutes', 903),
		('queued_by_dead_scheduler/warning', '4 minutes', 905), ('requeue_loop/stuck', '1 second', 901), ('requeue_loop/warning', '1 second', 901),
		('none/requeued long ago', '1 second', 901)) v (t, a, j);
	PERFORM craft.log('ok', t, 'stuck in queued reschedule', a) FROM (VALUES ('requeue_loop/stuck', '30 minutes'), ('requeue_loop/stuck', '15 minutes'),
		('requeue_loop/warning', '15 minutes'), ('none/requeued long ago', '25 hours'), ('none/requeued long ago', '26 hours')) v (t, a);
	PERFORM craft.task('ok', 'r', t, s, jsonb_build_object('executor', e, 'external_executor_id', x, 'queued_dttm', craft.ago(a), 'scheduled_dttm', craft.ago(a),
		'queued_by_job_id', j))
	FROM (VALUES ('executor_unknown/stuck/scheduled', 'scheduled', 'Gone', NULL, '2 minutes', NULL), ('executor_unknown/stuck/queued', 'queued', 'Gone', NULL, '2 minutes', 901),
		('executor_unknown/stuck/silent', 'queued', 'Silent', NULL, '13 minutes', 901), ('queued_too_long/stuck/has an id', 'queued', 'Silent', 'x', '13 minutes', 901),
		('queued_too_long/stuck/others start', 'queued', 'Served', NULL, '13 minutes', 901)) v (t, s, e, x, a, j);
	PERFORM craft.task('ok', 'r', 'none/started of Served', 'running', '{"executor": "Served", "queued_by_job_id": 901}' || craft.beats('1 second')
		|| jsonb_build_object('start_date', craft.ago('1 minute')));
	PERFORM craft.put('import_error', jsonb_build_object('id', 1, 'stacktrace',
		'airflow.exceptions.UnknownExecutorException: Task ''x'' specifies executor ''Gone'', which is not available. Make sure it is listed'));

	-- Running, restarting.
	PERFORM craft.task('ok', 'r', t, s, jsonb_build_object('queued_by_job_id', j, 'hostname', 'worker-1') || b)
	FROM (VALUES ('none/beats', 'running', 901, craft.beats('30 seconds')), ('running_without_heartbeat/warning', 'running', 901, craft.beats('2 minutes')),
		('running_without_heartbeat/warning/sweep is due', 'running', 901, craft.beats('304 seconds')), ('running_without_heartbeat/stuck', 'running', 901, craft.beats('6 minutes')),
		('running_without_heartbeat/stuck/never beat', 'running', 901, jsonb_build_object('start_date', craft.ago('6 minutes'), 'last_heartbeat_at', NULL)),
		('running_without_heartbeat/warning/orphan', 'running', 905, craft.beats('315 seconds')),
		('running_without_heartbeat/stuck/by nobody', 'running', NULL, craft.beats('6 minutes')),
		('none/restarting', 'restarting', 901, craft.beats('10 minutes') || jsonb_build_object('updated_at', craft.ago('1 minute'))),
		('restarting_too_long/stuck', 'restarting', 901, craft.beats('10 minutes') || jsonb_build_object('updated_at', craft.ago('9 minutes')))) v (t, s, j, b);

	-- Deferred, and up for retry or reschedule.
	PERFORM craft.task('ok', 'r', t, 'deferred', jsonb_build_object('trigger_id', g, 'trigger_timeout', craft.ago(o), 'updated_at', craft.ago(a)))
	FROM (VALUES ('none/deferred', 1, '-1 hour', '10 minutes'), ('deferred_without_trigger/stuck', NULL, NULL, '10 minutes'),
		('none/deferred just now', NULL, NULL, '30 seconds'), ('deferred_past_timeout/stuck', 1, '5 minutes', '10 minutes'), ('none/timeout just now', 1, '30 seconds', '10 minutes'),
		('dead_triggerer/stuck/nobody took it', 2, NULL, '10 minutes'), ('dead_triggerer/stuck/killed', 3, NULL, '10 minutes'), ('none/triggerer stopped just now', 4, NULL, '30 minutes')) v (t, g, o, a);
	PERFORM craft.task('ok', 'r', 'none/a person is asked', 'awaiting_input', jsonb_build_object('updated_at', craft.ago('9 days')));
	PERFORM craft.version('retry', 1, craft.serialized('{"task_id": "none/retry in an hour", "retry_delay": 3600.0}', '{"task_id": "none/retry in a minute", "retry_delay": 60.0}',
		'{"task_id": "retry_overdue/stuck", "retry_delay": 60.0}'));
	PERFORM craft.task('retry', 'r', t, 'up_for_retry', jsonb_build_object('end_date', craft.ago(a)))
	FROM (VALUES ('none/retry in an hour', '30 minutes'), ('none/retry in a minute', '5 minutes'), ('retry_overdue/stuck', '12 minutes'), ('none/delay not known', '24 hours'),
		('retry_overdue/stuck/delay not known', '25 hours')) v (t, a);
	PERFORM craft.task('ok', 'r', t, 'up_for_reschedule', jsonb_build_object('id', md5(t)::uuid)) FROM unnest('{none/looks in an hour,none/looked just now,reschedule_overdue/stuck}'::text[]) t;
	PERFORM craft.put('task_reschedule', jsonb_build_object('id', n, 'ti_id', md5(t)::uuid, 'reschedule_date', craft.ago(a)))
	FROM (VALUES (1, 'none/looks in an hour', '20 minutes'), (2, 'none/looks in an hour', '-1 hour'), (3, 'none/looked just now', '1 minute'),
		(4, 'reschedule_overdue/stuck', '2 hours'), (5, 'reschedule_overdue/stuck', '11 minutes')) v (n, t, a);

	-- Failed: the last try, and one that has retries left.
	PERFORM craft.task('ok', 'r', t, 'failed', jsonb_build_object('try_number', n, 'end_date', craft.ago(a), 'hostname', 'worker-1') || craft.beats(a))
	FROM (VALUES ('retries_exhausted/stuck', 4, '10 minutes'), ('none/failed early', 2, '10 minutes'), ('none/failed long ago', 4, '3 hours')) v (t, n, a);
	PERFORM craft.task('ok', 'r', 'retries_exhausted/stuck/never started', 'failed', '{"try_number": 4}');
	PERFORM craft.log('ok', 'retries_exhausted/stuck/never started', 'stuck in queued tries exceeded', '20 minutes', 4);

	-- What cannot start is not stuck; what runs runs on.
	PERFORM craft.task(d, r, format('none/%s %s', r, s), s, jsonb_build_object('scheduled_dttm', craft.ago('1 day'), 'queued_dttm', craft.ago('1 day'),
		'end_date', craft.ago('2 days'), 'updated_at', craft.ago('1 day')))
	FROM (VALUES ('stale', 'r'), ('paused', 'r'), ('gone', 'r'), ('ok', 'failed'), ('ok', 'future')) v (d, r),
		unnest('{scheduled,queued,deferred,up_for_retry,up_for_reschedule,NULL}'::text[]) s;
	PERFORM craft.task('paused', 'r', 'running_without_heartbeat/stuck', 'running', craft.beats('6 minutes'));

	-- Runs.
	PERFORM craft.dag(d) FROM unnest('{stalled,moving,earlier,looked}'::text[]) d;
	PERFORM craft.dag('stalled paused', '{"is_paused": true}');
	PERFORM craft.run(d, r, jsonb_build_object('start_date', craft.ago('2 hours'), 'logical_date', craft.ago(l), 'last_scheduling_decision', craft.ago('1 second')) || x)
	FROM (VALUES ('stalled', 'r', '1 day', '{}'::jsonb), ('stalled paused', 'r', '1 day', '{}'), ('moving', 'r', '1 day', '{}'), ('earlier', 'r1', '2 days', '{}'),
		('earlier', 'r2', '1 day', '{}'), ('looked', 'r', '1 day', '{"last_scheduling_decision": null}'),
		('stalled', 'young', '12 hours', jsonb_build_object('start_date', craft.ago('1 minute')))) v (d, r, l, x);
	PERFORM craft.task(d, r, t, s, jsonb_build_object('updated_at', craft.ago(a)))
	FROM (VALUES ('stalled', 'r', 'done', 'success', '40 minutes'), ('stalled', 'r', 'waits', NULL, '2 hours'), ('stalled paused', 'r', 'waits', NULL, '2 hours'),
		('moving', 'r', 'done', 'success', '1 minute'), ('moving', 'r', 'waits', NULL, '2 hours'), ('earlier', 'r2', 'waits', NULL, '2 hours'),
		('earlier', 'r1', 'runs', 'awaiting_input', '2 hours'), ('looked', 'r', 'waits', NULL, '2 hours'), ('stalled', 'young', 'waits', NULL, '2 hours')) v (d, r, t, s, a);
END
$$;
\set ECHO none
SET search_path = "3.0.6";
SELECT craft.surroundings(), craft.stuck_tasks() \g /dev/null
SET search_path = "3.1.8";
SELECT craft.surroundings(), craft.stuck_tasks() \g /dev/null
SET search_path = "3.2.2";
SELECT craft.surroundings(), craft.stuck_tasks() \g /dev/null
SET search_path = "3.3.2";
SELECT craft.surroundings(), craft.stuck_tasks() \g /dev/null
RESET search_path;
\set ECHO all
CREATE FUNCTION craft.stuck(version text) RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('airflow_bp.airflow_schema', version, true);
	RETURN QUERY EXECUTE format('SELECT $1, t.dag_id::text, t.run_id::text, t.task_id::text, s.cause, s.severity, s.stuck_for, s.threshold, s.evidence
		FROM (SELECT dag_id, run_id, task_id, map_index FROM %1$I.task_instance UNION ALL SELECT dag_id, run_id, NULL, NULL FROM %1$I.dag_run) t
		LEFT JOIN airflow_bp.stuck() s ON s.dag_id = t.dag_id AND s.run_id = t.run_id AND s.task_id IS NOT DISTINCT FROM t.task_id
			AND s.map_index IS NOT DISTINCT FROM t.map_index', version) USING version;
END
$$;
CREATE VIEW craft.stuck AS
SELECT s.* FROM unnest(ARRAY['3.0.6', '3.1.8', '3.2.2', '3.3.2']) v (version)
CROSS JOIN LATERAL craft.stuck(v.version) s (version text, dag_id text, run_id text, task_id text, cause text, severity text, stuck_for interval, threshold interval, evidence jsonb);

-- Each task has its cause, and no other has one.
SELECT version, dag_id, run_id, task_id, cause, severity, evidence ->> 'reason' AS reason FROM craft.stuck
WHERE CASE WHEN task_id IS NULL THEN (dag_id, run_id) = ('stalled', 'r') AND cause IS DISTINCT FROM 'run_stalled'
	WHEN dag_id IN ('stalled', 'stalled paused', 'moving', 'earlier', 'looked') THEN cause IS NOT NULL
	WHEN cause IS NULL THEN task_id NOT LIKE 'none/%' AND (dag_id, task_id) <> ('limited', 'scheduled_too_long/stuck/task_concurrency')
	ELSE task_id NOT LIKE concat_ws('/', cause, severity, CASE WHEN cause = 'scheduled_too_long' THEN evidence ->> 'reason' END) || '%' END
ORDER BY 1, 2, 3, 4;
SELECT version, count(cause), count(DISTINCT cause) AS causes, count(*) FILTER (WHERE severity = 'warning') AS warnings FROM craft.stuck GROUP BY 1 ORDER BY 1;

-- Evidence a person can act on; a cause may come with others.
SELECT cause, severity, evidence - '{log,also}'::text[] ? 'run_state' AS run, (SELECT string_agg(k, ' ' ORDER BY k COLLATE "C") FROM jsonb_object_keys(evidence) k) AS evidence,
	evidence -> 'also' AS also, evidence #>> '{scheduler,hostname}' AS scheduler, evidence #>> '{triggerer,hostname}' AS triggerer, evidence #>> '{log,0,event}' AS log, threshold
FROM craft.stuck WHERE version = '3.3.2' AND cause IS NOT NULL ORDER BY 1, 2, task_id COLLATE "C", dag_id COLLATE "C", run_id COLLATE "C", 4, 6;

-- Thresholds: the most specific holds, and a cause can be switched off.
SET airflow_bp.airflow_schema = '3.3.2';
CREATE VIEW craft.count AS SELECT cause, count(*) FILTER (WHERE severity = 'stuck') AS stuck, count(*) FILTER (WHERE severity = 'warning') AS warning
FROM airflow_bp.stuck() GROUP BY 1 ORDER BY 1;
SELECT airflow_bp.set_tenant('t', 1), airflow_bp.add_tenant_rule('t', 'dag_id', 'busy');
SELECT * FROM airflow_bp.stuck_thresholds();
SELECT airflow_bp.set_stuck_threshold('scheduled_too_long', '3 hours', warn => '1 hour');
SELECT * FROM craft.count WHERE cause = 'scheduled_too_long';
SELECT airflow_bp.set_stuck_threshold('scheduled_too_long', '90 minutes', 'tenant', 't');
SELECT dag_id, threshold, severity FROM airflow_bp.stuck() WHERE cause = 'scheduled_too_long' ORDER BY 1, 2;
SELECT airflow_bp.set_stuck_threshold('scheduled_too_long', '100 minutes', 'pool', 'wide'), airflow_bp.set_stuck_threshold('scheduled_too_long', NULL, 'queue', 'none such');
SELECT dag_id, threshold, severity FROM airflow_bp.stuck() WHERE cause = 'scheduled_too_long' ORDER BY 1, 2;
SELECT airflow_bp.set_stuck_threshold('scheduled_too_long', NULL, 'queue', 'q');
SELECT * FROM craft.count WHERE cause = 'scheduled_too_long';
SELECT airflow_bp.drop_stuck_threshold('scheduled_too_long', 'queue', 'q'), airflow_bp.drop_stuck_threshold('scheduled_too_long', 'pool', 'wide'),
	airflow_bp.drop_stuck_threshold('scheduled_too_long', 'tenant', 't'), airflow_bp.drop_stuck_threshold('scheduled_too_long');
SELECT * FROM airflow_bp.stuck_thresholds() WHERE scope <> 'default';
SELECT airflow_bp.drop_stuck_threshold('scheduled_too_long', 'queue', 'none such');
-- Bad input.
SELECT airflow_bp.set_stuck_threshold('bored', '1 hour');
SELECT airflow_bp.set_stuck_threshold(NULL, '1 hour');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1 hour', 'dag', 'd');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1 hour', 'pool');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1 hour', 'pool', '');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1 hour', name => 'p');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '-1 hour');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1000 years');
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1 hour', warn => '2 hours');
SELECT airflow_bp.set_stuck_threshold('run_stalled', NULL, warn => '2 hours');
SELECT airflow_bp.set_stuck_threshold('retries_exhausted', '1 hour');
SELECT airflow_bp.drop_stuck_threshold('run_stalled');
SELECT airflow_bp.drop_stuck_threshold(NULL, NULL, NULL);

-- Letters: what is stuck, and no warning.  Nothing of Airflow is written.
SET search_path = "3.3.2";
SELECT airflow_bp.enable();
SELECT airflow_bp.tick();
DELETE FROM airflow_bp.dead_letter;
CREATE VIEW craft.letters AS SELECT cause, status, count(*), sum(times_seen) AS seen, string_agg(DISTINCT why, ', ' ORDER BY why) AS why FROM airflow_bp.dead_letter GROUP BY 1, 2 ORDER BY 1, 2;
CREATE FUNCTION craft.pass() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	changed bigint := 0;
	ended timestamptz := (SELECT p.ended FROM airflow_bp.stuck_progress() p);
BEGIN
	-- To the end of this pass, and a whole one.
	FOR i IN 1 .. 2 LOOP
		LOOP
			changed := changed + airflow_bp.stuck_sweep();
			EXIT WHEN (SELECT p.ended FROM airflow_bp.stuck_progress() p) IS DISTINCT FROM ended;
		END LOOP;
		ended := (SELECT p.ended FROM airflow_bp.stuck_progress() p);
	END LOOP;
	RETURN changed;
END
$$;
SELECT sum(hashtext(t::text)) AS sum FROM task_instance t \gset
SELECT craft.pass() = (SELECT count(*) FROM airflow_bp.stuck() WHERE severity = 'stuck' AND cause <> 'retries_exhausted') AS all_of_them;
SELECT sum(hashtext(t::text)) = :sum AS untouched FROM task_instance t;
SELECT * FROM craft.letters;
SELECT craft.pass();
SELECT min(last_seen - first_seen) FILTER (WHERE cause <> 'retries_exhausted') > '0' AS seen_again FROM airflow_bp.dead_letter;
-- They move, each in its way; one comes back to where it was.  A letter may change twice on the way through one pass and the next.
UPDATE task_instance SET state = 'queued' WHERE task_id LIKE 'scheduled_too_long/stuck/executor%';
UPDATE task_instance SET id = gen_random_uuid(), state = NULL, try_number = 2 WHERE task_id = 'queued_by_dead_scheduler/stuck';
UPDATE task_instance SET last_heartbeat_at = now() + interval '1 hour' WHERE task_id = 'running_without_heartbeat/stuck' AND dag_id = 'ok';
DELETE FROM task_instance WHERE task_id = 'pool_missing/stuck';
UPDATE dag_run SET state = 'success' WHERE dag_id = 'stalled' AND run_id = 'r';
UPDATE task_instance SET state = 'failed', end_date = now() WHERE task_id = 'running_without_heartbeat/stuck/never beat';
UPDATE task_instance SET state = 'failed', max_tries = 0, end_date = now() WHERE task_id = 'restarting_too_long/stuck';
SELECT craft.log('ok', 'restarting_too_long/stuck', 'heartbeat timeout', '1 second') \g /dev/null
SELECT craft.pass() >= 6 AS changed;
SELECT task_id, cause, status, closed_by, why, evidence #>> '{log,0,event}' AS log, times_seen FROM airflow_bp.dead_letter
WHERE status <> 'open' OR cause = 'retries_exhausted' ORDER BY dead_letter.task_id COLLATE "C", dead_letter.dag_id COLLATE "C";
UPDATE task_instance SET state = 'scheduled' WHERE task_id LIKE 'scheduled_too_long/stuck/executor%';
-- What a person has closed stays closed while it is the same.
UPDATE airflow_bp.dead_letter SET status = 'discarded', closed_at = now(), closed_by = 'me', why = 'known' WHERE cause = 'pool_too_small';
SELECT craft.pass() >= 1 AS changed;
SELECT task_id, status, why, times_seen FROM airflow_bp.dead_letter WHERE task_id LIKE 'scheduled_too_long/stuck/executor%' OR cause = 'pool_too_small' ORDER BY 1, 2, 3;
UPDATE task_instance SET id = gen_random_uuid() WHERE task_id = 'pool_too_small/stuck';
SELECT craft.pass() >= 1 AS changed;
SELECT task_id, status, why, times_seen FROM airflow_bp.dead_letter WHERE cause = 'pool_too_small';

-- A last try that fails is a letter in the turn after, one with retries left is not, and one that is rolled back is not.
INSERT INTO task_instance (id, dag_id, run_id, task_id, map_index, try_number, max_tries, state, pool, pool_slots, queue)
SELECT gen_random_uuid(), 'ok', 'failed', 'fails/' || n, -1, n, 2, 'running', 'wide', 1, 'q' FROM generate_series(1, 4) n;
BEGIN;
SAVEPOINT a;
UPDATE task_instance SET state = 'failed' WHERE task_id = 'fails/4';
ROLLBACK TO a;
UPDATE task_instance SET state = 'failed', end_date = now() WHERE task_id IN ('fails/1', 'fails/3');
COMMIT;
SELECT airflow_bp.tick();
SELECT task_id, try_number, cause, state, status, evidence ->> 'max_tries' AS max_tries FROM airflow_bp.dead_letter WHERE task_id LIKE 'fails/%';
SELECT task_id, severity FROM airflow_bp.stuck() WHERE task_id LIKE 'fails/%';
-- More at once than there is room for: the next passes find them by their heartbeats.
INSERT INTO task_instance (id, dag_id, run_id, task_id, map_index, try_number, max_tries, state, pool, pool_slots, queue, last_heartbeat_at)
SELECT gen_random_uuid(), 'ok', 'failed', 'many', n, 1, 0, 'running', 'wide', 1, 'q', now() FROM generate_series(1, 5000) n;
UPDATE task_instance SET state = 'failed', end_date = now() WHERE task_id = 'many';
SELECT sum(craft.pass()) > 0 AS swept FROM generate_series(1, 4);
SELECT count(*) FROM airflow_bp.dead_letter WHERE task_id = 'many';

-- What Airflow sweeps, and when.
SELECT key, value - '{last_pass,took}'::text[] AS value, value ? 'last_pass' AS stuck FROM airflow_bp.status(), jsonb_each(sweeps) ORDER BY 1;
SELECT airflow_bp.disable();

-- No live scheduler: nobody looks at runs, so none is stalled; nothing mends what is queued.
UPDATE job SET latest_heartbeat = now() - interval '1 hour' WHERE job_type = 'SchedulerJob';
SELECT cause, severity, count(*), bool_or(evidence ? 'swept_at') AS swept FROM airflow_bp.stuck() WHERE cause ~ 'queued|stalled' GROUP BY 1, 2 ORDER BY 1, 2;
-- Tables and columns that are not there: the rest is told.  On a slow server the tasks that were not stuck may have become it.
BEGIN;
SET LOCAL client_min_messages = warning;
ALTER TABLE task_instance DROP COLUMN queued_dttm, DROP COLUMN pool_slots;
DROP TABLE trigger, task_reschedule, serialized_dag, log, import_error CASCADE;
SELECT cause, count(*) FROM airflow_bp.stuck() WHERE cause <> 'retries_exhausted' AND task_id NOT LIKE 'none/%' GROUP BY 1 ORDER BY 1;
ROLLBACK;
-- A pool without a name hides nothing.
BEGIN;
INSERT INTO slot_pool (pool, slots, include_deferred) VALUES (NULL, 1, false);
SELECT count(*) > 10 AS some FROM airflow_bp.stuck();
ROLLBACK;
-- A reader asks, and only an operator sets.
\set ECHO none
CREATE ROLE regress_stuck_reader;
SELECT airflow_bp.grant_reader('regress_stuck_reader') \g /dev/null
SET ROLE regress_stuck_reader;
\set ECHO all
SELECT count(*) > 10 AS some FROM airflow_bp.stuck();
SELECT airflow_bp.set_stuck_threshold('run_stalled', '1 hour');
SELECT airflow_bp.stuck_sweep();
\set ECHO none
RESET ROLE;
DROP OWNED BY regress_stuck_reader;
DROP ROLE regress_stuck_reader;
\c postgres
DROP DATABASE regress_stuck;
