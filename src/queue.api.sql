-- Queue analysis: how deep, how old, how fast, and why each task waits.
--
-- Functions that read Airflow's tables are SECURITY DEFINER: a reader needs no right on Airflow's tables, keeps working after a
-- migration that makes a table anew, and sees no connection, configuration or payload.  They only read, so they run on a standby.

CREATE FUNCTION airflow_bp.inflate(compressed bytea) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serialized_inflate';
COMMENT ON FUNCTION airflow_bp.inflate(bytea) IS 'Text that was compressed with zlib, as in serialized_dag.data_compressed. BP008 when it is damaged.';

CREATE FUNCTION airflow_bp.retry_delay(dag_id text, task_id text, logical_date timestamptz, try_number int,
	delay float8, multiplier float8, max_delay float8) RETURNS interval
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serialized_retry_delay';
COMMENT ON FUNCTION airflow_bp.retry_delay(text, text, timestamptz, int, float8, float8, float8) IS
'Time between the end of a failed try and the next one, as Airflow computes it: delay and max_delay in seconds; a multiplier of 0, 1 or NULL means no backoff. Assumes [core] max_task_retry_delay = 86400.';

CREATE FUNCTION airflow_bp.serialized_dag(data anyelement, compressed bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN coalesce(airflow_bp.inflate(compressed)::jsonb, data::jsonb);
EXCEPTION WHEN OTHERS THEN
	-- One DAG that cannot be read must not hide the others.
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION airflow_bp.serialized_dag(anyelement, bytea) IS 'A serialized DAG, plain or compressed; NULL when it cannot be read.';

CREATE FUNCTION airflow_bp.serialized_number(value jsonb) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(coalesce(value -> '__var', value)) WHEN 'number' THEN coalesce(value -> '__var', value)::float8 END;
COMMENT ON FUNCTION airflow_bp.serialized_number(jsonb) IS 'A number in a serialized DAG, also of seconds with their type.';

CREATE FUNCTION airflow_bp.serialized_tasks(dag jsonb) RETURNS TABLE (
	task_id text, retry_delay float8, multiplier float8, max_retry_delay float8, max_tis_per_dag int, max_tis_per_dagrun int)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
BEGIN ATOMIC
	SELECT t.v ->> 'task_id', coalesce(airflow_bp.serialized_number(t.v -> 'retry_delay'), 300),
		CASE t.v -> 'retry_exponential_backoff' WHEN 'true' THEN 2
			ELSE airflow_bp.serialized_number(t.v -> 'retry_exponential_backoff') END,
		airflow_bp.serialized_number(t.v -> 'max_retry_delay'),
		CASE WHEN n.dag BETWEEN -2147483648 AND 2147483647 THEN n.dag::int END,
		CASE WHEN n.run BETWEEN -2147483648 AND 2147483647 THEN n.run::int END
	FROM (
		SELECT coalesce(dag #> '{client_defaults,tasks}', '{}') || (e -> '__var') || coalesce(e #> '{__var,partial_kwargs}', '{}')
		FROM jsonb_array_elements(dag #> '{dag,tasks}') e OFFSET 0
	) t (v) CROSS JOIN LATERAL (VALUES (airflow_bp.serialized_number(t.v -> 'max_active_tis_per_dag'),
		airflow_bp.serialized_number(t.v -> 'max_active_tis_per_dagrun'))) n (dag, run);
END;
COMMENT ON FUNCTION airflow_bp.serialized_tasks(jsonb) IS
'Limits and retry settings of the tasks in a serialized DAG; delays in seconds.';

-- The query behind waiting() and waiting_summary(), to which they append what they select from "explained".  One scan of the
-- unfinished tasks; everything else is joined to it.  $1 is the instant of the data.  Statistics of these tables are often stale,
-- as tasks come in floods, so its callers leave the planner hash joins only, which are never far from the best.
CREATE FUNCTION airflow_bp.waiting_query(with_tenants boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	-- Versions are told by columns they brought, as a migration changes both together.
	since_3_2 bool := airflow_bp.airflow_has(schema, 'dag', 'exceeds_max_non_backfill');
	since_3_3 bool := airflow_bp.airflow_has(schema, 'task_instance', 'retry_delay_override');
BEGIN
	RETURN format($query$
WITH unfinished AS MATERIALIZED (
	SELECT * FROM %1$s t
	WHERE state IS NULL OR state IN ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry',
		'up_for_reschedule', 'awaiting_input')
), scheduler AS (
	SELECT NOT %14$L OR coalesce(bool_or(state = 'running' AND latest_heartbeat > $1 - interval '30 seconds'), false) AS alive,
		max(latest_heartbeat) AS last_heartbeat
	FROM %2$s j WHERE job_type = 'SchedulerJob'
), running AS (
	SELECT dag_id, backfill_id, count(*) AS runs FROM %3$s r WHERE state = 'running' GROUP BY 1, 2
), run AS MATERIALIZED (
	SELECT r.dag_id, r.run_id, r.state AS run_state, r.run_after, r.logical_date, r.last_scheduling_decision,
		d.dag_id IS NULL OR d.is_stale AS is_stale, d.is_paused, d.max_active_tasks, u.executing AS run_active, m.team_name,
		coalesce(running.runs, 0) AS running_runs, coalesce(b.max_active_runs, d.max_active_runs) AS max_active_runs,
		b.is_paused AS backfill_paused,
		CASE WHEN NOT (u.retries > 0 OR d.has_task_concurrency_limits) THEN NULL
			WHEN r.bundle_version <> '' AND r.created_dag_version_id IS NOT NULL THEN r.created_dag_version_id
			ELSE (SELECT v.id FROM %4$s v WHERE v.dag_id = r.dag_id ORDER BY v.version_number DESC LIMIT 1) END AS version_id
	FROM (SELECT dag_id, run_id, count(*) FILTER (WHERE state IN ('running', 'queued')) AS executing,
			count(*) FILTER (WHERE state = 'up_for_retry') AS retries
		FROM unfinished GROUP BY 1, 2) u
	CROSS JOIN LATERAL (SELECT * FROM %3$s r WHERE r.dag_id = u.dag_id AND r.run_id = u.run_id OFFSET 0) r
	LEFT JOIN %5$s d ON d.dag_id = r.dag_id
	LEFT JOIN %6$s b ON b.id = r.backfill_id
	LEFT JOIN %7$s m ON m.dag_bundle_name = d.bundle_name
	LEFT JOIN running ON r.state = 'queued' AND running.dag_id = r.dag_id
		AND running.backfill_id IS NOT DISTINCT FROM r.backfill_id
), document AS MATERIALIZED (
	SELECT s.dag_version_id AS version_id, airflow_bp.serialized_dag(s.data, s.data_compressed) AS dag
	FROM (SELECT DISTINCT version_id FROM run WHERE version_id IS NOT NULL) v
	JOIN %8$s s ON s.dag_version_id = v.version_id
), spec AS MATERIALIZED (
	SELECT d.version_id, t.* FROM document d CROSS JOIN LATERAL airflow_bp.serialized_tasks(d.dag) t
), run_task AS MATERIALIZED (
	SELECT dag_id, run_id, task_id, count(*) AS active FROM unfinished WHERE state IN (%9$s) GROUP BY 1, 2, 3
), task AS (
	SELECT dag_id, task_id, sum(active) AS active FROM run_task GROUP BY 1, 2
), pool AS (
	SELECT p.pool, p.slots AS pool_size, p.team_name AS pool_team, p.slots - coalesce(u.executing, 0)
		- CASE WHEN p.include_deferred THEN coalesce(u.deferred, 0) ELSE 0 END AS pool_open
	FROM %10$s p
	LEFT JOIN (SELECT pool, sum(pool_slots) FILTER (WHERE state IN ('running', 'queued')) AS executing,
			sum(pool_slots) FILTER (WHERE state = 'deferred') AS deferred
		FROM unfinished GROUP BY 1) u ON u.pool = p.pool
), class AS MATERIALIZED (
	SELECT row_number() OVER () AS n, * FROM (SELECT DISTINCT dag_id, pool, queue FROM unfinished WHERE %15$L) u
), tenant AS (
	SELECT class.*, coalesce(m.tenant, 'default') AS tenant
	FROM class LEFT JOIN airflow_bp.match_tenants((SELECT array_agg(dag_id ORDER BY n) FROM class),
		(SELECT array_agg(pool ORDER BY n) FROM class), (SELECT array_agg(queue ORDER BY n) FROM class)) m ON m.n = class.n
), look AS (
	SELECT DISTINCT ON (x.ti_id) x.ti_id, x.end_date AS look_ended, x.reschedule_date
	FROM unfinished u JOIN %11$s x ON x.ti_id = u.id
	WHERE u.state = 'up_for_reschedule' ORDER BY x.ti_id, x.id DESC
), base AS (
	SELECT u.*, tenant.tenant, run_state, run_after, last_scheduling_decision, is_stale, is_paused, max_active_tasks, run_active,
		running_runs, max_active_runs, backfill_paused, pool.pool IS NULL AS pool_missing, pool_size, pool_open,
		%13$L AND pool_team <> coalesce(team_name, '') AS foreign_pool, pool_team,
		trigger.id IS NULL AS trigger_missing, trigger.created_date AS trigger_created, trigger.triggerer_id,
		spec.max_tis_per_dag, coalesce(task.active, 0) AS task_active,
		spec.max_tis_per_dagrun, coalesce(run_task.active, 0) AS run_task_active, look_ended,
		CASE u.state WHEN 'up_for_reschedule' THEN reschedule_date
			WHEN 'up_for_retry' THEN u.end_date + coalesce(airflow_bp.seconds(u.retry_delay_override),
				airflow_bp.retry_delay(u.dag_id, u.task_id, run.logical_date, u.try_number, spec.retry_delay, spec.multiplier,
					spec.max_retry_delay)) END AS due,
		held.reason AS held_reason, held.granted, held.first_asked, held.asks, held.run_parked
	FROM unfinished u
	JOIN run ON run.dag_id = u.dag_id AND run.run_id = u.run_id
	LEFT JOIN tenant ON tenant.dag_id = u.dag_id AND tenant.pool = u.pool AND tenant.queue IS NOT DISTINCT FROM u.queue
	LEFT JOIN pool ON pool.pool = u.pool
	LEFT JOIN %12$s trigger ON trigger.id = u.trigger_id
	LEFT JOIN spec ON spec.version_id = run.version_id AND spec.task_id = u.task_id
	LEFT JOIN task ON task.dag_id = u.dag_id AND task.task_id = u.task_id
	LEFT JOIN run_task ON run_task.dag_id = u.dag_id AND run_task.run_id = u.run_id AND run_task.task_id = u.task_id
	LEFT JOIN look ON look.ti_id = u.id
	LEFT JOIN airflow_bp.held_entries() held ON held.ti_id = u.id
		AND (u.state IS NULL OR u.state IN ('up_for_retry', 'up_for_reschedule'))
	WHERE u.state IS NULL OR u.state NOT IN ('running', 'restarting')
), dated AS (
	SELECT *,
		CASE WHEN state IN ('scheduled', 'queued') THEN scheduled_dttm ELSE coalesce(due, first_asked) END AS claimable_since,
		CASE state WHEN 'scheduled' THEN scheduled_dttm WHEN 'queued' THEN queued_dttm WHEN 'up_for_retry' THEN end_date
			WHEN 'up_for_reschedule' THEN look_ended ELSE coalesce(first_asked, trigger_created, updated_at) END AS waiting_since
	FROM base
), explained AS (
	SELECT *, CASE
		WHEN run_state IN ('success', 'failed') THEN 'run_finished'
		WHEN is_stale THEN 'dag_stale'
		WHEN is_paused THEN 'dag_paused'
		WHEN run_after > $1 THEN 'run_in_future'
		WHEN run_state = 'queued' THEN 'run_queued'
		WHEN NOT (SELECT alive FROM scheduler) THEN 'no_scheduler'
		WHEN state = 'up_for_retry' AND coalesce(due, 'infinity') >= $1 THEN 'retry_delay'
		WHEN state = 'up_for_reschedule' AND due > $1 THEN 'reschedule_delay'
		WHEN state = 'deferred' AND trigger_missing THEN 'trigger_missing'
		WHEN state = 'deferred' THEN 'trigger_pending'
		WHEN state = 'awaiting_input' THEN 'awaiting_input'
		WHEN state = 'queued' THEN 'executor_queue'
		WHEN pool_missing OR foreign_pool THEN 'pool_missing'
		WHEN pool_size >= 0 AND pool_slots > pool_size THEN 'pool_too_small'
		WHEN NOT granted THEN held_reason
		WHEN state IS NULL AND granted IS NULL THEN 'upstream_unfinished'
		WHEN pool_size >= 0 AND pool_slots > pool_open THEN 'pool_full'
		WHEN run_active >= max_active_tasks THEN 'dag_max_active_tasks'
		WHEN task_active >= max_tis_per_dag OR run_task_active >= max_tis_per_dagrun THEN 'task_concurrency'
		WHEN claimable_since < $1 - current_setting('airflow_bp.ready_grace')::interval THEN 'executor_slots'
		ELSE 'ready' END AS reason
	FROM dated OFFSET 0
)
$query$,
		airflow_bp.airflow_relation(schema, 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text',
			'map_index int', 'try_number int', 'state text', 'pool text', 'pool_slots int', 'queue text', 'executor text',
			'scheduled_dttm timestamptz', 'queued_dttm timestamptz', 'end_date timestamptz', 'updated_at timestamptz',
			'trigger_id int', 'trigger_timeout timestamptz', 'retry_delay_override float8'),
		airflow_bp.airflow_relation(schema, 'job', 'job_type text', 'state text', 'latest_heartbeat timestamptz'),
		airflow_bp.airflow_relation(schema, 'dag_run', 'dag_id text', 'run_id text', 'state text', 'run_after timestamptz',
			'logical_date timestamptz', 'last_scheduling_decision timestamptz', 'backfill_id int', 'bundle_version text',
			'created_dag_version_id uuid'),
		airflow_bp.airflow_relation(schema, 'dag_version', 'id uuid', 'dag_id text', 'version_number int'),
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_stale bool', 'is_paused bool', 'max_active_tasks int',
			'max_active_runs int', 'has_task_concurrency_limits bool', 'bundle_name text'),
		airflow_bp.airflow_relation(schema, 'backfill', 'id int', 'is_paused bool', 'max_active_runs int'),
		airflow_bp.airflow_relation(schema, 'dag_bundle_team', 'dag_bundle_name text', 'team_name text'),
		airflow_bp.airflow_relation(schema, 'serialized_dag', 'dag_version_id uuid', 'data', 'data_compressed bytea'),
		$$'running', 'queued'$$ || CASE WHEN since_3_2 THEN $$, 'deferred', 'awaiting_input'$$ ELSE '' END,
		airflow_bp.airflow_relation(schema, 'slot_pool', 'pool text', 'slots int', 'include_deferred bool', 'team_name text'),
		airflow_bp.airflow_relation(schema, 'task_reschedule', 'id int', 'ti_id uuid', 'end_date timestamptz',
			'reschedule_date timestamptz'),
		airflow_bp.airflow_relation(schema, 'trigger', 'id int', 'created_date timestamptz', 'triggerer_id int'),
		since_3_3, airflow_bp.airflow_has(schema, 'job', 'latest_heartbeat'), with_tenants);
END
$body$;
COMMENT ON FUNCTION airflow_bp.waiting_query(boolean) IS 'The query behind waiting() and waiting_summary(), which append what they select from "explained".';

CREATE FUNCTION airflow_bp.waiting() RETURNS TABLE (
	dag_id text, run_id text, task_id text, map_index int, try_number int, tenant text, pool text, queue text, state text,
	reason text, detail text, waiting_since timestamptz, claimable_age interval)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10000 SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	RETURN QUERY EXECUTE airflow_bp.waiting_query(true) || $query$
SELECT dag_id, run_id, task_id, map_index, try_number, tenant, pool, queue, state, reason,
	CASE reason
	WHEN 'run_finished' THEN 'the run is ' || run_state
	WHEN 'dag_stale' THEN 'the DAG is no longer found in its file'
	WHEN 'dag_paused' THEN CASE WHEN state = 'queued' THEN 'the executor has it already' END
	WHEN 'run_in_future' THEN 'from ' || date_trunc('second', run_after)
	WHEN 'run_queued' THEN CASE WHEN backfill_paused THEN 'the backfill is paused'
		ELSE format('%s of max_active_runs %s are running', running_runs, max_active_runs) END
	WHEN 'no_scheduler' THEN coalesce('last heartbeat ' || date_trunc('second', (SELECT last_heartbeat FROM scheduler)), 'never seen one')
	WHEN 'retry_delay' THEN coalesce('until ' || date_trunc('second', due), 'date unknown: not found in the serialized DAG')
	WHEN 'reschedule_delay' THEN 'until ' || date_trunc('second', due)
	WHEN 'trigger_pending' THEN coalesce('triggerer ' || triggerer_id, 'no triggerer has it')
		|| coalesce(', timeout ' || date_trunc('second', trigger_timeout), '')
	WHEN 'executor_queue' THEN 'executor ' || coalesce(executor, '(default)')
	WHEN 'pool_missing' THEN CASE WHEN foreign_pool THEN format('pool %s belongs to team %s', pool, pool_team)
		ELSE format('there is no pool %s', pool) END
	WHEN 'pool_too_small' THEN format('needs %s slots, pool %s has %s', pool_slots, pool, pool_size)
	WHEN 'upstream_unfinished' THEN CASE WHEN last_scheduling_decision IS NULL THEN 'the scheduler has not looked at the run yet' END
	WHEN 'pool_full' THEN format('needs %s slots, pool %s has %s of %s open', pool_slots, pool, greatest(pool_open, 0), pool_size)
	WHEN 'dag_max_active_tasks' THEN format('%s of max_active_tasks %s are active in this run', run_active, max_active_tasks)
	WHEN 'task_concurrency' THEN CASE WHEN task_active >= max_tis_per_dag
		THEN format('%s of max_active_tis_per_dag %s are active', task_active, max_tis_per_dag)
		ELSE format('%s of max_active_tis_per_dagrun %s are active', run_task_active, max_tis_per_dagrun) END
	WHEN held_reason THEN format('asks: %s', asks) || CASE WHEN run_parked THEN ', run parked' ELSE '' END
	WHEN 'executor_slots' THEN CASE WHEN state = 'scheduled'
		THEN 'nothing known is in its way: executor slots or parallelism, which are not in the database'
		ELSE 'nothing known is in its way: the scheduler has not come to its run' END
	ELSE CASE WHEN granted THEN 'granted: may pass when the scheduler asks again' END END,
	waiting_since,
	CASE WHEN reason NOT IN ('run_finished', 'dag_stale', 'dag_paused', 'run_in_future', 'run_queued', 'retry_delay',
		'reschedule_delay') THEN greatest($1, claimable_since) - claimable_since END
FROM explained$query$
	USING airflow_bp.data_time();
END
$$;
COMMENT ON FUNCTION airflow_bp.waiting() IS
'One row for each unfinished task that is not running or restarting, with the first reason that applies. waiting_since: since when it is in its state, or held. claimable_age: time since it became able to start, without retry, reschedule and deferral delays; NULL when it is not able to start. What the database does not tell is NULL. Raises BP006 when the tables of Airflow are not found.';

CREATE FUNCTION airflow_bp.waiting_summary() RETURNS TABLE (reason text, tasks bigint, slots bigint, oldest interval, example text)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 30 SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	RETURN QUERY EXECUTE airflow_bp.waiting_query(false) || $query$
SELECT g.reason, g.tasks, g.slots, g.oldest,
	format('%s %s %s', u.dag_id, u.run_id, u.task_id) || CASE WHEN u.map_index >= 0 THEN format(' [%s]', u.map_index) ELSE '' END
FROM (SELECT reason, count(*) AS tasks, sum(pool_slots) AS slots, greatest($1, min(waiting_since)) - min(waiting_since) AS oldest,
		(array_agg(id ORDER BY waiting_since))[1] AS example
	FROM explained GROUP BY reason) g
LEFT JOIN unfinished u ON u.id = g.example
ORDER BY g.tasks DESC, g.reason$query$
	USING airflow_bp.data_time();
END
$$;
COMMENT ON FUNCTION airflow_bp.waiting_summary() IS
'The tasks of waiting() by reason, most first: how many, how many slots they need, how long the oldest waits, and which one that is.';

-- What one scope counts: tasks by state, slots, the instant since when the oldest is able to start, and transitions per minute
-- as {arrivals, starts, finishes}, over 1, 5 and 15 minutes.
CREATE TYPE airflow_bp.queue_count AS (
	scope_name text, "none" bigint, scheduled bigint, queued bigint, running bigint, deferred bigint, up_for_retry bigint,
	up_for_reschedule bigint, slots_executing bigint, slots_charged bigint, slots_deferred bigint, held bigint,
	slots_held bigint, oldest timestamptz, rates_1 float8[], rates_5 float8[], rates_15 float8[]);
COMMENT ON TYPE airflow_bp.queue_count IS 'What queue_counts() counts of one name: tasks by state, slots, the instant since when the oldest is able to start, and transitions per minute {arrivals, starts, finishes}, over 1, 5 and 15 minutes.';

CREATE FUNCTION airflow_bp.queue_from_memory(scope text, blocked_dags text[]) RETURNS SETOF airflow_bp.queue_count
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'queue_from_memory';
COMMENT ON FUNCTION airflow_bp.queue_from_memory(text, text[]) IS
'Counts of a scope from shared memory; no rows when the counters there cannot answer. Tasks of blocked DAGs are not able to start.';

CREATE FUNCTION airflow_bp.entry_rates(OUT admissions_per_min float8, OUT queued_per_min float8)
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'entry_rates';
COMMENT ON FUNCTION airflow_bp.entry_rates() IS
'Tasks that entered scheduled and queued, per minute, in the last minute or two, from shared memory; NULL when the counters there cannot answer.';

CREATE FUNCTION airflow_bp.queue_from_tables(scope text, blocked_dags text[]) RETURNS SETOF airflow_bp.queue_count
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $body$
BEGIN
	RETURN QUERY EXECUTE format($query$
WITH t AS MATERIALIZED (
	SELECT * FROM %1$s t
	WHERE state IS NULL OR state IN ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry',
		'up_for_reschedule', 'awaiting_input')
), class AS MATERIALIZED (
	SELECT row_number() OVER () AS n, * FROM (SELECT DISTINCT dag_id, pool, queue FROM t WHERE $1 = 'tenant') d
), n AS (
	SELECT class.*, coalesce(m.tenant, 'default') AS tenant
	FROM class LEFT JOIN airflow_bp.match_tenants((SELECT array_agg(dag_id ORDER BY n) FROM class),
		(SELECT array_agg(pool ORDER BY n) FROM class), (SELECT array_agg(queue ORDER BY n) FROM class)) m ON m.n = class.n
)
SELECT CASE $1 WHEN 'pool' THEN t.pool WHEN 'queue' THEN coalesce(t.queue, '(default)')
		WHEN 'executor' THEN coalesce(t.executor, '(default)') WHEN 'tenant' THEN n.tenant WHEN 'dag' THEN t.dag_id
		WHEN 'state' THEN coalesce(t.state, 'none') ELSE $1 END,
	count(*) FILTER (WHERE t.state IS NULL), count(*) FILTER (WHERE t.state = 'scheduled'),
	count(*) FILTER (WHERE t.state = 'queued'), count(*) FILTER (WHERE t.state IN ('running', 'restarting')),
	count(*) FILTER (WHERE t.state IN ('deferred', 'awaiting_input')), count(*) FILTER (WHERE t.state = 'up_for_retry'),
	count(*) FILTER (WHERE t.state = 'up_for_reschedule'),
	sum(pool_slots * coalesce(t.state IN ('running', 'queued'), false)::int),
	sum(pool_slots * coalesce(t.state IN ('scheduled', 'queued', 'running', 'restarting'), false)::int),
	sum(pool_slots * coalesce(t.state = 'deferred', false)::int),
	CASE WHEN airflow_bp.preloaded() AND NOT pg_is_in_recovery() THEN count(h.ti_id) END,
	CASE WHEN airflow_bp.preloaded() AND NOT pg_is_in_recovery() THEN coalesce(sum(h.slots), 0) END,
	min(CASE WHEN t.state IN ('scheduled', 'queued') THEN t.scheduled_dttm ELSE h.first_asked END) FILTER (WHERE t.dag_id <> ALL ($2)),
	NULL::float8[], NULL::float8[], NULL::float8[]
FROM t
LEFT JOIN n ON n.dag_id = t.dag_id AND n.pool = t.pool AND n.queue IS NOT DISTINCT FROM t.queue
LEFT JOIN airflow_bp.held_entries() h ON h.ti_id = t.id AND NOT h.granted
	AND (t.state IS NULL OR t.state IN ('up_for_retry', 'up_for_reschedule'))
GROUP BY 1$query$,
		airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'task_instance', 'id uuid', 'dag_id text', 'state text',
			'pool text', 'pool_slots int', 'queue text', 'executor text', 'scheduled_dttm timestamptz'))
	USING scope, blocked_dags;
