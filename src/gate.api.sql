-- The triggers, the tasks they hold, and the tenants.

CREATE FUNCTION airflow_bp.gate() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'airflow_bp_gate';
COMMENT ON FUNCTION airflow_bp.gate() IS 'BEFORE UPDATE row trigger on task_instance, made by enable(): holds asks and follows changes of state.';

CREATE FUNCTION airflow_bp.count() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'airflow_bp_count';
COMMENT ON FUNCTION airflow_bp.count() IS 'AFTER INSERT OR DELETE row trigger and AFTER TRUNCATE statement trigger on task_instance, made by enable(): counts.';

CREATE FUNCTION airflow_bp.held_entries() RETURNS TABLE (ti_id uuid, dag_id text, tenant text, slots int, priority int,
	first_asked timestamptz, last_asked timestamptz, asks bigint, reason text, granted boolean, run_parked boolean)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_held_entries';
COMMENT ON FUNCTION airflow_bp.held_entries() IS 'The held table in shared memory, without the names of the tasks; no rows without it.';

CREATE FUNCTION airflow_bp.held() RETURNS TABLE (ti_id uuid, dag_id text, run_id text, task_id text, map_index int, tenant text,
	slots int, priority int, first_asked timestamptz, last_asked timestamptz, asks bigint, reason text, granted boolean, run_parked boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
	RETURN QUERY EXECUTE format('SELECT h.ti_id, coalesce(t.dag_id::text, h.dag_id), t.run_id::text, t.task_id::text, t.map_index, h.tenant, h.slots,
		h.priority, h.first_asked, h.last_asked, h.asks, h.reason, h.granted, h.run_parked
		FROM airflow_bp.held_entries() h LEFT JOIN %I.task_instance t ON t.id = h.ti_id', airflow_bp.airflow_schema_name());
END
$body$;
COMMENT ON FUNCTION airflow_bp.held() IS
'Tasks that the scheduler asked for and that were held: slots, times asked, why (held_starting, held_drain, held_quota, held_order, never_fits; with airflow_bp.admit_ahead also pool_full, dag_max_active_tasks), granted: may pass at its next ask, run_parked: its run is out of the examine window. run_id and task_id are NULL for a task that was deleted.';

CREATE FUNCTION airflow_bp.tenant_usage() RETURNS TABLE (name text, nominal bigint, usage bigint, available bigint, borrowed bigint,
	share float8, held bigint, oldest_held interval, admitted_total bigint, held_total bigint)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_tenant_usage';
COMMENT ON FUNCTION airflow_bp.tenant_usage() IS 'Tenants in shared memory, in slots; held: tasks held without a grant; available NULL: unlimited; no rows while the counters are not ready.';

CREATE FUNCTION airflow_bp.tenants() RETURNS TABLE (name text, cohort text, nominal int, borrowing_limit int, lending_limit int,
	weight float8, usage bigint, available bigint, borrowed bigint, share float8, held bigint, oldest_held interval, admitted_total bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(t.name, u.name), t.cohort, t.nominal, t.borrowing_limit, t.lending_limit, coalesce(t.weight, 1), u.usage, u.available,
		u.borrowed, u.share, u.held, u.oldest_held, u.admitted_total
	FROM airflow_bp.tenant t FULL JOIN airflow_bp.tenant_usage() u ON u.name = t.name
	ORDER BY 1
$$;
COMMENT ON FUNCTION airflow_bp.tenants() IS
'Tenants with their limits and what they use, in slots. nominal NULL: unlimited. usage counts scheduled, queued, running, restarting (and deferred where counted), open admissions and grants; available: what an admission could take now, with what others lend. borrowed: usage over nominal. share: borrowed slots as part of all that the cohort could lend, per weight, in thousandths and rounded up; infinity for a weight of 0; the lowest share is served first. held: tasks held without a grant. NULL while the counters are not ready.';

CREATE FUNCTION airflow_bp.rooms(airflow_schema text DEFAULT airflow_bp.airflow_schema_name()) RETURNS TABLE (kind text, name text, most bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
	RETURN QUERY EXECUTE format($query$
SELECT 'pool', p.pool, p.slots - CASE WHEN p.include_deferred THEN
	(SELECT coalesce(sum(t.pool_slots), 0) FROM %1$s t WHERE t.pool = p.pool AND t.state = 'deferred') ELSE 0 END
FROM %2$s p WHERE p.slots >= 0 AND p.pool IS NOT NULL
UNION ALL
SELECT 'dag', d.dag_id, d.max_active_tasks * count(*)
FROM %3$s d JOIN %4$s r ON r.dag_id = d.dag_id AND r.state = 'running'
WHERE d.max_active_tasks > 0 GROUP BY d.dag_id, d.max_active_tasks
$query$,
		airflow_bp.airflow_relation(airflow_schema, 'task_instance', 'pool text', 'state text', 'pool_slots int'),
		airflow_bp.airflow_relation(airflow_schema, 'slot_pool', 'pool text', 'slots int', 'include_deferred bool'),
		airflow_bp.airflow_relation(airflow_schema, 'dag', 'dag_id text', 'max_active_tasks bigint'),
		airflow_bp.airflow_relation(airflow_schema, 'dag_run', 'dag_id text', 'state text'));
END
$body$;
COMMENT ON FUNCTION airflow_bp.rooms(text) IS
'What the scheduler lets run at a time: slots of each pool (without those of deferred tasks where the pool counts them), tasks of each DAG (max_active_tasks of its running runs). With airflow_bp.admit_ahead set, no more is admitted than that and so many ahead. A pool that is not listed has no limit.';
