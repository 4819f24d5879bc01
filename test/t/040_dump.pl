# Policy survives pg_dump once; without preload all but counting and holding works.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('dump');
airflow($node);
enforce($node, 2, 5);
is(value($node, "SELECT test.ask('a1', 1, 5)"), 2, 'enforced');
value($node, "SELECT airflow_bp.set_mode('observe'), airflow_bp.set_mode('enforce')");

# Cohorts whose rows, and whose names, stand in no helpful order.
value($node, "SELECT airflow_bp.set_cohort('zz'), airflow_bp.set_cohort('mm'), airflow_bp.set_cohort('aa', 'zz', 3, 2, 1, 0.1)");
value($node, "SELECT airflow_bp.set_cohort('zz', 'mm', 7, weight => 0), airflow_bp.set_tenant('0', 1, 'aa', 4, 0, 1e-9, 'best_effort')");

my $policy = "SELECT (SELECT count(*) FROM airflow_bp.deployment), (SELECT string_agg(name || nominal, ',' ORDER BY name) FROM airflow_bp.tenant),
	(SELECT json_agg(t ORDER BY name)::text FROM airflow_bp.tenant t WHERE cohort IS NOT NULL), (SELECT json_agg(c ORDER BY name)::text FROM airflow_bp.cohort c),
	(SELECT string_agg(place || pattern, ',' ORDER BY place) FROM airflow_bp.tenant_rule), (SELECT count(*) FROM airflow_bp.act),
	(SELECT mode FROM airflow_bp.deployment), (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_airflow_bp%')";
my $before = value($node, $policy);

foreach my $format ('plain', 'custom')
{
	my $file = $node->backup_dir . "/$format";
	$node->command_checks_all([ 'pg_dump', '-d', $node->connstr('airflow'), '-F', $format, '-f', $file ], 0, [qr/^$/], [qr/^$/], "$format: pg_dump");
	$node->safe_psql('postgres', "CREATE DATABASE $format");
	my @restore = $format eq 'plain' ? ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file) : ('pg_restore', '-e', $file);
	$node->command_ok([ @restore, '-d', $node->connstr($format) ], "$format: restored without an error");
	is(value($node, $policy, $format), $before, "$format: each row of policy once, and the triggers");
	value($node, "SELECT airflow_bp.set_mode('observe')", $format);
	is(value($node, "SELECT count(*) = count(DISTINCT act_id) FROM airflow_bp.act", $format), 't', "$format: the sequence goes on");
	is(value($node, "SELECT airflow_bp.tick()", $format), 't', "$format: a turn");
	is(value($node, 'SELECT test.drift()', $format), 0, "$format: counters are right");
}
$node->command_checks_all([ 'pg_dump', '-d', $node->connstr('airflow'), '-a', '-n', 'airflow_bp' ], 0, [qr/COPY airflow_bp.cohort/], [qr/^$/],
	'rows alone: no warning of a cycle');
is(value($node, 'SELECT string_agg(DISTINCT deptype::text, $$$$) FROM pg_depend d JOIN pg_trigger t ON t.oid = d.objid
	WHERE d.classid = $$pg_trigger$$::regclass AND d.refclassid = $$pg_extension$$::regclass AND tgname LIKE $$zz_airflow_bp%$$', 'plain'), 'x',
	'restored triggers go with the extension');
is($node->psql('plain', 'DROP EXTENSION airflow_bp'), 0, 'DROP EXTENSION needs no CASCADE');

# Without preload.
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
like(value($node, 'SELECT preloaded::text || note FROM airflow_bp.status()'), qr/^false.*not preloaded/, 'not preloaded: status says so');
is(value($node, "SELECT test.ask('a1', 6, 9)"), 4, 'the statements of Airflow work, nothing is held');
is(value($node, "SELECT test.tasks('a9', 1, 2); DELETE FROM task_instance WHERE dag_id = 'a9'; UPDATE dag_run SET last_scheduling_decision = now(); SELECT 'done'"),
	"\ndone", 'all of them');
is(value($node, "SELECT scheduled FROM airflow_bp.queue('deployment')"), 6, 'queue() counts by SQL');
airflow($node, 'bare');
my ($ret, $out, $err) = $node->psql('bare', 'SELECT airflow_bp.enable()');
is($ret, 0, 'enable() works');
like($err, qr/WARNING:.*not preloaded/, 'with a warning');
($ret, $out, $err) = $node->psql('bare', '\set VERBOSITY sqlstate' . "\nSELECT airflow_bp.tick()");
like($err, qr/BP005/, 'tick() says what is missing');
is($node->psql('bare', 'SELECT airflow_bp.disable(); DROP EXTENSION airflow_bp'), 0, 'disable and drop');

$node->stop;
done_testing();
