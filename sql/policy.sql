-- Tenants, cohorts, rules, and what is refused.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
\set ECHO all

-- Tenants: made, replaced, dropped.
SELECT airflow_bp.set_tenant('analytics', 10);
SELECT airflow_bp.set_tenant('ml', 4, weight => 2.5, queueing => 'best_effort', count_deferred => true, mode => 'observe');
SELECT airflow_bp.set_tenant('free', NULL);
SELECT airflow_bp.set_tenant('closed', 0);
SELECT airflow_bp.set_tenant('analytics', 2147483647, count_deferred => NULL);
SELECT * FROM airflow_bp.tenant ORDER BY name COLLATE "C";
SELECT name, nominal, cohort, weight, usage, held FROM airflow_bp.tenants();

-- Refused: numbers, names, choices; nothing changes.
SELECT airflow_bp.set_tenant('analytics', -1);
SELECT airflow_bp.set_tenant('analytics', 2147483648);
SELECT airflow_bp.set_tenant('analytics', 1, weight => -1);
SELECT airflow_bp.set_tenant('analytics', 1, weight => 'NaN');
SELECT airflow_bp.set_tenant('analytics', 1, weight => 'infinity');
SELECT airflow_bp.set_tenant('analytics', 1, weight => 2147483648);
SELECT airflow_bp.set_tenant('analytics', 1, weight => 0.9e-9);
SELECT airflow_bp.set_tenant('analytics', 1, weight => NULL);
SELECT airflow_bp.set_tenant('', 1);
SELECT airflow_bp.set_tenant(NULL, 1);
SELECT airflow_bp.set_tenant(repeat('x', 64), 1);
SELECT airflow_bp.set_tenant(repeat('ü', 32), 1);
SELECT airflow_bp.set_tenant('analytics', 1, queueing => 'fifo');
SELECT airflow_bp.set_tenant('analytics', 1, queueing => NULL);
SELECT airflow_bp.set_tenant('analytics', 1, mode => 'hard');
SELECT airflow_bp.set_tenant('analytics', 1, 'O''Neil');
SELECT airflow_bp.set_tenant('analytics', 1, '');
SELECT airflow_bp.set_tenant('analytics', 1, borrowing_limit => 1);
SELECT airflow_bp.set_tenant('analytics', 1, lending_limit => 0);
SELECT airflow_bp.set_tenant('analytics', 1, borrowing_limit => -1);
SELECT airflow_bp.set_tenant('analytics', 1, lending_limit => -1);
SELECT nominal FROM airflow_bp.tenant WHERE name = 'analytics';

-- Cohorts: made, replaced, nested; tenants come and go.
SELECT airflow_bp.set_cohort('org');
SELECT airflow_bp.set_cohort('eu', 'org', 5, 10, 2, 0.5);
SELECT airflow_bp.set_cohort('us', 'org', weight => 0);
SELECT airflow_bp.set_cohort('us', 'org', 2147483647, 2147483647, 0, 2147483647);
SELECT airflow_bp.set_cohort('paris', 'eu', 1, 2, 3, 1e-9);
SELECT * FROM airflow_bp.cohort ORDER BY name COLLATE "C";
SELECT airflow_bp.set_cohort('paris', 'us');
SELECT airflow_bp.set_cohort('eu');
SELECT airflow_bp.set_tenant('ml', 4, 'paris', 3, 2, 2.5, 'best_effort', true, 'observe');
SELECT airflow_bp.set_tenant('closed', 0, 'paris', 0, 0);
SELECT airflow_bp.set_tenant('default', 5, 'us');
SELECT * FROM airflow_bp.cohort ORDER BY name COLLATE "C";
SELECT name, nominal, cohort, borrowing_limit, lending_limit, weight, queueing, count_deferred, mode FROM airflow_bp.tenant ORDER BY name COLLATE "C";
SELECT airflow_bp.set_tenant('closed', 0, 'eu');
SELECT name, cohort, borrowing_limit, lending_limit, weight FROM airflow_bp.tenants() WHERE cohort IS NOT NULL;

