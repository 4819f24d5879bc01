-- Switching on and off, status, rights, undo, pg_cron.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
\set ECHO all

-- Before enable(): what is known, and what to do.
SELECT extension_version, mode, airflow_version, head_known, preloaded FROM airflow_bp.status();
SELECT note ~ 'not enabled: call airflow_bp.enable\(\)' AS says_so FROM airflow_bp.status();
SELECT * FROM airflow_bp.recount();
SELECT airflow_bp.set_mode('enforce');
SELECT airflow_bp.enable('fast');
SELECT airflow_bp.enable(NULL);
SELECT airflow_bp.gate_table();

-- On: four triggers that a plain DROP EXTENSION takes along, observe by default, again changes nothing.
SELECT airflow_bp.enable();
SELECT tgname, tgrelid::regclass, (SELECT count(*) FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'x') AS goes_with_extension
FROM pg_trigger t WHERE tgname LIKE 'zz_airflow_bp%' ORDER BY 1;
SELECT airflow_bp.enable();
SELECT count(*) FROM pg_trigger t WHERE tgname LIKE 'zz_airflow_bp%';
SELECT airflow_bp.tick();
SELECT mode, drift_slots, held FROM airflow_bp.status();
SELECT mode, may_enforce, ready FROM airflow_bp.memory_state();
SELECT note LIKE '%not enabled%' AS asks_for_enable, note LIKE '%not ready%' AS asks_for_patience FROM airflow_bp.status();

-- Modes, and acts that can be undone once, while nothing has changed since.
SELECT airflow_bp.set_mode('enforce');
SELECT airflow_bp.set_mode('faster');
SELECT airflow_bp.set_mode(NULL);
SELECT airflow_bp.tick();
SELECT mode FROM airflow_bp.memory_state();
SELECT act_id, action, old, new, undone_at IS NOT NULL AS undone FROM airflow_bp.act ORDER BY act_id;
SELECT airflow_bp.undo(2);
SELECT airflow_bp.undo(2);
SELECT airflow_bp.undo(1);
SELECT airflow_bp.undo(999);
SELECT airflow_bp.undo(NULL);
SELECT mode FROM airflow_bp.status();
SELECT act_id, action, old, new, undone_at IS NOT NULL AS undone FROM airflow_bp.act ORDER BY act_id;

-- An unknown head: enforcement is refused, and pauses where it was on.
SELECT airflow_bp.set_mode('enforce'), airflow_bp.tick();
UPDATE airflow.alembic_version SET version_num = 'ffffffffffff';
SELECT airflow_bp.tick();
SELECT mode, may_enforce FROM airflow_bp.memory_state();
SELECT alembic_head, airflow_version, head_known, note ~ 'enforcement pauses' AS says_so FROM airflow_bp.status();
SELECT airflow_bp.set_mode('enforce');
UPDATE airflow.alembic_version SET version_num = 'd2f4e1b3c5a7';
SELECT airflow_bp.tick();
SELECT mode, may_enforce FROM airflow_bp.memory_state();

-- A trigger that somebody dropped is missed, and made again.
DROP TRIGGER zz_airflow_bp_count ON airflow.task_instance;
SELECT airflow_bp.gate_table(), note ~ 'not enabled' AS says_so FROM airflow_bp.status();
SELECT airflow_bp.enable('observe');
SELECT airflow_bp.gate_table();

-- Off; again changes nothing.
SELECT airflow_bp.disable();
SELECT airflow_bp.disable();
SELECT count(*) FROM pg_trigger t WHERE tgname LIKE 'zz_airflow_bp%';
SELECT airflow_bp.tick();
SELECT mode FROM airflow_bp.memory_state();
SELECT airflow_bp.with_short_locks('SELECT 1 / 0');

