-- Cohorts: guarantees, borrowing, lending, weights, ageing, shares of DAGs.  No worker here: tick() is its turn.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.held AS
SELECT dag_id, task_id, tenant, slots, priority, reason, granted FROM airflow_bp.held() ORDER BY dag_id, task_id COLLATE "C";
CREATE VIEW test.tenants AS
SELECT name, cohort, nominal, weight, usage, available, borrowed, share, held FROM airflow_bp.tenants() WHERE name <> 'default' ORDER BY name COLLATE "C";
CREATE VIEW test.usage AS
SELECT string_agg(name || ' ' || usage, ', ' ORDER BY name) AS usage FROM airflow_bp.tenants() WHERE name <> 'default';
CREATE VIEW test.granted AS
SELECT string_agg(task, ', ' ORDER BY task) AS granted
FROM (SELECT dag_id || ' ' || count(*) FROM airflow_bp.held() WHERE granted GROUP BY dag_id) g (task);
\set ECHO all

-- Twelve slots, four of each.  Who is alone has them all; nobody has more.
SELECT airflow_bp.set_cohort('all');
SELECT test.tenant(name, 4) FROM unnest(ARRAY['a', 'b', 'c']) name;
SELECT airflow_bp.enable('enforce');
SELECT test.tasks('a1', 1, 60), test.tasks('b1', 1, 60), test.tasks('c1', 1, 60);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 1, 15);
SELECT * FROM test.tenants;
-- The owners wake: their slots come back first, as tasks end, and the borrower stops at its own.
SELECT test.ask('b1', 1, 5), test.ask('c1', 1, 1);
SELECT tenant, reason, count(*) FROM test.held GROUP BY 1, 2 ORDER BY 1, 2;
SELECT test.finish('a1', 2);
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT * FROM test.tenants;
-- b has four, c one; then shares are equal at nothing borrowed, and who asked first goes first.
SELECT test.finish('a1', 3);
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT test.finish('a1', 2);
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT * FROM test.tenants;
SELECT test.drift();

-- A limit to what is borrowed, and to what is lent.
UPDATE task_instance SET state = 'success' WHERE state = 'scheduled';
SELECT test.ask_again();
UPDATE task_instance SET state = 'success' WHERE state = 'scheduled';
SELECT count(*) FROM airflow_bp.held();
SELECT test.tenant('a', 4, borrowing => 2), test.tenant('b', 4, lending => 1);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 21, 30);
SELECT * FROM test.tenants;
SELECT test.tenant('a', 4);
SELECT airflow_bp.tick();
SELECT test.ask_again();
SELECT * FROM test.tenants;
-- More than could ever be lent never fits, and is in nobody's way.
SELECT test.tasks('c2', 1, 1, slots => 10), test.tasks('a2', 1, 1, slots => 9);
SELECT airflow_bp.tick();
SELECT test.ask('c2', 1), test.ask('a2', 1);
SELECT * FROM test.held WHERE dag_id IN ('a2', 'c2');
DELETE FROM task_instance WHERE dag_id IN ('a2', 'c2');

-- A guarantee that takes several slots: what comes free of it is kept, borrowers do not take it.
SELECT test.tenant('b', 4), test.tasks('b2', 1, 1, slots => 4);
SELECT airflow_bp.tick();
SELECT test.ask_again();
SELECT test.ask('a1', 31, 34), test.ask('b2', 1);
SELECT * FROM test.usage;
SELECT test.finish('a1', 3);
SELECT * FROM test.granted;
SELECT test.ask('a1', 35), test.ask_again();
SELECT * FROM test.usage;
SELECT test.finish('a1', 1);
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT * FROM test.usage;
SELECT test.drift();

