-- Tenants and their rules.

CREATE FUNCTION airflow_bp.policy_version() RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_policy_version';
COMMENT ON FUNCTION airflow_bp.policy_version() IS 'Version of the policy in force; NULL without shared memory. It equals policy_wanted() when all that is committed is in force.';

CREATE FUNCTION airflow_bp.policy_wanted() RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_policy_wanted';
COMMENT ON FUNCTION airflow_bp.policy_wanted() IS 'Version that policy_version() will reach when all that is committed has been compiled; NULL without shared memory.';

CREATE FUNCTION airflow_bp.check_limit(name text, value int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF value < 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('%s must not be negative: %s', name, value),
			HINT = 'Give a number of slots, or NULL for no limit.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_limit(text, int) IS 'Raises BP002 when a limit in slots is negative.';

CREATE FUNCTION airflow_bp.check_name(what text, name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 63 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('the name of a %s has 1 to 63 bytes', what),
			HINT = 'Give a shorter name that is not empty.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_name(text, text) IS 'Raises BP001 when a name is empty or longer than 63 bytes.';

CREATE FUNCTION airflow_bp.check_choice(what text, value text, VARIADIC choices text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF value IS NULL OR value <> ALL (choices) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('unknown %s: %s', what, coalesce(value, 'NULL')),
			HINT = format('Use one of %s.', array_to_string(choices, ', '));
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_choice(text, text, text[]) IS 'Raises BP001 when a value is none of the choices.';

CREATE FUNCTION airflow_bp.set_tenant(name text, nominal int, cohort text DEFAULT NULL, borrowing_limit int DEFAULT NULL,
	lending_limit int DEFAULT NULL, weight float8 DEFAULT 1, queueing text DEFAULT 'strict',
	count_deferred boolean DEFAULT false, mode text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_name('tenant', set_tenant.name);
	PERFORM airflow_bp.check_limit('nominal', set_tenant.nominal);
	PERFORM airflow_bp.check_choice('queueing', set_tenant.queueing, 'strict', 'best_effort');
	IF set_tenant.mode IS NOT NULL THEN
		PERFORM airflow_bp.check_choice('mode', set_tenant.mode, 'off', 'observe', 'enforce');
	END IF;
	IF set_tenant.weight IS NULL OR NOT (set_tenant.weight >= 0 AND set_tenant.weight < 'infinity') THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('weight must be a finite number of at least 0: %s',
			coalesce(set_tenant.weight::text, 'NULL')), HINT = 'Give 1 for an equal share.';
	END IF;
	IF set_tenant.cohort IS NOT NULL OR set_tenant.borrowing_limit IS NOT NULL OR set_tenant.lending_limit IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'cohorts, borrowing and lending are not supported yet',
			HINT = 'Leave cohort, borrowing_limit and lending_limit NULL.';
	END IF;
	INSERT INTO airflow_bp.tenant AS t (name, nominal, weight, queueing, count_deferred, mode)
	VALUES (set_tenant.name, set_tenant.nominal, set_tenant.weight, set_tenant.queueing,
		coalesce(set_tenant.count_deferred, false), set_tenant.mode)
	ON CONFLICT ON CONSTRAINT tenant_pkey DO UPDATE SET nominal = excluded.nominal, weight = excluded.weight,
		queueing = excluded.queueing, count_deferred = excluded.count_deferred, mode = excluded.mode;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_tenant(text, int, text, int, int, float8, text, boolean, text) IS
'Makes or replaces a tenant. nominal in slots, NULL: unlimited; queueing strict (nobody passes the head of the line) or best_effort; mode NULL: that of the deployment. BP001 bad name or choice, BP002 bad number, 0A000 cohort or limits given.';

CREATE FUNCTION airflow_bp.drop_tenant(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF EXISTS (SELECT FROM airflow_bp.tenant_rule r WHERE r.tenant = drop_tenant.name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('tenant "%s" is in use by a rule', drop_tenant.name),
			HINT = format('Call airflow_bp.drop_tenant_rule(place) for its places first: %s.', (SELECT string_agg(r.place::text, ', ' ORDER BY r.place)
				FROM airflow_bp.tenant_rule r WHERE r.tenant = drop_tenant.name));
	END IF;
	DELETE FROM airflow_bp.tenant t WHERE t.name = drop_tenant.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no tenant "%s"', coalesce(drop_tenant.name, 'NULL')),
			HINT = 'See airflow_bp.tenants().';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_tenant(text) IS
'Drops a tenant that no rule names; its held tasks go to the tenant that the rules give them then. BP001 no such tenant, BP004 a rule names it.';

CREATE FUNCTION airflow_bp.add_tenant_rule(tenant text, match_on text, pattern text, place int DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	chosen int;
BEGIN
	PERFORM airflow_bp.check_choice('match_on', add_tenant_rule.match_on, 'team', 'tag', 'dag_id', 'owner', 'pool', 'queue');
	IF NOT coalesce(airflow_bp.pattern_valid(add_tenant_rule.pattern), false) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP003', MESSAGE = format('invalid pattern: %s', coalesce(add_tenant_rule.pattern, 'NULL')),
			HINT = 'Give a glob with * and ?, or a regular expression without back references after a leading ~.';
	END IF;
	IF NOT EXISTS (SELECT FROM airflow_bp.tenant t WHERE t.name = add_tenant_rule.tenant) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no tenant "%s"', coalesce(add_tenant_rule.tenant, 'NULL')),
			HINT = 'Call airflow_bp.set_tenant(name, nominal) first.';
	END IF;
	LOCK TABLE airflow_bp.tenant_rule IN SHARE ROW EXCLUSIVE MODE;
	chosen := coalesce(add_tenant_rule.place, (SELECT coalesce(max(r.place), 0) + 10 FROM airflow_bp.tenant_rule r));
	INSERT INTO airflow_bp.tenant_rule (place, tenant, match_on, pattern)
	VALUES (chosen, add_tenant_rule.tenant, add_tenant_rule.match_on, add_tenant_rule.pattern);
	RETURN chosen;
EXCEPTION WHEN unique_violation THEN
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('place %s is taken by another rule', chosen),
		HINT = 'Leave place NULL to add the rule at the end.';
WHEN numeric_value_out_of_range THEN
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = 'there is no place after the last rule',
		HINT = 'Give a place.';
END
$$;
COMMENT ON FUNCTION airflow_bp.add_tenant_rule(text, text, text, int) IS
'Adds a rule and returns its place; the first match by place wins. match_on: team, tag, dag_id, owner, pool, queue. pattern: glob with * and ?, or a regular expression after a leading ~. BP001 unknown tenant or match_on, BP003 bad pattern, BP004 place taken.';

CREATE FUNCTION airflow_bp.drop_tenant_rule(place int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.tenant_rule r WHERE r.place = drop_tenant_rule.place;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no rule at place %s', coalesce(drop_tenant_rule.place::text, 'NULL')),
			HINT = 'See the table airflow_bp.tenant_rule.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_tenant_rule(int) IS 'Drops the rule at a place. BP001 no such rule.';

CREATE FUNCTION airflow_bp.match_tenants(dag_ids text[], pools text[], queues text[]) RETURNS TABLE (n bigint, tenant text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN QUERY EXECUTE format($query$
WITH k AS MATERIALIZED (
	-- Shared memory cuts names to 255 bytes.
	SELECT coalesce((SELECT d.dag_id FROM %1$s d WHERE octet_length(u.dag_id) BETWEEN 252 AND 255 AND starts_with(d.dag_id, u.dag_id)
		ORDER BY octet_length(d.dag_id) LIMIT 1), u.dag_id) AS dag_id, pool, queue, n
	FROM unnest($1, $2, $3) WITH ORDINALITY AS u (dag_id, pool, queue, n)
), attribute AS MATERIALIZED (
	SELECT n, 'dag_id' AS match_on, dag_id AS value FROM k
	UNION ALL SELECT n, 'pool', pool FROM k
	UNION ALL SELECT n, 'queue', queue FROM k
	UNION ALL SELECT n, 'owner', trim(o) FROM k JOIN %1$s d USING (dag_id), regexp_split_to_table(d.owners, ',') o
	UNION ALL SELECT n, 'tag', t.name FROM k JOIN %2$s t USING (dag_id)
	UNION ALL SELECT n, 'team', t.team_name FROM k JOIN %1$s d USING (dag_id) JOIN %3$s t ON t.dag_bundle_name = d.bundle_name
), matched AS (
	SELECT a.n, r.place, r.tenant FROM attribute a
		JOIN airflow_bp.tenant_rule r ON r.match_on = a.match_on AND r.pattern = a.value WHERE r.exact
	UNION ALL
	SELECT a.n, r.place, r.tenant
	FROM (SELECT place, tenant, match_on, airflow_bp.pattern_regexp(pattern) AS regexp
		FROM airflow_bp.tenant_rule WHERE NOT exact OFFSET 0) r
		JOIN attribute a ON a.match_on = r.match_on AND a.value ~ r.regexp
)
SELECT DISTINCT ON (m.n) m.n, m.tenant FROM matched m ORDER BY m.n, m.place
$query$,
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id', 'owners', 'bundle_name'),
		airflow_bp.airflow_relation(schema, 'dag_tag', 'dag_id', 'name'),
		airflow_bp.airflow_relation(schema, 'dag_bundle_team', 'dag_bundle_name', 'team_name'))
	USING dag_ids, pools, queues;
END
$body$;
COMMENT ON FUNCTION airflow_bp.match_tenants(text[], text[], text[]) IS
'For each place n of the arrays, from 1, the tenant that the rules name; no row where no rule matches.';

CREATE FUNCTION airflow_bp.tenant_of(dag_id text, pool text DEFAULT NULL, queue text DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce((SELECT m.tenant FROM airflow_bp.match_tenants(ARRAY[$1], ARRAY[$2], ARRAY[$3]) m), 'default')
$$;
COMMENT ON FUNCTION airflow_bp.tenant_of(text, text, text) IS 'Tenant of the tasks of a DAG in a pool and queue, by the rules as they stand in the table.';

