CREATE TABLE airflow_bp.decision (
	at timestamptz NOT NULL,
	verdict text NOT NULL,
	reason text,
	tenant text,
	dag_id text,
	run_id text,
	task_id text,
	map_index int,
	try_number int,
	slots int,
	detail text
);
CREATE INDEX decision_at ON airflow_bp.decision USING brin (at);
COMMENT ON TABLE airflow_bp.decision IS 'Log of decisions on tenants with a limit, and of all that were held. verdict: admit, hold (once for each held task; held() counts the repeats), would_hold (mode observe). at: of the decision; an admission is logged when it is committed. Written by the worker within a turn; kept for airflow_bp.log_retention days. A task that was deleted meanwhile leaves its names NULL.';

CREATE TABLE airflow_bp.act (
	act_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT now(),
	actor text NOT NULL DEFAULT session_user,
	action text NOT NULL,
	old jsonb,
	new jsonb,
	undone_at timestamptz
);
COMMENT ON TABLE airflow_bp.act IS 'Log of what we were told to change, or allowed to, with old and new values: set_mode (also by enable and disable), pool, clear, dlq_fail, dlq_discard, drain, drain_stop, rebalance, priority. undo(act_id) takes an act back.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.act', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.act_act_id_seq', '');

