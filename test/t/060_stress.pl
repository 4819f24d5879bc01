# Seeded random load from many sessions: the recount finds no drift while it runs, and no limit is ever exceeded.
# STRESS_SEED repeats a load, STRESS_SECONDS makes it longer.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;
use IPC::Run;

my $seed = $ENV{STRESS_SEED} // int(rand(1 << 30));
my $seconds = $ENV{STRESS_SECONDS} // 8;
diag("seed $seed");

my $node = start_node('stress',
	track_commit_timestamp => 'on',
	deadlock_timeout => "'20ms'",
	'airflow_bp.recount_period' => "'1s'",
	'airflow_bp.startup_hold' => "'60s'");
airflow($node);
$node->safe_psql('airflow', <<'SQL');
-- DAGs a1 to a5 and b1 to b5 with 20 tasks each.
SELECT test.tasks(t || d, CASE WHEN d = 1 THEN 21 ELSE 1 END, 40, 'pool_' || d % 3, NULL, 1 + d % 2)
FROM unnest('{a,b}'::text[]) t, generate_series(1, 5) d;

-- A task of a DAG that nobody else is changing.
CREATE FUNCTION test.pick(dags text, which text, n float8) RETURNS uuid
LANGUAGE sql AS $$
	SELECT id FROM task_instance
	WHERE dag_id LIKE dags AND coalesce(state, 'none') ~ which AND id > md5(n::text)::uuid
	ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
$$;

-- Something that Airflow, its users or nobody ever does.
CREATE FUNCTION test.chaos(kind int, n float8) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	task uuid := test.pick('%', '', n);
	states text[] := '{scheduled,queued,running,restarting,deferred,up_for_retry,up_for_reschedule,success,failed,removed,NULL}';
BEGIN
	CASE kind
	WHEN 1 THEN UPDATE task_instance SET pool = 'pool_' || (n * 1000)::int % 4 WHERE id = task;
	WHEN 2 THEN UPDATE task_instance SET pool_slots = 1 + (n * 1000)::int % 3 WHERE id = task;
	WHEN 3 THEN UPDATE task_instance SET id = gen_random_uuid(), state = NULL WHERE id = task;
	WHEN 4 THEN DELETE FROM task_instance WHERE id = task;
	WHEN 5 THEN
		INSERT INTO task_instance (id, dag_id, run_id, task_id, try_number, pool, pool_slots, queue, state, priority_weight)
		VALUES (gen_random_uuid(), 'a' || 1 + (n * 1000)::int % 5, 'run', n::text, 0, 'pool_1', 1, 'default', nullif(states[1 + (n * 1e6)::int % 11], 'NULL'), 1)
		ON CONFLICT (dag_id, task_id, run_id, map_index) DO UPDATE SET state = excluded.state;
	WHEN 6 THEN
		BEGIN
			UPDATE task_instance SET state = 'running' WHERE id = task;
			RAISE EXCEPTION 'undone';
		EXCEPTION WHEN raise_exception THEN
			UPDATE task_instance SET state = 'queued', queue = 'q' || (n * 1000)::int % 3 WHERE id = task;
		END;
	WHEN 7 THEN
		UPDATE task_instance SET state = 'scheduled', scheduled_dttm = now(), try_number = try_number + 1
		WHERE id IN (SELECT id FROM task_instance WHERE dag_id = 'b' || 1 + (n * 1000)::int % 5 FOR NO KEY UPDATE SKIP LOCKED)
			AND (state IS NULL OR state IN ('up_for_retry', 'up_for_reschedule'));
	WHEN 8 THEN
		INSERT INTO task_instance (id, dag_id, run_id, task_id, try_number, pool, pool_slots, queue, state, priority_weight)
		SELECT gen_random_uuid(), dag_id, run_id, task_id, 0, pool, 1, queue, 'running', 1 FROM task_instance WHERE id = task
		ON CONFLICT DO NOTHING;
	ELSE UPDATE task_instance SET state = nullif(states[1 + (n * 1e6)::int % 11], 'NULL'), scheduled_dttm = now() WHERE id = task;
	END CASE;
END
$$;

-- So quick one after the other that some commits come late: visible to a recount, and counted after its end.
CREATE FUNCTION test.recounts(n int) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
	total numeric := 0;
