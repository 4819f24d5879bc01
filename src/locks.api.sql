-- Who waits for whom, now and before.

CREATE FUNCTION airflow_bp.statement_component(statement text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'airflow_bp_statement_component';
COMMENT ON FUNCTION airflow_bp.statement_component(text) IS 'The component of Airflow that sends such a statement: scheduler, api-server, dag-processor, triggerer, migration, worker; or pg_dump, vacuum; else unknown. By its shape alone.';

CREATE FUNCTION airflow_bp.statement_shape(statement text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'airflow_bp_statement_shape';
COMMENT ON FUNCTION airflow_bp.statement_shape(text) IS 'A statement without values, at most 255 bytes of ASCII: literals are ?, of lists of columns and values the first is left.';

CREATE FUNCTION airflow_bp.statement_class(statement text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'airflow_bp_statement_class';
COMMENT ON FUNCTION airflow_bp.statement_class(text) IS 'A statement in a few words: its verb, its first table, and how it locks rows.';

CREATE FUNCTION airflow_bp.row_at(relation oid, block bigint, place int) RETURNS jsonb
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'airflow_bp_row_at';
COMMENT ON FUNCTION airflow_bp.row_at(oid, bigint, int) IS 'Which row is at a place of a table: its dag_id, run_id, task_id, map_index, pool and the like, or its id. Locks no row. NULL when there is none any more, or the table is locked exclusively.';

CREATE FUNCTION airflow_bp.share_now(relation regclass) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'airflow_bp_share_now';
COMMENT ON FUNCTION airflow_bp.share_now(regclass) IS 'Takes the lock that a reader takes, if it is to be had at once; false: it is not.';

CREATE FUNCTION airflow_bp.sessions_seen() RETURNS TABLE (pid int, component text, rule text, state text, backend_start timestamptz,
	xact_start timestamptz, state_change timestamptz, client text, statement text)
LANGUAGE c VOLATILE ROWS 100 AS 'MODULE_PATHNAME', 'airflow_bp_sessions';
COMMENT ON FUNCTION airflow_bp.sessions_seen() IS 'Sessions of this database with the component that their statement tells, or an earlier one.';

CREATE FUNCTION airflow_bp.lock_hosts() RETURNS TABLE (host text, component text)
LANGUAGE plpgsql VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_or_null();
	job regclass := CASE WHEN schema IS NOT NULL THEN to_regclass(format('%I.job', schema)) END;
BEGIN
	IF job IS NOT NULL AND airflow_bp.share_now(job) THEN
		RETURN QUERY EXECUTE format($query$
			SELECT j.hostname, min(CASE j.job_type WHEN 'SchedulerJob' THEN 'scheduler' WHEN 'TriggererJob' THEN 'triggerer'
				WHEN 'DagProcessorJob' THEN 'dag-processor' END)
			FROM %s j WHERE j.state = 'running' GROUP BY 1 HAVING count(DISTINCT j.job_type) = 1$query$,
			airflow_bp.airflow_relation(schema, 'job', 'hostname text', 'job_type text', 'state text'));
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_hosts() IS 'Hosts that have running jobs of one kind only, by the table job of Airflow. Where [core] hostname_callable gives addresses, they tell the component of a client. No row while job is locked exclusively.';

CREATE FUNCTION airflow_bp.sessions() RETURNS TABLE (pid int, component text, rule text, state text, backend_start timestamptz,
	xact_start timestamptz, client text)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.pid, coalesce(h.component, s.component), CASE WHEN h.component IS NOT NULL THEN 'host of job' ELSE s.rule END, s.state,
		s.backend_start, s.xact_start, s.client
	FROM airflow_bp.sessions_seen() s
	LEFT JOIN airflow_bp.lock_hosts() h ON s.component = 'unknown' AND h.host = s.client
$$;
COMMENT ON FUNCTION airflow_bp.sessions() IS
'Sessions of this database and the component each belongs to: scheduler, api-server, dag-processor, triggerer, migration, worker, ours, pg_dump, vacuum, unknown. rule: what says so: the statement that it runs or ran last, an earlier one (only where the library is preloaded), or the host of its client.';

CREATE FUNCTION airflow_bp.lock_waits() RETURNS TABLE (place int, pid int, root int, depth int, blocked_by int[], waiters int, xid xid, state text,
	wait_start timestamptz, xact_start timestamptz, backend_start timestamptz, state_change timestamptz, lock_type text, lock_mode text,
	relation oid, block bigint, row_place int, subject text, statement text, class text, application text, client text, component text, rule text)
LANGUAGE c VOLATILE ROWS 20 AS 'MODULE_PATHNAME', 'airflow_bp_lock_waits';
COMMENT ON FUNCTION airflow_bp.lock_waits() IS 'What lock_tree() shows, as the C code reads it. place: order of the tree. relation, block, row_place: what is waited for. subject: key of an advisory lock.';

CREATE FUNCTION airflow_bp.relation_name(relation oid, airflow_schema text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN n.nspname = airflow_schema THEN c.relname::text ELSE format('%I.%I', n.nspname, c.relname) END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
$$;
COMMENT ON FUNCTION airflow_bp.relation_name(oid, text) IS 'Name of a table, without schema when it is one of Airflow. NULL when there is none.';

CREATE FUNCTION airflow_bp.lock_row(relation oid, block bigint, row_place int, subject text, airflow_schema text) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN subject IS NOT NULL THEN jsonb_build_object('advisory',
			CASE subject WHEN '1' THEN 'migration' WHEN '2' THEN 'critical section' ELSE subject END)
		WHEN row_place IS NOT NULL AND EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.oid = relation AND n.nspname = airflow_schema) THEN airflow_bp.row_at(relation, block, row_place) END
$$;
COMMENT ON FUNCTION airflow_bp.lock_row(oid, bigint, int, text, text) IS 'Which row of Airflow, or which advisory lock of it, is waited for; NULL when that is not known.';

CREATE FUNCTION airflow_bp.lock_tree() RETURNS TABLE (depth int, pid int, blocked_by int[], waiters int, component text, rule text, state text,
	wait_start timestamptz, xact_age interval, lock_type text, lock_mode text, relation text, airflow_row jsonb, statement text, client text,
	statement_class text, root int)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	-- Many wait for the same: its name is found once.
	WITH waits AS MATERIALIZED (
		SELECT *, dense_rank() OVER (ORDER BY v.relation, v.block, v.row_place, v.subject) AS target FROM airflow_bp.lock_waits() v),
	named AS (
		SELECT v.target, airflow_bp.relation_name(min(v.relation), s.airflow_schema) AS relation,
			airflow_bp.lock_row(min(v.relation), min(v.block), min(v.row_place), min(v.subject), s.airflow_schema) AS airflow_row
		FROM waits v CROSS JOIN (SELECT airflow_bp.airflow_schema_or_null() OFFSET 0) s (airflow_schema) GROUP BY v.target, s.airflow_schema)
	SELECT w.depth, w.pid, w.blocked_by, w.waiters, coalesce(h.component, w.component),
		CASE WHEN h.component IS NOT NULL THEN 'host of job' ELSE w.rule END, w.state, w.wait_start,
		clock_timestamp() - coalesce(w.xact_start, p.prepared), w.lock_type, w.lock_mode, n.relation, n.airflow_row,
		CASE WHEN p.gid IS NOT NULL THEN format('PREPARE TRANSACTION %L', p.gid) ELSE w.statement END, w.client,
		CASE WHEN p.gid IS NOT NULL THEN 'prepare transaction' ELSE w.class END, w.root
	FROM waits w JOIN named n USING (target)
	LEFT JOIN airflow_bp.lock_hosts() h ON w.component = 'unknown' AND h.host = w.client
	LEFT JOIN pg_prepared_xacts p ON p.transaction = w.xid
	ORDER BY w.place
$$;
COMMENT ON FUNCTION airflow_bp.lock_tree() IS
'Who blocks whom now, from one copy of the lock table: a row for each session that waits for a lock in this database, and for each that blocks one; no row: nobody waits.
Trees, the one with most waiters first; in it the root (depth 0: blocked by nobody, or the first of a cycle), then by distance from it.
pid: of a session with its parallel workers; NULL: a prepared transaction (in blocked_by: 0). blocked_by: who holds the lock in conflict, or asks for
it in conflict and stands before in the queue, the latter only where that leads to another holder; pg_blocking_pids() lists all of them. waiters:
sessions that wait for this one, at any distance.
component, rule: see sessions(). state: idle in transaction: it will not end by itself. wait_start: NULL: waits for nothing. lock_type, lock_mode, relation, airflow_row: what it waits for; of a root, by what it blocks most. airflow_row: dag_id, run_id, task_id, map_index and the like of the row, also where the wait is for the transaction that has changed it; {"advisory": "critical section"} and the like; NULL: not known.
statement: running, or the last one. statement_class: the same in a few words. Takes no lock on any table, but for that of a reader where it is to be
had at once.';

CREATE FUNCTION airflow_bp.lock_episodes_open(telling boolean) RETURNS TABLE (id bigint, begins boolean, over boolean, from_at timestamptz, to_at timestamptz,
	samples bigint, waiter_seconds float8, idle_seconds float8, longest interval, most_waiters int, lock_type text, lock_mode text,
	relation oid, block bigint, row_place int, subject text, airflow_row text, blocker_pid int, blocker_xact timestamptz, blocker_client text,
	blocked_pid int, blocker_component text, blocker_rule text, blocked_component text, blocked_rule text,
	blocker bigint, blocker_class text, blocker_shape text, blocked bigint, blocked_class text, blocked_shape text)
LANGUAGE c VOLATILE STRICT ROWS 10 AS 'MODULE_PATHNAME', 'airflow_bp_lock_episodes_open';
COMMENT ON FUNCTION airflow_bp.lock_episodes_open(boolean) IS 'Episodes in shared memory: what of them is not in lock_history. telling: only those that it is time to write, to be confirmed by lock_episode_done().';

CREATE FUNCTION airflow_bp.lock_episode_done(id bigint, airflow_row text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_lock_episode_done';
COMMENT ON FUNCTION airflow_bp.lock_episode_done(bigint, text) IS 'What lock_episodes_open(true) told of an episode is written.';

CREATE FUNCTION airflow_bp.lock_cycles() RETURNS TABLE (at timestamptz, pid int, blocked_by int, component text, statement text,
	relation oid, block bigint, row_place int, subject text)
LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME', 'airflow_bp_lock_cycles';
COMMENT ON FUNCTION airflow_bp.lock_cycles() IS 'Sessions that waited for each other at a look of the sampler; the last eight such looks.';

CREATE FUNCTION airflow_bp.sampler_ticks() RETURNS TABLE (upto bigint, planned timestamptz, began timestamptz, took_us bigint, period_us bigint,
	waiters int, cut boolean, error text, critical_pid int, critical_xact bigint, critical_age_us bigint, critical_client text)
LANGUAGE c VOLATILE ROWS 20 AS 'MODULE_PATHNAME', 'airflow_bp_sampler_ticks';
COMMENT ON FUNCTION airflow_bp.sampler_ticks() IS 'Looks of the sampler that are not written yet, to be confirmed by sampler_ticks_done().';

CREATE FUNCTION airflow_bp.sampler_ticks_done(upto bigint) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_sampler_ticks_done';
COMMENT ON FUNCTION airflow_bp.sampler_ticks_done(bigint) IS 'Looks up to this one are written.';

CREATE FUNCTION airflow_bp.sampler_memory() RETURNS TABLE (pid int, began timestamptz, last_look timestamptz, period_ms float8, ticks bigint,
	errors bigint, lost_ticks bigint, crowded bigint, error text)
LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'airflow_bp_sampler_memory';
COMMENT ON FUNCTION airflow_bp.sampler_memory() IS 'What shared memory says of the sampler; no row without it.';


-- Writing, by the worker.

CREATE FUNCTION airflow_bp.lock_episodes_named(telling boolean, during tstzrange) RETURNS TABLE (id bigint, begins int, over boolean,
	from_at timestamptz, to_at timestamptz,
	blocker_component text, blocker bigint, blocker_class text, blocker_shape text, blocked_component text, blocked bigint, blocked_class text,
	blocked_shape text, lock_type text, relation text, airflow_row jsonb, samples bigint, waiter_seconds float8, idle_seconds float8, longest interval,
	most_waiters int, sessions jsonb)
LANGUAGE sql VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.id, e.begins::int, e.over, e.from_at, e.to_at, coalesce(r.component, e.blocker_component), e.blocker, e.blocker_class, e.blocker_shape,
		e.blocked_component, e.blocked, e.blocked_class, e.blocked_shape, e.lock_type, airflow_bp.relation_name(e.relation, s.airflow_schema),
		coalesce(e.airflow_row::jsonb, airflow_bp.lock_row(e.relation, e.block, e.row_place, e.subject, s.airflow_schema)),
		e.samples, e.waiter_seconds, e.idle_seconds, e.longest, e.most_waiters,
		jsonb_strip_nulls(jsonb_build_object('blocker', e.blocker_pid, 'blocker_xact_start', e.blocker_xact, 'blocker_client', e.blocker_client,
			'blocker_rule', e.blocker_rule, 'blocked', e.blocked_pid, 'blocked_rule', e.blocked_rule, 'lock_mode', e.lock_mode))
	FROM airflow_bp.lock_episodes_open(telling) e
	CROSS JOIN (SELECT airflow_bp.airflow_schema_or_null() OFFSET 0) s (airflow_schema)
	LEFT JOIN airflow_bp.lock_hosts() r ON e.blocker_component = 'unknown' AND r.host = e.blocker_client
	WHERE e.from_at <@ during
$$;
COMMENT ON FUNCTION airflow_bp.lock_episodes_named(boolean, tstzrange) IS
'lock_episodes_open() of those that begin in a range, with names in place of numbers, as lock_history has them.';

CREATE FUNCTION airflow_bp.lock_write_episodes() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH due AS MATERIALIZED (SELECT * FROM airflow_bp.lock_episodes_named(true, '(,)')),
	statements AS (
		INSERT INTO airflow_bp.lock_statement (print, class, shape)
		SELECT d.blocker, d.blocker_class, d.blocker_shape FROM due d UNION SELECT d.blocked, d.blocked_class, d.blocked_shape FROM due d
		ON CONFLICT (print) DO NOTHING),
	written AS (
		INSERT INTO airflow_bp.lock_history
		SELECT 0, d.from_at, d.to_at, d.id, d.blocker, d.blocked, d.blocker_component, d.blocked_component, d.lock_type, d.relation, d.airflow_row,
			d.begins, d.samples, d.waiter_seconds, d.idle_seconds, d.longest, d.most_waiters, d.sessions
		FROM due d WHERE d.samples > 0)
	SELECT count(*) FROM (SELECT airflow_bp.lock_episode_done(d.id, d.airflow_row::text) FROM due d OFFSET 0) done
$$;
COMMENT ON FUNCTION airflow_bp.lock_write_episodes() IS 'Writes the episodes that it is time for to lock_history, and returns their number.';

CREATE FUNCTION airflow_bp.lock_write_ticks() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	WITH due AS MATERIALIZED (SELECT * FROM airflow_bp.sampler_ticks()),
	looks AS (
		INSERT INTO airflow_bp.sampler_tick
		SELECT 0, d.began, d.began + make_interval(secs => d.took_us / 1e6), d.planned, 1, l.late, l.late, l.took, l.took, d.period_us / 1e6,
			(d.waiters > 0)::int, d.waiters, d.cut::int, (d.error IS NOT NULL)::int, d.error
		FROM due d CROSS JOIN LATERAL (SELECT greatest(extract(epoch FROM d.began - d.planned)::float8, 0), d.took_us / 1e6) l (late, took)),
	holds AS (
		INSERT INTO airflow_bp.critical_hold
		SELECT 0, min(d.began), max(d.began), d.critical_pid, d.critical_client, d.critical_xact, count(*),
			extract(epoch FROM max(d.began) - min(d.began)), max(d.critical_age_us) / 1e6
		FROM due d WHERE d.critical_pid IS NOT NULL GROUP BY d.critical_pid, d.critical_client, d.critical_xact)
	SELECT airflow_bp.sampler_ticks_done((SELECT max(d.upto) FROM due d))
$$;
COMMENT ON FUNCTION airflow_bp.lock_write_ticks() IS 'Writes the looks of the sampler to sampler_tick and critical_hold.';

CREATE FUNCTION airflow_bp.lock_cycle(since timestamptz) RETURNS TABLE (at timestamptz, sessions jsonb)
LANGUAGE sql VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
	SELECT c.at, jsonb_agg(jsonb_strip_nulls(jsonb_build_object('pid', c.pid, 'blocked_by', c.blocked_by, 'component', c.component,
		'statement', c.statement, 'relation', airflow_bp.relation_name(c.relation, s.airflow_schema),
		'row', airflow_bp.lock_row(c.relation, c.block, c.row_place, c.subject, s.airflow_schema))) ORDER BY c.pid)
	FROM airflow_bp.lock_cycles() c CROSS JOIN (SELECT airflow_bp.airflow_schema_or_null() OFFSET 0) s (airflow_schema)
	WHERE c.at > since GROUP BY c.at ORDER BY c.at DESC LIMIT 1
$$;
COMMENT ON FUNCTION airflow_bp.lock_cycle(timestamptz) IS 'The last sessions that were seen to wait for each other since an instant.';

CREATE FUNCTION airflow_bp.lock_write_deadlocks() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	total bigint := pg_stat_get_db_deadlocks((SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
	before airflow_bp.deadlock;
	cycle record;
	waits jsonb;
BEGIN
	SELECT * INTO before FROM airflow_bp.deadlock d ORDER BY d.at DESC LIMIT 1;
	IF before.total = total THEN
		RETURN;
	ELSIF before IS NULL OR before.total > total THEN
		INSERT INTO airflow_bp.deadlock VALUES (clock_timestamp(), 0, total, NULL, NULL);
		RETURN;
	END IF;
	SELECT * INTO cycle FROM airflow_bp.lock_cycle(greatest(before.at, clock_timestamp() - interval '1 minute'));
	IF cycle.at IS NULL THEN
		SELECT jsonb_agg(jsonb_build_object('component', p.blocked_component, 'statement', p.blocked_shape, 'blocked_by', p.blocker_component,
			'blocker_statement', p.blocker_shape, 'relation', p.relation, 'row', p.airflow_row) ORDER BY p.waiter_seconds DESC)
		INTO waits FROM airflow_bp.lock_pieces(tstzrange(clock_timestamp() - interval '1 minute', NULL)) p;
	END IF;
	INSERT INTO airflow_bp.deadlock
	VALUES (coalesce(cycle.at, clock_timestamp()), total - before.total, total,
		CASE WHEN cycle.at IS NOT NULL THEN 'cycle' WHEN waits IS NOT NULL THEN 'waits' END, coalesce(cycle.sessions, waits));
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_write_deadlocks() IS 'Writes a row to deadlock when the counter of PostgreSQL has changed.';

CREATE FUNCTION airflow_bp.lock_turn() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.lock_write_episodes();
	PERFORM airflow_bp.lock_write_ticks();
	PERFORM airflow_bp.lock_write_deadlocks();
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_turn() IS 'Writes what the sampler has seen. The worker calls it when there is something.';


-- Reading.

CREATE FUNCTION airflow_bp.lock_during(during tstzrange) RETURNS tstzrange
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(during, tstzrange(statement_timestamp() - interval '1 day', NULL))
$$;
COMMENT ON FUNCTION airflow_bp.lock_during(tstzrange) IS 'The range given, or the last day.';

CREATE FUNCTION airflow_bp.lock_pieces(during tstzrange) RETURNS TABLE (resolution int, from_at timestamptz, to_at timestamptz, episode bigint,
	blocker_component text, blocker_class text, blocker_shape text, blocked_component text, blocked_class text, blocked_shape text,
	lock_type text, relation text, airflow_row jsonb, episodes bigint, samples bigint, waiter_seconds float8, idle_seconds float8,
	longest interval, most_waiters int, sessions jsonb, going_on boolean)
LANGUAGE sql VOLATILE ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
	SELECT h.resolution, h.from_at, h.to_at, h.episode, h.blocker_component, r.class, r.shape, h.blocked_component, d.class, d.shape,
		h.lock_type, h.relation, h.airflow_row, h.episodes, h.samples, h.waiter_seconds, h.idle_seconds, h.longest, h.most_waiters, h.sessions, false
	FROM airflow_bp.lock_history h
	LEFT JOIN airflow_bp.lock_statement r ON r.print = h.blocker
	LEFT JOIN airflow_bp.lock_statement d ON d.print = h.blocked
	WHERE h.resolution IN (0, 60, 3600) AND h.from_at <@ during
		AND h.from_at >= coalesce(lower(during), '-infinity') AND h.from_at <= coalesce(upper(during), 'infinity')
	UNION ALL
	SELECT 0, e.from_at, e.to_at, e.id, e.blocker_component, e.blocker_class, e.blocker_shape, e.blocked_component, e.blocked_class, e.blocked_shape,
		e.lock_type, e.relation, e.airflow_row, e.begins, e.samples, e.waiter_seconds, e.idle_seconds, e.longest, e.most_waiters, e.sessions, NOT e.over
	FROM airflow_bp.lock_episodes_named(false, during) e
$$;
COMMENT ON FUNCTION airflow_bp.lock_pieces(tstzrange) IS 'Pieces of lock_history that begin in a range, and what is not written yet.';

CREATE FUNCTION airflow_bp.lock_episodes(during tstzrange DEFAULT NULL) RETURNS TABLE (from_at timestamptz, to_at timestamptz, going_on boolean,
	blocker_component text, blocker_statement text, blocked_component text, blocked_statement text, lock_type text, relation text, airflow_row jsonb,
	episodes bigint, samples bigint, waiter_seconds float8, idle_share float8, longest interval, most_waiters int, sessions jsonb, resolution interval)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
	SELECT min(p.from_at), max(p.to_at), bool_or(p.going_on), min(p.blocker_component), min(p.blocker_shape), min(p.blocked_component), min(p.blocked_shape),
		min(p.lock_type), min(p.relation), (array_agg(p.airflow_row ORDER BY p.airflow_row IS NULL, p.from_at))[1],
		greatest(sum(p.episodes)::bigint, 1), sum(p.samples)::bigint, sum(p.waiter_seconds), sum(p.idle_seconds) / nullif(sum(p.waiter_seconds), 0),
		max(p.longest), max(p.most_waiters), (array_agg(p.sessions ORDER BY p.most_waiters DESC, p.from_at))[1],
		make_interval(secs => max(p.resolution))
	FROM (SELECT *, CASE WHEN q.episode IS NULL THEN row_number() OVER () END AS alone FROM airflow_bp.lock_pieces(airflow_bp.lock_during(during)) q) p
	GROUP BY p.episode, p.alone, p.resolution
	ORDER BY 1
$$;
COMMENT ON FUNCTION airflow_bp.lock_episodes(tstzrange) IS
'Episodes of waiting in a range (NULL: the last day): looks in a row at which the same statement, or last statement, blocked the same statement at the same row or relation. Needs the sampler.
from_at, to_at: first and last look. going_on: also at the last look. blocker: the root of the tree, not who stands just before. Statements without
values. airflow_row: see lock_tree(). samples: looks that saw it; the more of them, the better is waiter_seconds, an estimate: waiting sessions at
each look, times the time since the look before. idle_share: part of it in which the blocker was idle in its transaction. longest: wait of one session
seen. sessions: pids and client at the look with most waiters.
resolution: 0: one episode; older than a day, a minute, and older than 30 days, an hour, of all episodes of these statements and relation, with their
number in episodes and one row and session as an example. What begins in the range counts, whole.';

CREATE FUNCTION airflow_bp.lock_report(during tstzrange DEFAULT NULL, before tstzrange DEFAULT NULL) RETURNS TABLE (waiter_seconds float8, share float8,
	before_waiter_seconds float8, blocker_component text, blocker_class text, blocked_component text, blocked_class text, relation text,
	episodes bigint, samples bigint, idle_share float8, longest interval, most_waiters int, example jsonb, blocker_statement text, blocked_statement text)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
	WITH piece AS (
		SELECT true AS during, * FROM airflow_bp.lock_pieces(airflow_bp.lock_during($1))
		UNION ALL SELECT false, * FROM airflow_bp.lock_pieces($2) WHERE $2 IS NOT NULL)
	SELECT coalesce(sum(p.waiter_seconds) FILTER (WHERE p.during), 0) AS cost,
		sum(p.waiter_seconds) FILTER (WHERE p.during) / nullif(sum(sum(p.waiter_seconds) FILTER (WHERE p.during)) OVER (), 0),
		CASE WHEN $2 IS NOT NULL THEN coalesce(sum(p.waiter_seconds) FILTER (WHERE NOT p.during), 0) END,
		p.blocker_component, min(p.blocker_class), p.blocked_component, min(p.blocked_class), p.relation,
		coalesce(sum(p.episodes) FILTER (WHERE p.during), 0)::bigint, coalesce(sum(p.samples) FILTER (WHERE p.during), 0)::bigint,
		sum(p.idle_seconds) FILTER (WHERE p.during) / nullif(sum(p.waiter_seconds) FILTER (WHERE p.during), 0),
		max(p.longest) FILTER (WHERE p.during), max(p.most_waiters) FILTER (WHERE p.during),
		(array_agg(jsonb_strip_nulls(jsonb_build_object('at', p.from_at, 'row', p.airflow_row) || coalesce(p.sessions, '{}'))
			ORDER BY p.waiter_seconds DESC) FILTER (WHERE p.during))[1], p.blocker_shape, p.blocked_shape
	FROM piece p
	GROUP BY p.blocker_component, p.blocker_shape, p.blocked_component, p.blocked_shape, p.relation
	ORDER BY cost DESC, 3 DESC NULLS LAST, p.blocker_shape, p.blocked_shape
$$;
COMMENT ON FUNCTION airflow_bp.lock_report(tstzrange, tstzrange) IS
'What waiting has cost in a range (NULL: the last day), by statement that blocks, statement that waits, and table; the dearest first. waiter_seconds: see lock_episodes(); share: of all in the range. before_waiter_seconds: the same in another range, for a comparison; NULL when none is given; what was only there has waiter_seconds 0. example: of the dearest piece.';

CREATE FUNCTION airflow_bp.critical_section(during tstzrange DEFAULT NULL) RETURNS TABLE (pid int, client text, samples bigint, ticks bigint, share float8,
	held_seconds float8, longest_at_least interval, longest_at_most interval, first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	WITH looked AS (SELECT sum(t.ticks)::bigint AS ticks, sum(t.period) AS seconds FROM airflow_bp.sampler_tick t
		WHERE t.resolution IN (0, 60, 3600) AND t.from_at <@ airflow_bp.lock_during(during)),
	hold AS (SELECT h.pid, h.client, h.xact, sum(h.samples) AS samples, max(h.at_least) AS at_least, max(h.at_most) AS at_most,
			min(h.from_at) AS from_at, max(h.to_at) AS to_at
		FROM airflow_bp.critical_hold h WHERE h.resolution IN (0, 60, 3600) AND h.from_at <@ airflow_bp.lock_during(during)
		GROUP BY h.resolution, h.pid, h.client, h.xact)
	SELECT h.pid, h.client, sum(h.samples)::bigint, l.ticks, sum(h.samples) / l.ticks::float8, sum(h.samples) / l.ticks::float8 * l.seconds,
		airflow_bp.seconds(max(CASE WHEN h.xact IS NULL THEN h.at_least ELSE greatest(h.at_least, extract(epoch FROM h.to_at - h.from_at)) END)),
		airflow_bp.seconds(max(h.at_most)), min(h.from_at), max(h.to_at)
	FROM hold h CROSS JOIN looked l GROUP BY h.pid, h.client, l.ticks, l.seconds ORDER BY 3 DESC, 1
$$;
COMMENT ON FUNCTION airflow_bp.critical_section(tstzrange) IS
'Who was in the critical section of the schedulers in a range (NULL: the last day), by the looks of the sampler: a row for each session. samples of ticks looks found it there; share of the time, and held_seconds, estimated from that. longest_at_least: of one hold, from its first look to its last; longest_at_most: from the begin of its transaction to its last look, NULL when not known. No row: nobody was seen; sampler_status() says whether it looked. A section shorter than the period is seen by chance, in proportion to its length.';

CREATE FUNCTION airflow_bp.sampler_status(during tstzrange DEFAULT NULL) RETURNS TABLE (pid int, last_look timestamptz, period interval, wanted_period interval,
	looks bigint, took_ms float8, longest_ms float8, cost_share float8, latest_ms float8, seen interval, blind interval, waiting_share float8,
	errors bigint, last_error text, lost_looks bigint, open_episodes bigint, crowded bigint, note text)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
	WITH span AS (SELECT coalesce(lower(d), '-infinity') AS lower, least(upper(d), statement_timestamp()) AS upper, d
		FROM (SELECT coalesce(during, tstzrange(statement_timestamp() - interval '1 hour', NULL))) r (d)),
	tick AS (
		SELECT t.from_at, t.ticks, t.took, t.longest, t.latest, t.period, t.waiting, t.errors FROM airflow_bp.sampler_tick t, span s
		WHERE t.resolution IN (0, 60, 3600) AND t.from_at <@ s.d
		UNION ALL
		SELECT t.began, 1, t.took_us / 1e6, t.took_us / 1e6, extract(epoch FROM t.began - t.planned), t.period_us / 1e6, (t.waiters > 0)::int,
			(t.error IS NOT NULL)::int
		FROM airflow_bp.sampler_ticks() t, span s WHERE t.began <@ s.d),
	summed AS (SELECT min(t.from_at) AS first, sum(t.ticks)::bigint AS ticks, sum(t.took) AS took, max(t.longest) AS longest, max(t.latest) AS latest,
		sum(t.period) AS period, sum(t.waiting)::bigint AS waiting, sum(t.errors)::bigint AS errors FROM tick t)
	SELECT m.pid, m.last_look, airflow_bp.seconds(m.period_ms / 1000), nullif(w.period, '0'),
		coalesce(t.ticks, 0), t.took / t.ticks * 1000, t.longest * 1000, t.took / t.period, greatest(t.latest, 0) * 1000,
		airflow_bp.seconds(t.period),
		airflow_bp.seconds(greatest(extract(epoch FROM CASE WHEN t.ticks > 0 THEN s.upper - greatest(s.lower, t.first) END) - t.period, 0)),
		t.waiting / t.ticks::float8, t.errors, m.error, m.lost_ticks, (SELECT count(*) FROM airflow_bp.lock_episodes_open(false) e WHERE NOT e.over), m.crowded,
		CASE WHEN pg_is_in_recovery() THEN 'standby: the sampler runs on the primary'
			WHEN NOT airflow_bp.preloaded() THEN 'not preloaded: add airflow_bp to shared_preload_libraries and restart'
			WHEN w.period = '0' THEN 'off: set airflow_bp.lock_sample_period'
			WHEN m.pid IS NULL AND m.last_look IS NULL THEN 'not running: set airflow_bp.database, or call airflow_bp.tick() at a period'
			WHEN m.pid IS NULL THEN 'looks at each airflow_bp.tick()'
			WHEN m.period_ms > extract(epoch FROM w.period) * 1000 THEN
				'looks less often, as a look takes more than 1 % of its period' END
	FROM summed t CROSS JOIN span s CROSS JOIN (SELECT nullif(current_setting('airflow_bp.lock_sample_period', true), '')::interval) w (period)
	LEFT JOIN airflow_bp.sampler_memory() m ON true
$$;
COMMENT ON FUNCTION airflow_bp.sampler_status(tstzrange) IS
'One row: does the sampler look, how often, and what it costs, in a range (NULL: the last hour). pid NULL: no process of its own. period: in force; wanted_period: airflow_bp.lock_sample_period, NULL: off. looks: those in the range, at this database. took_ms, longest_ms: of a look, mean and greatest; cost_share: of the time; latest_ms: behind its plan. seen: time that the looks stand for; blind: the rest since the first look in the range. waiting_share: of looks that saw somebody wait: 0 is idle, while blind is not. errors: of looks in the range, last_error: the text of the last. lost_looks: never written. crowded: samples of episodes without a place of their own. NULL: cannot be known.';

CREATE FUNCTION airflow_bp.deadlocks(during tstzrange DEFAULT NULL) RETURNS TABLE (at timestamptz, deadlocks bigint, source text, sessions jsonb)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.at, d.deadlocks, d.source, d.sessions FROM airflow_bp.deadlock d
	WHERE d.at <@ airflow_bp.lock_during(during) AND d.deadlocks > 0 ORDER BY d.at
$$;
COMMENT ON FUNCTION airflow_bp.deadlocks(tstzrange) IS
'Deadlocks in a range (NULL: the last day), by the counter of PostgreSQL, read each 10 s. source, sessions: cycle: the sampler saw these sessions wait for each other, each with its statement, table and row; waits: it saw none, and these are the waits of the minute before, the dearest first; NULL: nothing was seen. A deadlock lasts for deadlock_timeout, so the sampler should look at least so often. The server log has the statements in full: see deadlock_log().';

CREATE FUNCTION airflow_bp.lock_roll(now timestamptz DEFAULT now()) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.deadlock d WHERE d.at < lock_roll.now - interval '366 days';
	DELETE FROM airflow_bp.lock_action a WHERE a.at < lock_roll.now - interval '366 days';
	RETURN airflow_bp.history_roll(now, 'airflow_bp.lock_history', 'blocker, blocked, blocker_component, blocked_component, lock_type, relation',
			'airflow_row, episodes, samples, waiter_seconds, idle_seconds, longest, most_waiters, sessions',
			'(array_agg(airflow_row ORDER BY waiter_seconds DESC))[1], sum(episodes), sum(samples), sum(waiter_seconds), sum(idle_seconds), '
			'max(longest), max(most_waiters), (array_agg(sessions ORDER BY waiter_seconds DESC))[1]')
		+ airflow_bp.history_roll(now, 'airflow_bp.sampler_tick', 'error',
			'ticks, late, latest, took, longest, period, waiting, most_waiters, cut, errors',
			'sum(ticks), sum(late), max(latest), sum(took), max(longest), sum(period), sum(waiting), max(most_waiters), sum(cut), sum(errors)')
		+ airflow_bp.history_roll(now, 'airflow_bp.critical_hold', 'pid, client', 'samples, at_least, at_most',
			'sum(samples), max(at_least), max(at_most)');
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_roll(timestamptz) IS 'Rolls up what the sampler has seen, see history_roll(), and returns the number of rows that went. The worker calls it each 10 minutes.';