-- Two Airflows: it has to be said which.
CREATE SCHEMA "other ""Airflow""";
CREATE TABLE "other ""Airflow""".alembic_version (LIKE airflow.alembic_version);
CREATE TABLE "other ""Airflow""".task_instance (LIKE airflow.task_instance);
CREATE TABLE "other ""Airflow""".dag_run (LIKE airflow.dag_run);
SELECT airflow_bp.enable();
SELECT head_known, note ~ 'no schema' AS says_so FROM airflow_bp.status();
SET airflow_bp.airflow_schema = 'other "Airflow"';
SELECT airflow_bp.enable('off');
SELECT airflow_bp.gate_table();
SELECT airflow_bp.disable();
RESET airflow_bp.airflow_schema;
SET client_min_messages = warning;
DROP SCHEMA "other ""Airflow""" CASCADE;
RESET client_min_messages;

-- Rights: PUBLIC has none but to the call in the scheduler's own query.
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'airflow_bp'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE');
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'airflow_bp'::regnamespace
	AND (has_table_privilege('public', oid, 'SELECT') OR has_table_privilege('public', oid, 'INSERT'));
CREATE ROLE regress_bp_nobody;
CREATE ROLE "regress_bp ""reader""";
CREATE ROLE regress_bp_operator;
SELECT airflow_bp.grant_reader('"regress_bp ""reader"""'), airflow_bp.grant_operator('regress_bp_operator');
SELECT airflow_bp.grant_reader('regress_bp_absent');
SELECT airflow_bp.grant_reader(NULL);
SELECT airflow_bp.grant_reader(4294967295::regrole);
SELECT airflow_bp.grant_operator('-');
SELECT airflow_bp.enable(), airflow_bp.tick();
SELECT test.tasks('a1', 1, 1);

SET ROLE regress_bp_nobody;
SELECT * FROM airflow_bp.status();
RESET ROLE;

SET ROLE "regress_bp ""reader""";
SELECT mode FROM airflow_bp.status();
SELECT name FROM airflow_bp.tenants();
SELECT count(*) FROM airflow_bp.held();
SELECT airflow_bp.tenant_of('a1');
SELECT scope_name, waiting FROM airflow_bp.queue_by_dag;
SELECT reason, tasks FROM airflow_bp.waiting_summary();
SELECT count(*) FROM airflow_bp.parked();
SELECT count(*) FROM airflow_bp.decision WHERE at IS NULL;
SELECT count(*) > 0 AS some FROM airflow_bp.act;
SELECT airflow_bp.set_mode('off');
SELECT airflow_bp.tick();
SELECT airflow_bp.alembic_head('airflow');
DELETE FROM airflow_bp.tenant;
SELECT count(*) FROM airflow.task_instance;
RESET ROLE;

SET ROLE regress_bp_operator;
SELECT airflow_bp.set_mode('enforce');
SELECT airflow_bp.set_tenant('t', 1), airflow_bp.add_tenant_rule('t', 'dag_id', 'a*');
SELECT airflow_bp.tick();
SELECT * FROM airflow_bp.recount() WHERE tenant = 't';
SELECT airflow_bp.drop_tenant_rule(10), airflow_bp.drop_tenant('t');
SELECT airflow_bp.undo(max(act_id)) FROM airflow_bp.act;
SELECT actor = session_user AS mine FROM airflow_bp.act ORDER BY act_id DESC LIMIT 1;
SELECT airflow_bp.enable();
SELECT airflow_bp.disable();
SELECT airflow_bp.schedule_with_pg_cron();
INSERT INTO airflow_bp.tenant (name) VALUES ('by hand');
UPDATE airflow_bp.deployment SET mode = 'enforce';
RESET ROLE;