END
$body$;
COMMENT ON FUNCTION airflow_bp.queue_from_tables(text, text[]) IS
'Counts of a scope by SQL. Rates are NULL; held is NULL where shared memory cannot tell.';

CREATE FUNCTION airflow_bp.queue_counts(scope text) RETURNS SETOF airflow_bp.queue_count
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	blocked text[];
BEGIN
	IF scope IS NULL OR scope NOT IN ('deployment', 'pool', 'queue', 'executor', 'tenant', 'dag', 'state') THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('unknown scope "%s"', scope),
			HINT = 'Use deployment, pool, queue, executor, tenant, dag or state.';
	END IF;
	EXECUTE format('SELECT coalesce(array_agg(dag_id), %L) FROM %s d WHERE is_paused OR is_stale', '{}',
		airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'dag', 'dag_id text', 'is_paused bool', 'is_stale bool'))
	INTO blocked;
	RETURN QUERY SELECT * FROM airflow_bp.queue_from_memory(scope, blocked);
	IF NOT FOUND THEN
		RETURN QUERY SELECT * FROM airflow_bp.queue_from_tables(scope, blocked);
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.queue_counts(text) IS 'Counts of a scope, from shared memory or else from the tables. BP001 unknown scope.';

CREATE FUNCTION airflow_bp.queue_limits(scope text) RETURNS TABLE (name text, slots bigint, count_deferred boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF scope = 'pool' THEN
		RETURN QUERY EXECUTE format('SELECT pool, nullif(slots, -1)::bigint, include_deferred FROM %s p',
			airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'slot_pool', 'pool text', 'slots int', 'include_deferred bool'));
	ELSIF scope = 'tenant' THEN
		RETURN QUERY SELECT t.name, t.nominal::bigint, t.count_deferred FROM airflow_bp.tenant t;
	ELSIF scope = 'deployment' THEN
		RETURN QUERY SELECT 'deployment', NULL::bigint, false;
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.queue_limits(text) IS 'Names of a scope that are shown also when idle, with their slots (NULL: unlimited).';