BEGIN
	FOR i IN 1 .. n LOOP
		total := total + test.drift();
	END LOOP;
	RETURN total;
END
$$;

CREATE TABLE test.finish (tenant text, slots int);

-- Some tasks become queued, running, finished and new.
CREATE FUNCTION test.execute(dags text, n float8) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	task uuid;
	old text;
BEGIN
	FOR step IN 1 .. 4 LOOP
		task := test.pick(dags, 'scheduled|queued|running|success', n / step);
		SELECT state INTO old FROM task_instance WHERE id = task;
		UPDATE task_instance SET state = CASE old WHEN 'scheduled' THEN 'queued' WHEN 'queued' THEN 'running' WHEN 'running' THEN 'success' END
		WHERE id = task;
		INSERT INTO test.finish SELECT left(dag_id, 1), pool_slots FROM task_instance WHERE id = task AND old = 'running';
	END LOOP;
END
$$;
SQL

# Runs scripts, each as "weight => SQL", and calls back until they end.
sub load_while
{
	my ($clients, $scripts, $callback) = @_;
	my @files;
	my ($out, $err) = ('', '');

	foreach my $weight (sort keys %$scripts)
	{
		my $file = PostgreSQL::Test::Utils::tempdir . "/script_$weight.sql";
		append_to_file($file, $scripts->{$weight});
		push @files, '-f', $file . '@' . ($weight =~ /(\d+)/)[0];
	}
	my $bench = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-j', 2, '-T', $seconds, "--random-seed=$seed", '--max-tries=1000',
			@files, $node->connstr('airflow') ], '>', \$out, '2>', \$err);
	while ($bench->pumpable)
	{
		$callback->();
		$bench->pump_nb;
	}
	$bench->finish;
	is($?, 0, 'the load ran to its end') or diag($err);
	my ($done) = $out =~ /number of transactions actually processed: (\d+)/;
	cmp_ok($done // 0, '>', 100, 'with ' . ($done // 0) . ' transactions');
	unlike($err, qr/ERROR|abort/i, 'without an error') or diag(substr($err, 0, 2000));
}