-- Lower quotas cancel nothing; nobody passes until usage is below them.
SELECT test.tenant(name, 1) FROM unnest(ARRAY['a', 'b', 'c']) name;
SELECT airflow_bp.tick();
SELECT * FROM test.tenants;
SELECT test.ask('c1', 11), test.finish('a1', 3);
SELECT * FROM test.granted;
UPDATE task_instance SET state = 'success' WHERE state = 'scheduled';
SELECT * FROM test.granted;
UPDATE task_instance SET state = 'removed' WHERE state IS NULL;
SELECT count(*) FROM airflow_bp.held();

-- Weights: 1, 1 and 3 of ten slots that belong to the cohort.
SELECT airflow_bp.set_cohort('all', nominal => 10);
SELECT test.tenant('a', 0), test.tenant('b', 0), test.tenant('c', 0, weight => 3);
SELECT airflow_bp.tick();
SELECT test.tasks('a3', 1, 60), test.tasks('b3', 1, 60), test.tasks('c3', 1, 60);
SELECT airflow_bp.tick();
SELECT test.ask('a3', 1, 30), test.ask('b3', 1, 30), test.ask('c3', 1, 30);
SELECT * FROM test.usage;
SELECT test.finish('a3', 8), test.ask_again();
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT * FROM test.tenants;
-- A weight of 0 has what nobody else wants.
SELECT test.tenant('b', 0, weight => 0);
SELECT airflow_bp.tick();
SELECT test.finish('b3', 10), test.ask_again();
SELECT test.ask_again();
SELECT name, usage, share FROM test.tenants;
SELECT test.drift();

-- A tenant that is only observed takes its slots, whoever else waits.
SELECT airflow_bp.set_tenant('b', 0, 'all', mode => 'observe');
SELECT airflow_bp.tick();
SELECT granted, count(*) FROM test.held WHERE tenant = 'b' GROUP BY 1;
SELECT test.ask_again();
SELECT * FROM test.usage;
UPDATE task_instance SET state = 'removed' WHERE state IS NULL OR state = 'scheduled';
SELECT airflow_bp.tick();

-- A low priority gains with age.  Ten go first, then the next begin to age.
ALTER SYSTEM SET airflow_bp.max_age = '10s';
ALTER SYSTEM SET airflow_bp.age_priority = 1000000;
SELECT pg_reload_conf();
\c
SET search_path = airflow;
SELECT test.settled('airflow_bp.age_priority', '1000000');
SELECT test.tenant(name, 0) FROM unnest(ARRAY['a', 'b', 'c']) name;
SELECT test.tasks('a4', 1, 40), test.tasks('a5', 1, 40);
UPDATE task_instance SET priority_weight = 50 WHERE dag_id = 'a5';
SELECT airflow_bp.tick();
SELECT test.ask('a4', 1, 40);
DO $$
BEGIN
	WHILE clock_timestamp() < (SELECT max(first_asked) FROM airflow_bp.held()) + interval '1 ms' LOOP END LOOP;
END
$$;
SELECT test.ask('a5', 1, 40);
SELECT test.finish('a4', 10);
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT test.finish('a4', 10);
SELECT * FROM test.granted;
SELECT test.ask_again();

-- DAGs of one tenant share by their usage: one that has had little comes before one of higher priority.
ALTER SYSTEM RESET airflow_bp.age_priority;
ALTER SYSTEM SET airflow_bp.usage_half_life = '10min';
SELECT pg_reload_conf();
\c
SET search_path = airflow;
SELECT test.settled('airflow_bp.usage_half_life', '10min');
SELECT test.tasks('a6', 1, 5);
SELECT airflow_bp.tick();
SELECT test.ask('a6', 1, 5);
SELECT test.finish('a5', 3);
SELECT * FROM test.granted;
SELECT test.ask_again();
SELECT test.drift();

ALTER SYSTEM RESET airflow_bp.max_age;
ALTER SYSTEM RESET airflow_bp.usage_half_life;
SELECT pg_reload_conf();
SELECT test.clean();
SELECT airflow_bp.tick();
DROP VIEW test.held, test.tenants, test.usage, test.granted;
DROP EXTENSION airflow_bp;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA airflow, airflow_bp, test CASCADE;
