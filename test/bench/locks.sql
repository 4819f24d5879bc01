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

CREATE TABLE bench.second (block int, state text, tps float8);

-- Transactions with the sampler, by those without it in the same block: mean and its standard error.
CREATE VIEW bench.compared AS
SELECT count(*) AS blocks, round(avg(ratio)::numeric, 4) AS mean, round((stddev(ratio) / sqrt(count(*)))::numeric, 4) AS error
FROM (SELECT avg(tps) FILTER (WHERE state = 'on') / avg(tps) FILTER (WHERE state = 'off') AS ratio
	FROM bench.second GROUP BY block HAVING count(*) = 12) b;
