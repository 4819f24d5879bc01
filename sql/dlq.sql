-- The inbox on the schema of each Airflow version, then in depth on the newest.
\getenv top PG_ABS_SRCDIR
\set tasks :top '/test/fixtures/tasks.sql'
\set load :top '/test/fixtures/load.sql'
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set ECHO none
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION airflow_bp;
CREATE SCHEMA "3.0.6";
SET search_path = "3.0.6";
\i :v306
CREATE SCHEMA "3.1.8";
SET search_path = "3.1.8";
\i :v318
CREATE SCHEMA "3.2.2";
SET search_path = "3.2.2";
\i :v322
CREATE SCHEMA "3.3.2";
SET search_path = "3.3.2";
\i :v332
\i :tasks
\i :load
-- A letter for each task of a DAG, as it is now; those that have one are kept.
CREATE FUNCTION test.letters(dag text, cause text DEFAULT 'retries_exhausted') RETURNS void LANGUAGE sql AS $$
	INSERT INTO airflow_bp.dead_letter (dag_id, run_id, task_id, map_index, try_number, ti_id, cause, state, tenant, pool, queue)
	SELECT t.dag_id, t.run_id, t.task_id, t.map_index, t.try_number, t.id, letters.cause, t.state, 'default', t.pool, t.queue
	FROM task_instance t WHERE t.dag_id = dag ORDER BY length(t.task_id), t.task_id ON CONFLICT DO NOTHING
$$;
CREATE FUNCTION test.letter(dag text, task text) RETURNS bigint LANGUAGE sql AS $$
	SELECT max(id) FROM airflow_bp.dead_letter WHERE dag_id = dag AND task_id = task
