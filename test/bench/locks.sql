-- Helpers of locks.sh.  Needs a load, and the extension.

\set ON_ERROR_STOP on
\set QUIET on

CREATE SCHEMA bench;

CREATE TABLE bench.target AS SELECT (row_number() OVER (ORDER BY id))::int - 1 AS n, id FROM task_instance;
ALTER TABLE bench.target ADD PRIMARY KEY (n);
ANALYZE bench.target;

\ir await.sql

-- Median of some runs in this session, in milliseconds; the first one is not counted.
CREATE FUNCTION bench.median(statement text, runs int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz;
	times float8[];
BEGIN
	FOR i IN 0 .. runs LOOP
		began := clock_timestamp();
		EXECUTE statement;
		IF i > 0 THEN
			times := times || extract(epoch FROM clock_timestamp() - began)::float8 * 1000;
		END IF;
	END LOOP;
	RETURN (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY t) FROM unnest(times) t)::numeric(12, 2);
END
$$;

-- Bytes that a row of a history takes with its index, by a table that is full of such rows.
CREATE FUNCTION bench.row_bytes(history regclass) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	rows bigint;
	result numeric;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', history) INTO rows;
	IF rows = 0 THEN
		RETURN 0;
	END IF;
	EXECUTE format('CREATE TEMP TABLE many (LIKE %s INCLUDING ALL)', history);
	EXECUTE format($copy$
		INSERT INTO many SELECT r.* FROM %s h, generate_series(0, 20000 / $1) i,
			LATERAL jsonb_populate_record(h, jsonb_build_object('from_at', h.from_at + i * interval '1 minute')) r ORDER BY r.from_at$copy$, history)
	USING rows;
	GET DIAGNOSTICS rows = ROW_COUNT;
	result := round(pg_total_relation_size('pg_temp.many')::numeric / rows);
	DROP TABLE many;
	RETURN result;
END
$$;

CREATE TABLE bench.round (scene text, pair int, variant text, tps float8, cpu float8, ours float8);

-- Quotients with the sampler and without: of the quicker halves, and of pairs of rounds: median, middle half, and where the median lies in 95 of 100
-- draws of pairs from these.
CREATE VIEW bench.load AS
WITH ranked AS (SELECT *, row_number() OVER (PARTITION BY scene, variant ORDER BY tps DESC) * 2 <= count(*) OVER (PARTITION BY scene, variant) + 1 AS quick
	FROM bench.round),
side AS (
	SELECT scene, variant, avg(tps) FILTER (WHERE quick) AS tps, avg(cpu / tps) FILTER (WHERE quick) AS cpu, avg(ours) AS ours FROM ranked
	GROUP BY scene, variant),
pair AS (SELECT scene, o.pair, o.tps / f.tps AS tps FROM bench.round o JOIN bench.round f USING (scene, pair) WHERE o.variant = 'on' AND f.variant = 'off'),
counted AS (SELECT scene, array_agg(tps) AS tps, count(*)::int AS n FROM pair GROUP BY scene),
drawn AS (
	SELECT c.scene, d, percentile_cont(0.5) WITHIN GROUP (ORDER BY c.tps[1 + floor(random() * c.n)::int]) AS tps
	FROM counted c, generate_series(1, 2000) d, generate_series(1, c.n) i WHERE i > 0 GROUP BY c.scene, d)
SELECT scene, round((o.tps / f.tps)::numeric, 4) AS quicker, c.n AS pairs,
	(SELECT (percentile_cont('{0.5, 0.25, 0.75}'::float8[]) WITHIN GROUP (ORDER BY p.tps))::numeric(8, 4)[] FROM pair p WHERE p.scene = o.scene) AS middle,
	(SELECT (percentile_cont('{0.025, 0.975}'::float8[]) WITHIN GROUP (ORDER BY d.tps))::numeric(8, 4)[] FROM drawn d WHERE d.scene = o.scene) AS drawn,
	round((o.cpu / f.cpu)::numeric, 4) AS cpu, round(f.tps) AS off, o.ours - f.ours AS ours
FROM side o JOIN side f USING (scene) JOIN counted c USING (scene) WHERE o.variant = 'on' AND f.variant = 'off';
