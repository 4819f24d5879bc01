-- Switching on and off, turns of the worker, status.

CREATE FUNCTION airflow_bp.known_heads() RETURNS TABLE (head text, airflow_version text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 6 SET search_path = pg_catalog, pg_temp AS $$
	VALUES ('29ce7909c52b', '3.0.0'), ('fe199e1abd77', '3.0.3'), ('cc92b33c6709', '3.1.0'), ('509b94a1042d', '3.1.8'),
		('1d6611b6ab7c', '3.2.0'), ('d2f4e1b3c5a7', '3.3.0')
$$;
COMMENT ON FUNCTION airflow_bp.known_heads() IS 'Alembic heads on which enforcement is proved, with the first Airflow version that has each.';

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
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	head text;
BEGIN
	IF airflow_schema IS NOT NULL THEN
		EXECUTE format('SELECT string_agg(v.version_num, '','' ORDER BY v.version_num) FROM %s v',
			airflow_bp.airflow_relation(airflow_schema, 'alembic_version', 'version_num')) INTO head;
	END IF;
	RETURN head;
END
$$;
COMMENT ON FUNCTION airflow_bp.alembic_head(text) IS 'Alembic head of the Airflow tables in a schema; NULL when there is none.';

CREATE FUNCTION airflow_bp.gate_table() RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT t.tgrelid::regclass FROM pg_trigger t
	WHERE t.tgfoid = 'airflow_bp.gate()'::regprocedure AND t.tgenabled IN ('O', 'A') LIMIT 1
$$;
COMMENT ON FUNCTION airflow_bp.gate_table() IS 'Table with our gate; NULL when not enabled.';

CREATE FUNCTION airflow_bp.deployment_state() RETURNS TABLE (airflow_schema text, alembic_head text, airflow_version text,
	head_known boolean, gate_enabled boolean)
LANGUAGE sql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.schema, h.head, k.airflow_version, k.head IS NOT NULL, airflow_bp.gate_table() IS NOT NULL
	FROM (SELECT airflow_bp.airflow_schema_or_null()) s (schema)
	CROSS JOIN LATERAL (SELECT airflow_bp.alembic_head(s.schema)) h (head)
	LEFT JOIN airflow_bp.known_heads() k ON k.head = h.head
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
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
	INSERT INTO airflow_bp.act (action, old, new)
	VALUES ('set_mode', jsonb_build_object('mode', old), jsonb_build_object('mode', set_mode.mode));
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
			CREATE TRIGGER zz_airflow_bp_gate BEFORE UPDATE ON %1$I.task_instance FOR EACH ROW EXECUTE FUNCTION airflow_bp.gate();
			CREATE TRIGGER zz_airflow_bp_count AFTER INSERT OR DELETE ON %1$I.task_instance FOR EACH ROW EXECUTE FUNCTION airflow_bp.count();
			CREATE TRIGGER zz_airflow_bp_truncate AFTER TRUNCATE ON %1$I.task_instance FOR EACH STATEMENT EXECUTE FUNCTION airflow_bp.count();
			CREATE TRIGGER zz_airflow_bp_run BEFORE UPDATE ON %1$I.dag_run FOR EACH ROW EXECUTE FUNCTION airflow_bp.run_changed();
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
	IF airflow_bp.policy_version() IS NULL THEN
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
	schema text := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = airflow_bp.gate_table());
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
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
AS 'MODULE_PATHNAME', 'airflow_bp_tick';
COMMENT ON FUNCTION airflow_bp.tick() IS
'One turn of the worker, by hand or by pg_cron: compiles policy, recounts, grants, evaluates parked runs, writes the decision log. False when another is at it. BP005 not preloaded, or a standby.';

CREATE FUNCTION airflow_bp.recount() RETURNS TABLE (tenant text, counter bigint, counted bigint, drift bigint)
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'airflow_bp_recount';
COMMENT ON FUNCTION airflow_bp.recount() IS
'Counts the tables again, exactly, while transactions run, and compares: slots of each tenant by the counters and by the tables; drift must be 0. The counters are corrected. BP005 not preloaded, not enabled, or a standby.';

