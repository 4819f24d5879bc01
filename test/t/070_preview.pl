# preview() and hundreds of thousands of damaged inputs: it refuses or answers, and keeps no memory.
# PREVIEW_SEED repeats a run.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use AirflowBP;
use PostgreSQL::Test::Utils;
use Test::More;

my $batch = 20_000;
my $batches = 11;
my $seed = $ENV{PREVIEW_SEED} // (time ^ $$);
diag("seed $seed");
srand($seed);

# No library preloaded, no Airflow.
my $node = start_node('preview', shared_preload_libraries => undef, 'airflow_bp.database' => undef);
$node->safe_psql('postgres', 'CREATE DATABASE airflow');
$node->safe_psql('airflow', 'CREATE EXTENSION airflow_bp');

sub one_of
{
	return $_[ rand @_ ];
}

sub string
{
	my ($text) = @_;

	return qq("$text");
}

my @odd = (qw(null true false [] {} [[]] {"a":1} "" "NaN" "-Infinity" "1" 0 -0 -1 1.5 2147483647 2147483648 -2147483649 9223372036854775808
	1e308 1e400 1e-400 -1e5000 0.000000001 0.0000000001 1.0), string('\\ud83d\\ude00'), string("\x{fc}"), string('x' x 300), '[' x 60 . ']' x 60);

# A value, now and then one that does not belong there.
sub maybe
{
	my ($value, $oddness) = @_;

	return rand() < $oddness ? one_of(@odd) : $value;
}

sub object
{
	my ($oddness, %fields) = @_;
	my @parts = map { string($_) . ':' . maybe($fields{$_}, $oddness) } grep { rand() > $oddness } keys %fields;

	return '{' . join(',', @parts) . '}';
}

sub array
{
	my ($oddness, @elements) = @_;

	return '[' . join(',', map { maybe($_, $oddness / 4) } @elements) . ']';
}

sub limit
{
	return one_of('null', 'null', int rand 5, int rand 20);
}

sub shares
{
	return (nominal => int rand 10, borrowing_limit => limit(), lending_limit => limit(), weight => one_of(0, 1, 1, 2, 0.5, 1e-9, 7));
}

