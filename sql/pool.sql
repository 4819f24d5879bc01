-- Pools whose size follows the demand.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
CREATE VIEW test.plan AS SELECT * FROM airflow_bp.pool_plan();
CREATE VIEW test.pools AS SELECT pool, slots FROM slot_pool ORDER BY pool COLLATE "C";
CREATE VIEW test.acts AS SELECT action, old, new, undone_at IS NOT NULL AS undone FROM airflow_bp.act WHERE action = 'pool' ORDER BY act_id;
-- As if the last change and the first low look had been so long ago.
CREATE FUNCTION test.later(ago interval) RETURNS void LANGUAGE sql AS $$
	UPDATE airflow_bp.pool_policy SET changed_at = changed_at - ago, low_since = low_since - ago
$$;
\set ECHO all
INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES ('p', 4, '', false), ('d', 10, '', true),
	('endless', -1, '', false), ('x''); DROP TABLE slot_pool; --', 3, '', false), ('other', 7, '', false);

-- The rule: slots, least, most, step, occupied, demand, low for, changed for.
SELECT v.*, n.* FROM (VALUES
	(4, 2, 20, 8, 4, 4, NULL, NULL), (4, 2, 20, 8, 4, 9, NULL, NULL), (4, 2, 20, 8, 4, 30, NULL, NULL), (14, 2, 20, 8, 4, 30, NULL, NULL),
	(20, 2, 20, 8, 20, 30, NULL, NULL), (4, 2, 20, 8, 4, 9, NULL, '4 min'), (4, 2, 20, 8, 4, 9, NULL, '5 min'),
	(10, 2, 20, 8, 0, 6, '1 day', NULL), (10, 2, 20, 8, 0, 5, NULL, NULL), (10, 2, 20, 8, 0, 5, '9 min', NULL),
	(10, 2, 20, 8, 0, 5, '10 min', NULL), (10, 2, 20, 2, 0, 0, '1 day', NULL), (10, 7, 20, 8, 0, 0, '1 day', NULL),
	(10, 2, 20, 8, 0, 0, '1 day', '4 min'), (2, 2, 20, 8, 0, 0, '1 day', NULL), (1, 0, 20, 8, 0, 0, '1 day', NULL),
	(0, 0, 20, 8, 0, 0, '1 day', NULL), (1, 3, 20, 8, 0, 0, NULL, NULL), (30, 2, 20, 20, 0, 0, NULL, NULL),
	(30, 2, 20, 20, 25, 60, NULL, NULL), (30, 2, 20, 20, 40, 60, NULL, NULL), (30, 2, 20, 4, 0, 0, NULL, NULL),
	(10, 2, 20, 8, 0, NULL, '1 day', NULL), (2147483647, 0, 2147483647, 2147483647, 0, 0, '1 day', NULL),
	(0, 0, 2147483647, 2147483647, 0, 9223372036854775807, NULL, NULL))
	v (slots, least, most, step, occupied, demand, low_for, changed_for)
CROSS JOIN airflow_bp.pool_next(slots, least, most, step, occupied, demand, low_for::interval, changed_for::interval, '5 min') n;
-- Never out of bounds, never more than a step, never down below what is occupied or asked for, for any input.
SELECT setseed(0.20261124);
SELECT count(*), count(*) FILTER (WHERE n.proposed > slots) > 0 AS some_grow, count(*) FILTER (WHERE n.proposed < slots) > 0 AS some_shrink,
	bool_and(abs(n.proposed - slots) <= step
		AND (n.proposed <= slots OR n.proposed <= most AND n.proposed <= greatest(demand, least))
		AND (n.proposed >= slots OR n.proposed >= least AND n.proposed >= occupied AND (slots > most OR n.proposed >= demand))) AS holds
FROM (SELECT (random() * 30)::int AS slots, least, least + (random() * 20)::int AS most, 1 + (random() * 9)::int AS step, (random() * 20)::int AS occupied,
		(random() * 20)::int AS more, make_interval(mins => (random() * 20)::int) AS low_for, make_interval(mins => (random() * 10)::int) AS changed_for
	FROM (SELECT (random() * 10)::int AS least FROM generate_series(1, 20000)) l) r
CROSS JOIN LATERAL (SELECT occupied + more) d (demand)
CROSS JOIN LATERAL airflow_bp.pool_next(slots, least, most, step, occupied, demand, low_for, changed_for, '5 min') n;

-- Bad input.
SELECT airflow_bp.set_pool('nowhere', 1, 2);
SELECT airflow_bp.set_pool(NULL, 1, 2);
SELECT airflow_bp.set_pool('p', -1, 2);
SELECT airflow_bp.set_pool('p', NULL, 2);
SELECT airflow_bp.set_pool('p', 3, 2);
SELECT airflow_bp.set_pool('p', 3, NULL);
SELECT airflow_bp.set_pool('p', 1, 2, 0);
SELECT airflow_bp.set_pool('p', 1, 2, NULL);
SELECT airflow_bp.set_pool('p', 1, 2, 1, '0');
SELECT airflow_bp.set_pool('p', 1, 2, 1, '1000 years');
SELECT airflow_bp.set_pool('p', 1, 2, 1, NULL);
SELECT airflow_bp.drop_pool('p');
SELECT airflow_bp.drop_pool(NULL);
SELECT * FROM test.plan;

