#!/bin/bash
# Random statements on our SQL surface, on a server with asserts; doc/fuzz.md says what is looked for.
# usage: fuzz.sh
# FUZZ_SECONDS (600), FUZZ_SEED (random), FUZZ_AIRFLOW: version of the schema, 3.0.6, 3.1.8, 3.2.2 or 3.3.2 (by the seed)
set -u
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=test/child.sh
. test/child.sh
# shellcheck source=test/pg_config.sh
. test/pg_config.sh
out=$PWD/build/fuzz

if [ "${1:-}" != --inside ]; then
	export FUZZ_SEED=${FUZZ_SEED:-$((RANDOM << 15 | RANDOM))}
	versions=(3.3.2 3.0.6 3.1.8 3.2.2)
	export FUZZ_AIRFLOW=${FUZZ_AIRFLOW:-${versions[FUZZ_SEED % 4]}}
	trap end_child EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	mkdir -p "$out" || exit 1
	test/setup.sh && test/setup.sh build asserts && FUZZ_PYTHON=$(test/setup.sh airflow 3.3.2)/bin/python || exit 1
	export FUZZ_PYTHON
	echo "seed $FUZZ_SEED, Airflow $FUZZ_AIRFLOW, $("$PG_CONFIG" --version)"
	run_child test/cluster.sh -l "$out/server.log" -c "shared_preload_libraries = 'airflow_bp'" -c "airflow_bp.database = 'airflow'" \
		-c "max_prepared_transactions = 10" -c "max_worker_processes = 16" -c "restart_after_crash = off" -c "log_line_prefix = '%n [%p] %e %a '" \
		-c "statement_timeout = 3s" -c "lock_timeout = 500ms" -c "deadlock_timeout = 100ms" -c "idle_in_transaction_session_timeout = 60s" \
		-c "temp_file_limit = 500MB" -c "airflow_bp.parking = on" -c "airflow_bp.admit_ahead = 2" test/fuzz.sh --inside
	status=$?
	test/setup.sh build
	exit $status
fi

createdb airflow && PGOPTIONS='-c statement_timeout=0 -c client_min_messages=warning' psql -X -q -o /dev/null -d airflow -v ON_ERROR_STOP=1 \
	-f "test/fixtures/airflow_${FUZZ_AIRFLOW//./_}.sql" -f test/fixtures/load.sql \
	-c "SELECT load_gen.load(dags => 20, runs => 4, tasks => 6)" -c "CREATE EXTENSION airflow_bp" -f test/fixtures/tasks.sql || exit 1
exec "$FUZZ_PYTHON" test/fuzz/run.py --seconds "${FUZZ_SECONDS:-600}" --seed "$FUZZ_SEED" --server-log "$PGHOST/log" --out "$out"
