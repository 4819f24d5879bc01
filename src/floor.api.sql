-- Functions that the tables need.

CREATE FUNCTION airflow_bp.policy_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'airflow_bp_policy_changed';
COMMENT ON FUNCTION airflow_bp.policy_changed() IS 'Trigger on the tables of policy: wakes the worker when the change is committed.';

CREATE FUNCTION airflow_bp.pattern_valid(pattern text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- A back reference can take for ever to match, and the worker matches every DAG.
	RETURN pattern <> '' AND octet_length(pattern) <= 1000
		AND (left(pattern, 1) <> '~' OR (pattern !~ '\\[1-9]' AND '' ~ substr(pattern, 2) IS NOT NULL));
EXCEPTION WHEN invalid_regular_expression THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION airflow_bp.pattern_valid(text) IS 'Is this a pattern of a tenant rule: not empty, at most 1000 bytes, after a leading ~ a regular expression that compiles and has no back references?';

CREATE FUNCTION airflow_bp.pattern_regexp(pattern text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN left(pattern, 1) = '~' THEN substr(pattern, 2)
		ELSE '^(?:' || replace(replace(regexp_replace(pattern, '([^[:alnum:]_*?])', '\\\1', 'g'), '*', '.*'), '?', '.') || ')$' END
$$;
COMMENT ON FUNCTION airflow_bp.pattern_regexp(text) IS 'Regular expression that says what a glob says; what follows a leading ~ is one already.';

