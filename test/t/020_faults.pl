# Faults: the statement of Airflow succeeds each time, what could not be judged is counted, and nothing is lost.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('faults',
	'airflow_bp.startup_hold' => "'5s'",
	'airflow_bp.recount_period' => "'1h'");
airflow($node);

sub status
{
	return value($node, "SELECT $_[0] FROM airflow_bp.status()");
}

# All of this must be true after a fault is over.
sub sound
{
	my ($what) = @_;

	value($node, 'SELECT airflow_bp.recount()');
	is(value($node, 'SELECT test.drift()'), 0, "$what: no drift");
	is(value($node, "SELECT usage - coalesce((SELECT sum(slots) FROM airflow_bp.held() h WHERE granted AND h.tenant = 'a'), 0)
		FROM airflow_bp.tenants() WHERE name = 'a'"), value($node, "SELECT test.used('a%')"), "$what: usage as in the tables");
}

# Everything of Airflow's is again as the fixture made it.
sub again
{
	value($node, "SELECT test.clean(); SELECT test.tasks('a1', 1, 20), test.tasks('b1', 1, 20)");
	enforce($node, @_);
}

# Until the counters are ready asks are held, but not for long: here nobody makes them ready.
airflow($node, 'lone');
value($node, "SELECT test.enforce(2)", 'lone');
$node->restart;
is(value($node, "SELECT test.ask('a1', 1)", 'lone'), 0, 'held after a start');
is(value($node, 'SELECT reason FROM airflow_bp.held()', 'lone'), 'held_starting', 'with the reason');
wait_for($node, "SELECT test.ask('a1', 1) = 1", 'admitted after startup_hold', 'lone');
is(value($node, 'SELECT fail_open_total FROM airflow_bp.status()', 'lone'), 1, 'and counted');
like(value($node, 'SELECT note FROM airflow_bp.status()', 'lone'), qr/no worker/, 'status says why');
again(2);

# A backend ends in the middle of an admission.
{
	my $session = backend($node);
	$session->query('BEGIN');
	is($session->query("SELECT test.ask('a1', 1, 5)"), 2, 'two pass');
	is(value($node, "SELECT test.ask('a1', 6)"), 0, 'a third does not');
	my $pid = $session->query('SELECT pg_backend_pid()');
	value($node, "SELECT pg_terminate_backend($pid, 10000)");
	wait_for($node, 'SELECT count(*) = 2 FROM airflow_bp.held() WHERE granted', 'terminated: its slots go to who is held');
	$session->{run}->finish;
	sound('terminated backend');
}
again(2);

# Prepared transactions.
{
	my ($ret, $out, $err) = $node->psql('airflow', "BEGIN; SELECT test.ask('a1', 1); PREPARE TRANSACTION 'p'");
	like($err, qr/cannot prepare a transaction in which airflow_bp has admitted a task/, 'an admission cannot be prepared');
	is(value($node, "SELECT test.ask('a1', 2, 3)"), 2, 'its slot is free again');
	value($node, "BEGIN; SELECT test.set_state('a1', 2, 'success'); PREPARE TRANSACTION 'p1'");
	value($node, "BEGIN; SELECT test.set_state('a1', 10, 'running'); PREPARE TRANSACTION 'p2'");
	value($node, 'SELECT airflow_bp.recount()');
	sound('prepared');
	$node->restart;
	AirflowBP::ready($node);
	sound('prepared before a restart');
	is(value($node, "SELECT test.ask('a1', 4)"), 0, 'what is prepared still counts');
	value($node, "COMMIT PREPARED 'p1'");
	wait_for($node, "SELECT test.ask('a1', 4) = 1", 'committed: its slot is free');
	value($node, "ROLLBACK PREPARED 'p2'");
	sound('both prepared transactions ended');
}
again(2);

# A savepoint that fails inside a function, many rows, and classes in turn.
value($node, "UPDATE task_instance SET queue = 'q' || right(task_id, 1) WHERE dag_id = 'a1'");
value($node, "SELECT test.tasks('a2', 1, 3000)");
value($node, "UPDATE task_instance SET queue = 'q' || right(task_id, 1) WHERE dag_id = 'a2'");
wait_for($node, "SELECT count(*) = 0 FROM airflow_bp.held()", 'quiet');
is(value($node, "SELECT test.ask('a2', 1, 3000)"), 2, 'a limit holds over a bulk update of many classes in turn');
is(status('fail_open_total'), 0, 'that is judged throughout');
like(status('note'), qr/2998 held tasks make the scheduler slower: ALTER SYSTEM SET airflow_bp.parking = on/, 'status says what so many want');
sound('bulk');
again(5000);

# More admissions in one transaction than can be remembered for the log.
value($node, "SELECT test.tasks('a1', 101, 5100)");
is(value($node, "SELECT test.ask('a1', 101, 5100)"), 5000, 'a bulk update of thousands passes');
wait_for($node, "SELECT note ~ 'decisions missing in the log' FROM airflow_bp.status()", 'status says what the log lacks');
sound('thousands');
again(2);

# Changes without triggers, TRUNCATE.
value($node, "SELECT test.ask('a1', 1, 2)");
value($node, "SET session_replication_role = replica; SELECT test.set_state('a1', i, 'running') FROM generate_series(5, 8) i");
is(value($node, "SELECT sum(drift) FROM airflow_bp.recount()"), 4, 'changes by a replica role are drift');
sound('replica role');
value($node, 'TRUNCATE task_instance CASCADE');
wait_for($node, "SELECT usage = 0 FROM airflow_bp.tenants() WHERE name = 'a'", 'TRUNCATE is counted again');
sound('TRUNCATE');
again(2);

# Alembic heads.
value($node, "SELECT test.ask('a1', 1, 2)");
my $head = value($node, "SELECT version_num FROM alembic_version");
value($node, "UPDATE alembic_version SET version_num = 'unheard_of'");
wait_for($node, "SELECT test.ask('a1', 3) = 1", 'an unknown alembic head: admitted');
like(status('note'), qr/alembic head not known/, 'status says so');
is(status('head_known'), 'f', 'in its column too');
my ($ret, $out, $err) = $node->psql('airflow', '\set VERBOSITY sqlstate' . "\nSELECT airflow_bp.set_mode('enforce')");
like($err, qr/BP006/, 'enforce is refused');
value($node, "UPDATE alembic_version SET version_num = '$head'");
wait_for($node, "SELECT may_enforce FROM airflow_bp.memory_state()", 'known again');
is(value($node, "SELECT test.ask('a1', 4)"), 0, 'enforced again');
sound('unknown head');
again(2);

# The worker keeps what it has seen of the deployment until one of these changes.
$node->safe_psql('airflow', 'CREATE TYPE public.odd AS (v text); CREATE FUNCTION public.as_text(public.odd) RETURNS text LANGUAGE sql AS $$SELECT $1.v$$;
	ALTER TABLE slot_pool ADD COLUMN odd public.odd');
wait_for($node, "SELECT may_enforce FROM airflow_bp.memory_state()", 'a column of an odd type alone is no reason');
foreach my $change (
	[ 'a table is gone', 'ALTER TABLE alembic_version RENAME TO gone', 'ALTER TABLE gone RENAME TO alembic_version' ],
	[ 'a cast would run code', 'CREATE CAST (public.odd AS text) WITH FUNCTION public.as_text(public.odd) AS IMPLICIT', 'DROP CAST (public.odd AS text)' ],
	[ 'a setting says otherwise', "ALTER SYSTEM SET airflow_bp.airflow_schema = 'elsewhere'; SELECT pg_reload_conf()", 'ALTER SCHEMA public RENAME TO elsewhere' ],
	[ 'the schema has another name', 'ALTER SCHEMA elsewhere RENAME TO public', 'ALTER SYSTEM RESET airflow_bp.airflow_schema; SELECT pg_reload_conf()' ])
{
	my ($what, $do, $undo) = @$change;
	$node->safe_psql('airflow', $do);
	wait_for($node, 'SELECT NOT may_enforce FROM airflow_bp.memory_state()', "$what: seen");
	$node->safe_psql('airflow', $undo);
	wait_for($node, 'SELECT may_enforce FROM airflow_bp.memory_state()', "$what: over");
}
$node->safe_psql('airflow', 'DROP TYPE public.odd CASCADE');

# A column that is gone, has another name or another type.
foreach my $change (
	[ 'RENAME COLUMN executor TO executor_name', 'RENAME COLUMN executor_name TO executor' ],
	[ 'DROP COLUMN queue', "ADD COLUMN queue varchar(256) DEFAULT 'default'" ],
	[ 'ALTER COLUMN pool_slots TYPE bigint', 'ALTER COLUMN pool_slots TYPE int' ])
{
	my ($do, $undo) = @$change;
	value($node, "SELECT test.ask('a1', 1, 2)");
	my $before = status('fail_open_total');
	value($node, "ALTER TABLE task_instance $do");
	is(value($node, "SELECT test.ask('a1', 3)"), 1, "$do: admitted");
	cmp_ok(status('fail_open_total'), '>', $before, 'and counted');
	like(status('note'), qr/column "?(executor|queue|pool_slots)"? of task_instance/, 'status says which column');
	value($node, "ALTER TABLE task_instance $undo");
	again(2);
	is(value($node, "SELECT test.ask('a1', 3)"), 1, 'back: admitted');
	is(value($node, "SELECT test.ask('a1', 4, 5)"), 1, 'and held at the limit');
	sound($do);
	again(2);
}

# The role of Airflow has rights on its tables only.
$node->safe_psql('airflow', "
	CREATE ROLE airflow_role;
	GRANT SELECT, INSERT, UPDATE, DELETE ON task_instance, dag_run TO airflow_role;
	GRANT USAGE ON SCHEMA test TO airflow_role; GRANT USAGE ON SEQUENCE dag_run_id_seq TO airflow_role");
is(value($node, "SET ROLE airflow_role; SELECT test.ask('a1', 1, 5)"), 2, 'no rights on our schema: its updates work, and are held');
is(value($node, "SELECT usage FROM airflow_bp.tenants() WHERE name = 'a'"), 2, 'and counted');
is(value($node, "SET ROLE airflow_role; SELECT test.set_state('a1', 1, 'success'), test.tasks('a3', 1, 3, 'p', 'running'); DELETE FROM task_instance WHERE dag_id = 'b1'; SELECT 'done'"), "|\ndone", 'all that Airflow does');
sound('role without rights');
isnt($node->psql('airflow', 'SET ROLE airflow_role; SELECT * FROM airflow_bp.held()'), 0, 'it may not see what is held');
again(2);

# Objects of an attacker in the search path are not called, by CREATE EXTENSION or later.
$node->safe_psql('airflow', q{
	CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
	CREATE TABLE evil.called (what text);
	CREATE FUNCTION evil.note() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.called VALUES ('x'); RETURN true; END $$;
	CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.note()';
	CREATE FUNCTION evil.eq(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT evil.note()';
	CREATE FUNCTION evil.eq(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.note()';
	CREATE FUNCTION evil.eq(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT evil.note()';
	CREATE FUNCTION evil.cat(text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.note()::text';
	CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
	CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.eq);
	CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.eq);
	CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
	CREATE OPERATOR evil.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
	CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.cat);
	CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT evil.note()::text';
	CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.note()::text::timestamptz';
	CREATE FUNCTION evil.count(text) RETURNS bigint LANGUAGE sql AS 'SELECT evil.note()::int::bigint';
	CREATE FUNCTION evil.length(text) RETURNS int LANGUAGE sql AS 'SELECT evil.note()::int';
	CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT evil.note()::int';
	CREATE FUNCTION evil.coalesce_to(text) RETURNS text LANGUAGE sql AS 'SELECT evil.note()::text';
	DROP EXTENSION airflow_bp});
my $task = value($node, "SELECT test.id('a1', 1)");
my $path = 'SET search_path = evil, pg_catalog, public; ';
value($node, "$path CREATE EXTENSION airflow_bp");
value($node, 'SELECT test.enforce(2)');
AirflowBP::ready($node);
value($node, "$path SELECT airflow_bp.set_tenant('c', 3), airflow_bp.add_tenant_rule('c', 'dag_id', 'c*'), airflow_bp.tenant_of('c1');
	SELECT * FROM airflow_bp.status(); SELECT * FROM airflow_bp.waiting_summary(); SELECT * FROM airflow_bp.queue('pool');
	SELECT * FROM airflow_bp.held(); SELECT * FROM airflow_bp.tenants(); SELECT airflow_bp.recount(), airflow_bp.tick();
	UPDATE public.task_instance SET state = 'scheduled' WHERE id = '$task';
	SELECT airflow_bp.set_mode('observe'), airflow_bp.set_mode('enforce')");
is(value($node, 'SELECT count(*) FROM evil.called'), 0, 'planted objects are not called');
$node->safe_psql('airflow', 'DROP SCHEMA evil CASCADE');
again(2);

# Small memory: the newest held have no place, new DAGs and tenants are admitted and counted.
$node->append_conf('postgresql.conf', "airflow_bp.max_held = 16\nairflow_bp.max_dags = 16\nairflow_bp.max_tenants = 16");
$node->restart;
AirflowBP::ready($node);
value($node, "SELECT test.tasks('a1', 21, 60)");
is(value($node, "SELECT test.ask('a1', 1, 60)"), 2, 'a full held table: the limit holds');
is(value($node, 'SELECT held FROM airflow_bp.memory_state()'), 16, 'the first have a place');
like(status('note'), qr/held without a place/, 'status says that others have none');
value($node, "UPDATE task_instance SET state = 'success' WHERE dag_id = 'a1' AND state = 'scheduled'");
wait_for($node, "SELECT test.ask('a1', 1, 60) = 2", 'and it goes on');
while ((my $left = value($node, "SELECT count(*) FROM task_instance WHERE dag_id = 'a1' AND state IS NULL")) > 0)
{
	value($node, "UPDATE task_instance SET state = 'success' WHERE dag_id = 'a1' AND state = 'scheduled'");
	last unless $node->poll_query_until('airflow', "SELECT test.ask('a1', 1, 60) > 0");
	my $used = value($node, "SELECT test.used('a%')");
	if ($used > 2) { fail("the limit is exceeded: $used"); last; }
}
is(value($node, "SELECT count(*) FROM task_instance WHERE dag_id = 'a1' AND state IS NULL"), 0, 'until all have passed');
sound('a full held table');

value($node, "SELECT test.tasks('a_' || i, 1, 2) FROM generate_series(1, 100) i");
my $passed = value($node, "SELECT sum(test.ask('a_' || i, 1, 2)) FROM generate_series(1, 100) i");
cmp_ok($passed, '>', 100, "full max_dags: $passed of 200 admitted");
cmp_ok(status('fail_open_total'), '>', 0, 'and counted');
cmp_ok(value($node, 'SELECT count(*) FROM airflow_bp.held() WHERE reason IS NULL'), '<', 17, 'the rest is held');
again(2);

value($node, "SELECT airflow_bp.set_tenant('t' || i, 1), airflow_bp.add_tenant_rule('t' || i, 'dag_id', 't' || i) FROM generate_series(1, 40) i;
	SELECT test.tasks('t' || i, 1, 2) FROM generate_series(1, 40) i");
wait_for($node, 'SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted()', 'more tenants than places: compiled');
wait_for($node, "SELECT note ~ 'have no place' FROM airflow_bp.status()", 'status says so');
is(value($node, "SELECT test.ask('t40', 1, 2)"), 2, 'the tasks of those without a place are admitted');
is(value($node, "SELECT test.ask('a1', 1, 5)"), 2, 'the others keep their limit');

$node->stop;
done_testing();
