#!/bin/bash
# Retry 10,000 dead letters in batches, and how long that locks a row; needs the extension installed.
# usage: retry.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"

if [ "${1:-}" != --inside ]; then
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "fsync = on" -c "shared_buffers = 512MB" \
		-c "airflow_bp.database = 'single, chain'" "$here/retry.sh" --inside
fi
export PGOPTIONS='-c client_min_messages=warning'

# 100 DAGs of 10 tasks, compressed or not, 10 runs of each, all failed.
load()
{
	createdb "$1"
	sql -d "$1" -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql" \
		-c "SELECT load_gen.load(dags => 100, runs => 10, tasks => 10, live => 0, queued => 0)" \
		-c "UPDATE dag_run SET state = 'failed'" -c "UPDATE task_instance SET state = 'failed', try_number = 1" \
		-c "CREATE EXTENSION airflow_bp" -c "SELECT airflow_bp.enable()" -f - <<-'SQL'
		INSERT INTO airflow_bp.dead_letter (dag_id, run_id, task_id, map_index, try_number, ti_id, cause, state)
		SELECT dag_id, run_id, task_id, map_index, try_number, id, 'retries_exhausted', state FROM task_instance ORDER BY dag_id, run_id, task_id, map_index;
		VACUUM ANALYZE task_instance, dag_run, airflow_bp.dead_letter;
		-- The longest wait for the row of a run, in ms, by a session that goes from run to run until the batches end.
		CREATE TABLE probe (ms float8, rows bigint);
		CREATE PROCEDURE probe() LANGUAGE plpgsql AS $$
		DECLARE
			run int;
			began timestamptz;
			longest float8 := 0;
			rows bigint := 0;
		BEGIN
			LOOP
				FOR run IN SELECT id FROM dag_run ORDER BY id LOOP
					began := clock_timestamp();
					PERFORM FROM dag_run WHERE id = run FOR SHARE;
					longest := greatest(longest, extract(epoch FROM clock_timestamp() - began) * 1000);
					rows := rows + 1;
					COMMIT;
				END LOOP;
				EXIT WHEN EXISTS (SELECT FROM airflow_bp.dlq_batches() WHERE state = 'ended');
			END LOOP;
			INSERT INTO probe VALUES (longest, rows);
		END
		$$;
	SQL
}

# retry DATABASE DOWNSTREAM WHAT
retry()
{
	local took done batch longest rows

	load "$1"
	sql -d "$1" -c "CALL probe()" &
	sql -d "$1" -c "CALL airflow_bp.dlq_retry_all(downstream => $2, dry_run => false)"
	wait
	read -r took done batch longest rows < <(sql -d "$1" -F ' ' -c "
		SELECT round(extract(epoch FROM ended_at - started_at), 1), retried + along, round(extract(epoch FROM longest) * 1000, 1), round(ms::numeric, 1), rows
		FROM airflow_bp.dlq_batch, probe")
	verdict "$done" '=' 10000 "$3: $done letters of 10,000 retried"
	verdict "$took" '<' 30 "$3: in $took s; under 30 s"
	verdict "$batch" '<=' 100 "$3: the longest batch took $batch ms, from before its first lock to the end of its commit; at most 100 ms"
	verdict "$longest" '<=' 100 "$3: another session waited $longest ms at most for a row of dag_run, of $rows; at most 100 ms"
}

retry single false "each task for itself"
retry chain true "with what is downstream"
exit $missed
