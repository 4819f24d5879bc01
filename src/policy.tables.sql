-- Tables of policy.  Edit them by the functions of policy.api.sql or by hand: the constraints hold either way.

CREATE TABLE airflow_bp.deployment (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	mode text NOT NULL CHECK (mode IN ('off', 'observe', 'enforce')),
	enabled_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE airflow_bp.deployment IS 'One row once enable() has been called: the mode (off, observe, enforce) and since when the triggers are there.';

-- parent is no foreign key: pg_dump --data-only cannot order the rows of a table that references itself.
CREATE TABLE airflow_bp.cohort (
	name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63 AND name <> 'default'),
	parent text CONSTRAINT cohort_not_in_itself CHECK (parent <> name),
	nominal int NOT NULL DEFAULT 0 CHECK (nominal >= 0),
	borrowing_limit int CHECK (borrowing_limit >= 0),
	lending_limit int CHECK (lending_limit >= 0),
	weight float8 NOT NULL DEFAULT 1 CHECK (weight = 0 OR weight BETWEEN 1e-9 AND 2147483647),
	CONSTRAINT cohort_limits_need_parent CHECK (parent IS NOT NULL OR (borrowing_limit IS NULL AND lending_limit IS NULL))
);
COMMENT ON TABLE airflow_bp.cohort IS 'Groups of tenants, or of cohorts, that lend each other their idle slots. In slots: nominal, of its own on top of those of its members; borrowing_limit: most that it takes from its parent beyond its quota; lending_limit: most of its quota that others may take; NULL: no limit. weight: its part of what is borrowed. parent NULL, or no cohort of that name: a root.';

CREATE TABLE airflow_bp.tenant (
	name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
	nominal int CHECK (nominal >= 0),
	cohort text REFERENCES airflow_bp.cohort,
	borrowing_limit int CHECK (borrowing_limit >= 0),
	lending_limit int CHECK (lending_limit >= 0),
	weight float8 NOT NULL DEFAULT 1 CHECK (weight = 0 OR weight BETWEEN 1e-9 AND 2147483647),
	queueing text NOT NULL DEFAULT 'strict' CHECK (queueing IN ('strict', 'best_effort')),
	count_deferred boolean NOT NULL DEFAULT false,
	mode text CHECK (mode IN ('off', 'observe', 'enforce')),
	CONSTRAINT tenant_cohort_needs_nominal CHECK (cohort IS NULL OR nominal IS NOT NULL),
	CONSTRAINT tenant_limits_need_cohort CHECK (cohort IS NOT NULL OR (borrowing_limit IS NULL AND lending_limit IS NULL))
);
COMMENT ON TABLE airflow_bp.tenant IS 'Who is charged for slots in scheduled, queued, running and restarting (and deferred, when count_deferred). nominal: most slots, without a cohort; in a cohort its guarantee, over which it borrows what others leave idle; NULL: unlimited, only without a cohort. borrowing_limit: most slots over nominal; lending_limit: most of nominal that others may take; NULL: no limit. weight: its part of what is borrowed. mode NULL: that of the deployment. The tenant default takes what no rule matches.';

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
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON airflow_bp.cohort
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON airflow_bp.tenant
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON airflow_bp.tenant_rule
FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.policy_changed();

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.deployment', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.cohort', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.tenant', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.tenant_rule', '');

