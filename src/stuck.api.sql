-- Tasks that are stuck: which, why, and since when.
--
-- What reads Airflow's tables is bound late and only reads, so it runs on a standby and without shared memory.

-- In the order in which they are told.
CREATE FUNCTION airflow_bp.stuck_causes() RETURNS TABLE (rank int, cause text, warn interval, after interval)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 16 SET search_path = pg_catalog, pg_temp AS $$
	VALUES (1, 'executor_unknown', NULL::interval, interval '1 minute'),
		(2, 'pool_missing', NULL, '1 minute'),
		(3, 'pool_too_small', NULL, '1 minute'),
		(4, 'queued_by_dead_scheduler', NULL, '1 minute'),
		(5, 'queued_too_long', '5 minutes', '10 minutes'),
		(6, 'requeue_loop', NULL, '0'),
		(7, 'scheduled_too_long', '15 minutes', '1 hour'),
		(8, 'running_without_heartbeat', '1 minute', '5 minutes'),
		(9, 'restarting_too_long', NULL, '5 minutes'),
		(10, 'deferred_without_trigger', NULL, '1 minute'),
		(11, 'deferred_past_timeout', NULL, '1 minute'),
		(12, 'dead_triggerer', NULL, '2 minutes'),
		(13, 'retry_overdue', NULL, '10 minutes'),
		(14, 'reschedule_overdue', NULL, '10 minutes'),
		(15, 'run_stalled', NULL, '30 minutes'),
		(16, 'retries_exhausted', NULL, '0')
$$;
COMMENT ON FUNCTION airflow_bp.stuck_causes() IS
'The causes of stuck(), first those that are told first, with the ages that hold where set_stuck_threshold() has set none: stuck from after on, shown as a warning from warn on.';

CREATE FUNCTION airflow_bp.stuck_thresholds() RETURNS TABLE (cause text, scope text, name text, warn interval, after interval)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	SELECT c.cause, coalesce(t.scope, 'default'), t.name, CASE WHEN t.cause IS NULL THEN c.warn ELSE t.warn END,
		CASE WHEN t.cause IS NULL THEN c.after ELSE t.after END
	FROM airflow_bp.stuck_causes() c LEFT JOIN airflow_bp.stuck_threshold t ON t.cause = c.cause AND t.scope = 'deployment'
	UNION ALL
	SELECT t.cause, t.scope, t.name, t.warn, t.after FROM airflow_bp.stuck_threshold t WHERE t.scope <> 'deployment'
	ORDER BY 1, 2, 3
$$;
COMMENT ON FUNCTION airflow_bp.stuck_thresholds() IS
'Ages in force, one row for each cause in the whole deployment (scope deployment: set by set_stuck_threshold(); default: built in), and one for each that is set for a tenant, a pool or a queue. For a task the one of its queue holds, else of its pool, of its tenant, of the deployment. after NULL: the cause is switched off.';