-- Refused: nothing changes.
CREATE TABLE test.before AS SELECT to_json(c)::text AS row FROM airflow_bp.cohort c UNION ALL SELECT to_json(t)::text FROM airflow_bp.tenant t;
SELECT airflow_bp.set_cohort('');
SELECT airflow_bp.set_cohort(NULL);
SELECT airflow_bp.set_cohort(repeat('x', 64));
SELECT airflow_bp.set_cohort(repeat('ü', 32));
SELECT airflow_bp.set_cohort('new', nominal => -1);
SELECT airflow_bp.set_cohort('new', nominal => NULL);
SELECT airflow_bp.set_cohort('new', 'org', borrowing_limit => -1);
SELECT airflow_bp.set_cohort('new', 'org', lending_limit => -1);
SELECT airflow_bp.set_cohort('new', borrowing_limit => 0);
SELECT airflow_bp.set_cohort('new', lending_limit => 1);
SELECT airflow_bp.set_cohort('new', weight => '-infinity');
SELECT airflow_bp.set_cohort('new', weight => 'NaN');
SELECT airflow_bp.set_cohort('new', weight => 1e300);
SELECT airflow_bp.set_cohort('new', weight => 1e-300);
SELECT airflow_bp.set_cohort('new', weight => NULL);
SELECT airflow_bp.set_cohort('new', 'absent');
SELECT airflow_bp.set_cohort('new', '');
SELECT airflow_bp.set_tenant('ml', NULL, 'eu');
-- One name, one thing.
SELECT airflow_bp.set_tenant('org', 1);
SELECT airflow_bp.set_cohort('ml');
-- Cycles, also of one.
SELECT airflow_bp.set_cohort('new', 'new');
SELECT airflow_bp.set_cohort('org', 'org');
SELECT airflow_bp.set_cohort('org', 'us');
SELECT airflow_bp.set_cohort('org', 'paris');
-- In use.
SELECT airflow_bp.drop_cohort('us');
SELECT airflow_bp.drop_cohort('eu');
SELECT airflow_bp.drop_cohort('org');
SELECT airflow_bp.drop_cohort('absent');
SELECT airflow_bp.drop_cohort(NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT airflow_bp.set_cohort('new');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT airflow_bp.set_tenant('new', 1);
ROLLBACK;
\set VERBOSITY sqlstate
SELECT airflow_bp.set_cohort('');
SELECT airflow_bp.set_cohort('new', 'absent');
SELECT airflow_bp.set_tenant('ml', 1, 'absent');
SELECT airflow_bp.drop_cohort('absent');
SELECT airflow_bp.set_cohort('new', nominal => -1);
SELECT airflow_bp.set_cohort('new', nominal => NULL);
SELECT airflow_bp.set_cohort('new', lending_limit => 1);
SELECT airflow_bp.set_cohort('new', weight => 'NaN');
SELECT airflow_bp.set_tenant('ml', 1, lending_limit => 1);
SELECT airflow_bp.set_tenant('ml', NULL, 'eu');
SELECT airflow_bp.set_tenant('org', 1);
SELECT airflow_bp.set_cohort('ml');
SELECT airflow_bp.drop_cohort('org');
SELECT airflow_bp.set_cohort('org', 'us');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT airflow_bp.drop_cohort('org');
ROLLBACK;
\set VERBOSITY default
SELECT count(*) AS before, count(*) FILTER (WHERE row IN (SELECT to_json(c)::text FROM airflow_bp.cohort c UNION ALL SELECT to_json(t)::text FROM airflow_bp.tenant t)) AS kept,
	(SELECT count(*) FROM airflow_bp.cohort) + (SELECT count(*) FROM airflow_bp.tenant) AS after FROM test.before;

-- At most 32 deep, by adding below or above.
SELECT count(airflow_bp.set_cohort('deep ' || i, CASE WHEN i > 1 THEN 'deep ' || i - 1 END)) FROM generate_series(1, 32) i;
SELECT airflow_bp.set_cohort('deep 33', 'deep 32');
SELECT airflow_bp.set_cohort('deep 1', 'org');
\set VERBOSITY sqlstate
SELECT airflow_bp.set_cohort('deep 1', 'org');
\set VERBOSITY default
SELECT airflow_bp.set_cohort('deep 33', 'deep 31');
SELECT airflow_bp.set_cohort('deep 32', 'deep 33');
SELECT airflow_bp.set_cohort('deep 3', 'deep 1');
SELECT airflow_bp.set_cohort('deep 1', 'org');
SELECT airflow_bp.set_cohort('deep 1', 'deep 32');
-- A cycle made by hand is no trap, and is mended by hand or by function.
UPDATE airflow_bp.cohort SET parent = 'deep 5' WHERE name = 'deep 3';
SELECT airflow_bp.set_cohort('new', 'deep 32');
SELECT airflow_bp.set_cohort('deep 4', 'org');
SELECT airflow_bp.set_cohort('new', 'deep 32');
DELETE FROM airflow_bp.cohort WHERE name LIKE 'deep %' OR name = 'new';

-- Dropped from the leaves up.
SELECT airflow_bp.set_tenant('ml', 4, weight => 2.5, queueing => 'best_effort', count_deferred => true, mode => 'observe');
SELECT airflow_bp.set_tenant('closed', 0);
SELECT airflow_bp.drop_tenant('default');
-- There is always a tenant default, also without a row.
SELECT airflow_bp.set_cohort('default');
SELECT airflow_bp.drop_cohort(n) FROM unnest('{paris,us,eu,org}'::text[]) WITH ORDINALITY u (n, i) ORDER BY i;
SELECT name, cohort, borrowing_limit, lending_limit FROM airflow_bp.tenant ORDER BY name COLLATE "C";
SELECT count(*) FROM airflow_bp.cohort;

-- Names may hold anything.
SELECT airflow_bp.set_tenant(n, 1) FROM unnest(ARRAY['O''Brien', '"quoted"', '100%s', E'line\nbreak', 'Ünïcödé ☃', 'back\slash', ' ', '$$; DROP TABLE tenant', '--']) n;
SELECT airflow_bp.add_tenant_rule(name, 'dag_id', name) IS NOT NULL FROM airflow_bp.tenant WHERE nominal = 1 ORDER BY name COLLATE "C";
SELECT to_json(name) AS name, airflow_bp.tenant_of(name) = name AS found FROM airflow_bp.tenant WHERE nominal = 1 ORDER BY name COLLATE "C";
DELETE FROM airflow_bp.tenant_rule;
SELECT airflow_bp.drop_tenant(name) FROM airflow_bp.tenant WHERE nominal = 1;
SELECT airflow_bp.set_tenant(repeat('x', 63), 1);
SELECT airflow_bp.drop_tenant(repeat('x', 63));
SELECT airflow_bp.set_cohort(n) FROM unnest(ARRAY['O''Brien', '"quoted"', '100%s', E'line\nbreak', 'Ünïcödé ☃', 'back\slash', ' ', '$$; DROP TABLE cohort', '--']) n;
SELECT airflow_bp.set_cohort('in ' || name, name), airflow_bp.set_tenant('of ' || name, 1, name) FROM airflow_bp.cohort WHERE parent IS NULL ORDER BY name COLLATE "C";
SELECT to_json(c.name) AS cohort, to_json(i.name) AS child, to_json(t.name) AS tenant FROM airflow_bp.cohort c
	JOIN airflow_bp.cohort i ON i.parent = c.name JOIN airflow_bp.tenant t ON t.cohort = c.name ORDER BY c.name COLLATE "C";
SELECT airflow_bp.drop_cohort('O''Brien');
SELECT airflow_bp.drop_cohort('back\slash');
SELECT airflow_bp.set_cohort(E'line\nbreak', E'in line\nbreak');
SELECT airflow_bp.drop_tenant(name) FROM airflow_bp.tenant WHERE nominal = 1;
SELECT airflow_bp.drop_cohort(name) FROM airflow_bp.cohort ORDER BY parent NULLS LAST;
SELECT airflow_bp.set_cohort(repeat('x', 63)), airflow_bp.set_cohort(repeat('ü', 31));
SELECT airflow_bp.drop_cohort(repeat('x', 63)), airflow_bp.drop_cohort(repeat('ü', 31));

-- Rules in their places; the first match by place wins.
SELECT airflow_bp.add_tenant_rule('analytics', 'dag_id', 'sales_*');
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '~^(train|score)_[0-9]+$');
SELECT airflow_bp.add_tenant_rule('free', 'pool', 'free_pool', 5);
SELECT airflow_bp.add_tenant_rule('closed', 'queue', 'g?u', 7);
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '*');
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', 'x', 5);
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', 'x', 2147483647);
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', 'x');
SELECT airflow_bp.drop_tenant_rule(2147483647);
SELECT place, tenant, match_on, pattern, exact FROM airflow_bp.tenant_rule ORDER BY place;
SELECT d, p, q, airflow_bp.tenant_of(d, p, q) FROM (VALUES ('sales_eu', NULL, NULL), ('sales_eu', 'free_pool', 'gpu'), ('sales_eu', 'other', 'gpu'),
	('sales_eu', 'other', 'gppu'), ('train_1', NULL, NULL), ('train_x', NULL, NULL), ('presales_', NULL, NULL), ('', NULL, NULL), (NULL, NULL, NULL)) v (d, p, q);
