# The worker samples with or without our triggers, and goes on after a crash; statements where pg_stat_statements is preloaded.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('speed', shared_preload_libraries => "'pg_stat_statements, airflow_bp'");
airflow($node);
is(value($node, 'SELECT count(*) FROM airflow_bp.slow_statements()'), 0, 'no statements before pg_stat_statements is installed here');
$node->safe_psql('airflow', 'CREATE SCHEMA "else where"; CREATE EXTENSION pg_stat_statements SCHEMA "else where"; SELECT "else where".pg_stat_statements_reset()');
$node->safe_psql('airflow', 'SELECT count(*) FROM dag_run WHERE state IS NULL;') foreach 1 .. 3;
is(value($node, q{SELECT concat_ws(' ', component = airflow_bp.statement_component(statement), calls, rows, total_ms >= max_ms, mean_ms = total_ms / 3, max_ms > 0, share BETWEEN 0 AND 1, statement)
	FROM airflow_bp.slow_statements(NULL) WHERE statement ~ '^SELECT count.* FROM dag_run'}), 't 3 3 t t t t SELECT count(*) FROM dag_run WHERE state IS NULL', 'a statement');
is(value($node, 'SELECT round(sum(share)::numeric, 6) || (count(*) > 1)::text FROM airflow_bp.slow_statements(NULL)'), '1.000000true', 'shares are of the whole');
is(value($node, 'SELECT count(*) FROM airflow_bp.slow_statements(1)'), 1, 'the slowest');
is($node->safe_psql('postgres', 'CREATE EXTENSION airflow_bp; CREATE EXTENSION pg_stat_statements; SELECT count(*) FROM airflow_bp.slow_statements(NULL) WHERE statement ~ $$FROM dag_run$$'),
	0, 'none of another database');

my $totals = "SELECT count(*) >= %d FROM airflow_bp.gauge WHERE name = 'deadlocks_total'";
wait_for($node, sprintf($totals, 1), 'the worker samples, not enabled');
is(value($node, 'SELECT worker_pid IS NOT NULL AND NOT EXISTS (SELECT FROM airflow_bp.deployment) FROM airflow_bp.memory_state()'), 't', 'by itself');
$node->stop('immediate');
start_again($node);
value($node, 'TRUNCATE airflow_bp.gauge');
wait_for($node, sprintf($totals, 2), 'and goes on after a crash');
is(value($node, "SELECT DISTINCT total FROM airflow_bp.gauge WHERE name = 'deadlocks'"), 0, 'with changes of the counters');

$node->stop;
done_testing();
