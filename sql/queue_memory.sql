-- The counters of shared memory say what the tables say.
CREATE DATABASE regress_queue_memory;
\c regress_queue_memory
SET client_min_messages = warning;
CREATE EXTENSION airflow_bp;
\pset null '(null)'
\getenv top PG_ABS_SRCDIR
\set fixture :top '/test/fixtures/airflow_3_3_2.sql'
\set load :top '/test/fixtures/load.sql'
\set ECHO none
\i :fixture
\i :load
\set ECHO all
\echo seed 11
SELECT load_gen.load(seed => 11, dags => 20, runs => 5, tasks => 10) \g /dev/null
-- Until the counters are ready it is the tables that answer.
SELECT count(*) FROM airflow_bp.queue_from_memory('pool', '{}');
SELECT airflow_bp.set_tenant('narrow', 3), airflow_bp.add_tenant_rule('narrow', 'pool', 'pool_1') \g /dev/null
SELECT airflow_bp.enable('enforce') \g /dev/null
SELECT airflow_bp.tick() \g /dev/null
SELECT ready FROM airflow_bp.memory_state();

CREATE VIEW scopes AS SELECT s AS scope, (SELECT coalesce(array_agg(dag_id::text), '{}') FROM dag
	WHERE is_paused OR is_stale) AS blocked
FROM unnest(ARRAY['deployment', 'pool', 'queue', 'executor', 'tenant', 'dag', 'state']) s;
CREATE VIEW in_memory AS SELECT scope, q.* FROM scopes CROSS JOIN LATERAL airflow_bp.queue_from_memory(scope, blocked) q;
CREATE VIEW in_tables AS SELECT scope, q.* FROM scopes CROSS JOIN LATERAL airflow_bp.queue_from_tables(scope, blocked) q;
-- What is kept by state is less: neither ages nor held tasks.
CREATE VIEW differences AS
SELECT scope, scope_name, m.scope_name IS NULL AS only_in_tables, t.scope_name IS NULL AS only_in_memory, m.scheduled, t.scheduled AS t_scheduled,
	m.held, t.held AS t_held, m.oldest, t.oldest AS t_oldest
FROM (SELECT * FROM in_memory WHERE "none" + scheduled + queued + running + deferred + up_for_retry + up_for_reschedule > 0) m
FULL JOIN in_tables t USING (scope, scope_name)
WHERE (m."none", m.scheduled, m.queued, m.running, m.deferred, m.up_for_retry, m.up_for_reschedule, m.slots_executing, m.slots_charged,
		m.slots_deferred) IS DISTINCT FROM (t."none", t.scheduled, t.queued, t.running, t.deferred, t.up_for_retry, t.up_for_reschedule,
		t.slots_executing, t.slots_charged, t.slots_deferred)
	OR scope <> 'state' AND (m.held, m.oldest) IS DISTINCT FROM (t.held, t.oldest);
SELECT scope, count(*) > 0 AS answers FROM in_memory GROUP BY 1 ORDER BY 1;
SELECT * FROM differences;

-- Asks of the scheduler: some pass, the others are held.
UPDATE task_instance t SET state = 'scheduled', scheduled_dttm = now() - interval '1 hour' FROM dag_run r
WHERE r.dag_id = t.dag_id AND r.run_id = t.run_id AND r.state = 'running' AND t.state IS NULL;
SELECT held > 0 AS held FROM airflow_bp.queue('tenant') WHERE scope_name = 'narrow';
SELECT * FROM differences;
SELECT tenant, count(*) > 0 AS tasks FROM airflow_bp.waiting() WHERE reason LIKE 'held%' GROUP BY 1;
SELECT (SELECT waiting FROM airflow_bp.queue_by_deployment) = (SELECT count(*) FROM airflow_bp.waiting()) AS all_there;
-- A DAG that is paused is not able to start.
UPDATE dag SET is_paused = NOT is_paused;
SELECT * FROM differences;
UPDATE dag SET is_paused = NOT is_paused;

-- Tasks go on, move, come and go.
UPDATE task_instance SET state = 'running' WHERE state = 'queued';
UPDATE task_instance SET state = 'success' WHERE state = 'running' AND pool <> 'pool_2';
UPDATE task_instance SET pool = 'pool_3', executor = NULL WHERE pool = 'pool_2' AND map_index < 0;
UPDATE task_instance SET state = 'awaiting_input' WHERE state = 'deferred' AND try_number % 2 = 0;
DELETE FROM task_instance WHERE state = 'up_for_retry';
-- New classes get their tenant.
SELECT airflow_bp.tick() \g /dev/null
SELECT * FROM differences;
BEGIN;
DELETE FROM task_instance;
ROLLBACK;
SELECT * FROM differences;
-- Rates: of what moved since they are counted, over the same time, once that is a second.
DO $$
BEGIN
	WHILE clock_timestamp() < now() + interval '30 seconds' AND EXISTS (SELECT FROM airflow_bp.queue_rates('deployment')
		WHERE starts_per_min IS NULL) LOOP
		PERFORM pg_sleep(0.05);
	END LOOP;
END
$$;
SELECT minutes, arrivals_per_min, starts_per_min > 0 AS starts, finishes_per_min > 0 AS finishes,
	growth_per_min = arrivals_per_min - finishes_per_min AS growth FROM airflow_bp.queue_rates('deployment');
SELECT clears_in > '0' AS clears FROM airflow_bp.queue('deployment');
-- An idle pool is told from one that nobody sees.
INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('idle', 5, false);
SELECT scope_name, waiting, held, slots_used, slots_total, oldest_claimable, starts_per_min, clears_in FROM airflow_bp.queue('pool')
WHERE scope_name = 'idle';

-- A name too long for shared memory is told by the tables.
UPDATE task_instance SET pool = repeat('𝄞', 70) WHERE pool = 'pool_3';
SELECT (SELECT count(*) FROM airflow_bp.queue_from_memory('pool', '{}')) AS in_memory,
	(SELECT length(scope_name) FROM airflow_bp.queue('pool') ORDER BY 1 DESC LIMIT 1) AS longest,
	(SELECT count(*) > 0 FROM airflow_bp.queue_from_memory('queue', '{}')) AS others_in_memory;

-- The names of paused DAGs are all NULL where Airflow has renamed their column.
BEGIN;
UPDATE dag SET is_paused = true;
ALTER TABLE dag RENAME COLUMN dag_id TO gone;
SELECT count(*) FROM airflow_bp.queue('deployment');
ROLLBACK;

SELECT airflow_bp.disable() \g /dev/null
SELECT count(*) FROM airflow_bp.queue_from_memory('pool', '{}');
\c postgres
DROP DATABASE regress_queue_memory;