SELECT airflow_bp.drop_tenant_rule(30);
SELECT airflow_bp.tenant_of('train_x');
SELECT airflow_bp.drop_tenant_rule(30);
SELECT airflow_bp.drop_tenant_rule(NULL);

-- Refused rules.
SELECT airflow_bp.add_tenant_rule('nobody', 'dag_id', '*');
SELECT airflow_bp.add_tenant_rule(NULL, 'dag_id', '*');
SELECT airflow_bp.add_tenant_rule('ml', 'task_id', '*');
SELECT airflow_bp.add_tenant_rule('ml', NULL, '*');
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '');
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', NULL);
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '~(');
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '~[z-a]');
\set VERBOSITY sqlstate
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', repeat('x', 1001));
\set VERBOSITY default
-- What could take for ever to match, or to compile.
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '~^(.+)\1(.+)\2$');
SELECT airflow_bp.add_tenant_rule('ml', 'dag_id', '~(((x{1,200}){1,200}){1,200}){1,200}');
SELECT count(*) FROM airflow_bp.tenant_rule;

-- A tenant in use.
SELECT airflow_bp.drop_tenant('analytics');
SELECT airflow_bp.drop_tenant('nobody');
SELECT airflow_bp.drop_tenant(NULL);
DELETE FROM airflow_bp.tenant WHERE name = 'analytics';

