-- The inbox of tasks that are stuck.

-- A row for a whole run has no task_id, map_index, try_number and ti_id.
CREATE TABLE airflow_bp.dead_letter (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	dag_id text NOT NULL,
	run_id text NOT NULL,
	task_id text,
	map_index int,
	try_number int,
	ti_id uuid,
	cause text NOT NULL,
	evidence jsonb NOT NULL DEFAULT '{}',
	state text,
	tenant text,
	pool text,
	queue text,
	executor text,
	first_seen timestamptz NOT NULL DEFAULT now(),
	last_seen timestamptz NOT NULL DEFAULT now(),
	times_seen bigint NOT NULL DEFAULT 1,
	status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'retried', 'failed', 'discarded', 'recovered')),
	closed_at timestamptz,
	closed_by text,
	why text,
	CONSTRAINT dead_letter_key UNIQUE NULLS NOT DISTINCT (dag_id, run_id, task_id, map_index, try_number)
);
CREATE INDEX dead_letter_open ON airflow_bp.dead_letter (id) WHERE status = 'open';
COMMENT ON TABLE airflow_bp.dead_letter IS 'Inbox of tasks that are stuck, one row for each try of a task, or with task_id NULL for a run. cause and evidence: those of stuck() when last seen; ti_id, state, tenant, pool, queue, executor: of the task then. first_seen, last_seen, times_seen: of the findings. status: open; retried, failed, discarded by an operator or a policy; recovered: it moved again by itself. closed_at, closed_by, why: when, by whom and why it left open.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.dead_letter_id_seq', '');

