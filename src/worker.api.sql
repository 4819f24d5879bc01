-- Switching on and off, turns of the worker, status.

CREATE FUNCTION airflow_bp.known_heads() RETURNS TABLE (head text, airflow_version text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 6 SET search_path = pg_catalog, pg_temp AS $$
	VALUES ('29ce7909c52b', '>= 3.0.0'), ('fe199e1abd77', '>= 3.0.3'), ('cc92b33c6709', '>= 3.1.0'), ('509b94a1042d', '>= 3.1.8'),
		('1d6611b6ab7c', '>= 3.2.0'), ('d2f4e1b3c5a7', '>= 3.3.0')
$$;
COMMENT ON FUNCTION airflow_bp.known_heads() IS 'Alembic heads on which enforcement is proved, with the Airflow versions from which on each is found.';

CREATE FUNCTION airflow_bp.airflow_schema_or_null() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN airflow_bp.airflow_schema_name();
EXCEPTION WHEN SQLSTATE 'BP006' THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION airflow_bp.airflow_schema_or_null() IS 'Schema of the Airflow tables; NULL when there is none or more than one.';

CREATE FUNCTION airflow_bp.alembic_head(airflow_schema text) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'airflow_bp_alembic_head';
COMMENT ON FUNCTION airflow_bp.alembic_head(text) IS 'Alembic head of the Airflow tables in a schema; NULL when there is none.';

CREATE FUNCTION airflow_bp.gate_table() RETURNS regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT max(t.tgrelid) FILTER (WHERE t.tgfoid = 'airflow_bp.gate()'::regprocedure)::regclass
		FROM pg_trigger t
		WHERE t.tgfoid IN ('airflow_bp.gate()'::regprocedure, 'airflow_bp.count()'::regprocedure, 'airflow_bp.run_changed()'::regprocedure)
			AND t.tgenabled IN ('O', 'A')
		HAVING count(*) >= 4);
END
$$;
COMMENT ON FUNCTION airflow_bp.gate_table() IS 'Table with our gate; NULL when not enabled, or when one of the four triggers is missing.';

-- In plpgsql, which keeps its plans: the worker asks each second.
CREATE FUNCTION airflow_bp.deployment_state() RETURNS TABLE (airflow_schema text, alembic_head text, airflow_version text,
	head_known boolean, gate_enabled boolean)
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
	airflow_schema := airflow_bp.airflow_schema_or_null();
	alembic_head := airflow_bp.alembic_head(airflow_schema);
	airflow_version := (SELECT k.airflow_version FROM airflow_bp.known_heads() k WHERE k.head = alembic_head);
	head_known := airflow_version IS NOT NULL;
	gate_enabled := airflow_bp.gate_table() IS NOT NULL;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION airflow_bp.deployment_state() IS 'Which Airflow is here, whether its head is known, and whether our triggers are there.';

