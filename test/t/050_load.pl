# The extension comes and goes under the load of several schedulers; none of their statements fails.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;
use IPC::Run;

my $node = start_node('load', deadlock_timeout => "'20ms'");
airflow($node);
# The functions of the load must outlive the extension.
value($node, "SELECT test.tasks('a' || i, 1, 200) FROM generate_series(2, 6) i");

my $script = PostgreSQL::Test::Utils::tempdir . '/load.sql';
append_to_file($script, q{
\set d random(2, 6)
\set i random(1, 190)
SELECT test.ask('a' || :d, :i, :i + 9);
UPDATE task_instance SET state = CASE state WHEN 'scheduled' THEN 'queued' WHEN 'queued' THEN 'running' WHEN 'running' THEN 'success' END
WHERE id IN (SELECT id FROM task_instance WHERE dag_id = 'a' || :d AND state IN ('scheduled', 'queued', 'running', 'success')
	LIMIT 10 FOR UPDATE SKIP LOCKED);
});

# A load that goes on until it is told to stop.
sub start_load
{
	my %load = (out => '', err => '');

	$load{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 4, '-T', 600, '-P', 1, '--max-tries=100', '-f', $script, $node->connstr('airflow') ],
		'>', \$load{out}, '2>', \$load{err});
	wait_for($node, "SELECT count(*) > 100 FROM task_instance WHERE updated_at > now() - interval '5 s'", 'load runs');
	return \%load;
}

sub stop_load
{
	my ($load, $what) = @_;

	# not INT, which a shell may have told us to ignore
	$load->{run}->signal('TERM');
	$load->{run}->finish;
	unlike($load->{err}, qr/ERROR|FATAL/, "$what: no statement failed") or diag(substr($load->{err}, 0, 2000));
}

my $load = start_load();
foreach my $round (1 .. 3)
{
	value($node, 'CREATE EXTENSION airflow_bp') if $round > 1;
	enforce($node, 20);
	wait_for($node, "SELECT count(*) > 0 FROM airflow_bp.held()", "round $round: tasks are held");
	is(value($node, 'SELECT sum(abs(drift)) FROM airflow_bp.recount()'), 0, "round $round: no drift under load");
	is($node->psql('airflow', $round == 2 ? 'SELECT airflow_bp.disable()' : 'DROP EXTENSION airflow_bp'), 0, "round $round: gone under load");
	is(value($node, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_airflow_bp%'"), 0, "round $round: without a trace");
	value($node, 'DROP EXTENSION airflow_bp') if $round == 2;
}
wait_for($node, "SELECT test.used('a%') > 20", 'Airflow goes on without limits');
stop_load($load, 'extension dropped');

# DROP DATABASE while sessions with counted changes, and the worker, are connected.
value($node, 'CREATE EXTENSION airflow_bp');
enforce($node, 20);
$load = start_load();
is($node->psql('postgres', 'DROP DATABASE airflow WITH (FORCE)'), 0, 'DROP DATABASE under load');
$load->{run}->finish;
airflow($node);
wait_for($node, "SELECT worker_pid IS NOT NULL FROM airflow_bp.status()", 'made again: a worker');
enforce($node, 2);
is(value($node, "SELECT test.ask('a1', 1, 5)"), 2, 'and all works');
is(value($node, 'SELECT test.drift()'), 0, 'without drift');

$node->stop;
done_testing();
