# Who blocks whom, and what the sampler keeps of it: scenes with real sessions, crash, restart, rules, deadlocks.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_node('locks',
	'airflow_bp.lock_sample_period' => "'100ms'",
	deadlock_timeout => "'1s'",
	track_activity_query_size => 100,
	restart_after_crash => 'on',
	autovacuum => 'off',
	logging_collector => 'on',
	log_directory => "'log'",
	log_filename => "'server.log'");
airflow($node);
wait_for($node, 'SELECT pid IS NOT NULL AND looks > 0 FROM airflow_bp.sampler_status()', 'the sampler looks');

my $row1 = "dag_id = 'a1' AND task_id = 't1'";
my $row2 = "dag_id = 'a1' AND task_id = 't2'";

# A session that runs a statement that will wait.
sub waits
{
	my ($sql, $db) = @_;
	my $session = backend($node, $db);

	$session->query_until(qr/started/, "\\echo started\n$sql;\n");
	return $session;
}

sub pid_of
{
	return scalar $_[0]->query('SELECT pg_backend_pid()');
}

sub end
{
	$_->quit foreach @_;
}

sub waiting
{
	my ($n, $what) = @_;

	wait_for($node, "SELECT count(*) = $n FROM pg_stat_activity WHERE wait_event_type = 'Lock'", $what);
}

sub no_difference
{
	is(value($node, "SELECT count(*) FROM test.tree_differs()"), 0, "$_[0]: the same tree by pg_blocking_pids()");
}

# A prepared transaction has no session.
my $s1 = backend($node);
$s1->query("BEGIN; UPDATE task_instance SET updated_at = now() WHERE $row1; PREPARE TRANSACTION 'it''s'");
my $s2 = waits("UPDATE task_instance SET updated_at = now() WHERE $row1");
waiting(1, 'one waits for a prepared transaction');
is(value($node, "SELECT pid IS NULL, state, waiters, relation, airflow_row ->> 'task_id', statement, component FROM airflow_bp.lock_tree() WHERE depth = 0"),
	"t|prepared|1|task_instance|t1|PREPARE TRANSACTION 'it''s'|unknown", 'it is named');
is(value($node, 'SELECT blocked_by FROM airflow_bp.lock_tree() WHERE depth = 1'), '{0}', 'and is 0 to its waiter');
no_difference('prepared');
$s1->query("COMMIT PREPARED 'it''s'");
end($s2);

# A parallel worker waits in the name of its leader.
$s1->query('BEGIN; LOCK TABLE dag_run');
value($node, "CREATE FUNCTION test.runs() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN (SELECT count(*) FROM dag_run); END'");
my $force = value($node, "SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')");
$s2 = backend($node);
my $leader = pid_of($s2);
$s2->query("SET $force = on");
$s2->query_until(qr/started/, "\\echo started\nSELECT test.runs();\n");
wait_for($node, "SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.leader_pid = $leader", 'a parallel worker waits');
is(value($node, 'SELECT pid, cardinality(blocked_by), relation, lock_type FROM airflow_bp.lock_tree() WHERE depth = 1'), "$leader|1|dag_run|relation", 'its leader is shown');
no_difference('lock group');
$s1->query('COMMIT');
end($s2);

# Two that read and one that shares: a waiter with two roots.
$s1->query('BEGIN; SELECT count(*) FROM dag');
my $s3 = backend($node);
$s3->query("BEGIN; DELETE FROM dag");
my $s4 = waits('BEGIN; LOCK TABLE dag');
waiting(1, 'a table is asked for');
my $s5 = waits('BEGIN; LOCK TABLE dag IN SHARE MODE');
waiting(2, 'and shared');
is(value($node, 'SELECT string_agg(waiters::text, \' \' ORDER BY depth, waiters) FROM airflow_bp.lock_tree()'), '2 2 0 1', 'both roots have both waiters');
no_difference('two roots');
$_->query('ROLLBACK') foreach $s1, $s3;
end($s3, $s4, $s5);

