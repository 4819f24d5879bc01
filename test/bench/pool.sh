#!/bin/bash
# Time for which a change of a pool locks slot_pool, from before the first lock to the end of the transaction; needs the extension
# installed.
# usage: pool.sh
# Prints one line for each bound, with "ok" or "MISSED"; fails when a bound is missed.
set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
# shellcheck source=test/pg_config.sh
. "$top/test/pg_config.sh"
# shellcheck source=test/bench/lib.bash
. "$here/lib.bash"
rounds=${ROUNDS:-300}

if [ "${1:-}" != --inside ]; then
	exec "$top/test/cluster.sh" -c "shared_preload_libraries = 'airflow_bp'" -c "fsync = on" -c "track_commit_timestamp = on" \
		-c "airflow_bp.database = 'worker'" "$here/pool.sh" --inside
fi
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'

for db in bench worker; do
	createdb "$db"
	sql -d "$db" -o /dev/null -f "$top/test/fixtures/airflow_3_3_2.sql" -f "$top/test/fixtures/load.sql" \
		-c "SELECT load_gen.load(dags => 20, runs => 40, tasks => 10, live => 0.5, queued => 1)" \
		-c "INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES ('bench', 1, '', false)" \
		-c "CREATE EXTENSION airflow_bp" -c "SELECT airflow_bp.enable()" -f - <<-'SQL'
		SELECT airflow_bp.set_pool('bench', 1, 1000000, 1, '1 second', true);
		CREATE TABLE result (us bigint);
		-- Microseconds, right before the first row is locked.
		CREATE SEQUENCE locked;
		CREATE FUNCTION note_lock() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM setval('public.locked', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) FROM public.locked WHERE last_value = 1;
			RETURN NULL;
		END
		$$;
		CREATE TRIGGER note_lock BEFORE UPDATE ON slot_pool FOR EACH STATEMENT EXECUTE FUNCTION note_lock();
		-- Each needs one slot more.
		CREATE PROCEDURE rounds(n int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. n LOOP
				UPDATE airflow_bp.pool_policy SET changed_at = NULL, "least" = our_slots + 1 WHERE our_slots IS NOT NULL;
				UPDATE airflow_bp.pool_policy SET "least" = 2 WHERE our_slots IS NULL;
				PERFORM setval('locked', 1);
				COMMIT;
				IF airflow_bp.pool_apply() <> 1 THEN
					RAISE EXCEPTION 'not written';
				END IF;
				COMMIT;
				INSERT INTO result SELECT extract(epoch FROM clock_timestamp()) * 1000000 - last_value FROM locked;
				COMMIT;
			END LOOP;
		END
		$$;
		-- The worker does it; the server says when it was committed.
		CREATE PROCEDURE await_worker(n int) LANGUAGE plpgsql AS $$
		DECLARE
			deadline timestamptz;
			size int;
		BEGIN
			FOR i IN 1 .. n LOOP
				SELECT slots INTO size FROM slot_pool WHERE pool = 'bench';
				UPDATE airflow_bp.pool_policy SET changed_at = NULL, "least" = size + 1;
				PERFORM setval('locked', 1);
				COMMIT;
				deadline := clock_timestamp() + interval '10 seconds';
				WHILE EXISTS (SELECT FROM slot_pool WHERE pool = 'bench' AND slots = size) LOOP
					IF clock_timestamp() > deadline THEN
						RAISE EXCEPTION 'not in ten seconds';
					END IF;
					COMMIT;
				END LOOP;
				INSERT INTO result SELECT extract(epoch FROM pg_xact_commit_timestamp(p.xmin)) * 1000000 - last_value
				FROM locked, slot_pool p WHERE p.pool = 'bench';
			END LOOP;
		END
		$$;
	SQL
done

# show TEXT: the verdict on what is in the table result, which it empties
show()
{
	local least middle most

	read -r least middle most < <(sql -F ' ' -c "SELECT min(us), percentile_disc(0.5) WITHIN GROUP (ORDER BY us), max(us) FROM result")
	verdict "$middle" '<' 1000 "slot_pool is locked for $least to $most µs, median $middle, $1; median under 1,000"
	sql -c "TRUNCATE result"
}

sql -c "CALL rounds($rounds)"
show "$rounds times in one session"
for _ in {1..20}; do
	sql -c "CALL rounds(1)"
done
show "20 times in a new session"
export PGDATABASE=worker
sql -c "CALL await_worker(10)"
show "by the worker itself, 10 times"
exit $missed
