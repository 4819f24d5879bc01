-- Ages at which tasks are reported as stuck.

CREATE TABLE airflow_bp.stuck_threshold (
	cause text NOT NULL CHECK (cause <> ''),
	scope text NOT NULL CHECK (scope IN ('deployment', 'tenant', 'pool', 'queue')),
	name text CHECK (name <> '' AND octet_length(name) <= 1024),
	after interval CHECK (after BETWEEN interval '0' AND interval '365 days'),
	warn interval CHECK (warn BETWEEN interval '0' AND interval '365 days'),
	CONSTRAINT stuck_threshold_key UNIQUE NULLS NOT DISTINCT (cause, scope, name),
	CONSTRAINT stuck_threshold_name CHECK ((scope = 'deployment') = (name IS NULL))
);
COMMENT ON TABLE airflow_bp.stuck_threshold IS 'Ages set by set_stuck_threshold(), for a tenant, a pool, a queue or the deployment. after: age from which a task is stuck; NULL: never, the cause is switched off. warn: age from which it is shown before that; NULL: not before.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.stuck_threshold', '');