CREATE FUNCTION airflow_bp.with_short_locks(statement text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
	FOR attempt IN 1 .. 100 LOOP
		BEGIN
			EXECUTE statement;
			RETURN;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			-- Let those who queued behind us pass before the next try.
			PERFORM pg_sleep(0.05 + 0.1 * random());
		END;
	END LOOP;
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = 'could not lock the tables of Airflow',
		HINT = 'A long transaction holds them; see pg_stat_activity, and try again.';
END
$$;
COMMENT ON FUNCTION airflow_bp.with_short_locks(text) IS
'Runs a statement with a lock_timeout of 50 ms, up to 100 times, so that Airflow never queues behind it for longer. BP004 when it got no lock.';

CREATE FUNCTION airflow_bp.set_mode(mode text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old text;
BEGIN
	PERFORM airflow_bp.check_choice('mode', set_mode.mode, 'off', 'observe', 'enforce');
	IF set_mode.mode = 'enforce' AND NOT (SELECT s.head_known FROM airflow_bp.deployment_state() s) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP006', MESSAGE = format('alembic head %s is not known',
			coalesce((SELECT s.alembic_head FROM airflow_bp.deployment_state() s), '(none)')),
			HINT = 'Use mode observe; see airflow_bp.known_heads() for what is known.';
	END IF;
	SELECT d.mode INTO old FROM airflow_bp.deployment d;
	UPDATE airflow_bp.deployment d SET mode = set_mode.mode;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = 'airflow_bp is not enabled',
			HINT = 'Call airflow_bp.enable().';
	END IF;
	IF old <> set_mode.mode THEN
		INSERT INTO airflow_bp.act (action, old, new)
		VALUES ('set_mode', jsonb_build_object('mode', old), jsonb_build_object('mode', set_mode.mode));
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.set_mode(text) IS
'Sets the mode: off, observe (decide and log, admit all), enforce. In force within a turn of the worker. BP001 unknown mode, BP005 not enabled, BP006 enforce on an unknown alembic head.';

CREATE FUNCTION airflow_bp.enable(mode text DEFAULT 'observe') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	make text := '';
BEGIN
	PERFORM airflow_bp.check_choice('mode', enable.mode, 'off', 'observe', 'enforce');
	IF airflow_bp.gate_table() IS NULL THEN
		make := format($make$
			CREATE OR REPLACE TRIGGER zz_airflow_bp_gate BEFORE UPDATE ON %1$I.task_instance FOR EACH ROW EXECUTE FUNCTION airflow_bp.gate();
			CREATE OR REPLACE TRIGGER zz_airflow_bp_count AFTER INSERT OR DELETE ON %1$I.task_instance FOR EACH ROW EXECUTE FUNCTION airflow_bp.count();
			CREATE OR REPLACE TRIGGER zz_airflow_bp_truncate AFTER TRUNCATE ON %1$I.task_instance FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.count();
			CREATE OR REPLACE TRIGGER zz_airflow_bp_run BEFORE UPDATE ON %1$I.dag_run FOR EACH ROW EXECUTE FUNCTION airflow_bp.run_changed();
			ALTER TRIGGER zz_airflow_bp_gate ON %1$I.task_instance DEPENDS ON EXTENSION airflow_bp;
			ALTER TRIGGER zz_airflow_bp_count ON %1$I.task_instance DEPENDS ON EXTENSION airflow_bp;
			ALTER TRIGGER zz_airflow_bp_truncate ON %1$I.task_instance DEPENDS ON EXTENSION airflow_bp;
			ALTER TRIGGER zz_airflow_bp_run ON %1$I.dag_run DEPENDS ON EXTENSION airflow_bp;
		$make$, schema);
		-- Airflow takes dag_run before task_instance; so do we.
		PERFORM airflow_bp.with_short_locks(format('LOCK TABLE %1$I.dag_run, %1$I.task_instance IN SHARE ROW EXCLUSIVE MODE;', schema) || make);
	END IF;
	INSERT INTO airflow_bp.deployment (mode) VALUES ('off')
	ON CONFLICT (singleton) DO UPDATE SET enabled_at = CASE WHEN make = '' THEN deployment.enabled_at ELSE now() END;
	PERFORM airflow_bp.set_mode(enable.mode);
	IF NOT airflow_bp.preloaded() THEN
		RAISE WARNING USING MESSAGE = 'airflow_bp is not preloaded: nothing is counted or held',
			HINT = 'Add airflow_bp to shared_preload_libraries and this database to airflow_bp.database, and restart the server.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.enable(text) IS
'Puts the triggers on task_instance and dag_run and sets the mode (off, observe, enforce). Takes short locks only, with retries. BP001 unknown mode, BP004 no lock to be had, BP006 no Airflow, or enforce on an unknown alembic head.';

CREATE FUNCTION airflow_bp.disable() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	schema text := (SELECT min(n.nspname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE t.tgfoid IN ('airflow_bp.gate()'::regprocedure, 'airflow_bp.count()'::regprocedure, 'airflow_bp.run_changed()'::regprocedure));
BEGIN
	IF EXISTS (SELECT FROM airflow_bp.deployment) THEN
		PERFORM airflow_bp.set_mode('off');
	END IF;
	IF schema IS NOT NULL THEN
		PERFORM airflow_bp.with_short_locks(format($drop$
			LOCK TABLE %1$I.dag_run, %1$I.task_instance IN ACCESS EXCLUSIVE MODE;
			DROP TRIGGER IF EXISTS zz_airflow_bp_run ON %1$I.dag_run;
			DROP TRIGGER IF EXISTS zz_airflow_bp_gate ON %1$I.task_instance;
			DROP TRIGGER IF EXISTS zz_airflow_bp_count ON %1$I.task_instance;
			DROP TRIGGER IF EXISTS zz_airflow_bp_truncate ON %1$I.task_instance;
		$drop$, schema));
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.disable() IS
'Sets the mode to off and removes the triggers. Held tasks start as in plain Airflow. Policy and logs stay. Takes short locks only, with retries. BP004 no lock to be had.';

CREATE FUNCTION airflow_bp.tick() RETURNS boolean
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
AS 'MODULE_PATHNAME', 'airflow_bp_tick';
COMMENT ON FUNCTION airflow_bp.tick() IS
'One turn of the worker, by hand or by pg_cron: compiles policy, recounts, grants, evaluates parked runs, writes the decision log. False when another is at it. Changes of policy by the same transaction wait for a turn after its commit. BP005 not preloaded, or a standby; 25001 at another isolation level than READ COMMITTED.';

CREATE FUNCTION airflow_bp.recount() RETURNS TABLE (tenant text, counter bigint, counted bigint, drift bigint)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'airflow_bp_recount';
COMMENT ON FUNCTION airflow_bp.recount() IS
'Counts the tables again, exactly, while transactions run, and compares: slots of each tenant by the counters and by the tables; drift must be 0. The counters are corrected. BP005 not preloaded, not enabled, or a standby.';

CREATE FUNCTION airflow_bp.memory_state() RETURNS TABLE (mode text, may_enforce boolean, ready boolean, worker_pid int, last_tick timestamptz,
	tick_ms float8, drift_slots bigint, held bigint, parked_runs bigint, fail_open_total bigint, held_without_place bigint, log_dropped bigint, note text)
LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'airflow_bp_memory_state';
COMMENT ON FUNCTION airflow_bp.memory_state() IS 'What shared memory says of this database; no row without it.';

CREATE FUNCTION airflow_bp.preloaded() RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_preloaded';
COMMENT ON FUNCTION airflow_bp.preloaded() IS 'Is airflow_bp in shared_preload_libraries?';

CREATE FUNCTION airflow_bp.library_version() RETURNS text
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'airflow_bp_library_version';
COMMENT ON FUNCTION airflow_bp.library_version() IS 'Version of the library that this session has: the one that the server was started with, where it is preloaded.';

CREATE FUNCTION airflow_bp.need_library() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	library text := airflow_bp.library_version();
	objects text := (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'airflow_bp');
BEGIN
	IF string_to_array(library, '.')::int[] < string_to_array(objects, '.')::int[] THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = format('the library is of version %s, older than the SQL objects of %s', library, objects),
			HINT = 'Install the library of that version, restart the server, and try again.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.need_library() IS 'For install and update scripts: BP005 when the server has an older library than they need.';

CREATE FUNCTION airflow_bp.version_note() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('the library is of version %s, the SQL objects are of %s: nothing is held; %s', l.version, e.extversion,
		CASE WHEN string_to_array(l.version, '.')::int[] < string_to_array(e.extversion, '.')::int[] THEN 'install that library and restart'
			ELSE 'run ALTER EXTENSION airflow_bp UPDATE' END)
	FROM pg_extension e CROSS JOIN airflow_bp.library_version() l (version)
	WHERE e.extname = 'airflow_bp' AND e.extversion <> l.version
$$;
COMMENT ON FUNCTION airflow_bp.version_note() IS 'What to do about a library and SQL objects of different versions; NULL when they are of one.';

CREATE FUNCTION airflow_bp.status() RETURNS TABLE (extension_version text, mode text, airflow_version text, alembic_head text, head_known boolean,
	preloaded boolean, worker_pid int, last_tick timestamptz, tick_ms float8, drift_slots bigint, held bigint, parked_runs bigint,
	fail_open_total bigint, note text, sweeps jsonb)
LANGUAGE sql VOLATILE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.extversion, coalesce(d.mode, 'off'), s.airflow_version, s.alembic_head, s.head_known, airflow_bp.preloaded(), m.worker_pid, m.last_tick,
		m.tick_ms, m.drift_slots, m.held, m.parked_runs, m.fail_open_total,
		nullif(concat_ws('; ',
			v.version_note,
			CASE WHEN s.airflow_schema IS NULL THEN 'no schema, or more than one, holds the tables of Airflow' END,
			CASE WHEN NOT airflow_bp.preloaded() THEN 'not preloaded: add airflow_bp to shared_preload_libraries and restart' END,
			CASE WHEN NOT s.gate_enabled THEN 'not enabled: call airflow_bp.enable()' END,
			CASE WHEN s.gate_enabled AND EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_trigger t ON t.tgrelid = r.srrelid
					WHERE t.tgfoid = 'airflow_bp.gate()'::regprocedure AND t.tgenabled <> 'A') THEN
				'a subscription writes task_instance: the counters are those of the last recount' END,
			CASE WHEN s.alembic_head IS NOT NULL AND NOT s.head_known THEN 'alembic head not known: enforcement pauses' END,
			CASE WHEN pg_is_in_recovery() THEN 'standby: nothing is counted here'
				WHEN airflow_bp.preloaded() AND m.worker_pid IS NULL AND v.version_note IS NULL THEN
					'no worker: set airflow_bp.database, or call airflow_bp.tick() at a period' END,
			CASE WHEN s.gate_enabled AND m.ready IS FALSE THEN 'counters not ready' END,
			CASE WHEN m.held_without_place > 0 THEN format('%s asks held without a place in line: raise airflow_bp.max_held', m.held_without_place) END,
			CASE WHEN m.held >= 1000 AND NOT current_setting('airflow_bp.parking')::boolean THEN
				format('%s held tasks make the scheduler slower: ALTER SYSTEM SET airflow_bp.parking = on', m.held) END,
			airflow_bp.drain_note(),
			CASE WHEN m.log_dropped > 0 THEN format('%s decisions missing in the log', m.log_dropped) END,
			m.note), ''),
		CASE WHEN v.version_note IS NULL THEN airflow_bp.sweeps() END
	FROM airflow_bp.deployment_state() s
	JOIN pg_extension e ON e.extname = 'airflow_bp'
	LEFT JOIN airflow_bp.deployment d ON true
	LEFT JOIN airflow_bp.memory_state() m ON true
	CROSS JOIN airflow_bp.version_note() v (version_note)
$$;
COMMENT ON FUNCTION airflow_bp.status() IS
'One row: versions, mode, worker and its last turn (tick_ms: its length), drift_slots (recount minus counters, must be 0), held tasks, parked runs, fail_open_total (asks and changes that could not be judged and were let through), note (what to know or do), sweeps (see sweeps(): when Airflow mends what is stuck, when we warn and record). NULL: cannot be known.';

CREATE FUNCTION airflow_bp.undo_set_mode(done airflow_bp.act) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (SELECT d.mode FROM airflow_bp.deployment d) = done.new ->> 'mode' AND done.old ->> 'mode' IS NOT NULL THEN
		PERFORM airflow_bp.set_mode(done.old ->> 'mode');
		RETURN true;
	END IF;
	RETURN false;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo_set_mode(airflow_bp.act) IS 'Sets the mode that there was before an act; false when it has changed since.';

-- An act named x is taken back by undo_x(), which says false when it cannot be.
CREATE FUNCTION airflow_bp.undo(act_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	done airflow_bp.act;
	undone boolean;
BEGIN
	SELECT * INTO done FROM airflow_bp.act a WHERE a.act_id = undo.act_id FOR UPDATE;
	IF done IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no act %s', coalesce(undo.act_id::text, 'NULL')),
			HINT = 'See the table airflow_bp.act.';
	END IF;
	IF done.undone_at IS NULL AND to_regprocedure(format('airflow_bp.%I(airflow_bp.act)', 'undo_' || done.action)) IS NOT NULL THEN
		EXECUTE format('SELECT airflow_bp.%I($1)', 'undo_' || done.action) INTO undone USING done;
	END IF;
	IF undone IS NOT TRUE THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('act %s cannot be undone', undo.act_id),
			HINT = 'It was undone before, or what it changed has changed since.';
	END IF;
	PERFORM airflow_bp.dlq_reopen(undo.act_id);
	UPDATE airflow_bp.act a SET undone_at = now() WHERE a.act_id = undo.act_id;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo(bigint) IS 'Takes a logged act back, where nothing has changed since: a mode, the size of a pool, which pool_apply() then leaves alone, a clear or a failure before a scheduler looks at it, a letter closed, a drain, moved tasks and weights that still wait. BP001 no such act, BP004 cannot be undone.';


-- Rights.  What no list names is for the owner of the extension alone.

CREATE FUNCTION airflow_bp.functions_for(audience text) RETURNS SETOF regprocedure
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace = 'airflow_bp'::regnamespace AND p.proname = ANY (CASE audience
		WHEN 'reader' THEN '{status,stuck,stuck_thresholds,queue,queue_rates,waiting,waiting_summary,tenants,tenant_of,rooms,held,parked,
			preview,preview_state,preview_change,explain_tenant,pool_plan,policy_version,policy_wanted,known_heads,
			dead_letters,dlq_plan,dlq_batches,rebalance_plan,priority_plan,audit,
			drain_status,may_i_upgrade,
			lock_tree,sessions,lock_episodes,lock_report,lock_timeline,critical_section,sampler_status,deadlocks,lock_rule_plan,
			statement_component,statement_shape,statement_class,
			scheduler_loops,job_heartbeats,dag_parses,connections,hot_tables,slow_statements,deadlock_counts,gauges}'::name[]
		WHEN 'operator' THEN '{set_mode,set_tenant,drop_tenant,set_cohort,drop_cohort,add_tenant_rule,drop_tenant_rule,
			drain_start,drain_stop,
			set_stuck_threshold,drop_stuck_threshold,stuck_sweep,
			set_pool,drop_pool,pool_apply,undo,tick,recount,clear_tasks,dlq_retry,dlq_fail,dlq_discard,dlq_purge,
			dlq_retry_all,dlq_filter,dlq_batch_begin,dlq_batch_next,dlq_batch_dry,dlq_auto,set_dlq_policy,drop_dlq_policy,
			set_lock_rule,drop_lock_rule,lock_rule_apply,
			set_balance_group,drop_balance_group,rebalance_apply,set_priority_ageing,drop_priority_ageing,priority_apply}'::name[] END)
$$;
COMMENT ON FUNCTION airflow_bp.functions_for(text) IS 'Functions that grant_reader() gives (audience reader), and those that grant_operator() gives on top (operator).';

CREATE FUNCTION airflow_bp.grant_functions(role regrole, audience text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	function regprocedure;
	type regtype;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = 'no role is given', HINT = 'Give the name of a role.';
	END IF;
	FOR function IN SELECT airflow_bp.functions_for(audience) LOOP
		EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', function, role);
	END LOOP;
	-- Who may use the schema could build on our types, and so be in the way of DROP EXTENSION.  In the install script this makes pg_dump 15 warn.
	FOR type IN SELECT t.oid FROM pg_type t WHERE t.typnamespace = 'airflow_bp'::regnamespace AND t.typcategory <> 'A' LOOP
		EXECUTE format('REVOKE ALL ON TYPE %s FROM PUBLIC', type);
	END LOOP;
END
$$;
COMMENT ON FUNCTION airflow_bp.grant_functions(regrole, text) IS 'Grants a role the functions of functions_for(), and takes our types from PUBLIC. BP001 no role.';

CREATE FUNCTION airflow_bp.grant_reader(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.grant_functions(role, 'reader');
	EXECUTE format('GRANT USAGE ON SCHEMA airflow_bp TO %s', role);
	EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA airflow_bp TO %s', role);
END
$$;
COMMENT ON FUNCTION airflow_bp.grant_reader(regrole) IS
'Lets a role read: the views, the tables of policy and of logs, and the functions that only read. It needs no right on the tables of Airflow. Call it again after an upgrade of the extension. BP001 no role.';

CREATE FUNCTION airflow_bp.grant_operator(role regrole) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.grant_reader(role);
	PERFORM airflow_bp.grant_functions(role, 'operator');
END
$$;
COMMENT ON FUNCTION airflow_bp.grant_operator(regrole) IS
'Lets a role read and operate: modes, tenants, cohorts, rules, pools, letters, drains, moves of tasks and their weights, undo, tick, recount. Not enable() and disable(), which change the tables of Airflow, not pg_cron, and no writing to our tables but by functions; set_mode(''off'') is enough to let everything start. Call it again after an upgrade of the extension. BP001 no role.';

-- pg_cron is optional, and may be in another database than Airflow.

CREATE FUNCTION airflow_bp.cron_schedule(period interval) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	seconds numeric := extract(epoch FROM period);
BEGIN
	IF seconds IN (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30) THEN
		RETURN format('%s seconds', seconds::int);
	ELSIF seconds / 60 IN (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30) THEN
		RETURN format('*/%s * * * *', (seconds / 60)::int);
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('period must divide a minute or an hour evenly: %s', coalesce(period::text, 'NULL')),
		HINT = 'Give 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30 seconds or minutes.';
END
$$;
COMMENT ON FUNCTION airflow_bp.cron_schedule(interval) IS 'The period as pg_cron writes it; whole seconds need pg_cron 1.5. BP002 when it cannot be written.';

CREATE FUNCTION airflow_bp.cron_database() RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- Not current_setting(): a name in the configuration file alone does not load pg_cron.
	found name := (SELECT s.setting FROM pg_settings s WHERE s.name = 'cron.database_name');
BEGIN
	IF found IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = 'pg_cron is not loaded',
			HINT = 'Install pg_cron, add it to shared_preload_libraries and restart; or use the worker: set airflow_bp.database.';
	ELSIF found = current_database() AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = 'pg_cron is loaded, but not installed in this database',
			HINT = 'Run: CREATE EXTENSION pg_cron;';
	END IF;
	RETURN found;
END
$$;
COMMENT ON FUNCTION airflow_bp.cron_database() IS 'The database in which pg_cron keeps its jobs. BP005 without pg_cron.';

CREATE FUNCTION airflow_bp.cron_version() RETURNS int[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_to_array(substring(coalesce(e.extversion, a.default_version) FROM '^[0-9]+[.][0-9]+'), '.')::int[]
	FROM pg_available_extensions a LEFT JOIN pg_extension e ON e.extname = a.name WHERE a.name = 'pg_cron'
$$;
COMMENT ON FUNCTION airflow_bp.cron_version() IS 'Version of pg_cron here, or else of the one that can be installed.';

CREATE FUNCTION airflow_bp.unschedule_pg_cron() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	removed boolean;
BEGIN
	IF airflow_bp.cron_database() <> current_database() THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = format('pg_cron keeps its jobs in database "%s"', airflow_bp.cron_database()),
			HINT = format('Run there: SELECT cron.unschedule(jobid) FROM cron.job WHERE command = %L AND database = %L;',
				'SELECT airflow_bp.tick()', current_database());
	END IF;
	SELECT coalesce(bool_or(cron.unschedule(j.jobid)), false) INTO removed
	FROM cron.job j WHERE j.jobname = 'airflow_bp' AND j.database = current_database();
	RETURN removed;
END
$$;
COMMENT ON FUNCTION airflow_bp.unschedule_pg_cron() IS
'Removes the job that schedule_with_pg_cron() made; false when there is none. BP005 without pg_cron, or when it is in another database: the hint has the statement to run there.';

CREATE FUNCTION airflow_bp.schedule_with_pg_cron(period interval DEFAULT '1 second') RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	schedule text := airflow_bp.cron_schedule(period);
	elsewhere boolean := airflow_bp.cron_database() <> current_database();
	version int[] := airflow_bp.cron_version();
BEGIN
	IF version < '{1,4}' AND elsewhere THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = format('pg_cron %s runs jobs only in database "%s"',
			array_to_string(version, '.'), airflow_bp.cron_database()), HINT = 'Upgrade pg_cron to 1.4 or later, or use the worker: set airflow_bp.database.';
	ELSIF version < '{1,5}' AND period < interval '1 minute' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = format('pg_cron %s knows no periods under a minute', array_to_string(version, '.')),
			HINT = 'Upgrade pg_cron to 1.5 or later, give a period of ''1 minute'', or use the worker: set airflow_bp.database.';
	ELSIF elsewhere THEN
		RAISE EXCEPTION USING ERRCODE = 'BP005', MESSAGE = format('pg_cron keeps its jobs in database "%s"', airflow_bp.cron_database()),
			HINT = format('Run there: SELECT cron.schedule_in_database(%L, %L, %L, %L);', 'airflow_bp ' || current_database(), schedule,
				'SELECT airflow_bp.tick()', current_database());
	END IF;
	PERFORM airflow_bp.unschedule_pg_cron();
	RETURN cron.schedule('airflow_bp', schedule, 'SELECT airflow_bp.tick()');
END
$$;
COMMENT ON FUNCTION airflow_bp.schedule_with_pg_cron(interval) IS
'Has pg_cron call tick() at a period, as the role that calls this, and returns the number of the job; again: replaces it. Not needed where the worker runs. Periods that divide a minute (pg_cron 1.5 or later) or an hour. pg_cron logs each run in cron.job_run_details unless cron.log_run is off. BP002 bad period, BP005 without pg_cron, too old, or in another database: the hint has the statement to run there.';
