-- Rules against sessions that sit idle in a transaction on a table of Airflow.

CREATE FUNCTION airflow_bp.end_session(pid int, backend_start timestamptz, xact_start timestamptz, terminate boolean) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'airflow_bp_end_session';
COMMENT ON FUNCTION airflow_bp.end_session(int, timestamptz, timestamptz, boolean) IS 'Sends a signal to a session, if it is the same, in the same transaction, still idle in it, and not in the critical section of the schedulers; false: it is not.';

CREATE FUNCTION airflow_bp.lock_rule_plan() RETURNS TABLE (rule text, action text, act boolean, allowed boolean, reason text, pid int, component text,
	idle interval, relations text[], waiters int, statement text, backend_start timestamptz, xact_start timestamptz, evidence jsonb)
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	WITH idle AS MATERIALIZED (
		SELECT s.*, clock_timestamp() - s.state_change AS idle FROM airflow_bp.sessions_seen() s
		WHERE s.state LIKE 'idle in transaction%' AND s.state_change <= clock_timestamp() - (SELECT min(r.after) FROM airflow_bp.lock_rule r)),
	held AS MATERIALIZED (
		SELECT l.pid, array_agg(DISTINCT c.relname::text ORDER BY c.relname::text) FILTER (WHERE c.oid IS NOT NULL) AS relations,
			jsonb_agg(jsonb_strip_nulls(jsonb_build_object('type', l.locktype, 'mode', l.mode, 'relation', c.relname)))
				FILTER (WHERE c.oid IS NOT NULL OR l.locktype <> 'relation') AS locks,
			bool_or(l.locktype = 'advisory' AND l.classid = 0 AND l.objid = 2 AND l.objsubid = 1) AS critical,
			bool_or(l.locktype = 'advisory' AND l.classid = 0 AND l.objid = 1 AND l.objsubid = 1
				OR c.oid IS NOT NULL AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock')) AS migration
		FROM (SELECT DISTINCT i.pid FROM idle i) i JOIN pg_locks l ON l.pid = i.pid AND l.granted AND l.database IS NOT DISTINCT FROM
			(SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = airflow_bp.airflow_schema_or_null())
			ON l.locktype = 'relation' AND c.oid = l.relation AND c.relkind IN ('r', 'p')
		GROUP BY l.pid),
	tree AS MATERIALIZED (SELECT t.* FROM airflow_bp.lock_tree() t WHERE EXISTS (SELECT FROM idle))
	SELECT r.name, r.action, r.act, v.refusal IS NULL, v.refusal, i.pid, i.component, i.idle, h.relations, coalesce(t.waiters, 0), i.statement,
		i.backend_start, i.xact_start, jsonb_build_object('session', to_jsonb(i), 'locks', h.locks,
			'blocked', coalesce((SELECT jsonb_agg(to_jsonb(b)) FROM (SELECT * FROM tree b WHERE b.root = i.pid AND b.pid <> i.pid LIMIT 20) b), '[]'))
	FROM airflow_bp.lock_rule r
	JOIN idle i ON i.idle >= r.after AND (r.component IS NULL OR r.component = i.component)
	JOIN held h ON h.pid = i.pid AND h.relations IS NOT NULL AND (r.relation IS NULL OR r.relation = ANY (h.relations))
	LEFT JOIN tree t ON t.pid = i.pid
	CROSS JOIN LATERAL (SELECT CASE
		WHEN h.critical THEN 'in the critical section of the schedulers'
		WHEN h.migration OR i.component = 'migration' THEN 'a migration, or holds a table exclusively'
		WHEN i.component IN ('ours', 'pg_dump', 'vacuum') THEN 'a session of ' || i.component
		WHEN coalesce(t.waiters, 0) < r.waiters THEN format('%s of %s waiters', coalesce(t.waiters, 0), r.waiters) END) v (refusal)
	ORDER BY r.name, i.idle DESC
$$;
COMMENT ON FUNCTION airflow_bp.lock_rule_plan() IS
'Sessions idle in a transaction that has locked a table of Airflow, for longer than a rule says: a row for each rule and session. allowed: lock_rule_apply() would send the signal, when act is set; else reason says why not. relations: of Airflow, locked by it. evidence: what is logged. A session in the critical section of the schedulers, a migration, and one that holds a table of Airflow exclusively are never allowed.';

CREATE FUNCTION airflow_bp.lock_rule_apply() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	look record;
BEGIN
	IF NOT EXISTS (SELECT FROM airflow_bp.lock_rule) THEN
		RETURN 0;
	END IF;
	FOR look IN SELECT * FROM airflow_bp.lock_rule_plan() p WHERE p.allowed AND NOT EXISTS (SELECT FROM airflow_bp.lock_action a
			WHERE a.rule = p.rule AND a.pid = p.pid AND a.backend_start = p.backend_start AND a.xact_start = p.xact_start AND a.acted = p.act)
	LOOP
		INSERT INTO airflow_bp.lock_action (rule, action, acted, done, pid, backend_start, xact_start, evidence)
		VALUES (look.rule, look.action, look.act,
			CASE WHEN look.act THEN airflow_bp.end_session(look.pid, look.backend_start, look.xact_start, look.action = 'terminate') END,
			look.pid, look.backend_start, look.xact_start, look.evidence);
		-- One in a turn: what is done is in the log before the next.
		IF look.act THEN
			RETURN 1;
		END IF;
	END LOOP;
	RETURN 0;
END
$$;
COMMENT ON FUNCTION airflow_bp.lock_rule_apply() IS 'Does what lock_rule_plan() allows, once for each transaction, and logs it in lock_action with the evidence; a rule without act is logged only. At most one signal, and then 1. The worker calls it in each turn.';

CREATE FUNCTION airflow_bp.set_lock_rule(name text, after interval, action text DEFAULT 'terminate', component text DEFAULT NULL,
	relation text DEFAULT NULL, waiters int DEFAULT 0, act boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.check_choice('action', set_lock_rule.action, 'cancel', 'terminate');
	IF set_lock_rule.component IS NOT NULL THEN
		PERFORM airflow_bp.check_choice('component', set_lock_rule.component, 'scheduler', 'api-server', 'dag-processor', 'triggerer', 'worker',
			'unknown');
	END IF;
	IF coalesce(set_lock_rule.name, '') = '' OR octet_length(set_lock_rule.name) > 1024 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = 'a rule needs a name', HINT = 'Give a name of 1 to 1024 bytes.';
	ELSIF set_lock_rule.after IS NULL OR set_lock_rule.after NOT BETWEEN interval '1 second' AND interval '30 days' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002',
			MESSAGE = format('after must be between 1 second and 30 days: %s', coalesce(set_lock_rule.after::text, 'NULL')),
			HINT = 'Airflow''s own transactions are over in seconds; one minute is a good beginning.';
	ELSIF set_lock_rule.waiters IS NULL OR set_lock_rule.waiters < 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('waiters must be at least 0: %s', coalesce(set_lock_rule.waiters::text, 'NULL')),
			HINT = 'Give the number of sessions that must wait for it.';
	ELSIF set_lock_rule.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = airflow_bp.airflow_schema_or_null() AND c.relname = set_lock_rule.relation AND c.relkind IN ('r', 'p')) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('Airflow has no table "%s"', set_lock_rule.relation),
			HINT = 'Give the name of a table of Airflow without its schema, such as task_instance.';
	END IF;
	IF set_lock_rule.action = 'cancel' THEN
		RAISE NOTICE USING MESSAGE = 'PostgreSQL does not cancel a session that is idle in its transaction',
			HINT = 'A cancel reaches one that goes on in that very moment; ''terminate'' ends all.';
	END IF;
	INSERT INTO airflow_bp.lock_rule (name, after, action, component, relation, waiters, act)
	VALUES (set_lock_rule.name, set_lock_rule.after, set_lock_rule.action, set_lock_rule.component, set_lock_rule.relation, set_lock_rule.waiters,
		coalesce(set_lock_rule.act, false))
	ON CONFLICT ON CONSTRAINT lock_rule_pkey DO UPDATE SET after = excluded.after, action = excluded.action, component = excluded.component,
		relation = excluded.relation, waiters = excluded.waiters, act = excluded.act;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_lock_rule(text, interval, text, text, text, int, boolean) IS
'Makes or replaces a rule: a session that sits idle in a transaction for longer than after, with a lock on a table of Airflow, is terminated. component, relation: only such; waiters: only while so many wait for it. act false: only logged in lock_action, as a dry run; look there first. What is terminated loses its transaction, and its client its connection; Airflow connects again. Never one in the critical section, never a migration. BP001 unknown action, component or table, BP002 bad number.';

CREATE FUNCTION airflow_bp.drop_lock_rule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM airflow_bp.lock_rule r WHERE r.name = drop_lock_rule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no rule "%s"', coalesce(drop_lock_rule.name, 'NULL')),
			HINT = 'See the table airflow_bp.lock_rule.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.drop_lock_rule(text) IS 'Drops a rule. BP001 no such rule.';
