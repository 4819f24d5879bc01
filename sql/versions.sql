-- The same gate on the schema of each Airflow version.  Each in a schema of its own; the setting says which is meant.
\getenv top PG_ABS_SRCDIR
\set tasks :top '/test/fixtures/tasks.sql'
\set v306 :top '/test/fixtures/airflow_3_0_6.sql'
\set v318 :top '/test/fixtures/airflow_3_1_8.sql'
\set v322 :top '/test/fixtures/airflow_3_2_2.sql'
\set v332 :top '/test/fixtures/airflow_3_3_2.sql'
\set ECHO none
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
-- One turn of the story, on the schema that is current.
CREATE FUNCTION test.story() RETURNS TABLE (step text, outcome text)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('airflow_bp.airflow_schema', current_schema(), false);
	RETURN QUERY SELECT 'head', s.airflow_version || CASE WHEN s.head_known THEN ' known' ELSE '' END FROM airflow_bp.status() s;
	PERFORM test.tasks('a1', 1, 3);
	PERFORM test.enforce(1);
	RETURN QUERY SELECT 'enabled', string_agg(t.tgname, ' ' ORDER BY t.tgname) FROM pg_trigger t
		WHERE t.tgname LIKE 'zz_airflow_bp%' AND t.tgrelid::regclass::text IN ('task_instance', 'dag_run');
END
$$;
CREATE FUNCTION test.ends() RETURNS TABLE (step text, outcome text)
LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT 'held', string_agg(format('%s %s', h.task_id, h.reason), ', ') FROM airflow_bp.held() h;
	RETURN QUERY SELECT 'usage', format('%s of %s', t.usage, t.nominal) FROM airflow_bp.tenants() t WHERE t.name = 'a';
	RETURN QUERY SELECT 'waiting', format('%s tasks', sum(s.tasks)) FROM airflow_bp.waiting_summary() s;
	RETURN QUERY SELECT 'queue', format('%s waiting, %s held', q.waiting, q.held) FROM airflow_bp.queue('deployment') q;
END
$$;
\set ECHO all

SET search_path = "3.0.6";
SELECT * FROM test.story();
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
SELECT * FROM test.ends();
SELECT test.set_state('a1', 1, 'success');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 2), test.ask('a1', 3);
SELECT test.drift();
SELECT airflow_bp.disable();
SELECT test.ask('a1', 3);

SET search_path = "3.1.8";
SELECT * FROM test.story();
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
SELECT * FROM test.ends();
SELECT test.set_state('a1', 1, 'success');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 2), test.ask('a1', 3);
SELECT test.drift();
SELECT airflow_bp.disable();
SELECT test.ask('a1', 3);

SET search_path = "3.2.2";
SELECT * FROM test.story();
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
SELECT * FROM test.ends();
SELECT test.set_state('a1', 1, 'success');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 2), test.ask('a1', 3);
SELECT test.drift();
SELECT airflow_bp.disable();
SELECT test.ask('a1', 3);

SET search_path = "3.3.2";
SELECT * FROM test.story();
SELECT airflow_bp.tick(), airflow_bp.tick();
SELECT test.ask('a1', 1), test.ask('a1', 2);
SELECT * FROM test.ends();
SELECT test.set_state('a1', 1, 'success');
SELECT airflow_bp.tick();
SELECT test.ask('a1', 2), test.ask('a1', 3);
SELECT test.drift();
SELECT airflow_bp.disable();
SELECT test.ask('a1', 3);

\set ECHO none
SET client_min_messages = warning;
DROP EXTENSION airflow_bp;
DROP SCHEMA "3.0.6", "3.1.8", "3.2.2", "3.3.2", airflow_bp, test CASCADE;
