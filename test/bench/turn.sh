#!/bin/bash
# Time a turn of the worker with nothing to do, and the commits that free a slot, with 1,000 tenants in 50 cohorts and 50,000 held tasks; needs
# the extension installed.
# usage: turn.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"

if [ "${1:-}" != --inside ]; then
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "airflow_bp.database = 'bench'" \
		-c "airflow_bp.ask_timeout = '1h'" "$here/turn.sh" --inside
fi
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'

createdb bench
sql -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -c "CREATE EXTENSION airflow_bp" -f "$top/test/fixtures/tasks.sql"
sql -o /dev/null -f "$here/turn.sql"
figures=$(sql -F ' ' -c "SELECT held, quiet, freed, granted, others FROM bench.result")
read -r held quiet freed granted others <<<"$figures"
verdict "$held" '>=' 49000 "held tasks: $held; at least 49,000"
verdict "$quiet" '<' 1 "a turn with nothing to do: median $quiet ms of 30; under 1 ms"
echo "        beside them, with histories, gauges and a slice of the sweep: $others"
verdict "$granted" '=' 1000 "grants for the slots that came free: $granted of 1,000"
verdict "$freed" '<' 1 "the commit that frees a slot and grants it anew: median $freed ms of 1,000; under 1 ms"
exit $missed
