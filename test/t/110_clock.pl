# The clock of the server is set: ahead nothing waits longer, and back nothing waits until the clock has caught up.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'its sanitizer wants to be loaded before us' if qx(pg_config --cflags) =~ /fsanitize=address/;

my $dir = PostgreSQL::Test::Utils::tempdir;
my $ahead = "$dir/ahead";

sub set_clock
{
	open(my $file, -e $ahead ? '+<' : '>', $ahead) or die "$ahead: $!";
	syswrite($file, pack('q', $_[0])) == 8 or die "$ahead: $!";
	close($file);
}

set_clock(0);
system_or_bail('cc', '-O2', '-shared', '-fPIC', '-o', "$dir/clock_step.so", "$FindBin::RealBin/../chaos/clock_step.c");
$ENV{CLOCK_STEP} = $ahead;
$ENV{LD_PRELOAD} = "$dir/clock_step.so";
my $node = start_node('clock',
	'airflow_bp.grant_timeout' => "'2s'",
	'airflow_bp.recount_period' => "'1s'",
	'airflow_bp.parking' => 'on');
airflow($node);

foreach my $step (600, -900)
{
	value($node, 'SELECT test.clean(); DELETE FROM airflow_bp.decision');
	value($node, "SELECT test.tasks('a1', 1, 20)");
	enforce($node, 2, 2);
	is(value($node, "SELECT test.ask('a1', 1, 4)"), 2, 'two pass, two are held');
	value($node, "SELECT test.set_state('a1', 1, 'success')");
	wait_for($node, q{SELECT count(*) = 1 FROM airflow_bp.held() WHERE granted AND task_id = 't3'}, 'a grant');
	my $pid = value($node, 'SELECT worker_pid FROM airflow_bp.status()');
	set_clock($step);
	is(value($node, "SELECT round(extract(epoch FROM clock_timestamp()) - " . time . ", -2)"), $step, "$step s: the clock is set");
	value($node, "SELECT airflow_bp.set_tenant('a', 2)");
	foreach my $soon (
		[ "airflow_bp.policy_version() = airflow_bp.policy_wanted()", 'a change of policy is in force' ],
		[ "(SELECT last_tick BETWEEN clock_timestamp() - interval '3 s' AND clock_timestamp() FROM airflow_bp.status())", 'the worker takes its turns' ],
		[ "(SELECT last_look BETWEEN clock_timestamp() - interval '3 s' AND clock_timestamp() FROM airflow_bp.sampler_status())", 'the sampler looks' ],
		[ "NOT EXISTS (SELECT FROM airflow_bp.held() WHERE granted AND task_id = 't3')", 'a grant that is not used is taken back' ])
	{
		wait_for($node, "SELECT $soon->[0]", "$step s: $soon->[1]");
	}
	value($node, "SELECT test.ask('a1', 7)");
	wait_for($node, "SELECT count(*) = 1 FROM airflow_bp.decision WHERE task_id = 't7'", "$step s: decisions are logged");
	value($node, "SET session_replication_role = replica; SELECT test.set_state('a1', 9, 'running')");
	wait_for($node, "SELECT drift_slots = 1 FROM airflow_bp.status()", "$step s: the worker recounts");
	is(value($node, 'SELECT worker_pid FROM airflow_bp.status()'), $pid, 'the worker is the same');
}

$node->stop;
done_testing();
