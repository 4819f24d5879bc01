# pg_upgrade to another version of PostgreSQL: policy, history, triggers and the rows of Airflow are there, and the worker goes on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../t";
use AirflowBP;
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

my $old_bindir = $ENV{OLD_BINDIR} or die 'OLD_BINDIR: where the programs of the older version are';
chomp(my $new_bindir = qx(pg_config --bindir));

my $old = start_node('old', install_path => dirname($old_bindir), 'airflow_bp.parking' => 'on', log_min_messages => 'debug1');
airflow($old);
value($old, 'CREATE ROLE reader; CREATE ROLE operator', 'postgres');
enforce($old, 2, 5);
value($old, "SELECT airflow_bp.grant_reader('reader'), airflow_bp.grant_operator('operator'), airflow_bp.set_mode('observe'), airflow_bp.set_mode('enforce'),
	airflow_bp.set_cohort('c'), airflow_bp.set_tenant('d', 1, 'c'), airflow_bp.set_pool('default_pool', 1, 200), airflow_bp.drain_start('tenant', 'd')");
is(value($old, "SELECT test.ask('a1', 1, 5)"), 2, 'the old server enforces');
is(value($old, 'SELECT count(*) FROM airflow_bp.held()'), 3, 'and holds');
value($old, "UPDATE task_instance SET state = 'failed', try_number = 1, end_date = now() WHERE id = test.id('b1', 1)");
wait_for($old, "SELECT count(*) > 0 FROM airflow_bp.decision WHERE verdict = 'hold'", 'decisions are logged');
wait_for($old, "SELECT count(*) = 1 FROM airflow_bp.dead_letter WHERE cause = 'retries_exhausted'", 'a letter is written');
is(value($old, "SELECT airflow_bp.dlq_retry(id, downstream => false) > 0 FROM airflow_bp.dead_letter"), 't', 'and retried');

# All rows of the schemas of Airflow and of ours.
my $rows = q(SELECT c.oid::regclass, query_to_xml(format('SELECT count(*), md5(string_agg(t::text, $$,$$ ORDER BY t::text)) FROM %s t', c.oid::regclass), false, true, '')
	FROM pg_class c WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'airflow_bp'::regnamespace) ORDER BY c.oid::regclass::text);
# What is the same in another database too.
my $policy = "SELECT (SELECT json_agg(t ORDER BY name)::text FROM airflow_bp.tenant t), (SELECT json_agg(r ORDER BY place)::text FROM airflow_bp.tenant_rule r),
	(SELECT json_agg(a ORDER BY act_id)::text FROM airflow_bp.act a), (SELECT mode FROM airflow_bp.deployment),
	(SELECT string_agg(concat_ws(' ', cause, status, act_id), ',') FROM airflow_bp.dead_letter), (SELECT string_agg(scope || name, ',') FROM airflow_bp.drain WHERE stopped_at IS NULL),
	airflow_bp.gate_table(), (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_airflow_bp%' AND tgenabled = 'O'),
	(SELECT string_agg(has_function_privilege(r, f, 'EXECUTE')::text, '') FROM unnest('{reader,operator,public}'::text[]) r, unnest('{airflow_bp.status(),airflow_bp.set_mode(text),airflow_bp.gate()}'::text[]) f)";

my $new = start_node('new', log_min_messages => 'debug1');
$new->stop;
my @upgrade = ('pg_upgrade', '-b', $old_bindir, '-B', $new_bindir, '-d', $old->data_dir, '-D', $new->data_dir,
	'-p', $old->port, '-P', $new->port, '-s', $new->host, '--retain', '-U', value($old, 'SELECT current_user'));
$old->command_ok([ 'pg_dump', '-d', $old->connstr('airflow'), '-F', 'custom', '-f', $old->backup_dir . '/dump' ], 'pg_dump of the old server');
command_ok([ @upgrade, '--check' ], 'pg_upgrade --check, while the worker is at work');

# Counted while no worker writes.
$old->adjust_conf('postgresql.conf', 'airflow_bp.database', "''");
$old->restart;
my ($policy_before, $rows_before) = map { value($old, $_) } $policy, $rows;
$old->stop;
$old->adjust_conf('postgresql.conf', 'airflow_bp.database', "'airflow'");
command_ok(\@upgrade, 'pg_upgrade');
my $log = join '', map { slurp_file($_) } glob($new->data_dir . '/pg_upgrade_output.d/*/log/*');
like($log, qr/background worker "logical replication launcher"/, 'its log tells of processes');
unlike($log, qr/background worker "airflow_bp/, 'and of none of ours');

$new->adjust_conf('postgresql.conf', 'airflow_bp.database', "''");
$new->start;
is(value($new, $rows), $rows_before, 'each row is there');
is(value($new, $policy), $policy_before, 'policy, triggers and rights too');
$new->adjust_conf('postgresql.conf', 'airflow_bp.database', "'airflow'");
$new->restart;
wait_for($new, 'SELECT ready AND worker_pid IS NOT NULL FROM airflow_bp.memory_state()', 'a worker recounts');
is(value($new, 'SELECT mode, head_known, drift_slots FROM airflow_bp.status()'), 'enforce|t|0', 'status()');
is(value($new, 'SELECT note FROM airflow_bp.status()'), 'drains: 1, see drain_status()', 'the drain is in force, and nothing else to note');
is(value($new, "SELECT usage FROM airflow_bp.tenants() WHERE name = 'a'"), 2, 'usage is as it was');
is(value($new, "SELECT test.ask('a1', 3, 5)"), 0, 'the limit holds');
value($new, "SELECT test.set_state('a1', 1, 'success')");
wait_for($new, "SELECT test.ask('a1', 3, 5) = 1", 'a freed slot is given');
is(value($new, 'SELECT test.drift()'), 0, 'no drift');
value($new, "SELECT airflow_bp.set_mode('observe')");
is(value($new, 'SELECT count(*) = count(DISTINCT act_id) FROM airflow_bp.act'), 't', 'the sequences go on');
value($new, 'SELECT airflow_bp.undo(max(act_id)) FROM airflow_bp.act');
is(value($new, 'SELECT mode FROM airflow_bp.status()'), 'enforce', 'an act is undone');

# The same by pg_dump and pg_restore.
value($new, 'CREATE DATABASE restored', 'postgres');
$new->command_ok([ 'pg_restore', '-e', '-d', $new->connstr('restored'), $old->backup_dir . '/dump' ], 'pg_restore');
is(value($new, $policy, 'restored'), $policy_before, 'restored: policy, triggers and rights');
is(value($new, 'SELECT airflow_bp.tick()', 'restored'), 't', 'restored: a turn');
is(value($new, 'SELECT test.drift()', 'restored'), 0, 'restored: no drift');

is(value($new, 'SELECT airflow_bp.disable()') . $new->psql('airflow', 'DROP EXTENSION airflow_bp'), 0, 'disabled and dropped');
$new->stop;
done_testing();