$$;
CREATE VIEW test.closed AS SELECT dag_id, task_id, cause, status, closed_at IS NOT NULL AS closed, closed_by = session_user AS by_us, why, act_id IS NOT NULL AS act
FROM airflow_bp.dead_letter WHERE status <> 'open' ORDER BY id;
-- The act of the last call.
CREATE FUNCTION test.act() RETURNS bigint LANGUAGE sql AS 'SELECT max(act_id) FROM airflow_bp.act WHERE undone_at IS NULL';
-- What a call raises.
CREATE FUNCTION test.error(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s %s', SQLSTATE, SQLERRM);
END
$$;
-- Tasks in all states that a letter may have, on the schema that is current.
CREATE FUNCTION test.scene() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('airflow_bp.airflow_schema', current_schema(), false);
	PERFORM test.tasks('d', 1, 1, state => 'failed'), test.tasks('d', 2, 3, state => 'running'), test.tasks('d', 4, 7, state => 'queued'),
		test.tasks('d', 8, 11, state => 'deferred'), test.tasks('d', 12, 13, state => 'scheduled'), test.tasks('d', 14, 14, state => 'up_for_retry'),
		test.tasks('d', 15, 18, state => 'queued');
	INSERT INTO job (id, job_type, state, latest_heartbeat) VALUES (1001, 'SchedulerJob', 'running', now() + interval '1 day'),
		(1002, 'SchedulerJob', 'running', now() - interval '1 hour'), (1003, 'TriggererJob', 'running', now() + interval '1 day');
	INSERT INTO trigger (id, classpath, kwargs, created_date, triggerer_id) VALUES (1001, 'x', '{}', now(), 1003), (1002, 'x', '{}', now(), 1002);
	UPDATE task_instance SET last_heartbeat_at = now() - CASE task_id WHEN 't2' THEN interval '1 s' ELSE '1 h' END WHERE state = 'running';
	UPDATE task_instance SET queued_dttm = now() - CASE task_id WHEN 't6' THEN interval '1 h' ELSE '1 s' END,
		queued_by_job_id = CASE task_id WHEN 't5' THEN 1002 WHEN 't7' THEN NULL ELSE 1001 END WHERE state = 'queued';
	UPDATE task_instance SET trigger_id = CASE task_id WHEN 't8' THEN 1001 WHEN 't9' THEN 1002 WHEN 't11' THEN 1001 END,
		trigger_timeout = CASE task_id WHEN 't11' THEN now() - interval '1 s' END WHERE state = 'deferred';
	PERFORM test.letters('d');
	-- These move on, or go.
	UPDATE task_instance SET state = 'success' WHERE task_id = 't15';
	UPDATE task_instance SET try_number = 1 WHERE task_id = 't16';
	UPDATE task_instance SET state = 'failed' WHERE task_id = 't17';
	DELETE FROM task_instance WHERE task_id = 't18';
END
$$;
CREATE FUNCTION test.look(force boolean) RETURNS TABLE (task text, acts boolean, obstacle text) LANGUAGE sql AS $$
	SELECT l.task_id, k.ti_id = t.id, k.obstacle
	FROM airflow_bp.dlq_look(ARRAY(SELECT id FROM airflow_bp.dead_letter), force) k JOIN airflow_bp.dead_letter l ON l.id = k.letter
	LEFT JOIN task_instance t USING (dag_id, run_id, task_id, map_index) ORDER BY l.id
$$;
-- Retry, fail and discard, and back.
CREATE FUNCTION test.story() RETURNS TABLE (step text, outcome text) LANGUAGE plpgsql AS $$
DECLARE
	act bigint;
	before jsonb := (SELECT jsonb_agg(to_jsonb(t) - 'updated_at' ORDER BY t.id) FROM task_instance t);
BEGIN
	act := airflow_bp.dlq_retry(test.letter('d', 't1'), false);
	RETURN QUERY SELECT 'retried', format('state %s, new id %s, history %s', coalesce(t.state, 'none'), t.id <> test.id('d', 1),
		(SELECT count(*) FROM task_instance_history h WHERE h.task_id = 't1')) FROM task_instance t WHERE t.task_id = 't1';
	RETURN QUERY SELECT 'letter', format('%s, act %s', l.status, l.act_id = act) FROM airflow_bp.dead_letter l WHERE l.task_id = 't1';
	PERFORM airflow_bp.undo(act);
	RETURN QUERY SELECT 'undone', format('state %s, old id %s, letter %s', t.state, t.id = test.id('d', 1), l.status)
		FROM task_instance t JOIN airflow_bp.dead_letter l USING (task_id) WHERE t.task_id = 't1';
	act := airflow_bp.dlq_fail(test.letter('d', 't12'), 'test');
	RETURN QUERY SELECT 'failed', format('state %s, dates %s, duration %s, letter %s', t.state, t.start_date = now() AND t.end_date = now(), t.duration, l.status)
		FROM task_instance t JOIN airflow_bp.dead_letter l USING (task_id) WHERE t.task_id = 't12';
	PERFORM airflow_bp.undo(act);
	RETURN QUERY SELECT 'undone', format('state %s, letter %s', t.state, l.status)
		FROM task_instance t JOIN airflow_bp.dead_letter l USING (task_id) WHERE t.task_id = 't12';
	act := airflow_bp.dlq_discard(test.letter('d', 't13'), 'test');
	PERFORM airflow_bp.undo(act);
	RETURN QUERY SELECT 'all as before', (before = jsonb_agg(to_jsonb(t) - 'updated_at' ORDER BY t.id))::text FROM task_instance t;
	PERFORM airflow_bp.dlq_retry(l.id, false) FROM airflow_bp.dead_letter l JOIN airflow_bp.dlq_look(ARRAY(SELECT id FROM airflow_bp.dead_letter), false) k
		ON k.letter = l.id WHERE k.obstacle IS NULL;
	RETURN QUERY SELECT 'all that can be', string_agg(format('%s %s', t.task_id, coalesce(t.state, 'none')), ', ' ORDER BY l.id)
		FROM airflow_bp.dead_letter l JOIN task_instance t USING (dag_id, run_id, task_id, map_index) WHERE l.status = 'retried';
	DELETE FROM airflow_bp.dead_letter;
END
$$;
RESET client_min_messages;
\set ECHO all

SET search_path = "3.0.6";
SELECT test.scene();
SELECT * FROM test.look(false);
SELECT * FROM test.story();
SET search_path = "3.1.8";
SELECT test.scene();
SELECT count(*) FILTER (WHERE obstacle IS NULL) FROM test.look(false);
SELECT * FROM test.story();
SET search_path = "3.2.2";
SELECT test.scene();
SELECT count(*) FILTER (WHERE obstacle IS NULL) FROM test.look(false);
SELECT * FROM test.story();
SET search_path = "3.3.2";
SELECT test.scene();
SELECT * FROM test.look(false);
-- Who is forced to, does not ask executors; what has moved on stays so.
SELECT * FROM test.look(true) WHERE obstacle IS NOT NULL;
SELECT * FROM test.story();

-- Refusals, with what to do.
SELECT test.letters('d');
SELECT airflow_bp.dlq_retry(test.letter('d', 't4'));
SELECT airflow_bp.dlq_fail(test.letter('d', 't2'), 'x');
UPDATE task_instance SET state = 'failed' WHERE task_id = 't17';
SELECT airflow_bp.dlq_fail(test.letter('d', 't17'), 'x');
UPDATE task_instance SET state = 'success' WHERE task_id = 't7';
SELECT airflow_bp.dlq_retry(test.letter('d', 't7'));
DELETE FROM task_instance WHERE task_id = 't8';
SELECT airflow_bp.dlq_fail(test.letter('d', 't8'), 'x');
SELECT airflow_bp.dlq_discard(test.letter('d', 't8'), 'its DAG was deleted');
SELECT airflow_bp.dlq_discard(test.letter('d', 't8'), 'again');
SELECT airflow_bp.dlq_retry(test.letter('d', 't8'));
SELECT airflow_bp.dlq_fail(test.letter('d', 't4'), 'forced', force => true) AS act \gset
SELECT state FROM task_instance WHERE task_id = 't4';
SELECT * FROM test.closed;
-- The scheduler has followed: no way back.
UPDATE task_instance SET state = 'upstream_failed', updated_at = now() WHERE task_id = 't14';
SELECT airflow_bp.undo(:act);
UPDATE task_instance SET state = 'failed' WHERE task_id = 't14';
UPDATE dag_run SET state = 'failed' WHERE dag_id = 'd';
SELECT airflow_bp.undo(:act);
UPDATE dag_run SET state = 'running' WHERE dag_id = 'd';
SELECT airflow_bp.undo(:act);
SELECT airflow_bp.undo(:act);
SELECT status FROM airflow_bp.dead_letter WHERE id = test.letter('d', 't4');
-- A letter that is gone keeps no act from being undone.
SELECT airflow_bp.dlq_fail(test.letter('d', 't4'), 'forced', force => true) AS act \gset
SELECT airflow_bp.dlq_purge('0');
SELECT airflow_bp.undo(:act);
SELECT state FROM task_instance WHERE task_id = 't4';

-- Bad input.
SELECT statement, test.error(statement) FROM unnest(ARRAY[
	'SELECT airflow_bp.dlq_retry(0)', 'SELECT airflow_bp.dlq_retry(NULL)', 'SELECT airflow_bp.dlq_retry(9223372036854775807)',
	'SELECT airflow_bp.dlq_retry(1, why => '''')', 'SELECT airflow_bp.dlq_fail(NULL, ''x'')', 'SELECT airflow_bp.dlq_fail(1, NULL)',
	'SELECT airflow_bp.dlq_fail(1, '' '')', 'SELECT airflow_bp.dlq_fail(1, repeat(''x'', 1001))', 'SELECT airflow_bp.dlq_discard(NULL, ''x'')',
	'SELECT airflow_bp.dlq_discard(0, ''x'')', 'SELECT airflow_bp.dlq_discard(1, NULL)', 'SELECT airflow_bp.dlq_purge(NULL)',
	'SELECT airflow_bp.dlq_purge(''-1 s'')', 'SELECT airflow_bp.dlq_purge(''178000000 years'')', 'SELECT airflow_bp.dlq_plan(older_than => ''-1 s'')',
	'SELECT airflow_bp.dlq_plan(older_than => NULL)', 'SELECT airflow_bp.dlq_plan(dag_id => ''~('')', 'SELECT airflow_bp.dlq_plan(most => 0)',
	'CALL airflow_bp.dlq_retry_all(most => -1)', 'CALL airflow_bp.dlq_retry_all(batch => 0, dry_run => false)',
	'CALL airflow_bp.dlq_retry_all(batch => NULL, dry_run => false)', 'CALL airflow_bp.dlq_retry_all(rate => 0, dry_run => false)',
	'CALL airflow_bp.dlq_retry_all(rate => ''NaN'', dry_run => false)', 'CALL airflow_bp.dlq_retry_all(dag_id => '''')',
	'CALL airflow_bp.dlq_retry_all(older_than => ''-1 day'')', 'SELECT airflow_bp.dlq_batch_next(1, NULL, NULL)', 'SELECT airflow_bp.dlq_batch_next(NULL, NULL, NULL)',
	'SELECT airflow_bp.dead_letters(''x'')', 'SELECT airflow_bp.dead_letters(NULL)',
	'SELECT airflow_bp.set_dlq_policy(''x'', 1)', 'SELECT airflow_bp.set_dlq_policy(NULL, 1)', 'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 0)',
	'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', NULL)', 'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, ''0'')',
	'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, ''-1 s'')', 'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, ''2 h'')',
	'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, max_backoff => ''100000000 years'')',
	'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, jitter => ''NaN'')', 'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, jitter => NULL)',
	'SELECT airflow_bp.set_dlq_policy(''retries_exhausted'', 1, dag_id => ''~['')', 'SELECT airflow_bp.drop_dlq_policy(''retries_exhausted'')',
	'SELECT airflow_bp.drop_dlq_policy(NULL)']) statement;
