-- Tasks cleared as Airflow clears them: a new try, the old one in the history, the run queued again.  What each version does was
-- read in its clear_task_instances() and is compared with it column by column; see doc/clear.md.
-- Locks: dag_run before task_instance, each ORDER BY id.  All is computed under these locks, then written by few statements with
-- the rights of the owner of Airflow's tables.  Old and new values travel as text, which any type takes back exactly.

CREATE FUNCTION airflow_bp.uuid7() RETURNS uuid
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT encode(set_byte(b, 6, get_byte(b, 6) & 15 | 112), 'hex')::uuid
	FROM (SELECT overlay(uuid_send(gen_random_uuid())
		PLACING substr(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 3) FROM 1 FOR 6)) r (b)
$$;
COMMENT ON FUNCTION airflow_bp.uuid7() IS 'A new uuid of version 7: milliseconds since 1970, then chance.';

CREATE FUNCTION airflow_bp.serialized_specs(dag jsonb) RETURNS TABLE (task_id text, spec jsonb)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20
BEGIN ATOMIC
	SELECT e #>> '{__var,task_id}',
		coalesce(dag #> '{client_defaults,tasks}', '{}') || (e -> '__var') || coalesce(e #> '{__var,partial_kwargs}', '{}')
	FROM jsonb_array_elements(dag #> '{dag,tasks}') e;
END;
COMMENT ON FUNCTION airflow_bp.serialized_specs(jsonb) IS 'The tasks of a serialized DAG, each with the defaults of the DAG and what it was mapped with.';

CREATE FUNCTION airflow_bp.serialized_mapped_groups(dag jsonb) RETURNS TABLE (task_id text, mapped_group text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE node AS (
		SELECT dag #> '{dag,task_group}' AS body, NULL::text AS task_id, NULL::text AS mapped
		UNION ALL
		SELECT CASE c.value ->> 0 WHEN 'taskgroup' THEN c.value -> 1 END, CASE c.value ->> 0 WHEN 'operator' THEN c.value ->> 1 END,
			CASE WHEN c.value #>> '{1,is_mapped}' = 'true' OR c.value #> '{1,expand_input}' IS NOT NULL
				THEN c.value #>> '{1,_group_id}' ELSE n.mapped END
		FROM node n CROSS JOIN LATERAL jsonb_each(n.body -> 'children') c
	)
	SELECT n.task_id, n.mapped FROM node n WHERE n.task_id IS NOT NULL AND n.mapped IS NOT NULL
$$;
COMMENT ON FUNCTION airflow_bp.serialized_mapped_groups(jsonb) IS 'The tasks of a serialized DAG that are in a mapped task group, and which.';

-- Not for the planner to look into: it expects so many edges that it sets up large hash tables.
CREATE FUNCTION airflow_bp.serialized_edges(dag jsonb) RETURNS TABLE (up text, down text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.task_id, d.id FROM airflow_bp.serialized_specs(dag) s
	CROSS JOIN LATERAL jsonb_array_elements_text(s.spec -> 'downstream_task_ids') d (id)
$$;
COMMENT ON FUNCTION airflow_bp.serialized_edges(jsonb) IS 'Each task of a serialized DAG with each that is directly downstream of it.';

CREATE FUNCTION airflow_bp.serialized_relatives(dag jsonb, names text[], downstream boolean) RETURNS SETOF text
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- The whole query sets up large hash tables before it finds that there is nothing to do.
	IF NOT EXISTS (SELECT FROM airflow_bp.serialized_specs(dag) s WHERE s.spec ->> 'is_setup' = 'true') THEN
		IF downstream THEN
			RETURN QUERY SELECT airflow_bp.serialized_below(dag, names);
		END IF;
		RETURN;
	END IF;
	RETURN QUERY
	WITH RECURSIVE task AS MATERIALIZED (
		SELECT s.task_id AS id, coalesce(s.spec ->> 'is_setup' = 'true', false) AS setup,
			coalesce(s.spec ->> 'is_teardown' = 'true', false) AS teardown
		FROM airflow_bp.serialized_specs(dag) s
	), edge AS MATERIALIZED (
		SELECT * FROM airflow_bp.serialized_edges(dag) e
	), core AS (
		SELECT t.id, true AS original FROM task t WHERE t.id = ANY (names)
		UNION SELECT e.down, false FROM core c JOIN edge e ON e.up = c.id WHERE downstream
	), work AS MATERIALIZED (
		-- A DAG without setups has nothing to add, and its closures may be large.
		SELECT DISTINCT t.id FROM core c JOIN task t USING (id)
		WHERE NOT t.setup AND NOT t.teardown AND EXISTS (SELECT FROM task s WHERE s.setup)
	), above AS (
		SELECT w.id AS root, w.id FROM work w
		UNION SELECT a.root, e.up FROM above a JOIN edge e ON e.down = a.id
	), under AS (
		SELECT w.id AS root, w.id FROM work w
		UNION SELECT u.root, e.down FROM under u JOIN edge e ON e.up = u.id
	), pair AS MATERIALIZED (
		SELECT s.id AS setup, t.id AS teardown FROM task s LEFT JOIN (edge e JOIN task t ON t.id = e.down AND t.teardown) ON e.up = s.id
		WHERE s.setup
	), relevant AS (
		SELECT DISTINCT a.root, p.setup FROM above a JOIN pair p ON p.setup = a.id
		WHERE p.teardown IS NULL OR EXISTS (SELECT FROM under u WHERE u.root = a.root AND u.id = p.teardown)
	)
	SELECT c.id FROM core c WHERE NOT c.original
	UNION SELECT r.setup FROM relevant r
	UNION SELECT p.teardown FROM relevant r JOIN pair p USING (setup) WHERE p.teardown <> r.root
	UNION SELECT p.teardown FROM pair p WHERE NOT downstream AND p.setup = ANY (names) AND p.teardown IS NOT NULL;
END
$$;
COMMENT ON FUNCTION airflow_bp.serialized_relatives(jsonb, text[], boolean) IS
'What DAG.partial_subset() of Airflow adds to tasks of a serialized DAG: what is downstream of them, if wanted, and the setups and teardowns that belong to all these.';

CREATE FUNCTION airflow_bp.pickled(value jsonb, plain boolean DEFAULT false) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind text := jsonb_typeof(value);
	out bytea := '';
	raw bytea;
	part record;
BEGIN
	IF kind = 'object' AND NOT plain AND value ? '__type' THEN
		IF value ->> '__type' <> 'dict' THEN
			RETURN NULL;
		END IF;
		RETURN airflow_bp.pickled(value -> '__var', true);
	ELSIF kind = 'null' THEN
		RETURN 'N';
	ELSIF kind = 'boolean' THEN
		RETURN CASE WHEN value::boolean THEN '\x88'::bytea ELSE '\x89' END;
	ELSIF kind = 'string' THEN
		raw := convert_to(value #>> '{}', 'UTF8');
		RETURN '\x58'::bytea || substr(int4send(length(raw)), 4, 1) || substr(int4send(length(raw)), 3, 1)
			|| substr(int4send(length(raw)), 2, 1) || substr(int4send(length(raw)), 1, 1) || raw;
	ELSIF kind = 'number' THEN
		RETURN CASE WHEN value::text ~ '^-?[0-9]+$' THEN convert_to('I' || value::text || E'\n', 'UTF8')
			ELSE '\x47'::bytea || float8send(value::float8) END;
	ELSIF kind = 'array' THEN
		FOR part IN SELECT airflow_bp.pickled(e) AS item FROM jsonb_array_elements(value) e LOOP
			out := out || part.item;
		END LOOP;
		RETURN '\x5d28'::bytea || out || '\x65'::bytea;
	END IF;
	FOR part IN SELECT airflow_bp.pickled(to_jsonb(e.key)) || airflow_bp.pickled(e.value, e.key = 'pod_override') AS item
		FROM jsonb_each(value) e LOOP
		out := out || part.item;
	END LOOP;
	RETURN '\x7d28'::bytea || out || '\x75'::bytea;
END
$$;
COMMENT ON FUNCTION airflow_bp.pickled(jsonb, boolean) IS
'A serialized dictionary as Python pickles it, without frame: for executor_config; plain: it is no serialized value itself. NULL when it holds what is not plain data.';

-- Level by level: a recursive query sets up hash tables for what it fears to find.
CREATE FUNCTION airflow_bp.serialized_below(dag jsonb, names text[]) RETURNS SETOF text
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ups text[];
	downs text[];
	below text[] := '{}';
	level text[] := names;
BEGIN
	SELECT array_agg(s.task_id), array_agg(d.id) INTO ups, downs
	FROM airflow_bp.serialized_specs(dag) s CROSS JOIN LATERAL jsonb_array_elements_text(s.spec -> 'downstream_task_ids') d (id);
	LOOP
		level := ARRAY(SELECT DISTINCT e.down FROM unnest(ups, downs) e (up, down) WHERE e.up = ANY (level) AND e.down <> ALL (below));
		EXIT WHEN level = '{}';
		below := below || level;
	END LOOP;
	RETURN QUERY SELECT unnest(below);
END
$$;
COMMENT ON FUNCTION airflow_bp.serialized_below(jsonb, text[]) IS 'All that is downstream of tasks of a serialized DAG.';

CREATE FUNCTION airflow_bp.clear_specs(dag jsonb, names text[]) RETURNS TABLE (task_id text, retries int, pool text, pool_slots int,
	queue text, weight bigint, executor text, executor_config jsonb, operator text, operator_name text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE task AS MATERIALIZED (
		SELECT s.task_id AS id, s.spec, coalesce(airflow_bp.serialized_number(s.spec -> 'priority_weight'), 1)::bigint AS weight,
			coalesce(lower(regexp_replace(s.spec ->> 'weight_rule', '^airflow\.task\.priority_strategy\._(\w+)PriorityWeightStrategy$', '\1')),
				'downstream') AS rule
		FROM airflow_bp.serialized_specs(dag) s
	), edge AS MATERIALIZED (
		SELECT e.up, e.down, true AS downstream FROM airflow_bp.serialized_edges(dag) e
		UNION ALL SELECT e.down, e.up, false FROM airflow_bp.serialized_edges(dag) e
	), reach AS (
		SELECT t.id AS root, t.id, t.rule = 'downstream' AS downstream FROM task t
		WHERE t.id = ANY (names) AND t.rule IN ('absolute', 'downstream', 'upstream')
		UNION SELECT r.root, e.down, r.downstream FROM reach r JOIN task t ON t.id = r.root AND t.rule <> 'absolute'
		JOIN edge e ON e.up = r.id AND e.downstream = r.downstream
	), total AS (
		SELECT r.root, sum(t.weight)::bigint AS weight FROM reach r JOIN task t USING (id) GROUP BY 1
	)
	SELECT t.id, coalesce(airflow_bp.serialized_number(t.spec -> 'retries'), 0)::int, coalesce(t.spec ->> 'pool', 'default_pool'),
		coalesce(airflow_bp.serialized_number(t.spec -> 'pool_slots'), 1)::int, t.spec ->> 'queue', w.weight, t.spec ->> 'executor',
		coalesce(t.spec -> 'executor_config', '{}'), coalesce(t.spec ->> 'task_type', 'BaseOperator'),
		coalesce(t.spec ->> '_operator_name', t.spec ->> 'task_type', 'BaseOperator')
	FROM task t LEFT JOIN total w ON w.root = t.id WHERE t.id = ANY (names)
$$;
COMMENT ON FUNCTION airflow_bp.clear_specs(jsonb, text[]) IS
'What a task instance takes from its task in a serialized DAG. queue is NULL when it is the default of the deployment, weight when a plugin computes it.';

CREATE FUNCTION airflow_bp.clear_document(dag_id text, data anyelement, compressed bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dag jsonb := airflow_bp.serialized_dag(data, compressed);
BEGIN
	IF jsonb_typeof(dag #> '{dag,tasks}') IS DISTINCT FROM 'array' THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('serialized DAG "%s" cannot be read', dag_id),
			HINT = 'Let the DAG processor parse it again.';
	END IF;
	RETURN dag;
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_document(text, anyelement, bytea) IS 'A serialized DAG. BP004 when it cannot be read.';

-- Versions are told by what they brought, as a migration changes all of it together: 1 for 3.1, 2 for 3.2, 3 for 3.3.
CREATE FUNCTION airflow_bp.clear_dialect(airflow_schema text) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	head text;
BEGIN
	EXECUTE format('SELECT min(version_num) FROM %I.alembic_version', airflow_schema) INTO head;
	IF head IS NULL OR head NOT IN (SELECT k.head FROM airflow_bp.known_heads() k) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP006', MESSAGE = format('this version of Airflow is not known: alembic head %s', coalesce(head, 'missing')),
			HINT = 'Clear the tasks in Airflow.';
	END IF;
	RETURN CASE WHEN airflow_bp.airflow_has(airflow_schema, 'task_instance', 'retry_delay_override') THEN 3
		WHEN airflow_bp.airflow_has(airflow_schema, 'dag', 'exceeds_max_non_backfill') THEN 2
		WHEN airflow_bp.airflow_has(airflow_schema, 'hitl_detail', 'ti_id') THEN 1 ELSE 0 END;
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_dialect(text) IS 'Minor version of Airflow 3 whose clear is meant. BP006 when the alembic head is not known.';

-- The version of its DAG by which a run goes on, of a row r of dag_run; %1$s: the schema.
CREATE FUNCTION airflow_bp.clear_version_expression(airflow_schema text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('CASE WHEN r.bundle_version <> '''' AND (r.created_dag_version_id IS NOT NULL OR NOT %2$L) THEN r.created_dag_version_id
		ELSE coalesce((SELECT v.id FROM %1$I.dag_version v WHERE v.dag_id = r.dag_id ORDER BY v.version_number DESC LIMIT 1),
			r.created_dag_version_id) END', airflow_schema, airflow_bp.airflow_has(airflow_schema, 'task_instance', 'retry_delay_override'))
$$;
COMMENT ON FUNCTION airflow_bp.clear_version_expression(text) IS 'Expression over a row r of dag_run: id of the version of its DAG by which it goes on.';

CREATE FUNCTION airflow_bp.clear_selection(airflow_schema text, ids uuid[], downstream boolean) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dialect int := airflow_bp.clear_dialect(airflow_schema);
	chosen uuid[] := ids;
	more uuid[];
	part record;
	pair record;
	dag jsonb;
	groups jsonb;
	whole text[];
	outside text[];
	tasks text[];
	indexes int[];
BEGIN
	IF NOT downstream AND dialect < 3 THEN
		RETURN ids;
	END IF;
	-- Runs of one version, of which the same tasks are given, are one part.
	FOR part IN EXECUTE format($query$
		SELECT version, wanted, array_agg(run) AS runs, min(dag_id) AS dag_id FROM (
			SELECT r.id AS run, min(r.dag_id) AS dag_id, %2$s AS version,
				jsonb_agg(jsonb_build_array(t.task_id, t.map_index) ORDER BY t.task_id, t.map_index) AS wanted
			FROM %1$I.task_instance t JOIN %1$I.dag_run r USING (dag_id, run_id) WHERE t.id = ANY ($1) GROUP BY r.id
		) one GROUP BY version, wanted$query$, airflow_schema, airflow_bp.clear_version_expression(airflow_schema)) USING ids
	LOOP
		EXECUTE format('SELECT airflow_bp.clear_document(s.dag_id, s.data, s.data_compressed) FROM %I.serialized_dag s WHERE s.dag_version_id = $1',
			airflow_schema) INTO dag USING part.version;
		IF dag IS NULL THEN
			CONTINUE WHEN NOT downstream;
			RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('DAG "%s" is not serialized: what is downstream is not known', part.dag_id),
				HINT = 'Let the DAG processor parse it, or clear the tasks without what is downstream.';
		END IF;
		SELECT array_agg(DISTINCT w ->> 0) INTO tasks FROM jsonb_array_elements(part.wanted) w;
		SELECT jsonb_object_agg(g.task_id, g.mapped_group) INTO groups FROM airflow_bp.serialized_mapped_groups(dag) g
		WHERE dialect >= 2 AND g.task_id NOT IN (SELECT s.task_id FROM airflow_bp.serialized_specs(dag) s WHERE s.spec ->> '_is_mapped' = 'true');
		whole := '{}';
		indexes := '{}';
		SELECT coalesce(array_agg(DISTINCT w ->> 0), '{}') INTO outside FROM jsonb_array_elements(part.wanted) w
		WHERE (w ->> 1)::int < 0 OR groups ? (w ->> 0) IS NOT TRUE;
		IF downstream THEN
			whole := ARRAY(SELECT airflow_bp.serialized_relatives(dag, outside, true));
		END IF;
		more := '{}';
		-- A task in a mapped group is followed by those of its own index.
		FOR pair IN SELECT w ->> 0 AS task_id, array_agg((w ->> 1)::int) AS indexes FROM jsonb_array_elements(part.wanted) w
			WHERE downstream AND NOT (w ->> 0) = ANY (outside) GROUP BY 1
		LOOP
			SELECT array_agg(b.id) FILTER (WHERE g.mapped_group IS NOT DISTINCT FROM groups ->> pair.task_id),
				coalesce(array_agg(b.id) FILTER (WHERE g.mapped_group IS DISTINCT FROM groups ->> pair.task_id), '{}')
			INTO tasks, outside
			FROM airflow_bp.serialized_below(dag, ARRAY[pair.task_id]) b (id) LEFT JOIN airflow_bp.serialized_mapped_groups(dag) g ON g.task_id = b.id;
			whole := whole || outside || ARRAY(SELECT airflow_bp.serialized_relatives(dag, outside, true));
			EXECUTE format($query$SELECT $1 || coalesce(array_agg(t.id), '{}') FROM %1$I.task_instance t JOIN %1$I.dag_run r USING (dag_id, run_id)
				WHERE r.id = ANY ($2) AND t.task_id = ANY ($3) AND t.map_index = ANY ($4)$query$, airflow_schema)
			INTO more USING more, part.runs, tasks, pair.indexes;
		END LOOP;
		IF dialect >= 3 THEN
			EXECUTE format('SELECT array_agg(DISTINCT t.task_id) FROM %I.task_instance t WHERE t.id = ANY ($1)', airflow_schema) INTO tasks
			USING more;
			SELECT whole || tasks || array_agg(DISTINCT w ->> 0) INTO tasks FROM jsonb_array_elements(part.wanted) w;
			whole := whole || ARRAY(SELECT r FROM airflow_bp.serialized_relatives(dag, tasks, false) r WHERE r <> ALL (tasks));
		END IF;
		EXECUTE format($query$SELECT $1 || $2 || coalesce(array_agg(t.id), '{}') FROM %1$I.task_instance t JOIN %1$I.dag_run r USING (dag_id, run_id)
			WHERE r.id = ANY ($3) AND t.task_id = ANY ($4)$query$, airflow_schema) INTO chosen USING chosen, more, part.runs, whole;
	END LOOP;
	RETURN ARRAY(SELECT DISTINCT unnest(chosen));
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_selection(text, uuid[], boolean) IS
'The task instances that are cleared with these: as DAG.clear() and, downstream, the API of this version choose them. BP004 when that needs a DAG that is not serialized.';

-- Values of a row as text, by column; with them a row is written, and brought back.
CREATE FUNCTION airflow_bp.row_text(alias text, columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('jsonb_object(%L::text[], ARRAY[%s])', columns, string_agg(format('%s.%I::text', alias, c), ', ' ORDER BY n))
	FROM unnest(columns) WITH ORDINALITY u (c, n)
$$;
COMMENT ON FUNCTION airflow_bp.row_text(text, text[]) IS 'Expression: an object that has columns of a row as text, which each type takes back exactly.';

CREATE FUNCTION airflow_bp.row_update(airflow_schema text, relation text, key text, columns text[], rows jsonb, guard text DEFAULT 'true') RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rows IS NULL OR rows = '[]' THEN
		RETURN 0;
	END IF;
	RETURN (SELECT airflow_bp.write_as_owner(c.oid, format('UPDATE %s t SET %s FROM (SELECT (x ->> ''key'')::%s AS key, x -> ''values'' AS v
			FROM jsonb_array_elements(%L) x OFFSET 0) n WHERE t.%I = n.key AND (%s)', c.oid::regclass,
		string_agg(format('%1$I = CASE WHEN n.v ? %1$L THEN (n.v ->> %1$L)::%2$s ELSE t.%1$I END', a.attname,
			format_type(a.atttypid, a.atttypmod)), ', ') FILTER (WHERE a.attname = ANY (columns)),
		min(format_type(a.atttypid, a.atttypmod)) FILTER (WHERE a.attname = key), rows, key, guard))
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	WHERE n.nspname = airflow_schema AND c.relname = relation AND c.relkind IN ('r', 'p') GROUP BY c.oid);
END
$$;
COMMENT ON FUNCTION airflow_bp.row_update(text, text, text, text[], jsonb, text) IS
'Writes columns of rows, each given as {"key": ..., "values": {column: text}}, with the rights of the owner of the table; number of rows.';

-- The runs of the tasks with what becomes of them, under lock.
CREATE FUNCTION airflow_bp.clear_runs(airflow_schema text, ids uuid[], at timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dialect int := airflow_bp.clear_dialect(airflow_schema);
	columns text[] := '{state,start_date,end_date,queued_at,last_scheduling_decision,clear_number,bundle_version,created_dag_version_id,updated_at}'
		|| CASE WHEN dialect >= 2 THEN '{context_carrier}'::text[] ELSE '{}' END;
	runs jsonb;
BEGIN
	EXECUTE format($query$
		WITH locked AS MATERIALIZED (
			SELECT r.* FROM %1$I.dag_run r
			WHERE (r.dag_id, r.run_id) IN (SELECT t.dag_id, t.run_id FROM %1$I.task_instance t WHERE t.id = ANY ($1)) ORDER BY r.id FOR UPDATE
		), run AS MATERIALIZED (
			SELECT r.*, coalesce(r.state IN ('success', 'failed'), false) AS finished, %2$s AS version, %5$L AND r.created_dag_version_id IS NULL AS bare,
				concat('00-', encode(uuid_send(gen_random_uuid()), 'hex'), '-', left(md5(random()::text), 16), '-',
					CASE WHEN %5$L THEN coalesce(right(r.context_carrier #>> '{__var,traceparent}', 2), '00') ELSE '01' END) AS traceparent
			FROM locked r
		), document AS (
			SELECT r.version, coalesce(airflow_bp.serialized_dag(s.data, s.data_compressed) #>> '{dag,disable_bundle_versioning}', 'false') AS pinned
			FROM (SELECT DISTINCT version FROM run WHERE %4$L OR bare) r JOIN %1$I.serialized_dag s ON s.dag_version_id = r.version
		), changed AS (
			SELECT r.id, CASE WHEN r.finished THEN 'queued' ELSE r.state END AS state, CASE WHEN NOT r.finished THEN r.start_date END AS start_date,
				CASE WHEN NOT r.finished THEN r.end_date END AS end_date, CASE WHEN NOT r.finished THEN r.last_scheduling_decision END
					AS last_scheduling_decision,
				CASE WHEN w.written THEN $2 ELSE r.queued_at END AS queued_at, CASE WHEN w.written THEN $2 ELSE r.updated_at END AS updated_at,
				r.clear_number + w.written::int AS clear_number,
				coalesce(CASE WHEN d.pinned = 'false' AND CASE WHEN %4$L THEN r.finished ELSE r.bare END THEN m.bundle_version END,
					r.bundle_version) AS bundle_version,
				CASE WHEN r.bare AND d.version IS NOT NULL THEN r.version ELSE r.created_dag_version_id END AS created_dag_version_id,
				jsonb_build_object('__type', 'dict', '__var', jsonb_strip_nulls(jsonb_build_object('traceparent', r.traceparent,
					'tracestate', CASE WHEN %5$L AND r.conf ->> 'airflow/task_span_detail_level' ~ '^ *[-+]?0*[1-9][0-9]*$'
						THEN 'airflow/task_span_detail_level=' || (r.conf ->> 'airflow/task_span_detail_level')::numeric END))) AS context_carrier
			FROM run r CROSS JOIN LATERAL (SELECT r.finished OR %6$L) w (written)
			LEFT JOIN document d ON d.version = r.version LEFT JOIN %1$I.dag m ON m.dag_id = r.dag_id
		)
		SELECT jsonb_agg(jsonb_build_object('key', r.id, 'dag_id', r.dag_id, 'run_id', r.run_id, 'version', r.version, 'bare', r.bare,
			'finished', r.finished, 'state', n.state, 'clears', n.clear_number, 'values', %3$s, 'old', %7$s) ORDER BY r.id)
		FROM run r JOIN changed n USING (id)$query$,
		airflow_schema, airflow_bp.clear_version_expression(airflow_schema), airflow_bp.row_text('n', columns), dialect = 0, dialect >= 3,
		dialect >= 2, airflow_bp.row_text('r', columns))
	INTO runs USING ids, at;
	RETURN coalesce(runs, '[]');
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_runs(text, uuid[], timestamptz) IS 'The runs of task instances, locked, with their values before and after a clear.';

CREATE FUNCTION airflow_bp.clear_plan(airflow_schema text, ids uuid[], runs jsonb, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dialect int := airflow_bp.clear_dialect(airflow_schema);
	columns text[] := '{id,state,end_date,duration,max_tries,pool,pool_slots,queue,priority_weight,operator,custom_operator_name,executor,
		executor_config,external_executor_id,next_method,next_kwargs,updated_at}'
		|| CASE WHEN dialect >= 2 THEN '{context_carrier}'::text[] ELSE '{}' END
		|| CASE WHEN dialect >= 3 THEN '{dag_version_id}'::text[] ELSE '{}' END;
	plan jsonb;
BEGIN
	EXECUTE format($query$
		WITH locked AS MATERIALIZED (
			SELECT t.* FROM %1$I.task_instance t WHERE t.id = ANY ($1) ORDER BY t.id FOR UPDATE
		), run AS MATERIALIZED (
			SELECT * FROM jsonb_to_recordset($2) r (dag_id text, run_id text, version uuid, bare boolean, "values" jsonb, old jsonb)
		), task AS MATERIALIZED (
			SELECT t.*, r.version, r.bare, r."values" ->> 'context_carrier' AS carrier, r.old #>> '{context_carrier}' AS old_carrier,
				r."values" ->> 'created_dag_version_id' AS run_version,
				coalesce(t.state IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed'), false) AS finished,
				EXISTS (SELECT FROM %1$I.task_instance_history h WHERE h.dag_id = t.dag_id AND h.task_id = t.task_id AND h.run_id = t.run_id
					AND h.map_index = t.map_index AND h.try_number = t.try_number) AS recorded
			FROM locked t JOIN run r USING (dag_id, run_id)
		), spec AS MATERIALIZED (
			SELECT v.version, s.* FROM (SELECT version, array_agg(DISTINCT task_id::text) AS names FROM task GROUP BY 1) v
			JOIN %1$I.serialized_dag d ON d.dag_version_id = v.version
			CROSS JOIN LATERAL airflow_bp.clear_specs(airflow_bp.clear_document(d.dag_id, d.data, d.data_compressed), v.names) s
		), changed AS (
			SELECT t.id AS key, t.recorded, airflow_bp.uuid7() AS id, t.dag_id, t.run_id, t.task_id, t.map_index, t.state AS old_state,
				CASE WHEN k.running THEN 'restarting' END AS state, CASE WHEN k.ends THEN $3 ELSE t.end_date END AS end_date,
				CASE WHEN k.ends THEN extract(epoch FROM $3 - t.start_date)::float8 ELSE t.duration END AS duration,
				CASE WHEN k.running THEN t.max_tries WHEN k.known THEN t.try_number + s.retries
					ELSE greatest(t.max_tries, t.try_number) END AS max_tries,
				CASE WHEN k.fresh THEN s.pool ELSE t.pool END AS pool, CASE WHEN k.fresh THEN s.pool_slots ELSE t.pool_slots END AS pool_slots,
				CASE WHEN k.fresh THEN coalesce(s.queue, CASE WHEN %3$L THEN t.queue ELSE 'default' END) ELSE t.queue END AS queue,
				CASE WHEN k.fresh AND s.weight IS NOT NULL THEN s.weight ELSE t.priority_weight END AS priority_weight,
				CASE WHEN k.fresh THEN s.operator ELSE t.operator END AS operator,
				CASE WHEN NOT k.fresh THEN t.custom_operator_name WHEN NOT %3$L THEN s.operator_name END AS custom_operator_name,
				CASE WHEN k.fresh THEN s.executor ELSE t.executor END AS executor,
				CASE WHEN NOT k.fresh OR coalesce(s.executor_config -> '__var', s.executor_config) = '{}'
						AND t.executor_config IN ('\x80047d942e', '\x80057d942e') THEN t.executor_config
					ELSE coalesce('\x8002' || airflow_bp.pickled(s.executor_config) || '.', t.executor_config) END AS executor_config,
				CASE WHEN k.running THEN t.external_executor_id END AS external_executor_id,
				CASE WHEN k.running THEN t.next_method END AS next_method,
				CASE WHEN k.running THEN t.next_kwargs WHEN t.next_kwargs IS NOT NULL THEN 'null' END AS next_kwargs,
				$3 AS updated_at,
				CASE WHEN t.bare AND NOT k.running THEN coalesce(t.version, t.dag_version_id)
					ELSE coalesce(t.dag_version_id, t.run_version::uuid) END AS dag_version_id,
				t.carrier AS context_carrier
			FROM task t LEFT JOIN spec s USING (version, task_id)
			CROSS JOIN LATERAL (SELECT t.state IS NOT DISTINCT FROM 'running' AS running, s.task_id IS NOT NULL AS known,
				s.task_id IS NOT NULL AND t.state IS DISTINCT FROM 'running' AS fresh,
				NOT t.recorded AND NOT t.finished AND (NOT %4$L OR t.end_date IS NULL) AS ends) k
		)
		SELECT jsonb_agg(jsonb_build_object('key', n.key, 'recorded', n.recorded, 'finished', t.finished, 'dag_id', n.dag_id, 'run_id', n.run_id,
			'task_id', n.task_id, 'map_index', n.map_index, 'values', %2$s, 'old', %5$s) ORDER BY n.key)
		FROM changed n JOIN task t ON t.id = n.key$query$,
		airflow_schema, airflow_bp.row_text('n', columns), dialect = 0, dialect >= 3, airflow_bp.row_text('t', columns))
	INTO plan USING ids, runs, at;
	RETURN coalesce(plan, '[]');
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_plan(text, uuid[], jsonb, timestamptz) IS 'The task instances, locked, with their values before and after a clear.';

-- All columns that a history has of its table, but for some that are given.  Airflow writes an absent value of JSON as null.
CREATE FUNCTION airflow_bp.clear_record(airflow_schema text, source text, history text, replaced jsonb, rows jsonb, source_key text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	target regclass := to_regclass(format('%I.%I', airflow_schema, history));
	columns text;
	sources text;
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP006', MESSAGE = format('table "%s" of Airflow is missing', history), HINT = 'Run airflow db migrate.';
	END IF;
	-- A time without zone is one of the zone that sessions begin with, as those of Airflow do.
	SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), string_agg(coalesce(replaced ->> a.attname,
		format(CASE WHEN a.atttypid IN ('json'::regtype, 'jsonb'::regtype) THEN 'coalesce(t.%I, ''null'')'
			WHEN a.atttypid = 'timestamp'::regtype THEN 't.%I::timestamptz AT TIME ZONE %L' ELSE 't.%I' END, a.attname,
			(SELECT z.reset_val FROM pg_settings z WHERE z.name = 'TimeZone'))), ', ' ORDER BY a.attnum)
	INTO columns, sources FROM pg_attribute a
	WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
		AND (replaced ? a.attname OR airflow_bp.airflow_has(airflow_schema, source, a.attname));
	RETURN airflow_bp.write_as_owner(target, format(
		'INSERT INTO %s (%s) SELECT %s FROM %I.%I t JOIN (SELECT (x ->> ''key'')::uuid AS key, x -> ''values'' AS v,
			(x ->> ''finished'')::boolean AS finished FROM jsonb_array_elements(%L) x WHERE x ->> ''recorded'' = ''false'' OFFSET 0) n ON n.key = t.%I',
		target, columns, sources, airflow_schema, source, rows, source_key));
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_record(text, text, text, jsonb, jsonb, text) IS
'Copies the rows of a plan to a history, with the rights of its owner; replaced: expressions for columns that are not copied.';

CREATE FUNCTION airflow_bp.clear_deadlines(airflow_schema text, runs jsonb, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	deadlines jsonb;
BEGIN
	IF airflow_bp.clear_dialect(airflow_schema) < 2 THEN
		RETURN '[]';
	END IF;
	EXECUTE format($query$
		SELECT jsonb_agg(jsonb_build_object('key', d.id, 'old', %2$s, 'values',
			jsonb_build_object('deadline_time', $2 + make_interval(secs => coalesce(a.i -> '__data__', a.i)::float8), 'last_updated_at', $2)) ORDER BY d.id)
		FROM %1$I.deadline d JOIN (SELECT a.id, to_jsonb(a.interval) AS i FROM %1$I.deadline_alert a
			WHERE a.reference ->> 'reference_type' = 'DagRunQueuedAtDeadline' OFFSET 0) a ON a.id = d.deadline_alert_id
		WHERE d.dagrun_id IN (SELECT (r ->> 'key')::int FROM jsonb_array_elements($1) r) AND NOT d.missed
			AND jsonb_typeof(coalesce(a.i -> '__data__', a.i)) = 'number'$query$,
		airflow_schema, airflow_bp.row_text('d', '{deadline_time,last_updated_at}')) INTO deadlines USING runs, at;
	RETURN coalesce(deadlines, '[]');
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_deadlines(text, jsonb, timestamptz) IS 'Deadlines that count from the moment their run was queued, with their values before and after a clear.';

-- From 3.3 on a run gives its version to those of its unfinished tasks that have none.
CREATE FUNCTION airflow_bp.clear_pinned(airflow_schema text, ids uuid[], runs jsonb, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	pinned jsonb;
BEGIN
	IF airflow_bp.clear_dialect(airflow_schema) < 3 THEN
		RETURN '[]';
	END IF;
	EXECUTE format($query$
		WITH locked AS MATERIALIZED (
			SELECT t.* FROM %1$I.task_instance t WHERE t.dag_version_id IS NULL AND t.id <> ALL ($1)
				AND (t.dag_id, t.run_id) IN (SELECT r ->> 'dag_id', r ->> 'run_id' FROM jsonb_array_elements($2) r)
				AND coalesce(t.state, 'none') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') ORDER BY t.id FOR UPDATE
		)
		SELECT jsonb_agg(jsonb_build_object('key', t.id, 'old', %2$s, 'values',
			jsonb_build_object('dag_version_id', r #>> '{values,created_dag_version_id}', 'updated_at', $3)) ORDER BY t.id)
		FROM locked t JOIN jsonb_array_elements($2) r ON r ->> 'dag_id' = t.dag_id AND r ->> 'run_id' = t.run_id
		WHERE r #>> '{values,created_dag_version_id}' IS NOT NULL$query$,
		airflow_schema, airflow_bp.row_text('t', '{dag_version_id,updated_at}')) INTO pinned USING ids, runs, at;
	RETURN coalesce(pinned, '[]');
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_pinned(text, uuid[], jsonb, timestamptz) IS 'Unfinished tasks without a DAG version in the runs of a clear, with their values before and after.';

-- The columns that a plan writes.
CREATE FUNCTION airflow_bp.clear_columns(rows jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN ARRAY(SELECT DISTINCT k FROM jsonb_array_elements(rows) r CROSS JOIN LATERAL jsonb_object_keys(r -> 'values') k);
COMMENT ON FUNCTION airflow_bp.clear_columns(jsonb) IS 'The columns that rows of a plan have.';

CREATE FUNCTION airflow_bp.clear_write(airflow_schema text, plan jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	dialect int := airflow_bp.clear_dialect(airflow_schema);
	tasks jsonb := plan -> 'tasks';
BEGIN
	PERFORM airflow_bp.clear_record(airflow_schema, 'task_instance', 'task_instance_history', jsonb_build_object(
		'task_instance_id', 't.id', 'state', 'CASE WHEN n.finished THEN t.state ELSE ''failed'' END',
		'end_date', '(n.v ->> ''end_date'')::timestamptz', 'duration', '(n.v ->> ''duration'')::float8',
		'rendered_map_index', 'coalesce(t.rendered_map_index, CASE WHEN t.map_index >= 0 THEN t.map_index::text END)',
		'updated_at', 'coalesce(t.updated_at, (n.v ->> ''updated_at'')::timestamptz)'), tasks, 'id');
	IF dialect >= 2 THEN
		PERFORM airflow_bp.clear_record(airflow_schema, 'hitl_detail', 'hitl_detail_history', '{"ti_history_id": "t.ti_id"}', tasks, 'ti_id');
	END IF;
	PERFORM airflow_bp.write_as_owner(format('%I.task_reschedule', airflow_schema)::regclass, format(
		'DELETE FROM %I.task_reschedule WHERE ti_id = ANY (%L::uuid[])', airflow_schema,
		ARRAY(SELECT (t ->> 'key')::uuid FROM jsonb_array_elements(tasks) t)));
	PERFORM airflow_bp.row_update(airflow_schema, 'dag_run', 'id', airflow_bp.clear_columns(plan -> 'runs'),
		(SELECT jsonb_agg(r) FROM jsonb_array_elements(plan -> 'runs') r WHERE r -> 'values' <> r -> 'old'));
	PERFORM airflow_bp.row_update(airflow_schema, 'task_instance', 'id', airflow_bp.clear_columns(tasks), tasks);
	PERFORM airflow_bp.row_update(airflow_schema, 'task_instance', 'id', airflow_bp.clear_columns(plan -> 'pinned'), plan -> 'pinned');
	PERFORM airflow_bp.row_update(airflow_schema, 'deadline', 'id', airflow_bp.clear_columns(plan -> 'deadlines'), plan -> 'deadlines');
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_write(text, jsonb) IS 'Writes what clear_tasks() has planned.';

CREATE FUNCTION airflow_bp.clear_turned(rows jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_agg(r - 'old' || jsonb_build_object('key', coalesce(r #> '{values,id}', r -> 'key'),
		'wrote', r #> '{values,updated_at}', 'values', (SELECT coalesce(jsonb_object_agg(o.key, o.value), '{}') FROM jsonb_each(r -> 'old') o
			WHERE o.value IS DISTINCT FROM r -> 'values' -> o.key)) ORDER BY r -> 'key'), '[]')
	FROM jsonb_array_elements(rows) r
$$;
COMMENT ON FUNCTION airflow_bp.clear_turned(jsonb) IS 'What would bring the rows of a plan back: the values before of all columns that change, by the key after.';

CREATE FUNCTION airflow_bp.clear_tasks(ids uuid[], downstream boolean DEFAULT false) RETURNS TABLE (act_id bigint, old_id uuid, new_id uuid,
	dag_id text, run_id text, task_id text, map_index int, old_state text, new_state text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET jit = off SET datestyle = 'ISO' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
#variable_conflict use_column
DECLARE
	s text := airflow_bp.airflow_schema_name();
	at timestamptz := clock_timestamp();
	missing uuid;
	bare jsonb;
	chosen uuid[];
	runs jsonb;
	plan jsonb;
	reschedules jsonb;
	act bigint;
BEGIN
	EXECUTE format('SELECT g.id FROM unnest($1) g (id) WHERE NOT EXISTS (SELECT FROM %I.task_instance t WHERE t.id = g.id) LIMIT 1', s)
	INTO missing USING ids;
	IF missing IS NOT NULL OR EXISTS (SELECT FROM unnest(ids) g (id) WHERE g.id IS NULL) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP001', MESSAGE = format('there is no task instance %s', coalesce(missing::text, 'NULL')),
			HINT = 'It was cleared, retried or deleted meanwhile: each try has a new id.';
	END IF;
	-- Runs are locked first: what is downstream is chosen when no scheduler is at them.
	runs := airflow_bp.clear_runs(s, ids, at);
	IF runs = '[]' THEN
		RETURN;
	END IF;
	bare := (SELECT r FROM jsonb_array_elements(runs) r WHERE (r ->> 'bare')::boolean AND (r ->> 'finished')::boolean LIMIT 1);
	IF bare IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = format('run "%s" of DAG "%s" has no DAG version', bare ->> 'run_id', bare ->> 'dag_id'),
			HINT = 'Clear its tasks in Airflow, which makes those of the latest version with it.';
	END IF;
	chosen := airflow_bp.clear_selection(s, ids, coalesce(downstream, false));
	plan := jsonb_build_object('runs', runs, 'tasks', airflow_bp.clear_plan(s, chosen, runs, at),
		'pinned', airflow_bp.clear_pinned(s, chosen, runs, at), 'deadlines', airflow_bp.clear_deadlines(s, runs, at));
	IF jsonb_array_length(plan -> 'tasks') <> (SELECT count(DISTINCT c) FROM unnest(chosen) c) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP004', MESSAGE = 'tasks have moved on meanwhile', HINT = 'Look at them again.';
	END IF;
	EXECUTE format('SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.id), ''[]'') FROM %I.task_reschedule r WHERE r.ti_id = ANY ($1)', s)
	INTO reschedules USING chosen;
	INSERT INTO airflow_bp.act (action, old, new) VALUES ('clear', jsonb_build_object('tasks', airflow_bp.clear_turned(plan -> 'tasks'),
		'runs', airflow_bp.clear_turned(runs), 'pinned', airflow_bp.clear_turned(plan -> 'pinned'),
		'deadlines', airflow_bp.clear_turned(plan -> 'deadlines'), 'reschedules', reschedules),
		jsonb_build_object('tasks', (SELECT jsonb_agg(t #> '{values,id}') FROM jsonb_array_elements(plan -> 'tasks') t)))
	RETURNING act.act_id INTO act;
	PERFORM airflow_bp.clear_write(s, plan);
	RETURN QUERY SELECT act, (t ->> 'key')::uuid, (t #>> '{values,id}')::uuid, t ->> 'dag_id', t ->> 'run_id', t ->> 'task_id',
		(t ->> 'map_index')::int, t #>> '{old,state}', t #>> '{values,state}'
	FROM jsonb_array_elements(plan -> 'tasks') t;
END
$$;
COMMENT ON FUNCTION airflow_bp.clear_tasks(uuid[], boolean) IS
'Clears task instances, given by their ids, exactly as clear_task_instances() of this version of Airflow does, with the run queued again when it was finished: each becomes a new try (state NULL; restarting when it was running) under a new id, and the old try goes to the history. downstream: also all that the API would clear with include_downstream. One row a task cleared; act_id: the act, which undo() takes back while Airflow has not moved on. Locks the runs, then the tasks, until the transaction ends, and waits for them as lock_timeout says: at most some hundred tasks a call. All or nothing: BP001 no such task instance, BP004 moved on meanwhile, what is downstream is not known, or (3.3) a finished run without DAG version, BP006 no or unknown Airflow. What task_instance_mutation_hook of a cluster policy would do is not done.';

CREATE FUNCTION airflow_bp.undo_clear(done airflow_bp.act) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET datestyle = 'ISO' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
DECLARE
	s text := airflow_bp.airflow_schema_name();
	moved boolean;
BEGIN
	-- As clear_tasks() locks; who has moved on is found by the same look.
	EXECUTE format($query$
		WITH run AS MATERIALIZED (
			SELECT r.* FROM %1$I.dag_run r WHERE r.id IN (SELECT (x ->> 'key')::int FROM jsonb_array_elements($1 -> 'runs') x) ORDER BY r.id FOR UPDATE
		)
		SELECT count(r.id) < count(*) FROM jsonb_array_elements($1 -> 'runs') x LEFT JOIN run r ON r.id = (x ->> 'key')::int
			AND r.state IS NOT DISTINCT FROM x ->> 'state' AND r.clear_number = (x ->> 'clears')::int$query$, s)
	INTO moved USING done.old;
	IF moved THEN
		RETURN false;
	END IF;
	EXECUTE format($query$
		WITH task AS MATERIALIZED (
			SELECT t.* FROM %1$I.task_instance t WHERE t.id IN (SELECT (x ->> 'key')::uuid FROM jsonb_array_elements($1 -> 'tasks') x)
			ORDER BY t.id FOR UPDATE
		)
		SELECT count(t.id) < count(*) FROM jsonb_array_elements($1 -> 'tasks') x LEFT JOIN task t ON t.id = (x ->> 'key')::uuid
			AND t.updated_at = (x ->> 'wrote')::timestamptz$query$, s)
	INTO moved USING done.old;
	IF moved THEN
		RETURN false;
	END IF;
	PERFORM airflow_bp.write_as_owner(format('%I.task_instance_history', s)::regclass, format(
		'DELETE FROM %I.task_instance_history WHERE task_instance_id = ANY (%L::uuid[])', s,
		ARRAY(SELECT (x #>> '{values,id}')::uuid FROM jsonb_array_elements(done.old -> 'tasks') x WHERE x ->> 'recorded' = 'false')));
	PERFORM airflow_bp.row_update(s, 'dag_run', 'id', airflow_bp.clear_columns(done.old -> 'runs'),
		(SELECT jsonb_agg(x) FROM jsonb_array_elements(done.old -> 'runs') x WHERE x -> 'values' <> '{}'));
	PERFORM airflow_bp.row_update(s, 'task_instance', 'id', airflow_bp.clear_columns(done.old -> 'tasks'), done.old -> 'tasks');
	PERFORM airflow_bp.row_update(s, 'task_instance', 'id', airflow_bp.clear_columns(done.old -> 'pinned'), done.old -> 'pinned');
	PERFORM airflow_bp.row_update(s, 'deadline', 'id', airflow_bp.clear_columns(done.old -> 'deadlines'), done.old -> 'deadlines', 'NOT t.missed');
	PERFORM airflow_bp.write_as_owner(format('%I.task_reschedule', s)::regclass, format(
		'INSERT INTO %1$I.task_reschedule SELECT * FROM jsonb_populate_recordset(NULL::%1$I.task_reschedule, %2$L)', s, done.old -> 'reschedules'));
	RETURN true;
END
$$;
COMMENT ON FUNCTION airflow_bp.undo_clear(airflow_bp.act) IS
'Takes an act of clear_tasks() back: all columns that it wrote, the ids of the tasks, what it deleted and what it put into the history. False, and nothing is changed, when a task or run has moved on since.';