CREATE FUNCTION airflow_bp.queue(scope text) RETURNS TABLE (
	scope_name text, waiting bigint, held bigint, "none" bigint, scheduled bigint, queued bigint, running bigint, deferred bigint,
	up_for_retry bigint, up_for_reschedule bigint, slots_used bigint, slots_total bigint, oldest_claimable interval,
	arrivals_per_min float8, starts_per_min float8, finishes_per_min float8, growth_per_min float8, clears_in interval)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
	WITH q AS MATERIALIZED (
		SELECT * FROM airflow_bp.queue_counts($1)
	), known AS (
		SELECT CASE WHEN bool_or(q.held IS NOT NULL) THEN 0 END AS held,
			CASE WHEN bool_or(q.rates_5 IS NOT NULL) THEN '{0, 0, 0}'::float8[] END AS rates FROM q
	), c AS (
		SELECT coalesce(q.scope_name, l.name) AS scope_name,
			coalesce(q."none" + q.scheduled + q.queued + q.deferred + q.up_for_retry + q.up_for_reschedule, 0) AS waiting,
			coalesce(q.held, known.held) AS held, q."none", q.scheduled, q.queued, q.running, q.deferred, q.up_for_retry,
			q.up_for_reschedule, CASE WHEN q.scope_name IS NULL THEN 0 WHEN $1 = 'pool' THEN q.slots_executing ELSE q.slots_charged END
				+ CASE WHEN l.count_deferred THEN q.slots_deferred ELSE 0 END AS slots_used,
			l.slots AS slots_total, q.oldest, coalesce(q.rates_5, known.rates) AS rates
		FROM q FULL JOIN airflow_bp.queue_limits($1) l ON l.name = q.scope_name CROSS JOIN known
	)
	SELECT c.scope_name, c.waiting, c.held, coalesce(c."none", 0), coalesce(c.scheduled, 0), coalesce(c.queued, 0),
		coalesce(c.running, 0), coalesce(c.deferred, 0), coalesce(c.up_for_retry, 0), coalesce(c.up_for_reschedule, 0),
		c.slots_used, c.slots_total, greatest(airflow_bp.data_time(), c.oldest) - c.oldest,
		c.rates[1], c.rates[2], c.rates[3], c.rates[1] - c.rates[3],
		CASE WHEN c.rates IS NULL THEN NULL WHEN c.waiting = 0 THEN interval '0'
			WHEN c.rates[3] > c.rates[1] THEN make_interval(secs => c.waiting * 60 / (c.rates[3] - c.rates[1])) END
	FROM c
