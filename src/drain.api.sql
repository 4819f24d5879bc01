-- Drains: hold new admissions in a scope, show what still has to finish, go on again.

CREATE FUNCTION airflow_bp.drain_query() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	task text := airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text', 'map_index int',
		'try_number int', 'state text', 'pool text', 'queue text', 'executor text');
BEGIN
	RETURN format($query$
WITH task AS MATERIALIZED (
	SELECT t.*, true AS active, false AS held FROM %1$s t
	WHERE state IN ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'awaiting_input')
	UNION ALL
	SELECT t.*, false, false FROM %1$s t WHERE $3 = 'runs' AND (state IS NULL OR state IN ('up_for_retry', 'up_for_reschedule'))
	UNION ALL
	SELECT t.*, false, true FROM airflow_bp.held_entries() h CROSS JOIN LATERAL (SELECT * FROM %1$s t WHERE t.id = h.ti_id OFFSET 0) t
	WHERE h.reason = 'held_drain' AND (state IS NULL OR state IN ('up_for_retry', 'up_for_reschedule'))
), class AS MATERIALIZED (
	SELECT row_number() OVER () AS n, * FROM (SELECT DISTINCT dag_id, pool, queue FROM task WHERE $1 = 'tenant') u
), tenant AS (
	SELECT class.*, coalesce(m.tenant, 'default') AS tenant
	FROM class LEFT JOIN airflow_bp.match_tenants((SELECT array_agg(dag_id ORDER BY n) FROM class),
		(SELECT array_agg(pool ORDER BY n) FROM class), (SELECT array_agg(queue ORDER BY n) FROM class)) m ON m.n = class.n
), run AS MATERIALIZED (
	SELECT r.dag_id, r.run_id, coalesce(r.state = 'running' AND r.start_date < $4 AND NOT d.is_paused AND NOT d.is_stale, false) AS old
	FROM (SELECT DISTINCT dag_id, run_id FROM task WHERE NOT active AND NOT held) u
	CROSS JOIN LATERAL (SELECT * FROM %2$s r WHERE r.dag_id = u.dag_id AND r.run_id = u.run_id OFFSET 0) r
	LEFT JOIN %3$s d ON d.dag_id = r.dag_id
), mine AS (
	SELECT task.*, coalesce(run.old, false) AS waits
	FROM task LEFT JOIN run ON NOT active AND NOT held AND run.dag_id = task.dag_id AND run.run_id = task.run_id
	LEFT JOIN tenant ON tenant.dag_id = task.dag_id AND tenant.pool = task.pool AND tenant.queue IS NOT DISTINCT FROM task.queue
	WHERE CASE $1 WHEN 'tenant' THEN tenant.tenant = $2 WHEN 'dag' THEN task.dag_id = $2 WHEN 'pool' THEN task.pool = $2
		WHEN 'queue' THEN coalesce(task.queue, '(default)') = $2 WHEN 'executor' THEN coalesce(task.executor, '(default)') = $2 ELSE true END
)
$query$, task,
		airflow_bp.airflow_relation(schema, 'dag_run', 'dag_id text', 'run_id text', 'state text', 'start_date timestamptz'),
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_paused bool', 'is_stale bool'));
END
$body$;
COMMENT ON FUNCTION airflow_bp.drain_query() IS 'The query behind drain_left() and others, which append what they select from "mine": tasks of scope $1 and name $2 that are active, that wait in runs which had started before $4 when $3 is runs, or that a drain holds.';

CREATE FUNCTION airflow_bp.drain_open(in_force_at timestamptz) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT count(*) FROM pg_stat_activity a
	WHERE a.datname = current_database() AND a.xact_start <= in_force_at AND a.pid <> pg_backend_pid() AND a.backend_xid IS NOT NULL
		AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.mode = 'RowExclusiveLock'
			AND l.relation = to_regclass(format('%I.task_instance', airflow_bp.airflow_schema_name())))
$$;
COMMENT ON FUNCTION airflow_bp.drain_open(timestamptz) IS 'Open transactions that have written tasks and began before that instant: they may have admitted what nobody sees yet.';

