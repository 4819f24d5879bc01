-- Groups of pools, or of queues, that can serve the same work, and the moves between them.

CREATE TABLE airflow_bp.balance_group (
	name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
	kind text NOT NULL CHECK (kind IN ('pool', 'queue')),
	act boolean NOT NULL DEFAULT false,
	ratio float8 NOT NULL CHECK (ratio BETWEEN 1 AND 1000),
	least_age interval NOT NULL CHECK (least_age BETWEEN interval '0' AND interval '30 days'),
	patience interval NOT NULL CHECK (patience BETWEEN interval '0' AND interval '30 days'),
	stay interval NOT NULL CHECK (stay BETWEEN interval '1 second' AND interval '30 days'),
	batch int NOT NULL CHECK (batch BETWEEN 1 AND 1000),
	uneven_from text,
	uneven_since timestamptz,
	uneven_seen timestamptz,
	error text,
	UNIQUE (name, kind)
);
COMMENT ON TABLE airflow_bp.balance_group IS 'Groups of pools, or of queues, between which scheduled tasks may be moved, by set_balance_group(). act: they are moved, not only proposed. The oldest claimable task of one member must be at least least_age old, and ratio times as old as that of another, for patience. stay: a member that received gives nothing for so long. batch: most slots (of a queue: tasks) in one move. uneven_from, uneven_since, uneven_seen: the member that was the oldest at each look since then, and the last look noted. error: why the last move failed.';

CREATE TABLE airflow_bp.balance_member (
	kind text NOT NULL,
	member text NOT NULL CHECK (octet_length(member) BETWEEN 1 AND 1024),
	balance_group text NOT NULL,
	PRIMARY KEY (kind, member),
	FOREIGN KEY (balance_group, kind) REFERENCES airflow_bp.balance_group (name, kind) ON DELETE CASCADE
);
CREATE INDEX ON airflow_bp.balance_member (balance_group, kind);
COMMENT ON TABLE airflow_bp.balance_member IS 'Pools and queues of a balance group; each is in one group only.';

CREATE TABLE airflow_bp.rebalance (
	moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	act_id bigint NOT NULL,
	balance_group text,
	kind text NOT NULL,
	source text NOT NULL,
	target text NOT NULL,
	tasks int NOT NULL,
	age_before interval,
	target_age_before interval,
	age_after interval,
	target_age_after interval,
	measure_at timestamptz,
	measured_at timestamptz
);
CREATE INDEX rebalance_received ON airflow_bp.rebalance (kind, target, moved_at);
CREATE INDEX rebalance_unmeasured ON airflow_bp.rebalance (measure_at) WHERE measured_at IS NULL;
COMMENT ON TABLE airflow_bp.rebalance IS 'Moves of tasks between members of a balance group, also those of undo() (balance_group NULL), and what they did. age_before, target_age_before: oldest claimable task of source and target at the move; age_after, target_age_after: when the stay was over, at measured_at. NULL: none was waiting. Kept for airflow_bp.log_retention days.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.balance_group', '');
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.balance_member', '');