sub input
{
	my $oddness = one_of(0, 0, 0.003, 0.01, 0.05);
	my $cohorts = int rand 5;
	my $tenants = 1 + int rand 5;
	my $loose = rand() < 0.05 ? $cohorts : undef;
	my @cohorts = map { object($oddness, name => string("c$_"), parent => $_ && rand() < 0.7 ? string('c' . int rand($loose // $_)) : 'null', shares()) } 0 .. $cohorts - 1;
	my @tenants = map { object($oddness, name => string("t$_"), cohort => $cohorts ? string('c' . int rand $cohorts) : 'null', shares(),
		queueing => string(one_of('strict', 'best_effort'))) } 0 .. $tenants - 1;
	my @pending = map { object($oddness, id => string("p$_"), tenant => string('t' . int rand $tenants), slots => int rand 4, priority => int(rand 5) - 2,
		created_s => int rand 100, dag => string('d' . int rand 3)) } 0 .. int rand 12;

	return object($oddness, cohorts => array($oddness, @cohorts), tenants => array($oddness, @tenants), pending => array($oddness, @pending),
		usage => object($oddness, map { ("t$_" => int rand 12) } grep { rand() < 0.5 } 0 .. $tenants - 1),
		admitted => array($oddness, map { object($oddness, tenant => string("t$_"), slots => int rand 3, dag => string('d' . int rand 3)) } grep { rand() < 0.3 } 0 .. $tenants - 1),
		rand() < 0.3 ? (now_s => 100, max_age_s => int rand 200, age_priority => int rand 9, age_tasks => int rand 3, half_life_s => int rand 60) : (),
		rand() < 0.3 ? (watch => string('p' . int rand 4), finishes => object($oddness, map { ("t$_" => rand 9) } 0 .. $tenants - 1)) : ());
}

# One input in ten is damaged as text.
sub damaged
{
	my ($text) = @_;

	return $text unless rand() < 0.1;
	for (0 .. rand 3)
	{
		my $at = int rand length $text;

		substr($text, $at, int rand 4) = one_of('', ',', ':', '"', '[', '}', '0', '9', 'e', '-', '.', 'null', substr($text, int rand length $text, 30));
	}
	return $text;
}

my $session = backend($node);
$session->query(<<'SQL');
CREATE TABLE input (text text);
CREATE TABLE outcome (code text, example text);
CREATE PROCEDURE fuzz() LANGUAGE plpgsql AS $$
DECLARE
	given text;
	parsed jsonb;
	answer jsonb;
	code text;
BEGIN
	FOR given IN SELECT text FROM input LOOP
		BEGIN
			parsed := given;
			code := 'answered';
		EXCEPTION WHEN OTHERS THEN
			code := 'not JSON';
		END;
		IF code = 'answered' THEN
			BEGIN
				answer := airflow_bp.preview(parsed);
				IF jsonb_array_length(answer->'order') + jsonb_array_length(answer->'held')
					IS DISTINCT FROM coalesce(jsonb_array_length(nullif(parsed->'pending', 'null')), 0) THEN
					code := 'lost a task';
				END IF;
			EXCEPTION WHEN OTHERS THEN
				code := sqlstate;
			END;
		END IF;
		INSERT INTO outcome VALUES (code, CASE WHEN code <> ALL ('{answered,not JSON,BP001,BP002,BP007,BP008}') THEN given END);
	END LOOP;
END
$$;
SQL

my $pid = $session->query('SELECT pg_backend_pid()');

# Bytes that the backend has, by its own account and by the kernel's.
sub memory
{
	open my $statm, '<', "/proc/$pid/statm" or die "statm: $!";
	my ($size, $resident) = split ' ', <$statm>;
	close $statm;
	return ($session->query('SELECT sum(total_bytes) FROM pg_backend_memory_contexts'), $resident * 4096);
}

my $file = PostgreSQL::Test::Utils::tempdir() . '/input';
my (@before, @after);
foreach my $number (1 .. $batches)
{
	open my $out, '>:utf8', $file or die "$file: $!";
	print $out damaged(input()), "\n" for 1 .. $batch;
	close $out;
	$session->query("TRUNCATE input");
	$session->query("\\copy input from '$file' with (format csv, delimiter E'\\x01', quote E'\\x02')");
	$session->query('CALL fuzz()');
	@after = memory();
	@before = @after if $number == 2;
}
is($session->query('SELECT count(*) FROM outcome'), $batch * $batches, 'each input was tried');
is($session->query("SELECT string_agg(DISTINCT code COLLATE \"C\", ' ' ORDER BY code COLLATE \"C\") FROM outcome"), 'BP001 BP002 BP007 BP008 answered not JSON',
	'and answered, or refused by a code of ours')
  or diag($session->query('SELECT code, left(example, 2000) FROM outcome WHERE example IS NOT NULL LIMIT 5'));
cmp_ok($session->query("SELECT count(*) FROM outcome WHERE code = 'answered'"), '>', $batch * $batches / 4, 'many were answered');
is($session->query('SELECT pg_backend_pid()'), $pid, 'the backend lives');
cmp_ok($after[0] - $before[0], '<', 1 << 18, 'memory contexts do not grow');
cmp_ok($after[1] - $before[1], '<', 16 << 20, 'nor does the process');

# What a caller sees of one input, made by an expression.
sub refused
{
	my ($input, $code, $what) = @_;

	$session->query("TRUNCATE outcome; TRUNCATE input");
	$session->query("INSERT INTO input SELECT $input");
	$session->query('CALL fuzz()');
	is($session->query('SELECT string_agg(code, chr(32)) FROM outcome'), $code, $what);
}

my $rows = q{(SELECT string_agg(format('{"id": "%s", "tenant": "a", "slots": %s}', i, mod(i, 7)), ',') FROM generate_series(1, 250000) i)};
my $large = q('{"tenants": [{"name": "a", "nominal": 1000}], "pending": [' || ) . $rows;
is($session->query("SELECT length($rows) > 1e7"), 't', 'ten megabytes');
refused("$large || ']}'", 'answered', 'of good rows');
refused("$large || ', {}]}'", 'BP008', 'with a bad one at the end');
refused(qq($large || ', {"id": "1", "tenant": "a"}]}'), 'BP001', 'with one twice');
refused(q('{"tenants": ' || repeat('[', 2000000) || repeat(']', 2000000) || '}'), 'not JSON', 'deeper than the stack');
refused(q('{"tenants": ' || repeat('[', 5000) || repeat(']', 5000) || '}'), 'BP008', 'deep arrays');
refused(q('{"usage": ' || repeat('{"a":', 5000) || '1' || repeat('}', 5000) || '}'), 'BP002', 'deep objects');
refused(q('{"tenants": [{"name": "' || repeat('x', 10000000) || '", "nominal": 1}], "usage": {"' || repeat('x', 10000001) || '": 1}}'), 'BP001', 'long names');
refused(q('{"cohorts": [' || (SELECT string_agg(format('{"name": "%s", "parent": "%s"}', i, mod(i, 200000) + 1), ',') FROM generate_series(1, 200000) i) || ']}'),
	'BP007', 'a long cycle');
is($session->query('SELECT pg_backend_pid()'), $pid, 'the backend lives');

# It can be cancelled.
$session->query("CREATE TABLE large AS SELECT ($large || ']}')::jsonb AS input");
$session->query(q{SET statement_timeout = '100ms'});
$session->query('SELECT airflow_bp.preview(input) FROM large, generate_series(1, 1000)');
like($session->{stderr}, qr/canceling statement due to statement timeout/, 'cancelled');
$session->query('SET statement_timeout = 0');
is($session->query('SELECT pg_backend_pid()'), $pid, 'and the backend lives');

$session->quit;
$node->stop;
done_testing();
