-- The scheduler's own speed, from what is in the database: loops, heartbeats, parses, sessions, statistics, statements, and how they were.
--
-- What reads Airflow's tables is bound late and only reads, so it runs on a standby and without shared memory.  It waits for no
-- lock for longer than 50 ms.

CREATE FUNCTION airflow_bp.job_heartbeats() RETURNS TABLE (job_id int, job_type text, hostname text, state text, heartbeat_lag interval,
	threshold interval, alive boolean, started timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET enable_seqscan = off
SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN QUERY EXECUTE format($query$
SELECT j.id, j.job_type, j.hostname, j.state, greatest($1, j.latest_heartbeat) - j.latest_heartbeat, t.threshold,
	CASE WHEN t.threshold IS NOT NULL THEN coalesce(j.latest_heartbeat > $1 - t.threshold, false) END, j.start_date
FROM %s j LEFT JOIN (VALUES ('DagProcessorJob', $2)) p (job_type, threshold) USING (job_type)
LEFT JOIN airflow_bp.airflow_sweeps() w ON (w.sweep, j.job_type) IN (('orphans', 'SchedulerJob'), ('triggerer', 'TriggererJob'))
CROSS JOIN LATERAL (SELECT coalesce(w.timeout, p.threshold)) t (threshold)
WHERE j.state = 'running'
ORDER BY 2, 1$query$,
		airflow_bp.airflow_relation(schema, 'job', 'id int', 'job_type text', 'hostname text', 'state text', 'latest_heartbeat timestamptz',
			'start_date timestamptz'))
	USING airflow_bp.data_time(), CASE WHEN airflow_bp.airflow_has(schema, 'dag', 'exceeds_max_non_backfill') THEN interval '30 seconds'
		ELSE interval '10.5 seconds' END;
END
$body$;
COMMENT ON FUNCTION airflow_bp.job_heartbeats() IS
'One row for each job of Airflow in state running: when it last sent a heartbeat, and whether Airflow would call it alive. threshold: airflow_bp.scheduler_health_check_threshold, airflow_bp.triggerer_health_check_threshold, and of the DAG processor the default of Airflow, 30 s from 3.2 on, 10.5 s before. threshold and alive are NULL for other kinds of jobs. A job that was killed stays in state running until a scheduler sees it. 55P03 when its table is locked, BP006 no Airflow.';

CREATE FUNCTION airflow_bp.scheduler_loops() RETURNS TABLE (schedulers bigint, running_runs bigint, looks_per_min float8,
	look_lag_median interval, look_lag_p95 interval, look_lag_max interval, never_looked bigint, admissions_per_min float8, queued_per_min float8,
	examine_window_loops float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET enable_seqscan = off
SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN QUERY EXECUTE format($query$
SELECT (SELECT count(*) FROM airflow_bp.job_heartbeats() j WHERE j.job_type = 'SchedulerJob' AND j.alive), runs, looks,
	greatest($1, since[1]) - since[1], greatest($1, since[2]) - since[2], greatest($1, first) - first, never, m.admissions_per_min, m.queued_per_min,
	runs / 20.0::float8
FROM (
	SELECT count(*) AS runs, count(*) FILTER (WHERE looked > $1 - interval '1 minute')::float8 AS looks,
		count(*) FILTER (WHERE looked IS NULL) AS never, min(since) AS first,
		percentile_disc('{0.5,0.95}'::float8[]) WITHIN GROUP (ORDER BY since DESC) AS since
	FROM (
		SELECT r.last_scheduling_decision AS looked, coalesce(r.last_scheduling_decision, greatest(r.queued_at, r.start_date)) AS since
		FROM %s r JOIN %s d ON d.dag_id = r.dag_id
		WHERE r.state = 'running' AND r.run_after <= $1 AND NOT d.is_paused AND NOT d.is_stale
	) r
) r CROSS JOIN airflow_bp.entry_rates() m$query$,
		airflow_bp.airflow_relation(schema, 'dag_run', 'dag_id text', 'state text', 'run_after timestamptz', 'queued_at timestamptz',
			'start_date timestamptz', 'last_scheduling_decision timestamptz'),
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_paused bool', 'is_stale bool'))
	USING airflow_bp.data_time();
END
$body$;
COMMENT ON FUNCTION airflow_bp.scheduler_loops() IS
'One row: how fast the schedulers go round. schedulers: alive by their heartbeat. running_runs: what they look at in turn, running runs of DAGs not paused or stale. looks_per_min: of these, the ones looked at in the last minute; an underestimate, as a run looked at twice counts once, and one that has ended not at all.
look_lag: how long ago runs were looked at, so how long a run waits between two looks; for one that was never looked at, how long it has
been running; NULL without runs. With parking, looks at parked runs are left out on purpose: see parked().
admissions_per_min, queued_per_min: tasks that entered scheduled and queued in the last minute or two, by the counters in shared memory;
NULL while these are not ready.
examine_window_loops: how many loops one round over all running runs takes; a loop looks at 20, the default of Airflow''s
max_dagruns_per_loop_to_schedule. Parked runs are counted, though they take no place.
55P03 when a table is locked, BP006 no Airflow.';

CREATE FUNCTION airflow_bp.dag_parses() RETURNS TABLE (dag_id text, bundle text, file text, last_parsed timestamptz, age interval,
	duration interval, stale boolean, import_errors bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN QUERY EXECUTE format($query$
SELECT d.dag_id, coalesce(d.bundle_name, e.bundle_name), coalesce(d.file, e.filename), d.parsed, greatest($1, d.parsed) - d.parsed,
	airflow_bp.seconds(d.last_parse_duration), d.is_stale, coalesce(e.errors, 0)
FROM (SELECT *, coalesce(relative_fileloc, fileloc) AS file, last_parsed_time AS parsed FROM %s d) d
FULL JOIN (SELECT bundle_name, filename, count(*) AS errors FROM %s e GROUP BY 1, 2) e
	ON e.filename = d.file AND coalesce(e.bundle_name, '') = coalesce(d.bundle_name, '')
ORDER BY d.last_parse_duration DESC NULLS LAST, d.parsed, 1, 3$query$,
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'bundle_name text', 'relative_fileloc text', 'fileloc text',
			'last_parsed_time timestamptz', 'last_parse_duration float8', 'is_stale bool'),
		airflow_bp.airflow_relation(schema, 'import_error', 'bundle_name text', 'filename text'))
	USING airflow_bp.data_time();
END
$body$;
COMMENT ON FUNCTION airflow_bp.dag_parses() IS
'One row for each DAG, slowest first: its bundle and file, when the DAG processor last parsed it, how long that took (NULL before Airflow 3.1, which does not say), whether Airflow calls it stale, and how many import errors its file has. A file with errors that has no DAG has a row with dag_id NULL. 55P03 when a table is locked, BP006 no Airflow.';

CREATE FUNCTION airflow_bp.connections_max() RETURNS int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int;
COMMENT ON FUNCTION airflow_bp.connections_max() IS 'Connections that are there for all: max_connections less superuser_reserved_connections.';

CREATE FUNCTION airflow_bp.connection_counts() RETURNS TABLE (component text, connections bigint, active bigint, idle_in_transaction bigint,
	oldest_transaction interval)
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(s.component, '(all)'), count(*), count(*) FILTER (WHERE s.state = 'active'),
		count(*) FILTER (WHERE s.state LIKE 'idle in transaction%'), greatest(statement_timestamp(), min(s.xact_start)) - min(s.xact_start)
	FROM airflow_bp.sessions() s JOIN pg_stat_activity a ON a.pid = s.pid
	WHERE a.backend_type = 'client backend'
	GROUP BY GROUPING SETS ((s.component), ())
$$;
COMMENT ON FUNCTION airflow_bp.connection_counts() IS 'Connections of clients to this database by component, and in one row all of them.';

CREATE FUNCTION airflow_bp.connections() RETURNS TABLE (component text, connections bigint, active bigint, idle_in_transaction bigint,
	oldest_transaction interval, share_of_max float8, per_hour float8)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	WITH c AS MATERIALIZED (
		SELECT * FROM airflow_bp.connection_counts()
	), sample AS MATERIALIZED (
		SELECT extract(epoch FROM g.from_at - statement_timestamp())::float8 / 3600 AS hour, jsonb_object_agg(g.label, g.total) AS connections
		FROM airflow_bp.gauge g
		WHERE g.resolution = 0 AND g.from_at > statement_timestamp() - interval '6 hours' AND g.name = 'connections' AND NOT pg_is_in_recovery()
		GROUP BY g.from_at
	)
	SELECT c.*, c.connections::float8 / airflow_bp.connections_max(), (
		-- A component that a sample does not have had no connection.
		SELECT CASE WHEN count(*) >= 10 THEN regr_slope(coalesce((s.connections ->> c.component)::float8, 0), s.hour) END FROM sample s)
	FROM c ORDER BY c.connections DESC, c.component COLLATE "C"
$$;
COMMENT ON FUNCTION airflow_bp.connections() IS
'Connections of clients to this database, one row for each component of Airflow (see sessions()) and one named (all). share_of_max: of max_connections less superuser_reserved_connections; other databases of the server take from the same. per_hour: trend, by linear regression over the samples of gauge in the last 6 hours; NULL with less than 10 samples, and on a standby.';

CREATE FUNCTION airflow_bp.hot_tables() RETURNS TABLE (relation text, live_tuples bigint, dead_tuples bigint, dead_share float8,
	changed_since_analyze bigint, analyze_age interval, vacuum_age interval, seq_scans bigint, stale boolean, bloated boolean, advice text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 14 SET search_path = pg_catalog, pg_temp AS $$
	WITH t AS (
		SELECT format('%I.%I', n.nspname, c.relname) AS relation, s.*, o.off,
			s.relid IS NULL AND c.reltuples >= 0 AND NOT pg_is_in_recovery() AS lost,
			s.n_mod_since_analyze > coalesce(o.analyze_threshold, current_setting('autovacuum_analyze_threshold')::float8)
				+ coalesce(o.analyze_scale, current_setting('autovacuum_analyze_scale_factor')::float8) * greatest(c.reltuples, 0) AS stale,
			s.n_dead_tup > coalesce(o.vacuum_threshold, current_setting('autovacuum_vacuum_threshold')::float8)
				+ coalesce(o.vacuum_scale, current_setting('autovacuum_vacuum_scale_factor')::float8) * greatest(c.reltuples, 0) AS bloated
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		-- After a reset or a crash it counts from 0, whatever is there, until the next ANALYZE.
		LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid AND NOT pg_is_in_recovery()
			AND (c.reltuples < 0 OR coalesce(s.last_analyze, s.last_autoanalyze, s.last_vacuum, s.last_autovacuum) IS NOT NULL)
		CROSS JOIN LATERAL (
			SELECT max(option_value) FILTER (WHERE option_name = 'autovacuum_analyze_threshold')::float8 AS analyze_threshold,
				max(option_value) FILTER (WHERE option_name = 'autovacuum_analyze_scale_factor')::float8 AS analyze_scale,
				max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_threshold')::float8 AS vacuum_threshold,
				max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_scale_factor')::float8 AS vacuum_scale,
				NOT bool_and(option_value::bool) FILTER (WHERE option_name = 'autovacuum_enabled') AS off
			FROM pg_options_to_table(c.reloptions)) o
		WHERE n.nspname = airflow_bp.airflow_schema_name() AND c.relkind = 'r' AND c.relname = ANY (
			'{task_instance,dag_run,job,slot_pool,dag,serialized_dag,trigger,task_reschedule,log,dag_version,task_instance_history,xcom,
			rendered_task_instance_fields,asset_event}'::name[])
	)
	SELECT t.relation, t.n_live_tup, t.n_dead_tup, t.n_dead_tup::float8 / nullif(t.n_live_tup + t.n_dead_tup, 0), t.n_mod_since_analyze,
		statement_timestamp() - greatest(t.last_analyze, t.last_autoanalyze), statement_timestamp() - greatest(t.last_vacuum, t.last_autovacuum),
		t.seq_scan, t.stale, t.bloated,
		CASE WHEN t.stale OR t.bloated OR t.lost THEN
			concat_ws(' ', CASE WHEN t.bloated THEN CASE WHEN t.stale THEN 'VACUUM (ANALYZE)' ELSE 'VACUUM' END ELSE 'ANALYZE' END, t.relation)
			|| ';' || CASE WHEN t.off THEN format(' ALTER TABLE %s RESET (autovacuum_enabled);', t.relation) ELSE '' END END
	FROM t ORDER BY t.n_live_tup DESC NULLS LAST, 1
$$;
COMMENT ON FUNCTION airflow_bp.hot_tables() IS
'The tables of Airflow on whose statistics its scheduler depends, largest first. By the statistics of the server; NULL where it has none, as on a standby, or after a reset or a crash until the next ANALYZE. dead_share: of all rows, those that a vacuum would remove. seq_scans: sequential scans. stale: more rows have changed since the last ANALYZE than autovacuum would allow; bloated: more are dead; both by the settings, or by those of the table. analyze_age, vacuum_age: NULL: never. advice: the statement to type; NULL: none needed. BP006 no Airflow.';

CREATE FUNCTION airflow_bp.slow_statements(most int DEFAULT 20) RETURNS TABLE (component text, calls bigint, total_ms float8, mean_ms float8,
	max_ms float8, rows bigint, share float8, statement text)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	view regclass := (SELECT to_regclass(format('%I.pg_stat_statements', n.nspname))
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements');
BEGIN
	IF most < 1 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('most must be at least 1: %s', most), HINT = 'Give NULL for all.';
	ELSIF view IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format($query$
SELECT airflow_bp.statement_component(s.query), s.calls, s.total, s.total / nullif(s.calls, 0), s.longest, s.rows,
	s.total / nullif(s.whole, 0), s.query
FROM (
	SELECT p.query, sum(p.calls)::bigint AS calls, sum(p.total_%2$stime) AS total, max(p.max_%2$stime) AS longest, sum(p.rows)::bigint AS rows,
		sum(sum(p.total_%2$stime)) OVER () AS whole
	FROM %1$s p WHERE p.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	GROUP BY p.queryid, p.query ORDER BY total DESC LIMIT $1
) s ORDER BY s.total DESC$query$, view, CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = view AND a.attname = 'total_exec_time')
		THEN 'exec_' ELSE '' END)
	USING most;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	-- It is created, and not preloaded.
	RETURN;
END
$body$;
COMMENT ON FUNCTION airflow_bp.slow_statements(int) IS
'The statements that took most time in this database, by pg_stat_statements: the component of Airflow that sends such a statement, how often it ran, milliseconds in all, on average and at most, rows, and its share of the time of all statements. At most so many; NULL: all. No row where pg_stat_statements is not installed in this database, or not preloaded. BP002 bad number.';

CREATE FUNCTION airflow_bp.deadlock_counts() RETURNS TABLE (deadlocks bigint, conflicts bigint, rollbacks bigint, since timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.deadlocks, d.conflicts, d.xact_rollback, d.stats_reset FROM pg_stat_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION airflow_bp.deadlock_counts() IS
'One row: deadlocks in this database, statements cancelled on a standby as they were in the way of recovery, transactions rolled back; since the statistics of the server were reset, NULL: never.';

CREATE FUNCTION airflow_bp.gauges(during tstzrange DEFAULT NULL) RETURNS TABLE (resolution interval, from_at timestamptz, to_at timestamptz,
	name text, label text, samples bigint, mean float8, "least" float8, most float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT make_interval(secs => g.resolution), g.from_at, g.to_at, g.name, g.label, g.samples, g.total / g.samples, g."least", g.most
	FROM airflow_bp.gauge g
	-- Written so that the index serves.
	WHERE g.resolution IN (0, 60, 3600) AND g.from_at >= coalesce(lower(during), '-infinity') - interval '1 hour'
		AND g.from_at <= coalesce(upper(during), 'infinity')
		AND (during IS NULL OR during && tstzrange(g.from_at, g.to_at, CASE WHEN g.resolution = 0 THEN '[]' ELSE '[)' END))
	ORDER BY g.from_at, g.resolution, g.name, g.label
$$;
COMMENT ON FUNCTION airflow_bp.gauges(tstzrange) IS
'Measurements that touch a time, or all. resolution: 0 for one sample, else what minutes and hours are made of: samples, and their mean, least and most.
Names: connections (label: component, or (all)), connections_max, deadlocks, conflicts and rollbacks (since the sample before: mean times
samples is how many there were) and the counters they come from (deadlocks_total and so on), looks_per_min, admissions_per_min,
look_lag_p95, look_lag_max, heartbeat_lag (label: job_type; of the job that is worst).
Lags in seconds. See scheduler_loops(), job_heartbeats(), connections(), deadlock_counts(). What could not be measured has no row.';

CREATE FUNCTION airflow_bp.gauge_server() RETURNS TABLE (name text, label text, value float8)
LANGUAGE sql STABLE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	WITH counter AS MATERIALIZED (
		SELECT v.name, v.value, d.since FROM airflow_bp.deadlock_counts() d
		CROSS JOIN LATERAL (VALUES ('deadlocks', d.deadlocks), ('conflicts', d.conflicts), ('rollbacks', d.rollbacks)) v (name, value)
	)
	SELECT 'connections', c.component, c.connections FROM airflow_bp.connection_counts() c
	UNION ALL SELECT 'connections_max', NULL, airflow_bp.connections_max()
	UNION ALL SELECT c.name || '_total', NULL, c.value FROM counter c
	-- A counter that was reset has no change that can be known.
	UNION ALL SELECT c.name, NULL, c.value - g.total
	FROM counter c JOIN airflow_bp.gauge g ON g.name = c.name || '_total' AND g.resolution = 0
		AND g.from_at = (SELECT max(b.from_at) FROM airflow_bp.gauge b WHERE b.resolution = 0 AND b.from_at > pg_postmaster_start_time())
	WHERE c.value >= g.total AND (c.since > g.from_at) IS NOT TRUE
$$;
COMMENT ON FUNCTION airflow_bp.gauge_server() IS 'What gauge_turn() measures in any database; counters are compared with the last sample since the server was started.';

CREATE FUNCTION airflow_bp.gauge_airflow() RETURNS TABLE (name text, label text, value float8)
LANGUAGE plpgsql STABLE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY SELECT 'heartbeat_lag', j.job_type, extract(epoch FROM max(j.heartbeat_lag))::float8 FROM airflow_bp.job_heartbeats() j GROUP BY 2;
	RETURN QUERY SELECT v.* FROM airflow_bp.scheduler_loops() l
		CROSS JOIN LATERAL (VALUES ('look_lag_p95', NULL, extract(epoch FROM l.look_lag_p95)::float8),
			('look_lag_max', NULL, extract(epoch FROM l.look_lag_max)::float8), ('looks_per_min', NULL, l.looks_per_min),
			('admissions_per_min', NULL, l.admissions_per_min)) v;
EXCEPTION WHEN lock_not_available OR SQLSTATE 'BP006' THEN
	RETURN;
END
$$;
COMMENT ON FUNCTION airflow_bp.gauge_airflow() IS 'What gauge_turn() measures of Airflow; nothing without Airflow, or what comes before a table that is locked.';

CREATE FUNCTION airflow_bp.gauge_turn() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	at timestamptz := clock_timestamp();
	written bigint;
BEGIN
	INSERT INTO airflow_bp.gauge
	SELECT 0, at, at, s.name, s.label, 1, s.value, s.value, s.value
	FROM (SELECT * FROM airflow_bp.gauge_server() UNION ALL SELECT * FROM airflow_bp.gauge_airflow()) s WHERE s.value IS NOT NULL;
	GET DIAGNOSTICS written = ROW_COUNT;
	RETURN written;
END
$$;
COMMENT ON FUNCTION airflow_bp.gauge_turn() IS 'Takes a sample of all that gauges() shows; the number of rows written. The worker calls it each 10 s, with or without our triggers. 25006 on a standby.';

CREATE FUNCTION airflow_bp.gauge_roll(now timestamptz DEFAULT now()) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT airflow_bp.history_roll(now, 'airflow_bp.gauge', 'name, label', 'samples, total, "least", most',
		'sum(samples), sum(total), min("least"), max(most)')
$$;
COMMENT ON FUNCTION airflow_bp.gauge_roll(timestamptz) IS
'Rolls up the samples of gauge, see history_roll(), and returns the number of rows that went. The worker calls it each 10 minutes. 25006 on a standby.';
