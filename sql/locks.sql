-- What the lock report reads, keeps and rolls up; its rules; bad input.  Scenes with several sessions are in test/specs and test/t.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
\set ECHO all
\pset null '(null)'
SET timezone = 'UTC';
SET datestyle = ISO;
SET intervalstyle = postgres;
SET extra_float_digits = 0;

-- Statements.
SELECT airflow_bp.statement_shape(s), airflow_bp.statement_class(s), airflow_bp.statement_component(s) FROM unnest(ARRAY[
	'UPDATE task_instance SET last_heartbeat_at=''2026-01-01''::timestamptz, updated_at=now() WHERE task_instance.id = ''a''::uuid::UUID',
	'SELECT slot_pool.pool, slot_pool.slots FROM slot_pool FOR NO KEY UPDATE NOWAIT',
	'SELECT dag.dag_id, dag.is_paused, dag_tag_1.name, dag_ta',
	'SELECT task_instance.id, task_instance.task_id, task_instance.dag_id',
	'SELECT ''UPDATE dag SET last_parsed_time=1''', E'--\n', '', repeat('(', 100000), 'SELECT $$é$$, é FROM "Ü"."ß" WHERE x = ''', '''; DROP TABLE x --']) s;
SELECT airflow_bp.statement_shape(NULL), airflow_bp.statement_class(NULL), airflow_bp.statement_component(NULL);

-- Nobody waits.
SELECT * FROM airflow_bp.lock_tree();
SELECT state, client FROM airflow_bp.sessions() WHERE pid = pg_backend_pid();

-- Rows at a place, as long as something is there.
SELECT test.tasks('a1', 1, 2);
SELECT airflow_bp.row_at('task_instance'::regclass, 0, 1), airflow_bp.row_at('dag_run'::regclass, 0, 1), airflow_bp.row_at('slot_pool'::regclass, 0, 1);
SELECT airflow_bp.row_at('alembic_version'::regclass, 0, 1), airflow_bp.row_at('task_instance'::regclass, 0, 0), airflow_bp.row_at('task_instance'::regclass, 0, 300),
	airflow_bp.row_at('task_instance'::regclass, 4294967295, 1), airflow_bp.row_at('task_instance'::regclass, -1, -1), airflow_bp.row_at(0, 0, 1),
	airflow_bp.row_at('ti_state'::regclass, 0, 1), airflow_bp.row_at('pg_locks'::regclass, 0, 1), airflow_bp.row_at(NULL, 0, 1);
UPDATE task_instance SET updated_at = now() WHERE dag_id = 'a1' AND task_id = 't1';
SELECT airflow_bp.row_at('task_instance'::regclass, 0, 1) ->> 'task_id' AS a_version_that_is_dead;

-- Without a sampler each turn is a look.
SELECT note LIKE 'looks at each airflow_bp.tick%' OR note LIKE 'not running%' AS note, pid FROM airflow_bp.sampler_status();
SELECT airflow_bp.tick();
SELECT note, pid, looks >= 1 AS looked, errors, waiting_share FROM airflow_bp.sampler_status();
SELECT * FROM airflow_bp.lock_episodes();
SELECT * FROM airflow_bp.lock_report();
SELECT * FROM airflow_bp.critical_section();
SELECT * FROM airflow_bp.deadlocks();

-- A history: episodes in pieces, on two days of June; the sums stay what they are, however old.
INSERT INTO airflow_bp.lock_statement VALUES (1, 'update dag', 'UPDATE dag SET x=?'), (2, 'select dag for update', 'SELECT dag.dag_id, .. FROM dag FOR UPDATE');
INSERT INTO airflow_bp.lock_history
SELECT 0, t, t + interval '1 s', CASE WHEN i <= 40 THEN 7 ELSE 100 + i END, 2, 1, 'dag-processor', 'scheduler', 'transactionid', 'dag',
	CASE WHEN i % 2 = 1 THEN jsonb_build_object('dag_id', 'd' || i) END, CASE WHEN i BETWEEN 2 AND 40 THEN 0 ELSE 1 END, 2, i * 0.5, i * 0.25,
	make_interval(secs => i), i, jsonb_build_object('blocker', i)
FROM (SELECT i, timestamptz '2020-06-01 12:00:00+00' + i * interval '31 s' AS t FROM generate_series(1, 200) i) g;
INSERT INTO airflow_bp.lock_history
SELECT 0, t, t, 1000 + i, 1, 2, 'scheduler', 'unknown', 'tuple', NULL, NULL, 1, 1, 1, 0, '1 s', 1, NULL
FROM (SELECT i, timestamptz '2020-06-02 12:00:00+00' + i * interval '1 s' AS t FROM generate_series(1, 3) i) g;
INSERT INTO airflow_bp.sampler_tick
SELECT 0, t, t, t, 1, 0.001, 0.001, 0.0001, 0.0001, 1, (i <= 10)::int, i % 7, 0, (i = 5)::int, CASE WHEN i = 5 THEN '53200' END
FROM (SELECT i, timestamptz '2020-06-01 12:00:00+00' + i * interval '1 s' AS t FROM generate_series(1, 300) i) g;
INSERT INTO airflow_bp.critical_hold
SELECT 0, t, t, 10 + i % 2, '10.0.0.' || i % 2, i, 1, 0, 0.25 FROM (SELECT i, timestamptz '2020-06-01 12:00:00+00' + i * interval '10 s' AS t FROM generate_series(1, 30) i) g;
CREATE VIEW test.sums AS
SELECT (SELECT concat_ws(' ', sum(episodes), sum(samples), sum(waiter_seconds), sum(idle_seconds), max(longest), max(most_waiters)) FROM airflow_bp.lock_history) AS history,
	(SELECT concat_ws(' ', sum(ticks), round(sum(took)::numeric, 6), sum(period), sum(waiting), max(most_waiters), sum(errors), max(error)) FROM airflow_bp.sampler_tick WHERE from_at < '2021-01-01') AS ticks,
	(SELECT concat_ws(' ', sum(samples), max(at_most)) FROM airflow_bp.critical_hold) AS holds;
SELECT * FROM test.sums;
SELECT waiter_seconds, round(share::numeric, 3) AS share, before_waiter_seconds AS before, blocker_component, blocker_class, blocked_component, blocked_class, relation, episodes, samples, idle_share,
	longest, most_waiters, example FROM airflow_bp.lock_report('[2020-06-01, 2020-06-02)', '[2020-06-02, 2020-06-03)');
SELECT from_at, to_at, going_on, airflow_row, episodes, samples, waiter_seconds, longest, sessions, resolution FROM airflow_bp.lock_episodes('[2020-06-01, 2020-06-03)') LIMIT 3;
SELECT pid, client, samples, ticks, share, held_seconds, longest_at_least, longest_at_most FROM airflow_bp.critical_section('[2020-06-01, 2020-06-02)');
SELECT looks, took_ms, seen, blind, waiting_share, errors FROM airflow_bp.sampler_status('[2020-06-01 12:00, 2020-06-01 12:10)');
SELECT looks, blind FROM airflow_bp.sampler_status('(,2000-01-01)');
SELECT looks, blind FROM airflow_bp.sampler_status('empty');
SELECT at, waiter_seconds, idle_share, most_waiters, dearest, critical_share, blind FROM airflow_bp.lock_timeline('[2020-06-01 12:03, 2020-06-01 12:07)');
SELECT airflow_bp.lock_roll('2020-06-02 12:30:00+00'), airflow_bp.lock_roll('2020-06-02 12:30:00+00');
SELECT * FROM test.sums;
SELECT resolution, count(*) FROM airflow_bp.lock_history GROUP BY 1 ORDER BY 1;
SELECT from_at, to_at, airflow_row, episodes, samples, waiter_seconds, longest, sessions, resolution FROM airflow_bp.lock_episodes('[2020-06-01, 2020-06-03)') LIMIT 2;
SELECT airflow_bp.lock_roll('2020-07-05 00:00:00+00') > 0 AS rolled, airflow_bp.lock_roll('2020-07-05 00:00:00+00');
SELECT * FROM test.sums;
SELECT resolution, count(*) FROM airflow_bp.lock_history GROUP BY 1 ORDER BY 1;
SELECT waiter_seconds, before_waiter_seconds, blocker_class, example FROM airflow_bp.lock_report('[2020-06-02, 2020-06-03)', '[2020-06-01, 2020-06-02)');
SELECT airflow_bp.lock_roll('2021-07-05 00:00:00+00') > 0 AS rolled;
SELECT count(*) FROM airflow_bp.lock_history;

-- Ranges.
SELECT count(*) FROM airflow_bp.lock_timeline('empty');
SELECT count(*) FROM airflow_bp.lock_episodes('empty');
SELECT count(*) FROM airflow_bp.lock_timeline('[2020-01-01, 2020-01-02)', '1 hour');
SELECT count(*) FROM airflow_bp.lock_timeline(NULL, '0 s');
SELECT count(*) FROM airflow_bp.lock_timeline('[2020-01-01, 2021-01-02)', '1 s');
SELECT count(*) FROM airflow_bp.lock_timeline('[-infinity, 2021-01-02)', '1 day');
SELECT count(*) FROM airflow_bp.lock_timeline(NULL, NULL);

-- Rules.
SELECT airflow_bp.set_lock_rule('night', '1 minute');
SELECT airflow_bp.set_lock_rule('night', '5 minutes', 'cancel', 'api-server', 'task_instance', 3, act => true);
TABLE airflow_bp.lock_rule;
SELECT airflow_bp.set_lock_rule(NULL, '1 minute');
SELECT airflow_bp.set_lock_rule('', '1 minute');
SELECT airflow_bp.set_lock_rule(repeat('x', 1025), '1 minute');
SELECT airflow_bp.set_lock_rule('x', NULL);
SELECT airflow_bp.set_lock_rule('x', '0.9 s');
SELECT airflow_bp.set_lock_rule('x', '31 days');
SELECT airflow_bp.set_lock_rule('x', '1 minute', 'kill');
SELECT airflow_bp.set_lock_rule('x', '1 minute', component => 'migration');
SELECT airflow_bp.set_lock_rule('x', '1 minute', relation => 'pg_class');
SELECT airflow_bp.set_lock_rule('x', '1 minute', waiters => -1);
SELECT airflow_bp.set_lock_rule($$'; DROP TABLE airflow_bp.lock_rule; --$$, '1 minute');
SELECT count(*) FROM airflow_bp.lock_rule;
SELECT * FROM airflow_bp.lock_rule_plan();
SELECT airflow_bp.lock_rule_apply();
SELECT airflow_bp.drop_lock_rule('night'), airflow_bp.drop_lock_rule($$'; DROP TABLE airflow_bp.lock_rule; --$$);
SELECT airflow_bp.drop_lock_rule('night');
SELECT airflow_bp.drop_lock_rule(NULL);
SELECT airflow_bp.end_session(pg_backend_pid(), now(), now(), true), airflow_bp.end_session(0, now(), now(), true), airflow_bp.end_session(-1, now(), now(), true);

-- The log is not collected here.
SELECT * FROM airflow_bp.deadlock_log();
SELECT * FROM airflow_bp.deadlock_log(0);

-- Hosts whose jobs are all of one kind.
INSERT INTO job (job_type, state, hostname) VALUES ('SchedulerJob', 'running', '10.0.0.1'), ('SchedulerJob', 'running', '10.0.0.1'),
	('SchedulerJob', 'running', '10.0.0.2'), ('TriggererJob', 'running', '10.0.0.2'), ('DagProcessorJob', 'running', '10.0.0.3'),
	('TriggererJob', 'failed', '10.0.0.3');
SELECT * FROM airflow_bp.lock_hosts() ORDER BY host;
-- Tables of Airflow that are not as they should be.
ALTER TABLE job DROP COLUMN hostname;
SELECT * FROM airflow_bp.lock_hosts();
DROP TABLE job;
SELECT * FROM airflow_bp.lock_hosts();
SELECT count(*) FROM airflow_bp.lock_tree();
DROP TABLE alembic_version;
SELECT count(*) FROM airflow_bp.lock_tree();
SELECT count(*) > 0 AS sessions FROM airflow_bp.sessions();
SELECT airflow_bp.lock_turn();
DROP VIEW test.sums;
DROP EXTENSION airflow_bp;
SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
DROP SCHEMA airflow CASCADE;