-- In a transaction block it does nothing.
BEGIN;
CALL airflow_bp.dlq_retry_all(dry_run => false);
ROLLBACK;
SELECT count(*) FROM airflow_bp.dlq_batches();

-- A whole run: its failed tasks, and nothing of what succeeded.
DELETE FROM airflow_bp.dead_letter;
SELECT load_gen.load(dags => 1, runs => 2, tasks => 4, live => 0, queued => 0) AS tasks;
UPDATE task_instance SET state = CASE WHEN task_id = 't0' THEN 'success' WHEN task_id = 't1' THEN 'failed' ELSE 'upstream_failed' END WHERE dag_id LIKE 'team%';
UPDATE dag_run SET state = 'running' WHERE dag_id LIKE 'team%';
INSERT INTO airflow_bp.dead_letter (dag_id, run_id, cause, state) SELECT dag_id, run_id, 'run_stalled', state FROM dag_run WHERE dag_id LIKE 'team%' ORDER BY run_id;
SELECT airflow_bp.dlq_fail(min(id), 'x') FROM airflow_bp.dead_letter;
SELECT airflow_bp.dlq_retry(min(id)) = test.act() AS act FROM airflow_bp.dead_letter;
SELECT task_id, state, count(*) FROM task_instance WHERE dag_id LIKE 'team%' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT airflow_bp.undo(test.act());
SELECT task_id, state, count(*) FROM task_instance WHERE dag_id LIKE 'team%' GROUP BY 1, 2 ORDER BY 1, 2;
UPDATE dag_run SET state = 'failed' WHERE dag_id LIKE 'team%' AND run_id IN (SELECT min(run_id) FROM dag_run WHERE dag_id LIKE 'team%');
SELECT airflow_bp.dlq_retry(min(id)) FROM airflow_bp.dead_letter;
UPDATE task_instance SET state = 'success' WHERE dag_id LIKE 'team%';
SELECT airflow_bp.dlq_retry(max(id)) FROM airflow_bp.dead_letter;
-- What is downstream comes along, and so do its letters.
DELETE FROM airflow_bp.dead_letter;
UPDATE task_instance SET state = 'failed' WHERE dag_id LIKE 'team%';
SELECT test.letters(dag_id) FROM dag WHERE dag_id LIKE 'team%';
SELECT airflow_bp.dlq_retry(min(id)) = test.act() AS act FROM airflow_bp.dead_letter WHERE task_id = 't0';
SELECT task_id, state, count(*) FROM task_instance WHERE dag_id LIKE 'team%' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT task_id, cause, status, why, act FROM test.closed;
SELECT airflow_bp.undo(test.act());
SELECT status, count(*) FROM airflow_bp.dead_letter GROUP BY 1;

