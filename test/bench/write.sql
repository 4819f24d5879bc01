-- Cost of the gate for the statements of Airflow.  Variables: probe (path of probe.so), rounds.
--
-- Each timed statement gets 2,000 rows that no other has touched, and is timed with its commit.  The variants alternate, and every
-- round starts with another one.  CPU time of the backend is what is compared: others on the machine do not change it much.

\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

CREATE SCHEMA bench;
CREATE FUNCTION bench.noop() RETURNS trigger LANGUAGE c AS :'probe', 'probe_noop';
CREATE FUNCTION bench.cpu() RETURNS bigint LANGUAGE c AS :'probe', 'probe_cpu';
CREATE FUNCTION bench.calls(tab regclass, tids tid[], trigger regproc, state text) RETURNS float8
LANGUAGE c AS :'probe', 'probe_calls';

CREATE TABLE bench.result (scene text, variant text, round int, asked int, rows bigint, wall_ms float8, cpu_ms float8);

-- Sets of 2,000 rows in state none: of one wide run, as the scheduler updates them; of 1,000 DAGs, as nobody does.
CREATE TABLE bench.batch AS
SELECT CASE WHEN dag_id LIKE '%.load3.dag_0001' THEN 'wide' ELSE 'held' END AS kind, row_number() OVER (PARTITION BY dag_id ORDER BY run_id) AS n,
	array_agg(id ORDER BY task_id, map_index) AS ids
FROM task_instance WHERE dag_id LIKE '%.load3.%' AND state IS NULL GROUP BY dag_id, run_id HAVING count(*) = 2000
UNION ALL
SELECT 'spread', n, array_agg(id ORDER BY id)
FROM (SELECT id, (row_number() OVER (PARTITION BY dag_id ORDER BY id) + 1) / 2 AS n
	FROM task_instance JOIN (SELECT dag_id FROM task_instance WHERE state IS NULL AND dag_id LIKE '%.load2.%'
		GROUP BY dag_id HAVING count(*) >= 100 ORDER BY dag_id LIMIT 1000) d USING (dag_id)
	WHERE state IS NULL) s
GROUP BY n HAVING count(*) = 2000;
CREATE INDEX ON bench.batch (kind, n);
ANALYZE bench.batch;

CREATE SEQUENCE bench.wide;
CREATE SEQUENCE bench.held;
CREATE SEQUENCE bench.spread;

