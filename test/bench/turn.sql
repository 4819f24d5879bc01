-- 1,000 tenants in 50 cohorts, 50,000 held tasks.  Needs a worker.

\set ON_ERROR_STOP on
\set QUIET on

CREATE SCHEMA bench;

-- Each tenant has a slot of its own and 50 tasks; each cohort has ten to share, all in use.
INSERT INTO airflow_bp.cohort (name, nominal) SELECT 'c' || i, 10 FROM generate_series(1, 50) i;
INSERT INTO airflow_bp.tenant (name, cohort, nominal) SELECT 't' || i, 'c' || i % 50 + 1, 1 FROM generate_series(1, 1000) i;
INSERT INTO airflow_bp.tenant_rule (place, tenant, match_on, pattern) SELECT i, 't' || i, 'dag_id', 'd' || i FROM generate_series(1, 1000) i;
INSERT INTO dag_run (dag_id, run_id, run_type, run_after, state) SELECT 'd' || i, 'run', 'manual', now(), 'running' FROM generate_series(1, 1000) i;
INSERT INTO task_instance (id, dag_id, run_id, task_id, try_number, pool, pool_slots, queue, priority_weight)
SELECT test.id('d' || i, n), 'd' || i, 'run', 't' || n, 0, 'default_pool', 1, 'default', n % 5
FROM generate_series(1, 1000) i, generate_series(1, 51) n;
ANALYZE;
SELECT airflow_bp.enable('enforce');

\ir await.sql
CALL bench.await('ready AND airflow_bp.policy_version() = airflow_bp.policy_wanted() FROM airflow_bp.memory_state()');
-- The first ask of a DAG is held until its tenant is known.
UPDATE task_instance SET state = 'scheduled' WHERE task_id = 't1';
CALL bench.await('count(*) = 1000 FROM airflow_bp.tenants() WHERE held + usage > 0');
UPDATE task_instance SET state = 'scheduled' WHERE state IS NULL;
UPDATE task_instance SET state = 'scheduled' WHERE state IS NULL;

-- Durations of turns, one a second, until so many had nothing to do: none of what comes at a period was written or gone through meanwhile.
CREATE TABLE bench.turn (at timestamptz PRIMARY KEY, ms float8, quiet boolean);
CREATE FUNCTION bench.work() RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', (SELECT max(from_at) FROM airflow_bp.gauge), (SELECT max(from_at) FROM airflow_bp.sampler_tick), (SELECT p FROM airflow_bp.stuck_progress() p))
$$;
CREATE PROCEDURE bench.watch(turns int) LANGUAGE plpgsql AS $$
DECLARE
	seen timestamptz := (SELECT last_tick FROM airflow_bp.memory_state());
	done text;
	work text;
	m record;
BEGIN
	WHILE (SELECT count(*) FROM bench.turn WHERE quiet) < turns LOOP
		PERFORM pg_sleep(0.05);
		SELECT * INTO m FROM airflow_bp.memory_state();
		IF m.last_tick > seen THEN
			seen := m.last_tick;
			work := bench.work();
			INSERT INTO bench.turn VALUES (m.last_tick, m.tick_ms, work = done);
			done := work;
			COMMIT;
		END IF;
	END LOOP;
END
$$;
-- The log of 50,000 decisions is written first.
CALL bench.await('airflow_bp.tick()');
CALL bench.watch(5);
TRUNCATE bench.turn;
CALL bench.watch(30);

CREATE TABLE bench.freed (ms float8);
CREATE PROCEDURE bench.free(rounds int) LANGUAGE plpgsql AS $$
DECLARE
	ids uuid[] := (SELECT array_agg(id) FROM (SELECT id FROM task_instance WHERE state = 'scheduled' ORDER BY id LIMIT rounds) t);
	began timestamptz;
BEGIN
	FOR i IN 1 .. cardinality(ids) LOOP
		UPDATE task_instance SET state = 'success' WHERE id = ids[i];
		began := clock_timestamp();
		COMMIT;
		INSERT INTO bench.freed VALUES (extract(epoch FROM clock_timestamp() - began)::float8 * 1000);
		COMMIT;
	END LOOP;
END
$$;
CALL bench.free(1000);

CREATE TABLE bench.result AS
SELECT (SELECT held FROM airflow_bp.memory_state()) AS held, (SELECT count(*) FROM airflow_bp.held_entries() WHERE granted) AS granted,
	(SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric(10, 3) FROM bench.turn WHERE quiet) AS quiet,
	(SELECT format('%s others, median %s ms, the longest %s ms', count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric(10, 1), max(ms)::numeric(10, 1))
		FROM bench.turn WHERE NOT quiet) AS others,
	(SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric(10, 3) FROM bench.freed) AS freed;
