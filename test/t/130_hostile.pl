# Another role may make objects in the database, as often, and has made traps of them: nothing of it runs with our rights.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('hostile');
my $path = 'SET search_path = mallory, pg_catalog, public;';

# What ran is counted by a sequence, as an error may be caught and its transaction go.
sub caught
{
	my ($what, $db) = @_;

	is(value($node, 'SELECT is_called FROM mallory.caught'), 'f', "$what: no trap ran");
}

# Questions of our own, and waiting, do not fall into the traps.
sub safe
{
	local $ENV{PGOPTIONS} = '-c search_path=public';
	return value($node, $_[0]);
}

sub safe_wait
{
	local $ENV{PGOPTIONS} = '-c search_path=public';
	return wait_for($node, @_);
}

# What a role may not do.
sub refuses
{
	my ($role, $sql, $error, $what) = @_;
	my ($ret, $out, $err) = $node->psql('airflow', "SET SESSION AUTHORIZATION $role;\n$sql");

	like($err, $error, "$role: $what");
}

# A trap for each function, operator, type and relation of pg_catalog that can be made by hand.
sub plant
{
	value($node, <<'SQL');
GRANT CREATE ON DATABASE airflow TO mallory;
SET SESSION AUTHORIZATION mallory;
CREATE SCHEMA mallory;
GRANT USAGE ON SCHEMA mallory TO PUBLIC;
CREATE SEQUENCE mallory.caught;
GRANT ALL ON mallory.caught TO PUBLIC;
CREATE FUNCTION mallory.trap() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.nextval(''mallory.caught''); RETURN true; END';
CREATE FUNCTION pg_temp.try(statement text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE statement; EXCEPTION WHEN OTHERS THEN NULL; END';
SELECT pg_temp.try(format('CREATE FUNCTION mallory.%I(%s) RETURNS %s %s LANGUAGE plpgsql COST 0.1 AS $$BEGIN PERFORM mallory.trap(); RETURN%s; END$$',
		p.proname, oidvectortypes(p.proargtypes), CASE WHEN p.proretset THEN 'SETOF' END, p.prorettype::regtype,
		CASE WHEN NOT p.proretset AND p.prorettype <> 'void'::regtype THEN ' NULL' END))
	FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace;
SELECT pg_temp.try(format('CREATE FUNCTION mallory.op_%s(%s) RETURNS %s LANGUAGE plpgsql AS $$BEGIN PERFORM mallory.trap(); RETURN NULL; END$$',
		o.oid, concat_ws(', ', nullif(o.oprleft, 0)::regtype, o.oprright::regtype), o.oprresult::regtype)),
	pg_temp.try(format('CREATE OPERATOR mallory.%s (FUNCTION = mallory.op_%s, %s RIGHTARG = %s)',
		o.oprname, o.oid, 'LEFTARG = ' || nullif(o.oprleft, 0)::regtype || ',', o.oprright::regtype))
	FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace;
SELECT pg_temp.try(format('CREATE DOMAIN mallory.%I AS pg_catalog.%1$I CHECK (mallory.trap())', t.typname))
	FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typcategory <> 'A';
SELECT pg_temp.try(format('CREATE VIEW mallory.%I AS SELECT c.*, mallory.trap() FROM pg_catalog.%1$I c', c.relname))
	FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v');
SQL
}

$node->safe_psql('postgres', 'CREATE ROLE mallory; CREATE ROLE reader; CREATE ROLE operator; CREATE DATABASE airflow');
$node->safe_psql('airflow', 'GRANT CREATE ON SCHEMA public TO mallory');
plant();
cmp_ok(value($node, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'mallory'::regnamespace"), '>', 2000, 'functions are planted');
cmp_ok(value($node, "SELECT count(*) FROM pg_operator WHERE oprnamespace = 'mallory'::regnamespace"), '>', 600, 'and operators');
cmp_ok(value($node, "SELECT count(*) FROM pg_type WHERE typnamespace = 'mallory'::regnamespace AND typtype = 'd'"), '>', 40, 'and types');
cmp_ok(value($node, "SELECT count(*) FROM pg_class WHERE relnamespace = 'mallory'::regnamespace AND relkind = 'v'"), '>', 100, 'and relations');
value($node, "$path SELECT now()");
is(value($node, 'SELECT is_called FROM mallory.caught'), 't', 'a trap counts');
value($node, "SELECT setval('mallory.caught', 1, false)");

# A schema of our name in which others have, or may make, objects.
foreach my $planted (
	[ 'CREATE SCHEMA airflow_bp; GRANT CREATE ON SCHEMA airflow_bp TO mallory', 'others may make objects in it' ],
	[ 'CREATE SCHEMA airflow_bp; GRANT CREATE ON SCHEMA airflow_bp TO mallory; SET ROLE mallory;
		CREATE FUNCTION airflow_bp.check_choice(text, text, text, text, text) RETURNS void LANGUAGE sql AS $$SELECT mallory.trap()$$;
		RESET ROLE; REVOKE CREATE ON SCHEMA airflow_bp FROM mallory', 'a function that fits better' ],
	[ 'CREATE SCHEMA airflow_bp; CREATE TABLE airflow_bp.tenant (name text)', 'a table of our name' ],
	[ 'CREATE SCHEMA airflow_bp; CREATE VIEW airflow_bp.mine AS SELECT 1', 'a view of another name' ],
	[ 'CREATE SCHEMA airflow_bp; CREATE TYPE airflow_bp.queue_count AS ENUM ($$a$$)', 'a type of our name' ],
	[ 'CREATE SCHEMA airflow_bp; CREATE OPERATOR airflow_bp.= (LEFTARG = text, RIGHTARG = name, FUNCTION = texteqname)', 'an operator' ],
	[ 'CREATE SCHEMA airflow_bp AUTHORIZATION mallory', 'another owner' ])
{
	value($node, $planted->[0]);
	my ($ret, $out, $err) = $node->psql('airflow', 'CREATE EXTENSION airflow_bp');
	like($err, qr/ERROR:  schema airflow_bp (is not empty|belongs to)/, "$planted->[1]: refused");
	value($node, 'SET client_min_messages = warning; DROP SCHEMA airflow_bp CASCADE');
}
caught('refused');

# All that follows is done with the traps first on the search_path, by the worker too.
value($node, 'ALTER DATABASE airflow SET search_path = mallory, pg_catalog, public');
is($node->psql('airflow', 'CREATE EXTENSION airflow_bp'), 0, 'CREATE EXTENSION');
caught('CREATE EXTENSION');
$node->psql('airflow', "SET search_path = public;\n\\i " . fixture($_), on_error_die => 1) foreach qw(airflow_3_3_2.sql tasks.sql);
safe("SELECT test.tasks('a1', 1, 20), test.tasks('b1', 1, 20)");
safe("SELECT setval('mallory.caught', 1, false)");
value($node, "SELECT $_")
  foreach "airflow_bp.enable()", "airflow_bp.set_tenant('a', 3)", "airflow_bp.add_tenant_rule('a', 'dag_id', 'a*')", "airflow_bp.set_mode('enforce')",
  "airflow_bp.grant_reader('reader')", "airflow_bp.grant_operator('operator')", 'airflow_bp.tick()';
caught('enable and policy');
safe_wait('SELECT worker_pid IS NOT NULL AND ready AND airflow_bp.policy_version() = airflow_bp.policy_wanted() FROM airflow_bp.memory_state()', 'a worker takes turns');

# Airflow's statements, that use no function or operator themselves.
value($node, "GRANT ALL ON ALL TABLES IN SCHEMA public TO mallory, reader; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO mallory, reader");
value($node, "SET ROLE reader; UPDATE task_instance SET state = 'scheduled'");
is(safe('SELECT count(*) FROM airflow_bp.held()'), 17, 'asked, and held');
value($node, "SET ROLE reader; UPDATE task_instance SET state = 'queued'; UPDATE dag_run SET last_scheduling_decision = '2026-01-01'; DELETE FROM task_instance; DELETE FROM dag_run");
caught('Airflow');
safe("SELECT test.tasks('a1', 1, 20), test.tasks('b1', 1, 20); UPDATE task_instance SET state = 'failed', try_number = 1, end_date = now() WHERE dag_id = 'b1'");

# Each function for readers and operators, without arguments or with NULL for each, and some that do more.
my @calls = split /\n/, safe(q(SELECT DISTINCT format(CASE p.prokind WHEN 'p' THEN 'CALL %s(%s)' ELSE 'SELECT * FROM %s(%s)' END, p.oid::regproc, a.list)
	FROM unnest('{reader,operator}'::text[]) u, airflow_bp.functions_for(u) f JOIN pg_proc p ON p.oid = f,
		LATERAL (SELECT coalesce(string_agg('NULL', ', '), '') AS list FROM generate_series(1, p.pronargs - p.pronargdefaults)) a));
push @calls, map { "SELECT * FROM airflow_bp.$_" }
  "queue('deployment')", "queue('pool')", "queue('tenant')", "queue_by_dag", "queue_rates('pool')", "tenant_of('a1')", "preview_change('{}')", "explain_tenant('a')", "dead_letters('cause')",
  'dead_letters_by_cause', "set_cohort('c')", "set_tenant('a', 2, 'c')", "set_pool('default_pool', 1, 200, act => true)", "drain_start('dag', 'b1')", 'drain_stop(1)', "set_lock_rule('r', '1 h', act => true)",
  "set_balance_group('g', 'pool', '{default_pool,x}', act => true)", "set_priority_ageing('deployment', act => true)", "set_dlq_policy('retries_exhausted', 2)", "set_stuck_threshold('scheduled_too_long', '1 h')",
  "clear_tasks('{" . safe("SELECT test.id('b1', 1)") . "}')", 'undo(1)', 'decision', 'act', 'dead_letter', "preview('{}')", "lock_report('[2026-01-01,2026-01-02)')", 'tick()';
cmp_ok(scalar(@calls), '>', 100, 'calls of all functions');
my $failed = 0;
foreach my $role ('reader', 'operator')
{
	my @temporary = map { "CREATE TEMP VIEW $_ AS SELECT c.*, mallory.trap() FROM pg_catalog.$_ c" } qw(pg_class pg_namespace pg_trigger pg_attribute);
	my ($ret, $out, $err) = $node->psql('airflow', join(";\n", "SET ROLE $role", @temporary, @calls, @calls, ''), on_error_stop => 0);
	$failed += () = $err =~ /^(?:psql:\S+ )?ERROR:/mg if $role eq 'operator';
	unlike($err, qr/mallory/, "$role: no error of a trap");
	caught($role);
}
cmp_ok($failed, '<', @calls, 'most calls of the operator succeed');
my $last = safe('SELECT last_tick FROM airflow_bp.memory_state()');
safe_wait("SELECT last_tick > '$last'::timestamptz + interval '16 s' FROM airflow_bp.memory_state()", 'turns, with every step of them');
caught('the worker');
is(safe("SELECT count(*) FROM pg_roles WHERE rolname IN ('mallory', 'reader', 'operator') AND rolsuper"), 0, 'nobody has become a superuser');

refuses('mallory', @$_) foreach
  [ 'SELECT airflow_bp.status()', qr/permission denied for schema airflow_bp/, 'no use of the schema' ],
  [ 'CREATE TABLE airflow_bp.mine ()', qr/permission denied for schema airflow_bp/, 'nothing made in it' ],
  [ 'CREATE TABLE public.mine (id uuid); CREATE TRIGGER t BEFORE UPDATE ON public.mine FOR EACH ROW EXECUTE FUNCTION airflow_bp.gate()', qr/permission denied/, 'no trigger of ours on its tables' ],
  [ "SET airflow_bp.airflow_schema = 'mallory'", qr/permission denied to set parameter/, 'nor its schema as that of Airflow' ],
  [ 'SET airflow_bp.parking = on', qr/permission denied to set parameter/, 'no setting of ours' ];
refuses('reader', 'CREATE TEMP TABLE mine (c airflow_bp.dlq_planned, d airflow_bp.tenant)', qr/permission denied for type/, 'nothing built on our types');

# A second schema with tables of these names, before and after the triggers are there.
my $fake = 'SET SESSION AUTHORIZATION mallory; CREATE SCHEMA fake; CREATE TYPE fake.text AS (v text);
	CREATE FUNCTION fake.cast(fake.text) RETURNS text LANGUAGE sql AS $$SELECT $1.v FROM mallory.trap()$$; CREATE CAST (fake.text AS text) WITH FUNCTION fake.cast AS IMPLICIT;
	CREATE TABLE fake.alembic_version (version_num fake.text); CREATE TABLE fake.task_instance (LIKE public.task_instance, extra fake.text);
	CREATE VIEW fake.dag_run AS SELECT r.*, mallory.trap() FROM public.dag_run r;
	INSERT INTO fake.alembic_version VALUES (ROW($$x$$)); INSERT INTO fake.task_instance SELECT * FROM public.task_instance';
safe("$fake");
is(value($node, 'SELECT head_known FROM airflow_bp.status()'), 't', 'another schema of tables of these names blinds nobody');
value($node, 'SELECT airflow_bp.disable()');
refuses('postgres', 'SELECT airflow_bp.enable()', qr/several schemas hold tables of Airflow/, 'where the triggers are not, which of the two has to be said');
safe('ALTER TABLE public.alembic_version RENAME TO gone');
$node->psql('airflow', join(";\n", @calls, ''), on_error_stop => 0);
caught('tables that are not those of Airflow');
like(value($node, 'SELECT note FROM airflow_bp.status()'), qr/no schema/, 'status() says that there is none');
refuses('postgres', 'SELECT airflow_bp.enable()', qr/in schema "fake" a view, or a column type/, 'enable() says why');
safe('DROP SCHEMA fake CASCADE');
safe('SET SESSION AUTHORIZATION mallory; CREATE SCHEMA fake; CREATE TYPE fake.number AS (v int);
	CREATE FUNCTION fake.cast(fake.number) RETURNS int LANGUAGE sql AS $$SELECT $1.v FROM mallory.trap()$$; CREATE CAST (fake.number AS int) WITH FUNCTION fake.cast AS IMPLICIT;
	CREATE TABLE fake.alembic_version (LIKE public.gone); CREATE TABLE fake.task_instance (LIKE public.task_instance); CREATE TABLE fake.dag_run (LIKE public.dag_run);
	INSERT INTO fake.task_instance SELECT * FROM public.task_instance; UPDATE fake.task_instance SET state = $$deferred$$, trigger_id = 1; INSERT INTO fake.dag_run SELECT * FROM public.dag_run;
	CREATE TABLE fake.trigger (id fake.number, triggerer_id fake.number); INSERT INTO fake.trigger VALUES (ROW(1), ROW(1))');
is(safe('SELECT count(*) FROM airflow_bp.waiting()'), 40, 'plain tables are read');
$node->psql('airflow', join(";\n", @calls, ''), on_error_stop => 0);
caught('a type with a cast in another table');
safe('DROP SCHEMA fake CASCADE; ALTER TABLE public.gone RENAME TO alembic_version');
value($node, 'SELECT airflow_bp.enable()');

# The lock of the turns is not one that others can take.
my $locker = backend($node);
$locker->query('SET search_path = public; SET SESSION AUTHORIZATION mallory; SELECT pg_advisory_lock(6382192, n), pg_advisory_lock(6382192::bigint << 32 | n) FROM generate_series(0, 9) n');
safe_wait('SELECT airflow_bp.tick()', 'an advisory lock stops no turn');
$locker->quit;
is(value($node, 'SELECT airflow_bp.disable()') . $node->psql('airflow', 'DROP EXTENSION airflow_bp'), '0', 'disabled and dropped');
caught('DROP EXTENSION');

$node->stop;
done_testing();
