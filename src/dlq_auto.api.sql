-- Letters that the worker retries by itself, and counts of letters.

CREATE FUNCTION airflow_bp.dlq_delay(attempts int, backoff interval, max_backoff interval, jitter float8, seed bigint) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT make_interval(secs => least(extract(epoch FROM max_backoff)::float8, extract(epoch FROM backoff)::float8 * power(2::float8, attempts))
		* (1 - jitter * ((hashint8extended(seed, attempts) & 2147483647) / 2147483648.0::float8)))
$$;
COMMENT ON FUNCTION airflow_bp.dlq_delay(int, interval, interval, float8, bigint) IS
'Wait before the next automatic retry, after so many: backoff doubled each time up to max_backoff, less a part of it, up to jitter, that the seed chooses.';

CREATE FUNCTION airflow_bp.dlq_decide(attempts int, last timestamptz, now timestamptz, retries int, backoff interval, max_backoff interval,
	jitter float8, seed bigint, OUT verdict text, OUT due timestamptz)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN d.due IS NULL THEN 'human' WHEN d.due <= now THEN 'retry' ELSE 'wait' END, d.due
	FROM (SELECT CASE WHEN attempts < retries THEN last + airflow_bp.dlq_delay(attempts, backoff, max_backoff, jitter, seed) END) d (due)
$$;
COMMENT ON FUNCTION airflow_bp.dlq_decide(int, timestamptz, timestamptz, int, interval, interval, float8, bigint) IS
'What a policy says to a letter after so many attempts, the last of them at that time: retry, wait until due, or wait for a human.';

