-- Airflow's tables, bound late: nothing of ours depends on them in pg_depend, and a table or column that a version lacks reads
-- as NULL.  Only plain tables are read, of types whose casts run nobody's code: a role that makes tables of these names must not
-- run its own with our rights.  Where the triggers are there is Airflow, and only a superuser can put them, or the setting, elsewhere.

CREATE FUNCTION airflow_bp.airflow_schema_setting() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'airflow_schema_setting';
COMMENT ON FUNCTION airflow_bp.airflow_schema_setting() IS 'The setting airflow_bp.airflow_schema; NULL when it is empty.';

CREATE FUNCTION airflow_bp.gate_schema() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT min(n.nspname) FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relname = 'task_instance' AND t.tgfoid = 'airflow_bp.gate()'::regprocedure HAVING count(*) = 1);
END
$$;
COMMENT ON FUNCTION airflow_bp.gate_schema() IS 'Schema of the table with our gate; NULL when there is none, or more than one.';

-- From 16384 on are types and functions that somebody has made.
CREATE FUNCTION airflow_bp.runs_code(airflow_schema text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (SELECT FROM pg_class c
		WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = airflow_schema)
			AND c.relname IN ('alembic_version', 'dag', 'dag_run', 'dag_version', 'deadline', 'deadline_alert', 'job', 'serialized_dag', 'slot_pool',
				'task_instance', 'task_instance_history', 'task_reschedule')
			AND (c.relkind IN ('v', 'm', 'f')
				OR EXISTS (SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = c.oid AND a.atttypid >= 16384
					AND (y.typbasetype >= 16384 OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = y.oid AND k.castfunc >= 16384)))));
END
$$;
COMMENT ON FUNCTION airflow_bp.runs_code(text) IS 'Would reading the tables of Airflow in this schema run code that somebody has made: of a view, a foreign table, or a cast?';

CREATE FUNCTION airflow_bp.airflow_schema_name() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	setting text := airflow_bp.airflow_schema_setting();
	place text := coalesce(setting, airflow_bp.gate_schema());
	found text[];
BEGIN
	SELECT array_agg(n.nspname ORDER BY n.nspname) INTO found
	FROM pg_namespace n
	WHERE (n.nspname = place OR place IS NULL)
		AND (SELECT count(*) FROM pg_class c
			WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND c.relname IN ('alembic_version', 'task_instance')) = 2;
	IF cardinality(found) = 1 AND airflow_bp.runs_code(found[1]) THEN
		RAISE EXCEPTION USING ERRCODE = 'BP006',
			MESSAGE = format('in schema "%s" a view, or a column type with a cast of its own, stands where Airflow has a plain table', found[1]),
			HINT = 'Drop it: with its code its owner would get our rights.';
	ELSIF cardinality(found) = 1 THEN
		RETURN found[1];
	ELSIF found IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'BP006',
			MESSAGE = CASE WHEN setting IS NULL THEN 'no schema of this database holds the tables of Airflow'
				ELSE format('schema "%s" does not hold the tables of Airflow', setting) END,
			HINT = 'Run airflow db migrate, connect to the metadata database, or set airflow_bp.airflow_schema.';
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'BP006',
		MESSAGE = format('several schemas hold tables of Airflow: %s', array_to_string(found, ', ')),
		HINT = 'Set airflow_bp.airflow_schema to one of them.';
END
$$;
COMMENT ON FUNCTION airflow_bp.airflow_schema_name() IS
'Schema of the Airflow tables: airflow_bp.airflow_schema if set, else the one with our triggers, else the one that holds alembic_version and task_instance. BP006 when there is none, or more than one, or when its tables are not plain.';

-- In plpgsql, which keeps its plan.
CREATE FUNCTION airflow_bp.airflow_relation(airflow_schema text, relation text, VARIADIC columns text[]) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT format(CASE WHEN min(c.oid) IS NULL THEN '(SELECT %s WHERE false)' ELSE '(SELECT %s FROM %I.%I)' END,
		string_agg(CASE WHEN a.attname IS NULL THEN format('NULL::%s AS %I', coalesce(w.part[2], 'text'), w.part[1])
			ELSE format('%I', w.part[1]) || coalesce('::' || w.part[2] || format(' AS %I', w.part[1]), '') END, ', ' ORDER BY w.place),
		airflow_schema, relation)
	FROM (SELECT string_to_array(u.spec, ' ') AS part, u.place FROM unnest(columns) WITH ORDINALITY u (spec, place)) w
	LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
		ON n.nspname = airflow_schema AND c.relname = relation AND c.relkind IN ('r', 'p')
	LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.part[1] AND a.attnum > 0 AND NOT a.attisdropped
		AND a.atttypid < 16384);
END
$$;
COMMENT ON FUNCTION airflow_bp.airflow_relation(text, text, text[]) IS
'Subquery that reads columns, each given as "name" or "name type", of an Airflow table. A column that is not there, or is of a type that somebody has made, reads as NULL, a table as empty.';

CREATE FUNCTION airflow_bp.airflow_has(airflow_schema text, relation text, col text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (SELECT FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE n.nspname = airflow_schema AND c.relname = relation AND a.attname = col AND NOT a.attisdropped);
END
$$;
COMMENT ON FUNCTION airflow_bp.airflow_has(text, text, text) IS 'Does this Airflow table have this column?';

CREATE FUNCTION airflow_bp.seconds(value float8) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN value IS NOT NULL THEN make_interval(secs => greatest(least(value, 1e9), -1e9)) END;
COMMENT ON FUNCTION airflow_bp.seconds(float8) IS 'So many seconds, at most 31 years: a date that a DAG puts out of range stops no query.';

CREATE FUNCTION airflow_bp.data_time() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN NOT pg_is_in_recovery()
			OR EXISTS (SELECT FROM pg_stat_wal_receiver) AND pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()
		THEN statement_timestamp() ELSE coalesce(pg_last_xact_replay_timestamp(), statement_timestamp()) END
$$;
COMMENT ON FUNCTION airflow_bp.data_time() IS
'The instant of the data that this statement reads: the present, or on a standby that lags the commit replayed last.';