# Statements of all kinds: cut off at 100 bytes, of another encoding, a name that means nothing.
$node->safe_psql('postgres', "CREATE DATABASE latin TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
my $latin = backend($node, 'latin');
$latin->query("SET application_name = 'airflow_bp worker; DROP TABLE x'");
$latin->query("BEGIN; LOCK TABLE pg_shdescription /* \xe9\xff'\" */");
$s2 = waits('SELECT count(*) FROM pg_shdescription');
waiting(1, 'one waits for a session of another database');
is(value($node, "SELECT component, statement ~ '[?][?]' OR getdatabaseencoding() <> 'UTF8', length(statement) < 100, state FROM airflow_bp.lock_tree() WHERE depth = 0"), 'unknown|t|t|idle in transaction', 'its statement is shown as well as it can be');
$latin->query('ROLLBACK');
end($latin, $s2);
$s1->query("BEGIN; UPDATE task_instance SET state='queued', queued_dttm='2026-01-01', queued_by_job_id=1, updated_at=now() /* " . ("\x{c3}\x{a9}" x 80) . " */ WHERE $row1");
$s2 = waits("UPDATE task_instance SET last_heartbeat_at='2026-01-01' WHERE $row1");
waiting(1, 'one waits for a statement that is cut off');
is(value($node, 'SELECT string_agg(concat(component, \': \', rule), \' \' ORDER BY depth) FROM airflow_bp.lock_tree()'),
	'scheduler: queues tasks api-server: heartbeat of a task', 'what is left of it tells');

# What the sampler makes of it.
wait_for($node, "SELECT samples >= 10 FROM airflow_bp.lock_episodes() WHERE blocker_component = 'scheduler'", 'ten looks see it');
value($node, 'SELECT clock_timestamp()');
$s1->query('COMMIT');
end($s2);
wait_for($node, "SELECT count(*) > 0 AND NOT bool_or(going_on) FROM airflow_bp.lock_episodes() WHERE blocker_component = 'scheduler'", 'the episode ends');
wait_for($node, "SELECT count(*) > 0 FROM airflow_bp.lock_history WHERE blocker_component = 'scheduler'", 'and is written');
is(value($node, "SELECT blocked_component, relation, airflow_row ->> 'task_id', episodes, idle_share, most_waiters, abs(waiter_seconds - extract(epoch FROM longest)) < 0.5
	FROM airflow_bp.lock_episodes() WHERE blocker_component = 'scheduler'"), 'api-server|task_instance|t1|1|1|1|t', 'with its cost');
is(value($node, "SELECT blocker_class, blocked_class, share > 0 FROM airflow_bp.lock_report() WHERE blocker_component = 'scheduler'"),
	'update task_instance|update task_instance|t', 'and reported');
is(value($node, "SELECT component, rule FROM airflow_bp.sessions() WHERE pid = " . pid_of($s1)), 'scheduler|earlier: queues tasks', 'a statement is remembered');

# Who waits for one transaction, each for something else of it.
$s1->query("BEGIN; UPDATE task_instance SET updated_at = now() WHERE $row1 OR $row2; INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('late', 1, false)");
$s2 = waits("UPDATE task_instance SET pool_slots = 1 WHERE $row1");
waiting(1, 'one waits for a row');
my $other = waits("UPDATE task_instance SET pool_slots = 1 WHERE $row2");
my $third = waits("INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('late', 1, false)");
waiting(3, 'one for another row, and one for what is no row yet');
my $wanted = "string_agg(coalesce(airflow_row ->> 'task_id', relation, 'no row'), ' ' ORDER BY airflow_row ->> 'task_id')";
my $episodes = "FROM airflow_bp.lock_episodes() WHERE going_on AND samples > 1";
is(value($node, "SELECT $wanted FROM airflow_bp.lock_tree() WHERE depth = 1"), 't1 t2 no row', 'each has its own');
wait_for($node, "SELECT count(*) = 3 $episodes", 'the sampler sees three episodes');
is(value($node, "SELECT $wanted $episodes"), 't1 t2 no row', 'each with its own');
$node->safe_psql('airflow', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' ORDER BY xact_start LIMIT 1");
waiting(2, 'the first leaves');
wait_for($node, "SELECT NOT bool_or(going_on) FROM airflow_bp.lock_episodes() WHERE airflow_row ->> 'task_id' = 't1'", 'its episode ends');
is(value($node, "SELECT $wanted $episodes"), 't2 no row', 'the others are what they were');
$s1->query('ROLLBACK');
waiting(0, 'nobody waits');
end($other, $third);
end($s1);

# A restart, and a crash, lose nothing that is written; looks go on.
wait_for($node, 'SELECT count(*) = 0 FROM airflow_bp.lock_episodes_open(false)', 'all is written');
my $cost = value($node, 'SELECT sum(waiter_seconds) FROM airflow_bp.lock_history');
$node->restart;
wait_for($node, 'SELECT looks > 0 AND last_look > pg_postmaster_start_time() FROM airflow_bp.sampler_status()', 'after a restart it looks');
is(value($node, 'SELECT sum(waiter_seconds) FROM airflow_bp.lock_history'), $cost, 'the history is there');
my $sampler = value($node, 'SELECT pid FROM airflow_bp.sampler_status()');
kill 9, $sampler;
wait_for($node, "SELECT pid <> $sampler AND last_look IS NOT NULL FROM airflow_bp.sampler_status()", 'killed: a new one looks');
is(value($node, 'SELECT sum(waiter_seconds) FROM airflow_bp.lock_history'), $cost, 'the history is there still');

# Idle is not blind.
$sampler = value($node, 'SELECT pid FROM airflow_bp.sampler_status()');
my $from = value($node, 'SELECT clock_timestamp()');
wait_for($node, "SELECT looks >= 10 FROM airflow_bp.sampler_status(tstzrange('$from', NULL))", 'it looks and nobody waits');
is(value($node, "SELECT waiting_share, blind < '0.5 s' FROM airflow_bp.sampler_status(tstzrange('$from', NULL))"), '0|t', 'idle');
kill 'STOP', $sampler;
wait_for($node, "SELECT clock_timestamp() - last_look > interval '2.5 s' FROM airflow_bp.sampler_status()", 'stopped: no look for a while');
kill 'CONT', $sampler;
wait_for($node, "SELECT last_look > clock_timestamp() - interval '1 s' FROM airflow_bp.sampler_status()", 'it goes on');
is(value($node, "SELECT blind > '1.5 s' FROM airflow_bp.sampler_status(tstzrange('$from', NULL))"), 't', 'blind for that time');
wait_for($node, "SELECT count(*) >= 10 FROM airflow_bp.sampler_tick WHERE resolution = 0 AND planned > '$from'", 'each look is written');
is(value($node, 'SELECT count(*) FROM airflow_bp.sampler_tick WHERE ticks <> 1 OR planned > from_at OR took < 0 OR error IS NOT NULL'), 0, 'as it was');

# The setting: at once, off, and what is not allowed.
$node->append_conf('postgresql.conf', "airflow_bp.lock_sample_period = '2s'");
$node->reload;
wait_for($node, "SELECT period = '2 s' AND wanted_period = '2 s' FROM airflow_bp.sampler_status()", 'another period');
$node->append_conf('postgresql.conf', 'airflow_bp.lock_sample_period = 0');
$node->reload;
wait_for($node, "SELECT note LIKE 'off:%' AND wanted_period IS NULL FROM airflow_bp.sampler_status()", 'off');
$node->append_conf('postgresql.conf', "airflow_bp.lock_sample_period = '99ms'");
$node->reload;
my $log = $node->data_dir . '/log/server.log';
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
usleep(50_000) until slurp_file($log) =~ /every 100 ms at most/ || time > $deadline;
like(slurp_file($log), qr/every 100 ms at most/, 'too often is refused');
$node->append_conf('postgresql.conf', "airflow_bp.lock_sample_period = '100ms'");
$node->reload;
wait_for($node, "SELECT period = '100 ms' FROM airflow_bp.sampler_status()", 'as before');

# The critical section.
$s1 = backend($node);
my $pid = pid_of($s1);
$s1->query('BEGIN; SELECT pg_advisory_xact_lock(2)');
wait_for($node, "SELECT count(*) > 0 FROM airflow_bp.critical_hold WHERE pid = $pid AND samples >= 3", 'who is in the critical section is seen');
$s1->query('COMMIT');
is(value($node, "SELECT share > 0 AND share <= 1, samples <= ticks, longest_at_least <= longest_at_most, held_seconds > 0 FROM airflow_bp.critical_section() WHERE pid = $pid"),
	't|t|t|t', 'with its share of the time');

# A deadlock: the sampler sees the cycle, PostgreSQL ends it, the log has its statements.
$s2 = backend($node);
my $pid2 = pid_of($s2);
wait_for($node, 'SELECT count(*) > 0 FROM airflow_bp.deadlock', 'deadlocks are counted from now on');
$s1->query("BEGIN; UPDATE task_instance SET updated_at = now() WHERE $row1");
$s2->query("BEGIN; UPDATE task_instance SET updated_at = now() WHERE $row2");
$s1->query_until(qr/started/, "\\echo started\nUPDATE task_instance SET updated_at = now() WHERE $row2;\n");
waiting(1, 'one waits');
$s2->query_until(qr/started/, "\\echo started\nUPDATE task_instance SET updated_at = now() WHERE $row1;\n");
usleep(50_000) until slurp_file($log) =~ /deadlock detected/ || time > $deadline + 60;
$_->query('ROLLBACK') foreach $s1, $s2;
wait_for($node, 'SELECT count(*) = 1 FROM airflow_bp.deadlocks()', 'a deadlock is counted');
is(value($node, "SELECT deadlocks, source, jsonb_array_length(sessions), sessions @> '[{\"pid\": $pid, \"blocked_by\": $pid2, \"relation\": \"task_instance\"}]' FROM airflow_bp.deadlocks()"),
	'1|cycle|2|t', 'and explained by what was seen before');
is(value($node, "SELECT count(*), bool_and(detail ~ 'Process $pid2: UPDATE task_instance') FROM airflow_bp.deadlock_log()"), '1|t', 'the log has the statements');
is(value($node, 'SELECT sum(deadlocks) FROM airflow_bp.lock_timeline()'), 1, 'the timeline has it');
end($s1, $s2);
($s1, $s2) = (backend($node), backend($node));
($pid, $pid2) = (pid_of($s1), pid_of($s2));

# Rules: first dry, then in earnest, never in the critical section, never one that holds a whole table.
value($node, "SELECT airflow_bp.set_lock_rule('idle', '1 s', relation => 'task_instance')");
$s1->query("BEGIN; UPDATE task_instance SET updated_at = now() WHERE $row1");
$s2->query("BEGIN; UPDATE task_instance SET updated_at = now() WHERE $row2; SELECT pg_advisory_xact_lock(2)");
$s3 = backend($node);
my $pid3 = pid_of($s3);
$s3->query('BEGIN; LOCK TABLE task_instance IN SHARE UPDATE EXCLUSIVE MODE; LOCK TABLE dag IN EXCLUSIVE MODE');
$s4 = waits("UPDATE task_instance SET updated_at = now() WHERE $row1");
wait_for($node, "SELECT count(*) = 1 FROM airflow_bp.lock_action WHERE pid = $pid AND NOT acted AND done IS NULL", 'a dry rule is logged');
is(value($node, "SELECT evidence #>> '{session,state}', jsonb_array_length(evidence -> 'blocked'), evidence #>> '{blocked,0,airflow_row,task_id}' FROM airflow_bp.lock_action"),
	'idle in transaction|1|t1', 'with its evidence');
wait_for($node, 'SELECT count(*) = 3 FROM airflow_bp.lock_rule_plan()', 'three sessions are idle');
is(value($node, "SELECT string_agg(CASE pid WHEN $pid THEN 'a' WHEN $pid2 THEN 'b' WHEN $pid3 THEN 'c' END || ' ' || allowed || ' ' || coalesce(reason, ''), ', ' ORDER BY array_position('{$pid,$pid2,$pid3}', pid)) FROM airflow_bp.lock_rule_plan()"),
	'a true , b false in the critical section of the schedulers, c false a migration, or holds a table exclusively', 'and one of them may be ended');
is(value($node, "SELECT airflow_bp.end_session(pid, backend_start - interval '1 s', xact_start, true) FROM airflow_bp.lock_rule_plan() WHERE pid = $pid"), 'f', 'not one that has the pid of another');
is(value($node, "SELECT airflow_bp.end_session(pid, backend_start, xact_start, true) FROM airflow_bp.lock_rule_plan() WHERE pid = $pid2"), 'f', 'not one in the critical section');
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pid, $pid2, $pid3)"), 3, 'all are there');
value($node, "SELECT airflow_bp.set_lock_rule('idle', '1 s', relation => 'task_instance', waiters => 1, act => true)");
wait_for($node, "SELECT count(*) = 1 FROM airflow_bp.lock_action WHERE acted AND done AND action = 'terminate' AND pid = $pid", 'in earnest');
wait_for($node, "SELECT count(*) = 2 FROM pg_stat_activity WHERE pid IN ($pid, $pid2, $pid3)", 'it is gone, the others are not');
wait_for($node, "SELECT count(*) = 0 FROM airflow_bp.lock_tree()", 'nobody waits');
is(value($node, 'SELECT count(*) FROM airflow_bp.lock_action WHERE acted'), 1, 'logged once');
value($node, "SELECT airflow_bp.drop_lock_rule('idle')");
$_->query('ROLLBACK') foreach $s2, $s3;
end($s2, $s3, $s4);

# A session of which a statement told the component is known by it; one that says two things is not, as a pooler may be between.
$s1 = backend($node);
$s1->query($_) foreach 'SELECT pg_try_advisory_xact_lock(2)', 'SELECT count(trigger.id) FROM trigger', 'SELECT 1';
is(value($node, 'SELECT component FROM airflow_bp.sessions() WHERE pid = ' . pid_of($s1)), 'unknown', 'what tells two things tells nothing');
end($s1);

# Nor is another one with its pid.
SKIP:
{
	my $most = -r '/proc/sys/kernel/pid_max' ? slurp_file('/proc/sys/kernel/pid_max') : 1 << 22;
	skip 'process numbers do not come again soon', 3 if $most > 100_000;
	my $s = backend($node);
	my $old = pid_of($s);
	$s->query('SELECT pg_try_advisory_xact_lock(2)');
	wait_for($node, "SELECT rule = 'critical section' FROM airflow_bp.sessions() WHERE pid = $old", 'a statement tells');
	$s->query('SELECT 1');
	is(value($node, "SELECT component, rule FROM airflow_bp.sessions() WHERE pid = $old"), 'scheduler|earlier: critical section', 'and is remembered');
	end($s);
	# psql and its session take the next two numbers, unless somebody else does.
	my $again = 0;
	for (1 .. 3)
	{
		my $last = 0;
		until ($last >= $old - 2 && $last < $old + 1000)
		{
			$last = fork() // die;
			POSIX::_exit(0) if $last == 0;
			waitpid $last, 0;
		}
		$s = backend($node);
		last if $again = pid_of($s) == $old;
		end($s);
	}
	skip 'the number was not had again', 1 unless $again;
	is(value($node, "SELECT component FROM airflow_bp.sessions() WHERE pid = $old"), 'unknown', 'a new session with its pid is not');
	end($s);
}

$node->stop;
done_testing();
