-- Scheduled tasks gain priority while they wait, so that none is passed for ever.  The scheduler takes scheduled tasks by
-- priority_weight; it goes first here too: rows are taken SKIP LOCKED.

CREATE FUNCTION airflow_bp.priority_next(original int, waited interval, step int, every interval, cap int) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(original::float8 + least(floor(date_part('epoch', greatest(waited, interval '0')) / date_part('epoch', every)) * step, cap), 2147483647)::int;
COMMENT ON FUNCTION airflow_bp.priority_next(int, interval, int, interval, int) IS 'The priority_weight of a task that has waited so long: its own, and a step for each full interval, at most cap in all.';

-- The query behind priority_plan() and priority_apply(): scheduled tasks that may start, with a weight that should change.
CREATE FUNCTION airflow_bp.priority_query() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN format($query$
SELECT t.id, t.dag_id::text AS dag_id, t.run_id::text AS run_id, t.task_id::text AS task_id, t.map_index, t.pool::text AS pool, t.scheduled_dttm, clock.now,
	t.priority_weight AS weight, o.original, y.scope, y.name, n.proposed, y.act AND a.stopped_since IS DISTINCT FROM t.scheduled_dttm AS allowed,
	CASE WHEN a.stopped_since = t.scheduled_dttm THEN 'undone, left alone' WHEN n.proposed < t.priority_weight THEN 'waits anew'
		WHEN n.proposed = o.original::bigint + y.cap THEN 'at its cap' ELSE 'waits' END AS reason
FROM (SELECT airflow_bp.data_time() OFFSET 0) clock (now)
CROSS JOIN %1$I.task_instance t
LEFT JOIN airflow_bp.priority_policy y1 ON y1.scope = 'dag' AND y1.name = t.dag_id
LEFT JOIN airflow_bp.priority_policy y2 ON y2.scope = 'queue' AND y2.name = t.queue
LEFT JOIN airflow_bp.priority_policy y3 ON y3.scope = 'pool' AND y3.name = t.pool
LEFT JOIN airflow_bp.priority_policy y4 ON y4.scope = 'deployment'
CROSS JOIN LATERAL (SELECT (coalesce(y1, y2, y3, y4)).*) y
LEFT JOIN airflow_bp.priority_aged a ON a.dag_id = t.dag_id AND a.run_id = t.run_id AND a.task_id = t.task_id AND a.map_index = t.map_index
CROSS JOIN LATERAL (SELECT CASE WHEN a.ours = t.priority_weight THEN a.original ELSE t.priority_weight END) o (original)
CROSS JOIN LATERAL (SELECT airflow_bp.priority_next(o.original, clock.now - t.scheduled_dttm, y.step, y.every, y.cap)) n (proposed)
WHERE t.state = 'scheduled' AND y.scope IS NOT NULL AND n.proposed <> t.priority_weight
	AND EXISTS (SELECT FROM %2$s d WHERE d.dag_id = t.dag_id AND d.is_paused IS NOT TRUE AND d.is_stale IS NOT TRUE)$query$,
		schema, airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_paused bool', 'is_stale bool'));
END
$body$;
COMMENT ON FUNCTION airflow_bp.priority_query() IS 'The query behind priority_plan() and priority_apply().';

CREATE FUNCTION airflow_bp.priority_plan() RETURNS TABLE (dag_id text, run_id text, task_id text, map_index int, pool text, waited interval,
	original int, weight int, proposed int, scope text, name text, reason text, allowed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	RETURN QUERY EXECUTE 'SELECT q.dag_id, q.run_id, q.task_id, q.map_index, q.pool, q.now - q.scheduled_dttm, q.original,
		q.weight, q.proposed, q.scope, q.name, q.reason, coalesce(q.allowed AND NOT pg_is_in_recovery()
			AND (SELECT d.mode FROM airflow_bp.deployment d) <> ''off'', false)
		FROM (' || airflow_bp.priority_query() || ') q ORDER BY q.scheduled_dttm, q.id';
END
$$;
COMMENT ON FUNCTION airflow_bp.priority_plan() IS
'One row for each scheduled task, of a DAG not paused or stale, whose priority_weight should change, those that wait longest first: how long it has waited, its own weight, the one that it has and the one proposed, the policy, and why. allowed: priority_apply() may write it.
reason: waits; at its cap; waits anew (a new try: its age begins again); undone, left alone.';

CREATE FUNCTION airflow_bp.priority_write(tasks uuid[], old int[], new int[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	task_instance text := format('%I.task_instance', airflow_bp.airflow_schema_name());
BEGIN
	IF airflow_bp.write_as_owner(task_instance::regclass, format('UPDATE %s t SET priority_weight = w.new
			FROM unnest(%L::uuid[], %L::int[], %L::int[]) w (id, old, new) WHERE t.id = w.id AND t.state = %L AND t.priority_weight = w.old',
			task_instance, tasks, old, new, 'scheduled')) <> cardinality(tasks) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = 'a weight could not be changed', HINT = 'See the triggers on task_instance.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.priority_write(uuid[], int[], int[]) IS 'Changes the weights of scheduled tasks that the caller has locked. BP004 when not all of them were.';

CREATE FUNCTION airflow_bp.undo_priority(done airflow_bp.act) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	mine record;
BEGIN
	EXECUTE format('WITH mine AS MATERIALIZED (
			SELECT t.id, t.dag_id, t.run_id, t.task_id, t.map_index, t.scheduled_dttm, t.priority_weight AS now, ($1 ->> t.id::text)::int AS back
			FROM %I.task_instance t WHERE t.id IN (SELECT k::uuid FROM jsonb_object_keys($1) k) AND t.state = %L
				AND t.priority_weight = ($2 ->> t.id::text)::int ORDER BY t.id FOR UPDATE SKIP LOCKED
		), stopped AS (
			UPDATE airflow_bp.priority_aged a SET ours = m.back, stopped_since = m.scheduled_dttm FROM mine m
			WHERE a.dag_id = m.dag_id AND a.run_id = m.run_id AND a.task_id = m.task_id AND a.map_index = m.map_index
		)
		SELECT array_agg(id ORDER BY id) AS tasks, array_agg(now ORDER BY id) AS now, array_agg(back ORDER BY id) AS back FROM mine',
		airflow_bp.airflow_schema_name(), 'scheduled') INTO mine USING done.old -> 'weights', done.new -> 'weights';
	IF mine.tasks IS NULL THEN
		RETURN false;
	END IF;
	PERFORM airflow_bp.priority_write(mine.tasks, mine.now, mine.back);
	RETURN true;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo_priority(airflow_bp.act) IS
'Gives those tasks their weight back that are still scheduled with the one that the act gave them, and leaves them alone for the rest of this wait; false when there are none.';

CREATE FUNCTION airflow_bp.priority_forget(most int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	EXECUTE format('WITH old AS MATERIALIZED (
			SELECT a.ctid, EXISTS (SELECT FROM %I.task_instance t WHERE t.dag_id = a.dag_id AND t.run_id = a.run_id AND t.task_id = a.task_id
				AND t.map_index = a.map_index AND coalesce(t.state, %L) NOT IN (%3$L, %4$L, %5$L, %6$L, %7$L)) AS lives
			FROM airflow_bp.priority_aged a WHERE a.aged_at < now() - interval %8$L ORDER BY a.aged_at LIMIT $1
		), gone AS (DELETE FROM airflow_bp.priority_aged a USING old WHERE a.ctid = old.ctid AND NOT old.lives)
		UPDATE airflow_bp.priority_aged a SET aged_at = now() FROM old WHERE a.ctid = old.ctid AND old.lives',
		airflow_bp.airflow_schema_name(), 'none', 'success', 'failed', 'skipped', 'upstream_failed', 'removed', '1 day') USING most;
END
$$;
COMMENT ON FUNCTION airflow_bp.priority_forget(int) IS 'Forgets the own weights of tasks that have finished, a day after we changed them, at most so many at a time.';

CREATE FUNCTION airflow_bp.priority_apply(most int DEFAULT 200) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET jit = off AS $body$
DECLARE
	mine record;
BEGIN
	IF most BETWEEN 1 AND 10000 IS NOT TRUE THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('most must be from 1 to 10000: %s', coalesce(most::text, 'NULL')),
			HINT = 'Give a number of tasks.';
	END IF;
	PERFORM airflow_bp.priority_forget(most);
	IF NOT EXISTS (SELECT FROM airflow_bp.priority_policy p WHERE p.act)
		OR NOT EXISTS (SELECT FROM airflow_bp.deployment d WHERE d.mode <> 'off') THEN
		RETURN 0;
	END IF;
	EXECUTE format($query$
WITH due AS MATERIALIZED (
	SELECT q.* FROM (%1$s) q WHERE q.allowed ORDER BY q.scheduled_dttm, q.id LIMIT $1
), mine AS MATERIALIZED (
	SELECT due.* FROM due JOIN %2$I.task_instance t ON t.id = due.id WHERE t.state = 'scheduled' AND t.priority_weight = due.weight
	ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), aged AS (
	INSERT INTO airflow_bp.priority_aged AS a (dag_id, run_id, task_id, map_index, original, ours)
	SELECT m.dag_id, m.run_id, m.task_id, m.map_index, m.original, m.proposed FROM mine m
	ON CONFLICT ON CONSTRAINT priority_aged_pkey DO UPDATE SET original = excluded.original, ours = excluded.ours, aged_at = now(), stopped_since = NULL
)
SELECT array_agg(id ORDER BY id) AS tasks, array_agg(weight ORDER BY id) AS old, array_agg(proposed ORDER BY id) AS new,
	jsonb_object_agg(id, weight) AS old_weights, jsonb_object_agg(id, proposed) AS new_weights FROM mine$query$,
		airflow_bp.priority_query(), airflow_bp.airflow_schema_name()) INTO mine USING most;
	IF mine.tasks IS NULL THEN
		RETURN 0;
	END IF;
	INSERT INTO airflow_bp.act (action, old, new) VALUES ('priority', jsonb_build_object('weights', mine.old_weights),
		jsonb_build_object('weights', mine.new_weights));
	PERFORM airflow_bp.priority_write(mine.tasks, mine.old, mine.new);
	RETURN cardinality(mine.tasks);
END
$body$;
COMMENT ON FUNCTION airflow_bp.priority_apply(int) IS
'Writes the weights that priority_plan() proposes and allows, for at most so many tasks, those that wait longest first, and returns their number. Nothing in mode off. The worker calls it every 15 s. By hand: the tasks are not started until the transaction ends. BP002 bad number.';

CREATE FUNCTION airflow_bp.set_priority_ageing(scope text, name text DEFAULT NULL, step int DEFAULT 1, every interval DEFAULT '5 minutes',
	cap int DEFAULT 100, act boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	complaint text := CASE
		WHEN set_priority_ageing.step > 0 IS NOT TRUE THEN format('step must be at least 1: %s', coalesce(set_priority_ageing.step::text, 'NULL'))
		WHEN set_priority_ageing.cap >= set_priority_ageing.step IS NOT TRUE THEN
			format('cap must not be less than step: %s', coalesce(set_priority_ageing.cap::text, 'NULL'))
		WHEN set_priority_ageing.every BETWEEN interval '1 second' AND interval '30 days' IS NOT TRUE THEN
			format('every must be between 1 second and 30 days: %s', coalesce(set_priority_ageing.every::text, 'NULL')) END;
BEGIN
	PERFORM airflow_bp.check_choice('scope', set_priority_ageing.scope, 'deployment', 'pool', 'queue', 'dag');
	IF complaint IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = complaint, HINT = 'Give a step of at least 1, and a cap that is not less.';
	ELSIF set_priority_ageing.scope = 'deployment' AND set_priority_ageing.name <> 'deployment'
		OR set_priority_ageing.scope <> 'deployment' AND octet_length(set_priority_ageing.name) BETWEEN 1 AND 1024 IS NOT TRUE
		OR set_priority_ageing.scope = 'pool' AND NOT EXISTS (SELECT FROM airflow_bp.queue_limits('pool') l WHERE l.name = set_priority_ageing.name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no %s "%s"', set_priority_ageing.scope, coalesce(set_priority_ageing.name, 'NULL')),
			HINT = 'Give the name of a pool that is there, of a queue or a DAG, or none for the deployment.';
	END IF;
	INSERT INTO airflow_bp.priority_policy AS p (scope, name, step, every, cap, act)
	VALUES (set_priority_ageing.scope, coalesce(set_priority_ageing.name, 'deployment'), set_priority_ageing.step, set_priority_ageing.every,
		set_priority_ageing.cap, coalesce(set_priority_ageing.act, false))
	ON CONFLICT ON CONSTRAINT priority_policy_pkey DO UPDATE SET step = excluded.step, every = excluded.every, cap = excluded.cap, act = excluded.act;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_priority_ageing(text, text, int, interval, int, boolean) IS
'Lets scheduled tasks gain priority_weight while they wait: step for each full interval every, at most cap in all; act: it is written, not only proposed. scope: deployment (no name), pool, queue or dag; of those that match a task the first of dag, queue, pool, deployment applies. Again: replaces the values. BP001 no such pool, bad scope or name, BP002 bad number.';

CREATE FUNCTION airflow_bp.drop_priority_ageing(scope text, name text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.priority_policy p
	WHERE p.scope = drop_priority_ageing.scope AND p.name = coalesce(drop_priority_ageing.name, 'deployment');
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no ageing for %s "%s"', coalesce(drop_priority_ageing.scope, 'NULL'),
			coalesce(drop_priority_ageing.name, 'NULL')), HINT = 'See the table airflow_bp.priority_policy.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_priority_ageing(text, text) IS 'Drops a policy of set_priority_ageing(); weights stay as they are, undo() gives them back. BP001 no such policy.';
