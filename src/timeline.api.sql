-- What happened, minute by minute; and what the log of the server says of deadlocks.

CREATE FUNCTION airflow_bp.lock_timeline(during tstzrange DEFAULT NULL, step interval DEFAULT '1 minute') RETURNS TABLE (at timestamptz,
	waiter_seconds float8, idle_share float8, most_waiters int, dearest text, deadlocks bigint, critical_share float8, looks_per_min float8,
	admissions_per_min float8, look_lag interval, heartbeat_lag interval, connections float8, blind interval)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER ROWS 60 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	origin CONSTANT timestamptz := '2000-01-01 00:00:00 UTC';
	first timestamptz := coalesce(lower(during), CASE WHEN during IS NULL THEN statement_timestamp() - interval '1 hour' END,
		(SELECT min(t.from_at) FROM airflow_bp.sampler_tick t), statement_timestamp());
	last timestamptz := least(upper(during), statement_timestamp());
	span tstzrange;
BEGIN
	IF isempty(during) OR first >= last THEN
		RETURN;
	ELSIF step IS NULL OR step < interval '1 second' OR step > interval '7 days' OR NOT isfinite(first)
		OR extract(epoch FROM last - first) / extract(epoch FROM step) > 100000 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('step must be between 1 second and 7 days, and at most 100000 in the range: %s',
			coalesce(step::text, 'NULL')), HINT = 'Give a longer step, or a shorter range.';
	END IF;
	span := tstzrange(first, last);
	RETURN QUERY
	WITH bin AS (SELECT b.at FROM generate_series(date_bin(step, first, origin), last, step) b (at) WHERE b.at < last),
	wait AS (SELECT date_bin(step, p.from_at, origin) AS at, sum(p.waiter_seconds) AS cost, sum(p.idle_seconds) AS idle, max(p.most_waiters) AS most,
			(array_agg(format('%s: %s blocks %s: %s', p.blocker_component, p.blocker_class, p.blocked_component, p.blocked_class)
				ORDER BY p.waiter_seconds DESC))[1] AS dearest
		FROM airflow_bp.lock_pieces(span) p GROUP BY 1),
	dead AS (SELECT date_bin(step, d.at, origin) AS at, sum(d.deadlocks)::bigint AS n FROM airflow_bp.deadlock d WHERE d.at <@ span GROUP BY 1),
	tick AS (SELECT date_bin(step, t.from_at, origin) AS at, sum(t.ticks) AS n, sum(t.period) AS seen, max(t.resolution) AS resolution
		FROM (SELECT t.from_at, t.ticks, t.period, t.resolution FROM airflow_bp.sampler_tick t
				WHERE t.resolution IN (0, 60, 3600) AND t.from_at >= first AND t.from_at <= last
			UNION ALL SELECT m.began, 1, m.period_us / 1e6, 0 FROM airflow_bp.sampler_ticks() m WHERE m.began <@ span) t GROUP BY 1),
	hold AS (SELECT date_bin(step, h.from_at, origin) AS at, sum(h.samples) AS n FROM airflow_bp.critical_hold h
		WHERE h.resolution IN (0, 60, 3600) AND h.from_at >= first AND h.from_at <= last GROUP BY 1),
	gauge AS (SELECT date_bin(step, g.from_at, origin) AS at,
			sum(g.total) FILTER (WHERE g.name = 'looks_per_min') / sum(g.samples) FILTER (WHERE g.name = 'looks_per_min') AS looks,
			sum(g.total) FILTER (WHERE g.name = 'admissions_per_min') / sum(g.samples) FILTER (WHERE g.name = 'admissions_per_min') AS admissions,
			max(g.most) FILTER (WHERE g.name = 'look_lag_p95') AS look_lag,
			max(g.most) FILTER (WHERE g.name = 'heartbeat_lag' AND g.label = 'SchedulerJob') AS heartbeat,
			sum(g.total) FILTER (WHERE g.name = 'connections' AND g.label = '(all)')
				/ sum(g.samples) FILTER (WHERE g.name = 'connections' AND g.label = '(all)') AS connections
		FROM airflow_bp.gauge g WHERE g.resolution IN (0, 60, 3600) AND g.from_at >= first AND g.from_at <= last GROUP BY 1)
	SELECT b.at, CASE WHEN t.n > 0 THEN coalesce(w.cost, 0) ELSE w.cost END, w.idle / nullif(w.cost, 0), w.most, w.dearest, coalesce(d.n, 0),
		CASE WHEN t.n > 0 THEN coalesce(h.n, 0) / t.n::float8 END, g.looks, g.admissions, airflow_bp.seconds(g.look_lag),
		airflow_bp.seconds(g.heartbeat), g.connections,
		CASE WHEN coalesce(t.resolution, 0) <= extract(epoch FROM step) THEN airflow_bp.seconds(greatest(0,
			extract(epoch FROM least(b.at + step, last) - greatest(b.at, first)) - coalesce(t.seen, 0))) END
	FROM bin b LEFT JOIN wait w USING (at) LEFT JOIN dead d USING (at) LEFT JOIN tick t USING (at) LEFT JOIN hold h USING (at)
	LEFT JOIN gauge g USING (at) ORDER BY 1;
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_timeline(tstzrange, interval) IS
'A range (NULL: the last hour) in steps, each with what waiting cost in it and what the schedulers did meanwhile. waiter_seconds, idle_share, most_waiters: see lock_episodes(); dearest: who blocked whom at the greatest cost. deadlocks: by the counter. critical_share: of the looks, those that found somebody in the critical section. looks_per_min, admissions_per_min, connections: means; look_lag (95 %), heartbeat_lag (of the worst scheduler): greatest; see gauges(). blind: time for which no look of the sampler stands: there waiter_seconds is NULL or too small.
What begins in a step counts for it, whole: older than a day rows are of a minute, older than 30 days of an hour, and a shorter step shows all of an
hour in its first. BP002 bad step.';

CREATE FUNCTION airflow_bp.deadlock_log(most_bytes bigint DEFAULT 4194304) RETURNS TABLE (line text, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	path text := pg_current_logfile('stderr');
	size bigint;
BEGIN
	IF most_bytes IS NULL OR most_bytes NOT BETWEEN 1 AND 268435456 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('most_bytes must be between 1 and 268435456: %s', coalesce(most_bytes::text, 'NULL')),
			HINT = 'So much of the end of the log is read.';
	ELSIF path IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = 'the log of the server cannot be read from here',
			HINT = 'It needs logging_collector = on and log_destination = ''stderr''; else look into the log for "deadlock detected".';
	END IF;
	size := (pg_stat_file(path)).size;
	RETURN QUERY
	SELECT m.part[1], replace(m.part[2], E'\n\t', E'\n')
	FROM (SELECT encode(pg_read_binary_file(path, greatest(size - most_bytes, 0), most_bytes), 'escape')) f (text),
		regexp_matches(f.text, '([^\n]*)ERROR:  deadlock detected\n[^\n]*DETAIL:  ([^\n]*(?:\n\t[^\n]*)*)', 'g') m (part);
END
$$;
COMMENT ON FUNCTION airflow_bp.deadlock_log(bigint) IS
'Deadlocks in the last bytes of the present log file of the server, oldest first: line: the prefix of the log line (log_line_prefix); detail: who waited for what, blocked by whom, with the statements and their values. Only where it can be read: logging_collector = on, log_destination = ''stderr'' and messages in English. Other bytes than ASCII are escaped. BP002 bad number, BP005 the log cannot be read.';
