-- Tenants, cohorts and rules.

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
			HINT = 'Give a number of slots.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_limit(text, int) IS 'Raises BP002 when a limit in slots is negative.';

CREATE FUNCTION airflow_bp.check_weight(value float8) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF value IS NULL OR NOT (value = 0 OR value BETWEEN 1e-9 AND 2147483647) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('weight must be 0, or from 1e-9 to 2147483647: %s', coalesce(value::text, 'NULL')),
			HINT = 'Give 1 for an equal share, 0 to borrow last.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_weight(float8) IS 'Raises BP002 when a weight is out of its range.';

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

CREATE FUNCTION airflow_bp.check_cohort(name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM airflow_bp.cohort c WHERE c.name = check_cohort.name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no cohort "%s"', name),
			HINT = format('Call airflow_bp.set_cohort(%L) first.', name);
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_cohort(text) IS 'Raises BP001 when a cohort is named that is not there.';

CREATE FUNCTION airflow_bp.lock_policy() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
		RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction', MESSAGE = 'a change of tenants or cohorts has to see what is committed meanwhile',
			HINT = 'Do it at isolation level READ COMMITTED.';
	END IF;
	LOCK TABLE airflow_bp.cohort IN SHARE ROW EXCLUSIVE MODE;
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_policy() IS 'Lets one transaction at a time change tenants and cohorts, so that no two make a cycle or take one name. 25001 where it could not see what is committed.';

CREATE FUNCTION airflow_bp.set_tenant(name text, nominal int, cohort text DEFAULT NULL, borrowing_limit int DEFAULT NULL,
	lending_limit int DEFAULT NULL, weight float8 DEFAULT 1, queueing text DEFAULT 'strict',
	count_deferred boolean DEFAULT false, mode text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_name('tenant', set_tenant.name);
	PERFORM airflow_bp.check_limit('nominal', set_tenant.nominal);
	PERFORM airflow_bp.check_limit('borrowing_limit', set_tenant.borrowing_limit);
	PERFORM airflow_bp.check_limit('lending_limit', set_tenant.lending_limit);
	PERFORM airflow_bp.check_weight(set_tenant.weight);
	PERFORM airflow_bp.check_choice('queueing', set_tenant.queueing, 'strict', 'best_effort');
	IF set_tenant.mode IS NOT NULL THEN
		PERFORM airflow_bp.check_choice('mode', set_tenant.mode, 'off', 'observe', 'enforce');
	END IF;
	IF set_tenant.cohort IS NULL AND num_nonnulls(set_tenant.borrowing_limit, set_tenant.lending_limit) > 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = 'a tenant without a cohort neither borrows nor lends',
			HINT = 'Give a cohort, or leave borrowing_limit and lending_limit NULL.';
	ELSIF set_tenant.cohort IS NOT NULL AND set_tenant.nominal IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = 'a tenant in a cohort needs a nominal',
			HINT = 'Give the slots that are guaranteed to it; 0: it only borrows.';
	END IF;
	PERFORM airflow_bp.lock_policy();
	IF set_tenant.cohort IS NOT NULL THEN
		PERFORM airflow_bp.check_cohort(set_tenant.cohort);
	END IF;
	IF EXISTS (SELECT FROM airflow_bp.cohort c WHERE c.name = set_tenant.name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('there is a cohort "%s"', set_tenant.name),
			HINT = 'Tenants and cohorts share their names; give another.';
	END IF;
	INSERT INTO airflow_bp.tenant AS t (name, nominal, cohort, borrowing_limit, lending_limit, weight, queueing, count_deferred, mode)
	VALUES (set_tenant.name, set_tenant.nominal, set_tenant.cohort, set_tenant.borrowing_limit, set_tenant.lending_limit, set_tenant.weight,
		set_tenant.queueing, coalesce(set_tenant.count_deferred, false), set_tenant.mode)
	ON CONFLICT ON CONSTRAINT tenant_pkey DO UPDATE SET nominal = excluded.nominal, cohort = excluded.cohort,
		borrowing_limit = excluded.borrowing_limit, lending_limit = excluded.lending_limit, weight = excluded.weight,
		queueing = excluded.queueing, count_deferred = excluded.count_deferred, mode = excluded.mode;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_tenant(text, int, text, int, int, float8, text, boolean, text) IS
'Makes a tenant, or replaces all its values. nominal in slots, NULL: unlimited; in a cohort: its guarantee, not NULL. borrowing_limit and lending_limit in slots, only in a cohort, NULL: no limit. weight: its part of what is borrowed, 0 or 1e-9 to 2147483647; queueing strict (nobody passes the head of the line) or best_effort; mode NULL: that of the deployment. BP001 bad name or choice or unknown cohort, BP002 bad number, BP004 a cohort has the name.';

CREATE FUNCTION airflow_bp.check_place(name text, parent text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	most CONSTANT int := 32;
	line text[];	-- parent and what is above it
	height int;		-- of name and what is below it
BEGIN
	WITH RECURSIVE above (name, depth) AS (
		SELECT check_place.parent, 1
		UNION ALL
		SELECT c.parent, a.depth + 1 FROM above a JOIN airflow_bp.cohort c ON c.name = a.name
		WHERE c.parent IS NOT NULL AND a.name <> check_place.name AND a.depth <= most
	)
	SELECT array_agg(a.name ORDER BY a.depth) INTO line FROM above a;
	IF check_place.name = ANY (line) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP007', MESSAGE = format('cohort "%s" would be in a cycle', check_place.name),
			DETAIL = format('Each in the next: %s.', array_to_string(check_place.name || line, ', ')),
			HINT = 'Give another parent, or first take one of these out by airflow_bp.set_cohort().';
	END IF;
	WITH RECURSIVE below (name, depth) AS (
		SELECT check_place.name, 1
		UNION ALL
		SELECT c.name, b.depth + 1 FROM below b JOIN airflow_bp.cohort c ON c.parent = b.name
		WHERE c.name <> check_place.name
	)
	SELECT max(b.depth) INTO height FROM below b;
	IF cardinality(line) + height > most THEN
		RAISE EXCEPTION USING ERRCODE = 'BP007', MESSAGE = format('cohorts nest at most %s deep', most),
			HINT = 'Give a parent nearer to the root.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.check_place(text, text) IS 'Raises BP007 when a cohort under that parent would be in a cycle, or nested deeper than 32.';

CREATE FUNCTION airflow_bp.set_cohort(name text, parent text DEFAULT NULL, nominal int DEFAULT 0, borrowing_limit int DEFAULT NULL,
	lending_limit int DEFAULT NULL, weight float8 DEFAULT 1) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_name('cohort', set_cohort.name);
	PERFORM airflow_bp.check_limit('nominal', set_cohort.nominal);
	PERFORM airflow_bp.check_limit('borrowing_limit', set_cohort.borrowing_limit);
	PERFORM airflow_bp.check_limit('lending_limit', set_cohort.lending_limit);
	PERFORM airflow_bp.check_weight(set_cohort.weight);
	IF set_cohort.nominal IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = 'a cohort needs a nominal',
			HINT = 'Give its slots on top of those of its members; 0: none.';
	ELSIF set_cohort.parent IS NULL AND num_nonnulls(set_cohort.borrowing_limit, set_cohort.lending_limit) > 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = 'a cohort without a parent neither borrows nor lends',
			HINT = 'Give a parent, or leave borrowing_limit and lending_limit NULL.';
	END IF;
	PERFORM airflow_bp.lock_policy();
	IF set_cohort.parent IS NOT NULL THEN
		PERFORM airflow_bp.check_place(set_cohort.name, set_cohort.parent);
		PERFORM airflow_bp.check_cohort(set_cohort.parent);
	END IF;
	IF set_cohort.name = 'default' OR EXISTS (SELECT FROM airflow_bp.tenant t WHERE t.name = set_cohort.name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('there is a tenant "%s"', set_cohort.name),
			HINT = 'Tenants and cohorts share their names; give another.';
	END IF;
	INSERT INTO airflow_bp.cohort AS c (name, parent, nominal, borrowing_limit, lending_limit, weight)
	VALUES (set_cohort.name, set_cohort.parent, set_cohort.nominal, set_cohort.borrowing_limit, set_cohort.lending_limit, set_cohort.weight)
	ON CONFLICT ON CONSTRAINT cohort_pkey DO UPDATE SET parent = excluded.parent, nominal = excluded.nominal,
		borrowing_limit = excluded.borrowing_limit, lending_limit = excluded.lending_limit, weight = excluded.weight;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_cohort(text, text, int, int, int, float8) IS
'Makes a cohort, or replaces all its values. parent NULL: a root. nominal in slots, on top of those of its members; borrowing_limit and lending_limit in slots, only under a parent, NULL: no limit; weight: its part of what its parent lends, 0 or 1e-9 to 2147483647. BP001 bad name or unknown parent, BP002 bad number, BP004 a tenant has the name, BP007 a cycle, or nested deeper than 32.';

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

CREATE FUNCTION airflow_bp.drop_cohort(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	members text;
BEGIN
	PERFORM airflow_bp.lock_policy();
	SELECT string_agg(format('airflow_bp.%s(%L, ...)', m.function, m.name), ', ' ORDER BY m.function DESC, m.name) INTO members
	FROM (SELECT 'set_tenant', t.name FROM airflow_bp.tenant t WHERE t.cohort = drop_cohort.name
		UNION ALL SELECT 'set_cohort', c.name FROM airflow_bp.cohort c WHERE c.parent = drop_cohort.name) m (function, name);
	IF members IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('cohort "%s" is in use', drop_cohort.name),
			HINT = format('Give its members another cohort, or none, first: %s.', members);
	END IF;
	DELETE FROM airflow_bp.cohort c WHERE c.name = drop_cohort.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no cohort "%s"', coalesce(drop_cohort.name, 'NULL')),
			HINT = 'See the table airflow_bp.cohort.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_cohort(text) IS
'Drops a cohort without members. BP001 no such cohort, BP004 tenants or cohorts are in it: the hint names them.';

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

