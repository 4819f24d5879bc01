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
	act_id bigint,
	attempts int NOT NULL DEFAULT 0,
	attempted_at timestamptz,
	refusal text,
	CONSTRAINT dead_letter_key UNIQUE NULLS NOT DISTINCT (dag_id, run_id, task_id, map_index, try_number)
);
CREATE INDEX dead_letter_open ON airflow_bp.dead_letter (id) WHERE status = 'open';
CREATE INDEX dead_letter_closed ON airflow_bp.dead_letter (closed_at) WHERE status <> 'open';
CREATE INDEX dead_letter_task ON airflow_bp.dead_letter (ti_id) WHERE status = 'open';
CREATE INDEX dead_letter_act ON airflow_bp.dead_letter (act_id) WHERE act_id IS NOT NULL;
COMMENT ON TABLE airflow_bp.dead_letter IS 'Inbox of tasks that are stuck, one row for each try of a task, or with task_id NULL for a run. cause and evidence: those of stuck() when last seen; ti_id, state, tenant, pool, queue, executor: of the task then. first_seen, last_seen, times_seen: of the findings. status: open; retried, failed, discarded by an operator or a policy; recovered: it moved again by itself. closed_at, closed_by, why: when, by whom and why it left open; act_id: the act that did it, if it was one. attempts: retries by a policy, attempted_at: the last one, also when it was refused; refusal: why that was.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.dead_letter_id_seq', '');


-- What is retried without being asked, and how often.
CREATE TABLE airflow_bp.dlq_policy (
	cause text NOT NULL CHECK (cause <> ''),
	tenant text,
	dag_id text CHECK (airflow_bp.pattern_valid(dag_id)),
	retries int NOT NULL CHECK (retries BETWEEN 1 AND 100),
	backoff interval NOT NULL CHECK (backoff BETWEEN interval '1 second' AND interval '30 days'),
	max_backoff interval NOT NULL CHECK (max_backoff BETWEEN backoff AND interval '30 days'),
	jitter float8 NOT NULL CHECK (jitter BETWEEN 0 AND 1),
	downstream boolean NOT NULL,
	CONSTRAINT dlq_policy_key UNIQUE NULLS NOT DISTINCT (cause, tenant, dag_id)
);
COMMENT ON TABLE airflow_bp.dlq_policy IS 'What the worker retries by itself, by set_dlq_policy(); a new extension has none. tenant, dag_id (glob, or regular expression after ~): NULL for any; the policy that says more about the DAG, then the tenant, applies. retries: how often one task is retried. backoff: wait before the first, doubled each time up to max_backoff; jitter: share of a wait that chance may take off. downstream: as in dlq_retry().';

-- What CALL dlq_retry_all() is doing, for other sessions.
CREATE TABLE airflow_bp.dlq_batch (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	started_by text NOT NULL DEFAULT session_user,
	pid int NOT NULL DEFAULT pg_backend_pid(),
	filter jsonb NOT NULL,
	total bigint NOT NULL,
	retried bigint NOT NULL DEFAULT 0,
	along bigint NOT NULL DEFAULT 0,
	refused bigint NOT NULL DEFAULT 0,
	reasons jsonb NOT NULL DEFAULT '{}',
	after_id bigint NOT NULL DEFAULT 0,
	busy bigint[] NOT NULL DEFAULT '{}',
	rounds int NOT NULL DEFAULT 0,
	size int NOT NULL DEFAULT 1,
	longest interval,
	said_at timestamptz,
	ended_at timestamptz
);
COMMENT ON TABLE airflow_bp.dlq_batch IS 'Calls of dlq_retry_all(), as dlq_batches() shows them. total: letters at the start; retried, refused: of them so far; along: closed with them, as their tasks are downstream; reasons: of refusals, with how many; longest: time for which a batch locked rows. after_id, busy, rounds, size: where it is; said_at: of its last notice.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.dlq_policy', '');