$$;
COMMENT ON FUNCTION airflow_bp.queue(text) IS
'Depth, age and speed by scope: deployment, pool, queue, executor, tenant, dag or state; BP001 for another.
From counters in shared memory when they are ready, which follow commits; else by SQL, with rates NULL.
waiting: rows of waiting(). deferred: with awaiting_input. running: with restarting.
slots_used: of a pool as Airflow counts them, else the slots in scheduled, queued, running and restarting, and deferred of a tenant that counts them.
slots_total: of a pool, or nominal of a tenant; NULL when unlimited or without meaning.
oldest_claimable: longest time that a scheduled, queued or held task, of a DAG not paused or stale, has been able to start;
from shared memory an estimate, never too short, and at most about twice too long until the next recount.
Rates per minute over 5 minutes: arrivals are tasks made or cleared, starts enter running, finishes enter a finished state.
growth_per_min: arrivals less finishes. clears_in: waiting over shrinkage; NULL when it grows or stands still.
For state, memory has neither held, ages nor rates: NULL.';

CREATE VIEW airflow_bp.queue_by_deployment AS SELECT * FROM airflow_bp.queue('deployment');
CREATE VIEW airflow_bp.queue_by_pool AS SELECT * FROM airflow_bp.queue('pool');
CREATE VIEW airflow_bp.queue_by_queue AS SELECT * FROM airflow_bp.queue('queue');
CREATE VIEW airflow_bp.queue_by_executor AS SELECT * FROM airflow_bp.queue('executor');
CREATE VIEW airflow_bp.queue_by_tenant AS SELECT * FROM airflow_bp.queue('tenant');
CREATE VIEW airflow_bp.queue_by_dag AS SELECT * FROM airflow_bp.queue('dag');
CREATE VIEW airflow_bp.queue_by_state AS SELECT * FROM airflow_bp.queue('state');
COMMENT ON VIEW airflow_bp.queue_by_deployment IS 'queue(''deployment'')';
COMMENT ON VIEW airflow_bp.queue_by_pool IS 'queue(''pool'')';
COMMENT ON VIEW airflow_bp.queue_by_queue IS 'queue(''queue'')';
COMMENT ON VIEW airflow_bp.queue_by_executor IS 'queue(''executor'')';
COMMENT ON VIEW airflow_bp.queue_by_tenant IS 'queue(''tenant'')';
COMMENT ON VIEW airflow_bp.queue_by_dag IS 'queue(''dag'')';
COMMENT ON VIEW airflow_bp.queue_by_state IS 'queue(''state'')';

CREATE FUNCTION airflow_bp.queue_rates(scope text) RETURNS TABLE (
	scope_name text, minutes int, arrivals_per_min float8, starts_per_min float8, finishes_per_min float8, growth_per_min float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT q.scope_name, r.minutes, r.rates[1], r.rates[2], r.rates[3], r.rates[1] - r.rates[3]
	FROM airflow_bp.queue_counts($1) q
	CROSS JOIN LATERAL (VALUES (1, q.rates_1), (5, q.rates_5), (15, q.rates_15)) r (minutes, rates)
$$;
COMMENT ON FUNCTION airflow_bp.queue_rates(text) IS
'Transitions per minute over 1, 5 and 15 minutes, three rows for each name of the scope; NULL while the counters are not ready. See queue().';
