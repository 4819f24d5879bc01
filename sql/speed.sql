-- How fast the schedulers are, on the real schema of each Airflow version, and how it is kept.
\set SHOW_CONTEXT never
\pset null '(null)'
-- In a database of its own: only there is the Airflow to find the only one.
CREATE DATABASE regress_speed;
\set style 'SET datestyle = ISO; SET intervalstyle = postgres; SET timezone = ''UTC'';'
\c regress_speed
:style
CREATE EXTENSION airflow_bp;

-- Nothing to read yet: a sample has what can be known all the same.
SELECT * FROM airflow_bp.scheduler_loops();
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM airflow_bp.hot_tables();
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT name, label IS NULL AS no_label FROM airflow_bp.gauges() WHERE label IS DISTINCT FROM '(all)' GROUP BY 1, 2 ORDER BY 1;
-- A sample from before the server was started is too old to compare with.
UPDATE airflow_bp.gauge SET from_at = pg_postmaster_start_time() - interval '1 second';
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT count(*) FROM airflow_bp.gauge WHERE name = 'deadlocks';
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT name, count(*) FROM airflow_bp.gauge WHERE name ~ 'deadlocks' GROUP BY 1 ORDER BY 1;

\getenv top PG_ABS_SRCDIR
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set craft :top '/test/fixtures/craft.sql'
\set tasks :top '/test/fixtures/tasks.sql'
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
CREATE FUNCTION craft.speed() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM craft.put('dag_bundle', '{"name": "b"}');
	PERFORM craft.put('job', jsonb_build_object('id', n, 'job_type', t, 'state', s, 'latest_heartbeat', craft.ago(h), 'hostname', 'host-' || n,
		'start_date', craft.ago('1 day')))
	FROM (VALUES (901, 'SchedulerJob', 'running', '1 seconds'), (902, 'SchedulerJob', 'running', '35 seconds'), (903, 'SchedulerJob', 'failed', '1 second'),
		(904, 'TriggererJob', 'running', '1 second'), (905, 'TriggererJob', 'running', NULL), (906, 'DagProcessorJob', 'running', '12 seconds'),
		(907, 'DagProcessorJob', 'running', '1 hour'), (908, 'OtherJob', 'running', '1 second'), (909, 'SchedulerJob', 'running', '-1 hour')) v (n, t, s, h);

	PERFORM craft.dag(d, jsonb_build_object('relative_fileloc', f, 'fileloc', '/dags/' || f, 'last_parsed_time', craft.ago(a), 'last_parse_duration', s) || x)
	FROM (VALUES ('quick', 'a.py', '90 seconds', 0.25, '{}'::jsonb), ('slow', 'b.py', '10 minutes', 7.5, '{}'), ('new', 'c.py', NULL, NULL, '{}'),
		('stale', 'd.py', '1 day', 1, '{"is_stale": true}'), ('paused', 'b.py', '10 minutes', 7.5, '{"is_paused": true}')) v (d, f, a, s, x);
	PERFORM craft.put('import_error', jsonb_build_object('id', n, 'filename', f, 'bundle_name', b, 'timestamp', now()))
	FROM (VALUES (1, 'b.py', 'b'), (2, 'b.py', 'b'), (3, 'b.py', 'other'), (4, 'broken.py', 'b')) v (n, f, b);

	-- One looked at a moment ago, one each minute before that, and one that waits for its first look.
	PERFORM craft.run('slow', 'r' || n, jsonb_build_object('last_scheduling_decision', craft.ago(n || ' minutes 20 seconds')))
	FROM generate_series(0, 18) n;
	PERFORM craft.run('slow', 'never', jsonb_build_object('last_scheduling_decision', NULL, 'queued_at', craft.ago('1 hour'), 'start_date', craft.ago('30 minutes 20 seconds')));
	-- At these nobody looks.
	PERFORM craft.run(d, r, jsonb_build_object('last_scheduling_decision', craft.ago(a)) || x)
	FROM (VALUES ('stale', 'r', '1 second', '{}'::jsonb), ('paused', 'r', '2 hours', '{}'), ('gone', 'r', '2 hours', '{}'), ('slow', 'queued', NULL, '{"state": "queued"}'),
		('slow', 'ended', '2 hours', '{"state": "success"}'), ('slow', 'later', '2 hours', jsonb_build_object('run_after', craft.ago('-1 hour')))) v (d, r, a, x);