CREATE FUNCTION airflow_bp.drain_left(scope text, name text, finish text, since timestamptz, in_force_at timestamptz) RETURNS TABLE (
	open bigint, scheduled bigint, queued bigint, running bigint, deferred bigint, waiting bigint, runs bigint, held bigint)
LANGUAGE plpgsql VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	-- Before the query takes its snapshot, so that it sees what those have written that are open no more.
	open CONSTANT bigint := airflow_bp.drain_open(in_force_at);
BEGIN
	RETURN QUERY EXECUTE airflow_bp.drain_query() || $query$
SELECT $5, count(*) FILTER (WHERE active AND state = 'scheduled'), count(*) FILTER (WHERE active AND state = 'queued'),
	count(*) FILTER (WHERE active AND state IN ('running', 'restarting')), count(*) FILTER (WHERE active AND state IN ('deferred', 'awaiting_input')),
	count(*) FILTER (WHERE waits), (SELECT count(*) FROM (SELECT DISTINCT dag_id, run_id FROM mine WHERE active OR waits) r),
	CASE WHEN airflow_bp.preloaded() AND NOT pg_is_in_recovery() THEN count(*) FILTER (WHERE held) END
FROM mine$query$
	USING scope, name, finish, since, open;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_left(text, text, text, timestamptz, timestamptz) IS
'What has to finish before a scope is drained: open transactions of drain_open(), active tasks by state (running: with restarting, deferred: with awaiting_input), with finish runs also the tasks that wait in started runs of DAGs not paused or stale, and the runs of all these; held: tasks that drains hold, NULL where shared memory cannot tell.';

CREATE FUNCTION airflow_bp.drain_runs(since timestamptz) RETURNS TABLE (id int, dag_id text, run_id text, start_date timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT id, dag_id, run_id, start_date FROM %s r WHERE state = ''running'' AND start_date >= $1
			AND dag_id IS NOT NULL AND run_id IS NOT NULL',
		airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'dag_run', 'id int', 'dag_id text', 'run_id text', 'state text',
			'start_date timestamptz')) USING since;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_runs(timestamptz) IS 'Running runs that have started since then.';

CREATE FUNCTION airflow_bp.drains_hold() RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE coalesce((SELECT m.mode <> 'off' AND m.may_enforce AND s.gate_enabled
		FROM airflow_bp.memory_state() m, airflow_bp.deployment_state() s), false) END
$$;
COMMENT ON FUNCTION airflow_bp.drains_hold() IS 'Can drains hold tasks here: preloaded, enabled, not in mode off, a known alembic head, and the policy compiled since the start? NULL on a standby.';

CREATE FUNCTION airflow_bp.drain_note() RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format(CASE WHEN airflow_bp.drains_hold() IS NOT FALSE THEN 'drains: %s, see drain_status()' ELSE 'drains not in force: %s' END, count(*))
	FROM airflow_bp.drain d WHERE d.stopped_at IS NULL HAVING count(*) > 0
$$;
COMMENT ON FUNCTION airflow_bp.drain_note() IS 'What status() says of drains; NULL when there is none.';

CREATE FUNCTION airflow_bp.drain_knows(scope text, name text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	found boolean;
BEGIN
	IF scope = 'tenant' THEN
		RETURN name = 'default' OR EXISTS (SELECT FROM airflow_bp.tenant t WHERE t.name = drain_knows.name);
	ELSIF scope IN ('dag', 'pool') THEN
		EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t.name = $1)', CASE scope
			WHEN 'dag' THEN replace(airflow_bp.airflow_relation(schema, 'dag', 'dag_id text'), 'AS dag_id', 'AS name')
			ELSE replace(airflow_bp.airflow_relation(schema, 'slot_pool', 'pool text'), 'AS pool', 'AS name') END)
		INTO found USING name;
		RETURN found;
	ELSIF name IN ('(default)', 'default') OR EXISTS (SELECT FROM airflow_bp.queue_counts(scope) q WHERE q.scope_name = name) THEN
		RETURN true;
	END IF;
	-- No table lists queues and executors: they are named by tasks.
	EXECUTE format('SELECT EXISTS (SELECT FROM %s s WHERE jsonb_path_exists(airflow_bp.serialized_dag(s.data, s.data_compressed),
			%L, jsonb_build_object(''name'', $1)))',
		airflow_bp.airflow_relation(schema, 'serialized_dag', 'data', 'data_compressed bytea'), format('$.dag.**.%s ? (@ == $name)', scope))
	INTO found USING name;
	RETURN found;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_knows(text, text) IS 'Is there a tenant, DAG, pool, queue or executor of that name? Queues and executors: in an unfinished task, or a serialized DAG; default and (default) always.';