CREATE FUNCTION airflow_bp.dlq_due(most int) RETURNS TABLE (letter bigint, attempts int, retries int, downstream boolean, verdict text, due timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH policy AS MATERIALIZED (
		SELECT p.*, airflow_bp.pattern_regexp(p.dag_id) AS dags FROM airflow_bp.dlq_policy p
	), letter AS MATERIALIZED (
		SELECT l.*, p.retries, p.backoff, p.max_backoff, p.jitter, p.downstream
		FROM airflow_bp.dead_letter l CROSS JOIN LATERAL (
			SELECT * FROM policy p WHERE p.cause = l.cause AND (p.tenant IS NULL OR p.tenant = l.tenant) AND (p.dags IS NULL OR l.dag_id ~ p.dags)
			ORDER BY length(p.dag_id) DESC NULLS LAST, p.tenant NULLS LAST, p.dag_id LIMIT 1) p
		WHERE l.status = 'open' AND l.attempts < p.retries
			AND coalesce(greatest(l.attempted_at, l.first_seen), l.first_seen) + p.backoff * (1 - p.jitter) <= now()
		ORDER BY coalesce(l.attempted_at, l.first_seen), l.id LIMIT most
	)
	SELECT l.id, t.attempts, l.retries, l.downstream, d.verdict, d.due
	FROM letter l
	-- A try that is cleared comes back as a letter of the next one.
	CROSS JOIN LATERAL (SELECT max(o.attempts) AS attempts, greatest(max(o.attempted_at), l.first_seen) AS last FROM airflow_bp.dead_letter o
		WHERE o.dag_id = l.dag_id AND o.run_id = l.run_id AND o.task_id IS NOT DISTINCT FROM l.task_id AND o.map_index IS NOT DISTINCT FROM l.map_index) t
	CROSS JOIN LATERAL airflow_bp.dlq_decide(t.attempts, t.last, now(), l.retries, l.backoff, l.max_backoff, l.jitter, l.id) d
$$;
COMMENT ON FUNCTION airflow_bp.dlq_due(int) IS 'What the policies say to open letters, longest untouched first; not to those that are known to wait.';

CREATE FUNCTION airflow_bp.dlq_auto() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '50 ms';
	done int := 0;
	next record;
BEGIN
	IF NOT EXISTS (SELECT FROM airflow_bp.dlq_policy) OR NOT EXISTS (SELECT FROM airflow_bp.deployment d WHERE d.mode <> 'off') THEN
		RETURN 0;
	END IF;
	FOR next IN SELECT * FROM airflow_bp.dlq_due(1000) d WHERE d.verdict <> 'wait' ORDER BY d.due LIMIT 100 LOOP
		EXIT WHEN clock_timestamp() > deadline;
		PERFORM FROM airflow_bp.dead_letter l WHERE l.id = next.letter AND l.status = 'open' FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		UPDATE airflow_bp.dead_letter l SET attempts = next.attempts, attempted_at = now(), refusal = NULL WHERE l.id = next.letter;
		CONTINUE WHEN next.verdict = 'human';
		BEGIN
			PERFORM airflow_bp.dlq_retry_now(next.letter, next.downstream, false, format('policy, attempt %s of %s', next.attempts + 1, next.retries));
			UPDATE airflow_bp.dead_letter l SET attempts = next.attempts + 1 WHERE l.id = next.letter;
			done := done + 1;
		EXCEPTION WHEN OTHERS THEN
			-- Refused: it waits for another while, and does not count.
			UPDATE airflow_bp.dead_letter l SET refusal = regexp_replace(SQLERRM, '^letter [0-9]+: ', '') WHERE l.id = next.letter;
		END;
	END LOOP;
	RETURN done;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_auto() IS
'Retries the letters that a policy of set_dlq_policy() says are due, for 50 ms at most, and returns their number. Nothing in mode off. The worker calls it every 10 s; by hand: not in a transaction that stays open, as it locks runs and tasks.';

CREATE FUNCTION airflow_bp.set_dlq_policy(cause text, retries int, backoff interval DEFAULT '1 minute', max_backoff interval DEFAULT '1 hour',
	jitter float8 DEFAULT 0.2, tenant text DEFAULT NULL, dag_id text DEFAULT NULL, downstream boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	complaint text := CASE
		WHEN $2 IS NULL OR $2 NOT BETWEEN 1 AND 100 THEN format('retries must be between 1 and 100: %s', coalesce($2::text, 'NULL'))
		WHEN $3 IS NULL OR $3 NOT BETWEEN interval '1 second' AND interval '30 days' THEN
			format('backoff must be between 1 second and 30 days: %s', coalesce($3::text, 'NULL'))
		WHEN $4 IS NULL OR $4 NOT BETWEEN $3 AND interval '30 days' THEN
			format('max_backoff must be between backoff and 30 days: %s', coalesce($4::text, 'NULL'))
		WHEN $5 IS NULL OR $5 NOT BETWEEN 0 AND 1 THEN format('jitter must be between 0 and 1: %s', coalesce($5::text, 'NULL')) END;
BEGIN
	PERFORM airflow_bp.check_choice('cause', $1, VARIADIC (SELECT array_agg(c.cause) || '{drain_timeout}' FROM airflow_bp.stuck_causes() c));
	IF complaint IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = complaint, HINT = 'drop_dlq_policy() stops a policy.';
	ELSIF NOT airflow_bp.pattern_valid($7) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP003', MESSAGE = format('bad pattern: %s', left($7, 100)),
			HINT = 'Give a glob with * and ?, or a regular expression without back references after a leading ~, of at most 1000 bytes.';
	END IF;
	INSERT INTO airflow_bp.dlq_policy AS p VALUES ($1, $6, $7, $2, $3, $4, $5, coalesce($8, true))
	ON CONFLICT ON CONSTRAINT dlq_policy_key DO UPDATE SET retries = excluded.retries, backoff = excluded.backoff,
		max_backoff = excluded.max_backoff, jitter = excluded.jitter, downstream = excluded.downstream;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_dlq_policy(text, int, interval, interval, float8, text, text, boolean) IS
'Has the worker retry letters of a cause, of a tenant and of DAGs (glob, or regular expression after ~) or of all: each task so often, the first time after backoff, then after twice that and so on up to max_backoff; chance takes off up to jitter of each wait. Then the letter waits for a human. Again: replaces the policy. BP001 unknown cause, BP002 bad number or interval, BP003 bad pattern.';

CREATE FUNCTION airflow_bp.drop_dlq_policy(cause text, tenant text DEFAULT NULL, dag_id text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.dlq_policy p WHERE p.cause = $1 AND p.tenant IS NOT DISTINCT FROM $2 AND p.dag_id IS NOT DISTINCT FROM $3;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no such policy for %s', coalesce($1, 'NULL')),
			HINT = 'See the table airflow_bp.dlq_policy.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_dlq_policy(text, text, text) IS 'Drops a policy of set_dlq_policy(), of exactly this tenant and these DAGs. BP001 no such policy.';

CREATE FUNCTION airflow_bp.dead_letters(scope text) RETURNS TABLE (scope_name text, open bigint, oldest interval, newest interval,
	retried bigint, failed bigint, discarded bigint, recovered bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_choice('scope', scope, 'deployment', 'cause', 'tenant', 'pool', 'queue', 'dag');
	RETURN QUERY SELECT n.name, count(*) FILTER (WHERE l.status = 'open'), now() - min(l.first_seen) FILTER (WHERE l.status = 'open'),
		now() - max(l.first_seen) FILTER (WHERE l.status = 'open'), count(*) FILTER (WHERE l.status = 'retried'),
		count(*) FILTER (WHERE l.status = 'failed'), count(*) FILTER (WHERE l.status = 'discarded'), count(*) FILTER (WHERE l.status = 'recovered')
	FROM (SELECT * FROM airflow_bp.dead_letter l WHERE l.status = 'open' UNION ALL
		SELECT * FROM airflow_bp.dead_letter l WHERE l.status <> 'open' AND l.closed_at > now() - interval '1 day' UNION ALL
		SELECT (NULL::airflow_bp.dead_letter).* WHERE scope = 'deployment') l
	CROSS JOIN LATERAL (SELECT CASE scope WHEN 'deployment' THEN scope WHEN 'cause' THEN l.cause WHEN 'tenant' THEN coalesce(l.tenant, '(none)')
		WHEN 'pool' THEN coalesce(l.pool, '(none)') WHEN 'queue' THEN coalesce(l.queue, '(default)') ELSE l.dag_id END) n (name)
	GROUP BY 1;
END
$$;
COMMENT ON FUNCTION airflow_bp.dead_letters(text) IS
'Letters by scope: deployment, cause, tenant, pool, queue or dag; BP001 for another. open: those that wait for somebody, with the age of the oldest and of the newest; retried, failed, discarded, recovered: closed in the last day.';

CREATE VIEW airflow_bp.dead_letters_by_deployment AS SELECT * FROM airflow_bp.dead_letters('deployment');
CREATE VIEW airflow_bp.dead_letters_by_cause AS SELECT * FROM airflow_bp.dead_letters('cause');
CREATE VIEW airflow_bp.dead_letters_by_tenant AS SELECT * FROM airflow_bp.dead_letters('tenant');
CREATE VIEW airflow_bp.dead_letters_by_pool AS SELECT * FROM airflow_bp.dead_letters('pool');
CREATE VIEW airflow_bp.dead_letters_by_queue AS SELECT * FROM airflow_bp.dead_letters('queue');
CREATE VIEW airflow_bp.dead_letters_by_dag AS SELECT * FROM airflow_bp.dead_letters('dag');
COMMENT ON VIEW airflow_bp.dead_letters_by_deployment IS 'dead_letters(''deployment'')';
COMMENT ON VIEW airflow_bp.dead_letters_by_cause IS 'dead_letters(''cause'')';
COMMENT ON VIEW airflow_bp.dead_letters_by_tenant IS 'dead_letters(''tenant'')';
COMMENT ON VIEW airflow_bp.dead_letters_by_pool IS 'dead_letters(''pool'')';
COMMENT ON VIEW airflow_bp.dead_letters_by_queue IS 'dead_letters(''queue'')';
COMMENT ON VIEW airflow_bp.dead_letters_by_dag IS 'dead_letters(''dag'')';