END
$$;
\set ECHO none
SET search_path = "3.0.6";
SELECT craft.speed() \g /dev/null
SET search_path = "3.1.8";
SELECT craft.speed() \g /dev/null
SET search_path = "3.2.2";
SELECT craft.speed() \g /dev/null
SET search_path = "3.3.2";
SELECT craft.speed() \g /dev/null
RESET search_path;
\set ECHO all
CREATE FUNCTION craft.ask(query text) RETURNS TABLE (version text, answer text) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH version IN ARRAY '{3.0.6,3.1.8,3.2.2,3.3.2}'::text[] LOOP
		PERFORM set_config('airflow_bp.airflow_schema', version, true);
		RETURN QUERY EXECUTE format('SELECT $1, q::text FROM (%s) q', query) USING version;
	END LOOP;
END
$$;
SELECT * FROM craft.ask($$ SELECT schedulers, running_runs, looks_per_min, date_trunc('minute', look_lag_median) AS median, date_trunc('minute', look_lag_p95) AS p95,
	date_trunc('minute', look_lag_max) AS max, never_looked, admissions_per_min, queued_per_min, examine_window_loops FROM airflow_bp.scheduler_loops() $$);
SELECT * FROM craft.ask($$ SELECT job_id, job_type, hostname, state, date_trunc('minute', heartbeat_lag) AS lag, threshold, alive, started < now() AS started
	FROM airflow_bp.job_heartbeats() $$);
SELECT * FROM craft.ask($$ SELECT dag_id, bundle, file, last_parsed < now() AS parsed, date_trunc('minute', age) AS age, duration, stale, import_errors FROM airflow_bp.dag_parses() $$);
-- The setting counts.  A new session has what was reloaded before it.
ALTER DATABASE regress_speed SET airflow_bp.airflow_schema = '3.3.2';
ALTER SYSTEM SET airflow_bp.scheduler_health_check_threshold = '10min';
SELECT pg_reload_conf();
\c -
SELECT schedulers FROM airflow_bp.scheduler_loops();
ALTER SYSTEM RESET airflow_bp.scheduler_health_check_threshold;
SELECT pg_reload_conf();
\c -
:style
SELECT schedulers FROM airflow_bp.scheduler_loops();
\set ECHO none
SET search_path = "3.3.2";
\i :tasks
\set ECHO all
-- A clock that is ahead makes no lag below zero; without runs there is none.
BEGIN;
DELETE FROM dag_run WHERE run_id <> 'r0';
UPDATE dag_run SET last_scheduling_decision = now() + interval '1 hour';
SELECT running_runs, looks_per_min, look_lag_median, look_lag_max, examine_window_loops FROM airflow_bp.scheduler_loops();
DELETE FROM dag_run;
SELECT running_runs, looks_per_min, look_lag_median, look_lag_p95, look_lag_max, never_looked, examine_window_loops FROM airflow_bp.scheduler_loops();
ROLLBACK;

-- Tasks that enter scheduled and queued are counted in shared memory.
SELECT airflow_bp.enable();
TRUNCATE airflow_bp.gauge;
SELECT airflow_bp.tick();
-- The worker takes a sample in some of its turns.
SELECT count(*) > 0 AS taken, (SELECT note FROM airflow_bp.memory_state()) AS note FROM airflow_bp.gauge;
SELECT test.tasks('a', 1, 6);
SELECT test.ask('a', 1, 6);
SELECT test.set_state('a', i, 'queued') FROM generate_series(1, 2) i;
SELECT test.set_state('a', 1, 'running');
DO $$ BEGIN WHILE (SELECT admissions_per_min IS NULL FROM airflow_bp.scheduler_loops()) LOOP END LOOP; END $$;
SELECT round((admissions_per_min / queued_per_min)::numeric, 6) AS three FROM airflow_bp.scheduler_loops();
-- Of task_instance nothing is read for that.
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT count(*) FROM airflow_bp.scheduler_loops();
SELECT pg_stat_get_xact_numscans('task_instance'::regclass) AS scans;
ROLLBACK;
SELECT airflow_bp.disable();

