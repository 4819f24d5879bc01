# A streaming standby shows what it can and writes nothing; promoted, it takes over.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = start_node('primary', 'airflow_bp.startup_hold' => "'3s'");
airflow($primary);
airflow($primary, 'lone');
value($primary, 'SELECT test.enforce(2)', 'lone');
enforce($primary, 2);
is(value($primary, "SELECT test.ask('a1', 1, 5)"), 2, 'the primary enforces');
wait_for($primary, 'SELECT count(*) > 0 FROM airflow_bp.decision', 'and logs');
value($primary, "SELECT airflow_bp.set_pool('default_pool', 1, 200, act => true)");

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

is(value($standby, 'SELECT mode FROM airflow_bp.status()'), 'enforce', 'standby: status');
like(value($standby, 'SELECT note FROM airflow_bp.status()'), qr/standby/, 'says what it is');
is(value($standby, 'SELECT worker_pid IS NULL AND drift_slots IS NULL FROM airflow_bp.status()'), 't', 'what cannot be known is NULL');
is(value($standby, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'airflow_bp%'"), 0, 'no worker');
is(value($standby, 'SELECT sum(tasks) FROM airflow_bp.waiting_summary()'), value($primary, 'SELECT sum(tasks) FROM airflow_bp.waiting_summary()'), 'waiting_summary() as on the primary');
is(value($standby, "SELECT scheduled FROM airflow_bp.queue('deployment')"), 2, 'queue()');
is(value($standby, "SELECT concat_ws(' ', slots, demand, reason, allowed) FROM airflow_bp.pool_plan()"), '128 demand not known f', 'pool_plan()');
is(value($standby, 'SELECT count(*) FROM airflow_bp.held()'), 0, 'held() is empty');
is(value($standby, "SELECT airflow_bp.tenant_of('a1')"), 'a', 'tenant_of()');
is(value($standby, 'SELECT count(*) FROM airflow_bp.scheduler_loops(), airflow_bp.deadlock_counts()'), 1, 'scheduler_loops(), deadlock_counts()');
is(value($standby, 'SELECT (SELECT count(*) FROM airflow_bp.job_heartbeats()) + (SELECT count(*) FROM airflow_bp.dag_parses()) + (SELECT count(*) FROM airflow_bp.slow_statements())'),
	0, 'job_heartbeats(), dag_parses(), slow_statements()');
is(value($standby, "SELECT connections::text || (per_hour IS NULL) FROM airflow_bp.connections() WHERE component = '(all)'"), '1true', 'connections(), whose trend is that of the primary');
is(value($standby, "SELECT count(*)::text || count(live_tuples) || count(advice) FROM airflow_bp.hot_tables()"), '1400', 'hot_tables() has nothing to say');

# A table that the primary has locked is locked here by the process that replays.
my $locker = backend($primary);
$locker->query('BEGIN; LOCK TABLE dag_run');
$primary->wait_for_catchup($standby);
my $waiter = backend($primary);
$waiter->query_until(qr/started/, "\\echo started\nSELECT count(*) FROM dag_run;\n");
wait_for($primary, "SELECT samples > 0 FROM airflow_bp.lock_episodes() WHERE relation = 'dag_run'", 'one waits on the primary, and is seen');
my $reader = backend($standby);
$reader->query_until(qr/started/, "\\echo started\nSELECT count(*) FROM dag_run;\n");
wait_for($standby, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 'one waits on the standby');
is(value($standby, "SELECT waiters, component, lock_mode, relation FROM airflow_bp.lock_tree() WHERE depth = 0"), '1|unknown|AccessExclusiveLock|dag_run', 'lock_tree()');
is(value($standby, 'SELECT count(*) FROM test.tree_differs()'), 0, 'the same tree by pg_blocking_pids()');
$locker->query('COMMIT');
$_->quit foreach $locker, $waiter, $reader;
like(value($standby, 'SELECT note FROM airflow_bp.sampler_status()'), qr/standby/, 'the sampler is on the primary');
wait_for($standby, "SELECT count(*) > 0 FROM airflow_bp.lock_episodes() WHERE relation = 'dag_run'", 'lock_episodes() has what the primary saw');
is(value($standby, "SELECT sum(waiter_seconds) > 0 FROM airflow_bp.lock_timeline()"), 't', 'lock_timeline()');
wait_for($standby, 'SELECT count(*) > 0 FROM airflow_bp.gauges()', 'gauges() has what the worker of the primary samples');
foreach my $call ('tick()', 'recount()')
{
	my ($ret, $out, $err) = $standby->psql('airflow', '\set VERBOSITY sqlstate' . "\nSELECT airflow_bp.$call");
	like($err, qr/BP005/, "$call says that this is a standby");
}

# The primary goes on, then the standby takes over with what it has received.
value($primary, "SELECT test.set_state('a1', 1, 'success')");
wait_for($primary, "SELECT test.ask('a1', 3, 5) = 1", 'the next passes on the primary');
$primary->wait_for_catchup($standby);
$primary->stop;
value($standby, 'SELECT airflow_bp.status()', 'lone');
my $since = value($standby, 'SELECT clock_timestamp()');
wait_for($standby, "SELECT now() > '$since'::timestamptz + interval '3.5 s'", 'the standby was asked longer ago than startup_hold');
$standby->promote;
is(value($standby, "SELECT test.ask('a1', 7, 9)"), 0, 'promoted: the limit holds from the start');
is(value($standby, "SELECT test.ask('a1', 7, 9)", 'lone'), 0, 'and nothing passes before a recount');
wait_for($standby, 'SELECT ready AND worker_pid IS NOT NULL FROM airflow_bp.memory_state()', 'promoted: a worker recounts');
is(value($standby, "SELECT usage FROM airflow_bp.tenants() WHERE name = 'a'"), 2, 'usage is as it was');
is(value($standby, "SELECT test.ask('a1', 6)"), 0, 'the limit holds');
value($standby, "SELECT test.set_state('a1', 2, 'success')");
wait_for($standby, "SELECT test.ask('a1', 7, 9) = 1", 'a freed slot is given');
is(value($standby, 'SELECT test.drift()'), 0, 'no drift');

$standby->stop;
done_testing();
