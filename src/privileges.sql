-- Last of all parts, so that it covers every function: PUBLIC may call nothing.  Trigger functions are checked when enable() makes
-- the triggers, not when they fire, so the role of Airflow needs no right here.
REVOKE ALL ON ALL ROUTINES IN SCHEMA airflow_bp FROM PUBLIC;

SELECT airflow_bp.need_library();

-- The examine query of the scheduler calls it, in the name of Airflow's role; it tells no more than true or false.
GRANT EXECUTE ON FUNCTION airflow_bp.look_useful(varchar, varchar, oid) TO PUBLIC;
