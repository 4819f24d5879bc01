-- Parking: runs at which a look of the scheduler is useless are left out of its examine window.

CREATE FUNCTION airflow_bp.run_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'airflow_bp_run_changed';
COMMENT ON FUNCTION airflow_bp.run_changed() IS 'BEFORE UPDATE row trigger on dag_run, made by enable(): follows looks and changes of runs. Changes nothing.';

CREATE FUNCTION airflow_bp.look_useful(dag_id varchar, run_id varchar, seen_by oid) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 10 AS 'MODULE_PATHNAME', 'airflow_bp_look_useful';
COMMENT ON FUNCTION airflow_bp.look_useful(varchar, varchar, oid) IS
'False: the run is parked. Added to the examine query of the scheduler, whose role must be able to call it. seen_by: the trigger on dag_run.';

-- What the look at a run does with a version of its DAG.
CREATE FUNCTION airflow_bp.park_read_version(dag text) RETURNS TABLE (
	known boolean, chained boolean, reschedules boolean, run_timeout interval, retries jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	timeout jsonb := dag::jsonb #> '{dag,dagrun_timeout}';
BEGIN
	RETURN QUERY SELECT dag !~ '"deps": ?\[', dag ~ '"(depends_on_past|wait_for_downstream)": ?true', dag ~ 'reschedule',
		make_interval(secs => coalesce(timeout ->> '__var', timeout #>> '{}')::float8),
		coalesce((SELECT jsonb_object_agg(t.task_id, jsonb_build_array(t.retry_delay, t.multiplier, t.max_retry_delay))
			FROM airflow_bp.serialized_tasks(dag::jsonb) t), '{}');
EXCEPTION WHEN data_exception THEN
	RETURN QUERY SELECT false, true, true, NULL::interval, '{}'::jsonb;
END
$$;
COMMENT ON FUNCTION airflow_bp.park_read_version(text) IS 'What parking must know of a serialized DAG; known is false when it cannot be read. See airflow_bp.park_version.';

-- Instant at which a failed task may be tried again; NULL when it is not known.  Exponential backoff depends on a setting of
-- Airflow, [core] max_task_retry_delay, that shortens it: only what is past without it is past.
CREATE FUNCTION airflow_bp.park_retry_date(dag_id text, task_id text, logical_date timestamptz, try_number int,
	end_date timestamptz, delay_override float8, retry jsonb, decided timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN delay_override IS NOT NULL THEN end_date + airflow_bp.seconds(delay_override)
		WHEN coalesce((retry ->> 1)::float8, 0) IN (0, 1) THEN end_date + airflow_bp.seconds((retry ->> 0)::float8)
		WHEN d.delay < interval '1 day' AND end_date + d.delay <= decided THEN end_date + d.delay END
	FROM (SELECT airflow_bp.retry_delay($1, $2, $3, $4, (retry ->> 0)::float8, (retry ->> 1)::float8, (retry ->> 2)::float8)) d (delay)
$$;
COMMENT ON FUNCTION airflow_bp.park_retry_date(text, text, timestamptz, int, timestamptz, float8, jsonb, timestamptz) IS 'Instant at which a failed task may be tried again; NULL when it is not known.';

-- Runs with the version of the DAG that a look at them reads; $1 is an array of dag_run.id.
CREATE FUNCTION airflow_bp.park_runs_query(airflow_schema text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
	SELECT format($query$
		SELECT u.place, r.*, s.dag_version_id AS version_id, s.dag_hash, s.data, s.data_compressed,
			CASE WHEN latest.id IS NULL THEN 0 ELSE hashtextextended(concat_ws(' ', latest.id, latest.dag_hash), 0) | 1 END AS stamp,
			-- Schedulers keep a DAG that was changed in place for a while.
			latest.last_updated < greatest(latest.created_at + interval '1 s', now() - interval '1 min') AS settled
		FROM unnest($1) WITH ORDINALITY u (id, place)
		JOIN %1$s r ON r.id = u.id AND r.state = 'running'
		LEFT JOIN LATERAL (SELECT v.id, l.dag_hash, l.created_at, l.last_updated
			FROM %2$I.dag_version v LEFT JOIN %2$I.serialized_dag l ON l.dag_version_id = v.id
			WHERE v.dag_id = r.dag_id ORDER BY v.version_number DESC LIMIT 1) latest ON true
		LEFT JOIN %2$I.serialized_dag s ON s.dag_version_id =
			CASE WHEN r.bundle_version <> '' AND r.created_dag_version_id IS NOT NULL THEN r.created_dag_version_id ELSE latest.id END
	$query$, airflow_bp.airflow_relation(airflow_schema, 'dag_run', 'id', 'state', 'dag_id', 'run_id', 'start_date',
			'logical_date timestamptz', 'last_scheduling_decision', 'bundle_version', 'created_dag_version_id uuid'), airflow_schema)
$body$;
COMMENT ON FUNCTION airflow_bp.park_runs_query(text) IS 'Query for the runs in the array $1, with what their DAG versions hold.';

CREATE FUNCTION airflow_bp.park_facts(airflow_schema text, runs int[]) RETURNS TABLE (
	place bigint, known boolean, chained boolean, stamp bigint, retry timestamptz, reschedule timestamptz, timeout timestamptz)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	query text := airflow_bp.park_runs_query(airflow_schema);
BEGIN
	EXECUTE format($query$
		INSERT INTO airflow_bp.park_version (version_id, dag_hash, known, chained, reschedules, run_timeout, retries)
		SELECT v.version_id, v.dag_hash, f.*
		FROM (SELECT DISTINCT ON (r.version_id) r.* FROM (%s) r
			WHERE NOT EXISTS (SELECT FROM airflow_bp.park_version p WHERE p.version_id = r.version_id AND p.dag_hash = r.dag_hash)
				AND r.version_id IS NOT NULL) v
		CROSS JOIN LATERAL airflow_bp.park_read_version(coalesce(airflow_bp.inflate(v.data_compressed), v.data::text)) f
		ON CONFLICT (version_id) DO UPDATE SET dag_hash = excluded.dag_hash, known = excluded.known, chained = excluded.chained,
			reschedules = excluded.reschedules, run_timeout = excluded.run_timeout, retries = excluded.retries, read_at = now()
	$query$, query) USING runs;
	RETURN QUERY EXECUTE format($query$
		WITH run AS MATERIALIZED (
			SELECT r.place, r.dag_id, r.run_id, r.logical_date, r.last_scheduling_decision AS decided, r.stamp,
				p.known AND r.settled AS known, p.chained, p.reschedules, p.retries, r.start_date + p.run_timeout AS timeout
			FROM (%1$s) r
			LEFT JOIN airflow_bp.park_version p ON p.version_id = r.version_id AND p.dag_hash = r.dag_hash
		), task AS MATERIALIZED (
			SELECT r.place, r.decided, r.reschedules, t.id, t.state, CASE WHEN t.state = 'up_for_retry' THEN
				airflow_bp.park_retry_date(t.dag_id, t.task_id, r.logical_date, t.try_number, t.end_date,
					t.retry_delay_override, r.retries -> t.task_id, r.decided) END AS retry
			FROM run r JOIN %2$s t ON t.dag_id = r.dag_id AND t.run_id = r.run_id
			WHERE t.state IS NULL OR t.state IN ('up_for_retry', 'up_for_reschedule')
		), last AS (
			SELECT DISTINCT ON (x.ti_id) x.ti_id, x.reschedule_date FROM %3$I.task_reschedule x
			WHERE x.ti_id IN (SELECT t.id FROM task t WHERE t.reschedules AND t.state IS DISTINCT FROM 'up_for_retry')
			ORDER BY x.ti_id, x.id DESC
		), date AS (
			SELECT t.place, bool_or(t.state = 'up_for_retry' AND t.retry IS NULL) AS unknown,
				min(t.retry) FILTER (WHERE t.retry > t.decided) AS retry,
				min(l.reschedule_date) FILTER (WHERE l.reschedule_date > t.decided) AS reschedule
			FROM task t LEFT JOIN last l ON l.ti_id = t.id GROUP BY t.place
		)
		SELECT r.place, coalesce(r.known AND d.unknown IS NOT TRUE, false), coalesce(r.chained, true), r.stamp,
			d.retry, d.reschedule, r.timeout
		FROM run r LEFT JOIN date d ON d.place = r.place
	$query$, query, airflow_bp.airflow_relation(airflow_schema, 'task_instance', 'id', 'dag_id', 'run_id', 'task_id', 'state',
			'try_number', 'end_date', 'retry_delay_override float8'), airflow_schema) USING runs;
END
$body$;
COMMENT ON FUNCTION airflow_bp.park_facts(text, int[]) IS
'For the worker: the dates that can make the next look at each of these runs useful. known is false when there may be others.';

CREATE FUNCTION airflow_bp.park_stamps(airflow_schema text, runs int[]) RETURNS TABLE (place bigint, stamp bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
	RETURN QUERY EXECUTE format($query$
		SELECT u.place, CASE WHEN latest.id IS NULL THEN 0 ELSE hashtextextended(concat_ws(' ', latest.id, latest.dag_hash), 0) | 1 END
		FROM unnest($1) WITH ORDINALITY u (id, place)
		LEFT JOIN %1$I.dag_run r ON r.id = u.id
		LEFT JOIN LATERAL (SELECT v.id, l.dag_hash FROM %1$I.dag_version v LEFT JOIN %1$I.serialized_dag l ON l.dag_version_id = v.id
			WHERE v.dag_id = r.dag_id ORDER BY v.version_number DESC LIMIT 1) latest ON true
	$query$, airflow_schema) USING runs;
END
$body$;
COMMENT ON FUNCTION airflow_bp.park_stamps(text, int[]) IS 'For the worker: the version of the DAG of each of these runs, as a number.';

CREATE FUNCTION airflow_bp.park_gone(airflow_schema text, runs int[]) RETURNS TABLE (place bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
	RETURN QUERY EXECUTE format('SELECT u.place FROM unnest($1) WITH ORDINALITY u (id, place)
		WHERE NOT EXISTS (SELECT FROM %I.dag_run r WHERE r.id = u.id AND r.state = ''running'')', airflow_schema) USING runs;
END
$body$;
COMMENT ON FUNCTION airflow_bp.park_gone(text, int[]) IS 'For the worker: those of these runs that do not run any more.';

CREATE FUNCTION airflow_bp.park_entries() RETURNS TABLE (id int, reason text, parked_since timestamptz, next_look timestamptz)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_park_entries';
COMMENT ON FUNCTION airflow_bp.park_entries() IS 'The parked runs in shared memory, without their names; no rows without it.';

CREATE FUNCTION airflow_bp.parked() RETURNS TABLE (dag_id text, run_id text, reason text, parked_since timestamptz,
	next_look timestamptz, last_look timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
	RETURN QUERY EXECUTE format('SELECT r.dag_id::text, r.run_id::text, p.reason, p.parked_since, p.next_look, r.last_scheduling_decision
		FROM airflow_bp.park_entries() p JOIN %I.dag_run r ON r.id = p.id', airflow_bp.airflow_schema_name());
END
$body$;
COMMENT ON FUNCTION airflow_bp.parked() IS
'Running runs that the scheduler is not shown, as a look at them is useless until something about them changes. reason: what next_look is for: retry_delay, reschedule_delay, dagrun_timeout, or change (nothing is known to come, next_look is for safety). last_look: of the scheduler.';
