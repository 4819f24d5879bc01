-- Tables of policy.  Edit them by the functions of policy.api.sql or by hand: the constraints hold either way.

CREATE TABLE airflow_bp.deployment (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	mode text NOT NULL CHECK (mode IN ('off', 'observe', 'enforce')),
	enabled_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE airflow_bp.deployment IS 'One row once enable() has been called: the mode (off, observe, enforce) and since when the triggers are there.';

CREATE TABLE airflow_bp.cohort (
	name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
	parent text,
	nominal int NOT NULL DEFAULT 0 CHECK (nominal >= 0),
	borrowing_limit int CHECK (borrowing_limit >= 0),
	lending_limit int CHECK (lending_limit >= 0),
	weight float8 NOT NULL DEFAULT 1 CHECK (weight >= 0 AND weight < 'infinity')
);
COMMENT ON TABLE airflow_bp.cohort IS 'Groups of tenants that share idle slots. Limits in slots; NULL: no limit. Not used yet.';

CREATE TABLE airflow_bp.tenant (
	name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
	nominal int CHECK (nominal >= 0),
	cohort text REFERENCES airflow_bp.cohort,
	borrowing_limit int CHECK (borrowing_limit >= 0),
	lending_limit int CHECK (lending_limit >= 0),
	weight float8 NOT NULL DEFAULT 1 CHECK (weight >= 0 AND weight < 'infinity'),
	queueing text NOT NULL DEFAULT 'strict' CHECK (queueing IN ('strict', 'best_effort')),
	count_deferred boolean NOT NULL DEFAULT false,
	mode text CHECK (mode IN ('off', 'observe', 'enforce'))
);
COMMENT ON TABLE airflow_bp.tenant IS 'Who is charged for slots. nominal: most slots in scheduled, queued, running and restarting (and deferred, when count_deferred); NULL: unlimited. mode NULL: that of the deployment. The tenant default takes what no rule matches.';

CREATE TABLE airflow_bp.tenant_rule (
	place int PRIMARY KEY,
	tenant text NOT NULL REFERENCES airflow_bp.tenant ON UPDATE CASCADE,
	match_on text NOT NULL CHECK (match_on IN ('team', 'tag', 'dag_id', 'owner', 'pool', 'queue')),
	pattern text NOT NULL CHECK (airflow_bp.pattern_valid(pattern)),
	exact boolean GENERATED ALWAYS AS (pattern !~ '[*?]|^~') STORED
);
CREATE INDEX ON airflow_bp.tenant_rule (tenant);
COMMENT ON TABLE airflow_bp.tenant_rule IS 'The first rule by place that matches a task names its tenant. pattern: glob with * and ?, or a regular expression after a leading ~.';

CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON airflow_bp.deployment
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON airflow_bp.tenant
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON airflow_bp.tenant_rule
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.deployment', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.cohort', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.tenant', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.tenant_rule', '');

