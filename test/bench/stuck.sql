-- A million unfinished tasks in 20,000 running runs, and many finished ones: copies of a small load.
-- finished: how many, in steps of 10,000.  Airflow's tables must be in search_path.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SELECT load_gen.load(seed => 1, dags => 100, runs => 2, tasks => 50, live => 1, unfinished => 1) \g /dev/null
CREATE TABLE keys AS
SELECT format('ALTER TABLE %s ADD %s %s', conrelid::regclass, 'CONSTRAINT ' || quote_ident(conname), pg_get_constraintdef(oid)) AS make,
	format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::regclass, conname) AS unmake
FROM pg_constraint WHERE conrelid = 'task_instance'::regclass AND contype IN ('p', 'u')
UNION ALL
SELECT indexdef, format('DROP INDEX %I.%I', schemaname, indexname) FROM pg_indexes
WHERE tablename = 'task_instance' AND indexname NOT IN (SELECT conname FROM pg_constraint WHERE conrelid = 'task_instance'::regclass);
SELECT unmake FROM keys \gexec
SET session_replication_role = replica;
CREATE FUNCTION copies(n int, running boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	columns text;
	suffix text := CASE WHEN running THEN ' r' ELSE ' f' END;
BEGIN
	SELECT string_agg(quote_ident(attname), ', ') INTO columns FROM pg_attribute
	WHERE attrelid = 'dag_run'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('id', 'run_id', 'state', 'logical_date', 'start_date');
	EXECUTE format('INSERT INTO dag_run (run_id, state, logical_date, start_date, %1$s)
		SELECT run_id || %2$L || k, %3$L, NULL, now() - interval ''2 hours'', %1$s FROM dag_run_seed, generate_series(1, $1) k', columns, suffix,
		CASE WHEN running THEN 'running' ELSE 'success' END) USING n;
	SELECT string_agg(quote_ident(attname), ', ') INTO columns FROM pg_attribute
	WHERE attrelid = 'task_instance'::regclass AND attnum > 0 AND NOT attisdropped
		AND attname NOT IN ('id', 'run_id', 'state', 'try_number', 'max_tries', 'last_heartbeat_at');
	EXECUTE format('INSERT INTO task_instance (id, run_id, state, try_number, max_tries, last_heartbeat_at, %1$s)
		SELECT gen_random_uuid(), run_id || %2$L || k, CASE WHEN $2 THEN state WHEN hashtext(id::text) %% 100 < 5 THEN ''failed'' ELSE ''success'' END,
			CASE WHEN $2 THEN try_number ELSE 1 END, CASE WHEN $2 THEN max_tries ELSE 0 END,
			CASE WHEN $2 THEN last_heartbeat_at ELSE now() - interval ''2 hours'' - k * interval ''1 minute'' END, %1$s
		FROM generate_series(1, $1) k, task_seed', columns, suffix) USING n, running;
END
$$;
CREATE TABLE dag_run_seed AS TABLE dag_run;
CREATE TABLE task_seed AS SELECT * FROM task_instance ORDER BY dag_id, run_id;
DELETE FROM task_instance;
DELETE FROM dag_run;
SELECT copies(:finished / 10000, false), copies(100, true) \g /dev/null
-- What waits waits for good: the triggers are there, and their triggerer lives.
INSERT INTO job (job_type, state, latest_heartbeat) VALUES ('SchedulerJob', 'running', now() + interval '1 day'), ('TriggererJob', 'running', now() + interval '1 day');
UPDATE trigger SET triggerer_id = (SELECT max(id) FROM job);
UPDATE task_instance SET trigger_id = (SELECT min(id) FROM trigger) WHERE state = 'deferred' AND trigger_id IS NULL;
SELECT make FROM keys \gexec
RESET session_replication_role;
VACUUM ANALYZE;