-- Occupied as Airflow counts, demand with what waits for a slot.
SELECT test.tasks('a1', 1, 2, 'p', 'running'), test.tasks('a1', 3, 3, 'p', 'queued'), test.tasks('a1', 4, 6, 'p', 'scheduled', 2),
	test.tasks('a1', 7, 8, 'p', 'deferred'), test.tasks('a1', 9, 9, 'p', 'up_for_retry'), test.tasks('a1', 10, 10, 'p'),
	test.tasks('a1', 11, 11, 'p', 'restarting'), test.tasks('a2', 1, 2, 'd', 'deferred', 3), test.tasks('a2', 3, 3, 'd', 'running');
SELECT airflow_bp.set_pool('p', 2, 20, 4), airflow_bp.set_pool('d', 1, 20), airflow_bp.set_pool('endless', 1, 20, act => true);
-- By SQL, before anything is enabled.
SELECT * FROM test.plan;
SELECT airflow_bp.pool_apply();
-- Held tasks wait for a slot too.  Memory and tables say the same.
SELECT test.enforce(5);
SELECT airflow_bp.tick();
SELECT test.ask('a1', 10);
SELECT pool, occupied, demand, proposed, reason, allowed FROM test.plan WHERE pool IN ('d', 'p');
SELECT slots_held FROM airflow_bp.queue_from_memory('pool', '{}') WHERE scope_name = 'p'
UNION ALL SELECT slots_held FROM airflow_bp.queue_from_tables('pool', '{}') WHERE scope_name = 'p';

-- Only what is allowed is written, nothing in mode off; hostile names are names.
SELECT airflow_bp.set_mode('off');
SELECT airflow_bp.set_pool('x''); DROP TABLE slot_pool; --', 5, 2147483647, 2147483647, act => true);
SELECT airflow_bp.pool_apply();
SELECT pool, reason, allowed FROM test.plan;
SELECT airflow_bp.set_mode('observe');
SELECT airflow_bp.pool_apply(), airflow_bp.pool_apply();
SELECT pool, reason, allowed FROM test.plan;
TABLE test.pools;
TABLE test.acts;
SELECT airflow_bp.drop_pool('x''); DROP TABLE slot_pool; --'), airflow_bp.drop_pool('endless');
TABLE test.pools;

-- A step at a time, once in a period, up to the demand.
SELECT airflow_bp.set_pool('p', 2, 20, 4, act => true);
SELECT airflow_bp.pool_apply();
SELECT slots, owner_slots, proposed, reason, allowed FROM test.plan WHERE pool = 'p';
SELECT airflow_bp.pool_apply();
SELECT test.later('5 min'), airflow_bp.pool_apply();
SELECT slots, owner_slots, proposed, reason, allowed FROM test.plan WHERE pool = 'p';

-- Down when the demand was low for two periods, at each look.
UPDATE task_instance SET state = 'success' WHERE pool = 'p';
SELECT airflow_bp.pool_apply();
SELECT slots, demand, proposed, reason FROM test.plan WHERE pool = 'p';
SELECT test.later('9 min'), airflow_bp.pool_apply();
SELECT slots, demand, proposed, reason FROM test.plan WHERE pool = 'p';
SELECT test.tasks('b1', 1, 9, 'p', 'running');
SELECT airflow_bp.pool_apply();
UPDATE task_instance SET state = 'success' WHERE pool = 'p';
SELECT test.later('9 min'), airflow_bp.pool_apply();
SELECT slots, demand, proposed, reason FROM test.plan WHERE pool = 'p';
-- Nobody looked for long: what was between is not known.
SELECT test.later('10 min');
UPDATE airflow_bp.pool_policy SET low_seen = low_seen - interval '7 min';
SELECT airflow_bp.pool_apply();
SELECT slots, demand, proposed, reason FROM test.plan WHERE pool = 'p';
SELECT test.later('10 min');
SELECT slots, demand, proposed, reason FROM test.plan WHERE pool = 'p';
SELECT airflow_bp.pool_apply();
SELECT slots, demand, proposed, reason FROM test.plan WHERE pool = 'p';

-- Undone: the policy leaves the pool alone until it is set again.
SELECT airflow_bp.undo((SELECT min(act_id) FROM airflow_bp.act WHERE action = 'pool' AND new ->> 'pool' = 'p'));
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'pool' AND new ->> 'pool' = 'p'));
SELECT airflow_bp.undo((SELECT max(act_id) FROM airflow_bp.act WHERE action = 'pool' AND undone_at IS NOT NULL));
TABLE test.acts;
SELECT test.later('1 h'), airflow_bp.pool_apply();
SELECT slots, owner_slots, proposed, reason, allowed FROM test.plan WHERE pool = 'p';
SELECT airflow_bp.set_pool('p', 2, 20, 4, act => true);
SELECT slots, owner_slots, proposed, reason, allowed FROM test.plan WHERE pool = 'p';

