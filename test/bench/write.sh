#!/bin/bash
# Time what the gate adds to the statements of Airflow, on two million tasks and with 1,000 tenants; needs the extension installed.
# usage: write.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"
rounds=${ROUNDS:-36}

# Full page writes would hide part of what the gate costs, vacuum and checkpoints would come when they like.
if [ "${1:-}" != --inside ]; then
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "airflow_bp.max_dags = 20000" -c "autovacuum = off" \
		-c "shared_buffers = 2GB" -c "max_wal_size = 20GB" -c "checkpoint_timeout = 1d" -c "full_page_writes = off" "$here/write.sh" --inside
fi
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'

# A trigger that does nothing shows what any BEFORE UPDATE row trigger costs.
probe=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp_probe.XXXXXX")
trap 'rm -rf "$probe"' EXIT
chmod 755 "$probe"
${CC:-cc} -O2 -fPIC -shared -I"$("$PG_CONFIG" --includedir-server)" -o "$probe/probe.so" "$here/probe.c"

echo "loading 2,000,000 tasks" >&2
createdb bench
sql -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql" \
	-c "SELECT load_gen.load(seed => 2, dags => 2000, runs => 70, tasks => 10, live => 0.05, queued => 0.3, tenants => 1000)" \
	-c "SELECT load_gen.load(seed => 3, dags => 2, runs => 150, tasks => 2000, live => 0, queued => 1, tenants => 2)" \
	-c "VACUUM ANALYZE task_instance" -c "CREATE EXTENSION airflow_bp" -c CHECKPOINT
sql -v probe="$probe/probe.so" -f "$here/write.sql"

echo "timing" >&2
sql -c "CALL bench.verdicts(20)" -c "CALL bench.asks('ask', 'wide', '{none,noop,enforce}', $rounds)" -c "CALL bench.holds($rounds / 2)" \
	-c "CALL bench.asks('ask, 1,000 DAGs', 'spread', '{none,noop,enforce}', 13)" \
	-c "CALL bench.asks('ask, observe', 'wide', '{none,observe}', $rounds / 2)"
# As Airflow sends them: each heartbeat by itself, in a transaction of its own.
for ((round = 1; round <= rounds; round++)); do
	for variant in $(sql -c "SELECT bench.order('{none,noop,enforce}', $round)"); do
		cat <<-SQL
			CALL bench.prepare('$variant');
			CALL bench.warm('wide');
			CREATE TEMP TABLE beat AS SELECT 'BEGIN' AS b, bench.heartbeat(ARRAY[id]) AS u, 'COMMIT' AS c FROM unnest((bench.some_ids($round))[:1000]) id;
			SELECT bench.cpu() AS cpu, clock_timestamp() AS wall \gset
			TABLE beat \gexec
			INSERT INTO bench.result VALUES ('heartbeat', '$variant', $round, 1000, 1000,
				extract(epoch FROM clock_timestamp() - :'wall') * 1000, (bench.cpu() - :cpu) / 1000.0);
			DROP TABLE beat;
		SQL
	done
done | sql -o /dev/null

psql -X -q -c "TABLE bench.report"
echo
ratio()
{
	sql -c "SELECT cpu_ratio FROM bench.report WHERE scene = '$1' AND variant = '$2'"
}

r=$(ratio ask enforce)
verdict "$r" '<=' 1.05 "UPDATE of 2,000 tasks by the scheduler, enforce: $r of that without trigger (a trigger that does nothing: $(ratio ask noop)); at most 1.05"
r=$(ratio 'ask, observe' observe)
verdict "$r" '<=' 1.05 "UPDATE of 2,000 tasks by the scheduler, observe: $r of that without trigger; at most 1.05"
r=$(ratio heartbeat enforce)
verdict "$r" '<=' 1.02 "heartbeat: $r of that without trigger (a trigger that does nothing: $(ratio heartbeat noop)); at most 1.02"
for scene in 'ask, held' 'ask, held again'; do
	r=$(ratio "$scene" enforce)
	verdict "$r" '<=' 0.3 "$scene: $r of the UPDATE it replaces; at most 0.3"
done
for kind in wide held; do
	ns=$(sql -c "SELECT gate_ns - noop_ns FROM bench.verdict_ns WHERE kind = '$kind'")
	verdict "$ns" '<=' 500 "one verdict, $kind: $ns ns; at most 500"
done
admitted=$(sql -c "SELECT count(*) FROM bench.result WHERE scene = 'ask' AND rows <> 2000")
verdict "$admitted" '=' 0 "nothing scarce: all asks pass at once; $admitted of $((rounds * 3)) statements did less"
exit $missed
