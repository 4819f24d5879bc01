# Drains hold over every kind of restart, from the first ask on, also where no tenant has a limit.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('drain', 'airflow_bp.max_runs' => 16, restart_after_crash => 'on');
airflow($node);

# Tasks of a run that is started now, or was long ago.
sub run_of
{
	my ($dag, $ago, $db) = @_;

	value($node, "SELECT test.tasks('$dag', 1, 4); UPDATE dag_run SET state = 'queued' WHERE dag_id = '$dag';
		UPDATE dag_run SET state = 'running', start_date = clock_timestamp() - interval '$ago' WHERE dag_id = '$dag'", $db);
}

sub ask
{
	my ($dag, $i, $db) = @_;

	return value($node, "SELECT test.ask('$dag', $i)", $db);
}

sub drain
{
	my ($arguments) = @_;
	my $id = value($node, "SELECT airflow_bp.drain_start($arguments)");

	wait_for($node, "SELECT in_force FROM airflow_bp.drain_status() WHERE id = $id", "in force: $arguments");
	return $id;
}

sub stopped
{
	my ($id) = @_;

	value($node, "SELECT airflow_bp.drain_stop($id)");
	wait_for($node, 'SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted()', 'stopped');
}

# Ask from the first connection on until the drains are in force again: nothing of the drained may pass.
sub in_force_again
{
	my ($what, @dags) = @_;
	my $passed = 0;
	my $asks = 0;

	do
	{
		$passed += ask($_, 1) foreach @dags;
		$asks++;
	} until value($node, "SELECT bool_and(in_force) AND (SELECT count(DISTINCT reason) = 1 FROM airflow_bp.held() WHERE reason LIKE 'held%')
		FROM airflow_bp.drain_status()") eq 't' || $asks > 1000;
	is($passed, 0, "$what: nothing passes, asked $asks times");
	is(value($node, 'SELECT DISTINCT reason FROM airflow_bp.held()'), 'held_drain', "$what: by the drain");
}

my %restarts = (
	'fast' => sub { $node->restart },
	'immediate' => sub { $node->stop('immediate'); $node->start },
	'kill -9' => sub { $node->kill9; start_again($node) },
	'crash of the worker' => sub {
		my $pid = worker_of($node);

		kill 'KILL', $pid;
		wait_for($node, "SELECT coalesce(max(pid), 0) <> $pid FROM pg_stat_activity WHERE backend_type = 'airflow_bp worker'", 'started again', 'postgres');
	});

# In mode observe, without a tenant.
value($node, "SELECT airflow_bp.enable('observe')");
wait_for($node, 'SELECT ready AND airflow_bp.policy_version() = airflow_bp.policy_wanted() FROM airflow_bp.memory_state()', 'counters ready');
run_of('first', '0');
my $all = drain("'deployment', finish => 'tasks'");
foreach my $how (sort keys %restarts)
{
	$restarts{$how}->();
	in_force_again($how, 'a1', 'first');
}
stopped($all);
is(ask('a1', 1), 1, 'on again');

# Runs that had started finish; that the others had not is found again.
run_of('old', '1 h');
my $runs = drain("'deployment'");
run_of('late', '-1 s');
is(ask('late', 1) + ask('late', 2), 0, 'a run that starts now');
is(ask('old', 1), 1, 'a run that had started');
$node->stop('immediate');
$node->start;
wait_for($node, 'SELECT in_force FROM airflow_bp.drain_status()', 'in force again');
is(ask('late', 1), 0, 'a run that had not started, after a restart');
is(ask('old', 2), 1, 'a run that had started, after a restart');

# No room to remember: who starts is admitted, and counted.
is(value($node, 'SELECT fail_open_total FROM airflow_bp.status()'), 0, 'nothing was let through');
run_of("many$_", '-1 s') foreach 1 .. 20;
cmp_ok(value($node, 'SELECT fail_open_total FROM airflow_bp.status()'), '>', 0, 'more runs than there is room for are counted');
is(ask('many1', 1), 0, 'of those that had room');
is(ask('many20', 1), 1, 'of those that had none');

# The standby says what it can, and takes over.
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('drain_standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is(value($standby, 'SELECT in_force IS NULL AND held IS NULL AND scheduled = 4 FROM airflow_bp.drain_status()'), 't', 'a standby does not know what is in force');
is(value($standby, "SELECT string_agg(DISTINCT coalesce(answer::text, 'unknown') || ' ' || reason, ', ' ORDER BY coalesce(answer::text, 'unknown') || ' ' || reason)
	FROM airflow_bp.may_i_upgrade()"), 'false scheduled, unknown drain_not_in_force', 'nor whether one may upgrade');
my ($code, $out, $err) = $standby->psql('airflow', '\set VERBOSITY sqlstate' . "\nSELECT airflow_bp.drain_start('deployment')");
like($err, qr/BP005/, 'it starts no drain');
$node->stop;
$standby->promote;
$node = $standby;
in_force_again('promoted', 'late');
$node->stop;

# Where no worker runs, tasks of new DAGs are held all the same when the whole deployment is drained.
$node = start_node('drain_alone', 'airflow_bp.database' => "''", 'airflow_bp.startup_hold' => "'1ms'");
airflow($node);
value($node, "SELECT airflow_bp.enable('observe')");
value($node, $_) foreach 'SELECT airflow_bp.tick()', "SELECT airflow_bp.drain_start('deployment', finish => 'tasks')", 'SELECT airflow_bp.tick()';
run_of('new', '0');
is(ask('new', 1) + ask('new', 2), 0, 'a new DAG, without a turn');
is(value($node, 'SELECT reason FROM airflow_bp.held() LIMIT 1'), 'held_drain', 'by the drain');
$node->stop;

done_testing();