CREATE FUNCTION airflow_bp.set_stuck_threshold(cause text, after interval, scope text DEFAULT 'deployment', name text DEFAULT NULL,
	warn interval DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_choice('cause', cause, VARIADIC (SELECT array_agg(c.cause) FROM airflow_bp.stuck_causes() c));
	PERFORM airflow_bp.check_choice('scope', scope, 'deployment', 'tenant', 'pool', 'queue');
	IF (scope = 'deployment') <> (name IS NULL) OR name = '' OR octet_length(name) > 1024 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = CASE WHEN scope = 'deployment' THEN 'a threshold of the deployment has no name'
			ELSE format('the name of a %s has 1 to 1024 bytes', scope) END,
			HINT = 'Give a name with scope tenant, pool or queue, and none with scope deployment.';
	ELSIF after NOT BETWEEN interval '0' AND interval '365 days' OR warn NOT BETWEEN interval '0' AND interval '365 days' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('after and warn must be between 0 and 365 days: %s, %s',
			coalesce(after::text, 'NULL'), coalesce(warn::text, 'NULL')),
			HINT = 'Give NULL for after to switch the cause off.';
	ELSIF warn > after OR (warn IS NOT NULL AND after IS NULL) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('warn must not be later than after: %s, %s', warn, coalesce(after::text, 'NULL')),
			HINT = 'A warning comes before a task is stuck; give NULL for no warning.';
	ELSIF cause IN ('requeue_loop', 'retries_exhausted') AND after > interval '0' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('%s has no age: %s', cause, after),
			HINT = 'Give 0, or NULL to switch it off.';
	END IF;
	INSERT INTO airflow_bp.stuck_threshold VALUES (cause, scope, name, after, warn)
	ON CONFLICT ON CONSTRAINT stuck_threshold_key DO UPDATE SET after = excluded.after, warn = excluded.warn;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_stuck_threshold(text, interval, text, text, interval) IS
'Sets the age from which on tasks with this cause are stuck (after; NULL: never, the cause is switched off) and from which on stuck() warns (warn; NULL: not before), in the deployment or in one tenant, pool or queue. Where a sweep of Airflow mends such tasks, they are stuck only when it should have come. requeue_loop and retries_exhausted have no age: 0 or NULL. BP001 unknown cause or scope, name missing or too many, BP002 bad interval.';

CREATE FUNCTION airflow_bp.drop_stuck_threshold(cause text, scope text DEFAULT 'deployment', name text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.stuck_threshold t WHERE t.cause = $1 AND t.scope = $2 AND t.name IS NOT DISTINCT FROM $3;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('no threshold of %s is set for %s', coalesce($1, 'NULL'),
			concat_ws(' ', coalesce($2, 'NULL'), quote_ident($3))), HINT = 'See airflow_bp.stuck_thresholds().';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_stuck_threshold(text, text, text) IS
'Drops what set_stuck_threshold() has set; what is less specific holds again. BP001 nothing is set.';

-- What Airflow mends by itself, and how old a task is at most when it does.
CREATE FUNCTION airflow_bp.airflow_sweeps() RETURNS TABLE (sweep text, timeout interval, every interval)
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- Loads the library, which defines the settings.
	PERFORM airflow_bp.preloaded();
	RETURN QUERY VALUES
		('queued', current_setting('airflow_bp.task_queued_timeout')::interval,
			current_setting('airflow_bp.task_queued_timeout_check_interval')::interval),
		('heartbeat', current_setting('airflow_bp.task_instance_heartbeat_timeout')::interval, interval '10 seconds'),
		('orphans', current_setting('airflow_bp.scheduler_health_check_threshold')::interval,
			current_setting('airflow_bp.orphaned_tasks_check_interval')::interval),
		('trigger_timeout', interval '0', interval '15 seconds'),
		('triggerer', current_setting('airflow_bp.triggerer_health_check_threshold')::interval, interval '10 seconds');
END
$$;
COMMENT ON FUNCTION airflow_bp.airflow_sweeps() IS
'Sweeps of Airflow that mend stuck tasks, by the settings airflow_bp.task_queued_timeout and others, which must say what airflow.cfg says: queued (back to scheduled, after two times failed), heartbeat (failed or up_for_retry), orphans (tasks of a dead scheduler: adopted or reset), trigger_timeout (failed), triggerer (triggers of a dead triggerer go to another). timeout: age from which a task is swept; every: time between two sweeps.';

-- What all tasks are judged by: who is alive, how large pools are, which executors are said to be unknown, what was requeued.
CREATE FUNCTION airflow_bp.stuck_surroundings(at timestamptz, OUT schedulers int[], OUT triggerers int[], OUT pools jsonb,
	OUT no_executors text[], OUT requeued uuid[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	EXECUTE format($query$
SELECT ARRAY(SELECT id FROM %1$s j WHERE job_type = 'SchedulerJob' AND state = 'running'
		AND latest_heartbeat > $1 - (SELECT w.timeout FROM airflow_bp.airflow_sweeps() w WHERE w.sweep = 'orphans')),
	ARRAY(SELECT id FROM %1$s j WHERE job_type = 'TriggererJob' AND end_date IS NULL
		AND latest_heartbeat > $1 - (SELECT w.timeout FROM airflow_bp.airflow_sweeps() w WHERE w.sweep = 'triggerer')),
	-- The pool of a team is looked at again.
	(SELECT coalesce(jsonb_object_agg(pool, CASE WHEN team_name IS NOT NULL THEN -1 WHEN slots < 0 THEN 2147483647 ELSE slots END), '{}')
		FROM %2$s p WHERE pool IS NOT NULL),
	ARRAY(SELECT DISTINCT m[1] FROM %3$s e
		CROSS JOIN LATERAL regexp_matches(stacktrace, 'specifies executor ''([^'']+)'', which is not available', 'g') m),
	ARRAY(SELECT DISTINCT t.id FROM %4$s l CROSS JOIN LATERAL (SELECT * FROM %5$s t WHERE t.dag_id = l.dag_id AND t.task_id = l.task_id
			AND t.run_id = l.run_id AND t.map_index = l.map_index OFFSET 0) t
		WHERE l.event = 'stuck in queued reschedule' AND l.dttm > $1 - interval '1 day' AND t.state IN ('scheduled', 'queued'))$query$,
		airflow_bp.airflow_relation(schema, 'job', 'id int', 'job_type text', 'state text', 'end_date timestamptz',
			'latest_heartbeat timestamptz'),
		airflow_bp.airflow_relation(schema, 'slot_pool', 'pool text', 'slots int', 'team_name text'),
		airflow_bp.airflow_relation(schema, 'import_error', 'stacktrace text'),
		airflow_bp.airflow_relation(schema, 'log', 'dag_id text', 'task_id text', 'run_id text', 'map_index int', 'event text',
			'dttm timestamptz'),
		airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'task_id text', 'run_id text', 'map_index int',
			'state text'))
	USING at INTO schedulers, triggerers, pools, no_executors, requeued;
END
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_surroundings(timestamptz) IS
'What tasks are judged by: jobs of live schedulers and triggerers, sizes of pools (-1: of a team), executors that import errors call unknown, waiting tasks that were requeued in the last day.';

-- Instants before which a task of a kind may be stuck, by the shortest age that is set anywhere.
CREATE FUNCTION airflow_bp.stuck_cutoffs(at timestamptz) RETURNS timestamptz[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT array_agg(k.cutoff ORDER BY k.n) FROM (
		SELECT m.n, coalesce(at - min(CASE WHEN m.n = 3 AND t.cause = 'executor_unknown'
			THEN greatest(least(t.warn, t.after), (SELECT w.timeout + w.every FROM airflow_bp.airflow_sweeps() w WHERE w.sweep = 'queued'))
			ELSE least(t.warn, t.after) END), '-infinity') AS cutoff
		FROM (VALUES (1, '{scheduled_too_long}'::text[]), (2, '{pool_missing,pool_too_small}'), (3, '{queued_too_long,executor_unknown}'),
			(4, '{queued_by_dead_scheduler}'), (5, '{executor_unknown}'), (6, '{running_without_heartbeat}'), (7, '{restarting_too_long}'),
			(8, '{deferred_without_trigger,dead_triggerer}'), (9, '{deferred_past_timeout}'), (10, '{retry_overdue}'),
			(11, '{reschedule_overdue}'), (12, '{run_stalled}')) m (n, causes)
		LEFT JOIN airflow_bp.stuck_thresholds() t ON t.cause = ANY (m.causes) AND t.after IS NOT NULL
		GROUP BY m.n) k
$$;
COMMENT ON FUNCTION airflow_bp.stuck_cutoffs(timestamptz) IS 'Instants before which tasks are candidates of stuck(), by kind, as stuck_suspect() takes them.';

-- The condition of a candidate, on columns of "t", that a scan of a million tasks can afford.  $1: the instant, $2: cutoffs, $3:
-- live schedulers, $4: live triggerers, $5: pools, $6: unknown executors, $7: requeued.
CREATE FUNCTION airflow_bp.stuck_suspect(airflow_schema text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
	SELECT format($condition$CASE t.state
	WHEN 'scheduled' THEN t.scheduled_dttm < ($2)[1] OR (t.scheduled_dttm < ($2)[2] AND coalesce(($5 ->> t.pool)::int < t.pool_slots, true))
		OR (t.executor IS NOT NULL AND t.executor = ANY ($6) AND t.scheduled_dttm < ($2)[5]) OR t.id = ANY ($7)
	WHEN 'queued' THEN t.queued_dttm < ($2)[3] OR (t.queued_dttm < ($2)[4] AND t.queued_by_job_id <> ALL ($3))
		OR (t.executor IS NOT NULL AND t.executor = ANY ($6) AND t.queued_dttm < ($2)[5]) OR t.id = ANY ($7)
	WHEN 'running' THEN coalesce(t.last_heartbeat_at, t.start_date, t.updated_at) < ($2)[6]
	WHEN 'restarting' THEN coalesce(t.updated_at, t.last_heartbeat_at) < ($2)[7]
	WHEN 'deferred' THEN t.trigger_timeout < ($2)[9] OR (coalesce(t.updated_at < ($2)[8], true) AND NOT EXISTS (
		SELECT FROM %s g WHERE g.id = t.trigger_id AND g.triggerer_id = ANY ($4)))
	WHEN 'up_for_retry' THEN t.end_date < ($2)[10]
	WHEN 'up_for_reschedule' THEN coalesce(t.updated_at < ($2)[11], true)
	END$condition$, airflow_bp.airflow_relation(airflow_schema, 'trigger', 'id int', 'triggerer_id int'))
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_suspect(text) IS 'Condition on "t", a task that is not finished, that is true for all that stuck() may report, and for few others.';

-- The query behind stuck().  source is a condition on "t" that says which tasks to look at, and run_source one on "r", the runs.
-- $1 to $7 as in stuck_suspect(), $8 and $9: ids of tasks and runs, for the sources.
CREATE FUNCTION airflow_bp.stuck_query(source text, failed text, run_source text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	active text := $$'running', 'queued'$$ || CASE WHEN airflow_bp.airflow_has(schema, 'dag', 'exceeds_max_non_backfill')
		THEN $$, 'deferred', 'awaiting_input'$$ ELSE '' END;
BEGIN
	RETURN format($query$
WITH candidate AS MATERIALIZED (
	SELECT * FROM %1$s t WHERE (%2$s) AND (%3$s)
	UNION ALL
	SELECT * FROM %1$s t WHERE (%4$s) AND t.state = 'failed' AND t.try_number > t.max_tries
), run AS MATERIALIZED (
	SELECT r.*, d.dag_id IS NULL OR d.is_stale AS is_stale, d.is_paused, d.max_active_tasks, m.team_name, b.is_paused AS backfill_paused,
		CASE WHEN u.scheduled THEN (SELECT count(*) FROM %1$s t WHERE t.dag_id = u.dag_id AND t.run_id = u.run_id
			AND t.state IN ('running', 'queued')) END AS run_active,
		CASE WHEN NOT (u.retries OR u.scheduled AND d.has_task_concurrency_limits) THEN NULL
			WHEN r.bundle_version <> '' AND r.created_dag_version_id IS NOT NULL THEN r.created_dag_version_id
			ELSE (SELECT v.id FROM %5$s v WHERE v.dag_id = r.dag_id ORDER BY v.version_number DESC LIMIT 1) END AS version_id
	FROM (SELECT dag_id, run_id, bool_or(state = 'up_for_retry') AS retries, bool_or(state = 'scheduled') AS scheduled
		FROM candidate GROUP BY 1, 2) u
	CROSS JOIN LATERAL (SELECT * FROM %6$s r WHERE r.dag_id = u.dag_id AND r.run_id = u.run_id OFFSET 0) r
	LEFT JOIN %7$s d ON d.dag_id = r.dag_id
	LEFT JOIN %8$s b ON b.id = r.backfill_id
	LEFT JOIN %9$s m ON m.dag_bundle_name = d.bundle_name
), document AS MATERIALIZED (
	SELECT s.dag_version_id AS version_id, airflow_bp.serialized_dag(s.data, s.data_compressed) AS dag
	FROM (SELECT DISTINCT version_id FROM run WHERE version_id IS NOT NULL) v
	JOIN %10$s s ON s.dag_version_id = v.version_id
), spec AS MATERIALIZED (
	SELECT d.version_id, t.* FROM document d CROSS JOIN LATERAL airflow_bp.serialized_tasks(d.dag) t
), pool AS MATERIALIZED (
	SELECT p.pool, p.slots AS pool_size, p.team_name AS pool_team, p.slots - coalesce(u.used, 0) AS pool_open
	FROM (SELECT *, pool IN (SELECT c.pool FROM candidate c WHERE c.state = 'scheduled') AS wanted FROM %11$s p) p
	LEFT JOIN LATERAL (SELECT sum(t.pool_slots) AS used FROM %1$s t
		WHERE p.wanted AND t.pool = p.pool AND (t.state IN ('running', 'queued') OR t.state = 'deferred' AND p.include_deferred)) u ON true
), look AS (
	SELECT DISTINCT ON (x.ti_id) x.ti_id, x.reschedule_date
	FROM candidate c JOIN %12$s x ON x.ti_id = c.id
	WHERE c.state = 'up_for_reschedule' ORDER BY x.ti_id, x.id DESC
), served AS (
	-- Whoever starts tasks of an executor knows it.
	SELECT t.executor, max(t.start_date) AS last_start FROM %1$s t
	WHERE t.state = 'running' AND EXISTS (SELECT FROM candidate c WHERE c.state = 'queued' AND c.executor IS NOT NULL)
		AND t.executor IN (SELECT c.executor FROM candidate c WHERE c.state = 'queued')
	GROUP BY 1
), sweep AS (
	SELECT max(timeout + every) FILTER (WHERE sweep = 'queued') AS queued, max(timeout + every) FILTER (WHERE sweep = 'heartbeat') AS heartbeat,
		max(timeout + every) FILTER (WHERE sweep = 'orphans') AS orphans, max(every) FILTER (WHERE sweep = 'trigger_timeout') AS trigger_timeout,
		max(timeout + every) FILTER (WHERE sweep = 'triggerer') AS triggerer FROM airflow_bp.airflow_sweeps()
), class AS MATERIALIZED (
	SELECT row_number() OVER () AS n, * FROM (SELECT DISTINCT dag_id, pool, queue FROM candidate) u
), tenant AS MATERIALIZED (
	SELECT class.*, coalesce(m.tenant, 'default') AS tenant
	FROM class LEFT JOIN airflow_bp.match_tenants((SELECT array_agg(dag_id ORDER BY n) FROM class),
		(SELECT array_agg(pool ORDER BY n) FROM class), (SELECT array_agg(queue ORDER BY n) FROM class)) m ON m.n = class.n
), threshold AS MATERIALIZED (
	-- By the rank of the cause.
	SELECT o.n, array_agg(o.warn ORDER BY o.rank) AS warn, array_agg(o.after ORDER BY o.rank) AS after FROM (
		SELECT DISTINCT ON (t.n, c.rank) t.n, c.rank, h.warn, h.after
		FROM tenant t CROSS JOIN airflow_bp.stuck_causes() c
		JOIN airflow_bp.stuck_thresholds() h ON h.cause = c.cause
			AND CASE h.scope WHEN 'queue' THEN h.name = t.queue WHEN 'pool' THEN h.name = t.pool WHEN 'tenant' THEN h.name = t.tenant ELSE true END
		ORDER BY t.n, c.rank, array_position('{queue,pool,tenant}', h.scope)) o
	GROUP BY 1
), base AS (
	SELECT c.*, threshold.warn, threshold.after, tenant.tenant, r.state AS run_state, r.last_scheduling_decision, run_active, max_active_tasks,
		-- Pausing stops tasks from starting, and no others.
		-- A DAG with an executor that its parser does not know is stale.
		c.state IN ('running', 'restarting', 'failed') OR coalesce(r.state = 'running' AND (NOT is_stale OR c.executor = ANY ($6))
			AND NOT is_paused AND r.run_after <= $1 AND NOT coalesce(backfill_paused, false) AND h.ti_id IS NULL, false) AS wanted,
		pool.pool IS NULL AS no_pool, pool_team IS NOT NULL AND pool_team <> coalesce(r.team_name, '') AS foreign_pool, pool_team, pool_size, pool_open,
		g.id IS NULL AS no_trigger, g.classpath, g.created_date AS trigger_created, g.triggerer_id, g.triggerer_id = ANY ($4) AS triggerer_alive,
		CASE WHEN tj.id IS NOT NULL THEN jsonb_build_object('job_id', tj.id, 'hostname', tj.hostname, 'state', tj.state,
			'last_heartbeat', tj.latest_heartbeat, 'ended', tj.end_date, 'alive', tj.id = ANY ($4)) END AS triggerer,
		tj.latest_heartbeat AS triggerer_heartbeat,
		CASE WHEN qj.id IS NOT NULL THEN jsonb_build_object('job_id', qj.id, 'hostname', qj.hostname, 'state', qj.state,
			'last_heartbeat', qj.latest_heartbeat, 'ended', qj.end_date, 'alive', qj.id = ANY ($3)) END AS scheduler,
		qj.latest_heartbeat AS scheduler_heartbeat, coalesce(c.queued_by_job_id = ANY ($3), false) AS scheduler_alive,
		$3 <> '{}' AS any_scheduler, spec.max_tis_per_dag, spec.max_tis_per_dagrun, busy.task_active, busy.run_task_active,
		CASE c.state WHEN 'up_for_reschedule' THEN look.reschedule_date
			WHEN 'up_for_retry' THEN c.end_date + coalesce(airflow_bp.seconds(c.retry_delay_override),
				airflow_bp.retry_delay(c.dag_id, c.task_id, r.logical_date, c.try_number, spec.retry_delay, spec.multiplier,
					spec.max_retry_delay), interval '1 day') END AS due,
		c.executor = ANY ($6) AS executor_rejected,
		c.state = 'queued' AND c.executor IS NOT NULL AND c.external_executor_id IS NULL AND c.queued_by_job_id = ANY ($3)
			AND $1 - c.queued_dttm > sweep.queued AND coalesce(served.last_start < c.queued_dttm, true)
			AND NOT EXISTS (SELECT FROM jsonb_array_elements(done.events) e WHERE (e ->> 'at')::timestamptz >= c.queued_dttm)
			-- Each sweep gives it up, and nobody ends it.
			OR c.state = 'running' AND c.executor IS NOT NULL AND done.timeouts >= 3 AS executor_silent,
		done.events, done.requeues, done.first_requeue, sweep.queued AS queued_sweep, sweep.heartbeat AS heartbeat_sweep,
		sweep.orphans AS orphan_sweep, sweep.trigger_timeout AS timeout_sweep, sweep.triggerer AS triggerer_sweep
	FROM candidate c CROSS JOIN sweep
	JOIN tenant ON tenant.dag_id = c.dag_id AND tenant.pool = c.pool AND tenant.queue IS NOT DISTINCT FROM c.queue
	JOIN threshold ON threshold.n = tenant.n
	LEFT JOIN run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
	LEFT JOIN pool ON pool.pool = c.pool
	LEFT JOIN spec ON spec.version_id = r.version_id AND spec.task_id = c.task_id
	LEFT JOIN look ON look.ti_id = c.id
	LEFT JOIN served ON served.executor = c.executor
	LEFT JOIN airflow_bp.held_entries() h ON h.ti_id = c.id AND c.state IN ('up_for_retry', 'up_for_reschedule')
	LEFT JOIN LATERAL (SELECT * FROM %13$s g WHERE g.id = c.trigger_id OFFSET 0) g ON true
	LEFT JOIN LATERAL (SELECT * FROM %14$s j WHERE j.id = g.triggerer_id OFFSET 0) tj ON true
	LEFT JOIN LATERAL (SELECT * FROM %14$s j WHERE j.id = c.queued_by_job_id OFFSET 0) qj ON true
	LEFT JOIN LATERAL (SELECT count(*) AS task_active, count(*) FILTER (WHERE t.run_id = c.run_id) AS run_task_active FROM %1$s t
		WHERE num_nonnulls(spec.max_tis_per_dag, spec.max_tis_per_dagrun) > 0 AND c.state = 'scheduled'
			AND t.dag_id = c.dag_id AND t.task_id = c.task_id AND t.state IN (%15$s)) busy ON true
	-- What Airflow's sweeps have done to this task.
	LEFT JOIN LATERAL (SELECT jsonb_agg(jsonb_build_object('at', e.dttm, 'event', e.event, 'try_number', e.try_number) ORDER BY e.dttm DESC)
			FILTER (WHERE e.place <= 5) AS events,
			count(*) FILTER (WHERE e.event = 'heartbeat timeout' AND e.try_number = c.try_number) AS timeouts,
			count(*) FILTER (WHERE e.event = 'stuck in queued reschedule' AND e.try_number = c.try_number AND e.dttm > $1 - interval '1 day') AS requeues,
			min(e.dttm) FILTER (WHERE e.event = 'stuck in queued reschedule' AND e.try_number = c.try_number AND e.dttm > $1 - interval '1 day')
				AS first_requeue
		FROM (SELECT l.*, row_number() OVER (ORDER BY l.dttm DESC) AS place FROM %16$s l
			WHERE l.dag_id = c.dag_id AND l.task_id = c.task_id AND l.run_id = c.run_id AND l.map_index = c.map_index
				AND l.event IN ('stuck in queued reschedule', 'stuck in queued tries exceeded', 'heartbeat timeout', 'state mismatch')) e) done ON true
), cause AS (
	SELECT b.*, f.*, CASE f.cause WHEN 'scheduled_too_long' THEN CASE
			WHEN NOT any_scheduler THEN 'no_scheduler'
			WHEN pool_size >= 0 AND pool_slots > pool_open THEN 'pool_full'
			WHEN run_active >= max_active_tasks THEN 'dag_max_active_tasks'
			WHEN task_active >= max_tis_per_dag OR run_task_active >= max_tis_per_dagrun THEN 'task_concurrency'
			ELSE 'executor_slots' END END AS reason
	FROM base b
	CROSS JOIN LATERAL (
		SELECT (array_agg(v.cause ORDER BY v.stuck DESC, v.rank))[1] AS cause, (array_agg(v.since ORDER BY v.stuck DESC, v.rank))[1] AS since,
			(array_agg(v.threshold ORDER BY v.stuck DESC, v.rank))[1] AS threshold, bool_or(v.stuck) AS is_stuck,
			(array_agg(v.sweep ORDER BY v.stuck DESC, v.rank))[1] AS sweep,
			(array_agg(v.cause ORDER BY v.stuck DESC, v.rank))[2:] AS others
		FROM (
			SELECT a.*, greatest(b.after[a.rank], a.sweep) AS threshold, $1 - a.since >= greatest(b.after[a.rank], a.sweep) AND a.proved AS stuck
			FROM (VALUES
				(1, 'executor_unknown', state IN ('scheduled', 'queued') AND executor_rejected OR executor_silent,
					CASE state WHEN 'scheduled' THEN scheduled_dttm WHEN 'queued' THEN queued_dttm ELSE last_heartbeat_at END, NULL::interval, true),
				(2, 'pool_missing', state = 'scheduled' AND (no_pool OR foreign_pool), scheduled_dttm, NULL, true),
				(3, 'pool_too_small', state = 'scheduled' AND pool_size >= 0 AND pool_slots > pool_size, scheduled_dttm, NULL, true),
				(4, 'queued_by_dead_scheduler', state = 'queued' AND queued_by_job_id IS NOT NULL AND NOT scheduler_alive,
					greatest(queued_dttm, scheduler_heartbeat), CASE WHEN any_scheduler THEN orphan_sweep END, true),
				(5, 'queued_too_long', state = 'queued', queued_dttm, CASE WHEN scheduler_alive THEN queued_sweep END, true),
				(6, 'requeue_loop', state IN ('scheduled', 'queued') AND requeues > 0, first_requeue, NULL, requeues > 1),
				(7, 'scheduled_too_long', state = 'scheduled', scheduled_dttm, NULL, true),
				(8, 'running_without_heartbeat', state = 'running', coalesce(last_heartbeat_at, start_date, updated_at),
					CASE WHEN scheduler_alive AND last_heartbeat_at IS NOT NULL THEN heartbeat_sweep
						WHEN any_scheduler AND queued_by_job_id IS NOT NULL AND last_heartbeat_at IS NOT NULL
							THEN greatest(orphan_sweep, heartbeat_sweep) END, true),
				(9, 'restarting_too_long', state = 'restarting', coalesce(updated_at, last_heartbeat_at),
					CASE WHEN scheduler_alive AND last_heartbeat_at IS NOT NULL THEN heartbeat_sweep END, true),
				(10, 'deferred_without_trigger', state = 'deferred' AND no_trigger, updated_at, NULL, true),
				(11, 'deferred_past_timeout', state = 'deferred' AND trigger_timeout < $1, trigger_timeout,
					CASE WHEN any_scheduler THEN timeout_sweep END, true),
				(12, 'dead_triggerer', state = 'deferred' AND NOT no_trigger AND triggerer_alive IS NOT TRUE,
					greatest(updated_at, trigger_created, triggerer_heartbeat), CASE WHEN $4 <> '{}' THEN triggerer_sweep END, true),
				(13, 'retry_overdue', state = 'up_for_retry' AND due < $1, due, NULL, true),
				(14, 'reschedule_overdue', state = 'up_for_reschedule' AND due < $1, due, NULL, true),
				(16, 'retries_exhausted', state = 'failed', coalesce(end_date, updated_at, last_heartbeat_at, start_date, $1), NULL, true)
			) a (rank, cause, applies, since, sweep, proved)
			WHERE a.applies AND b.after[a.rank] IS NOT NULL AND $1 - a.since >= least(b.warn[a.rank], b.after[a.rank])
		) v
	) f
	WHERE b.wanted AND f.cause IS NOT NULL
), task AS (
	SELECT dag_id, run_id, task_id, map_index, try_number, id AS ti_id, state, tenant, pool, queue, executor, cause,
		CASE WHEN is_stuck THEN 'stuck' ELSE 'warning' END AS severity, since, threshold,
		jsonb_strip_nulls(jsonb_build_object('run_state', run_state, 'also', nullif(to_jsonb(others), '[]'), 'log', events,
			'swept_at', since + sweep, 'scheduler', scheduler)
		|| CASE WHEN state IN ('scheduled', 'queued') THEN jsonb_build_object('scheduled_at', scheduled_dttm, 'live_schedulers', $3) ELSE '{}' END
		|| CASE WHEN cause = 'requeue_loop' THEN jsonb_build_object('requeues', requeues) ELSE '{}' END
		|| CASE WHEN cause = 'executor_unknown' THEN jsonb_build_object('found', CASE WHEN executor_rejected THEN 'an import error names it'
			WHEN state = 'running' THEN 'inferred: its heartbeat has timed out again and again, and no executor ends it'
			ELSE 'inferred: its scheduler is alive, has not swept it, and nothing of this executor has started since' END) ELSE '{}' END
		|| CASE state
			WHEN 'scheduled' THEN jsonb_build_object('reason', CASE cause WHEN 'pool_missing' THEN cause WHEN 'pool_too_small' THEN cause
					ELSE reason END, 'pool_slots', pool_slots, 'pool_size', nullif(pool_size, -1), 'pool_team', pool_team,
				'pool_open', CASE WHEN pool_size >= 0 THEN greatest(pool_open, 0) END,
				'run_active', run_active, 'max_active_tasks', max_active_tasks, 'run_looked_at', last_scheduling_decision)
			WHEN 'queued' THEN jsonb_build_object('queued_at', queued_dttm, 'external_executor_id', external_executor_id)
			WHEN 'deferred' THEN jsonb_build_object('trigger_id', trigger_id, 'classpath', classpath, 'trigger_timeout', trigger_timeout,
				'triggerer', triggerer, 'live_triggerers', $4, 'deferred_at', updated_at)
			WHEN 'up_for_retry' THEN jsonb_build_object('due', due, 'ended_at', end_date, 'max_tries', max_tries, 'run_looked_at', last_scheduling_decision)
			WHEN 'up_for_reschedule' THEN jsonb_build_object('due', due, 'run_looked_at', last_scheduling_decision)
			WHEN 'failed' THEN jsonb_build_object('ended_at', end_date, 'hostname', nullif(hostname, ''), 'max_tries', max_tries, 'retry_reason', retry_reason)
			ELSE jsonb_build_object('hostname', nullif(hostname, ''), 'pid', pid, 'last_heartbeat', last_heartbeat_at, 'started_at', start_date,
				'external_executor_id', external_executor_id) END) AS evidence
	FROM cause
), stalled AS (
	SELECT r.dag_id, r.run_id, greatest(tasks.last_change, r.start_date, r.queued_at) AS since, r.last_scheduling_decision, tasks.states
	FROM %6$s r
	JOIN %7$s d ON d.dag_id = r.dag_id AND NOT d.is_paused AND NOT d.is_stale
	LEFT JOIN %8$s b ON b.id = r.backfill_id
	LEFT JOIN LATERAL (SELECT true AS active FROM %1$s t WHERE t.dag_id = r.dag_id AND t.run_id = r.run_id
		AND t.state IN (%17$s) LIMIT 1) a ON true
	LEFT JOIN LATERAL (SELECT max(s.last_change) AS last_change, jsonb_object_agg(s.state, s.tasks) AS states, bool_or(s.held) AS held
		FROM (SELECT coalesce(t.state, 'none') AS state, count(*) AS tasks, max(greatest(t.updated_at, t.end_date)) AS last_change,
				bool_or(h.ti_id IS NOT NULL) AS held
			FROM %1$s t LEFT JOIN airflow_bp.held_entries() h ON h.ti_id = t.id
			WHERE a.active IS NULL AND t.dag_id = r.dag_id AND t.run_id = r.run_id GROUP BY 1) s) tasks ON true
	WHERE r.state = 'running' AND (%18$s) AND r.start_date < ($2)[12] AND r.run_after <= $1 AND r.last_scheduling_decision IS NOT NULL
		AND $3 <> '{}' AND b.is_paused IS NOT TRUE AND a.active IS NULL AND tasks.held IS NOT TRUE
		AND greatest(tasks.last_change, r.start_date, r.queued_at) < ($2)[12]
		-- It may wait for an earlier run, which moves.
		AND NOT EXISTS (SELECT FROM %6$s e WHERE e.dag_id = r.dag_id AND e.state IN ('queued', 'running') AND e.logical_date < r.logical_date)
), stalled_tenant AS (
	SELECT s.*, airflow_bp.tenant_of(s.dag_id) AS tenant FROM stalled s
), stalled_run AS (
	SELECT s.*, h.warn, h.after
	FROM stalled_tenant s CROSS JOIN LATERAL (
		SELECT h.warn, h.after FROM airflow_bp.stuck_thresholds() h
		WHERE h.cause = 'run_stalled' AND (h.scope IN ('deployment', 'default') OR h.scope = 'tenant' AND h.name = s.tenant)
		ORDER BY h.scope = 'tenant' DESC LIMIT 1) h
	WHERE $1 - s.since >= least(h.warn, h.after)
)
SELECT f.dag_id, f.run_id, f.task_id, f.map_index, f.try_number, f.ti_id, f.state, f.tenant, f.pool, f.queue, f.executor, f.cause, f.severity,
	f.since, $1 - f.since AS stuck_for, f.threshold, f.evidence
FROM (
	SELECT * FROM task
	UNION ALL
	SELECT dag_id, run_id, NULL, NULL, NULL, NULL, 'running', tenant, NULL, NULL, NULL, 'run_stalled',
		CASE WHEN $1 - since >= after THEN 'stuck' ELSE 'warning' END, since, after,
		jsonb_build_object('last_change', since, 'run_looked_at', last_scheduling_decision, 'tasks', coalesce(states, '{}'), 'live_schedulers', $3)
	FROM stalled_run
) f
$query$,
		airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text', 'map_index int',
			'try_number int', 'max_tries int', 'state text', 'pool text', 'pool_slots int', 'queue text', 'executor text',
			'external_executor_id text', 'scheduled_dttm timestamptz', 'queued_dttm timestamptz', 'queued_by_job_id int', 'hostname text', 'pid int',
			'start_date timestamptz', 'end_date timestamptz', 'updated_at timestamptz', 'last_heartbeat_at timestamptz', 'trigger_id int',
			'trigger_timeout timestamptz', 'retry_delay_override float8', 'retry_reason text'),
		source, airflow_bp.stuck_suspect(schema), failed,
		airflow_bp.airflow_relation(schema, 'dag_version', 'id uuid', 'dag_id text', 'version_number int'),
		airflow_bp.airflow_relation(schema, 'dag_run', 'id int', 'dag_id text', 'run_id text', 'state text', 'run_after timestamptz',
			'logical_date timestamptz', 'start_date timestamptz', 'queued_at timestamptz', 'last_scheduling_decision timestamptz', 'backfill_id int',
			'bundle_version text', 'created_dag_version_id uuid'),
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_stale bool', 'is_paused bool', 'max_active_tasks int',
			'has_task_concurrency_limits bool', 'bundle_name text'),
		airflow_bp.airflow_relation(schema, 'backfill', 'id int', 'is_paused bool'),
		airflow_bp.airflow_relation(schema, 'dag_bundle_team', 'dag_bundle_name text', 'team_name text'),
		airflow_bp.airflow_relation(schema, 'serialized_dag', 'dag_version_id uuid', 'data', 'data_compressed bytea'),
		airflow_bp.airflow_relation(schema, 'slot_pool', 'pool text', 'slots int', 'include_deferred bool', 'team_name text'),
		airflow_bp.airflow_relation(schema, 'task_reschedule', 'id int', 'ti_id uuid', 'reschedule_date timestamptz'),
		airflow_bp.airflow_relation(schema, 'trigger', 'id int', 'classpath text', 'created_date timestamptz', 'triggerer_id int'),
		airflow_bp.airflow_relation(schema, 'job', 'id int', 'hostname text', 'state text', 'latest_heartbeat timestamptz', 'end_date timestamptz'),
		active,
		airflow_bp.airflow_relation(schema, 'log', 'dag_id text', 'task_id text', 'run_id text', 'map_index int', 'try_number int', 'event text',
			'dttm timestamptz'),
		$$'scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry', 'up_for_reschedule', 'awaiting_input'$$,
		run_source);
END
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_query(text, text, text) IS 'The query behind stuck(), over the tasks and runs that its conditions name.';

-- There is no index on the time of the end: these are the ways to what has failed since.
CREATE FUNCTION airflow_bp.stuck_failures(since timestamptz, unrecorded boolean) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	failed uuid[];
BEGIN
	EXECUTE format($query$SELECT ARRAY(
		SELECT f.id FROM (
			SELECT * FROM %1$s f WHERE f.last_heartbeat_at > $1
			UNION ALL
			SELECT f.* FROM %2$s l CROSS JOIN LATERAL (SELECT * FROM %1$s f WHERE f.dag_id = l.dag_id AND f.task_id = l.task_id
				AND f.run_id = l.run_id AND f.map_index = l.map_index OFFSET 0) f
			WHERE l.event IN ('stuck in queued tries exceeded', 'heartbeat timeout', 'state mismatch') AND l.dttm > $1) f
		WHERE f.state = 'failed' AND f.try_number > f.max_tries AND NOT ($2 AND EXISTS (
			SELECT FROM airflow_bp.dead_letter a WHERE a.dag_id = f.dag_id AND a.run_id = f.run_id AND a.task_id = f.task_id
				AND a.map_index = f.map_index AND a.try_number = f.try_number AND a.ti_id = f.id))
		GROUP BY f.id LIMIT CASE WHEN $2 THEN 1000 END)$query$,
		airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text', 'map_index int',
			'try_number int', 'max_tries int', 'state text', 'last_heartbeat_at timestamptz'),
		airflow_bp.airflow_relation(schema, 'log', 'dag_id text', 'task_id text', 'run_id text', 'map_index int', 'event text',
			'dttm timestamptz')) USING since, unrecorded INTO failed;
	RETURN failed;
END
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_failures(timestamptz, boolean) IS
'Tasks that have failed for good since then: those with a heartbeat since, and those that a sweep of Airflow has failed. unrecorded: only what has no letter, 1000 at most.';

CREATE FUNCTION airflow_bp.stuck_find(ti_ids uuid[] DEFAULT NULL, run_ids int[] DEFAULT NULL) RETURNS TABLE (
	dag_id text, run_id text, task_id text, map_index int, try_number int, ti_id uuid, state text, tenant text, pool text, queue text, executor text,
	cause text, severity text, since timestamptz, stuck_for interval, threshold interval, evidence jsonb)
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $body$
DECLARE
	at timestamptz := airflow_bp.data_time();
	s record;
BEGIN
	SELECT * INTO s FROM airflow_bp.stuck_surroundings(at);
	RETURN QUERY EXECUTE airflow_bp.stuck_query(
		CASE WHEN ti_ids IS NULL
			THEN $$t.state IN ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry', 'up_for_reschedule')$$
			ELSE 't.id = ANY ($8)' END,
		't.id = ANY ($8)',
		CASE WHEN run_ids IS NULL THEN 'true' ELSE 'r.id = ANY ($9)' END)
	USING at, airflow_bp.stuck_cutoffs(at), s.schedulers, s.triggerers, s.pools, s.no_executors, s.requeued,
		coalesce(ti_ids, airflow_bp.stuck_failures(at - interval '1 hour', false)
			|| ARRAY(SELECT l.ti_id FROM airflow_bp.dead_letter l WHERE l.status = 'open' AND l.cause = 'retries_exhausted')), run_ids;
END
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_find(uuid[], int[]) IS 'What stuck() finds, of these tasks and these runs only; NULL: of all.';

CREATE FUNCTION airflow_bp.stuck() RETURNS TABLE (
	dag_id text, run_id text, task_id text, map_index int, try_number int, ti_id uuid, state text, tenant text, pool text, queue text, executor text,
	cause text, severity text, since timestamptz, stuck_for interval, threshold interval, evidence jsonb)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
	SELECT * FROM airflow_bp.stuck_find()
$$;
COMMENT ON FUNCTION airflow_bp.stuck() IS
'Tasks and runs that are stuck, one row each, with the first cause that applies; the others are in evidence->''also''. A row for a whole run has no task_id, map_index, try_number and ti_id. since: since when the cause holds; stuck_for: until now; threshold: the age from which it is stuck; severity: stuck, or warning before that, when a sweep of Airflow may still mend it (evidence->''swept_at'').
Causes: executor_unknown, pool_missing, pool_too_small, queued_by_dead_scheduler, queued_too_long, requeue_loop, scheduled_too_long,
running_without_heartbeat, restarting_too_long, deferred_without_trigger, deferred_past_timeout, dead_triggerer, retry_overdue, reschedule_overdue,
run_stalled, retries_exhausted (in the last hour, or an open letter). Tasks of DAGs that are paused or stale, of runs that do not run, and held
tasks are not stuck; what runs is. Ages: stuck_thresholds(). Raises BP006 when the tables of Airflow are not found.';

-- Letters.

CREATE FUNCTION airflow_bp.stuck_progress(OUT after_dag text, OUT after_run int, OUT runs int, OUT after_letter bigint, OUT began timestamptz,
	OUT ended timestamptz, OUT took interval)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_stuck_progress';
COMMENT ON FUNCTION airflow_bp.stuck_progress() IS
'How far stuck_sweep() has come: after which run and letter it goes on, how many runs it takes at a time, when the present pass began, when the last whole pass ended and how long it took; NULL without shared memory.';

CREATE FUNCTION airflow_bp.set_stuck_progress(after_dag text, after_run int, runs int, after_letter bigint, began timestamptz,
	ended timestamptz, took interval) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_set_stuck_progress';
COMMENT ON FUNCTION airflow_bp.set_stuck_progress(text, int, int, bigint, timestamptz, timestamptz, interval) IS
'Keeps what stuck_progress() tells, at once and for good.';

CREATE FUNCTION airflow_bp.stuck_ring(OUT ids uuid[], OUT upto bigint, OUT lost bigint)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_stuck_ring';
COMMENT ON FUNCTION airflow_bp.stuck_ring() IS 'Tasks that have failed for good since the last sweep, as the gate saw them, and how many found no place.';

CREATE FUNCTION airflow_bp.stuck_ring_done(upto bigint, lost bigint) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'airflow_bp_stuck_ring_done';
COMMENT ON FUNCTION airflow_bp.stuck_ring_done(bigint, bigint) IS 'What stuck_ring() told is written.';

-- Looks at some runs: where it ended, and the tasks and runs that may be stuck.
CREATE FUNCTION airflow_bp.stuck_look(after_dag text, after_run int, runs int, OUT seen bigint, OUT tasks bigint, OUT last_dag text, OUT last_run int,
	OUT ti_ids uuid[], OUT run_ids int[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	at timestamptz := airflow_bp.data_time();
	s record;
BEGIN
	SELECT * INTO s FROM airflow_bp.stuck_surroundings(at);
	EXECUTE format($query$
WITH look AS MATERIALIZED (
	SELECT r.id, r.dag_id, r.start_date, t.tasks, t.suspects, t.active
	FROM (SELECT * FROM %1$s r WHERE state = 'running' AND dag_id >= $8 AND (dag_id > $8 OR id > $9) ORDER BY dag_id, id LIMIT $10) r
	CROSS JOIN LATERAL (SELECT count(*) AS tasks, array_agg(t.id) FILTER (WHERE %3$s) AS suspects,
			bool_or(t.state IN ('scheduled', 'queued', 'running', 'restarting',
			'deferred', 'up_for_retry', 'up_for_reschedule', 'awaiting_input')) AS active
		FROM %2$s t WHERE t.dag_id = r.dag_id AND t.run_id = r.run_id) t
), last AS (
	SELECT * FROM look ORDER BY dag_id DESC, id DESC LIMIT 1
)
SELECT (SELECT count(*) FROM look), (SELECT sum(tasks) FROM look), (SELECT dag_id FROM last), (SELECT id FROM last),
	CASE WHEN $8 = '' THEN $7 ELSE '{}' END || ARRAY(SELECT unnest(suspects) FROM look),
	ARRAY(SELECT id FROM look WHERE active IS NOT TRUE AND start_date < ($2)[12])$query$,
		airflow_bp.airflow_relation(schema, 'dag_run', 'id int', 'dag_id text', 'run_id text', 'state text', 'start_date timestamptz'),
		airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'state text', 'pool text', 'pool_slots int',
			'executor text', 'scheduled_dttm timestamptz', 'queued_dttm timestamptz', 'queued_by_job_id int', 'start_date timestamptz',
			'end_date timestamptz', 'updated_at timestamptz', 'last_heartbeat_at timestamptz', 'trigger_id int', 'trigger_timeout timestamptz'),
		airflow_bp.stuck_suspect(schema))
	USING at, airflow_bp.stuck_cutoffs(at), s.schedulers, s.triggerers, s.pools, s.no_executors, s.requeued, after_dag, after_run, runs
	INTO seen, tasks, last_dag, last_run, ti_ids, run_ids;
END
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_look(text, int, int) IS
'Of so many running runs after one: how many they were, with how many tasks, the last one, and the tasks and runs that stuck_find() should judge.';

-- Whoever acts on a letter just then is not waited for.
CREATE FUNCTION airflow_bp.stuck_record(ti_ids uuid[], run_ids int[], pass timestamptz) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	recorded int;
	added int;
BEGIN
	WITH found AS MATERIALIZED (
		SELECT * FROM airflow_bp.stuck_find(ti_ids, run_ids) f WHERE f.severity = 'stuck'
	), letter AS MATERIALIZED (
		SELECT l.id, f.*, l.status = 'recovered' OR l.ti_id IS DISTINCT FROM f.ti_id OR l.status = 'retried' AND l.cause <> f.cause AS again
		FROM airflow_bp.dead_letter l
		JOIN found f ON f.dag_id = l.dag_id AND f.run_id = l.run_id AND f.task_id IS NOT DISTINCT FROM l.task_id
			AND f.map_index IS NOT DISTINCT FROM l.map_index AND f.try_number IS NOT DISTINCT FROM l.try_number
		WHERE l.status = 'open' AND (l.last_seen < pass OR l.cause <> f.cause) OR l.status = 'recovered' OR l.ti_id IS DISTINCT FROM f.ti_id
			OR l.status = 'retried' AND l.cause <> f.cause
		FOR UPDATE OF l SKIP LOCKED
	), again AS (
		UPDATE airflow_bp.dead_letter l SET ti_id = f.ti_id, state = f.state, tenant = f.tenant, pool = f.pool, queue = f.queue, executor = f.executor,
			cause = f.cause, evidence = f.evidence, last_seen = clock_timestamp(), times_seen = l.times_seen + f.again::int, status = 'open',
			closed_at = NULL, closed_by = NULL, why = NULL, act_id = NULL
		FROM letter f WHERE f.id = l.id
		RETURNING f.again
	), new AS (
		INSERT INTO airflow_bp.dead_letter (dag_id, run_id, task_id, map_index, try_number, ti_id, cause, evidence, state, tenant, pool, queue, executor,
			first_seen, last_seen)
		SELECT f.dag_id, f.run_id, f.task_id, f.map_index, f.try_number, f.ti_id, f.cause, f.evidence, f.state, f.tenant, f.pool, f.queue, f.executor,
			clock_timestamp(), clock_timestamp()
		FROM found f WHERE NOT EXISTS (SELECT FROM airflow_bp.dead_letter l WHERE f.dag_id = l.dag_id AND f.run_id = l.run_id
			AND f.task_id IS NOT DISTINCT FROM l.task_id AND f.map_index IS NOT DISTINCT FROM l.map_index AND f.try_number IS NOT DISTINCT FROM l.try_number)
		ON CONFLICT ON CONSTRAINT dead_letter_key DO NOTHING
		RETURNING 1
	)
	SELECT (SELECT count(*) FROM new), (SELECT count(*) FROM again WHERE again.again) INTO added, recorded;
	RETURN recorded + added;
END
$$;
COMMENT ON FUNCTION airflow_bp.stuck_record(uuid[], int[], timestamptz) IS
'Writes letters of what stuck_find() finds stuck, opens those that had recovered, and renews open ones not seen since the pass began. The number of new and opened ones.';

CREATE FUNCTION airflow_bp.stuck_close(after_letter bigint, most int, OUT last_letter bigint, OUT closed int, OUT failed uuid[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	EXECUTE format($query$
WITH open AS MATERIALIZED (
	SELECT * FROM airflow_bp.dead_letter l WHERE l.status = 'open' AND l.id > $1 ORDER BY l.id LIMIT $2
), look AS MATERIALIZED (
	SELECT l.id, l.ti_id, l.cause, CASE
		WHEN r.id IS NULL THEN 'the run was deleted'
		WHEN l.task_id IS NULL THEN 'the run is ' || nullif(r.state, 'running')
		WHEN t.id IS NULL THEN 'the task was deleted'
		WHEN t.id <> l.ti_id THEN 'the task has a new id, cleared or reset by the sweep for orphans; it is ' || coalesce(t.state, 'none')
		WHEN t.try_number <> l.try_number THEN format('try %%s, %%s', t.try_number, coalesce(t.state, 'none'))
		WHEN t.state = 'failed' AND l.state <> 'failed' AND t.try_number > t.max_tries THEN NULL
		WHEN t.state IS DISTINCT FROM l.state THEN 'the task is ' || coalesce(t.state, 'none') END AS moved,
		t.state = 'failed' AND t.id = l.ti_id AND t.try_number = l.try_number AS failed, e.events
	FROM open l
	LEFT JOIN LATERAL (SELECT * FROM %1$s t WHERE t.dag_id = l.dag_id AND t.run_id = l.run_id AND t.task_id = l.task_id
		AND t.map_index = l.map_index OFFSET 0) t ON true
	LEFT JOIN LATERAL (SELECT * FROM %2$s r WHERE r.dag_id = l.dag_id AND r.run_id = l.run_id OFFSET 0) r ON true
	LEFT JOIN LATERAL (SELECT jsonb_agg(jsonb_build_object('at', g.dttm, 'event', g.event, 'try_number', g.try_number) ORDER BY g.dttm DESC) AS events
		FROM (SELECT * FROM %3$s g WHERE t.state IS DISTINCT FROM l.state AND g.dag_id = l.dag_id AND g.task_id = l.task_id AND g.run_id = l.run_id
			AND g.map_index = l.map_index AND g.dttm > l.first_seen - interval '1 day'
			AND g.event IN ('stuck in queued reschedule', 'stuck in queued tries exceeded', 'heartbeat timeout', 'state mismatch')
			ORDER BY g.dttm DESC LIMIT 5) g) e ON true
), mine AS MATERIALIZED (
	SELECT l.id FROM airflow_bp.dead_letter l WHERE l.id IN (SELECT k.id FROM look k WHERE k.moved IS NOT NULL) AND l.status = 'open'
	FOR UPDATE SKIP LOCKED
), done AS (
	UPDATE airflow_bp.dead_letter l SET status = CASE WHEN k.failed THEN 'failed' ELSE 'recovered' END, closed_at = clock_timestamp(),
		closed_by = 'airflow', why = concat_ws(': ', k.events #>> '{0,event}', k.moved),
		evidence = l.evidence || CASE WHEN k.events IS NULL THEN '{}' ELSE jsonb_build_object('log', k.events) END
	FROM look k JOIN mine ON mine.id = k.id WHERE l.id = k.id
	RETURNING 1
)
SELECT (SELECT max(id) FROM open HAVING count(*) = $2), (SELECT count(*) FROM done),
	ARRAY(SELECT ti_id FROM look WHERE moved IS NULL AND failed AND cause <> 'retries_exhausted')$query$,
		airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text', 'map_index int',
			'try_number int', 'max_tries int', 'state text'),
		airflow_bp.airflow_relation(schema, 'dag_run', 'id int', 'dag_id text', 'run_id text', 'state text'),
		airflow_bp.airflow_relation(schema, 'log', 'dag_id text', 'task_id text', 'run_id text', 'map_index int', 'try_number int', 'event text',
			'dttm timestamptz'))
	USING after_letter, most INTO last_letter, closed, failed;
END
$body$;
COMMENT ON FUNCTION airflow_bp.stuck_close(bigint, int) IS
'Closes letters whose tasks have moved on, of so many open ones after one: recovered, or failed where a try with retries left was ended. last_letter NULL: there are no more. failed: tasks that have failed for good since.';

CREATE FUNCTION airflow_bp.stuck_end(pass timestamptz) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	unseen bigint[];
	closed int;
BEGIN
	-- A failed task stays what it is.
	unseen := ARRAY(SELECT l.id FROM airflow_bp.dead_letter l WHERE l.status = 'open' AND l.last_seen < pass AND l.cause <> 'retries_exhausted'
		AND l.cause IN (SELECT c.cause FROM airflow_bp.stuck_causes() c) ORDER BY l.id LIMIT 1000);
	IF unseen = '{}' THEN
		RETURN 0;
	END IF;
	-- Tasks of runs that do not run are in no slice.
	PERFORM airflow_bp.stuck_record(ARRAY(SELECT l.ti_id FROM airflow_bp.dead_letter l WHERE l.id = ANY (unseen) AND l.ti_id IS NOT NULL), '{}', pass);
	UPDATE airflow_bp.dead_letter l SET status = 'recovered', closed_at = clock_timestamp(), closed_by = 'airflow', why = 'no longer stuck'
	WHERE l.id IN (SELECT m.id FROM airflow_bp.dead_letter m WHERE m.id = ANY (unseen) AND m.status = 'open' AND m.last_seen < pass FOR UPDATE SKIP LOCKED);
	GET DIAGNOSTICS closed = ROW_COUNT;
	RETURN closed;
END
$$;
COMMENT ON FUNCTION airflow_bp.stuck_end(timestamptz) IS 'Closes letters of what a pass that began then has not found stuck; the number of them.';

-- A pass looks at all running runs, some in each turn, as many as a turn can afford.
CREATE FUNCTION airflow_bp.stuck_sweep() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	budget CONSTANT float8 := 0.008;
	most CONSTANT int := 1000;
	few CONSTANT int := 50;
	start timestamptz := clock_timestamp();
	p record;
	letters record;
	ring record;
	look record;
	runs int;
	failed uuid[];
	changed int;
BEGIN
	IF pg_is_in_recovery() THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = 'a standby records nothing', HINT = 'Ask airflow_bp.stuck() there.';
	END IF;
	SELECT * INTO p FROM airflow_bp.stuck_progress();
	p.began := coalesce(p.began, start);
	SELECT * INTO letters FROM airflow_bp.stuck_close(coalesce(p.after_letter, 0), most);
	changed := letters.closed;
	-- Their runs end at once, so no look at running runs meets them.
	SELECT * INTO ring FROM airflow_bp.stuck_ring();
	failed := ring.ids || letters.failed;
	IF p.after_dag IS NULL AND (ring.lost > 0 OR p.ended IS NULL) THEN
		-- A rare look at those of whom nobody has told us.
		failed := failed || airflow_bp.stuck_failures(start - interval '1 hour', true);
		ring.lost := CASE WHEN cardinality(failed) < most THEN ring.lost ELSE 0 END;
	ELSE
		ring.lost := 0;
	END IF;
	runs := coalesce(p.runs, 2147483647);
	start := clock_timestamp();
	-- If what follows fails, it is tried with fewer.
	PERFORM airflow_bp.set_stuck_progress(p.after_dag, p.after_run, greatest(runs / 4, 1), letters.last_letter, p.began, p.ended, p.took);
	SELECT * INTO look FROM airflow_bp.stuck_look(coalesce(p.after_dag, ''), coalesce(p.after_run, 0), runs);
	-- A slow look at few tasks is that of a busy machine, and fewer runs would not make it faster.
	p.runs := CASE WHEN p.runs > 0 THEN least(greatest(p.runs * least(greatest(budget / extract(epoch FROM clock_timestamp() - start), 0.25), 2),
		CASE WHEN look.tasks < 100 * few THEN few ELSE 1 END), 100000) END;
	IF cardinality(look.ti_ids) > most AND runs > 1 AND p.runs IS NOT NULL THEN
		-- So many would take too long: fewer at a time, and none is left out.
		RETURN changed;
	END IF;
	IF look.ti_ids || failed <> '{}' OR look.run_ids <> '{}' THEN
		changed := changed + airflow_bp.stuck_record(look.ti_ids || failed, look.run_ids, p.began);
	END IF;
	PERFORM airflow_bp.stuck_ring_done(ring.upto, ring.lost);
	IF look.seen < runs THEN
		changed := changed + airflow_bp.stuck_end(p.began);
		PERFORM airflow_bp.set_stuck_progress(NULL, NULL, p.runs, letters.last_letter, NULL, clock_timestamp(), clock_timestamp() - p.began);
	ELSE
		PERFORM airflow_bp.set_stuck_progress(look.last_dag, look.last_run, p.runs, letters.last_letter, p.began, p.ended, p.took);
	END IF;
	RETURN changed;
END
$$;
COMMENT ON FUNCTION airflow_bp.stuck_sweep() IS
'Writes what is stuck to dead_letter: the part of a pass over all running runs that a turn can afford, so that a whole pass takes two to three minutes at a million unfinished tasks; without shared memory a whole pass. Only findings of severity stuck; letters of tasks that have moved again, or are no longer stuck, become recovered. Never touches a row of Airflow, and waits for nobody. The worker calls it in each turn of a pass, which begins 10 s to a minute after the last one or when a task fails for good, while our triggers are there, in any mode. The number of letters opened or closed. BP005 on a standby.';

CREATE FUNCTION airflow_bp.sweeps() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_object_agg(w.sweep, jsonb_build_object('airflow_from', w.timeout, 'airflow_every', w.every,
			'warned_from', least(t.warn, t.after), 'recorded_from', greatest(t.after, w.timeout + w.every)))
		|| jsonb_build_object('stuck', (SELECT jsonb_build_object('last_pass', p.ended, 'took', p.took) FROM airflow_bp.stuck_progress() p))
	FROM airflow_bp.airflow_sweeps() w
	JOIN (VALUES ('queued', 'queued_too_long'), ('heartbeat', 'running_without_heartbeat'), ('orphans', 'queued_by_dead_scheduler'),
		('trigger_timeout', 'deferred_past_timeout'), ('triggerer', 'dead_triggerer')) m (sweep, cause) ON m.sweep = w.sweep
	JOIN airflow_bp.stuck_thresholds() t ON t.cause = m.cause AND t.scope IN ('default', 'deployment')
$$;
COMMENT ON FUNCTION airflow_bp.sweeps() IS
'For status(): at which age each sweep of Airflow mends a task and how often it comes, from which age stuck() warns of such a task, and from which it is a letter; both NULL when the cause is switched off. stuck: when our last whole pass ended, and how long it took.';
