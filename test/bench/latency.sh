#!/bin/bash
# Time from a freed slot to the grant of the task that waits for it, and count the shared memory; needs the extension installed.
# usage: latency.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"

allocated()
{
	"$top/test/cluster.sh" "$@" psql -X -At -c "SELECT sum(allocated_size) FROM pg_shmem_allocations WHERE name IS NOT NULL"
}

if [ "${1:-}" != --inside ]; then
	plain=$(allocated)
	export BYTES=$(($(allocated -c "shared_preload_libraries = 'airflow_bp'") - plain))
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "airflow_bp.database = 'bench'" "$here/latency.sh" --inside
fi
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'

createdb bench
sql -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql" \
	-c "SELECT load_gen.load(dags => 20, runs => 40, tasks => 10, live => 0, queued => 1)" -c "CREATE EXTENSION airflow_bp"
sql -o /dev/null -v rounds=500 -f "$here/latency.sql"

read -r middle worst < <(sql -F ' ' -c "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric(10, 3), max(ms)::numeric(10, 3) FROM bench.result")
verdict "$worst" '<=' 100 "from the commit that frees a slot to the grant: median $middle ms, worst of 500 $worst ms; at most 100"
admitted=$(sql -c "SELECT admitted FROM bench.asked")
verdict "$admitted" '=' 2000 "nothing scarce: $admitted of 2,000 tasks pass at their first ask"
verdict "$BYTES" '<' 33554432 "shared memory with default settings: $BYTES bytes; under 32 MB"
exit $missed
