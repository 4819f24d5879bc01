-- What parking has read from serialized DAGs, so that each is read once.

CREATE UNLOGGED TABLE airflow_bp.park_version (
	version_id uuid PRIMARY KEY,
	dag_hash text NOT NULL,
	known boolean NOT NULL,
	chained boolean NOT NULL,
	reschedules boolean NOT NULL,
	run_timeout interval,
	retries jsonb NOT NULL,
	read_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE airflow_bp.park_version IS 'Cache of the worker, one row for each version of a DAG with running runs: known (it could be read), chained (a task waits for tasks of earlier runs), reschedules (a task may be rescheduled), run_timeout, retries (by task: delay, multiplier, longest delay, in seconds). May be emptied at any time.';