CREATE FUNCTION airflow_bp.memory_state() RETURNS TABLE (mode text, may_enforce boolean, ready boolean, worker_pid int, last_tick timestamptz,
	tick_ms float8, drift_slots bigint, held bigint, parked_runs bigint, fail_open_total bigint, held_without_place bigint, log_dropped bigint, note text)
LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'airflow_bp_memory_state';
COMMENT ON FUNCTION airflow_bp.memory_state() IS 'What shared memory says of this database; no row without it.';

CREATE FUNCTION airflow_bp.preloaded() RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'airflow_bp_preloaded';
COMMENT ON FUNCTION airflow_bp.preloaded() IS 'Is airflow_bp in shared_preload_libraries?';

CREATE FUNCTION airflow_bp.status() RETURNS TABLE (extension_version text, mode text, airflow_version text, alembic_head text, head_known boolean,
	preloaded boolean, worker_pid int, last_tick timestamptz, tick_ms float8, drift_slots bigint, held bigint, parked_runs bigint,
	fail_open_total bigint, note text)
LANGUAGE sql VOLATILE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.extversion, coalesce(d.mode, 'off'), s.airflow_version, s.alembic_head, s.head_known, airflow_bp.preloaded(), m.worker_pid, m.last_tick,
		m.tick_ms, m.drift_slots, m.held, m.parked_runs, m.fail_open_total,
		nullif(concat_ws('; ',
			CASE WHEN s.airflow_schema IS NULL THEN 'no schema holds the tables of Airflow' END,
			CASE WHEN NOT airflow_bp.preloaded() THEN 'not preloaded: add airflow_bp to shared_preload_libraries and restart' END,
			CASE WHEN NOT s.gate_enabled THEN 'not enabled: call airflow_bp.enable()' END,
			CASE WHEN s.alembic_head IS NOT NULL AND NOT s.head_known THEN 'alembic head not known: enforcement pauses' END,
			CASE WHEN pg_is_in_recovery() THEN 'standby: nothing is counted here'
				WHEN airflow_bp.preloaded() AND m.worker_pid IS NULL THEN
					'no worker: set airflow_bp.database, or call airflow_bp.tick() at a period' END,
			CASE WHEN s.gate_enabled AND m.ready IS FALSE THEN 'counters not ready' END,
			CASE WHEN m.held_without_place > 0 THEN format('%s asks held without a place in line: raise airflow_bp.max_held', m.held_without_place) END,
			CASE WHEN m.log_dropped > 0 THEN format('%s decisions missing in the log', m.log_dropped) END,
			m.note), '')
	FROM airflow_bp.deployment_state() s
	JOIN pg_extension e ON e.extname = 'airflow_bp'
	LEFT JOIN airflow_bp.deployment d ON true
	LEFT JOIN airflow_bp.memory_state() m ON true
$$;
COMMENT ON FUNCTION airflow_bp.status() IS
'One row: versions, mode, worker and its last turn (tick_ms: its length), drift_slots (recount minus counters, must be 0), held tasks, parked runs, fail_open_total (asks and changes that could not be judged and were let through), note (what to know or do). NULL: cannot be known.';

CREATE FUNCTION airflow_bp.undo(act_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	done airflow_bp.act;
BEGIN
	SELECT * INTO done FROM airflow_bp.act a WHERE a.act_id = undo.act_id FOR UPDATE;
	IF done IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no act %s', coalesce(undo.act_id::text, 'NULL')),
			HINT = 'See the table airflow_bp.act.';
	ELSIF done.undone_at IS NOT NULL OR done.old ->> 'mode' IS NULL
		OR (SELECT d.mode FROM airflow_bp.deployment d) IS DISTINCT FROM done.new ->> 'mode' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('act %s cannot be undone', undo.act_id),
			HINT = 'It was undone before, or the mode has changed since.';
	END IF;
	PERFORM airflow_bp.set_mode(done.old ->> 'mode');
	UPDATE airflow_bp.act a SET undone_at = now() WHERE a.act_id = undo.act_id;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo(bigint) IS 'Takes a logged act back, where nothing has changed since. BP001 no such act, BP004 cannot be undone.';

