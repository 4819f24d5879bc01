-- What in the DAGs keeps tasks, or runs, from ending.  Only what is certain: a DAG that cannot be read is named, a weight rule of
-- one's own gives no finding.

CREATE FUNCTION airflow_bp.audit_tasks(dag jsonb) RETURNS TABLE (
	task_id text, pool text, pool_slots float8, weight float8, rule text, downstream text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
BEGIN ATOMIC
	SELECT t.v ->> 'task_id', coalesce(t.v ->> 'pool', 'default_pool'), coalesce(airflow_bp.serialized_number(t.v -> 'pool_slots'), 1),
		coalesce(airflow_bp.serialized_number(t.v -> 'priority_weight'), 1), coalesce(t.v ->> 'weight_rule', 'downstream'),
		ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(coalesce(t.v #> '{downstream_task_ids,__var}', t.v -> 'downstream_task_ids'))
			WHEN 'array' THEN coalesce(t.v #> '{downstream_task_ids,__var}', t.v -> 'downstream_task_ids') END))
	FROM (
		SELECT coalesce(dag #> '{client_defaults,tasks}', '{}') || (e -> '__var') || coalesce(e #> '{__var,partial_kwargs}', '{}')
		FROM jsonb_array_elements(dag #> '{dag,tasks}') e OFFSET 0
	) t (v);
END;
COMMENT ON FUNCTION airflow_bp.audit_tasks(jsonb) IS 'Pool, slots, own weight, weight rule and next tasks of the tasks in a serialized DAG.';

CREATE FUNCTION airflow_bp.audit_weights(tasks text[], weights float8[], rules text[], edges jsonb) RETURNS TABLE (
	task_id text, effective float8, highest_after float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE t AS MATERIALIZED (
		SELECT * FROM unnest(tasks, weights, rules) u (task_id, weight, rule)
	), edge AS MATERIALIZED (
		SELECT DISTINCT e.key AS above, d AS below FROM jsonb_each(edges) e, jsonb_array_elements_text(e.value) d
	), path AS (
		SELECT e.above, e.below FROM edge e
		UNION
		SELECT p.above, e.below FROM path p JOIN edge e ON e.above = p.below
	), effective AS MATERIALIZED (
		SELECT t.task_id, t.weight + CASE t.rule WHEN 'absolute' THEN 0
			WHEN 'downstream' THEN coalesce((SELECT sum(o.weight) FROM path p JOIN t o ON o.task_id = p.below WHERE p.above = t.task_id), 0)
			WHEN 'upstream' THEN coalesce((SELECT sum(o.weight) FROM path p JOIN t o ON o.task_id = p.above WHERE p.below = t.task_id), 0)
			END AS weight
		FROM t
	)
	SELECT f.task_id, f.weight, (SELECT max(o.weight) FROM path p JOIN effective o ON o.task_id = p.below WHERE p.above = f.task_id) FROM effective f
$$;
COMMENT ON FUNCTION airflow_bp.audit_weights(text[], float8[], text[], jsonb) IS
'priority_weight of each task as its weight rule makes it (NULL: a rule of one''s own), and the highest of all tasks after it. edges: an object of arrays of next tasks.';

CREATE FUNCTION airflow_bp.audit() RETURNS TABLE (severity text, dag_id text, task_id text, finding text, detail text, hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN QUERY EXECUTE format($query$
WITH document AS MATERIALIZED (
	SELECT d.dag_id, airflow_bp.serialized_dag(s.data, s.data_compressed) AS dag
	FROM %1$s d
	CROSS JOIN LATERAL (SELECT v.id FROM %2$s v WHERE v.dag_id = d.dag_id ORDER BY v.version_number DESC LIMIT 1) v
	JOIN %3$s s ON s.dag_version_id = v.id WHERE d.is_stale IS NOT TRUE
), task AS MATERIALIZED (
	SELECT d.dag_id, t.* FROM document d CROSS JOIN LATERAL airflow_bp.audit_tasks(d.dag) t WHERE jsonb_typeof(d.dag #> '{dag,tasks}') = 'array'
		AND t.task_id IS NOT NULL
), weight AS MATERIALIZED (
	SELECT d.dag_id, w.* FROM (SELECT t.dag_id, array_agg(t.task_id) AS ids, array_agg(t.weight) AS weights, array_agg(t.rule) AS rules,
			jsonb_object_agg(t.task_id, t.downstream) AS edges FROM task t GROUP BY 1 HAVING count(*) > 1) d
	CROSS JOIN LATERAL airflow_bp.audit_weights(d.ids, d.weights, d.rules, d.edges) w
), edge AS MATERIALIZED (
	SELECT a.dag_id, a.task_id AS above, b.task_id AS below, a.pool, a.rule = 'absolute' AND b.rule = 'absolute' AS by_hand,
		x.effective AS above_weight, y.effective AS below_weight
	FROM task a JOIN task b ON b.dag_id = a.dag_id AND b.task_id = ANY (a.downstream) AND b.pool = a.pool
	JOIN weight x ON x.dag_id = a.dag_id AND x.task_id = a.task_id JOIN weight y ON y.dag_id = b.dag_id AND y.task_id = b.task_id
), waiting AS MATERIALIZED (
	SELECT t.dag_id, t.task_id, t.pool, t.priority_weight AS weight, count(*) AS tasks, min(t.scheduled_dttm) AS since
	FROM %4$s t JOIN %1$s d ON d.dag_id = t.dag_id AND d.is_paused IS NOT TRUE AND d.is_stale IS NOT TRUE
	WHERE t.state = 'scheduled' AND EXISTS (SELECT FROM %5$s r WHERE r.dag_id = t.dag_id AND r.run_id = t.run_id AND r.state = 'running')
	GROUP BY 1, 2, 3, 4
), started AS MATERIALIZED (
	SELECT t.dag_id, t.task_id, t.pool, t.priority_weight AS weight, t.queued_dttm FROM %4$s t WHERE t.state IN ('queued', 'running')
), pool AS MATERIALIZED (
	SELECT p.pool, p.slots FROM %6$s p
)
SELECT 'info', d.dag_id, NULL, 'not_readable', 'its serialized form cannot be read', 'Nothing else is said of it.' FROM document d
WHERE jsonb_typeof(d.dag #> '{dag,tasks}') IS DISTINCT FROM 'array'
UNION ALL
SELECT 'error', t.dag_id, t.task_id, 'pool_missing', format('there is no pool %%s', t.pool), 'Make the pool in Airflow, or give the task another.'
FROM task t WHERE NOT EXISTS (SELECT FROM pool p WHERE p.pool = t.pool)
UNION ALL
SELECT 'error', t.dag_id, t.task_id, 'pool_too_small', format('needs %%s slots, pool %%s has %%s', t.pool_slots, t.pool, p.slots),
	'Give the pool more slots, or the task less pool_slots.'
FROM task t JOIN pool p ON p.pool = t.pool WHERE p.slots > 0 AND t.pool_slots > p.slots
UNION ALL
SELECT 'warning', e.dag_id, e.below, 'child_below_parent',
	format('weight %%s, but %%s has %%s in the same pool: when it is full, new runs begin before old ones go on', min(e.below_weight),
		(array_agg(e.above ORDER BY e.above_weight DESC, e.above))[1], max(e.above_weight)),
	'Give it a weight that is not lower, or both the weight_rule upstream.'
FROM edge e WHERE e.by_hand AND e.below_weight < e.above_weight GROUP BY e.dag_id, e.below
UNION ALL
SELECT 'warning', w.dag_id, w.task_id, 'child_overtaken',
	format('%%s waiting in pool %%s with weight %%s; since the oldest waits, %%s of tasks before it, of higher weight, were started there',
		w.tasks, w.pool, w.weight, s.started), 'Give the DAG the weight_rule upstream, or see airflow_bp.set_priority_ageing().'
FROM waiting w CROSS JOIN LATERAL (SELECT count(*) AS started FROM started s JOIN task a ON a.dag_id = s.dag_id AND a.task_id = s.task_id
	WHERE s.dag_id = w.dag_id AND s.pool = w.pool AND s.weight > w.weight AND s.queued_dttm > w.since AND w.task_id = ANY (a.downstream)) s
WHERE s.started > 0
UNION ALL
SELECT 'warning', w.dag_id, w.task_id, 'priority_inversion',
	format('%%s waiting in pool %%s with weight %%s; %%s of weights up to %%s were started there since, though a task of weight %%s waits for it',
		w.tasks, w.pool, w.weight, s.started, s.highest, h.highest_after),
	'Give it the weight of the task after it, as the weight_rule downstream does.'
FROM waiting w JOIN weight h ON h.dag_id = w.dag_id AND h.task_id = w.task_id AND h.highest_after > w.weight
CROSS JOIN LATERAL (SELECT count(*) AS started, max(s.weight) AS highest FROM started s
	WHERE s.pool = w.pool AND s.weight > w.weight AND s.weight < h.highest_after AND s.queued_dttm > w.since) s
WHERE s.started > 0
ORDER BY 1, 2, 3, 4$query$,
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_stale bool', 'is_paused bool'),
		airflow_bp.airflow_relation(schema, 'dag_version', 'id uuid', 'dag_id text', 'version_number int'),
		airflow_bp.airflow_relation(schema, 'serialized_dag', 'dag_version_id uuid', 'data', 'data_compressed bytea'),
		airflow_bp.airflow_relation(schema, 'task_instance', 'dag_id text', 'run_id text', 'task_id text', 'state text', 'pool text',
			'priority_weight int', 'scheduled_dttm timestamptz', 'queued_dttm timestamptz'),
		airflow_bp.airflow_relation(schema, 'dag_run', 'dag_id text', 'run_id text', 'state text'),
		airflow_bp.airflow_relation(schema, 'slot_pool', 'pool text', 'slots int'));
END
$body$;
COMMENT ON FUNCTION airflow_bp.audit() IS
'What in the DAGs, in their latest version, keeps tasks or runs from ending.
pool_missing, pool_too_small (error): the task never starts.
child_below_parent (warning): weight_rule absolute, and less weight than the task before it in the same pool: under load runs do not end.
child_overtaken (warning), seen now: tasks before a waiting one, of higher weight, were started after it was scheduled.
priority_inversion (warning), seen now: a waiting task is passed in its pool, while one of higher weight than theirs waits for it.
not_readable (info): nothing is known of the DAG. It reads every serialized DAG: call it by hand. BP006 without Airflow.';