CREATE FUNCTION airflow_bp.check_drain(scope text, name text, timeout interval, finish text, at_timeout text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_choice('scope', scope, 'deployment', 'tenant', 'dag', 'pool', 'queue', 'executor'),
		airflow_bp.check_choice('finish', finish, 'runs', 'tasks'), airflow_bp.check_choice('at_timeout', at_timeout, 'wait', 'extend', 'inbox');
	IF timeout <= interval '0' OR timeout > interval '365 days' OR timeout IS NULL AND at_timeout <> 'wait' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('timeout must be positive, and at most 365 days: %s', coalesce(timeout::text, 'NULL')),
			HINT = 'Give an interval; NULL: no timeout, and at_timeout wait.';
	ELSIF (name IS NULL) <> (scope = 'deployment') THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = CASE WHEN name IS NULL THEN format('no name of a %s is given', scope)
			ELSE 'a deployment has no name' END, HINT = 'Name a tenant, DAG, pool, queue or executor; leave the name NULL for the deployment.';
	ELSIF scope <> 'deployment' AND NOT airflow_bp.drain_knows(scope, name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no %s "%s"', scope, name),
			HINT = format('See airflow_bp.queue(%L).', scope);
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_drain(text, text, interval, text, text) IS 'Raises BP001 for an unknown scope, name or choice, BP002 for a bad timeout.';

CREATE FUNCTION airflow_bp.check_drainable(tenant text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state record;
	complaint text;
BEGIN
	SELECT s.head_known, s.alembic_head, s.gate_enabled, d.mode INTO state
	FROM airflow_bp.deployment_state() s LEFT JOIN airflow_bp.deployment d ON true;
	IF NOT state.head_known THEN
		RAISE EXCEPTION USING ERRCODE = 'BP006', MESSAGE = format('alembic head %s is not known: nothing would be held',
			coalesce(state.alembic_head, '(none)')),
			HINT = 'See airflow_bp.known_heads().';
	END IF;
	complaint := CASE WHEN pg_is_in_recovery() THEN 'this is a standby|Drain on the primary.'
		WHEN NOT airflow_bp.preloaded() THEN 'it is not preloaded|Add airflow_bp to shared_preload_libraries and restart the server.'
		WHEN NOT state.gate_enabled OR state.mode IS NULL THEN 'airflow_bp is not enabled|Call airflow_bp.enable().'
		WHEN state.mode = 'off' THEN 'the mode is off|Call airflow_bp.set_mode(''observe'') first; a drain holds in that mode too.'
		WHEN (SELECT t.mode FROM airflow_bp.tenant t WHERE t.name = check_drainable.tenant) = 'off' THEN
			'the mode of the tenant is off|Give it another by airflow_bp.set_tenant().' END;
	IF complaint IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = 'nothing would be held: ' || split_part(complaint, '|', 1), HINT = split_part(complaint, '|', 2);
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_drainable(text) IS 'Raises BP005 where a drain would hold nothing (not preloaded, not enabled, mode off, a standby), BP006 on an unknown alembic head.';

CREATE FUNCTION airflow_bp.drain_start(scope text, name text DEFAULT NULL, timeout interval DEFAULT NULL, finish text DEFAULT 'runs',
	at_timeout text DEFAULT 'wait') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	began timestamptz := clock_timestamp();
	drain airflow_bp.drain;
BEGIN
	PERFORM airflow_bp.check_drain(drain_start.scope, drain_start.name, drain_start.timeout, drain_start.finish, drain_start.at_timeout);
	PERFORM airflow_bp.check_drainable(CASE WHEN drain_start.scope = 'tenant' THEN drain_start.name END);
	INSERT INTO airflow_bp.drain AS d (scope, name, finish, since, at_timeout, timeout, deadline, left_at_start)
	SELECT drain_start.scope, drain_start.name, drain_start.finish, began, drain_start.at_timeout, drain_start.timeout,
		began + drain_start.timeout, CASE drain_start.finish
			WHEN 'tasks' THEN coalesce((SELECT q.scheduled + q.queued + q.running + q.deferred FROM airflow_bp.queue_counts(drain_start.scope) q
				WHERE q.scope_name = coalesce(drain_start.name, 'deployment')), 0)
			ELSE (SELECT l.scheduled + l.queued + l.running + l.deferred + l.waiting
				FROM airflow_bp.drain_left(drain_start.scope, drain_start.name, drain_start.finish, began, NULL) l) END
	RETURNING d.* INTO drain;
	INSERT INTO airflow_bp.act (action, new) VALUES ('drain', jsonb_strip_nulls(to_jsonb(drain)));
	RETURN drain.id;
EXCEPTION WHEN unique_violation THEN
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('there is a drain of %s already', concat_ws(' ', drain_start.scope, drain_start.name)),
		HINT = 'See airflow_bp.drain_status(); stop it first by airflow_bp.drain_stop(id).';
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_start(text, text, interval, text, text) IS
'Holds new admissions of a deployment (name NULL), tenant, dag, pool, queue or executor ((default): that of tasks that name none) until drain_stop(id), and returns the id. Held in mode observe too. In force when drain_status() says so, milliseconds after the commit. finish runs: tasks of runs that had started may still be admitted, so that these runs finish; tasks: only what is scheduled, queued, running or deferred finishes. Nothing is killed. At the timeout (NULL: none) at_timeout wait only tells, extend adds the timeout once more, inbox records what is still active in dead_letter, cause drain_timeout; the drain stays on. BP001 unknown scope, name or choice, BP002 bad timeout, BP004 it is being drained already, BP005 nothing would be held, BP006 unknown alembic head.';

CREATE FUNCTION airflow_bp.drain_end(id bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE airflow_bp.drain d SET stopped_at = clock_timestamp(), stopped_by = session_user WHERE d.id = drain_end.id AND d.stopped_at IS NULL;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_end(bigint) IS 'Ends a drain; false when it is not on.';

CREATE FUNCTION airflow_bp.drain_stop(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM airflow_bp.drain d WHERE d.id = drain_stop.id) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no drain %s', coalesce(drain_stop.id::text, 'NULL')),
			HINT = 'See airflow_bp.drain_status().';
	ELSIF NOT airflow_bp.drain_end(drain_stop.id) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('drain %s was stopped before', drain_stop.id),
			HINT = 'See airflow_bp.drain_status() for those that are on.';
	END IF;
	INSERT INTO airflow_bp.act (action, old) SELECT 'drain_stop', jsonb_strip_nulls(to_jsonb(d)) FROM airflow_bp.drain d WHERE d.id = drain_stop.id;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_stop(bigint) IS 'Ends a drain. What it held goes on in its old order, where no other drain or limit holds it: the scheduler is made to look at once. BP001 no such drain, BP004 it was stopped before.';

CREATE FUNCTION airflow_bp.undo_drain(done airflow_bp.act) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT airflow_bp.drain_end((done.new ->> 'id')::bigint)
$$;
COMMENT ON FUNCTION airflow_bp.undo_drain(airflow_bp.act) IS 'Ends the drain that an act began; false when it was stopped before.';

CREATE FUNCTION airflow_bp.drain_status() RETURNS TABLE (id bigint, scope text, name text, since timestamptz, "by" text, finish text,
	deadline timestamptz, at_timeout text, state text, in_force boolean, in_force_at timestamptz, scheduled bigint, queued bigint, running bigint,
	deferred bigint, waiting bigint, runs bigint, held bigint, progress float8, eta interval)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.id, d.scope, d.name, d.since, d.started_by, d.finish, d.deadline, d.at_timeout,
		CASE WHEN n.tasks = 0 AND f.in_force IS NOT FALSE THEN 'drained'
			WHEN d.timed_out_at IS NOT NULL OR d.deadline <= clock_timestamp() AND d.at_timeout <> 'extend' THEN 'timed_out' ELSE 'draining' END,
		f.in_force, d.in_force_at,
		l.scheduled, l.queued, l.running, l.deferred, l.waiting, l.runs, l.held,
		CASE WHEN n.tasks = 0 THEN 1 ELSE greatest(0, 1 - n.tasks / nullif(d.left_at_start, 0)::float8) END,
		CASE WHEN n.tasks = 0 THEN interval '0' ELSE (SELECT make_interval(secs => n.tasks * 60 / nullif(q.rates_5[3], 0))
			FROM airflow_bp.queue_counts(d.scope) q WHERE q.scope_name = coalesce(d.name, 'deployment')) END
	FROM airflow_bp.drain d
	CROSS JOIN (SELECT airflow_bp.drains_hold() AS hold) h
	LEFT JOIN airflow_bp.tenant t ON d.scope = 'tenant' AND t.name = d.name
	CROSS JOIN LATERAL (SELECT CASE WHEN d.in_force_at IS NULL OR t.mode = 'off' THEN false ELSE h.hold END) f (in_force)
	CROSS JOIN LATERAL airflow_bp.drain_left(d.scope, d.name, d.finish, d.since, d.in_force_at) l
	CROSS JOIN LATERAL (SELECT l.open + l.scheduled + l.queued + l.running + l.deferred + l.waiting) n (tasks)
	WHERE d.stopped_at IS NULL ORDER BY d.id
$$;
COMMENT ON FUNCTION airflow_bp.drain_status() IS
'The drains that are on. state: draining, drained (it is in force, and nothing is left that may finish), timed_out (there is, after the deadline). in_force: new admissions are held now (NULL on a standby); in_force_at: since then at the latest. Tasks that have to finish: scheduled, queued, running (with restarting), deferred (with awaiting_input), and with finish runs waiting, those that wait in runs that had started; runs: of all these. held: tasks of the scope that drains hold. progress: done part of what had to finish at the start. eta: at the rate at which tasks of the scope ended in the last 5 minutes; NULL when none did, or it cannot be known. BP006 when the tables of Airflow are not found.';

CREATE FUNCTION airflow_bp.drain_to_inbox(drain airflow_bp.drain, most int) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	evidence jsonb := jsonb_build_object('drain', drain.id, 'scope', drain.scope, 'name', drain.name, 'finish', drain.finish,
		'since', drain.since, 'deadline', drain.deadline);
	written bigint;
BEGIN
	EXECUTE format($query$
WITH task AS (
	SELECT * FROM %s t WHERE state IN ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'awaiting_input')
		AND CASE $1 WHEN 'dag' THEN dag_id = $2 WHEN 'pool' THEN pool = $2 WHEN 'queue' THEN coalesce(queue, '(default)') = $2
			WHEN 'executor' THEN coalesce(executor, '(default)') = $2 ELSE true END
), class AS MATERIALIZED (
	SELECT row_number() OVER () AS n, * FROM (SELECT DISTINCT dag_id, pool, queue FROM task) u
), tenant AS MATERIALIZED (
	SELECT class.*, coalesce(m.tenant, 'default') AS tenant
	FROM class LEFT JOIN airflow_bp.match_tenants((SELECT array_agg(dag_id ORDER BY n) FROM class),
		(SELECT array_agg(pool ORDER BY n) FROM class), (SELECT array_agg(queue ORDER BY n) FROM class)) m ON m.n = class.n
)
INSERT INTO airflow_bp.dead_letter AS l (dag_id, run_id, task_id, map_index, try_number, ti_id, cause, evidence, state, tenant, pool, queue, executor)
SELECT task.dag_id, run_id, task_id, map_index, try_number, id, 'drain_timeout', $3, state, tenant, task.pool, task.queue, executor
FROM task JOIN tenant ON tenant.dag_id = task.dag_id AND tenant.pool = task.pool AND tenant.queue IS NOT DISTINCT FROM task.queue
WHERE ($1 <> 'tenant' OR tenant = $2) AND NOT EXISTS (SELECT FROM airflow_bp.dead_letter o
	WHERE o.ti_id = task.id AND o.try_number = task.try_number AND o.cause = 'drain_timeout' AND o.evidence -> 'drain' = $3 -> 'drain')
LIMIT $4
ON CONFLICT ON CONSTRAINT dead_letter_key DO UPDATE SET cause = excluded.cause, evidence = excluded.evidence, state = excluded.state,
	last_seen = now(), times_seen = l.times_seen + 1, status = 'open', closed_at = NULL, closed_by = NULL, why = NULL, act_id = NULL$query$,
		airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text',
			'map_index int', 'try_number int', 'state text', 'pool text', 'queue text', 'executor text'))
	USING drain.scope, drain.name, evidence, most;
	GET DIAGNOSTICS written = ROW_COUNT;
	RETURN written;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_to_inbox(airflow_bp.drain, int) IS 'Records tasks that are active in the scope of a drain as letters, at most so many; their number.';

CREATE FUNCTION airflow_bp.drain_turn() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	most CONSTANT int := 2000;
	due airflow_bp.drain;
BEGIN
	-- Whoever is at a drain is not waited for.
	FOR due IN SELECT d.* FROM airflow_bp.drain d
		WHERE d.stopped_at IS NULL AND d.timed_out_at IS NULL AND d.deadline <= clock_timestamp() FOR UPDATE SKIP LOCKED
	LOOP
		IF due.at_timeout = 'extend' THEN
			UPDATE airflow_bp.drain d SET deadline = clock_timestamp() + d.timeout WHERE d.id = due.id;
		ELSIF due.at_timeout = 'wait' OR airflow_bp.drain_to_inbox(due, most) < most THEN
			UPDATE airflow_bp.drain d SET timed_out_at = clock_timestamp() WHERE d.id = due.id;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION airflow_bp.drain_turn() IS 'Does what at_timeout says of drains that are over their deadline. The worker calls it in each turn.';

CREATE FUNCTION airflow_bp.upgrade_tasks(finish text, since timestamptz) RETURNS TABLE (state text, tasks bigint, example text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	RETURN QUERY EXECUTE airflow_bp.drain_query() || $query$
SELECT s.state, count(*), min(concat_ws(' ', dag_id, run_id, task_id, CASE WHEN map_index >= 0 THEN '[' || map_index || ']' END))
FROM mine CROSS JOIN LATERAL (SELECT CASE WHEN waits THEN 'run_unfinished' WHEN mine.state = 'awaiting_input' THEN 'deferred' ELSE mine.state END) s (state)
WHERE active OR waits GROUP BY 1$query$
	USING 'deployment', NULL::text, finish, since;
END
$$;
COMMENT ON FUNCTION airflow_bp.upgrade_tasks(text, timestamptz) IS 'Tasks that are still to finish, by state; run_unfinished: those that wait in runs that may finish.';

CREATE FUNCTION airflow_bp.triggerers() RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	alive bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s j WHERE job_type = ''TriggererJob'' AND state = ''running'' AND latest_heartbeat > $1 - interval ''30 seconds''',
		airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'job', 'job_type text', 'state text', 'latest_heartbeat timestamptz'))
	INTO alive USING airflow_bp.data_time();
	RETURN alive;
END
$$;
COMMENT ON FUNCTION airflow_bp.triggerers() IS 'How many triggerers have sent a heartbeat in the last 30 seconds.';

CREATE FUNCTION airflow_bp.upgrade_sessions() RETURNS TABLE (reason text, active bigint, example text, detail text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	(SELECT 'open_transaction', count(*) OVER (), format('pid %s, %s, since %s', a.pid, a.state, date_trunc('second', a.xact_start)),
		'open for more than 10 s, with a lock on a table of Airflow: a migration would wait for it'
	FROM pg_stat_activity a
	WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
		AND a.xact_start < clock_timestamp() - interval '10 seconds'
		AND EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = a.pid AND l.granted AND c.relnamespace = to_regnamespace(quote_ident(airflow_bp.airflow_schema_name())))
	ORDER BY a.xact_start LIMIT 1)
	UNION ALL
	(SELECT 'prepared_transaction', count(*) OVER (), p.gid, 'a migration may wait for it: COMMIT PREPARED or ROLLBACK PREPARED'
	FROM pg_prepared_xacts p WHERE p.database = current_database() ORDER BY p.prepared LIMIT 1)
$$;
COMMENT ON FUNCTION airflow_bp.upgrade_sessions() IS 'Transactions that airflow db migrate would have to wait for, with the oldest as example.';

CREATE FUNCTION airflow_bp.may_i_upgrade() RETURNS TABLE (answer boolean, reason text, active bigint, example text, detail text)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	WITH drain AS MATERIALIZED (
		SELECT d.*, airflow_bp.drain_open(d.in_force_at) AS open, CASE WHEN d.in_force_at IS NULL THEN false ELSE airflow_bp.drains_hold() END AS holds
		FROM airflow_bp.drain d WHERE d.scope = 'deployment' AND d.stopped_at IS NULL
	), task AS MATERIALIZED (
		SELECT t.*, t.state <> 'deferred' OR airflow_bp.triggerers() > 0 AS blocks
		FROM (SELECT coalesce((SELECT d.finish FROM drain d), 'tasks') AS finish, (SELECT d.since FROM drain d) AS since) f
		CROSS JOIN LATERAL airflow_bp.upgrade_tasks(f.finish, f.since) t
	), found AS MATERIALIZED (
		SELECT 1 AS place, false AS answer, 'no_drain' AS reason, NULL::bigint AS active, NULL::text AS example,
			'the deployment is not drained, anything may start: airflow_bp.drain_start(''deployment'')' AS detail
		WHERE NOT EXISTS (SELECT FROM drain)
		UNION ALL
		SELECT 2, d.holds, 'drain_not_in_force', NULL, NULL, format('drain %s: see airflow_bp.drain_status() and airflow_bp.status()', d.id)
		FROM drain d WHERE d.holds IS NOT TRUE
		UNION ALL
		SELECT 3, false, t.state, t.tasks, t.example, CASE t.state
			WHEN 'run_unfinished' THEN 'tasks that wait in runs that had started before the drain'
			WHEN 'deferred' THEN 'a triggerer may resume them at any moment; stop the triggerers, and they resume after the upgrade' END
		FROM task t WHERE t.blocks
		UNION ALL
		SELECT 4, false, 'open_admission', d.open, NULL, 'transactions that have written tasks and began before the drain was in force'
		FROM drain d WHERE d.open > 0
		UNION ALL
		SELECT 5, false, s.* FROM airflow_bp.upgrade_sessions() s
	)
	(SELECT f.answer, f.reason, f.active, f.example, f.detail FROM found f ORDER BY f.place, f.reason)
	UNION ALL
	SELECT true, 'drained', 0, NULL, concat_ws('; ', format('drain %s is in force since %s, nothing is active', d.id, date_trunc('second', d.in_force_at)),
		(SELECT format('deferred tasks that resume after the upgrade: %s', t.tasks) FROM task t WHERE NOT t.blocks))
	FROM drain d WHERE NOT EXISTS (SELECT FROM found)
$$;
COMMENT ON FUNCTION airflow_bp.may_i_upgrade() IS
'May Airflow be stopped, migrated and started again without hurting a task? One row that says true, or one for each thing in the way: no_drain, drain_not_in_force (answer NULL on a standby), scheduled, queued, running, restarting, deferred (while a triggerer is alive), run_unfinished (by state: how many and an example), open_admission, open_transaction (for more than 10 s, with a lock on a table of Airflow), prepared_transaction. Works without preload; there nothing can be drained. BP006 when the tables of Airflow are not found.';

