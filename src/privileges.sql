-- Last of all parts, so that it covers every function: PUBLIC may call nothing.  Trigger functions are checked when enable() makes
-- the triggers, not when they fire, so the role of Airflow needs no right here.
REVOKE ALL ON ALL ROUTINES IN SCHEMA airflow_bp FROM PUBLIC;

-- Nor may it build on our types, those of the tables among them, and so be in the way of DROP EXTENSION.
DO $$
DECLARE
	type regtype;
BEGIN
	FOR type IN SELECT t.oid FROM pg_type t WHERE t.typnamespace = 'airflow_bp'::regnamespace AND t.typcategory <> 'A' LOOP
		EXECUTE format('REVOKE ALL ON TYPE %s FROM PUBLIC', type);
	END LOOP;
END
$$;

SELECT airflow_bp.need_library();

-- The examine query of the scheduler calls it, in the name of Airflow's role; it tells no more than true or false.
GRANT EXECUTE ON FUNCTION airflow_bp.look_useful(varchar, varchar, oid) TO PUBLIC;
