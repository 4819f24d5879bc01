-- CREATE EXTENSION makes the schema; nobody but its owner may use it until grant_reader() or grant_operator() says so.
SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON SCHEMA airflow_bp IS 'Queue analysis and admission control for Apache Airflow';

-- Whoever owns the schema, or may make objects in it, could plant functions that ours would call.
DO $$
BEGIN
	IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
			WHERE n.nspname OPERATOR(pg_catalog.=) 'airflow_bp') THEN
		RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'schema airflow_bp belongs to a role that is not a superuser',
			HINT = 'Drop or rename it first.';
	ELSIF EXISTS (SELECT FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
			WHERE n.nspname OPERATOR(pg_catalog.=) 'airflow_bp' AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
				AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner)
		OR EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_depend d ON d.refobjid OPERATOR(pg_catalog.=) n.oid
			WHERE n.nspname OPERATOR(pg_catalog.=) 'airflow_bp' AND d.refclassid OPERATOR(pg_catalog.=) n.tableoid
				AND d.classid OPERATOR(pg_catalog.<>) 'pg_catalog.pg_extension'::pg_catalog.regclass) THEN
		RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'schema airflow_bp is not empty, or other roles may make objects in it',
			HINT = 'Drop or rename it first.';
	END IF;
END
$$;