-- By hand: the owner is right.
SELECT test.tasks('b2', 1, 15, 'p', 'scheduled');
SELECT airflow_bp.pool_apply();
UPDATE slot_pool SET slots = 6 WHERE pool = 'p';
SELECT test.later('1 h'), airflow_bp.pool_apply();
SELECT slots, owner_slots, proposed, reason, allowed FROM test.plan WHERE pool = 'p';
SELECT airflow_bp.drop_pool('p');
TABLE test.pools;
-- What we changed goes back with the policy, if it shall.
SELECT airflow_bp.set_pool('p', 2, 20, act => true);
SELECT airflow_bp.pool_apply();
SELECT slots FROM test.pools WHERE pool = 'p';
SELECT airflow_bp.set_pool('p', 2, 20, act => true);
SELECT airflow_bp.drop_pool('p');
SELECT slots FROM test.pools WHERE pool = 'p';
SELECT airflow_bp.set_pool('p', 2, 20, act => true);
SELECT airflow_bp.pool_apply();
SELECT airflow_bp.drop_pool('p', restore => false);
SELECT slots FROM test.pools WHERE pool = 'p';

-- A turn does it, at its end.
UPDATE slot_pool SET slots = 6 WHERE pool = 'p';
SELECT airflow_bp.set_pool('p', 2, 20, act => true);
SELECT airflow_bp.tick();
SELECT slots FROM test.pools WHERE pool = 'p';
-- A pool that is not there any more.
DELETE FROM slot_pool WHERE pool = 'p';
SELECT * FROM test.plan WHERE pool = 'p';
SELECT airflow_bp.pool_apply();
SELECT airflow_bp.drop_pool('p');

-- Code of the owner of slot_pool runs with his rights, and what fails is said and tried again in a period.
CREATE ROLE regress_airflow;
GRANT USAGE ON SCHEMA airflow TO regress_airflow;
ALTER TABLE slot_pool OWNER TO regress_airflow;
CREATE FUNCTION test.spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% changes % to %', current_user, old.pool, new.slots;
	IF new.slots = 9 THEN
		RAISE EXCEPTION 'not nine';
	END IF;
	RETURN new;
END
$$;
GRANT USAGE ON SCHEMA test TO regress_airflow;
CREATE TRIGGER spy BEFORE UPDATE ON slot_pool FOR EACH ROW EXECUTE FUNCTION test.spy();
SELECT airflow_bp.set_pool('other', 9, 20, act => true), airflow_bp.set_pool('d', 12, 20, act => true);
-- One at a time; one that fails is not in the way.
SELECT airflow_bp.pool_apply();
SELECT airflow_bp.pool_apply();
SELECT pool, slots, owner_slots, proposed, reason, allowed FROM test.plan;
SELECT current_user = session_user AS restored, airflow_bp.pool_apply();
SELECT test.later('1 h');
SELECT pool, slots, proposed, reason, allowed FROM test.plan;
DROP TRIGGER spy ON slot_pool;
REVOKE UPDATE ON slot_pool FROM regress_airflow;
SELECT airflow_bp.pool_apply();
SELECT pool, slots, proposed, reason, allowed FROM test.plan;
GRANT UPDATE ON slot_pool TO regress_airflow;
SELECT test.later('1 h'), airflow_bp.pool_apply();
SELECT pool, slots, proposed, reason, allowed FROM test.plan;

-- Columns that are gone.
ALTER TABLE slot_pool DROP COLUMN include_deferred;
SELECT pool, slots, occupied, demand, reason FROM test.plan;
ALTER TABLE slot_pool DROP COLUMN slots CASCADE;
SELECT pool, slots, occupied, demand, proposed, reason, allowed FROM test.plan;
SELECT airflow_bp.pool_apply();
SELECT airflow_bp.drop_pool('d');

-- Rights.
CREATE ROLE regress_reader;
CREATE ROLE regress_operator;
SELECT airflow_bp.grant_reader('regress_reader'), airflow_bp.grant_operator('regress_operator');
SET ROLE regress_reader;
SELECT count(*) FROM airflow_bp.pool_plan();
SELECT airflow_bp.pool_apply();
SELECT airflow_bp.set_pool('other', 1, 2);
SELECT airflow_bp.write_as_owner(0::regclass, 'SELECT 1');
SET ROLE regress_operator;
SELECT airflow_bp.set_pool('other', 1, 2), airflow_bp.pool_apply();
UPDATE airflow_bp.pool_policy SET act = true;
SELECT airflow_bp.write_as_owner(0::regclass, 'SELECT 1');
RESET ROLE;
SELECT airflow_bp.write_as_owner(0::regclass, 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT airflow_bp.write_as_owner('slot_pool', 'COMMIT');

\set ECHO none
SET client_min_messages = warning;
SELECT airflow_bp.disable() \g /dev/null
DROP EXTENSION airflow_bp CASCADE;
DROP SCHEMA test CASCADE;
DROP SCHEMA airflow CASCADE;
DROP OWNED BY regress_airflow, regress_reader, regress_operator;
DROP ROLE regress_airflow, regress_reader, regress_operator;
