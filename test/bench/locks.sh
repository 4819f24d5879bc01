#!/bin/bash
# What the sampler and lock_tree() cost, beside idle sessions, a convoy and a busy pgbench, and what the history of waits takes a day; needs the
# extension installed.
# usage: locks.sh [PART]...   quiet, convoy, busy, hot, storage; all unless given
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
# BUSY, HOT: seconds of pgbench.  QUIET: seconds of watching idle sessions.  WAITERS: sessions in the scenes of storage.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"
busy=${BUSY:-960}
hot=${HOT:-240}
quiet=${QUIET:-60}
waiters=${WAITERS:-10 100 1000}

# PostgreSQL's check for deadlocks goes through the whole queue, once for each waiter: it would hide what 1,000 of them cost us.
if [ "${1:-}" != --inside ]; then
	[ $# -gt 0 ] || set -- quiet convoy busy hot storage
	for part; do
		"$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "airflow_bp.database = 'bench'" -c "max_connections = 1100" \
			-c "autovacuum = off" -c "checkpoint_timeout = 1d" -c "max_wal_size = 20GB" -c "shared_buffers = 1GB" \
			-c "deadlock_timeout = $([ "$part" = storage ] && echo 1h || echo 1s)" "$here/locks.sh" --inside "$part" || missed=1
	done
	exit $missed
fi
part=$2
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'

createdb bench
sql -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql" \
	-c "SELECT load_gen.load(dags => 20, runs => 10, tasks => 10, live => 0, queued => 0)" \
	-c "UPDATE dag_run SET state = 'success'" -c "UPDATE task_instance SET state = 'success'" -c "VACUUM ANALYZE task_instance, dag_run" \
	-c "CREATE EXTENSION airflow_bp" -c "SELECT airflow_bp.enable()" -f "$here/locks.sql" \
	-c "CALL bench.await('pid IS NOT NULL AND ticks > 0 FROM airflow_bp.sampler_memory()')"
sampler=$(sql -c "SELECT pid FROM airflow_bp.sampler_memory()")
worker=$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'airflow_bp%' AND datname = 'bench'")
clients=()
trap end_sessions EXIT

# CPU time of processes, in seconds.
cpu()
{
	local pid ticks=0 rest

	for pid; do
		rest=$(sed 's/.*) //' "/proc/$pid/stat")
		# shellcheck disable=SC2086
		set -- $rest
		ticks=$((ticks + ${12} + ${13}))
	done
	calc "$ticks / $(getconf CLK_TCK)"
}

calc()
{
	awk "BEGIN { printf \"%.3f\", $1 }"
}

set_period()
{
	sql -c "ALTER SYSTEM SET airflow_bp.lock_sample_period = '$1'" -c "SELECT pg_reload_conf()" >/dev/null
}

# A task's state, as the API server asks for it; clients wait for one row, or each for its own.
ask="SELECT task_instance.state, task_instance.dag_id, task_instance.run_id, task_instance.task_id, task_instance.map_index, task_instance.try_number, task_instance.max_tries, task_instance.start_date, task_instance.next_method, task_instance.hostname, task_instance.unixname, task_instance.pid, next_kwargs, dag_run.logical_date, dag.owners FROM task_instance JOIN dag_run ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id JOIN dag ON task_instance.dag_id = dag.dag_id WHERE task_instance.id = ':id'::UUID"

# sessions NUMBER ALIKE CLAUSE: open sessions that ask, with a clause; ALIKE 1: for one row, 0: each for its own
sessions()
{
	PGAPPNAME=asking pgbench -n -c "$1" -T 36000 -D alike="$2" -f <(cat <<-SQL
		\\set n (1 - :alike) * :client_id
		SELECT id FROM bench.target WHERE n = :n \\gset
		$ask $3;
		\\sleep 36000 s
	SQL
	) >/dev/null 2>&1 &
	clients+=($!)
}

# await_sessions NUMBER NAME CONDITION
await_sessions()
{
	for _ in {1..600}; do
		[ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$2' AND $3")" != "$1" ] || return 0
		sleep 0.2
	done
	echo "there are not $1 sessions: $2, $3" >&2
	exit 1
}

# They go, and who blocks them.
end_sessions()
{
	sql -c "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name IN ('asking', 'holding')" >/dev/null
	[ ${#clients[@]} = 0 ] || kill "${clients[@]}" 2>/dev/null || true
	wait
	clients=()
}

# hold ROWS: a session in the critical section that has updated so many rows, each in a subtransaction, and idles
hold()
{
	PGAPPNAME=holding pgbench -n -c 1 -T 36000 -f <(
		echo "BEGIN;"
		echo "SELECT pg_advisory_xact_lock(2);"
		sql -c "SELECT format('SAVEPOINT s; UPDATE task_instance SET updated_at=''2026-01-01T00:00:00.000000+00:00''::timestamptz WHERE task_instance.id = %L::UUID;', id)
			FROM bench.target WHERE n < $1 ORDER BY n" | sed 's/; UPDATE/;\nUPDATE/'
		echo "\\sleep 36000 s"
	) >/dev/null 2>&1 &
	clients+=($!)
	await_sessions 1 holding "state = 'idle in transaction' AND query LIKE 'UPDATE%' AND state_change < clock_timestamp() - interval '1 s'"
}

convoy()
{
	hold "$([ "$2" = 1 ] && echo 1 || echo "$1")"
	sessions "$1" "$2" "FOR UPDATE OF task_instance"
	await_sessions "$1" asking "wait_event_type = 'Lock'"
}

# looks SINCE: number, mean and longest in ms, period in ms, of the looks since then
looks()
{
	sql -F ' ' -c "SELECT looks, round(took_ms::numeric, 3), round(longest_ms::numeric, 3), extract(epoch FROM period) * 1000, crowded
		FROM airflow_bp.sampler_status(tstzrange('$1', NULL))"
}

watch_quiet()
{
	local since before used count mean longest

	set_period "$1"
	sleep 2
	since=$(sql -c "SELECT clock_timestamp()")
	before=$(cpu "$sampler")
	sleep "$quiet"
	used=$(calc "($(cpu "$sampler") - $before) / $quiet * 100")
	read -r count mean longest _ < <(looks "$since")
	verdict "$mean" '<' 1 "300 idle sessions, $count looks at $1: a look takes $mean ms, under 1 ms; the longest $longest ms"
	if [ "$1" = 1s ]; then
		verdict "$used" '<' 0.15 "300 idle sessions, looks at $1: the sampler takes $used % of a core in $quiet s; under 0.15 %"
	else
		echo "        300 idle sessions, looks at $1: the sampler takes $used % of a core in $quiet s"
	fi
}

run_quiet()
{
	sessions 300 0 ""
	await_sessions 300 asking "state = 'idle' AND query LIKE 'SELECT task%'"
	watch_quiet 1s
	watch_quiet 100ms
}

run_convoy()
{
	local since tree waits blocking pids rows mean longest count

	convoy 250 1
	since=$(sql -c "SELECT clock_timestamp()")
	read -r tree waits blocking < <(sql -F ' ' -c "SELECT bench.median('SELECT count(*) FROM airflow_bp.lock_tree()', 30),
		bench.median('SELECT count(*) FROM airflow_bp.lock_waits()', 30),
		bench.median('SELECT sum(cardinality(pg_blocking_pids(pid))) FROM pg_stat_activity WHERE wait_event_type = ''Lock''', 10)")
	read -r rows < <(sql -c "SELECT count(*) FROM airflow_bp.lock_tree()")
	read -r pids < <(sql -c "SELECT sum(cardinality(pg_blocking_pids(pid))) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
	verdict "$tree" '<' 10 "250 wait for one row: lock_tree() $tree ms, median of 30, $rows rows; under 10 ms"
	echo "        of that lock_waits(): $waits ms; pg_blocking_pids() of all waiters: $blocking ms, $pids pids; $(calc "$blocking / $tree") x"
	sleep 20
	read -r count mean longest _ < <(looks "$since")
	echo "        a look of the sampler then: $mean ms, the longest of $count $longest ms"
}

# compare SCENE SECONDS OPTIONS...: one pgbench, while the sampler is switched on and off each 4 s, in the order on, off, off, on: the speed of the
# machine drifts less in 16 s than from run to run.  The second of the change does not count.  What the sampler has seen is written in the third.
# It can take processors, which are all busy, and hold up whoever wants a lock during a look, so the sum of both is the most that can be lost.
compare()
{
	local scene=$1 seconds=$2 tps n=0 states=(on off off on) since ours looking blocks mean error

	shift 2
	set_period 1s
	pgbench -n -M prepared -c 8 -j 2 -T 5 "$@" >/dev/null 2>&1
	since=$(sql -c "SELECT clock_timestamp()")
	ours=$(cpu "$sampler" "$worker")
	while read -r _ _ _ tps _; do
		((n % 4 == 0)) || echo "$((n / 16)) ${states[n / 4 % 4]} $tps"
		n=$((n + 1))
		case $((n % 4)) in
			0) set_period "$([ "${states[n / 4 % 4]}" = on ] && echo 1s || echo 0)" ;;
			2) sql -o /dev/null -c "SELECT $([ "${states[n / 4 % 4]}" = on ] && echo 'airflow_bp.lock_turn()' || echo 1)" ;;
		esac
	done < <(pgbench -n -M prepared -c 8 -j 2 -P 1 -T "$seconds" "$@" 2>&1 >/dev/null | grep --line-buffered '^progress') |
		sql -c "COPY bench.second FROM stdin (DELIMITER ' ')"
	# It was on for half of the time.
	ours=$(calc "($(cpu "$sampler" "$worker") - $ours) / $seconds / $(nproc) * 100 * 2")
	looking=$(sql -c "SELECT round((100 * cost_share)::numeric, 3) FROM airflow_bp.sampler_status(tstzrange('$since', NULL))")
	read -r blocks mean error < <(sql -F ' ' -c "SELECT * FROM bench.compared")
	verdict "$ours + $looking" '<' 0.5 "pgbench, $scene, 8 clients: sampler and worker take $ours % of all cores, looks $looking % of the time; together under 0.5 %"
	if [ "$(sql -c "SELECT $error <= 0.0025")" = t ]; then
		verdict "$mean" '>=' 0.995 "the same: $mean of the transactions with the sampler, mean of $blocks blocks of 16 s, standard error $error; at least 0.995"
	else
		echo "        $mean of the transactions with the sampler, mean of $blocks blocks of 16 s, standard error $error: that cannot tell half a percent"
	fi
}

run_busy()
{
	pgbench -i -q -s 20 >/dev/null 2>&1
	compare "scale 20" "$busy" -b tpcb-like -s 20
}

run_hot()
{
	pgbench -i -q -s 20 >/dev/null 2>&1
	compare "one hot row" "$hot" -b tpcb-like -D scale=1
}

# wal SECONDS: bytes of WAL a minute
wal()
{
	local before

	before=$(sql -c "SELECT pg_current_wal_insert_lsn()")
	sleep "$1"
	sql -c "SELECT round((pg_current_wal_insert_lsn() - '$before') * 60 / $1)"
}

# scene WAITERS ALIKE NAME: a piece is written after a second, and then at times that double up to a minute, so the steady rate of pieces is one a
# minute for each episode
scene()
{
	local since bytes before

	set_period 0
	sql -o /dev/null -c "SELECT airflow_bp.lock_turn()" -c "TRUNCATE airflow_bp.lock_history, airflow_bp.lock_statement, airflow_bp.sampler_tick, airflow_bp.critical_hold"
	convoy "$1" "$2"
	before=$(wal 20)
	set_period 1s
	since=$(sql -c "SELECT clock_timestamp()")
	sleep 30
	bytes=$(wal 60)
	sql -c "
		WITH seen AS (
			SELECT looks, took_ms, longest_ms, open_episodes, crowded, extract(epoch FROM period) AS period,
				(SELECT count(*) FROM airflow_bp.critical_hold) / extract(epoch FROM clock_timestamp() - '$since') AS holds,
				(SELECT count(*) FROM airflow_bp.lock_history WHERE to_at >= '$since'::timestamptz + interval '30 s') AS pieces,
				bench.row_bytes('airflow_bp.lock_history') AS piece_bytes, bench.row_bytes('airflow_bp.sampler_tick') AS tick_bytes,
				bench.row_bytes('airflow_bp.critical_hold') AS hold_bytes
			FROM airflow_bp.sampler_status(tstzrange('$since', NULL)))
		SELECT format('        %s wait, %s: %s MB a day: lock_history %s (%s episodes, a row of %s bytes a minute each), sampler_tick %s (%s rows of %s bytes), critical_hold %s (%s rows of %s bytes)',
				$1, '$3', round(((open_episodes * 1440 * piece_bytes + 86400 / period * tick_bytes + holds * 86400 * hold_bytes) / 1e6)::numeric, 1),
				round((open_episodes * 1440 * piece_bytes / 1e6)::numeric, 1), open_episodes, piece_bytes,
				round((86400 / period * tick_bytes / 1e6)::numeric, 1), round((86400 / period)::numeric), tick_bytes,
				round((holds * 86400 * hold_bytes / 1e6)::numeric, 1), round(holds * 86400), hold_bytes)
			|| E'\n' || format('        WAL: %s kB a minute with %s pieces in it, %s without the sampler; a look takes %s ms, the longest %s ms, one each %s s; %s samples of episodes without a place',
				round($bytes / 1000.0), pieces, round($before / 1000.0), round(took_ms::numeric, 2), round(longest_ms::numeric, 2), round(period::numeric, 1), crowded)
		FROM seen"
	end_sessions
	sql -c "CALL bench.await('count(*) = 0 FROM airflow_bp.lock_episodes_open(false)')"
}

run_storage()
{
	local n

	for n in $waiters; do
		scene "$n" 1 "all for one row"
		scene "$n" 0 "each for its own row"
	done
}

run_$part
exit $missed