-- Tables: what autovacuum would do, with the settings of the server and of the table.
CREATE VIEW craft.hot AS SELECT relation, live_tuples, dead_tuples, dead_share, changed_since_analyze AS changed, analyze_age < '1 hour' AS analyzed,
	vacuum_age < '1 hour' AS vacuumed, stale, bloated, advice FROM airflow_bp.hot_tables() WHERE relation LIKE '%xcom';
CREATE FUNCTION craft.fill(first int, last int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, timestamp)
	SELECT (SELECT id FROM dag_run WHERE dag_id = 'slow' AND run_id = 'r0'), 't', -1, 'k' || n, 'slow', 'r0', now() FROM generate_series(first, last) n;
$$;
SELECT count(*), bool_and(relation LIKE '"3.3.2".%') AS ours, count(seq_scans) AS known FROM airflow_bp.hot_tables();
SET session_replication_role = replica;
ALTER TABLE xcom SET (autovacuum_enabled = off);
SELECT craft.fill(1, 100);
SELECT pg_stat_force_next_flush();
ANALYZE xcom;
SELECT * FROM craft.hot;
SELECT craft.fill(101, 170);
SELECT pg_stat_force_next_flush();
SELECT * FROM craft.hot;
DELETE FROM xcom WHERE substr(key, 2)::int % 2 = 0;
SELECT pg_stat_force_next_flush();
SELECT * FROM craft.hot;
ALTER TABLE xcom SET (autovacuum_analyze_threshold = 155, autovacuum_analyze_scale_factor = 0);
SELECT stale, bloated, advice FROM craft.hot;
ALTER TABLE xcom SET (autovacuum_analyze_threshold = 154, autovacuum_vacuum_threshold = 84, autovacuum_vacuum_scale_factor = 0.01);
SELECT stale, bloated, advice FROM craft.hot;
BEGIN;
ALTER TABLE xcom RESET (autovacuum_enabled);
ALTER TABLE xcom SET (autovacuum_vacuum_threshold = 83);
SELECT stale, bloated, advice FROM craft.hot;
ROLLBACK;
VACUUM (ANALYZE) xcom;
SELECT * FROM craft.hot;
-- What was counted is lost.
SELECT pg_stat_reset_single_table_counters('xcom'::regclass);
SELECT * FROM craft.hot;
RESET session_replication_role;

-- Statements: no row where nobody keeps them.
SELECT * FROM airflow_bp.slow_statements();
CREATE EXTENSION pg_stat_statements SCHEMA craft;
\set VERBOSITY sqlstate
SELECT count(*) FROM craft.pg_stat_statements;
\set VERBOSITY default
SELECT * FROM airflow_bp.slow_statements();
SELECT * FROM airflow_bp.slow_statements(0);
\echo :LAST_ERROR_SQLSTATE

-- Connections and their trend.
SELECT component, connections, active, idle_in_transaction, oldest_transaction < '1 hour' AS oldest,
	share_of_max = connections::float8 / (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int) AS share, per_hour
FROM airflow_bp.connections() WHERE component = '(all)';
SELECT sum(connections) = max(connections) FILTER (WHERE component = '(all)') * 2 AS all_of_them, count(*) > 1 AS components FROM airflow_bp.connections();
TRUNCATE airflow_bp.gauge;
CREATE FUNCTION craft.sample(label text, n int, value float8) RETURNS void LANGUAGE sql AS $$
	INSERT INTO airflow_bp.gauge SELECT 0, at, at, 'connections', label, 1, value, value, value FROM (SELECT now() - n * interval '10 minutes') s (at)
