-- Scheduled tasks move from the member of a group where they wait longest to the one where they wait least.  Rows are taken SKIP
-- LOCKED and nothing of ours waits for one: the scheduler goes first, and what it has taken is not moved.

-- What the rule looks at.  load: slots asked for and used; of a queue: tasks.  starts: of the last 15 minutes.
CREATE TYPE airflow_bp.balance_load AS (
	member text, usable boolean, slots bigint, load bigint, scheduled bigint, running bigint, starts float8, oldest timestamptz,
	received_at timestamptz);
COMMENT ON TYPE airflow_bp.balance_load IS 'A member of a balance group: usable (there, not of 0 slots, not being drained), slots (NULL: unlimited, and of a queue), load (slots, of a queue tasks, in scheduled, queued, running and restarting), tasks scheduled and running, starts per minute, the instant since when the oldest is able to start, and when it received tasks last.';

CREATE FUNCTION airflow_bp.rebalance_next(loads airflow_bp.balance_load[], policy airflow_bp.balance_group, now timestamptz,
	OUT source text, OUT target text, OUT uneven boolean, OUT proposed bigint, OUT reason text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	WITH m AS (
		SELECT l.*, greatest(rebalance_next.now - l.oldest, interval '0') AS waits, l.slots IS NULL AND (policy).kind = 'pool' AS endless,
			coalesce(l.running, 0) = 0 AND coalesce(l.starts, 0) = 0 AS still
		FROM unnest(loads) l WHERE l.usable
	), s AS (
		SELECT * FROM m WHERE m.scheduled > 0 AND m.oldest IS NOT NULL AND ((policy).kind = 'queue' OR m.load > m.slots)
		ORDER BY m.oldest, m.member COLLATE "C" LIMIT 1
	), t AS (
		-- A queue that has tasks and starts none may have no worker.
		SELECT m.* FROM m JOIN s ON m.member <> s.member WHERE (policy).kind = 'pool' OR m.load = 0 OR NOT m.still
		ORDER BY coalesce(m.waits, interval '0'), m.load::float8 / coalesce(m.slots, 1), m.member COLLATE "C" LIMIT 1
	), x AS (
		-- Not more than makes them even, and nothing that the source could start itself.
		SELECT s.waits >= (policy).least_age AND s.waits >= (policy).ratio * coalesce(t.waits, interval '0') AS older,
			CASE WHEN (policy).kind = 'queue' THEN CASE WHEN t.still THEN 1 ELSE (s.load - t.load) / 2 END
				WHEN t.endless THEN s.load - s.slots
				ELSE least(s.load - s.slots, div(s.load::numeric * t.slots - t.load::numeric * s.slots, s.slots::numeric + t.slots)) END AS n
		FROM s CROSS JOIN t
	), c AS (
		SELECT s.member AS source, t.member AS target, coalesce(x.older AND x.n > 0, false) AS uneven, x.n, CASE
			WHEN s.member IS NULL THEN 'nothing waits'
			WHEN t.member IS NULL THEN 'no other member can take it'
			WHEN NOT x.older THEN 'enough'
			WHEN x.n <= 0 THEN 'loads are even'
			WHEN s.received_at > rebalance_next.now - (policy).stay THEN 'received lately'
			WHEN (policy).uneven_from IS DISTINCT FROM s.member OR (policy).uneven_since > rebalance_next.now - (policy).patience
				THEN 'uneven for less than patience' END AS obstacle,
			CASE WHEN t.still AND (policy).kind = 'queue' THEN 'one to begin with: no worker seen there'
				WHEN x.n > (policy).batch THEN 'bounded by batch' ELSE 'older' END AS reason
		FROM (SELECT) one LEFT JOIN s ON true LEFT JOIN t ON true LEFT JOIN x ON true
	)
	SELECT c.source, c.target, c.uneven, CASE WHEN c.obstacle IS NULL THEN least(c.n, (policy).batch)::bigint ELSE 0 END,
		coalesce(c.obstacle, c.reason)
	FROM c
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_next(airflow_bp.balance_load[], airflow_bp.balance_group, timestamptz) IS
'How much should move, from which member to which, and why; uneven: would it, if it stays so? From the member whose oldest task is the oldest to the one whose oldest is the youngest, so much that the loads per slot (of queues: the loads) are even. Slots; of queues: tasks.';

CREATE FUNCTION airflow_bp.rebalance_loads(kind text) RETURNS TABLE (balance_group text, loads airflow_bp.balance_load[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT m.balance_group, array_agg((m.member, (kind = 'queue' OR l.name IS NOT NULL AND l.slots IS DISTINCT FROM 0)
		AND NOT EXISTS (SELECT FROM airflow_bp.drain d WHERE d.stopped_at IS NULL AND d.scope = m.kind AND d.name = m.member), l.slots,
		CASE WHEN kind = 'queue' THEN coalesce(q.scheduled + q.queued + q.running, 0)
			ELSE coalesce(q.slots_charged, 0) + CASE WHEN l.count_deferred THEN coalesce(q.slots_deferred, 0) ELSE 0 END END,
		coalesce(q.scheduled, 0), coalesce(q.running, 0), q.rates_15[2], q.oldest,
		(SELECT max(r.moved_at) FROM airflow_bp.rebalance r WHERE r.kind = m.kind AND r.target = m.member))::airflow_bp.balance_load
		ORDER BY m.member)
	FROM airflow_bp.balance_member m
	LEFT JOIN airflow_bp.queue_counts(kind) q ON q.scope_name = m.member
	LEFT JOIN airflow_bp.queue_limits(kind) l ON l.name = m.member
	WHERE m.kind = rebalance_loads.kind GROUP BY 1
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_loads(text) IS 'What rebalance_next() looks at, for each balance group of a kind.';

CREATE FUNCTION airflow_bp.rebalance_look() RETURNS TABLE (policy airflow_bp.balance_group, source airflow_bp.balance_load,
	target airflow_bp.balance_load, uneven boolean, proposed bigint, reason text, allowed boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	RETURN QUERY
	SELECT g, s, t, n.uneven, n.proposed, CASE WHEN g.error IS NOT NULL AND n.reason = 'uneven for less than patience'
			THEN 'failed: ' || g.error ELSE n.reason END,
		coalesce(g.act AND d.mode <> 'off' AND NOT pg_is_in_recovery() AND n.proposed > 0, false)
	FROM (SELECT DISTINCT b.kind FROM airflow_bp.balance_group b) k
	CROSS JOIN LATERAL airflow_bp.rebalance_loads(k.kind) l
	JOIN airflow_bp.balance_group g ON g.name = l.balance_group
	LEFT JOIN airflow_bp.deployment d ON true
	CROSS JOIN LATERAL airflow_bp.rebalance_next(l.loads, g, airflow_bp.data_time()) n
	LEFT JOIN LATERAL unnest(l.loads) s ON s.member = n.source
	LEFT JOIN LATERAL unnest(l.loads) t ON t.member = n.target;
END
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_look() IS 'What rebalance_plan() shows, with the whole policy and both members.';

CREATE FUNCTION airflow_bp.rebalance_plan() RETURNS TABLE (balance_group text, kind text, source text, target text, source_age interval,
	target_age interval, source_load bigint, source_slots bigint, target_load bigint, target_slots bigint, proposed bigint, reason text,
	allowed boolean)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT (l.policy).name, (l.policy).kind, (l.source).member, (l.target).member,
		greatest(airflow_bp.data_time(), (l.source).oldest) - (l.source).oldest,
		greatest(airflow_bp.data_time(), (l.target).oldest) - (l.target).oldest,
		(l.source).load, (l.source).slots, (l.target).load, (l.target).slots, l.proposed, l.reason, l.allowed
	FROM airflow_bp.rebalance_look() l ORDER BY 1
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_plan() IS
'One row for each balance group: the member whose tasks wait longest, the one that would take some, their ages as oldest_claimable of queue(), their load and size in slots (of a queue: tasks, and NULL), how much should move at most, and why. allowed: rebalance_apply() may do it now.
reason: nothing waits (that a member cannot start itself); no other member can take it (missing, of 0 slots, being drained, or a
queue that has tasks and starts none); enough (not old enough,
or not older by the ratio); loads are even; received lately; uneven for less than patience; failed: ...;
else older, bounded by batch, one to begin with: no worker seen there (whether a queue has a worker is not in the database).';

CREATE FUNCTION airflow_bp.rebalance_write(kind text, source text, target text, tasks uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	task_instance text := format('%I.task_instance', airflow_bp.airflow_schema_name());
BEGIN
	IF airflow_bp.write_as_owner(task_instance::regclass, format('UPDATE %s SET %I = %L WHERE id = ANY (%L) AND state = %L AND %2$I = %6$L',
			task_instance, kind, target, tasks, 'scheduled', source)) <> cardinality(tasks) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = 'a task could not be moved', HINT = 'See the triggers on task_instance.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_write(text, text, text, uuid[]) IS 'Moves scheduled tasks that the caller has locked. BP004 when not all of them were.';

-- The tasks that may move, oldest first, locked.  Not those whose DAG is paused or stale, whose run does not run, that do not fit, whose
-- pool is of another team, or who would be charged to another tenant.
CREATE FUNCTION airflow_bp.rebalance_take(kind text, source text, target text, size bigint, most bigint) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $body$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	taken uuid[];
BEGIN
	EXECUTE format($query$
WITH class AS MATERIALIZED (
	SELECT row_number() OVER () AS n, * FROM (SELECT DISTINCT t.dag_id, t.%2$I AS other FROM %3$I.task_instance t
		WHERE t.state = 'scheduled' AND t.%1$I = $1 AND EXISTS (SELECT FROM airflow_bp.tenant_rule r WHERE r.match_on = %1$L)) d
), ids AS MATERIALIZED (
	SELECT array_agg(dag_id ORDER BY n) AS dags, array_agg(other ORDER BY n) AS others, array_agg($1 ORDER BY n) AS sources,
		array_agg($2 ORDER BY n) AS targets FROM class
), stranger AS MATERIALIZED (
	SELECT class.dag_id, class.other FROM class
	LEFT JOIN (SELECT m.* FROM ids, airflow_bp.match_tenants(dags, %4$s) m) b ON b.n = class.n
	LEFT JOIN (SELECT m.* FROM ids, airflow_bp.match_tenants(dags, %5$s) m) a ON a.n = class.n
	WHERE a.tenant IS DISTINCT FROM b.tenant
), team AS MATERIALIZED (
	SELECT p.team_name FROM %6$s p WHERE p.pool = $2 AND %1$L = 'pool'
), oldest AS MATERIALIZED (
	-- Without locks it need not sort them all.
	SELECT t.id FROM %3$I.task_instance t
	WHERE t.state = 'scheduled' AND t.%1$I = $1 AND t.pool_slots <= $3
		AND EXISTS (SELECT FROM %7$s d LEFT JOIN %8$s b ON b.dag_bundle_name = d.bundle_name WHERE d.dag_id = t.dag_id
			AND d.is_paused IS NOT TRUE AND d.is_stale IS NOT TRUE AND NOT EXISTS (SELECT FROM team WHERE team.team_name <> coalesce(b.team_name, '')))
		AND EXISTS (SELECT FROM %3$I.dag_run r WHERE r.dag_id = t.dag_id AND r.run_id = t.run_id AND r.state = 'running')
		AND NOT EXISTS (SELECT FROM stranger s WHERE s.dag_id = t.dag_id AND s.other IS NOT DISTINCT FROM t.%2$I)
	ORDER BY t.scheduled_dttm, t.id LIMIT 2 * $4
), locked AS MATERIALIZED (
	SELECT t.id, t.scheduled_dttm, CASE WHEN %1$L = 'pool' THEN t.pool_slots ELSE 1 END AS slots
	FROM %3$I.task_instance t JOIN oldest ON oldest.id = t.id WHERE t.state = 'scheduled' AND t.%1$I = $1 AND t.pool_slots <= $3
	ORDER BY t.scheduled_dttm, t.id LIMIT $4 FOR UPDATE OF t SKIP LOCKED
), summed AS (
	SELECT id, sum(slots) OVER (ORDER BY scheduled_dttm, id) AS slots FROM locked
)
SELECT array_agg(id ORDER BY id) FROM summed WHERE slots <= $4$query$,
		kind, CASE kind WHEN 'pool' THEN 'queue' ELSE 'pool' END, schema,
		CASE kind WHEN 'pool' THEN 'sources, others' ELSE 'others, sources' END,
		CASE kind WHEN 'pool' THEN 'targets, others' ELSE 'others, targets' END,
		airflow_bp.airflow_relation(schema, 'slot_pool', 'pool text', 'team_name text'),
		airflow_bp.airflow_relation(schema, 'dag', 'dag_id text', 'is_paused bool', 'is_stale bool', 'bundle_name text'),
		airflow_bp.airflow_relation(schema, 'dag_bundle_team', 'dag_bundle_name text', 'team_name text'))
	INTO taken USING source, target, coalesce(size, 2147483647), most;
	RETURN taken;
END
$body$;
COMMENT ON FUNCTION airflow_bp.rebalance_take(text, text, text, bigint, bigint) IS
'Locks and returns the tasks that may move from one pool or queue to another of a size (NULL: unlimited), together at most so many slots (of queues: tasks). NULL: none.';

CREATE FUNCTION airflow_bp.undo_rebalance(done airflow_bp.act) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind text := done.new ->> 'kind';
	here text := done.new ->> 'member';
	back text := done.old ->> 'member';
	tasks uuid[];
BEGIN
	IF kind = 'pool' AND NOT EXISTS (SELECT FROM airflow_bp.queue_limits('pool') l WHERE l.name = back) THEN
		RETURN false;
	END IF;
	EXECUTE format('SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM %I.task_instance t WHERE id IN
			(SELECT e::uuid FROM jsonb_array_elements_text($1) e) AND state = %L AND %I = $2 ORDER BY id FOR UPDATE SKIP LOCKED) mine',
		airflow_bp.airflow_schema_name(), 'scheduled', kind) INTO tasks USING done.new -> 'tasks', here;
	IF tasks IS NULL THEN
		RETURN false;
	END IF;
	PERFORM airflow_bp.rebalance_write(kind, here, back, tasks);
	-- Who has them again does not give within the stay.
	INSERT INTO airflow_bp.rebalance (act_id, kind, source, target, tasks) VALUES (done.act_id, kind, here, back, cardinality(tasks));
	RETURN true;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo_rebalance(airflow_bp.act) IS
'Moves those tasks back that are still scheduled where the act put them, and not in the hands of a scheduler; false when there are none, or their pool is gone.';

CREATE FUNCTION airflow_bp.rebalance_move(policy airflow_bp.balance_group, source airflow_bp.balance_load, target airflow_bp.balance_load,
	most bigint, why text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	tasks uuid[] := airflow_bp.rebalance_take(policy.kind, source.member, target.member, target.slots, most);
	act_id bigint;
BEGIN
	IF tasks IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = 'none of its tasks may move',
			HINT = 'They do not fit, or their tenant or team would change, or their DAG is paused, or a scheduler has them.';
	END IF;
	INSERT INTO airflow_bp.act (action, old, new) VALUES ('rebalance',
		jsonb_build_object('kind', policy.kind, 'member', source.member, 'tasks', to_jsonb(tasks)),
		jsonb_build_object('kind', policy.kind, 'member', target.member, 'tasks', to_jsonb(tasks), 'group', policy.name, 'reason', why))
	RETURNING act.act_id INTO act_id;
	INSERT INTO airflow_bp.rebalance (act_id, balance_group, kind, source, target, tasks, age_before, target_age_before, measure_at)
	VALUES (act_id, policy.name, policy.kind, source.member, target.member, cardinality(tasks), clock_timestamp() - source.oldest,
		clock_timestamp() - target.oldest, clock_timestamp() + policy.stay);
	PERFORM airflow_bp.rebalance_write(policy.kind, source.member, target.member, tasks);
	RETURN cardinality(tasks);
END
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_move(airflow_bp.balance_group, airflow_bp.balance_load, airflow_bp.balance_load, bigint, text) IS
'Moves at most so many slots (of queues: tasks) and logs the act; number of tasks. BP004 when none may move.';

CREATE FUNCTION airflow_bp.rebalance_measure() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	DELETE FROM airflow_bp.rebalance r WHERE r.moved_at < now() - make_interval(days => current_setting('airflow_bp.log_retention')::int);
	WITH due AS MATERIALIZED (
		SELECT r.ctid, r.kind, r.source, r.target FROM airflow_bp.rebalance r WHERE r.measured_at IS NULL AND r.measure_at <= now()
	), age AS MATERIALIZED (
		SELECT k.kind, q.scope_name AS member, clock_timestamp() - q.oldest AS age
		FROM (SELECT DISTINCT due.kind FROM due) k CROSS JOIN LATERAL airflow_bp.queue_counts(k.kind) q
	)
	UPDATE airflow_bp.rebalance r SET measured_at = clock_timestamp(),
		age_after = (SELECT a.age FROM age a WHERE a.kind = r.kind AND a.member = r.source),
		target_age_after = (SELECT a.age FROM age a WHERE a.kind = r.kind AND a.member = r.target)
	FROM due WHERE r.ctid = due.ctid
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_measure() IS 'Notes the ages after moves whose stay is over, and drops what is older than airflow_bp.log_retention.';

CREATE FUNCTION airflow_bp.rebalance_apply() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	look record;
BEGIN
	PERFORM airflow_bp.rebalance_measure();
	IF NOT EXISTS (SELECT FROM airflow_bp.balance_group) OR NOT EXISTS (SELECT FROM airflow_bp.deployment d WHERE d.mode <> 'off') THEN
		RETURN 0;
	END IF;
	FOR look IN SELECT * FROM airflow_bp.rebalance_look() l ORDER BY l.allowed, (l.policy).uneven_since LOOP
		-- Whoever is at the policy is not waited for.
		PERFORM FROM airflow_bp.balance_group g WHERE g.name = (look.policy).name AND g.act = (look.policy).act
			AND (look.uneven OR g.uneven_since IS NOT NULL)
		FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		-- A look that is missing breaks the row of looks.
		UPDATE airflow_bp.balance_group g SET uneven_from = CASE WHEN look.uneven THEN (look.source).member END,
			uneven_seen = CASE WHEN look.uneven THEN clock_timestamp() END,
			uneven_since = CASE WHEN NOT look.uneven THEN NULL
				WHEN g.uneven_from = (look.source).member AND g.uneven_seen > clock_timestamp() - interval '1 minute' AND NOT look.allowed
					THEN g.uneven_since ELSE clock_timestamp() END
		WHERE g.name = (look.policy).name;
		CONTINUE WHEN NOT look.allowed OR (look.policy).uneven_seen < clock_timestamp() - interval '1 minute';
		BEGIN
			UPDATE airflow_bp.balance_group g SET error = NULL WHERE g.name = (look.policy).name AND g.error IS NOT NULL;
			RETURN airflow_bp.rebalance_move(look.policy, look.source, look.target, look.proposed, look.reason);
		EXCEPTION WHEN OTHERS THEN
			UPDATE airflow_bp.balance_group g SET error = SQLERRM WHERE g.name = (look.policy).name;
		END;
	END LOOP;
	RETURN 0;
END
$$;
COMMENT ON FUNCTION airflow_bp.rebalance_apply() IS
'Moves what rebalance_plan() proposes and allows for one group, and returns the number of tasks; 0: nothing to move. Notes since when a group is uneven, and the ages after earlier moves. Nothing in mode off. The worker calls it every 15 s. By hand: the moved tasks are not started until the transaction ends.';

CREATE FUNCTION airflow_bp.set_balance_group(name text, kind text, members text[], act boolean DEFAULT false, ratio float8 DEFAULT 3,
	least_age interval DEFAULT '1 minute', patience interval DEFAULT '1 minute', stay interval DEFAULT '10 minutes', batch int DEFAULT 100)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	complaint text := CASE
		WHEN set_balance_group.ratio BETWEEN 1 AND 1000 IS NOT TRUE THEN
			format('ratio must be from 1 to 1000: %s', coalesce(set_balance_group.ratio::text, 'NULL'))
		WHEN set_balance_group.least_age BETWEEN interval '0' AND interval '30 days' IS NOT TRUE THEN
			format('least_age must be between 0 and 30 days: %s', coalesce(set_balance_group.least_age::text, 'NULL'))
		WHEN set_balance_group.patience BETWEEN interval '0' AND interval '30 days' IS NOT TRUE THEN
			format('patience must be between 0 and 30 days: %s', coalesce(set_balance_group.patience::text, 'NULL'))
		WHEN set_balance_group.stay BETWEEN interval '1 second' AND interval '30 days' IS NOT TRUE THEN
			format('stay must be between 1 second and 30 days: %s', coalesce(set_balance_group.stay::text, 'NULL'))
		WHEN set_balance_group.batch BETWEEN 1 AND 1000 IS NOT TRUE THEN
			format('batch must be from 1 to 1000: %s', coalesce(set_balance_group.batch::text, 'NULL'))
		WHEN cardinality(set_balance_group.members) >= 2 IS NOT TRUE OR (SELECT count(DISTINCT m) < count(*)
			FROM unnest(set_balance_group.members) m) THEN 'a group needs two members or more, each once' END;
	stranger text;
BEGIN
	PERFORM airflow_bp.check_name('balance group', set_balance_group.name);
	PERFORM airflow_bp.check_choice('kind', set_balance_group.kind, 'pool', 'queue');
	IF complaint IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = complaint, HINT = 'See the comment of airflow_bp.balance_group.';
	END IF;
	SELECT coalesce(m, 'NULL') INTO stranger FROM unnest(set_balance_group.members) m WHERE m IS NULL OR octet_length(m) NOT BETWEEN 1 AND 1024
		OR set_balance_group.kind = 'pool' AND NOT EXISTS (SELECT FROM airflow_bp.queue_limits('pool') l WHERE l.name = m);
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no %s "%s"', set_balance_group.kind, stranger),
			HINT = 'Give the names of pools that are there, or of queues.';
	END IF;
	INSERT INTO airflow_bp.balance_group AS g (name, kind, act, ratio, least_age, patience, stay, batch)
	VALUES (set_balance_group.name, set_balance_group.kind, coalesce(set_balance_group.act, false), set_balance_group.ratio,
		set_balance_group.least_age, set_balance_group.patience, set_balance_group.stay, set_balance_group.batch)
	ON CONFLICT ON CONSTRAINT balance_group_pkey DO UPDATE SET act = excluded.act, ratio = excluded.ratio, least_age = excluded.least_age,
		patience = excluded.patience, stay = excluded.stay, batch = excluded.batch, error = NULL, uneven_from = NULL, uneven_since = NULL,
		uneven_seen = NULL
	WHERE g.kind = excluded.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('group "%s" is of the other kind', set_balance_group.name),
			HINT = 'Drop it first, or give another name.';
	END IF;
	DELETE FROM airflow_bp.balance_member b WHERE b.balance_group = set_balance_group.name AND b.member <> ALL (set_balance_group.members);
	INSERT INTO airflow_bp.balance_member (kind, member, balance_group)
	SELECT set_balance_group.kind, m, set_balance_group.name FROM unnest(set_balance_group.members) m
	WHERE NOT EXISTS (SELECT FROM airflow_bp.balance_member b
		WHERE b.kind = set_balance_group.kind AND b.member = m AND b.balance_group = set_balance_group.name);
EXCEPTION WHEN unique_violation THEN
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('a %s is in another group', set_balance_group.kind),
		HINT = 'See the table airflow_bp.balance_member.';
END
$$;
COMMENT ON FUNCTION airflow_bp.set_balance_group(text, text, text[], boolean, float8, interval, interval, interval, int) IS
'Declares pools, or queues (kind), that can serve the same work, or replaces all values of a group. act: scheduled tasks are moved, not only proposed. Moved is when the oldest task of a member has waited least_age, and ratio times as long as that of another, for patience. stay: a member that received gives nothing for so long. batch: most slots (of queues: tasks) in one move, 1 to 1000. BP001 no such pool, bad name or kind, BP002 bad number, BP004 a member is in another group.';

CREATE FUNCTION airflow_bp.drop_balance_group(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.balance_group g WHERE g.name = drop_balance_group.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no balance group "%s"', coalesce(drop_balance_group.name, 'NULL')),
			HINT = 'See airflow_bp.rebalance_plan().';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_balance_group(text) IS 'Drops a balance group; tasks that were moved stay where they are, undo() moves them back. BP001 no such group.';
