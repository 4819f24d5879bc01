-- What a change of policy would do, and why a tenant waits: preview() over the live state.

CREATE FUNCTION airflow_bp.preview_state() RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ready boolean := airflow_bp.preloaded() AND coalesce((SELECT m.ready FROM airflow_bp.memory_state() m), false);
	half_life float8 := extract(epoch FROM current_setting('airflow_bp.usage_half_life')::interval);
	policy jsonb;
	used jsonb;
	pending jsonb;
BEGIN
	-- As the worker compiles it: whose parent is missing, in a cycle or too far from a root is a root.
	WITH RECURSIVE placed (name, parent, depth) AS (
		SELECT c.name, NULL, 1 FROM airflow_bp.cohort c WHERE NOT EXISTS (SELECT FROM airflow_bp.cohort p WHERE p.name = c.parent)
		UNION ALL
		SELECT c.name, c.parent, p.depth + 1 FROM airflow_bp.cohort c JOIN placed p ON p.name = c.parent WHERE p.depth < 32
	), cohorts AS (
		SELECT c.name, p.parent, c.nominal, c.borrowing_limit, c.lending_limit, c.weight
		FROM airflow_bp.cohort c LEFT JOIN placed p ON p.name = c.name
	), tenants AS (
		SELECT t.name, t.cohort, t.nominal, t.borrowing_limit, t.lending_limit, t.weight, t.queueing FROM airflow_bp.tenant t
		UNION ALL
		SELECT 'default', NULL, NULL, NULL, NULL, 1, 'strict' WHERE NOT EXISTS (SELECT FROM airflow_bp.tenant t WHERE t.name = 'default')
	)
	SELECT jsonb_build_object('cohorts', (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') FROM cohorts c),
		'tenants', (SELECT jsonb_agg(to_jsonb(t)) FROM tenants t)) INTO policy;
	IF ready THEN
		-- Held tasks first: one that is granted meanwhile counts twice, rather than not at all.
		SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO pending
		FROM (SELECT h.ti_id AS id, h.tenant, h.slots, h.priority, extract(epoch FROM h.first_asked) AS created_s,
				CASE WHEN half_life > 0 THEN h.dag_id END AS dag
			FROM airflow_bp.held_entries() h JOIN jsonb_to_recordset(policy -> 'tenants') t (name text) ON t.name = h.tenant
			WHERE NOT h.granted AND h.reason <> 'held_drain') p;
		SELECT coalesce(jsonb_object_agg(u.name, u.usage), '{}') INTO used
		FROM airflow_bp.tenant_usage() u JOIN jsonb_to_recordset(policy -> 'tenants') t (name text) ON t.name = u.name;
	END IF;
	RETURN policy || jsonb_build_object('usage', used, 'pending', pending, 'now_s', extract(epoch FROM clock_timestamp()),
		'max_age_s', extract(epoch FROM current_setting('airflow_bp.max_age')::interval),
		'age_priority', current_setting('airflow_bp.age_priority')::int, 'age_tasks', current_setting('airflow_bp.age_tasks')::int,
		'half_life_s', half_life);
END
$$;
COMMENT ON FUNCTION airflow_bp.preview_state() IS
'The live state as preview() takes it: policy, usage with grants, held tasks without a grant, and not under a drain, as pending (id: task_instance.id), settings of ageing, now. preview(preview_state()) says what a fill would admit now. usage and pending are null while the counters are not ready. With airflow_bp.usage_half_life, all DAGs count as if they had used nothing before.';

CREATE FUNCTION airflow_bp.change_fault(changes jsonb) RETURNS TABLE (code text, message text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH part AS (
		SELECT p.key AS part, p.value FROM jsonb_each(CASE jsonb_typeof(changes) WHEN 'object' THEN changes ELSE '{}' END) p
	), entry AS (
		SELECT part, format('%s[%s]', part, e.n - 1) AS path, e.value
		FROM part, jsonb_array_elements(CASE jsonb_typeof(part.value) WHEN 'array' THEN part.value ELSE '[]' END) WITH ORDINALITY e (value, n)
	), field AS (
		SELECT entry.part, entry.path || '.' || f.key AS path, f.key, f.value, jsonb_typeof(f.value) AS kind,
			CASE jsonb_typeof(f.value) WHEN 'number' THEN f.value::numeric ELSE -1 END AS number
		FROM entry, jsonb_each(CASE jsonb_typeof(entry.value) WHEN 'object' THEN entry.value ELSE '{}' END) f
	)
	SELECT 'BP008', 'changes must be an object' WHERE jsonb_typeof(changes) IS DISTINCT FROM 'object'
	UNION ALL
	SELECT 'BP008', part || ' is unknown' FROM part WHERE part NOT IN ('tenants', 'cohorts')
	UNION ALL
	SELECT 'BP008', part || ' must be an array' FROM part WHERE jsonb_typeof(value) <> 'array'
	UNION ALL
	SELECT 'BP008', path || ' must be an object' FROM entry WHERE jsonb_typeof(value) <> 'object'
	UNION ALL
	SELECT 'BP008', path || '.name is missing' FROM entry WHERE NOT value ? 'name'
	UNION ALL
	SELECT CASE WHEN key IN ('nominal', 'borrowing_limit', 'lending_limit', 'weight') THEN 'BP002' ELSE 'BP008' END, path || CASE
		WHEN key = 'name' THEN CASE WHEN kind <> 'string' THEN ' must be a string' END
		WHEN key = 'drop' THEN CASE WHEN kind <> 'boolean' THEN ' must be true or false' END
		WHEN key = 'weight' THEN CASE WHEN number <> 0 AND NOT number BETWEEN 1e-9 AND 2147483647
			THEN ' must be 0, or a number from 0.000000001 to 2147483647' END
		WHEN key IN ('nominal', 'borrowing_limit', 'lending_limit') THEN CASE
			WHEN kind <> 'null' AND NOT (number BETWEEN 0 AND 2147483647 AND number = trunc(number))
			THEN ' must be a whole number from 0 to 2147483647, or null' END
		WHEN key IN ('cohort', 'queueing') AND part = 'tenants' OR key = 'parent' AND part = 'cohorts' THEN CASE
			WHEN kind NOT IN ('string', 'null') THEN ' must be a string, or null' END
		ELSE ' is unknown' END
	FROM field
$$;
COMMENT ON FUNCTION airflow_bp.change_fault(jsonb) IS 'What is wrong with the form of changes for preview_change(): error code and message; messages are NULL where nothing is.';

CREATE FUNCTION airflow_bp.change_rows(rows jsonb, changes jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_agg(CASE WHEN c.value -> 'drop' = 'true' THEN '{"name": "default", "nominal": null}'
		ELSE coalesce(r.value, '{}') || coalesce(c.value, '{}') END), '[]')
	FROM jsonb_array_elements(rows) r FULL JOIN jsonb_array_elements(changes) c ON c.value -> 'name' = r.value -> 'name'
	WHERE c.value -> 'drop' IS DISTINCT FROM 'true' OR c.value ->> 'name' = 'default'
$$;
COMMENT ON FUNCTION airflow_bp.change_rows(jsonb, jsonb) IS 'Tenants or cohorts of preview() after changes; the tenant default cannot go, it becomes unlimited.';

CREATE FUNCTION airflow_bp.check_changes(state jsonb, changes jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	fault record;
	entry record;
BEGIN
	SELECT f.code, f.message INTO fault FROM airflow_bp.change_fault(changes) f WHERE f.message IS NOT NULL LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = fault.code, MESSAGE = fault.message,
			HINT = 'Give {"tenants": [{"name", "cohort", "nominal", "borrowing_limit", "lending_limit", "weight", "queueing", "drop"}], "cohorts": [{"name", "parent", ...}]}; only what is to change.';
	END IF;
	FOR entry IN SELECT p.part, left(p.part, -1) AS what, e.value, e.value ->> 'name' AS name, e.n - 1 AS place, e.value -> 'drop' = 'true' AS dropped
		FROM unnest('{tenants,cohorts}'::text[]) p (part), jsonb_array_elements(changes -> p.part) WITH ORDINALITY e (value, n)
		WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(state -> p.part) s WHERE s -> 'name' = e.value -> 'name')
	LOOP
		IF entry.dropped THEN
			RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no %s "%s"', entry.what, entry.name),
				HINT = format('See the table airflow_bp.%s.', entry.what);
		ELSIF entry.what = 'tenant' AND NOT entry.value ? 'nominal' THEN
			RAISE EXCEPTION USING ERRCODE = 'BP008', MESSAGE = format('%s[%s].nominal is missing', entry.part, entry.place),
				HINT = format('There is no tenant "%s" yet; a new one needs its nominal.', entry.name);
		END IF;
		PERFORM airflow_bp.check_name(entry.what, entry.name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_changes(jsonb, jsonb) IS 'Raises what is wrong with changes for preview_change(), as far as it is not preview() that says it.';

CREATE FUNCTION airflow_bp.change_state(state jsonb, changes jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed jsonb := state || jsonb_build_object('tenants', airflow_bp.change_rows(state -> 'tenants', coalesce(changes -> 'tenants', '[]')),
		'cohorts', airflow_bp.change_rows(state -> 'cohorts', coalesce(changes -> 'cohorts', '[]')));
	gone text[] := ARRAY(SELECT t ->> 'name' FROM jsonb_array_elements(state -> 'tenants') t
		EXCEPT SELECT t ->> 'name' FROM jsonb_array_elements(changed -> 'tenants') t);
	stuck text;
BEGIN
	IF gone <> '{}' AND state -> 'usage' <> 'null' THEN
		changed := changed || jsonb_build_object('usage', (state -> 'usage') - gone, 'pending',
			(SELECT coalesce(jsonb_agg(p), '[]') FROM jsonb_array_elements(state -> 'pending') p WHERE p ->> 'tenant' <> ALL (gone)));
	END IF;
	SELECT r.name INTO stuck
	FROM (SELECT * FROM jsonb_to_recordset(changed -> 'tenants') t (name text, cohort text, borrowing_limit int, lending_limit int)
		UNION ALL SELECT * FROM jsonb_to_recordset(changed -> 'cohorts') c (name text, parent text, borrowing_limit int, lending_limit int)) r
	WHERE r.cohort IS NULL AND num_nonnulls(r.borrowing_limit, r.lending_limit) > 0;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('"%s" would stand alone, where it neither borrows nor lends', stuck),
			HINT = 'Give it a cohort or parent, or make its borrowing_limit and lending_limit null.';
	END IF;
	RETURN changed;
END
$$;
COMMENT ON FUNCTION airflow_bp.change_state(jsonb, jsonb) IS 'preview_state() after changes; the load of a tenant that is dropped goes with it. BP002 limits on who stands alone.';

CREATE FUNCTION airflow_bp.enforced(tenant text) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce((SELECT m.may_enforce AND d.mode <> 'off'
			AND coalesce((SELECT t.mode FROM airflow_bp.tenant t WHERE t.name = enforced.tenant), d.mode) = 'enforce'
		FROM airflow_bp.deployment d CROSS JOIN airflow_bp.memory_state() m), false)
$$;
COMMENT ON FUNCTION airflow_bp.enforced(text) IS 'Does the gate hold tasks of this tenant?';

CREATE FUNCTION airflow_bp.preview_change(changes jsonb) RETURNS TABLE (
	tenant text, cohort text, usage bigint, available_before bigint, available_after bigint, potential_before bigint, potential_after bigint,
	share_before float8, share_after float8, starts_before bigint, starts_after bigint, held_before bigint, held_after bigint, note text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state jsonb := airflow_bp.preview_state();
	known boolean := state -> 'usage' <> 'null';
	changed jsonb;
	before jsonb;
	after jsonb;
BEGIN
	PERFORM airflow_bp.check_changes(state, changes);
	changed := airflow_bp.change_state(state, changes);
	before := airflow_bp.preview(state) -> 'nodes';
	after := airflow_bp.preview(changed) -> 'nodes';
	RETURN QUERY
	WITH listed AS (
		SELECT coalesce(o.name, n.name) AS name, CASE WHEN n.name IS NULL THEN o.cohort ELSE n.cohort END AS cohort,
			o.name IS NOT NULL AS was, n.name IS NOT NULL AS stays
		FROM jsonb_to_recordset(state -> 'tenants') o (name text, cohort text)
		FULL JOIN jsonb_to_recordset(changed -> 'tenants') n (name text, cohort text) ON n.name = o.name
	), pending AS MATERIALIZED (
		SELECT p.tenant, p.slots, count(*) AS tasks
		FROM jsonb_to_recordset(CASE WHEN known THEN changed -> 'pending' ELSE '[]' END) p (tenant text, slots bigint) GROUP BY 1, 2
	), misfit AS (
		SELECT p.tenant, sum(p.tasks) AS tasks FROM pending p WHERE p.slots > (after #>> ARRAY[p.tenant, 'potential'])::bigint GROUP BY 1
	)
	SELECT l.name, l.cohort, CASE WHEN known THEN coalesce(b.usage, 0) END,
		CASE WHEN known THEN b.available END, CASE WHEN known THEN a.available END, b.potential, a.potential,
		CASE WHEN known THEN ceil(b.share) END, CASE WHEN known THEN ceil(a.share) END,
		CASE WHEN known THEN b.admitted_tasks END, CASE WHEN known THEN a.admitted_tasks END,
		CASE WHEN known THEN b.held_tasks END, CASE WHEN known THEN a.held_tasks END,
		nullif(concat_ws('; ',
			CASE WHEN NOT l.was THEN 'new' END,
			CASE WHEN NOT l.stays THEN 'dropped, its tasks are left out' END,
			CASE WHEN known AND a.usage > a.potential THEN format('uses %s slots more than it may have; none is cancelled', a.usage - a.potential) END,
			'held tasks that never fit: ' || f.tasks,
			CASE WHEN NOT airflow_bp.enforced(l.name) THEN 'not enforced, none is held' END), '')
	FROM listed l LEFT JOIN misfit f ON f.tenant = l.name
	CROSS JOIN LATERAL jsonb_to_record(CASE WHEN l.was THEN before -> l.name END)
		b (usage bigint, available bigint, potential bigint, share float8, admitted_tasks bigint, held_tasks bigint)
	CROSS JOIN LATERAL jsonb_to_record(CASE WHEN l.stays THEN after -> l.name END)
		a (usage bigint, available bigint, potential bigint, share float8, admitted_tasks bigint, held_tasks bigint)
	ORDER BY l.name;
END
$$;
COMMENT ON FUNCTION airflow_bp.preview_change(jsonb) IS
'What a change of policy would do now, one row per tenant, changed or not; nothing is changed. changes: {"tenants": [{"name", and what is to change of "cohort", "nominal", "borrowing_limit", "lending_limit", "weight", "queueing"}], "cohorts": [{"name", "parent", ...}]}; null lifts a limit; a new name is a new tenant (needs its nominal) or cohort; {"name", "drop": true} takes it away, a tenant with its tasks.
In slots: usage, available (what an admission could take), potential (most that could ever be available; NULL: unlimited).
share as in tenants(), before anything starts. In tasks: starts (held tasks that a fill would admit now), held (those that it would not).
cohort: after the change. note: what else to know. NULL while the counters are not ready, and on the side where there is no such tenant.
BP001 unknown, bad or repeated name, BP002 bad number, BP007 cycle or too deep, BP008 not of this form.';

CREATE FUNCTION airflow_bp.preview_tree(state jsonb, tenant text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE cohort AS (
		SELECT c.value, c.value ->> 'name' AS name, c.value ->> 'parent' AS parent FROM jsonb_array_elements(state -> 'cohorts') c
	), above (name) AS (
		SELECT t ->> 'cohort' FROM jsonb_array_elements(state -> 'tenants') t WHERE t ->> 'name' = preview_tree.tenant
		UNION ALL
		SELECT c.parent FROM above a JOIN cohort c ON c.name = a.name
	), below (name) AS (
		SELECT c.name FROM above a JOIN cohort c ON c.name = a.name WHERE c.parent IS NULL
		UNION ALL
		SELECT c.name FROM below b JOIN cohort c ON c.parent = b.name
	), member AS (
		SELECT t.value, t.value ->> 'name' AS name FROM jsonb_array_elements(state -> 'tenants') t
		WHERE t.value ->> 'name' = preview_tree.tenant OR t.value ->> 'cohort' IN (SELECT b.name FROM below b)
	)
	SELECT state || jsonb_build_object(
		'cohorts', (SELECT coalesce(jsonb_agg(c.value), '[]') FROM cohort c WHERE c.name IN (SELECT b.name FROM below b)),
		'tenants', (SELECT jsonb_agg(m.value) FROM member m),
		'usage', CASE WHEN state -> 'usage' <> 'null' THEN (SELECT coalesce(jsonb_object_agg(u.key, u.value), '{}')
			FROM jsonb_each(nullif(state -> 'usage', 'null')) u WHERE u.key IN (SELECT m.name FROM member m)) END,
		'pending', CASE WHEN state -> 'pending' <> 'null' THEN (SELECT coalesce(jsonb_agg(p), '[]')
			FROM jsonb_array_elements(nullif(state -> 'pending', 'null')) p WHERE p ->> 'tenant' IN (SELECT m.name FROM member m)) END)
$$;
COMMENT ON FUNCTION airflow_bp.preview_tree(jsonb, text) IS 'Of preview_state() the tree of one tenant: all who share with it.';

CREATE FUNCTION airflow_bp.finish_rates() RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_object_agg(q.scope_name, q.rates_5[3] * coalesce(q.slots_charged::float8 / nullif(q.scheduled + q.queued + q.running, 0), 1))
	FROM airflow_bp.queue_counts('tenant') q WHERE q.rates_5[3] > 0
$$;
COMMENT ON FUNCTION airflow_bp.finish_rates() IS 'Slots that come free per minute, by tenant: finishes over 5 minutes, times the average size of the active tasks. NULL when nothing ends, or it is not known.';

CREATE FUNCTION airflow_bp.preview_nodes(state jsonb) RETURNS TABLE (name text, parent text, tenant boolean, nominal bigint,
	borrowing_limit bigint, quota bigint, kept bigint, usage bigint, available bigint, potential bigint, share float8)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH outcome AS MATERIALIZED (
		SELECT airflow_bp.preview(state - 'pending') -> 'nodes' AS nodes
	), given AS (
		SELECT c.name, c.parent, false AS tenant, c.nominal, c.borrowing_limit, c.lending_limit FROM jsonb_to_recordset(state -> 'cohorts')
			c (name text, parent text, nominal bigint, borrowing_limit bigint, lending_limit bigint)
		UNION ALL
		SELECT t.name, t.cohort, true, t.nominal, t.borrowing_limit, t.lending_limit FROM jsonb_to_recordset(state -> 'tenants')
			t (name text, cohort text, nominal bigint, borrowing_limit bigint, lending_limit bigint)
	)
	SELECT g.name, g.parent, g.tenant, g.nominal, g.borrowing_limit, n.quota, coalesce(greatest(0, n.quota - g.lending_limit), 0), n.usage,
		n.available, n.potential, ceil(n.share)
	FROM given g CROSS JOIN outcome o
	CROSS JOIN LATERAL jsonb_to_record(o.nodes -> g.name) n (quota bigint, usage bigint, available bigint, potential bigint, share float8)
$$;
COMMENT ON FUNCTION airflow_bp.preview_nodes(jsonb) IS 'Cohorts and tenants of preview_state() before a fill, with their limits; kept: slots of the quota that are never lent.';

CREATE FUNCTION airflow_bp.facts_of_limits(state jsonb, tenant text, slots bigint) RETURNS TABLE (fact text, name text, slots bigint, detail text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE node AS MATERIALIZED (
		SELECT n.*, n.quota + CASE WHEN n.parent IS NULL THEN 0 ELSE n.borrowing_limit END AS most FROM airflow_bp.preview_nodes($1) n
	), path AS (
		SELECT n.*, $3 AS need, 1 AS depth FROM node n WHERE n.tenant AND n.name = $2
		UNION ALL
		-- What a node keeps to itself it does not need from above.
		SELECT n.*, p.need - greatest(0, p.kept - p.usage), p.depth + 1
		FROM path p JOIN node n ON n.name = p.parent WHERE p.need > greatest(0, p.kept - p.usage)
	)
	(SELECT 'limit', p.name, greatest(0, p.most - p.usage), format(CASE WHEN p.parent IS NOT NULL THEN
			'%s of %s slots are used, with all that it may borrow' ELSE '%s of %s slots are used' END, p.usage, p.most)
	FROM path p WHERE p.most - p.usage < p.need ORDER BY p.depth)
	UNION ALL
	(SELECT 'kept', n.name, n.kept - n.usage, format('%s keeps %s idle slots to itself', n.name, n.kept - n.usage)
	FROM node n WHERE n.kept > n.usage AND n.name NOT IN (SELECT p.name FROM path p) ORDER BY n.name)
$$;
COMMENT ON FUNCTION airflow_bp.facts_of_limits(jsonb, text, bigint) IS 'Facts of explain_tenant(): limits that so many slots more would exceed, from the tenant up, and idle slots that others keep.';

CREATE FUNCTION airflow_bp.facts_of_others(state jsonb, tenant text, head text) RETURNS TABLE (fact text, name text, slots bigint, detail text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH node AS MATERIALIZED (
		SELECT * FROM airflow_bp.preview_nodes($1)
	), pending AS MATERIALIZED (
		SELECT * FROM jsonb_to_recordset($1 -> 'pending') p (id text, tenant text, slots bigint)
	), raised AS (
		-- The order in which all would go, were slots added at the root: it does not depend on how many there are.
		SELECT airflow_bp.preview($1 || jsonb_build_object('cohorts', (SELECT jsonb_agg(CASE WHEN c -> 'parent' = 'null'
			THEN c || jsonb_build_object('nominal', least(2147483647, (c -> 'nominal')::bigint
				+ (SELECT sum(p.slots) FROM pending p) + (SELECT sum(n.usage) FROM node n)))
			ELSE c END) FROM jsonb_array_elements($1 -> 'cohorts') c))) -> 'order' AS ids
		WHERE $1 -> 'cohorts' <> '[]'
	), place AS (
		SELECT o.id, o.n FROM raised, jsonb_array_elements_text(raised.ids) WITH ORDINALITY o (id, n)
	)
	(SELECT 'ahead', p.tenant, sum(p.slots), format('held tasks of %s that go first: %s', p.tenant, count(*))
	FROM place JOIN pending p USING (id) WHERE place.n < (SELECT h.n FROM place h WHERE h.id = $3)
	GROUP BY p.tenant ORDER BY min(place.n))
	UNION ALL
	(SELECT 'claimed', n.name, least(n.quota - n.usage, w.slots), format('%s waits for %s slots of its nominal', n.name, least(n.quota - n.usage, w.slots))
	FROM node own JOIN pending h ON h.id = $3 AND own.usage + h.slots > own.quota CROSS JOIN node n
	JOIN (SELECT p.tenant, sum(p.slots)::bigint AS slots FROM pending p GROUP BY 1) w ON w.tenant = n.name
	WHERE own.tenant AND own.name = $2 AND n.tenant AND n.name <> $2 AND n.usage < n.quota ORDER BY n.name)
	UNION ALL
	(SELECT 'borrowed', n.name, n.usage - n.quota, format('%s has borrowed %s slots, share %s', n.name, n.usage - n.quota, n.share)
	FROM node n WHERE n.tenant AND n.name <> $2 AND n.parent IS NOT NULL AND n.usage > n.quota ORDER BY n.usage - n.quota DESC, n.name)
$$;
COMMENT ON FUNCTION airflow_bp.facts_of_others(jsonb, text, text) IS 'Facts of explain_tenant(): tasks of other tenants that would go before its head, and who has borrowed.';

CREATE FUNCTION airflow_bp.without_misfits(state jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT state || jsonb_build_object('pending', (SELECT coalesce(jsonb_agg(p), '[]') FROM jsonb_array_elements(state -> 'pending') p
		JOIN airflow_bp.preview_nodes(state) n ON n.tenant AND n.name = p ->> 'tenant'
		WHERE n.potential IS NULL OR (p -> 'slots')::bigint <= n.potential))
$$;
COMMENT ON FUNCTION airflow_bp.without_misfits(jsonb) IS 'preview_state() without the tasks that never fit, which are in nobody''s way.';

CREATE FUNCTION airflow_bp.tenant_head(state jsonb, tenant text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	-- Alone and without a limit all of them go, in their order.
	SELECT airflow_bp.preview($1 || jsonb_build_object('cohorts', '[]'::jsonb, 'usage', '{}'::jsonb,
		'tenants', jsonb_build_array(jsonb_build_object('name', $2, 'nominal', NULL)),
		'pending', (SELECT jsonb_agg(p) FROM jsonb_array_elements($1 -> 'pending') p WHERE p ->> 'tenant' = $2))) -> 'order' ->> 0
$$;
COMMENT ON FUNCTION airflow_bp.tenant_head(jsonb, text) IS 'Id of the task of a tenant that goes first; NULL when none waits.';

CREATE FUNCTION airflow_bp.task_name(ti_id uuid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format($query$SELECT format('%%s %%s %%s', dag_id, run_id, task_id) || CASE WHEN map_index >= 0 THEN format(' [%%s]', map_index) ELSE '' END
		FROM %s t WHERE id = $1$query$, airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'task_instance', 'id uuid', 'dag_id text',
		'run_id text', 'task_id text', 'map_index int')) INTO result USING ti_id;
	RETURN result;
END
$$;
COMMENT ON FUNCTION airflow_bp.task_name(uuid) IS 'DAG, run and task, as one text; NULL for a task that is not there.';

CREATE FUNCTION airflow_bp.facts_of_head(state jsonb, tenant text, head text) RETURNS TABLE (
	fact text, name text, slots bigint, since timestamptz, turn_in interval, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	members text[] := ARRAY(SELECT t ->> 'name' FROM jsonb_array_elements(state -> 'tenants') t);
	rates jsonb := (SELECT jsonb_object_agg(r.key, r.value) FROM jsonb_each(airflow_bp.finish_rates()) r WHERE r.key = ANY (members));
	filled jsonb := airflow_bp.preview(state || jsonb_build_object('watch', head, 'finishes', rates));
	entry record;
BEGIN
	SELECT h.slots, h.priority, h.first_asked, h.asks, h.reason INTO entry
	FROM airflow_bp.held_entries() h WHERE h.ti_id = head::uuid;
	RETURN QUERY SELECT 'next', airflow_bp.task_name(head::uuid), entry.slots::bigint, entry.first_asked,
		make_interval(secs => (filled ->> 'turn_s')::float8),
		format('%s, priority: %s, asks: %s', entry.reason, entry.priority, entry.asks)
			|| CASE WHEN filled -> 'order' ? head THEN ', a fill admits it now' ELSE '' END;
	IF NOT filled -> 'order' ? head THEN
		RETURN QUERY SELECT f.fact, f.name, f.slots, NULL::timestamptz, NULL::interval, f.detail
		FROM airflow_bp.facts_of_limits(state, tenant, entry.slots) f;
		RETURN QUERY SELECT f.fact, f.name, f.slots, NULL::timestamptz, NULL::interval, f.detail
		FROM airflow_bp.facts_of_others(state, tenant, head) f;
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.facts_of_head(jsonb, text, text) IS 'Facts of explain_tenant() on the task that goes first.';

CREATE FUNCTION airflow_bp.tenant_facts(tenant text) RETURNS TABLE (
	fact text, name text, slots bigint, since timestamptz, turn_in interval, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state jsonb := airflow_bp.preview_tree(airflow_bp.preview_state(), tenant);
	known boolean := state -> 'usage' <> 'null';
	own record;
	held bigint;
	drained bigint := (SELECT count(*) FROM airflow_bp.held_entries() h WHERE h.tenant = tenant_facts.tenant AND h.reason = 'held_drain');
	too_large bigint;
	head text;
BEGIN
	IF state -> 'tenants' = 'null' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no tenant "%s"', coalesce(tenant, 'NULL')),
			HINT = 'See airflow_bp.tenants().';
	END IF;
	SELECT n.* INTO own FROM airflow_bp.preview_nodes(state) n WHERE n.tenant AND n.name = tenant_facts.tenant;
	SELECT count(*), count(*) FILTER (WHERE p.slots > own.potential) INTO held, too_large
	FROM jsonb_to_recordset(nullif(state -> 'pending', 'null')) p (tenant text, slots bigint) WHERE p.tenant = own.name;
	RETURN QUERY SELECT 'tenant', own.name, CASE WHEN known THEN own.usage END, NULL::timestamptz, NULL::interval, concat_ws('; ',
		CASE WHEN own.nominal IS NULL THEN 'unlimited' ELSE format('nominal %s', own.nominal) END,
		'borrowing_limit ' || own.borrowing_limit, 'cohort ' || own.parent,
		CASE WHEN known THEN 'uses ' || own.usage ELSE 'the counters are not ready' END,
		CASE WHEN known THEN own.available || ' available' END,
		CASE WHEN known AND held + drained = 0 THEN 'no task is held' WHEN known THEN 'held: ' || held END,
		CASE WHEN NOT airflow_bp.enforced(own.name) THEN 'not enforced' END);
	RETURN QUERY SELECT 'granted', own.name, sum(h.slots), min(h.first_asked), NULL::interval,
		format('tasks that may pass when the scheduler asks again: %s', count(*))
	FROM airflow_bp.held_entries() h WHERE h.tenant = own.name AND h.granted HAVING known AND count(*) > 0;
	RETURN QUERY SELECT 'drain', own.name, sum(h.slots), min(h.first_asked), NULL::interval,
		format('tasks held by a drain: %s, see airflow_bp.drain_status()', drained)
	FROM airflow_bp.held_entries() h WHERE h.tenant = own.name AND h.reason = 'held_drain' HAVING drained > 0;
	RETURN QUERY SELECT 'never_fits', own.name, NULL::bigint, NULL::timestamptz, NULL::interval,
		format('held tasks of more than %s slots, the most that it can have: %s', own.potential, too_large) WHERE too_large > 0;
	IF known AND held > too_large THEN
		state := airflow_bp.without_misfits(state);
		RETURN QUERY SELECT * FROM airflow_bp.facts_of_head(state, own.name, airflow_bp.tenant_head(state, own.name));
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.tenant_facts(text) IS 'The rows of explain_tenant(), without their numbers.';

CREATE FUNCTION airflow_bp.explain_tenant(name text) RETURNS TABLE (
	line bigint, fact text, subject text, slots bigint, since timestamptz, turn_in interval, detail text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT f.line, f.fact, f.name, f.slots, f.since, f.turn_in, f.detail
	FROM airflow_bp.tenant_facts($1) WITH ORDINALITY f (fact, name, slots, since, turn_in, detail, line) ORDER BY f.line
$$;
COMMENT ON FUNCTION airflow_bp.explain_tenant(text) IS
'Why the next task of a tenant waits, in rows. fact: tenant (slots: its usage), granted (held tasks with a grant), drain (tasks that a drain holds; only the others are in the lines below), never_fits, next (the task that goes first: slots it needs, since: first asked, turn_in: when its turn comes at the rate at which tasks ended in the last 5 minutes, if nobody new came; NULL: cannot be known), limit (subject: tenant or cohort that has too little left, slots: what is left), kept (idle slots that a lender keeps to itself), claimed (a lender waits for its own slots), ahead (other tenants whose held tasks go first, slots: of those), borrowed (who has borrowed in its cohorts, and how much). detail says it in words. One row when no task is held; without numbers while the counters are not ready. BP001 no such tenant.';
