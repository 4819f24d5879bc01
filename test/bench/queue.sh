#!/bin/bash
# Time the queue analysis at 1,000, 100,000 and 1,000,000 unfinished tasks; needs the extension installed.
# usage: queue.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"

if [ "${1:-}" != --inside ]; then
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "shared_buffers = 1GB" -c "max_wal_size = 8GB" \
		-c "airflow_bp.database = 'tasks_1000, tasks_100000, tasks_1000000'" "$here/queue.sh" --inside
fi

sql()
{
	psql -X -q -At -v ON_ERROR_STOP=1 -d "$@"
}

# The same DAGs, pools and queues each time; only the runs grow.
load()
{
	local tasks=$1 db=tasks_$1

	echo "loading $tasks tasks" >&2
	createdb "$db"
	sql "$db" -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql" \
		-c "SELECT load_gen.load(seed => 1, dags => 100, runs => $tasks / 1000, tasks => 10, live => 1, unfinished => 1)" \
		-c "INSERT INTO job (job_type, state, latest_heartbeat) VALUES ('SchedulerJob', 'running', now() + interval '1 day')" \
		-c "CREATE EXTENSION airflow_bp" -c "SELECT airflow_bp.enable()" -f - <<-'SQL'
		VACUUM ANALYZE task_instance;
		-- Median of some runs, in milliseconds.
		CREATE FUNCTION median(statement text, runs int) RETURNS numeric LANGUAGE plpgsql AS $$
		DECLARE
			began timestamptz;
			times float8[];
		BEGIN
			FOR i IN 0 .. runs LOOP
				began := clock_timestamp();
				EXECUTE statement;
				IF i > 0 THEN
					times := times || extract(epoch FROM clock_timestamp() - began)::float8 * 1000;
				END IF;
			END LOOP;
			RETURN (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY t) FROM unnest(times) t)::numeric(12, 3);
		END
		$$;
	SQL
	for _ in {1..600}; do
		[ "$(sql "$db" -c "SELECT ready FROM airflow_bp.memory_state()")" = t ] && return
		sleep 0.1
	done
	echo "the counters of $db do not become ready" >&2
	exit 1
}

median()
{
	sql "tasks_$1" -c "SELECT public.median(\$\$$2\$\$, $3)"
}

missed=0
# verdict VALUE OPERATOR BOUND TEXT
verdict()
{
	if [ "$(sql postgres -c "SELECT $1 $2 $3")" = t ]; then
		echo "ok      $4"
	else
		echo "MISSED  $4"
		missed=1
	fi
}

quotient()
{
	sql postgres -c "SELECT round($1 / $2, 2)"
}

for tasks in 1000 100000 1000000; do
	load $tasks
done
for scope in pool queue executor tenant; do
	query="SELECT count(*) FROM airflow_bp.queue('$scope')"
	few=$(median 1000 "$query" 51)
	many=$(median 1000000 "$query" 51)
	tables=$(median 1000000 "SELECT count(*) FROM airflow_bp.queue_from_tables('$scope', '{}')" 3)
	growth=$(quotient "$many" "$few")
	gain=$(quotient "$tables" "$many")
	verdict "$growth" '<=' 2 "queue('$scope') at 1,000,000 tasks: $many ms, $growth x that at 1,000 ($few ms); at most 2 x"
	verdict "$gain" '>=' 20 "queue('$scope') at 1,000,000 tasks: $gain x faster than SQL ($tables ms); at least 20 x"
done
summary=$(median 100000 "SELECT count(*) FROM airflow_bp.waiting_summary()" 5)
rows=$(median 100000 "SELECT count(detail) FROM airflow_bp.waiting()" 5)
verdict "$summary" '<' 1000 "waiting_summary() at 100,000 tasks: $summary ms; under 1,000 ms"
verdict "$rows" '<' 2000 "waiting() at 100,000 tasks: $rows ms; under 2,000 ms"
exit $missed
