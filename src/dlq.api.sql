-- The inbox: letters are retried, failed, discarded, purged.
--
-- Locks, in this order: the letter, the run, the task.  Nothing waits for one longer than 50 ms at a time.

CREATE FUNCTION airflow_bp.dlq_timeout(name text, otherwise interval) RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(nullif(current_setting('airflow_bp.' || name, true), '')::interval, otherwise)
$$;
COMMENT ON FUNCTION airflow_bp.dlq_timeout(text, interval) IS 'A timeout of Airflow as our settings tell it, or else its default.';

CREATE FUNCTION airflow_bp.dlq_tasks() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT airflow_bp.airflow_relation(airflow_bp.airflow_schema_name(), 'task_instance', 'id uuid', 'dag_id text', 'run_id text', 'task_id text',
		'map_index int', 'try_number int', 'state text', 'start_date timestamptz', 'last_heartbeat_at timestamptz', 'queued_dttm timestamptz',
		'queued_by_job_id int', 'trigger_id int', 'trigger_timeout timestamptz')
$$;
COMMENT ON FUNCTION airflow_bp.dlq_tasks() IS 'Subquery that reads what dlq_look() needs of task_instance.';

-- A task that is cleared has a new id, so an executor that has the old one is told to stop at its next word to Airflow.  Until then
-- it runs beside the new try: hence the refusals.
CREATE FUNCTION airflow_bp.dlq_look(letters bigint[], force boolean) RETURNS TABLE (letter bigint, ti_id uuid, obstacle text, hint text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
BEGIN
	RETURN QUERY EXECUTE format($query$
		SELECT l.id, CASE WHEN o.kind IS NULL THEN t.id END, o.obstacle, CASE o.kind
			WHEN 'closed' THEN 'See airflow_bp.dead_letter; undo() of its act opens it again.'
			WHEN 'gone' THEN 'There is nothing to act on; close it by airflow_bp.dlq_discard().'
			WHEN 'moved' THEN 'Nothing is to be done; the next sweep closes the letter as recovered.'
			WHEN 'owned' THEN 'An executor may still own it; wait until Airflow gives it up, or stop the executor and give force => true.' END
		FROM airflow_bp.dead_letter l
		LEFT JOIN LATERAL (SELECT * FROM %1$s t WHERE t.dag_id = l.dag_id AND t.run_id = l.run_id AND t.task_id = l.task_id
			AND t.map_index = l.map_index OFFSET 0) t ON true
		LEFT JOIN LATERAL (SELECT * FROM %2$s r WHERE r.dag_id = l.dag_id AND r.run_id = l.run_id OFFSET 0) r ON true
		LEFT JOIN %3$s g ON t.state = 'deferred' AND g.id = t.trigger_id
		LEFT JOIN LATERAL (SELECT * FROM %4$s j WHERE j.id = CASE t.state WHEN 'queued' THEN t.queued_by_job_id ELSE g.triggerer_id END
			AND j.state = 'running' AND j.latest_heartbeat > clock_timestamp() - CASE t.state WHEN 'queued' THEN $5 ELSE $6 END OFFSET 0) j ON true
		CROSS JOIN LATERAL (SELECT CASE WHEN l.task_id IS NULL THEN l.state IS NOT NULL AND r.state IS DISTINCT FROM l.state
			ELSE t.id <> l.ti_id OR t.try_number <> l.try_number OR t.state IS DISTINCT FROM l.state
				AND coalesce(t.state NOT IN ('failed', 'upstream_failed'), true) END) m (moved)
		CROSS JOIN LATERAL (SELECT * FROM (VALUES
			(l.status <> 'open', 'closed', format('it is %%s already, by %%s', l.status, l.closed_by)),
			(l.task_id IS NOT NULL AND t.id IS NULL, 'gone', 'its task was deleted'),
			(l.task_id IS NULL AND r.run_id IS NULL, 'gone', 'its run was deleted'),
			(m.moved, 'moved', CASE WHEN l.task_id IS NULL THEN format('its run has moved on: %%s', r.state)
				ELSE format('its task has moved on: %%s, try %%s', coalesce(t.state, 'none'), t.try_number) END),
			(t.state IN ('running', 'restarting') AND coalesce(t.last_heartbeat_at, t.start_date) > clock_timestamp() - $3 AND NOT $2,
				'owned', format('its task is %%s, with a heartbeat in the last %%s', t.state, $3)),
			(t.state = 'queued' AND j.id IS NOT NULL AND t.queued_dttm > clock_timestamp() - $4 AND NOT $2,
				'owned', format('a live scheduler has queued its task in the last %%s', $4)),
			(t.state = 'deferred' AND j.id IS NOT NULL AND coalesce(t.trigger_timeout, 'infinity') > clock_timestamp() AND NOT $2,
				'owned', 'its task is deferred, and a live triggerer has the trigger'),
			(true, NULL, NULL)) v (applies, kind, obstacle) WHERE applies LIMIT 1) o
		WHERE l.id = ANY ($1) ORDER BY l.id$query$, airflow_bp.dlq_tasks(),
		airflow_bp.airflow_relation(schema, 'dag_run', 'dag_id text', 'run_id text', 'state text'),
		airflow_bp.airflow_relation(schema, 'trigger', 'id int', 'triggerer_id int'),
		airflow_bp.airflow_relation(schema, 'job', 'id int', 'state text', 'latest_heartbeat timestamptz'))
	USING letters, coalesce(force, false), airflow_bp.dlq_timeout('task_instance_heartbeat_timeout', '5 min'),
		airflow_bp.dlq_timeout('task_queued_timeout', '10 min'), airflow_bp.dlq_timeout('scheduler_health_check_threshold', '30 s'),
		airflow_bp.dlq_timeout('triggerer_health_check_threshold', '30 s');
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_look(bigint[], boolean) IS
'The task of each letter, and what stands in the way of acting on it; obstacle NULL: nothing. force: a live executor is no obstacle.';

CREATE FUNCTION airflow_bp.dlq_lock(letters bigint[], wait boolean) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	how text := CASE WHEN NOT wait THEN 'SKIP LOCKED' ELSE '' END;
	runs int[];
	tasks uuid[];
BEGIN
	EXECUTE 'SELECT array_agg(l.id) FROM (SELECT l.id FROM airflow_bp.dead_letter l WHERE l.id = ANY ($1) ORDER BY l.id FOR UPDATE ' || how || ') l'
	INTO letters USING letters;
	EXECUTE format('SELECT array_agg(r.id) FROM (SELECT r.id FROM %1$I.dag_run r WHERE (r.dag_id, r.run_id) IN (SELECT l.dag_id, l.run_id
		FROM airflow_bp.dead_letter l WHERE l.id = ANY ($1)) ORDER BY r.id FOR NO KEY UPDATE %2$s) r', schema, how)
	INTO runs USING letters;
	EXECUTE format('SELECT array_agg(t.id) FROM (SELECT t.id FROM airflow_bp.dead_letter l
			JOIN %1$I.task_instance t ON t.dag_id = l.dag_id AND t.run_id = l.run_id AND t.task_id = l.task_id AND t.map_index = l.map_index
			JOIN %1$I.dag_run r ON r.dag_id = l.dag_id AND r.run_id = l.run_id
			WHERE l.id = ANY ($1) AND r.id = ANY ($2) ORDER BY t.id FOR UPDATE OF t %2$s) t', schema, how)
	INTO tasks USING letters, runs;
	IF wait THEN
		RETURN letters;
	END IF;
	EXECUTE format('SELECT array_agg(l.id) FROM airflow_bp.dead_letter l
		LEFT JOIN %1$I.dag_run r ON r.dag_id = l.dag_id AND r.run_id = l.run_id
		LEFT JOIN %1$I.task_instance t ON t.dag_id = l.dag_id AND t.run_id = l.run_id AND t.task_id = l.task_id AND t.map_index = l.map_index
		WHERE l.id = ANY ($1) AND (r.id IS NULL OR r.id = ANY ($2)) AND (t.id IS NULL OR t.id = ANY ($3))', schema)
	INTO letters USING letters, runs, tasks;
	RETURN letters;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_lock(bigint[], boolean) IS
'Locks letters, their runs and their tasks, and returns the letters that it got: all of them, or without wait those that nobody has.';

CREATE FUNCTION airflow_bp.dlq_close(letters bigint[], status text, act_id bigint, why text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE airflow_bp.dead_letter l SET status = dlq_close.status, closed_at = now(), closed_by = session_user, why = dlq_close.why,
		act_id = dlq_close.act_id
	WHERE l.id = ANY (dlq_close.letters)
$$;
COMMENT ON FUNCTION airflow_bp.dlq_close(bigint[], text, bigint, text) IS 'Closes letters.';

CREATE FUNCTION airflow_bp.dlq_reopen(act_id bigint) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH opened AS (UPDATE airflow_bp.dead_letter l SET status = 'open', closed_at = NULL, closed_by = NULL, why = NULL, act_id = NULL
		WHERE l.act_id = dlq_reopen.act_id RETURNING 1)
	SELECT count(*) FROM opened
$$;
COMMENT ON FUNCTION airflow_bp.dlq_reopen(bigint) IS 'Opens the letters that an act has closed, when it is undone; their number.';

CREATE FUNCTION airflow_bp.dlq_clear(letters bigint[], tasks uuid[], downstream boolean, why text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	act bigint;
	cleared uuid[];
BEGIN
	SELECT min(c.act_id), array_agg(c.old_id) INTO act, cleared FROM airflow_bp.clear_tasks(tasks, downstream) c;
	PERFORM airflow_bp.dlq_close(letters, 'retried', act, why),
		airflow_bp.dlq_close(ARRAY(SELECT l.id FROM airflow_bp.dead_letter l WHERE l.status = 'open' AND l.ti_id = ANY (cleared)
			AND l.id <> ALL (letters) FOR UPDATE SKIP LOCKED), 'retried', act, why || ', along with another');
	RETURN act;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_clear(bigint[], uuid[], boolean, text) IS
'Clears tasks and closes their letters, which are locked, and those of what is cleared along with them; the act.';

CREATE FUNCTION airflow_bp.dlq_run_tasks(letter bigint) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	tasks uuid[];
BEGIN
	EXECUTE format('SELECT array_agg(t.id) FROM airflow_bp.dead_letter l JOIN %s t ON t.dag_id = l.dag_id AND t.run_id = l.run_id
		WHERE l.id = $1 AND t.state IN (''failed'', ''upstream_failed'')', airflow_bp.dlq_tasks()) INTO tasks USING letter;
	RETURN tasks;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_run_tasks(bigint) IS 'Tasks to clear so that the run of a letter goes on: those that failed, or whose upstream did.';

CREATE FUNCTION airflow_bp.dlq_refuse(letter bigint, obstacle text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('letter %s: %s', letter, obstacle), HINT = hint;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_refuse(bigint, text, text) IS 'Raises BP004: why nothing is done to a letter, and what to do.';

CREATE FUNCTION airflow_bp.dlq_take(id bigint, force boolean) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	look record;
BEGIN
	PERFORM airflow_bp.dlq_lock(ARRAY[id], true);
	SELECT * INTO look FROM airflow_bp.dlq_look(ARRAY[id], force);
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no letter %s', coalesce(id::text, 'NULL')),
			HINT = 'See the table airflow_bp.dead_letter.';
	ELSIF look.obstacle IS NOT NULL THEN
		PERFORM airflow_bp.dlq_refuse(id, look.obstacle, look.hint);
	END IF;
	RETURN look.ti_id;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_take(bigint, boolean) IS
'Locks a letter, its run and its task, which it returns; NULL for the letter of a run. BP001 no such letter, BP004 nothing may be done to it.';

CREATE FUNCTION airflow_bp.dlq_retry_now(id bigint, downstream boolean, force boolean, why text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	task uuid := airflow_bp.dlq_take(id, force);
	tasks uuid[] := CASE WHEN task IS NULL THEN airflow_bp.dlq_run_tasks(id) ELSE ARRAY[task] END;
BEGIN
	IF tasks IS NULL THEN
		PERFORM airflow_bp.dlq_refuse(id, 'no task of its run has failed', 'See airflow_bp.stuck() and airflow_bp.waiting() for its tasks.');
	END IF;
	RETURN airflow_bp.dlq_clear(ARRAY[id], tasks, coalesce(downstream, true), why);
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_retry_now(bigint, boolean, boolean, text) IS 'As dlq_retry(), without trying again when another has a lock.';

CREATE FUNCTION airflow_bp.dlq_fail_now(id bigint, force boolean, why text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	relation text := format('%I.task_instance', schema);
	task uuid := airflow_bp.dlq_take(id, force);
	old jsonb;
	new jsonb;
	act bigint;
BEGIN
	EXECUTE format('SELECT jsonb_build_object(''letter'', $2, ''run_state'', r.state, ''id'', t.id, ''state'', t.state, ''start_date'', t.start_date,
			''end_date'', t.end_date, ''duration'', t.duration, ''updated_at'', t.updated_at),
			jsonb_build_object(''state'', ''failed'', ''start_date'', d.start_date, ''end_date'', d.end_date,
				''duration'', extract(epoch FROM d.end_date - d.start_date), ''updated_at'', now())
		FROM %1$I.task_instance t JOIN %1$I.dag_run r ON r.dag_id = t.dag_id AND r.run_id = t.run_id
		CROSS JOIN LATERAL (SELECT coalesce(t.start_date, now()), coalesce(t.end_date, now())) d (start_date, end_date)
		WHERE t.id = $1', schema) INTO old, new USING task, id;
	IF task IS NULL THEN
		PERFORM airflow_bp.dlq_refuse(id, 'it is of a whole run', 'Mark the run as failed in Airflow, or fail the letters of its tasks.');
	ELSIF old ->> 'state' IN ('failed', 'upstream_failed') THEN
		PERFORM airflow_bp.dlq_refuse(id, format('its task is %s already', old ->> 'state'), 'Close the letter by airflow_bp.dlq_discard().');
	ELSIF airflow_bp.write_as_owner(relation::regclass, format('UPDATE %s SET state = %L, start_date = %L, end_date = %L, duration = %L,
			updated_at = %L WHERE id = %L', relation, new ->> 'state', new ->> 'start_date', new ->> 'end_date', new ->> 'duration',
			new ->> 'updated_at', task)) <> 1 THEN
		PERFORM airflow_bp.dlq_refuse(id, 'its task could not be written', 'A trigger on task_instance suppressed it.');
	END IF;
	INSERT INTO airflow_bp.act (action, old, new) VALUES ('dlq_fail', old, new || jsonb_build_object('why', why)) RETURNING act_id INTO act;
	PERFORM airflow_bp.dlq_close(ARRAY[id], 'failed', act, why);
	RETURN act;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_fail_now(bigint, boolean, text) IS 'As dlq_fail(), without trying again when another has a lock.';

CREATE FUNCTION airflow_bp.dlq_discard_now(id bigint, why text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
	found record;
	act bigint;
BEGIN
	SELECT l.status, l.closed_by INTO found FROM airflow_bp.dead_letter l WHERE l.id = dlq_discard_now.id FOR UPDATE;
	IF found.status IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no letter %s', coalesce(id::text, 'NULL')),
			HINT = 'See the table airflow_bp.dead_letter.';
	ELSIF found.status <> 'open' THEN
		PERFORM airflow_bp.dlq_refuse(id, format('it is %s already, by %s', found.status, found.closed_by), 'Nothing is to be done.');
	END IF;
	INSERT INTO airflow_bp.act (action, old, new) VALUES ('dlq_discard', jsonb_build_object('letter', id), jsonb_build_object('why', why))
	RETURNING act_id INTO act;
	PERFORM airflow_bp.dlq_close(ARRAY[id], 'discarded', act, why);
	RETURN act;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_discard_now(bigint, text) IS 'As dlq_discard(), without trying again when another has a lock.';

CREATE FUNCTION airflow_bp.dlq_do(what text, id bigint, downstream boolean, force boolean, why text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	FOR attempt IN 1 .. 20 LOOP
		BEGIN
			RETURN CASE what WHEN 'retry' THEN airflow_bp.dlq_retry_now(id, downstream, force, why)
				WHEN 'fail' THEN airflow_bp.dlq_fail_now(id, force, why)
				ELSE airflow_bp.dlq_discard_now(id, why) END;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			PERFORM pg_sleep(0.02 + 0.06 * random());
		END;
	END LOOP;
	PERFORM airflow_bp.dlq_refuse(id, 'it could not be locked', 'Somebody else is at it, at its task or at its run; see pg_stat_activity, and try again.');
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_do(text, bigint, boolean, boolean, text) IS 'Retries, fails or discards a letter, with several tries at its locks.';

CREATE FUNCTION airflow_bp.dlq_check_why(why text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(btrim(why), '') = '' OR length(why) > 1000 THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = 'a letter is not closed without a reason', HINT = 'Say why, in at most 1000 characters.';
	END IF;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_check_why(text) IS 'Raises BP001 without a reason.';

CREATE FUNCTION airflow_bp.dlq_retry(id bigint, downstream boolean DEFAULT true, force boolean DEFAULT false, why text DEFAULT 'retried by hand')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.dlq_check_why(why);
	RETURN airflow_bp.dlq_do('retry', id, downstream, force, why);
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_retry(bigint, boolean, boolean, text) IS
'Clears the task of a letter as Airflow would, by clear_tasks(), with what is downstream of it or not, in the transaction of the caller, closes the letter as retried, and returns the act; undo() of it opens the letter again. The letter of a run: its failed tasks are cleared. force: also when an executor may still own the task. BP001 no such letter; BP004 it is closed, its task has moved on or is gone, an executor may own it (a heartbeat in airflow_bp.task_instance_heartbeat_timeout, queued by a live scheduler in airflow_bp.task_queued_timeout, a trigger at a live triggerer), or others hold the locks for seconds.';

CREATE FUNCTION airflow_bp.dlq_fail(id bigint, why text, force boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.dlq_check_why(why);
	RETURN airflow_bp.dlq_do('fail', id, NULL, force, why);
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_fail(bigint, text, boolean) IS
'Marks the task of a letter as failed, as Airflow does for a user, closes the letter as failed, and returns the act. The scheduler sees to what is downstream; callbacks do not run. force: also when an executor may still own the task. BP001 no such letter, or no reason; BP004 as dlq_retry(), and when the task has failed already or the letter is of a run.';

CREATE FUNCTION airflow_bp.dlq_discard(id bigint, why text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM airflow_bp.dlq_check_why(why);
	RETURN airflow_bp.dlq_do('discard', id, NULL, NULL, why);
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_discard(bigint, text) IS
'Closes a letter and touches nothing else; returns the act, undo() of it opens the letter again. BP001 no such letter, or no reason; BP004 it is closed already.';

CREATE FUNCTION airflow_bp.undo_dlq_discard(done airflow_bp.act) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (SELECT FROM airflow_bp.dead_letter l WHERE l.act_id = done.act_id)
$$;
COMMENT ON FUNCTION airflow_bp.undo_dlq_discard(airflow_bp.act) IS 'Can the letter be opened again: is it still there?';

CREATE FUNCTION airflow_bp.undo_dlq_fail(done airflow_bp.act) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
	schema text := airflow_bp.airflow_schema_name();
	relation text := format('%I.task_instance', schema);
	same boolean;
BEGIN
	EXECUTE format('SELECT FROM %1$I.dag_run r WHERE (r.dag_id, r.run_id) IN (SELECT t.dag_id, t.run_id FROM %1$I.task_instance t WHERE t.id = $1)
		FOR NO KEY UPDATE', schema) USING (done.old ->> 'id')::uuid;
	EXECUTE format('SELECT t.state = ''failed'' AND t.updated_at = $2 AND r.state IS NOT DISTINCT FROM $3
			-- What was downstream has followed.
			AND NOT EXISTS (SELECT FROM %1$I.task_instance u WHERE u.dag_id = t.dag_id AND u.run_id = t.run_id
				AND u.state IN (''upstream_failed'', ''skipped'') AND u.updated_at > $2)
		FROM %1$I.task_instance t JOIN %1$I.dag_run r ON r.dag_id = t.dag_id AND r.run_id = t.run_id
		WHERE t.id = $1 FOR NO KEY UPDATE OF t', schema)
	INTO same USING (done.old ->> 'id')::uuid, (done.new ->> 'updated_at')::timestamptz, done.old ->> 'run_state';
	RETURN coalesce(same, false) AND airflow_bp.write_as_owner(relation::regclass, format('UPDATE %s SET state = %L, start_date = %L, end_date = %L,
		duration = %L, updated_at = now() WHERE id = %L', relation, done.old ->> 'state', done.old ->> 'start_date', done.old ->> 'end_date',
		done.old ->> 'duration', done.old ->> 'id')) = 1;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo_dlq_fail(airflow_bp.act) IS
'Gives a task the state that it had before an act; false when it, its run or what is downstream of it has changed since.';

CREATE FUNCTION airflow_bp.dlq_purge(older_than interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	gone bigint;
BEGIN
	IF older_than IS NULL OR older_than NOT BETWEEN interval '0' AND interval '1000 years' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP002', MESSAGE = format('older_than must be between 0 and 1000 years: %s', coalesce(older_than::text, 'NULL')),
			HINT = 'Give the age from which closed letters go, as ''30 days''.';
	END IF;
	DELETE FROM airflow_bp.dlq_batch b WHERE b.started_at < now() - older_than;
	WITH old AS (SELECT l.id FROM airflow_bp.dead_letter l WHERE l.status <> 'open' AND l.closed_at <= now() - older_than
		ORDER BY l.closed_at LIMIT 10000 FOR UPDATE SKIP LOCKED)
	DELETE FROM airflow_bp.dead_letter l USING old WHERE l.id = old.id;
	GET DIAGNOSTICS gone = ROW_COUNT;
	RETURN gone;
END
$$;
COMMENT ON FUNCTION airflow_bp.dlq_purge(interval) IS
'Deletes letters that were closed so long ago, at most 10,000 in a call, and returns their number: call it until it says 0. Open letters stay; one that another transaction holds is left for the next time. The worker does it for airflow_bp.letter_retention. BP002 bad interval.';
