-- Histories: append-only tables whose rows sum up ever longer times as they grow old.  All have the columns resolution (seconds that a row
-- sums up; 0: it is as it was written), from_at and to_at.

CREATE FUNCTION airflow_bp.history_move(source int, target int, before timestamptz, batch bigint, history regclass, keys text, sums text,
	aggregates text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	origin CONSTANT timestamptz := '2000-01-01 00:00:00 UTC';
	step interval := make_interval(secs => target);
	upto timestamptz := date_bin(step, before, origin);
	first timestamptz;
	last timestamptz;
	moved bigint;
BEGIN
	EXECUTE format('SELECT min(h.from_at) FROM %s h WHERE h.resolution = $1', history) INTO first USING source;
	EXECUTE format('SELECT h.from_at FROM %s h WHERE h.resolution = $1 AND h.from_at < $2 ORDER BY h.from_at OFFSET $3 LIMIT 1', history)
	INTO last USING source, upto, batch;
	-- A batch ends where a step does, and has at least one.
	IF last IS NOT NULL THEN
		upto := least(upto, greatest(date_bin(step, last, origin), date_bin(step, first, origin) + step));
	END IF;
	EXECUTE format($move$
		WITH gone AS (
			DELETE FROM %1$s h WHERE h.resolution = $1 AND h.from_at < $2 RETURNING date_bin($3, h.from_at, $4) AS start, h.*
		), written AS (
			INSERT INTO %1$s (resolution, from_at, to_at, %2$s, %3$s)
			SELECT $5, g.start, g.start + $3, %2$s, %4$s FROM gone g GROUP BY g.start, %2$s ORDER BY g.start
		)
		SELECT count(*) FROM gone$move$, history, keys, sums, aggregates) INTO moved USING source, upto, step, origin, target;
	RETURN moved;
END
$$;
COMMENT ON FUNCTION airflow_bp.history_move(int, int, timestamptz, bigint, regclass, text, text, text) IS
'Makes rows of a history of one resolution into rows of a coarser one, for each step of it and each of keys, in one statement, so that all sums stay as they were: whole steps before an instant, the oldest first, about so many rows but at least one step. The number of rows taken.';

CREATE FUNCTION airflow_bp.history_roll(now timestamptz, history regclass, keys text, sums text, aggregates text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	batch CONSTANT bigint := 50000;
	moved bigint;
	gone bigint;
BEGIN
	moved := airflow_bp.history_move(0, 60, now - interval '1 day', batch, history, keys, sums, aggregates);
	moved := moved + airflow_bp.history_move(60, 3600, now - interval '30 days', greatest(batch - moved, 0), history, keys, sums, aggregates);
	EXECUTE format('DELETE FROM %1$s h WHERE h.ctid = ANY (ARRAY(SELECT o.ctid FROM %1$s o
		WHERE o.resolution = 3600 AND o.from_at < $1 LIMIT $2))', history) USING now - interval '366 days 1 hour', greatest(batch - moved, 0);
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN moved + gone;
END
$$;
COMMENT ON FUNCTION airflow_bp.history_roll(timestamptz, regclass, text, text, text) IS
'Makes rows of a history older than a day into rows of a minute, these older than 30 days into rows of an hour, and deletes what is older than 366 days; about 50,000 at most, and the number of them. keys, sums, aggregates: columns that tell rows apart, those that are summed up, and how.';