-- Many at once.
DELETE FROM airflow_bp.dead_letter;
DELETE FROM task_instance;
DELETE FROM dag_run;
SELECT test.tasks('a.one', 1, 30, state => 'failed'), test.tasks('a.two', 1, 5, state => 'failed'), test.tasks('b', 1, 5, state => 'running'),
	test.tasks('b', 6, 9, pool => 'small', state => 'failed');
UPDATE task_instance SET last_heartbeat_at = now() WHERE state = 'running';
SELECT test.letters('a.one'), test.letters('a.two', 'queued_too_long'), test.letters('b');
UPDATE airflow_bp.dead_letter SET first_seen = now() - interval '1 hour' WHERE dag_id = 'b';
SELECT count(*), count(obstacle), min(age) >= interval '1 hour' AS old FROM airflow_bp.dlq_plan(older_than => '30 min');
SELECT cause, count(*) FROM airflow_bp.dlq_plan(dag_id => 'a.*') GROUP BY 1 ORDER BY 1;
SELECT dag_id, task_id, obstacle, hint FROM airflow_bp.dlq_plan(dag_id => 'b', most => 2);
CALL airflow_bp.dlq_retry_all();
SELECT count(*) FROM test.closed;
CALL airflow_bp.dlq_retry_all(cause => 'queued_too_long', dag_id => '~^a', downstream => false, dry_run => false);
CALL airflow_bp.dlq_retry_all(pool => 'small', tenant => 'default', queue => 'default', most => 3, downstream => false, dry_run => false);
CALL airflow_bp.dlq_retry_all(tenant => 'nobody', dry_run => false);
SET client_min_messages = warning;
CALL airflow_bp.dlq_retry_all(downstream => false, batch => 7, dry_run => false);
SELECT dag_id, cause, status, why ~ '^batch [0-9]+$' AS batch, count(*), count(DISTINCT act_id) > 1 AS acts FROM airflow_bp.dead_letter
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3;
SELECT dag_id, state, count(*) FROM task_instance GROUP BY 1, 2 ORDER BY 1, 2;
SELECT state, started_by = session_user AS by_us, pid = pg_backend_pid() AS ours, filter, total, retried, refused, reasons, per_min > 0 AS rate, ends_in,
	longest > '0' AS longest FROM airflow_bp.dlq_batches();
