# The life of the worker: it starts, stays, comes back, and is in nobody's way.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('worker',
	'airflow_bp.database' => "'airflow, Other'",
	restart_after_crash => 'on',
	log_min_messages => 'info');

airflow($node);
wait_for($node, 'SELECT worker_pid IS NOT NULL FROM airflow_bp.status()', 'a database made later gets a worker');
enforce($node, 3);

sub workers
{
	return value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'airflow_bp worker' AND datname = 'airflow'", 'postgres');
}

# Wait for another worker than that, and counters that are ready and right.
sub comes_back
{
	my ($old, $what) = @_;

	wait_for($node, "SELECT worker_pid <> $old AND ready AND last_tick IS NOT NULL FROM airflow_bp.memory_state()", "$what: a new worker takes turns");
	is(value($node, 'SELECT test.drift()'), 0, "$what: no drift");
	is(workers(), 1, "$what: one worker");
}

# It stays and takes turns.
my $pid = worker_of($node);
my $last = value($node, 'SELECT last_tick FROM airflow_bp.status()');
wait_for($node, "SELECT last_tick > '$last'::timestamptz + interval '1.5 s' FROM airflow_bp.status()", 'turns go on');
is(worker_of($node), $pid, 'by the same worker');

# Settings are read again: what the triggers did not see is found within the new period.
is(value($node, "SELECT test.ask('a1', 1, 3)"), 3, 'the limit is reached');
value($node, "SET session_replication_role = replica; SELECT test.set_state('a1', 1, 'success')");
is(value($node, "SELECT test.ask('a1', 4)"), 0, 'a change without triggers is not seen');
$node->append_conf('postgresql.conf', "airflow_bp.recount_period = '1s'");
$node->reload;
wait_for($node, "SELECT usage = 2 OR (SELECT granted FROM airflow_bp.held()) FROM airflow_bp.tenants() WHERE name = 'a'", 'a recount finds it');
wait_for($node, "SELECT test.ask('a1', 4) = 1", 'and the held task passes');
is(worker_of($node), $pid, 'still the same worker');

# Ended by an operator, it or its launcher.
value($node, "SELECT pg_terminate_backend($pid)");
comes_back($pid, 'terminated');
$pid = worker_of($node);
my $launcher = value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'airflow_bp launcher'");
value($node, "SELECT pg_terminate_backend($launcher)");
wait_for($node, "SELECT pid <> $launcher FROM pg_stat_activity WHERE backend_type = 'airflow_bp launcher'", 'launcher is back');
value($node, "SELECT pg_terminate_backend($pid)");
comes_back($pid, 'launcher terminated');

# A crash, in the middle of an admission.
foreach my $victim ('worker', 'backend')
{
	my $session = backend($node);
	$session->query("SELECT test.set_state('a1', 2, 'success')");
	$session->query('BEGIN');
	is($session->query("SELECT test.ask('a1', 5)"), 1, "$victim killed: a task passes");
	$pid = worker_of($node);
	my $killed = $victim eq 'worker' ? $pid : $session->query('SELECT pg_backend_pid()');
	die "no process" unless $killed > 1;
	kill 9, $killed;
	$session->{run}->finish;
	$node->poll_query_until('postgres', 'SELECT true');
	comes_back($pid, "$victim killed");
	is(value($node, "SELECT usage FROM airflow_bp.tenants() WHERE name = 'a'"), value($node, "SELECT test.used('a%')"), "$victim killed: the reservation is gone");
	value($node, "SELECT test.set_state('a1', 2, 'scheduled')");
}

$pid = worker_of($node);
$node->kill9;
start_again($node);
comes_back($pid, 'postmaster killed');

# Shutdown does not wait for us.
foreach my $mode ('smart', 'fast')
{
	$node->stop($mode);
	$node->start;
	wait_for($node, 'SELECT ready FROM airflow_bp.memory_state()', "after a $mode shutdown");
}

# Another database of the list.
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'other'"), 0, 'no worker without its database');
airflow($node, 'other');
wait_for($node, 'SELECT worker_pid IS NOT NULL FROM airflow_bp.status()', 'several databases: each has a worker', 'other');
value($node, "SELECT test.enforce(7)", 'other');
wait_for($node, "SELECT nominal = 7 AND available = 7 FROM airflow_bp.tenants() WHERE name = 'a'", 'with its own policy', 'other');
is(value($node, "SELECT nominal FROM airflow_bp.tenant_usage() WHERE name = 'a'"), 3, 'not seen by the first');

# DROP DATABASE stops the worker, and the same name begins anew.
is($node->psql('postgres', 'DROP DATABASE other'), 0, 'DROP DATABASE passes a connected worker');
airflow($node, 'other');
wait_for($node, 'SELECT worker_pid IS NOT NULL AND held = 0 FROM airflow_bp.memory_state()', 'made again: a worker', 'other');
is(value($node, 'SELECT mode FROM airflow_bp.status()', 'other'), 'off', 'that knows nothing of the old one');
my $copy = $node->psql('postgres', 'DROP DATABASE other WITH (FORCE)');
is($copy, 0, 'dropped by force');

# More databases come and go than there are places.
foreach my $i (1 .. 12)
{
	airflow($node, "many_$i");
	value($node, 'SELECT airflow_bp.tick()', "many_$i");
	$node->safe_psql('postgres', "DROP DATABASE many_$i");
}
airflow($node, 'other');
wait_for($node, 'SELECT worker_pid IS NOT NULL FROM airflow_bp.status()', 'places of dropped databases are free again', 'other');

# No slot for a worker: said, and Airflow goes on.
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nairflow_bp.startup_hold = '1s'");
$node->restart;
is(value($node, 'SELECT worker_pid IS NULL FROM airflow_bp.status()'), 't', 'max_worker_processes exhausted: no worker');
like(value($node, 'SELECT note FROM airflow_bp.status()'), qr/no worker/, 'status says so');
wait_for($node, "SELECT test.ask('a1', 10, 15) = 6", 'all are admitted after startup_hold');
cmp_ok(value($node, 'SELECT fail_open_total FROM airflow_bp.status()'), '>', 0, 'and counted');

$node->stop;
done_testing();
