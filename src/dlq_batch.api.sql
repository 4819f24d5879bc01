-- Many letters at once.  The procedure commits after each batch, so it can neither run with the rights of the owner nor set its
-- search_path: it only calls functions that do.

CREATE FUNCTION airflow_bp.dlq_filter(cause text, dag_id text, tenant text, pool text, queue text, older_than interval, most bigint)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	complaint text := CASE
		WHEN older_than IS NULL OR older_than NOT BETWEEN interval '0' AND interval '1000 years' THEN
			format('older_than must be between 0 and 1000 years: %s', coalesce(older_than::text, 'NULL'))
		WHEN most < 1 THEN format('most must be at least 1: %s', most) END;
BEGIN
	IF complaint IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = complaint, HINT = 'Leave it out for all open letters.';
	ELSIF NOT airflow_bp.pattern_valid(dag_id) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP003', MESSAGE = format('bad pattern: %s', left(dag_id, 100)),
			HINT = 'Give a glob with * and ?, or a regular expression without back references after a leading ~, of at most 1000 bytes.';
	END IF;
	RETURN jsonb_strip_nulls(jsonb_build_object('cause', cause, 'dag_id', dag_id, 'tenant', tenant, 'pool', pool, 'queue', queue,
		'older_than', older_than, 'most', most));
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_filter(text, text, text, text, text, interval, bigint) IS 'The filter of dlq_plan() and dlq_retry_all(). BP002 bad number or interval, BP003 bad pattern.';

CREATE FUNCTION airflow_bp.dlq_matching(filter jsonb, after bigint, most bigint) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dags text := airflow_bp.pattern_regexp(filter ->> 'dag_id');
BEGIN
	RETURN QUERY SELECT l.id FROM airflow_bp.dead_letter l
	WHERE l.status = 'open' AND l.id > after
		AND (filter ->> 'cause' IS NULL OR l.cause = filter ->> 'cause') AND (dags IS NULL OR l.dag_id ~ dags)
		AND (filter ->> 'tenant' IS NULL OR l.tenant = filter ->> 'tenant') AND (filter ->> 'pool' IS NULL OR l.pool = filter ->> 'pool')
		AND (filter ->> 'queue' IS NULL OR l.queue = filter ->> 'queue') AND l.first_seen <= now() - (filter ->> 'older_than')::interval
	ORDER BY l.id LIMIT most;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_matching(jsonb, bigint, bigint) IS 'Open letters that a filter lets through, after a given one; most NULL: all.';

CREATE TYPE airflow_bp.dlq_planned AS (id bigint, dag_id text, run_id text, task_id text, map_index int, cause text, age interval, obstacle text, hint text);
COMMENT ON TYPE airflow_bp.dlq_planned IS 'A row of dlq_plan(): a letter, its age, and what stands in the way of dlq_retry().';

CREATE FUNCTION airflow_bp.dlq_plan(cause text DEFAULT NULL, dag_id text DEFAULT NULL, tenant text DEFAULT NULL, pool text DEFAULT NULL,
	queue text DEFAULT NULL, older_than interval DEFAULT '0', most bigint DEFAULT NULL)
RETURNS SETOF airflow_bp.dlq_planned
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT l.id, l.dag_id, l.run_id, l.task_id, l.map_index, l.cause, now() - l.first_seen, o.obstacle, o.hint
	FROM airflow_bp.dlq_look(ARRAY(SELECT airflow_bp.dlq_matching(airflow_bp.dlq_filter($1, $2, $3, $4, $5, $6, $7), 0, $7)), false) o
	JOIN airflow_bp.dead_letter l ON l.id = o.letter ORDER BY l.id
$$;
COMMENT ON FUNCTION airflow_bp.dlq_plan(text, text, text, text, text, interval, bigint) IS
'Open letters that a filter lets through, oldest first, and what would stand in the way of dlq_retry(); obstacle NULL: nothing known. dag_id: a glob, or after ~ a regular expression; older_than: first seen so long ago; most: at most so many; NULL: any. BP002 bad number or interval, BP003 bad pattern.';

CREATE FUNCTION airflow_bp.dlq_batch_size(size int, most int, took interval, rate float8) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT greatest(1, least(most, coalesce(rate / 600, most), CASE WHEN took < interval '25 ms' THEN size * 2.0
		WHEN took < interval '40 ms' THEN size * 1.5 WHEN took < interval '55 ms' THEN size * 1.2 + 1 WHEN took <= interval '70 ms' THEN size
		WHEN size <= 2 THEN 4 WHEN took <= interval '200 ms' THEN greatest(size * 0.5, least(size, 10)) ELSE size * 0.5 END)::int)
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_size(int, int, interval, float8) IS
'How many letters the next batch takes: more until the last one took 55 ms, half as many when it took over 70 ms, but fewer than 10 only over 200 ms, and at a rate a minute no more than fall in a tenth of a second. What a few take is not their number: a machine that is slow would get ever fewer.';