$$;
SELECT component AS me FROM airflow_bp.sessions() WHERE pid = pg_backend_pid() \gset
BEGIN;
SELECT craft.sample('(all)', n, 40 - 2 * n) FROM generate_series(1, 9) n \g /dev/null
SELECT count(per_hour) FROM airflow_bp.connections();
SELECT craft.sample('(all)', 10, 20) \g /dev/null
SELECT craft.sample(:'me', n, 5) FROM generate_series(1, 5) n \g /dev/null
-- Too old to count.
SELECT craft.sample('(all)', n, 1000) FROM generate_series(40, 50) n \g /dev/null
SELECT component = '(all)' AS all, round(per_hour::numeric, 6) AS per_hour FROM airflow_bp.connections() WHERE component IN ('(all)', :'me') ORDER BY 1 DESC;
SELECT round(regr_slope((n <= 5)::int * 5, -n / 6.0)::numeric, 6) AS expected FROM generate_series(1, 10) n;
ROLLBACK;

-- Samples.
TRUNCATE airflow_bp.gauge;
SELECT airflow_bp.gauge_turn() AS written \gset
SELECT count(*) = :written AS all_shown FROM airflow_bp.gauges();
SELECT DISTINCT resolution, name, CASE WHEN name <> 'connections' THEN label END AS label, from_at = to_at AS instant, samples
FROM airflow_bp.gauges() WHERE mean = least AND mean = most ORDER BY 1, 2, 3;
SELECT name, label, floor(mean / 60) AS minutes FROM airflow_bp.gauges() WHERE name ~ 'lag' ORDER BY 1, 2;
-- Counters: from the sample before, nothing after a reset.
SELECT d.deadlocks = g.total AS same, d.since IS NULL AS never FROM airflow_bp.deadlock_counts() d, airflow_bp.gauge g WHERE g.name = 'deadlocks_total';
CREATE VIEW craft.changes AS SELECT name, mean FROM airflow_bp.gauges() WHERE name IN ('deadlocks', 'conflicts', 'rollbacks') ORDER BY from_at DESC, name LIMIT 3;
UPDATE airflow_bp.gauge SET total = total - 5 WHERE name = 'deadlocks_total';
BEGIN;
ROLLBACK;
BEGIN;
SELECT pg_stat_force_next_flush();
ROLLBACK;
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT * FROM craft.changes WHERE name <> 'rollbacks';
SELECT mean > 0 AS rolled_back FROM craft.changes WHERE name = 'rollbacks';
DELETE FROM airflow_bp.gauge WHERE name = 'deadlocks';
UPDATE airflow_bp.gauge SET total = 1000 WHERE name = 'deadlocks_total';
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT count(*) FROM airflow_bp.gauge WHERE name = 'deadlocks';
DELETE FROM airflow_bp.gauge WHERE name IN ('conflicts', 'rollbacks');
SELECT pg_stat_reset();
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT count(*) FROM airflow_bp.gauge WHERE name IN ('deadlocks', 'conflicts', 'rollbacks');
SELECT since > now() - interval '1 hour' AS since_reset FROM airflow_bp.deadlock_counts();
SELECT airflow_bp.gauge_turn() > 0 AS written;
SELECT count(*) FROM airflow_bp.gauge WHERE name IN ('deadlocks', 'conflicts', 'rollbacks');

-- Old samples become minutes, these hours, and these go; sums stay.
TRUNCATE airflow_bp.gauge;
\set at '''2020-06-01 12:34:30+00'''
INSERT INTO airflow_bp.gauge SELECT 0, at, at, n, l, 1, v, v, v
FROM (VALUES ('1 day 61 seconds', 'a', 'x', 1.5), ('1 day 51 seconds', 'a', 'x', 3), ('1 day 41 seconds', 'a', 'y', 4), ('1 day 31 seconds', 'b', NULL, 5),
	('1 day 30 seconds', 'b', NULL, 6), ('1 day 1 second', 'a', 'x', 7), ('1 hour', 'a', 'x', 8), ('40 days', 'a', 'x', 9),
	('40 days 1 minute', 'a', 'x', 10), ('400 days', 'a', 'x', 11)) v (ago, n, l, v) CROSS JOIN LATERAL (SELECT :at::timestamptz - v.ago::interval) t (at);
