-- Pools whose size follows the demand.  The scheduler takes all of slot_pool FOR NO KEY UPDATE NOWAIT, so a row that we hold stops
-- every scheduler: all is computed before, the size is written by the last statement, and nothing of ours waits for a row.

CREATE FUNCTION airflow_bp.write_as_owner(relation regclass, statement text) RETURNS bigint
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'airflow_bp_write_as_owner';
COMMENT ON FUNCTION airflow_bp.write_as_owner(regclass, text) IS 'Runs a statement with the rights of the owner of a table; number of rows.';

CREATE FUNCTION airflow_bp.pool_low(slots int, "least" int, demand bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN demand <= slots / 2 AND slots > least;
COMMENT ON FUNCTION airflow_bp.pool_low(int, int, bigint) IS 'Is the demand low: at most half the size of a pool that may shrink?';

CREATE FUNCTION airflow_bp.pool_next(slots int, "least" int, most int, step int, occupied bigint, demand bigint, low_for interval,
	changed_for interval, period interval, OUT proposed int, OUT reason text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT b.proposed::int, CASE
		WHEN demand IS NULL THEN 'demand not known'
		WHEN w.wanted = slots THEN CASE
			WHEN slots > most THEN 'bounded by occupied'
			WHEN demand > slots THEN 'bounded by most'
			WHEN airflow_bp.pool_low(slots, least, demand) THEN 'low for less than two periods'
			ELSE 'enough' END
		WHEN changed_for < period THEN 'too soon'
		WHEN b.proposed <> w.wanted THEN 'bounded by step'
		WHEN slots > most THEN CASE WHEN w.wanted > most THEN 'bounded by occupied' ELSE 'above most' END
		WHEN w.wanted < slots THEN 'idle'
		WHEN demand > most THEN 'bounded by most'
		WHEN demand < w.wanted THEN 'below least'
		ELSE 'demand' END
	FROM (SELECT CASE
			WHEN demand IS NULL THEN NULL
			WHEN slots > most THEN least(slots, greatest(most, occupied))
			WHEN greatest(demand, least) > slots THEN least(greatest(demand, least), most)
			WHEN airflow_bp.pool_low(slots, least, demand) AND low_for >= 2 * period THEN greatest(slots / 2, least)
			ELSE slots END::bigint) w (wanted)
	CROSS JOIN LATERAL (SELECT CASE WHEN w.wanted IS NOT NULL THEN greatest(least(w.wanted, slots::bigint + step), slots::bigint - step) END) b (proposed)
$$;
COMMENT ON FUNCTION airflow_bp.pool_next(int, int, int, int, bigint, bigint, interval, interval, interval) IS
'The size that a pool should have, and why. It grows to the demand. It shrinks when the demand has been at most half its size for two periods, and never below that half, so what was asked for in that time still fits. At most a step at a time, between least and most, not below what is occupied.';

CREATE FUNCTION airflow_bp.pool_look() RETURNS TABLE (policy airflow_bp.pool_policy, slots int, occupied bigint, demand bigint,
	low boolean, proposed int, reason text, allowed boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT y, l.slots::int, u.occupied, u.demand, low.now, CASE WHEN stop.reason IS NULL THEN n.proposed END, coalesce(stop.reason, n.reason),
		coalesce(y.act AND d.mode <> 'off' AND NOT pg_is_in_recovery() AND stop.reason IS NULL AND n.proposed IS NOT NULL
			AND n.reason <> 'too soon', false)
	FROM airflow_bp.pool_policy y
	LEFT JOIN airflow_bp.deployment d ON true
	LEFT JOIN airflow_bp.queue_limits('pool') l ON l.name = y.pool
	LEFT JOIN airflow_bp.queue_counts('pool') q ON q.scope_name = y.pool
	-- Restarting tasks occupy nothing as Airflow counts, but they come again.  Where there is no shared memory, nobody is held.
	LEFT JOIN LATERAL (SELECT coalesce(q.slots_executing, 0) + deferred,
			coalesce(q.slots_charged, 0) + deferred + CASE WHEN NOT pg_is_in_recovery() THEN coalesce(q.slots_held, 0) END
		FROM (SELECT CASE WHEN l.count_deferred THEN coalesce(q.slots_deferred, 0) ELSE 0 END) c (deferred)
		) u (occupied, demand) ON l.name IS NOT NULL
	CROSS JOIN LATERAL (SELECT coalesce(airflow_bp.pool_low(l.slots::int, y.least, u.demand), false)) low (now)
	CROSS JOIN LATERAL airflow_bp.pool_next(l.slots::int, y.least, y.most, y.step, u.occupied, u.demand,
		-- A look that is missing breaks the row of looks.
		CASE WHEN low.now AND y.low_seen >= statement_timestamp() - y.period - interval '1 minute' THEN statement_timestamp() - y.low_since END,
		statement_timestamp() - y.changed_at, y.period) n
	CROSS JOIN LATERAL (SELECT CASE
		WHEN l.name IS NULL THEN 'pool missing'
		WHEN l.slots IS NULL THEN 'unlimited, or size not known'
		WHEN l.slots <> y.our_slots THEN 'changed by its owner'
		WHEN y.error IS NOT NULL AND n.reason = 'too soon' THEN 'failed: ' || y.error END) stop (reason);
END
$$;
COMMENT ON FUNCTION airflow_bp.pool_look() IS 'What pool_plan() shows, with the whole policy and whether the demand is low now.';

CREATE FUNCTION airflow_bp.pool_plan() RETURNS TABLE (pool text, slots int, owner_slots int, "least" int, most int, occupied bigint,
	demand bigint, proposed int, reason text, allowed boolean)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT (l.policy).pool, l.slots, coalesce((l.policy).owner_slots, l.slots), (l.policy).least, (l.policy).most, l.occupied, l.demand,
		l.proposed, l.reason, l.allowed
	FROM airflow_bp.pool_look() l ORDER BY 1
$$;
COMMENT ON FUNCTION airflow_bp.pool_plan() IS
'One row for each policy of set_pool(): the size of the pool now (NULL: unlimited, or not known), the size that its owner gave it, the bounds, occupied slots as Airflow counts them, demand (slots occupied, scheduled, restarting and held), the size proposed, and why.
allowed: pool_apply() may write it now.
A pool grows to its demand. It shrinks when the demand was at most half its size at each look of pool_apply() for two periods,
and never below that half, what is occupied, or least. At most a step at a time, and one change in a period.
reason: pool missing; unlimited, or size not known; changed by its owner (until set_pool() is called again); failed: ...;
demand not known (a standby); no change: enough, bounded by most, bounded by occupied, low for less than two periods;
else too soon, bounded by step, bounded by most, bounded by occupied, above most, below least, idle, demand.';

-- The row lock is taken by the statement that writes, when all else has been done.  In an open transaction it would stop every
-- scheduler, so such a session is ended, and the commit waits for no disk and no standby.
CREATE FUNCTION airflow_bp.pool_write(pool text, old int, new int, why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	slot_pool text := format('%I.slot_pool', airflow_bp.airflow_schema_name());
BEGIN
	INSERT INTO airflow_bp.act (action, old, new) VALUES ('pool', jsonb_build_object('pool', pool, 'slots', old),
		jsonb_build_object('pool', pool, 'slots', new, 'reason', why));
	PERFORM set_config('synchronous_commit', 'off', true), set_config('idle_in_transaction_session_timeout', '5s', true);
	IF airflow_bp.write_as_owner(slot_pool::regclass, format('UPDATE %1$s p SET slots = %4$s FROM (SELECT q.pool FROM %1$s q
			WHERE q.pool = %2$L AND q.slots = %3$s FOR NO KEY UPDATE SKIP LOCKED) mine WHERE p.pool = mine.pool',
			slot_pool, pool, old, new)) = 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('pool "%s" has changed, or a scheduler is at it', pool),
			HINT = 'See airflow_bp.pool_plan(), and try again.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.pool_write(text, int, int, text) IS
'Changes the size of a pool and logs the act. The transaction must end then. BP004 when the size is not the old one, or a scheduler holds the pool.';

CREATE FUNCTION airflow_bp.pool_write_soon(pool text, old int, new int, why text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
	FOR attempt IN 1 .. 100 LOOP
		IF NOT EXISTS (SELECT FROM airflow_bp.queue_limits('pool') l WHERE l.name = pool AND l.slots = old) THEN
			RETURN false;
		END IF;
		BEGIN
			PERFORM airflow_bp.pool_write(pool, old, new, why);
			RETURN true;
		EXCEPTION WHEN SQLSTATE 'BP004' OR lock_not_available THEN
			PERFORM pg_sleep(0.02 + 0.06 * random());
		END;
	END LOOP;
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('could not lock pool "%s"', pool),
		HINT = 'A long transaction holds it; see pg_stat_activity, and try again.';
END
$$;
COMMENT ON FUNCTION airflow_bp.pool_write_soon(text, int, int, text) IS
'As pool_write(), between two loops of a scheduler; false when the size is not the old one. BP004 when the pool was locked for seconds.';

CREATE FUNCTION airflow_bp.undo_pool(done airflow_bp.act) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT airflow_bp.pool_write_soon(done.new ->> 'pool', (done.new ->> 'slots')::int, (done.old ->> 'slots')::int, 'undo')
$$;
COMMENT ON FUNCTION airflow_bp.undo_pool(airflow_bp.act) IS 'Gives a pool the size that it had before an act; false when it has changed since.';

CREATE FUNCTION airflow_bp.pool_apply() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	look record;
BEGIN
	IF NOT EXISTS (SELECT FROM airflow_bp.pool_policy) OR NOT EXISTS (SELECT FROM airflow_bp.deployment d WHERE d.mode <> 'off') THEN
		RETURN 0;
	END IF;
	FOR look IN SELECT (l.policy).*, l.slots, l.low, l.proposed, l.reason,
			coalesce(l.allowed AND l.proposed <> l.slots, false) AS due
		FROM airflow_bp.pool_look() l ORDER BY due, (l.policy).changed_at NULLS FIRST, 1
	LOOP
		-- Whoever is at the policy is not waited for; what he does counts at the next look.
		PERFORM FROM airflow_bp.pool_policy y WHERE y.pool = look.pool AND y.act = look.act
			AND (look.due OR look.low <> (y.low_since IS NOT NULL) OR y.low_seen < statement_timestamp() - y.period / 4)
		FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		UPDATE airflow_bp.pool_policy y SET low_seen = CASE WHEN look.low THEN statement_timestamp() END,
			low_since = CASE WHEN NOT look.low THEN NULL
				WHEN y.low_seen >= statement_timestamp() - y.period - interval '1 minute' THEN y.low_since
				ELSE statement_timestamp() END
		WHERE y.pool = look.pool;
		CONTINUE WHEN NOT look.due;
		BEGIN
			UPDATE airflow_bp.pool_policy y SET owner_slots = coalesce(y.owner_slots, look.slots), our_slots = look.proposed,
				changed_at = statement_timestamp(), low_since = NULL, low_seen = NULL, error = NULL
			WHERE y.pool = look.pool;
			PERFORM airflow_bp.pool_write(look.pool, look.slots, look.proposed, look.reason);
			RETURN 1;
		EXCEPTION WHEN SQLSTATE 'BP004' OR lock_not_available THEN
			NULL;
		WHEN OTHERS THEN
			UPDATE airflow_bp.pool_policy y SET changed_at = statement_timestamp(), error = SQLERRM WHERE y.pool = look.pool;
		END;
	END LOOP;
	RETURN 0;
END
$$;
COMMENT ON FUNCTION airflow_bp.pool_apply() IS
'Writes what pool_plan() proposes and allows for one pool, the one not changed for longest, so that slot_pool is locked for a moment only, and returns 1; 0: nothing to write. Notes since when the demand is low. A pool that a scheduler holds just then is left for the next time. Nothing in mode off. The worker calls it at the end of each turn. By hand: not in a transaction that stays open, as it would stop every scheduler; after 5 s idle in it the session is ended.';

CREATE FUNCTION airflow_bp.set_pool(name text, at_least int, at_most int, step int DEFAULT 8, period interval DEFAULT '5 minutes',
	act boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	size bigint := (SELECT l.slots FROM airflow_bp.queue_limits('pool') l WHERE l.name = set_pool.name);
	complaint text := CASE
		WHEN set_pool.at_least IS NULL OR set_pool.at_least < 0 THEN format('at_least must be at least 0: %s', coalesce(set_pool.at_least::text, 'NULL'))
		WHEN set_pool.at_most IS NULL OR set_pool.at_most < set_pool.at_least THEN
			format('at_most must not be less than at_least: %s', coalesce(set_pool.at_most::text, 'NULL'))
		WHEN set_pool.step IS NULL OR set_pool.step < 1 THEN format('step must be at least 1: %s', coalesce(set_pool.step::text, 'NULL'))
		WHEN set_pool.period IS NULL OR set_pool.period NOT BETWEEN interval '1 second' AND interval '30 days' THEN
			format('period must be between 1 second and 30 days: %s', coalesce(set_pool.period::text, 'NULL')) END;
BEGIN
	IF NOT EXISTS (SELECT FROM airflow_bp.queue_limits('pool') l WHERE l.name = set_pool.name) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no pool "%s"', coalesce(set_pool.name, 'NULL')),
			HINT = 'Make it in Airflow first.';
	ELSIF complaint IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = complaint, HINT = 'Give numbers of slots with 0 <= at_least <= at_most, and step >= 1.';
	END IF;
	INSERT INTO airflow_bp.pool_policy AS y (pool, least, most, step, period, act)
	VALUES (set_pool.name, set_pool.at_least, set_pool.at_most, set_pool.step, set_pool.period, coalesce(set_pool.act, false))
	ON CONFLICT ON CONSTRAINT pool_policy_pkey DO UPDATE SET least = excluded.least, most = excluded.most, step = excluded.step,
		period = excluded.period, act = excluded.act, error = NULL,
		-- A size that its owner has changed meanwhile is his from now on.
		owner_slots = CASE WHEN y.our_slots = size THEN y.owner_slots END, our_slots = CASE WHEN y.our_slots = size THEN y.our_slots END;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_pool(text, int, int, int, interval, boolean) IS
'Lets the size of a pool follow its demand between at_least and at_most, by at most step slots at a time and once in a period; act: it is written, not only proposed. Again: changes the policy, and takes up a pool that its owner has changed. BP001 no such pool, BP002 bad number.';

CREATE FUNCTION airflow_bp.drop_pool(name text, restore boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone airflow_bp.pool_policy;
BEGIN
	DELETE FROM airflow_bp.pool_policy y WHERE y.pool = drop_pool.name RETURNING y.* INTO gone;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no policy for pool "%s"', coalesce(drop_pool.name, 'NULL')),
			HINT = 'See airflow_bp.pool_plan().';
	END IF;
	IF restore AND gone.owner_slots <> gone.our_slots
		AND NOT airflow_bp.pool_write_soon(gone.pool, gone.our_slots, gone.owner_slots, 'policy dropped') THEN
		RAISE NOTICE USING MESSAGE = format('pool "%s" is not as we left it, and stays as it is', gone.pool);
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_pool(text, boolean) IS
'Drops the policy of a pool; restore: the size that its owner gave it comes back, unless he has changed it since. Not in a transaction that stays open: see pool_apply(). BP001 no such policy, BP004 the pool was locked for seconds.';
