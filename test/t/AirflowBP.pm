# A server with the schema of an Airflow, tasks and our extension.
package AirflowBP;

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_node airflow enforce value start_again wait_for worker_of fixture backend);

sub fixture
{
	return "$FindBin::RealBin/../fixtures/$_[0]";
}

# A server with our library preloaded; settings override.  install_path: of another installation.
sub start_node
{
	my ($name, %settings) = @_;
	my $path = delete $settings{install_path};
	my $node = PostgreSQL::Test::Cluster->new($name, $path ? (install_path => $path) : ());
	my %all = (
		shared_preload_libraries => "'airflow_bp'",
		'airflow_bp.database' => "'airflow'",
		max_prepared_transactions => 10,
		%settings);

	$node->init(allows_streaming => 1);
	$node->append_conf('postgresql.conf', "$_ = $all{$_}\n")
	  foreach grep { defined $all{$_} } sort keys %all;
	$node->start;
	return $node;
}

# After a kill of the postmaster: its children may still be there.
sub start_again
{
	my ($node) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($node->start(fail_ok => 1))
	{
		BAIL_OUT('the server does not start') if time > $deadline;
		$node->stop('fast', fail_ok => 1);
		usleep(50_000);
	}
}

# A database with an Airflow of some tasks: runs a1 and b1, not enabled.
sub airflow
{
	my ($node, $db) = @_;

	$db //= 'airflow';
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION airflow_bp');
	$node->psql($db, '\i ' . fixture($_), on_error_die => 1)
	  foreach qw(airflow_3_3_2.sql tasks.sql);
	$node->safe_psql($db, "SELECT test.tasks('a1', 1, 20), test.tasks('b1', 1, 20)");
	return $db;
}

# Limits for the tenants a and b in force, and the counters ready.
sub enforce
{
	my ($node, @limits) = @_;

	$node->safe_psql('airflow', 'SELECT test.enforce(' . join(', ', map { $_ // 'NULL' } @limits) . ')');
	ready($node);
}

sub ready
{
	my ($node) = @_;

	wait_for($node, "SELECT m.ready AND airflow_bp.policy_version() = airflow_bp.policy_wanted()
		AND EXISTS (SELECT FROM airflow_bp.tenants() t WHERE t.usage >= 0) FROM airflow_bp.memory_state() m",
		'policy in force and counters ready');
}

sub value
{
	my ($node, $sql, $db) = @_;

	return $node->safe_psql($db // 'airflow', $sql);
}

# Wait until a query says true; it may fail meanwhile.
sub wait_for
{
	my ($node, $sql, $what, $db) = @_;

	return ok($node->poll_query_until($db // 'airflow', $sql), $what);
}

sub worker_of
{
	my ($node, $db) = @_;

	return value($node, 'SELECT coalesce(worker_pid, 0) FROM airflow_bp.memory_state()', $db);
}

# A psql session that stays.
sub backend
{
	my ($node, $db) = @_;

	return $node->background_psql($db // 'airflow', on_error_stop => 0);
}

1;