-- Back, batch by batch.
SELECT airflow_bp.undo(act_id) FROM (SELECT DISTINCT act_id FROM airflow_bp.dead_letter WHERE status = 'retried' AND dag_id LIKE 'a%' ORDER BY 1 DESC) a \g /dev/null
SELECT dag_id, status, count(*) FROM airflow_bp.dead_letter GROUP BY 1, 2 ORDER BY 1, 2;
-- One that cannot be cleared keeps no other.
CREATE FUNCTION test.stop() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF old.task_id = 't3' THEN
		RAISE EXCEPTION 'not this one';
	END IF;
	RETURN new;
END
$$;
CREATE TRIGGER stop BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION test.stop();
CALL airflow_bp.dlq_retry_all(dag_id => 'a.two', downstream => false, dry_run => false);
DROP TRIGGER stop ON task_instance;
SELECT task_id, status FROM airflow_bp.dead_letter WHERE dag_id = 'a.two' ORDER BY task_id;
-- As fast as allowed: two letters each 100 ms.
SELECT clock_timestamp() AS began \gset
CALL airflow_bp.dlq_retry_all(dag_id => 'a.one', most => 6, downstream => false, rate => 1200, dry_run => false);
SELECT clock_timestamp() - :'began' >= interval '200 ms' AS slow;
-- Cancelled: what was committed stays, and others see that it has stopped.
SET statement_timeout = '2 s';
CALL airflow_bp.dlq_retry_all(dag_id => 'a.one', downstream => false, rate => 60, dry_run => false);
RESET statement_timeout;
SELECT state, total, retried BETWEEN 1 AND 3 AS some, refused, retried = (SELECT count(*) FROM airflow_bp.dead_letter WHERE why = 'batch ' || b.id) AS as_letters
FROM airflow_bp.dlq_batches() b LIMIT 1;
RESET client_min_messages;
-- How many at a time: size, most, took, rate.
SELECT v.*, airflow_bp.dlq_batch_size(size, most, took::interval, rate) FROM (VALUES (10, 100, '10 ms', NULL), (10, 100, '25 ms', NULL), (10, 100, '50 ms', NULL),
	(10, 100, '100 ms', NULL), (10, 100, '1 h', NULL), (3, 100, '1 s', NULL), (2, 100, '90 ms', NULL), (2, 100, '1 s', NULL), (80, 100, '1 ms', NULL), (1, 1, '0', NULL), (10000, 10000, '0', NULL), (10, 100, '0', 600), (10, 100, '0', 0.001))
	v (size, most, took, rate);