CREATE VIEW craft.sums AS SELECT name, label, sum(samples) AS samples, sum(total) AS total, min(least), max(most) FROM airflow_bp.gauge GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM craft.sums;
\set gauge '''airflow_bp.gauge'', ''name, label'', ''samples, total, "least", most'', ''sum(samples), sum(total), min("least"), max(most)'''
SELECT airflow_bp.gauge_roll(:at);
SELECT resolution, from_at, to_at, name, label, samples, total, least, most FROM airflow_bp.gauge ORDER BY 1, 2, 4, 5;
SELECT airflow_bp.gauge_roll(:at);
SELECT * FROM craft.sums;
-- In batches that end with a minute; one minute at least.
TRUNCATE airflow_bp.gauge;
INSERT INTO airflow_bp.gauge SELECT 0, at, at, 'a', NULL, 1, n, n, n
FROM generate_series(0, 23) n CROSS JOIN LATERAL (SELECT '2020-06-01 12:00:00+00'::timestamptz + n * interval '10 seconds') t (at);
SELECT most, airflow_bp.history_move(0, 60, '2020-06-01 12:03:59+00', most, :gauge) AS moved FROM unnest('{7,1,1000,1000}'::int[]) most;
SELECT * FROM craft.sums;
SELECT airflow_bp.history_move(0, 60, '2020-06-01 13:00:00+00', 1000, :gauge), airflow_bp.history_move(60, 3600, '2020-06-01 13:00:00+00', 0, :gauge);
SELECT * FROM airflow_bp.gauge;
-- Where the clock of a session stands makes no difference.
SET timezone = 'Asia/Kolkata';
UPDATE airflow_bp.gauge SET resolution = 60;
SELECT airflow_bp.history_move(60, 3600, '2020-06-01 13:00:00+00', 0, :gauge);
SET timezone = 'UTC';
-- What touches a time.
INSERT INTO airflow_bp.gauge SELECT 0, at, at, 'b', NULL, 1, 2, 2, 2 FROM (SELECT '2020-06-01 13:00:00+00'::timestamptz) t (at);
SELECT * FROM airflow_bp.gauges();
SELECT during, (SELECT string_agg(g.name, ', ') FROM airflow_bp.gauges(during) g) AS names
FROM unnest('{"[2020-06-01 12:59:59+00,2020-06-01 13:00:00+00)","[2020-06-01 13:00:00+00,2020-06-01 13:00:00+00]","(,2020-06-01 12:00:00+00)","(2020-06-01 13:00:00+00,)",empty,"(,)"}'::tstzrange[]) during;

-- A reader asks, and only the owner writes.
\set ECHO none
CREATE ROLE regress_speed_reader;
SELECT airflow_bp.grant_reader('regress_speed_reader') \g /dev/null
SET ROLE regress_speed_reader;
\set ECHO all
SELECT (SELECT running_runs FROM airflow_bp.scheduler_loops()), (SELECT count(*) FROM airflow_bp.job_heartbeats()) AS jobs,
	(SELECT count(*) FROM airflow_bp.dag_parses()) AS dags, (SELECT connections FROM airflow_bp.connections() LIMIT 1),
	(SELECT count(*) FROM airflow_bp.hot_tables()) AS tables, (SELECT count(*) FROM airflow_bp.gauges()) AS gauges,
	(SELECT deadlocks FROM airflow_bp.deadlock_counts());
SELECT airflow_bp.gauge_turn();
SELECT airflow_bp.gauge_roll();
\set ECHO none
RESET ROLE;
DROP OWNED BY regress_speed_reader;
DROP ROLE regress_speed_reader;
\c postgres
DROP DATABASE regress_speed;
