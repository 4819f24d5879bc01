-- Drains for maintenance: what is in scope is admitted no more.

CREATE TABLE airflow_bp.drain (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	scope text NOT NULL CHECK (scope IN ('deployment', 'tenant', 'dag', 'pool', 'queue', 'executor')),
	name text CHECK ((name IS NULL) = (scope = 'deployment')),
	finish text NOT NULL CHECK (finish IN ('runs', 'tasks')),
	since timestamptz NOT NULL DEFAULT clock_timestamp(),
	started_by text NOT NULL DEFAULT session_user,
	at_timeout text NOT NULL DEFAULT 'wait' CHECK (at_timeout IN ('wait', 'extend', 'inbox')),
	timeout interval CHECK (timeout > interval '0'),
	deadline timestamptz,
	timed_out_at timestamptz,
	left_at_start bigint,
	in_force_at timestamptz,
	stopped_at timestamptz,
	stopped_by text
);
CREATE UNIQUE INDEX drain_on ON airflow_bp.drain (scope, name) NULLS NOT DISTINCT WHERE stopped_at IS NULL;
COMMENT ON TABLE airflow_bp.drain IS 'Drains by drain_start(), those with stopped_at NULL are on. finish: runs that had started before since (runs), or only tasks that were admitted (tasks), may finish. deadline: after it at_timeout says what happens: wait (nothing, the drain stays on), extend (by timeout), inbox (what is active goes to dead_letter); timed_out_at: when it did. left_at_start: tasks that had to finish then. in_force_at: first seen to hold by then.';

-- Not on what the worker notes.
CREATE TRIGGER policy_changed AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF scope, name, finish, since, stopped_at ON airflow_bp.drain
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.drain', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.drain_id_seq', '');