CREATE FUNCTION airflow_bp.dlq_batch_begin(filter jsonb, batch int, rate float8, downstream boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	work bigint;
BEGIN
	IF batch IS NULL OR batch NOT BETWEEN 1 AND 10000 OR rate <= 0 OR rate > 1e9 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('batch must be between 1 and 10000, rate above 0: %s, %s',
			coalesce(batch::text, 'NULL'), coalesce(rate::text, 'NULL')), HINT = 'Give rate in letters a minute, or NULL for no limit.';
	END IF;
	INSERT INTO airflow_bp.dlq_batch (filter, total, size)
	SELECT filter || jsonb_strip_nulls(jsonb_build_object('batch', batch, 'rate', rate, 'downstream', coalesce(downstream, true))),
		(SELECT count(*) FROM airflow_bp.dlq_matching(filter, 0, (filter ->> 'most')::bigint)), airflow_bp.dlq_batch_size(5, batch, '0', rate)
	RETURNING id INTO work;
	RETURN work;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_begin(jsonb, int, float8, boolean) IS 'Begins a row of dlq_batch for dlq_retry_all(). BP002 bad number.';

CREATE FUNCTION airflow_bp.dlq_batch_refuse(b airflow_bp.dlq_batch, obstacle text, n bigint) RETURNS airflow_bp.dlq_batch
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- Messages may have a letter or an id in them: no end of them is kept.
	reason text := CASE WHEN b.reasons ? obstacle OR (SELECT count(*) FROM jsonb_object_keys(b.reasons)) < 20 THEN left(obstacle, 200) ELSE 'others' END;
BEGIN
	b.refused := b.refused + n;
	b.reasons := b.reasons || jsonb_build_object(reason, coalesce((b.reasons ->> reason)::bigint, 0) + n);
	RETURN b;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_refuse(airflow_bp.dlq_batch, text, bigint) IS 'Counts letters that were refused.';

CREATE FUNCTION airflow_bp.dlq_batch_singly(b airflow_bp.dlq_batch, letters bigint[]) RETURNS airflow_bp.dlq_batch
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '50 ms';
	letter bigint;
BEGIN
	FOREACH letter IN ARRAY letters LOOP
		IF clock_timestamp() > deadline THEN
			b.busy := b.busy || letter;
			CONTINUE;
		END IF;
		BEGIN
			PERFORM airflow_bp.dlq_retry_now(letter, (b.filter ->> 'downstream')::boolean, false, 'batch ' || b.id);
			b.retried := b.retried + 1;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			b.busy := b.busy || letter;
		WHEN OTHERS THEN
			b := airflow_bp.dlq_batch_refuse(b, regexp_replace(SQLERRM, '^letter [0-9]+: ', ''), 1);
		END;
	END LOOP;
	RETURN b;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_singly(airflow_bp.dlq_batch, bigint[]) IS
'Retries letters one by one, for 50 ms; the rest is left for later.';

CREATE FUNCTION airflow_bp.dlq_batch_retry(b airflow_bp.dlq_batch, letters bigint[]) RETURNS airflow_bp.dlq_batch
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	got bigint[] := coalesce(airflow_bp.dlq_lock(letters, false), '{}');
	tasks uuid[];
	ready bigint[];
	runs bigint[];
	act bigint;
	look record;
BEGIN
	b.busy := b.busy || ARRAY(SELECT l.id FROM airflow_bp.dead_letter l WHERE l.id = ANY (letters) AND l.id <> ALL (got));
	FOR look IN SELECT l.obstacle, count(*) AS n, array_agg(l.letter) FILTER (WHERE l.ti_id IS NOT NULL) AS letters,
			array_agg(l.ti_id) FILTER (WHERE l.ti_id IS NOT NULL) AS tasks, array_agg(l.letter) FILTER (WHERE l.ti_id IS NULL) AS runs
		FROM airflow_bp.dlq_look(got, false) l GROUP BY l.obstacle
	LOOP
		IF look.obstacle IS NULL THEN
			ready := look.letters;
			tasks := look.tasks;
			runs := look.runs;
		ELSE
			b := airflow_bp.dlq_batch_refuse(b, look.obstacle, look.n);
		END IF;
	END LOOP;
	IF ready IS NOT NULL THEN
		BEGIN
			act := airflow_bp.dlq_clear(ready, tasks, (b.filter ->> 'downstream')::boolean, 'batch ' || b.id);
			b.retried := b.retried + cardinality(ready);
			b.along := b.along + (SELECT count(*) FROM airflow_bp.dead_letter l WHERE l.act_id = act) - cardinality(ready);
		EXCEPTION WHEN OTHERS THEN
			-- One that cannot be cleared does not keep the others.
			b := airflow_bp.dlq_batch_singly(b, ready);
		END;
	END IF;
	RETURN airflow_bp.dlq_batch_singly(b, coalesce(runs, '{}'));
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_retry(airflow_bp.dlq_batch, bigint[]) IS
'Retries letters; those whose locks others have are put in line again.';

CREATE FUNCTION airflow_bp.dlq_batch_news(b airflow_bp.dlq_batch) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('%s of %s letters: %s retried, %s refused', least(b.retried + b.along + b.refused, b.total), b.total, b.retried, b.refused)
		|| CASE WHEN b.along > 0 THEN format(', %s closed along with others', b.along) ELSE '' END
		|| CASE WHEN b.ended_at IS NULL THEN coalesce(format(', about %s left', date_trunc('second', greatest(b.total - b.retried - b.refused - b.along, 0)
			* (clock_timestamp() - b.started_at) / nullif(b.retried + b.refused, 0))), '')
		ELSE coalesce((SELECT string_agg(format(E'\n%s: %s', r.value, r.key), '' ORDER BY r.key) FROM jsonb_each_text(b.reasons) r), '') END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_news(airflow_bp.dlq_batch) IS 'What dlq_retry_all() says of its progress.';

CREATE FUNCTION airflow_bp.dlq_batch_next(work bigint, began timestamptz, ended_at timestamptz, OUT news text, OUT pause float8, OUT ended boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	b airflow_bp.dlq_batch;
	rate float8;
	letters bigint[];
	before bigint;
BEGIN
	SELECT * INTO b FROM airflow_bp.dlq_batch d WHERE d.id = work AND d.pid = pg_backend_pid() AND d.ended_at IS NULL;
	IF b.id IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('this session has begun no batch %s', coalesce(work::text, 'NULL')),
			HINT = 'CALL airflow_bp.dlq_retry_all().';
	END IF;
	-- A crash loses the retries and what they did to the letters together, never one of them.
	PERFORM set_config('synchronous_commit', 'off', true);
	rate := (b.filter ->> 'rate')::float8;
	b.size := CASE WHEN began IS NULL THEN b.size ELSE airflow_bp.dlq_batch_size(b.size, (b.filter ->> 'batch')::int, ended_at - began, rate) END;
	b.longest := greatest(b.longest, ended_at - began);
	before := b.retried + b.refused;
	letters := ARRAY(SELECT airflow_bp.dlq_matching(b.filter, b.after_id, least(b.size, b.total - before - cardinality(b.busy))));
	IF letters <> '{}' THEN
		b.after_id := letters[cardinality(letters)];
	ELSE
		letters := b.busy[:b.size];
		b.busy := b.busy[b.size + 1:];
	END IF;
	b := airflow_bp.dlq_batch_retry(b, letters);
	b.rounds := CASE WHEN b.retried + b.refused > before THEN 0 ELSE b.rounds + 1 END;
	IF b.rounds >= 20 THEN
		b := airflow_bp.dlq_batch_refuse(b, 'it could not be locked', cardinality(b.busy));
		b.busy := '{}';
	END IF;
	ended := letters = '{}' OR b.busy = '{}' AND (b.retried + b.refused >= b.total OR b.rounds >= 20);
	b.ended_at := CASE WHEN ended THEN clock_timestamp() END;
	IF ended OR b.said_at IS NULL OR b.said_at < clock_timestamp() - interval '5 s' THEN
		news := airflow_bp.dlq_batch_news(b);
		b.said_at := clock_timestamp();
	END IF;
	pause := CASE WHEN ended THEN 0 WHEN b.rounds > 0 THEN 0.1
		ELSE greatest(0, coalesce(b.retried * 60 / rate, 0) - extract(epoch FROM clock_timestamp() - b.started_at)) END;
	UPDATE airflow_bp.dlq_batch d SET retried = b.retried, along = b.along, refused = b.refused, reasons = b.reasons, after_id = b.after_id, busy = b.busy,
		rounds = b.rounds, size = b.size, longest = b.longest, said_at = b.said_at, ended_at = b.ended_at
	WHERE d.id = b.id;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_next(bigint, timestamptz, timestamptz) IS
'The next batch of dlq_retry_all(), which tells it when the last one began and ended: what to say, how many seconds to wait, whether it was the last. BP001 not begun by this session.';

CREATE FUNCTION airflow_bp.dlq_batch_dry(filter jsonb) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH o AS MATERIALIZED (
		SELECT l.obstacle FROM airflow_bp.dlq_look(ARRAY(SELECT airflow_bp.dlq_matching(filter, 0, (filter ->> 'most')::bigint)), false) l)
	SELECT format('would retry %s of %s letters; give dry_run => false to do it', count(*) FILTER (WHERE o.obstacle IS NULL), count(*))
		|| coalesce((SELECT string_agg(format(E'\n%s: %s', r.n, r.obstacle), '' ORDER BY r.obstacle)
			FROM (SELECT p.obstacle, count(*) AS n FROM o p WHERE p.obstacle IS NOT NULL GROUP BY 1) r), '')
	FROM o
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batch_dry(jsonb) IS 'What dlq_retry_all() would do.';

CREATE PROCEDURE airflow_bp.dlq_retry_all(cause text DEFAULT NULL, dag_id text DEFAULT NULL, tenant text DEFAULT NULL, pool text DEFAULT NULL,
	queue text DEFAULT NULL, older_than interval DEFAULT '0', most bigint DEFAULT NULL, downstream boolean DEFAULT true,
	rate float8 DEFAULT NULL, batch int DEFAULT 100, dry_run boolean DEFAULT true)
LANGUAGE plpgsql AS $$
DECLARE
	filter pg_catalog.jsonb := airflow_bp.dlq_filter(cause, dag_id, tenant, pool, queue, older_than, most);
	work bigint;
	step record;
	before pg_catalog.timestamptz;
	began pg_catalog.timestamptz;
	ended pg_catalog.timestamptz;
BEGIN
	IF dry_run IS NOT FALSE THEN
		RAISE NOTICE USING MESSAGE = airflow_bp.dlq_batch_dry(filter);
		RETURN;
	END IF;
	work := airflow_bp.dlq_batch_begin(filter, batch, rate, downstream);
	COMMIT;
	LOOP
		before := began;
		began := pg_catalog.clock_timestamp();
		SELECT n.* INTO step FROM airflow_bp.dlq_batch_next(work, before, ended) n;
		COMMIT;
		ended := pg_catalog.clock_timestamp();
		IF step.news IS NOT NULL THEN
			RAISE NOTICE USING MESSAGE = step.news;
		END IF;
		EXIT WHEN step.ended;
		PERFORM pg_catalog.pg_sleep(step.pause);
	END LOOP;
END
$$;
COMMENT ON PROCEDURE airflow_bp.dlq_retry_all(text, text, text, text, text, interval, bigint, boolean, float8, int, boolean) IS
'CALL it outside a transaction block: dlq_retry() of all letters that a filter lets through, as in dlq_plan(), with a commit after each batch. dry_run, the default: says what it would do. rate: letters a minute. batch: at most so many at a time; fewer when one takes longer than 70 ms. Notices tell how far it is, dlq_batches() tells other sessions. Letters that are refused are counted by reason and stay open. Cancelled: what was committed stays. BP002 bad number or interval, BP003 bad pattern, 2D000 in a transaction block.';

CREATE FUNCTION airflow_bp.dlq_batches() RETURNS TABLE (id bigint, state text, started_at timestamptz, started_by text, pid int, filter jsonb,
	total bigint, retried bigint, along bigint, refused bigint, reasons jsonb, per_min float8, ends_in interval, longest interval)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT b.id, CASE WHEN b.ended_at IS NOT NULL THEN 'ended' WHEN a.pid IS NULL THEN 'stopped' ELSE 'running' END, b.started_at, b.started_by,
		b.pid, b.filter, b.total, b.retried, b.along, b.refused, b.reasons, (b.retried + b.along) * 60 / nullif(extract(epoch FROM t.took), 0)::float8,
		CASE WHEN a.pid IS NOT NULL THEN greatest(b.total - b.retried - b.refused - b.along, 0) * t.took / nullif(b.retried + b.refused, 0) END,
		b.longest
	FROM airflow_bp.dlq_batch b
	LEFT JOIN pg_stat_activity a ON a.pid = b.pid AND a.query_start <= b.started_at AND a.state = 'active' AND b.ended_at IS NULL
	CROSS JOIN LATERAL (SELECT coalesce(b.ended_at, clock_timestamp()) - b.started_at) t (took)
	ORDER BY b.id DESC
$$;
COMMENT ON FUNCTION airflow_bp.dlq_batches() IS
'Calls of dlq_retry_all(), newest first: running, ended, or stopped before its end; letters at its start, so far retried, closed along with others as their tasks are downstream, and refused, with the reasons and their number. longest: time for which one batch locked rows, to the end of its commit.';