-- Counts and ages.
UPDATE airflow_bp.dead_letter SET status = 'open' WHERE dag_id = 'a.one';
SELECT scope_name, open, oldest > '0' AS old, newest <= oldest AS newest, retried, failed, discarded, recovered FROM airflow_bp.dead_letters('deployment');
UPDATE airflow_bp.dead_letter SET status = 'recovered', closed_at = now() - interval '23 h' WHERE dag_id = 'a.two' AND task_id = 't3';
UPDATE airflow_bp.dead_letter SET closed_at = now() - interval '25 h' WHERE dag_id = 'a.two' AND task_id = 't4';
SELECT airflow_bp.dlq_discard(test.letter('b', 't1'), 'x') = test.act() AS act;
SELECT scope_name, open, retried, failed, discarded, recovered FROM airflow_bp.dead_letters_by_dag ORDER BY 1;
SELECT scope_name, open, retried, failed, discarded, recovered FROM airflow_bp.dead_letters_by_cause ORDER BY 1;
SELECT scope_name, open FROM airflow_bp.dead_letters_by_pool UNION ALL SELECT scope_name, open FROM airflow_bp.dead_letters_by_queue
UNION ALL SELECT scope_name, open FROM airflow_bp.dead_letters_by_tenant ORDER BY 1;
-- What is old and closed goes, open letters stay.
SELECT airflow_bp.dlq_purge('1 day'), airflow_bp.dlq_purge('1 day');
SELECT count(*) FILTER (WHERE status = 'open') > 0 AS open, bool_or(status <> 'open') AS closed FROM airflow_bp.dead_letter;
SELECT airflow_bp.dlq_purge('0') > 0 AS purged;
SELECT status FROM airflow_bp.dead_letter GROUP BY 1;
SELECT count(*) FROM airflow_bp.dlq_batches();
DELETE FROM airflow_bp.dead_letter;
SELECT * FROM airflow_bp.dead_letters('deployment');

-- The wait before a retry: attempts, backoff, most, jitter.
SELECT v.*, airflow_bp.dlq_delay(attempts, backoff::interval, most::interval, jitter, 1) FROM (VALUES (0, '1 min', '1 h', 0), (1, '1 min', '1 h', 0),
	(5, '1 min', '1 h', 0), (6, '1 min', '1 h', 0), (99, '30 days', '30 days', 0), (0, '1 s', '1 s', 0)) v (attempts, backoff, most, jitter);
-- Never longer than without chance, never shorter than it may be, and it differs.
SELECT count(DISTINCT d), min(d) >= interval '45 s' AND max(d) <= interval '1 min' AND max(d) - min(d) > interval '14 s' AS spread
FROM generate_series(1, 1000) seed CROSS JOIN LATERAL airflow_bp.dlq_delay(0, '1 min', '1 h', 0.25, seed) d;
-- The decision: attempts, last, now, retries.
SELECT v.*, d.* FROM (VALUES (0, '00:00', '00:00:59', 2), (0, '00:00', '00:01', 2), (1, '00:00', '00:01:59', 2), (1, '00:00', '00:02', 2), (2, '00:00', '01:00', 2),
	(3, '00:00', '01:00', 2)) v (attempts, last, now, retries)
