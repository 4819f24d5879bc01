# Versions of the SQL objects and of the library, in an installation of its own: updates keep what there is, and what does not fit refuses.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

my %dir = map { $_ => qx(pg_config --$_) =~ s/\n//r } qw(bindir pkglibdir sharedir);
my $ours = (slurp_file("$dir{sharedir}/extension/airflow_bp.control") =~ /default_version = '([\d.]+)'/)[0];
my ($next, $after) = map { $ours =~ s/^(\d)/$1 + $_/er } 1, 2;

# A server finds its files by where its program is: below another root, the same files, but for ours.
my $root = PostgreSQL::Test::Utils::tempdir();
system_or_bail('mkdir', '-p', map { "$root$_" } values %dir);
system_or_bail('cp', '-r', "$dir{bindir}/.", "$root$dir{bindir}");
system_or_bail('cp', '-rs', "$dir{$_}/.", "$root$dir{$_}") foreach qw(pkglibdir sharedir);
my $extension = "$root$dir{sharedir}/extension";

sub write_file
{
	my ($path, $text) = @_;

	unlink $path;
	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $text;
	close $file;
}

# The library that says it is of that version: versions of one length.
sub install_library
{
	my ($version) = @_;
	my $library = slurp_file("$dir{pkglibdir}/airflow_bp.so");

	($library =~ s/\Q$ours\E\0/$version\0/g) > 0 or die 'the library does not say its version';
	write_file("$root$dir{pkglibdir}/airflow_bp.so", $library);
}

sub install_script
{
	my ($name, $text) = @_;

	write_file("$extension/airflow_bp--$name.sql", "SELECT airflow_bp.need_library();\n$text");
}

install_library($ours);
install_script("$ours--$next", <<'SQL');
ALTER TABLE airflow_bp.tenant ADD COLUMN colour text;
ALTER TABLE airflow_bp.tenant ADD CHECK (colour <> '');
CREATE FUNCTION airflow_bp.colours() RETURNS bigint LANGUAGE sql SET search_path = pg_catalog, pg_temp
	AS 'SELECT count(*) FROM airflow_bp.tenant t WHERE t.colour IS NOT NULL';
CREATE TABLE airflow_bp.paint (name text PRIMARY KEY);
SELECT pg_catalog.pg_extension_config_dump('airflow_bp.paint', '');
REVOKE ALL ON FUNCTION airflow_bp.colours() FROM PUBLIC;
SQL
install_script("$next--$after", <<'SQL');
UPDATE airflow_bp.tenant SET colour = 'red' WHERE name = 'a';
CREATE FUNCTION airflow_bp.memory_says() RETURNS text LANGUAGE c AS 'MODULE_PATHNAME', 'airflow_bp_library_version';
CREATE OR REPLACE FUNCTION airflow_bp.colours() RETURNS bigint LANGUAGE sql SET search_path = pg_catalog, pg_temp
	AS 'SELECT 10 * count(*) FROM airflow_bp.tenant t WHERE t.colour IS NOT NULL';
SQL

# Which version CREATE EXTENSION makes, and ALTER EXTENSION UPDATE goes to.
sub default_version
{
	my ($version) = @_;

	write_file("$extension/airflow_bp.control", slurp_file("$dir{sharedir}/extension/airflow_bp.control") =~ s/\Q$ours\E/$version/r);
}

my $node = start_node('upgrade', install_path => dirname("$root$dir{bindir}"), 'airflow_bp.database' => "'airflow, jump'",
	log_min_messages => 'info');

# Start again with that library.
sub restart_with
{
	my ($version) = @_;

	install_library($version);
	$node->restart;
}

# A statement that must fail so.
sub refuses
{
	my ($sql, $error, $what, $db) = @_;
	my ($ret, $out, $err) = $node->psql($db // 'airflow', "\\set VERBOSITY verbose\n$sql");

	like($err, $error, $what);
}

sub stands_still
{
	my ($from, $library, $objects) = @_;

	ok($node->wait_for_log(qr/library is of version $library, the SQL objects are of $objects: the worker stands still/, $from), "$library with $objects: the worker stands still");
}

# Nothing of policy, log and triggers gets lost.
my $kept = "SELECT (SELECT mode FROM airflow_bp.deployment), (SELECT json_agg(to_jsonb(t) - 'colour' ORDER BY name)::text FROM airflow_bp.tenant t),
	(SELECT json_agg(r ORDER BY place)::text FROM airflow_bp.tenant_rule r), (SELECT json_agg(a ORDER BY act_id)::text FROM airflow_bp.act a),
	(SELECT count(*) FROM airflow_bp.dead_letter), airflow_bp.gate_table(), (SELECT string_agg(tgname || tgenabled::text, ',' ORDER BY 1) FROM pg_trigger WHERE tgname LIKE 'zz_airflow_bp%')";
# All that the extension is made of, but for the order of it.
my $objects = "SELECT md5(string_agg(o, ',' ORDER BY o)) FROM (
	SELECT concat_ws(' ', p.oid::regprocedure, prosrc, pg_get_function_result(p.oid), proconfig, proacl) FROM pg_proc p WHERE pronamespace = 'airflow_bp'::regnamespace
	UNION ALL SELECT concat_ws(' ', c.oid::regclass, relkind, relacl) FROM pg_class c WHERE relnamespace = 'airflow_bp'::regnamespace
	UNION ALL SELECT concat_ws(' ', attrelid::regclass, attname, atttypid::regtype, attnotnull) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
		WHERE relnamespace = 'airflow_bp'::regnamespace AND attnum > 0
	UNION ALL SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = 'airflow_bp'::regnamespace
	UNION ALL SELECT concat_ws(' ', e.extversion, c::regclass) FROM pg_extension e, unnest(extconfig) c WHERE extname = 'airflow_bp') o (o)";

sub objects_version
{
	return value($node, "SELECT extversion FROM pg_extension WHERE extname = 'airflow_bp'", $_[0]);
}

airflow($node);
enforce($node, 2, 5);
value($node, "SELECT airflow_bp.set_mode('observe'), airflow_bp.set_mode('enforce'), airflow_bp.grant_reader('pg_monitor')");
is(value($node, "SELECT test.ask('a1', 1, 4)"), 2, 'a limit is in force');
is(value($node, 'SELECT note FROM airflow_bp.status()'), '', 'one version: nothing to note');
my $before = value($node, $kept);

# The objects cannot go ahead of the library, nor of the one that the server was started with.
refuses("ALTER EXTENSION airflow_bp UPDATE TO '$next'", qr/BP005: .*library is of version $ours, older.*HINT: .*restart/s, 'objects ahead of the library: refused');
SKIP:
{
	skip 'each session loads the library anew', 2 if qx(pg_config --cppflags) =~ /EXEC_BACKEND/;
	install_library($next);
	refuses("ALTER EXTENSION airflow_bp UPDATE TO '$next'", qr/BP005: .*library is of version $ours, older/, 'installed, not restarted: refused');
	is(objects_version(), $ours, 'and all is as it was');
}
is(value($node, "SELECT test.ask('a1', 3, 4)"), 0, 'the limit holds');

# A library ahead of its objects: nothing is held, what could misread refuses, and status() says what to do.
my $from = -s $node->logfile;
restart_with($next);
stands_still($from, $next, $ours);
is(value($node, "SELECT test.ask('a1', 3, 4)"), 2, 'library ahead: all is admitted');
like(value($node, 'SELECT note FROM airflow_bp.status()'), qr/^the library is of version $next, the SQL objects are of $ours: .*run ALTER EXTENSION airflow_bp UPDATE$/, 'status() says what to do');
is(value($node, 'SELECT mode, worker_pid IS NULL, drift_slots IS NULL, held IS NULL FROM airflow_bp.status()'), 'enforce|t|t|t', 'and what it cannot know');
refuses("SELECT * FROM airflow_bp.$_", qr/BP005: .*HINT: .*status/s, "$_ refuses") foreach qw(held() tenants() recount() tick() queue('pool') parked() lock_tree());
value($node, "SELECT test.tasks('c1', 1, 3); DELETE FROM task_instance WHERE dag_id = 'c1'; UPDATE dag_run SET last_scheduling_decision = now()");
value($node, "SELECT test.set_state('a1', i, 'success') FROM generate_series(3, 4) i");

# One step, with a transaction of Airflow open that has changed tasks.
my $session = backend($node);
$session->query("BEGIN; SELECT test.set_state('b1', 1, 'scheduled')");
value($node, "BEGIN; ALTER EXTENSION airflow_bp UPDATE TO '$next'; ROLLBACK");
is(objects_version(), $ours, 'an update is rolled back');
value($node, "ALTER EXTENSION airflow_bp UPDATE TO '$next'");
wait_for($node, 'SELECT ready FROM airflow_bp.memory_state()', "updated to $next: the worker goes on");
$session->query('COMMIT');
$session->quit;
is(value($node, $kept), $before, 'policy, log and triggers are there');
is(value($node, 'SELECT airflow_bp.colours()'), 0, 'with what is new');
wait_for($node, "SELECT usage = 1 FROM airflow_bp.tenants() WHERE name = 'b'", 'the transaction that was open is counted');
is(value($node, "SELECT test.ask('a1', 5, 8)"), 0, 'the limit holds again');
is(value($node, 'SELECT test.drift()'), 0, 'no drift');

# The second step.
restart_with($after);
value($node, "ALTER EXTENSION airflow_bp UPDATE TO '$after'");
wait_for($node, 'SELECT ready FROM airflow_bp.memory_state()', "updated to $after");
is(value($node, $kept), $before, 'policy, log and triggers are there');
is(value($node, 'SELECT airflow_bp.colours(), airflow_bp.memory_says()'), "10|$after", 'with what is new');
is(value($node, "SELECT test.ask('a1', 5, 8)"), 0, 'the limit holds again');
is(value($node, 'SELECT test.drift()'), 0, 'no drift');
is(value($node, "SELECT has_function_privilege('pg_monitor', 'airflow_bp.status()', 'EXECUTE'), has_function_privilege('public', 'airflow_bp.colours()', 'EXECUTE')"), 't|f', 'rights are as they were');

# Both in one jump, in a database that has the old objects and an enabled policy.
$node->safe_psql('postgres', 'CREATE DATABASE jump');
value($node, "CREATE EXTENSION airflow_bp VERSION '$ours'", 'jump');
$node->psql('jump', '\i ' . fixture($_), on_error_die => 1) foreach qw(airflow_3_3_2.sql tasks.sql);
value($node, "SELECT test.tasks('a1', 1, 20), test.enforce(3), airflow_bp.grant_reader('pg_monitor')", 'jump');
my $jump = value($node, $kept, 'jump');
default_version($after);
value($node, 'ALTER EXTENSION airflow_bp UPDATE', 'jump');
is(objects_version('jump'), $after, 'one jump over both steps');
is(value($node, $kept, 'jump'), $jump, 'policy, log and triggers are there');
is(value($node, $objects, 'jump'), value($node, $objects), 'one jump makes what two steps make');
wait_for($node, 'SELECT ready FROM airflow_bp.memory_state()', 'and is counted', 'jump');
is(value($node, "SELECT test.ask('a1', 1, 9)", 'jump'), 3, 'the limit holds');

# Back to the old library: objects ahead of it.
$from = -s $node->logfile;
restart_with($ours);
stands_still($from, $ours, $after);
like(value($node, 'SELECT note FROM airflow_bp.status()'), qr/^the library is of version $ours, the SQL objects are of $after: .*install that library and restart$/, 'status() says what to do');
is(value($node, "SELECT test.ask('a1', 5, 8)"), 4, 'all is admitted');
refuses('SELECT * FROM airflow_bp.tenants()', qr/BP005/, 'tenants() refuses');
value($node, "SET allow_system_table_mods = on; UPDATE pg_proc SET prosrc = 'airflow_bp_absent' WHERE oid = 'airflow_bp.memory_says()'::regprocedure");
refuses('SELECT airflow_bp.memory_says()', qr/42883: .*could not find function "airflow_bp_absent"/, 'a function that the library lacks: the error of PostgreSQL');
value($node, 'CREATE DATABASE late', 'postgres');
refuses('CREATE EXTENSION airflow_bp', qr/BP005: .*older than the SQL objects of /, 'CREATE EXTENSION refuses', 'late');
is(value($node, "SELECT count(*) FROM pg_namespace WHERE nspname = 'airflow_bp'", 'late'), 0, 'and leaves nothing');
value($node, 'SELECT airflow_bp.disable()');
is(value($node, 'SELECT mode, airflow_bp.gate_table() IS NULL FROM airflow_bp.status()'), 'off|t', 'disable() works');
is($node->psql('airflow', 'DROP EXTENSION airflow_bp'), 0, 'and DROP EXTENSION');
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC|TRAP/, 'nothing has crashed');

$node->stop;
done_testing();
