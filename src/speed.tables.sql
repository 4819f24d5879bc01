-- How fast the scheduler is, and how busy the database, over time.

CREATE TABLE airflow_bp.gauge (
	resolution int NOT NULL,
	from_at timestamptz NOT NULL,
	to_at timestamptz NOT NULL,
	name text NOT NULL,
	label text,
	samples bigint NOT NULL,
	total float8 NOT NULL,
	"least" float8 NOT NULL,
	most float8 NOT NULL
);
CREATE INDEX gauge_resolution_from_at ON airflow_bp.gauge (resolution, from_at);
COMMENT ON TABLE airflow_bp.gauge IS 'Measurements that gauge_turn() takes each 10 s, in the order of time; gauges() shows them. resolution, seconds: 0, one sample, of the instant from_at, kept for a day; 60 and 3600, what gauge_roll() has made of all samples from from_at to before to_at, kept for 30 and 366 days. samples: their number; total: their sum. Rows are added and removed, never changed; pg_dump leaves them out.';
