-- A freed slot until the held task that waits for it may pass.  Needs a worker.  Variable: rounds.

\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

CREATE SCHEMA bench;
CREATE TABLE bench.result (scene text, ms float8);

\ir await.sql

CREATE FUNCTION bench.ask(wanted uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	found bigint;
BEGIN
	UPDATE task_instance SET state = 'scheduled', try_number = try_number + 1, scheduled_dttm = now() WHERE id = ANY (wanted)
		AND (state IS NULL OR state IN ('up_for_retry', 'up_for_reschedule'));
	GET DIAGNOSTICS found = ROW_COUNT;
	RETURN found;
END
$$;

-- One slot, and always one task that waits for it.
CREATE PROCEDURE bench.handover(scene text, rounds int) LANGUAGE plpgsql AS $$
DECLARE
	ids uuid[] := (SELECT array_agg(id) FROM (SELECT id FROM task_instance WHERE state IS NULL AND pool_slots = 1 ORDER BY id LIMIT rounds + 1) t);
	freed timestamptz;
BEGIN
	CALL bench.await(format('bench.ask(%L) = 1', ids[1:1]));
	FOR i IN 2 .. rounds + 1 LOOP
		IF bench.ask(ids[i:i]) <> 0 THEN
			RAISE EXCEPTION 'the limit does not hold';
		END IF;
		COMMIT;
		UPDATE task_instance SET state = 'success' WHERE id = ids[i - 1];
		COMMIT;
		freed := clock_timestamp();
		CALL bench.await('EXISTS (SELECT FROM airflow_bp.held_entries() WHERE granted)');
		INSERT INTO bench.result VALUES (scene, extract(epoch FROM clock_timestamp() - freed) * 1000);
		IF bench.ask(ids[i:i]) <> 1 THEN
			RAISE EXCEPTION 'a grant is worth nothing';
		END IF;
		COMMIT;
	END LOOP;
	UPDATE task_instance SET state = 'success' WHERE id = ids[rounds + 1];
	COMMIT;
END
$$;

SELECT airflow_bp.enable('enforce');
SELECT airflow_bp.set_tenant('one slot', 1);
SELECT airflow_bp.add_tenant_rule('one slot', 'dag_id', '*');
CALL bench.await('airflow_bp.policy_version() = airflow_bp.policy_wanted() AND (SELECT ready FROM airflow_bp.memory_state())');
CALL bench.handover('freed slot to grant', :rounds);

-- With room for all, every ask passes at once.
SELECT airflow_bp.set_tenant('one slot', 1000000);
CALL bench.await('airflow_bp.policy_version() = airflow_bp.policy_wanted()');
CREATE TABLE bench.asked AS SELECT count(*) AS asked, bench.ask(array_agg(id)) AS admitted
FROM (SELECT id FROM task_instance WHERE state IS NULL LIMIT 2000) t;