-- Globs: only * and ? mean something, all else means itself.
SELECT g, v, v ~ airflow_bp.pattern_regexp(g) AS matches FROM (VALUES ('a.b', 'a.b'), ('a.b', 'axb'), ('a*', 'a'), ('a*', 'ba'), ('?', ''), ('?', 'ü'), ('??', 'ü'),
	('a+b|c', 'a+b|c'), ('a+b|c', 'aab'), ('[ab]', 'a'), ('[ab]*', '[ab]x'), ('(x)', '(x)'), ('^x$', '^x$'), ('^x$', 'x'), ('a\*', 'a\b'), ('a\*', 'a*'),
	('\d', '\d'), ('\d', '1'), ('100%', '100%'), ('O''B*', 'O''Brien'), ('***:x*', '***:xy'), ('(?i)x*', '(?i)xy'), ('*', E'two\nlines'), ('x*', E'y\nx'), ('Ü_*', 'Ü_☃'), ('~^a', 'ab'), ('~b', 'ab')) x (g, v);

-- Tags, owners (a list), teams; dag_ids of 250 characters, and hostile ones.
INSERT INTO dag_bundle (name, active) VALUES ('bundle_a', true), ('bundle_b', true);
INSERT INTO team (name) VALUES ('Team A');
INSERT INTO dag_bundle_team (dag_bundle_name, team_name) VALUES ('bundle_a', 'Team A');
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, owners, max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits, max_active_runs, timetable_type, partition_mapper_info)
SELECT d, false, false, b, o, 16, 0, false, 16, '', '{}'
FROM (VALUES ('plain', 'bundle_b', 'airflow'), ('owned', 'bundle_b', 'airflow, Ann O''Hara ,bob'), ('teamed', 'bundle_a', 'airflow'), ('tagged', 'bundle_b', NULL),
	(repeat('n', 250), 'bundle_b', 'airflow'), (E'hostile''"%s\\\n☃*?', 'bundle_b', 'airflow')) v (d, b, o);
INSERT INTO dag_tag (dag_id, name) VALUES ('tagged', 'nightly'), ('tagged', 'cost:low');
DELETE FROM airflow_bp.tenant_rule;
SELECT airflow_bp.add_tenant_rule('analytics', 'owner', 'Ann O''Hara'), airflow_bp.add_tenant_rule('ml', 'team', 'Team *'),
	airflow_bp.add_tenant_rule('free', 'tag', 'cost:*'), airflow_bp.add_tenant_rule('closed', 'dag_id', E'hostile''"%s\\\n☃*?'),
	airflow_bp.add_tenant_rule('closed', 'dag_id', '~^n{250}$');
SELECT left(dag_id, 10) AS dag, airflow_bp.tenant_of(dag_id) FROM dag ORDER BY dag_id COLLATE "C";
SELECT * FROM airflow_bp.match_tenants(ARRAY['plain', 'owned', 'teamed', 'nobody', 'tagged'], array_fill(NULL::text, '{5}'), array_fill(NULL::text, '{5}')) ORDER BY n;
SELECT * FROM airflow_bp.match_tenants('{}', '{}', '{}');