# Pools decide the tenant here, so a move between pools moves usage.
$node->safe_psql('airflow', "
	SELECT airflow_bp.set_tenant('a', 15), airflow_bp.set_tenant('b', 9, count_deferred => true);
	SELECT airflow_bp.add_tenant_rule('a', 'pool', 'pool_1'), airflow_bp.add_tenant_rule('b', 'pool', 'pool_2');
	SELECT airflow_bp.enable('enforce')");
wait_for($node, 'SELECT ready FROM airflow_bp.memory_state()', 'counters ready');

# The policy changes meanwhile.
my @changes = (
	"SELECT airflow_bp.set_tenant('a', 4)",
	"UPDATE airflow_bp.tenant_rule SET tenant = CASE tenant WHEN 'a' THEN 'b' ELSE 'a' END",
	"SELECT airflow_bp.set_tenant('b', 12, count_deferred => false)",
	"SELECT airflow_bp.set_tenant('a', 30)",
	"SELECT airflow_bp.set_tenant('c', 7), airflow_bp.add_tenant_rule('c', 'queue', 'q1', 1)",
	"SELECT airflow_bp.set_tenant('b', 9, count_deferred => true)",
	"SELECT airflow_bp.drop_tenant_rule(1), airflow_bp.drop_tenant('c')");
my ($drift, $recounts) = (0, 0);
load_while(6, { 'chaos 1' => q{
\set k1 random(1, 12)
\set k2 random(1, 12)
\set k3 random(1, 12)
\set n1 random(1, 1000000)
\set n2 random(1, 1000000)
\set n3 random(1, 1000000)
\set end random(1, 6)
BEGIN;
SELECT test.chaos(:k1, :n1 / 1000003.0);
SAVEPOINT s;
SELECT test.chaos(:k2, :n2 / 1000003.0);
\if :end > 3
ROLLBACK TO s;
\else
RELEASE s;
\endif
SELECT test.chaos(:k3, :n3 / 1000003.0);
\if :end = 1
ROLLBACK;
\else
COMMIT;
\endif
} }, sub {
	my $found = value($node, 'SELECT test.recounts(50)');
	value($node, $changes[$recounts++ % @changes]);
	diag("drift $found in round $recounts") if $found != 0;
	$drift += $found;
});
is($drift, 0, "no drift in $recounts times 50 recounts under load");
cmp_ok($recounts, '>', 5, 'there were recounts');
is(value($node, 'SELECT drift_slots FROM airflow_bp.status()'), 0, 'nor in those of the worker');
is(value($node, 'SELECT test.drift()'), 0, 'nor in the end');

my $by_tables = q{SELECT coalesce(state, 'none'), count(*) FROM task_instance
	WHERE state IS NULL OR state IN ('scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry', 'up_for_reschedule') GROUP BY 1};
is(value($node, "SELECT count(*) FROM ($by_tables) t (state, n) FULL JOIN (SELECT scope_name, none + scheduled + queued + running + deferred
	+ up_for_retry + up_for_reschedule FROM airflow_bp.queue('state')) q (state, n) USING (state)
	WHERE coalesce(t.n, 0) <> coalesce(q.n, 0) AND state NOT IN ('running', 'restarting')"), 0, 'tasks by state are as in the tables');
is(value($node, 'SELECT fail_open_total FROM airflow_bp.status()'), 0, 'nothing was let through unjudged');

# What passes the gate only: limits hold in every snapshot.
my %limit = (a => 11, b => 6);
$node->safe_psql('airflow', "
	SELECT test.clean();
	SELECT test.tasks(t || d, 1, 40, 'pool_' || d % 3, NULL, 1 + d % 2) FROM unnest('{a,b}'::text[]) t, generate_series(1, 5) d;");
# Decisions of before may be written later.
my $since = value($node, 'SELECT clock_timestamp()');
enforce($node, $limit{a}, $limit{b});

my %most = (a => 0, b => 0);
my $samples = 0;
load_while(6, { 'ask 4' => q{
\set d random(1, 5)
\set t random(1, 2)
\set i random(1, 36)
\set end random(1, 6)
BEGIN;
SELECT test.ask(CASE :t WHEN 1 THEN 'a' ELSE 'b' END || :d, :i, :i + 4);
SAVEPOINT s;
SELECT test.ask(CASE :t WHEN 1 THEN 'b' ELSE 'a' END || :d, :i, :i + 2);
\if :end = 2
ROLLBACK TO s;
\endif
\if :end = 1
ROLLBACK;
\else
COMMIT;
\endif
}, 'execute 1' => q{
\set n random(1, 1000000)
\set t random(1, 2)
SELECT test.execute(CASE :t WHEN 1 THEN 'a%' ELSE 'b%' END, :n / 1000003.0);
} }, sub {
	my ($a, $b) = split /\|/, value($node, "SELECT test.used('a%'), test.used('b%')");
	$samples++;
	$most{a} = $a if $a > $most{a};
	$most{b} = $b if $b > $most{b};
});
foreach my $tenant (qw(a b))
{
	cmp_ok($most{$tenant}, '<=', $limit{$tenant}, "tenant $tenant used at most $most{$tenant} in $samples samples");
	cmp_ok($most{$tenant}, '>', $limit{$tenant} / 2, 'and did not idle');
}
is(value($node, 'SELECT test.drift()'), 0, 'no drift in the end');

# Replay: a finish counts from its commit, so the sum is never above what was in use.
$node->safe_psql('airflow', 'SELECT airflow_bp.tick()');
foreach my $tenant (qw(a b))
{
	my $peak = value($node, "SELECT max(used) FROM (SELECT sum(slots) OVER (ORDER BY at, slots ROWS UNBOUNDED PRECEDING) AS used
		FROM (SELECT at, slots FROM airflow_bp.decision WHERE tenant = '$tenant' AND verdict = 'admit' AND at > '$since'
			UNION ALL SELECT pg_xact_commit_timestamp(xmin), -slots FROM test.finish WHERE tenant = '$tenant') e) u");
	cmp_ok($peak, '<=', $limit{$tenant}, "tenant $tenant never above its limit in the decision log: $peak")
		or diag("since $since\n" . value($node, "SELECT * FROM airflow_bp.decision WHERE tenant = '$tenant' AND verdict <> 'hold' ORDER BY at"));
	cmp_ok($peak, '>', $limit{$tenant} / 2, 'which holds its admissions');
}

$node->stop;
done_testing();