CROSS JOIN LATERAL airflow_bp.dlq_decide(attempts, ('2026-01-01 ' || last || 'Z')::timestamptz, ('2026-01-01 ' || now || 'Z')::timestamptz, retries, '1 min', '1 h', 0, 1) d;

-- By itself, when a policy says so.
SELECT airflow_bp.enable('observe');
SELECT airflow_bp.tick();
DELETE FROM task_instance;
SELECT test.tasks('a', 1, 2, state => 'failed'), test.tasks('b', 1, 1, state => 'failed');
SELECT test.letters('a'), test.letters('b');
UPDATE airflow_bp.dead_letter SET first_seen = now() - interval '1 hour';
SELECT airflow_bp.dlq_auto();
-- A turn ends after 50 ms, which one letter may take on a busy machine.
CREATE FUNCTION test.auto() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	total bigint := 0;
	done int;
BEGIN
	LOOP
		done := airflow_bp.dlq_auto();
		EXIT WHEN done = 0;
		total := total + done;
	END LOOP;
	RETURN total;
END
$$;
SELECT airflow_bp.set_dlq_policy('retries_exhausted', 2, downstream => false, dag_id => 'a*');
SELECT airflow_bp.set_mode('off');
SELECT test.auto();
SELECT airflow_bp.set_mode('observe');
SELECT test.auto();
SELECT dag_id, task_id, status, attempts, attempted_at IS NOT NULL AS attempted, why FROM airflow_bp.dead_letter ORDER BY id;
-- The next try fails as well: it waits for as long as the policy says, from the last attempt on.
CREATE FUNCTION test.fails_again() RETURNS void LANGUAGE sql AS $$
	UPDATE task_instance SET state = 'failed', try_number = try_number + 1 WHERE dag_id = 'a';
	SELECT test.letters('a');
	UPDATE airflow_bp.dead_letter SET first_seen = now() - interval '1 hour';
$$;
SELECT test.fails_again();
SELECT test.auto();
UPDATE airflow_bp.dead_letter SET attempted_at = now() - interval '90 s';
SELECT test.auto();
UPDATE airflow_bp.dead_letter SET attempted_at = now() - interval '2 min';
-- A turn does it, each 10 s.
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		PERFORM airflow_bp.tick();
		EXIT WHEN NOT EXISTS (SELECT FROM airflow_bp.dead_letter WHERE dag_id = 'a' AND status = 'open');
		PERFORM pg_sleep(0.1);
	END LOOP;
END
$$;
SELECT dag_id, task_id, try_number, status, attempts, why FROM airflow_bp.dead_letter WHERE dag_id = 'a' ORDER BY id;
-- Then it is for a human.
SELECT test.fails_again();
UPDATE airflow_bp.dead_letter SET attempted_at = now() - interval '1 h';
SELECT test.auto();
SELECT task_id, status, attempts FROM airflow_bp.dead_letter WHERE dag_id = 'a' AND try_number = 2 ORDER BY id;
SELECT airflow_bp.dlq_retry(test.letter('a', 't1'), false) = test.act() AS act;
-- The policy that says more applies; a refusal counts as no attempt.
SELECT airflow_bp.set_dlq_policy('retries_exhausted', 5, '1 s', '1 s', downstream => false), airflow_bp.set_dlq_policy('retries_exhausted', 1, '10 s', tenant => 'default', dag_id => 'b', downstream => false);
UPDATE task_instance SET state = 'success' WHERE dag_id = 'b';
SELECT test.auto();
SELECT dag_id, status, attempts, attempted_at = first_seen + interval '1 h' OR attempted_at > now() - interval '1 min' AS attempted, refusal
FROM airflow_bp.dead_letter WHERE dag_id = 'b';
SELECT cause, tenant, dag_id, retries, backoff, max_backoff, jitter, downstream FROM airflow_bp.dlq_policy ORDER BY retries;
SELECT airflow_bp.set_dlq_policy('retries_exhausted', 6), airflow_bp.drop_dlq_policy('retries_exhausted', 'default', 'b'), airflow_bp.drop_dlq_policy('retries_exhausted', dag_id => 'a*');
SELECT cause, tenant, dag_id, retries FROM airflow_bp.dlq_policy;
SELECT airflow_bp.drop_dlq_policy('retries_exhausted');