-- In force: the compiled policy follows the tables when it is committed, not before.
SELECT airflow_bp.enable('enforce');
SELECT airflow_bp.tick();
SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
BEGIN;
SELECT airflow_bp.set_tenant('free', 7);
SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
COMMIT;
SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
SELECT airflow_bp.tick(), airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
BEGIN;
DELETE FROM airflow_bp.tenant_rule;
ROLLBACK;
SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
SELECT name, nominal, usage, available FROM airflow_bp.tenant_usage() ORDER BY name COLLATE "C";
-- What is not committed is not put in force.
SELECT airflow_bp.set_tenant('free', 8);
BEGIN;
SELECT airflow_bp.set_tenant('free', 9);
SELECT airflow_bp.tick();
ROLLBACK;
SELECT nominal FROM airflow_bp.tenant_usage() WHERE name = 'free';
SELECT airflow_bp.tick();
SELECT nominal FROM airflow_bp.tenant_usage() WHERE name = 'free';
BEGIN;
SELECT airflow_bp.set_tenant('free', 10);
PREPARE TRANSACTION 'policy';
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT nominal FROM airflow_bp.tenant_usage() WHERE name = 'free';
COMMIT PREPARED 'policy';
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT nominal FROM airflow_bp.tenant_usage() WHERE name = 'free';
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT airflow_bp.tick();
ROLLBACK;
-- So do cohorts.
SELECT airflow_bp.set_cohort('org');
SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
SELECT airflow_bp.tick(), airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;
SELECT airflow_bp.drop_cohort('org');
SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted() AS in_force;

-- Edits by hand meet the constraints.
\set VERBOSITY terse
INSERT INTO airflow_bp.tenant (name, nominal) VALUES ('h', -1);
INSERT INTO airflow_bp.tenant (name) VALUES ('');
INSERT INTO airflow_bp.tenant (name, queueing) VALUES ('h', 'fifo');
INSERT INTO airflow_bp.tenant (name, mode) VALUES ('h', 'unknown');
INSERT INTO airflow_bp.tenant (name, weight) VALUES ('h', 'NaN');
INSERT INTO airflow_bp.tenant (name, nominal, cohort) VALUES ('h', 1, 'absent');
INSERT INTO airflow_bp.tenant (name, weight) VALUES ('h', 1e-10);
INSERT INTO airflow_bp.tenant (name, nominal, borrowing_limit) VALUES ('h', 1, 1);
INSERT INTO airflow_bp.tenant (name, nominal, lending_limit) VALUES ('h', 1, 1);
INSERT INTO airflow_bp.cohort (name, nominal) VALUES ('h', -1);
INSERT INTO airflow_bp.cohort (name, weight) VALUES ('h', 'NaN');
INSERT INTO airflow_bp.cohort (name, weight) VALUES ('h', 2147483648);
INSERT INTO airflow_bp.cohort (name, parent) VALUES ('h', 'h');
INSERT INTO airflow_bp.cohort (name, borrowing_limit) VALUES ('h', 1);
INSERT INTO airflow_bp.cohort (name, parent, lending_limit) VALUES ('h', 'g', -1);
INSERT INTO airflow_bp.cohort (name) VALUES ('default');
INSERT INTO airflow_bp.cohort (name) VALUES ('used');
INSERT INTO airflow_bp.tenant (name, cohort) VALUES ('h', 'used');
INSERT INTO airflow_bp.tenant (name, cohort, nominal) VALUES ('h', 'used', 1);
UPDATE airflow_bp.tenant SET nominal = NULL WHERE name = 'h';
UPDATE airflow_bp.cohort SET name = 'renamed' WHERE name = 'used';
DELETE FROM airflow_bp.cohort WHERE name = 'used';
DELETE FROM airflow_bp.tenant WHERE name = 'h';
DELETE FROM airflow_bp.cohort WHERE name = 'used';
INSERT INTO airflow_bp.tenant_rule VALUES (1, 'absent', 'dag_id', '*');
INSERT INTO airflow_bp.tenant_rule VALUES (1, 'ml', 'task_id', '*');
INSERT INTO airflow_bp.tenant_rule VALUES (1, 'ml', 'dag_id', '~(');
INSERT INTO airflow_bp.tenant_rule VALUES (10, 'ml', 'dag_id', '*');
INSERT INTO airflow_bp.deployment (singleton, mode) VALUES (false, 'off');
INSERT INTO airflow_bp.deployment (mode) VALUES ('off');
UPDATE airflow_bp.deployment SET mode = 'on';
INSERT INTO airflow_bp.tenant (name, nominal) VALUES ('by hand', 3);
UPDATE airflow_bp.tenant SET name = 'renamed' WHERE name = 'ml';
SELECT airflow_bp.tick();
SELECT name, nominal, usage FROM airflow_bp.tenant_usage() ORDER BY name COLLATE "C";
SELECT tenant FROM airflow_bp.tenant_rule WHERE match_on = 'team';

\set ECHO none
SET client_min_messages = warning;
DROP EXTENSION airflow_bp;
DROP SCHEMA airflow, airflow_bp, test CASCADE;
