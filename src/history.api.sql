-- Histories: append-only tables whose rows sum up ever longer times as they grow old.  All have the columns resolution (seconds that a row
-- sums up; 0: it is as it was written), from_at and to_at.

CREATE FUNCTION airflow_bp.history_move(history regclass, source int, target int, before timestamptz, keys text, sums text, aggregates text,
	most bigint DEFAULT 50000) RETURNS bigint
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
	INTO last USING source, upto, most;
	-- A batch ends where a step does, and has at least one.
	upto := least(upto, greatest(date_bin(step, last, origin), date_bin(step, first, origin) + step));
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
COMMENT ON FUNCTION airflow_bp.history_move(regclass, int, int, timestamptz, text, text, text, bigint) IS 'Sums up rows of one resolution that begin before an instant into rows of a coarser one, for each step of it and each of keys, in one statement, so that all sums stay as they were. Whole steps only, and at most some most rows. The number of rows that went.';

CREATE FUNCTION airflow_bp.history_roll(history regclass, at timestamptz, keys text, sums text, aggregates text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dropped bigint;
BEGIN
	EXECUTE format('DELETE FROM %s h WHERE h.resolution = 3600 AND h.from_at < $1', history) USING at - interval '366 days';
	GET DIAGNOSTICS dropped = ROW_COUNT;
	RETURN dropped + airflow_bp.history_move(history, 60, 3600, at - interval '30 days', keys, sums, aggregates)
		+ airflow_bp.history_move(history, 0, 60, at - interval '1 day', keys, sums, aggregates);
END
$$;
COMMENT ON FUNCTION airflow_bp.history_roll(regclass, timestamptz, text, text, text) IS 'Rolls a history up: rows as written are kept for a day, then minutes for 30 days, then hours for 366 days. keys, sums, aggregates: columns of a row that tell rows apart, those that are summed up, and how. The number of rows that went.';
