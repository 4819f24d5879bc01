-- CREATE EXTENSION makes the schema; nobody but its owner may use it until grant_reader() or grant_operator() says so.
COMMENT ON SCHEMA airflow_bp IS 'Queue analysis and admission control for Apache Airflow';


-- Whoever owns the schema could plant functions that ours would call.
DO $$
BEGIN
	IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
			WHERE n.nspname OPERATOR(pg_catalog.=) 'airflow_bp') THEN
		RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'schema airflow_bp belongs to a role that is not a superuser',
			HINT = 'Drop or rename it first.';
	END IF;
END
$$;
