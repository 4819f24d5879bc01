# Logical replication of Airflow's tables: what is held is not sent, and what arrives is not held.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $publisher = start_node('publisher', wal_level => 'logical');
my $subscriber = start_node('subscriber', wal_level => 'logical', 'airflow_bp.recount_period' => "'1h'");
my $rows = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM task_instance t";

# All that was committed has been applied.
sub arrived
{
	my ($what) = @_;

	$publisher->wait_for_catchup('sub');
	is(value($subscriber, $rows), value($publisher, $rows), "$what: the rows are the same");
	is(value($subscriber, $rows =~ s/task_instance/dag_run/r), value($publisher, $rows =~ s/task_instance/dag_run/r), "$what: the runs too");
}

airflow($publisher);
airflow($subscriber);
value($subscriber, 'DELETE FROM task_instance; DELETE FROM dag_run');
enforce($publisher, 2);
is(value($publisher, "SELECT test.ask('a1', 1, 5)"), 2, 'the publisher enforces');
value($publisher, 'CREATE PUBLICATION pub FOR TABLE task_instance, dag_run');

# A subscriber that enforces a lower limit.
enforce($subscriber, 1);
my $connection = $publisher->connstr('airflow') =~ s/'/''/gr;
value($subscriber, "CREATE SUBSCRIPTION sub CONNECTION '$connection' PUBLICATION pub");
$subscriber->wait_for_subscription_sync($publisher, 'sub', 'airflow');
arrived('first copy');
value($publisher, "SELECT test.set_state('a1', 1, 'running')");
is(value($publisher, "SELECT test.ask('a1', 3, 5)"), 0, 'held by the publisher');
arrived('held');
value($publisher, "SELECT test.set_state('a1', i, 'success') FROM generate_series(1, 2) i");
wait_for($publisher, "SELECT test.ask('a1', 3, 5) > 0", 'freed slots are given');
wait_for($publisher, "SELECT test.ask('a1', 3, 5) + test.used('a%') = 2", 'both of them');
arrived('admitted, two where the subscriber would let one');
value($publisher, "DELETE FROM task_instance WHERE dag_id = 'b1'; SELECT test.tasks('a3', 1, 5, state => 'scheduled')");
arrived('inserted and deleted');
is(value($publisher, 'SELECT test.drift()'), 0, 'no drift on the publisher');

# Our triggers do not fire there, so the counters are those of the last recount; that is said.
is(value($subscriber, "SELECT held, note ~ 'a subscription writes task_instance' FROM airflow_bp.status()"), '0|t', 'the subscriber holds nothing and says what its counters are');
is(value($subscriber, "SELECT usage FROM airflow_bp.tenants() WHERE name = 'a'"), 0, 'which have not followed');
wait_for($subscriber, "SELECT counted = 7 FROM airflow_bp.recount() WHERE tenant = 'a'", 'a recount counts what has arrived');
is(value($subscriber, "SELECT usage FROM airflow_bp.tenants() WHERE name = 'a'"), 7, 'and corrects the counters');
is(value($subscriber, "SELECT scheduled FROM airflow_bp.queue('deployment')"), value($publisher, "SELECT scheduled FROM airflow_bp.queue('deployment')"), 'queue() as on the publisher');

# Triggers that are made to fire there count, and hold nothing.
value($subscriber, 'ALTER TABLE task_instance ENABLE ALWAYS TRIGGER zz_airflow_bp_gate; ALTER TABLE task_instance ENABLE ALWAYS TRIGGER zz_airflow_bp_count');
value($publisher, "SELECT test.set_state('a3', i, 'success') FROM generate_series(1, 4) i");
value($publisher, "SELECT airflow_bp.set_mode('observe')");
wait_for($publisher, "SELECT mode = 'observe' FROM airflow_bp.memory_state()", 'the publisher holds nothing more');
cmp_ok(value($publisher, "SELECT test.ask('a1', 1, 20)"), '>', 5, 'many are admitted at once');
arrived('with triggers that always fire');
is(value($subscriber, 'SELECT held FROM airflow_bp.status()'), 0, 'nothing is held');
is(value($subscriber, 'SELECT test.drift()'), 0, 'and the counters follow');

# The subscriber takes over.
value($subscriber, 'DROP SUBSCRIPTION sub');
value($subscriber, 'ALTER TABLE task_instance ENABLE TRIGGER zz_airflow_bp_gate; ALTER TABLE task_instance ENABLE TRIGGER zz_airflow_bp_count');
is(value($subscriber, "SELECT coalesce(note ~ 'subscription', false) FROM airflow_bp.status()"), 'f', 'taken over: nothing to note');
value($subscriber, "SELECT setval('dag_run_id_seq', 1000); SELECT test.tasks('a4', 1, 3)");
is(value($subscriber, "SELECT test.ask('a4', 1, 3)"), 0, 'its limit holds');
value($subscriber, "SELECT test.set_state(dag_id, substr(task_id, 2)::int, 'success') FROM task_instance WHERE state = 'scheduled'");
wait_for($subscriber, "SELECT test.ask('a4', 1, 3) = 1", 'as slots come free, one may start');
is(value($subscriber, 'SELECT test.drift()'), 0, 'no drift');
unlike(slurp_file($_->logfile), qr/was terminated by signal|PANIC|TRAP/, $_->name . ': nothing has crashed') foreach $publisher, $subscriber;

$_->stop foreach $subscriber, $publisher;
done_testing();
