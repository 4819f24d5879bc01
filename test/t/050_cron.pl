# tick() by pg_cron, in the database of Airflow and from another one.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $job = "SELECT airflow_bp.schedule_with_pg_cron('1 minute')";
my $job_row = 'SELECT jobname, schedule, command, database, username, active FROM cron.job ORDER BY jobid';

# What a statement that fails says.
sub refusal
{
	my ($node, $db, $sql) = @_;
	my $err;

	isnt($node->psql($db, "\\set VERBOSITY verbose\n$sql", stderr => \$err), 0, "refused: $sql") or return '';
	return $err;
}

# The statement that a hint tells to run.
sub told
{
	my ($err, $db) = @_;

	like($err, qr/BP005: pg_cron keeps its jobs in database "$db"/, 'the database is named');
	return $err =~ /Run there: (.*;)$/m ? $1 : BAIL_OUT("no statement in: $err");
}

# Not loaded.
my $plain = start_node('plain', 'airflow_bp.database' => undef);
airflow($plain);
like(refusal($plain, 'airflow', $job), qr/BP005: pg_cron is not loaded/, 'not loaded');
# A name in the configuration file loads nothing.
$plain->append_conf('postgresql.conf', "cron.database_name = 'airflow'\n");
$plain->restart;
like(refusal($plain, 'airflow', $job), qr/BP005: pg_cron is not loaded/, 'configured, not loaded');
$plain->stop;

# No worker of ours: only pg_cron takes turns.
my $node = start_node('cron',
	shared_preload_libraries => "'pg_cron, airflow_bp'",
	'airflow_bp.database' => undef,
	'cron.database_name' => "'airflow'",
	'cron.use_background_workers' => 'on',
	max_worker_processes => 20);
airflow($node);
airflow($node, 'elsewhere');
$node->safe_psql($_, "SELECT test.enforce(2)") foreach qw(airflow elsewhere);
foreach my $db (qw(airflow elsewhere))
{
	is(value($node, 'SELECT last_tick IS NULL FROM airflow_bp.status()', $db), 't', "no turn yet in $db");
}
like(refusal($node, 'airflow', $job), qr/BP005: pg_cron is loaded, but not installed.*CREATE EXTENSION pg_cron/s, 'not installed');
$node->safe_psql('airflow', 'CREATE EXTENSION pg_cron');
is(value($node, 'SELECT airflow_bp.unschedule_pg_cron()'), 'f', 'nothing to remove');

# Seconds: where pg_cron knows them.
if (value($node, "SELECT airflow_bp.cron_version() >= '{1,5}'") eq 't')
{
	value($node, 'SELECT airflow_bp.schedule_with_pg_cron()');
	is(value($node, 'SELECT schedule FROM cron.job'), '1 seconds', 'every second');
}
else
{
	like(refusal($node, 'airflow', 'SELECT airflow_bp.schedule_with_pg_cron()'),
		qr/BP005: pg_cron 1\.\d+ knows no periods under a minute.*'1 minute'/s, 'too old for seconds');
	is(value($node, 'SELECT count(*) FROM cron.job'), 0, 'and nothing is scheduled');
}

# In the same database: one job, whoever schedules it how often.
like(value($node, $job), qr/^\d+$/, 'scheduled');
value($node, $job);
my $user = value($node, 'SELECT current_user');
is(value($node, $job_row), "airflow_bp|*/1 * * * *|SELECT airflow_bp.tick()|airflow|$user|t", 'one job');
value($node, "CREATE ROLE other SUPERUSER LOGIN");
value($node, "SET ROLE other; $job");
is(value($node, $job_row), 'airflow_bp|*/1 * * * *|SELECT airflow_bp.tick()|airflow|other|t', 'one job of another role');
is(value($node, 'SELECT airflow_bp.unschedule_pg_cron()'), 't', 'removed');
is(value($node, 'SELECT airflow_bp.unschedule_pg_cron()'), 'f', 'once');

# Run by an operator that is not a superuser.
value($node, "CREATE ROLE operator LOGIN; SELECT airflow_bp.grant_operator('operator'); GRANT USAGE ON SCHEMA cron TO operator");
value($node, "SET ROLE operator; SELECT cron.schedule('turns', '* * * * *', 'SELECT airflow_bp.tick()')");

# In another database: the hints are statements that work there.
my $there = told(refusal($node, 'elsewhere', $job), 'airflow');
value($node, $there);
is(value($node, "SELECT jobname, schedule, command, database FROM cron.job WHERE database = 'elsewhere'"),
	'airflow_bp elsewhere|*/1 * * * *|SELECT airflow_bp.tick()|elsewhere', 'scheduled from there');

# Turns are really taken.
foreach my $db (qw(airflow elsewhere))
{
	wait_for($node, 'SELECT last_tick IS NOT NULL FROM airflow_bp.status()', "a turn in $db", $db);
	is(value($node, "SELECT test.ask('a1', 1, 4)", $db), 2, "the limit is in force in $db");
}
wait_for($node, "SELECT count(DISTINCT database) = 2 FROM cron.job_run_details
	WHERE status = 'succeeded' AND command = 'SELECT airflow_bp.tick()'", 'pg_cron saw them succeed');

value($node, told(refusal($node, 'elsewhere', 'SELECT airflow_bp.unschedule_pg_cron()'), 'airflow'));
is(value($node, 'SELECT string_agg(jobname, \',\') FROM cron.job'), 'turns', 'removed from there');
$node->stop;

done_testing();