-- The text that the scheduler sends (Airflow 3.3.2, DagRun.schedule_tis, psycopg2).
CREATE FUNCTION bench.ask(ids uuid[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('UPDATE task_instance SET state=''scheduled'', try_number=(task_instance.try_number + 1), scheduled_dttm=%L::timestamptz, '
		'updated_at=%1$L::timestamptz WHERE task_instance.id IN (%s) AND (task_instance.state IS NULL OR task_instance.state IN '
		'(''up_for_retry'', ''up_for_reschedule''))', clock_timestamp(), string_agg(format('%L::UUID', id), ', '))
	FROM unnest(ids) id
$$;

-- Heartbeats; a running task sends one for itself.
CREATE FUNCTION bench.heartbeat(ids uuid[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('UPDATE task_instance SET last_heartbeat_at=%L::timestamptz, updated_at=%1$L::timestamptz WHERE task_instance.id IN (%s)',
		clock_timestamp(), string_agg(format('%L::UUID', id), ', '))
	FROM unnest(ids) id
$$;

-- Only the trigger that is compared is made and dropped; a tick puts the mode in force and empties the log.
CREATE PROCEDURE bench.prepare(variant text) LANGUAGE plpgsql AS $$
BEGIN
	DROP TRIGGER IF EXISTS zz_airflow_bp_gate ON task_instance;
	IF variant = 'noop' THEN
		CREATE TRIGGER zz_airflow_bp_gate BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION bench.noop();
	ELSIF variant <> 'none' THEN
		CREATE TRIGGER zz_airflow_bp_gate BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION airflow_bp.gate();
		PERFORM airflow_bp.set_mode(variant) FROM airflow_bp.deployment WHERE mode <> variant;
	END IF;
	COMMIT;
	IF variant NOT IN ('none', 'noop') THEN
		PERFORM airflow_bp.tick();
	END IF;
	COMMIT;
END
$$;

CREATE PROCEDURE bench.timed(scene text, variant text, round int, statement text) LANGUAGE plpgsql AS $$
DECLARE
	found bigint;
	wall timestamptz;
	cpu bigint;
BEGIN
	cpu := bench.cpu();
	wall := clock_timestamp();
	EXECUTE statement;
	GET DIAGNOSTICS found = ROW_COUNT;
	COMMIT;
	INSERT INTO bench.result VALUES (scene, variant, round, 2000, found,
		extract(epoch FROM clock_timestamp() - wall) * 1000, (bench.cpu() - cpu) / 1000.0);
	COMMIT;
END
$$;

CREATE FUNCTION bench.fresh(kind text) RETURNS uuid[] LANGUAGE sql AS $$
	SELECT b.ids FROM bench.batch b WHERE b.kind = fresh.kind AND b.n = (SELECT nextval('bench.' || fresh.kind))
$$;

CREATE FUNCTION bench.some_ids(n int) RETURNS uuid[] LANGUAGE sql AS $$
	SELECT b.ids FROM bench.batch b WHERE b.kind = 'wide' AND b.n = some_ids.n
$$;

-- The first statement after a change of triggers loads caches.
CREATE PROCEDURE bench.warm(kind text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE bench.heartbeat((SELECT ids[1:10] FROM bench.batch b WHERE b.kind = warm.kind AND b.n = 1));
	COMMIT;
END
$$;

CREATE FUNCTION bench.order(variants text[], round int) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT v FROM unnest(variants) WITH ORDINALITY u (v, n) ORDER BY (n + round) % cardinality(variants)
$$;

CREATE PROCEDURE bench.asks(scene text, kind text, variants text[], rounds int) LANGUAGE plpgsql AS $$
DECLARE
	variant text;
	ids uuid[];
BEGIN
	FOR round IN 1 .. rounds LOOP
		FOR variant IN SELECT bench.order(variants, round) LOOP
			CALL bench.prepare(variant);
			CALL bench.warm(kind);
			ids := bench.fresh(kind);
			CALL bench.timed(scene, variant, round, bench.ask(ids));
			IF scene = 'ask' THEN
				CALL bench.timed('heartbeats in one statement', variant, round, bench.heartbeat(ids));
			END IF;
		END LOOP;
	END LOOP;
END
$$;

CREATE PROCEDURE bench.holds(rounds int) LANGUAGE plpgsql AS $$
DECLARE
	variant text;
	ids uuid[];
BEGIN
	FOR k IN 1 .. rounds LOOP
		FOR variant IN SELECT bench.order('{none,enforce}', k) LOOP
			CALL bench.prepare(variant);
			CALL bench.warm('held');
			ids := bench.fresh('held');
			CALL bench.timed('ask, held', variant, k, bench.ask(ids));
			CALL bench.timed('ask, held again', variant, k, bench.ask(ids));
		END LOOP;
	END LOOP;
	-- An ask again replaces the same UPDATE.
	UPDATE bench.result r SET wall_ms = f.wall_ms, cpu_ms = f.cpu_ms FROM bench.result f
	WHERE r.scene LIKE '%again' AND r.variant = 'none' AND f.scene LIKE 'ask, held' AND f.variant = 'none' AND f.round = r.round;
END
$$;

-- The trigger alone, called for rows as if they were set to scheduled: a run that passes, and one that is held again and again.
CREATE TABLE bench.verdict (kind text, gate_ns float8, noop_ns float8);
CREATE VIEW bench.verdict_ns AS
SELECT kind, (percentile_cont(0.5) WITHIN GROUP (ORDER BY gate_ns))::int AS gate_ns, (percentile_cont(0.5) WITHIN GROUP (ORDER BY noop_ns))::int AS noop_ns
FROM bench.verdict GROUP BY kind;

CREATE PROCEDURE bench.verdicts(rounds int) LANGUAGE plpgsql AS $$
DECLARE
	what text;
	rows tid[];
	gate_ns float8;
	noop_ns float8;
BEGIN
	CALL bench.prepare('enforce');
	FOREACH what IN ARRAY '{wide,held}'::text[] LOOP
		rows := (SELECT array_agg(t.ctid ORDER BY t.ctid) FROM task_instance t JOIN bench.batch b ON t.id = ANY (b.ids) WHERE b.kind = what AND b.n = 1);
		FOR i IN 0 .. rounds LOOP
			gate_ns := bench.calls('task_instance', rows, 'airflow_bp.gate', 'scheduled');
			noop_ns := bench.calls('task_instance', rows, 'bench.noop', 'scheduled');
			ROLLBACK;
			-- In the first round the one is held for the first time.
			IF i > 0 THEN
				INSERT INTO bench.verdict VALUES (what, gate_ns, noop_ns);
				COMMIT;
			END IF;
		END LOOP;
	END LOOP;
END
$$;

-- A thousand tenants with room for all they ask, one with none, and a rule for each.
DO 'BEGIN PERFORM airflow_bp.enable(''enforce''); END';
INSERT INTO airflow_bp.tenant (name, nominal) SELECT 'tenant_' || k, 10000000 FROM generate_series(1, 998) k;
INSERT INTO airflow_bp.tenant (name, nominal) VALUES ('held', 1);
INSERT INTO airflow_bp.tenant_rule (place, tenant, match_on, pattern) VALUES (1, 'held', 'dag_id', '*.load3.dag_0002');
INSERT INTO airflow_bp.tenant_rule (place, tenant, match_on, pattern)
SELECT 10 + k, 'tenant_' || k, 'team', 'team_' || k FROM generate_series(1, 998) k;
DO 'BEGIN PERFORM airflow_bp.tick(); END';

-- Others on the machine only make it slower, so the quicker half of the rounds is compared: its median, a quartile of all.
CREATE VIEW bench.report AS
WITH t AS (
	SELECT scene, variant, count(*) AS rounds, max(asked) AS rows, percentile_cont(0.25) WITHIN GROUP (ORDER BY cpu_ms) AS cpu_ms,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY cpu_ms) AS median_ms, percentile_cont(0.25) WITHIN GROUP (ORDER BY wall_ms) AS wall_ms
	FROM bench.result GROUP BY scene, variant
)
SELECT t.scene, t.variant, t.rounds, (t.cpu_ms * 1000 / t.rows)::numeric(10, 2) AS us_per_row, (t.cpu_ms / n.cpu_ms)::numeric(10, 3) AS cpu_ratio,
	(t.median_ms / n.median_ms)::numeric(10, 3) AS median_ratio, (t.wall_ms / n.wall_ms)::numeric(10, 3) AS wall_ratio
FROM t JOIN t n ON n.scene = t.scene AND n.variant = 'none'
ORDER BY t.scene, array_position('{none,noop,observe,enforce}', t.variant);
