-- Pools whose size may follow the demand.

CREATE TABLE airflow_bp.pool_policy (
	pool text PRIMARY KEY CHECK (pool <> '' AND octet_length(pool) <= 1024),
	least int NOT NULL CHECK (least >= 0),
	most int NOT NULL CHECK (most >= least),
	step int NOT NULL CHECK (step > 0),
	period interval NOT NULL CHECK (period BETWEEN interval '1 second' AND interval '30 days'),
	act boolean NOT NULL DEFAULT false,
	owner_slots int,
	our_slots int,
	changed_at timestamptz,
	low_since timestamptz,
	low_seen timestamptz,
	error text
);
COMMENT ON TABLE airflow_bp.pool_policy IS 'Pools whose size may follow the demand, by set_pool(). least, most, step in slots; period: least time between two changes; act: sizes are written, not only proposed. owner_slots: size before our first change. our_slots: what we wrote last; another size in slot_pool is a change by its owner. changed_at: of the last write, or try. low_since: demand was low at each look since then, low_seen: at the last one noted. error: why the last write failed.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.pool_policy', '');