-- The role of Airflow has no right on anything of ours, and its statements work.
GRANT USAGE ON SCHEMA airflow, test TO regress_bp_nobody;
GRANT ALL ON ALL TABLES IN SCHEMA airflow TO regress_bp_nobody;
GRANT ALL ON ALL SEQUENCES IN SCHEMA airflow TO regress_bp_nobody;
SET ROLE regress_bp_nobody;
SELECT test.ask('a1', 1);
SELECT test.set_state('a1', 1, 'running');
SELECT test.tasks('a1', 2, 3);
SELECT count(*) FROM airflow.dag_run WHERE state = 'running' AND last_scheduling_decision IS NULL;
DELETE FROM airflow.task_instance;
DELETE FROM airflow.dag_run;
RESET ROLE;
SELECT test.drift();

-- Functions and operators that somebody planted are not called, whatever the search_path.
SELECT test.tasks('a1', 1, 3);
CREATE FUNCTION public.planted(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''planted''; END';
CREATE FUNCTION public.planted_void(text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''planted''; END';
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.planted);
CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.planted);
CREATE OPERATOR public.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = public.planted);
CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = public.planted_void);
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT public.planted_void($1, $2)';
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT public.planted_void('''', '''')::timestamptz';
CREATE FUNCTION public.quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT public.planted_void($1, $1)';
SET search_path = public, pg_catalog, airflow;
SELECT 'a' = 'a'::text;
SELECT airflow_bp.set_mode('enforce');
SELECT airflow_bp.set_tenant('p', 1), airflow_bp.add_tenant_rule('p', 'dag_id', 'a*', 10);
SELECT airflow_bp.tick();
UPDATE task_instance SET state = 'scheduled' WHERE state IS NULL;
SELECT count(*) FROM airflow_bp.held();
SELECT airflow_bp.tick();
SELECT count(*) FROM airflow_bp.tenants();
SELECT count(*) FROM airflow_bp.waiting();
SELECT count(*) FROM airflow_bp.waiting_summary();
SELECT count(*) FROM airflow_bp.queue_by_tenant;
SELECT count(*) FROM airflow_bp.parked();
SELECT count(*) FROM airflow_bp.recount();
SELECT mode FROM airflow_bp.status();
SELECT airflow_bp.tenant_of('a1');
SELECT airflow_bp.drop_tenant_rule(10), airflow_bp.drop_tenant('p');
SELECT airflow_bp.grant_operator('regress_bp_operator');
SELECT airflow_bp.schedule_with_pg_cron();
SELECT airflow_bp.disable();
SELECT airflow_bp.enable('observe');
DROP EXTENSION airflow_bp;
CREATE EXTENSION airflow_bp;
RESET search_path;
DROP FUNCTION public.planted(text, text), public.planted_void(text, text), public.format(text, text), public.now(), public.quote_ident(text) CASCADE;
SET search_path = airflow;
SELECT airflow_bp.tick();

-- Periods that pg_cron can keep.
SELECT p, airflow_bp.cron_schedule(p) FROM unnest('{1 second,00:00:30,1 minute,90 seconds,5 minutes}'::interval[]) p WHERE p <> '90 seconds';
SELECT airflow_bp.cron_schedule('90 seconds');
SELECT airflow_bp.cron_schedule('-1 second');
SELECT airflow_bp.cron_schedule('0');
SELECT airflow_bp.cron_schedule('1 day');
SELECT airflow_bp.cron_schedule(NULL);
-- It is not loaded here.
SELECT airflow_bp.schedule_with_pg_cron();
SELECT airflow_bp.unschedule_pg_cron();

-- A schema that belongs to somebody else may hold anything: not for us.
DROP EXTENSION airflow_bp;
SELECT count(*) FROM pg_trigger t WHERE tgname LIKE 'zz_airflow_bp%';
DROP SCHEMA airflow_bp;
CREATE SCHEMA airflow_bp AUTHORIZATION regress_bp_nobody;
CREATE EXTENSION airflow_bp;
DROP SCHEMA airflow_bp;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA airflow, test CASCADE;
DROP ROLE regress_bp_nobody, "regress_bp ""reader""", regress_bp_operator;
