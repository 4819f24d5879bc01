-- Scheduled tasks that gain priority while they wait.

CREATE TABLE airflow_bp.priority_policy (
	scope text NOT NULL CHECK (scope IN ('deployment', 'pool', 'queue', 'dag')),
	name text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 1024),
	step int NOT NULL CHECK (step > 0),
	every interval NOT NULL CHECK (every BETWEEN interval '1 second' AND interval '30 days'),
	cap int NOT NULL CHECK (cap > 0),
	act boolean NOT NULL DEFAULT false,
	PRIMARY KEY (scope, name)
);
COMMENT ON TABLE airflow_bp.priority_policy IS 'Scopes whose scheduled tasks gain priority_weight while they wait, by set_priority_ageing(): step for each full interval every, at most cap in all. Of the policies that match a task the first of dag, queue, pool, deployment applies. act: weights are written, not only proposed.';

-- The key of a task stays through its tries, its id does not.
CREATE TABLE airflow_bp.priority_aged (
	dag_id text NOT NULL,
	run_id text NOT NULL,
	task_id text NOT NULL,
	map_index int NOT NULL,
	original int NOT NULL,
	ours int NOT NULL,
	stopped_since timestamptz,
	aged_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (dag_id, run_id, task_id, map_index)
);
CREATE INDEX priority_aged_at ON airflow_bp.priority_aged (aged_at);
COMMENT ON TABLE airflow_bp.priority_aged IS 'Tasks whose priority_weight we changed: the weight that they had before, and what we wrote last; another weight is a change by its owner, and counts as the original from then on. stopped_since: scheduled_dttm of the wait in which an act was undone; it is left alone. Dropped a day after the last change when the task has finished.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.priority_policy', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.priority_aged', '');