-- Names are names.
SELECT test.tasks('x''; DROP TABLE dag; --', 1, 3, pool => '%I %s', state => 'failed');
SELECT test.letters('x''; DROP TABLE dag; --');
UPDATE task_instance SET state = 'scheduled' WHERE dag_id LIKE 'x%' AND task_id = 't3';
UPDATE airflow_bp.dead_letter SET state = 'scheduled' WHERE dag_id LIKE 'x%' AND task_id = 't3';
SELECT airflow_bp.dlq_retry(test.letter('x''; DROP TABLE dag; --', 't1'), false, why => '''; DROP TABLE dag; --') = test.act() AS act;
SELECT airflow_bp.dlq_fail(test.letter('x''; DROP TABLE dag; --', 't3'), '''; DROP TABLE dag; --') = test.act() AS act;
CALL airflow_bp.dlq_retry_all(dag_id => 'x''; DROP TABLE dag; --', pool => '%I %s', downstream => false, dry_run => false);
SELECT task_id, status, why FROM airflow_bp.dead_letter WHERE dag_id LIKE 'x%' ORDER BY id;

-- Rights.  An operator needs none on the tables of Airflow; what he has in front of his path is not called.
CREATE ROLE regress_reader;
CREATE ROLE regress_operator;
SELECT airflow_bp.grant_reader('regress_reader'), airflow_bp.grant_operator('regress_operator');
SELECT test.tasks('r', 1, 5, state => 'failed'), test.tasks('r', 6, 6, state => 'scheduled');
SELECT test.letters('r');
SELECT test.letter('r', 't1') AS one, test.letter('r', 't2') AS two, test.letter('r', 't6') AS six \gset
CREATE SCHEMA planted AUTHORIZATION regress_operator;
SET ROLE regress_reader;
SELECT count(*) FROM airflow_bp.dlq_plan(dag_id => 'r');
SELECT scope_name, open FROM airflow_bp.dead_letters('dag') WHERE scope_name = 'r';
SELECT count(*) > 0 AS seen FROM airflow_bp.dead_letter;
SELECT count(*) FROM airflow_bp.dlq_batches();
SELECT airflow_bp.dlq_retry(:one);
SELECT airflow_bp.dlq_fail(:one, 'x');
SELECT airflow_bp.dlq_discard(:one, 'x');
SELECT airflow_bp.dlq_purge('0');
SELECT airflow_bp.dlq_auto();
SELECT airflow_bp.set_dlq_policy('retries_exhausted', 1);
CALL airflow_bp.dlq_retry_all();
SET ROLE regress_operator;
SELECT count(*) FROM "3.3.2".task_instance;
SELECT airflow_bp.dlq_discard(:one, 'x') > 0 AS act, airflow_bp.dlq_retry(:two, false) > 0 AS act, airflow_bp.dlq_fail(:six, 'x') > 0 AS act;
CREATE FUNCTION planted.minus(timestamptz, timestamptz) RETURNS interval LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''planted''; END';
CREATE OPERATOR planted.- (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = planted.minus);
CREATE FUNCTION planted.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''planted''; END';
CREATE FUNCTION planted.pg_sleep(float8) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''planted''; END';
SET search_path = planted, pg_catalog;
CALL airflow_bp.dlq_retry_all(dag_id => 'r', downstream => false, dry_run => false);
RESET search_path;
DELETE FROM airflow_bp.dead_letter;
RESET ROLE;

\set ECHO none
SET client_min_messages = warning;
SELECT airflow_bp.disable() \g /dev/null
DROP EXTENSION airflow_bp CASCADE;
DROP SCHEMA "3.0.6", "3.1.8", "3.2.2", "3.3.2", airflow_bp, test, load_gen, planted CASCADE;
DROP OWNED BY regress_reader, regress_operator;
DROP ROLE regress_reader, regress_operator;
