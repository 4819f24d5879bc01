#!/bin/bash
# Time stuck() and its sweep beside 1,000,000 unfinished and many finished tasks; needs the extension installed.
# usage: stuck.sh [FINISHED]   finished tasks, 10,000,000 unless given
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"

if [ "${1:-}" != --inside ]; then
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "shared_buffers = 2GB" -c "max_wal_size = 16GB" \
		-c "wal_level = minimal" -c "max_wal_senders = 0" -c "autovacuum = off" -c "maintenance_work_mem = 1GB" \
		"$here/stuck.sh" --inside "${1:-10000000}"
fi
finished=$2

createdb load
export PGDATABASE=load
echo "loading 1000000 unfinished and $finished finished tasks" >&2
sql -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql"
sql -o /dev/null -v finished="$finished" -f "$here/stuck.sql"
# Nothing is stuck, however long the loading took.
sql -o /dev/null -c "CREATE EXTENSION airflow_bp" -c "SELECT airflow_bp.set_stuck_threshold(cause, '30 days')
	FROM airflow_bp.stuck_causes() WHERE after > '0'" -c "SELECT airflow_bp.set_stuck_threshold('retries_exhausted', NULL)" \
	-c "SELECT count(*) FROM task_instance"

# Median of some calls, in milliseconds.
median()
{
	sql -f - <<-SQL
		CREATE TEMP TABLE took (ms float8);
		DO \$do\$
		DECLARE
			began timestamptz;
		BEGIN
			FOR i IN 0 .. $2 LOOP
				began := clock_timestamp();
				EXECUTE \$call\$$1\$call\$;
				IF i > 0 THEN
					INSERT INTO took SELECT extract(epoch FROM clock_timestamp() - began) * 1000;
				END IF;
			END LOOP;
		END
		\$do\$;
		SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1) FROM took;
	SQL
}

found=$(sql -c "SELECT count(*) FROM airflow_bp.stuck()")
ms=$(median "SELECT count(*) FROM airflow_bp.stuck()" 5)
verdict "$ms" '<' 1000 "stuck(): $ms ms at 1,000,000 unfinished and $finished finished tasks, $found found; under 1,000 ms"

# What each query of stuck() does to the tables is in the log of the server's statistics.
scans=$(sql -c "SELECT pg_stat_reset()" -c "SELECT count(*) FROM airflow_bp.stuck()" -c "SELECT pg_stat_force_next_flush()" \
	-c "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('task_instance', 'dag_run', 'log', 'trigger')" | tail -n 1)
verdict "$scans" '=' 0 "stuck(): $scans sequential scans of task_instance, dag_run, log and trigger; none"

sql -o /dev/null -c "SELECT airflow_bp.enable()"
turn=$(median "SELECT airflow_bp.stuck_sweep()" 60)
verdict "$turn" '<' 20 "a turn of the sweep: $turn ms, nothing stuck; under 20 ms"
turns=$(sql -c "SELECT ceil((SELECT count(*) FROM dag_run WHERE state = 'running')::float8 / runs) FROM airflow_bp.stuck_progress()")
verdict "$turns" '<=' 180 "a whole pass: about $turns turns, a second each; at most 180"
exit $missed
