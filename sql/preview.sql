-- What one fill would admit, on a policy and a load given as JSON; neither shared memory nor Airflow is needed.
CREATE DATABASE regress_preview;
\c regress_preview
CREATE EXTENSION airflow_bp;
\set SHOW_CONTEXT never
\set cases `cat "$PG_ABS_SRCDIR/test/vectors/admission.json"`

-- Each case: fields compared, and those that differ.
CREATE TABLE compared AS
SELECT c->>'id' AS id, field, name, expected, o->'nodes'->name->field AS found
FROM jsonb_array_elements(:'cases') c, LATERAL airflow_bp.preview(c->'input') o, jsonb_each(c->'expect') e (field, nodes),
	jsonb_each(nodes) n (name, expected);
CREATE VIEW differ AS
SELECT * FROM compared WHERE found IS NULL OR CASE WHEN field = 'share' AND jsonb_typeof(found) = 'number' AND jsonb_typeof(expected) = 'number'
	THEN abs(found::float8 - expected::float8) > 1e-5 * abs(expected::float8) ELSE found <> expected END;
SELECT id, count(*) FROM compared GROUP BY id ORDER BY id COLLATE "C";
SELECT * FROM differ;

-- The order of the rows does not matter.
CREATE FUNCTION turned(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_object_agg(key, CASE jsonb_typeof(value) WHEN 'array' THEN
		(SELECT coalesce(jsonb_agg(e ORDER BY n DESC), '[]') FROM jsonb_array_elements(value) WITH ORDINALITY a (e, n)) ELSE value END)
	FROM jsonb_each(input)
$$;
SELECT count(*) AS cases, count(*) FILTER (WHERE airflow_bp.preview(turned(c->'input')) = airflow_bp.preview(c->'input')) AS same
FROM jsonb_array_elements(:'cases') c;

-- What is left out.
SELECT airflow_bp.preview('{}');
SELECT airflow_bp.preview(NULL);
SELECT airflow_bp.preview('{"cohorts": null, "tenants": null, "usage": null, "admitted": null, "pending": null, "other": [1]}');
SELECT jsonb_pretty(airflow_bp.preview('{"cohorts": [{"name": "all"}, {"name": "empty", "nominal": 3, "lending_limit": null}],
	"tenants": [{"name": "a", "cohort": "all", "nominal": 2}, {"name": "b", "cohort": "all", "nominal": 1, "weight": 0}, {"name": "free", "nominal": null}],
	"usage": {"a": 1, "b": 1}, "admitted": [{"tenant": "b"}, {"tenant": "free", "slots": 2147483647}],
	"pending": [{"id": "a1", "tenant": "a"}, {"id": "a2", "tenant": "a", "slots": 4}, {"id": "b1", "tenant": "b", "slots": 0},
		{"id": "f1", "tenant": "free", "slots": 2147483647, "priority": 1.0, "created_s": -0.5}]}'));

-- Strictly by age, or past a task that does not fit; why the others wait.
CREATE FUNCTION outcome(input jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s; held %s', o->>'order', (SELECT string_agg(concat_ws(' ', h->>'id', h->>'reason'), ', ' ORDER BY n)
		FROM jsonb_array_elements(o->'held') WITH ORDINALITY a (h, n)))
	FROM airflow_bp.preview(input) o
$$;
SELECT q, outcome(jsonb_build_object('tenants', jsonb_build_array(jsonb_build_object('name', 'a', 'nominal', 4, 'queueing', q)),
	'pending', '[{"id": "one", "tenant": "a", "created_s": 3}, {"id": "two", "tenant": "a", "slots": 2, "created_s": 2},
		{"id": "too_large", "tenant": "a", "slots": 5, "created_s": 1}, {"id": "all", "tenant": "a", "slots": 3, "priority": -1},
		{"id": "first", "tenant": "a", "priority": 1}, {"id": "also", "tenant": "a", "slots": 3, "created_s": 2.5}]'::jsonb)) FROM unnest('{strict,best_effort}'::text[]) q;

-- With age, priority rises: linearly, to a cap, for a number of tasks at a time.
SELECT keys, outcome('{"tenants": [{"name": "a", "nominal": 3}], "now_s": 100,
	"pending": [{"id": "new", "tenant": "a", "priority": 5, "created_s": 99}, {"id": "newer", "tenant": "a", "priority": 5, "created_s": 100},
		{"id": "old1", "tenant": "a", "created_s": 1}, {"id": "old2", "tenant": "a", "created_s": 2}, {"id": "old3", "tenant": "a", "created_s": 3}]}' || keys)
FROM unnest(ARRAY['{}', '{"max_age_s": 90, "age_priority": 10}', '{"max_age_s": 90, "age_priority": 4}', '{"max_age_s": 900, "age_priority": 10}',
	'{"max_age_s": 90, "age_priority": 10, "age_tasks": 1}']::jsonb[]) keys;

-- The DAGs of a tenant share by what they have used.
SELECT keys, outcome('{"tenants": [{"name": "a", "nominal": 8}], "admitted": [{"tenant": "a", "slots": 2, "dag": "x"}, {"tenant": "a", "dag": "z"}],
	"pending": [{"id": "x1", "tenant": "a", "dag": "x", "priority": 9}, {"id": "y1", "tenant": "a", "dag": "y"}, {"id": "y2", "tenant": "a", "dag": "y"},
		{"id": "y3", "tenant": "a", "dag": "y"}, {"id": "z1", "tenant": "a", "dag": "z", "priority": 5}, {"id": "n1", "tenant": "a", "priority": -1}]}' || keys)
FROM unnest(ARRAY['{}', '{"half_life_s": 60}', '{"half_life_s": 0.0000001}']::jsonb[]) keys;

-- When its turn comes, if slots are given back at such a pace: first a tenant alone, then lender and borrower.
SELECT w, f, airflow_bp.preview(jsonb_build_object('tenants', '[{"name": "a", "nominal": 2}, {"name": "other", "nominal": 1}]'::jsonb,
	'usage', '{"a": 1, "other": 1}'::jsonb, 'watch', w, 'finishes', f, 'pending', '[{"id": "1", "tenant": "a"}, {"id": "2", "tenant": "a"},
		{"id": "3", "tenant": "a", "slots": 2}, {"id": "4", "tenant": "a"}, {"id": "never", "tenant": "a", "slots": 3}]'::jsonb))->'turn_s' AS turn_s
FROM unnest('{1,2,3,4,never}'::text[]) w, unnest('{"{}", "{\"a\": 0, \"other\": 60}", "{\"a\": 6}", "{\"a\": 0.5}"}'::jsonb[]) WITH ORDINALITY u (f, i) ORDER BY w, i;
SELECT w, airflow_bp.preview(jsonb_build_object('cohorts', '[{"name": "all"}]'::jsonb, 'watch', w, 'usage', '{"b": 4}'::jsonb,
	'tenants', '[{"name": "a", "cohort": "all", "nominal": 2}, {"name": "b", "cohort": "all", "nominal": 2}]'::jsonb, 'finishes', '{"b": 12, "a": 1}'::jsonb,
	'pending', '[{"id": "a1", "tenant": "a", "slots": 2}, {"id": "a2", "tenant": "a"}, {"id": "b1", "tenant": "b"}]'::jsonb))->'turn_s' AS turn_s
FROM unnest('{a1,a2,b1}'::text[]) w;
SELECT airflow_bp.preview('{"watch": null}') ? 'turn_s' AS watches;

-- Bad input: its code, and what is wrong.
CREATE FUNCTION refused(input jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	RETURN 'accepted: ' || airflow_bp.preview(input)::text;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' ', sqlstate, CASE WHEN hint = '' THEN 'NO HINT' END, left(sqlerrm, 150));
END
$$;
-- Parts that are wrong, put into an input that is right.
CREATE FUNCTION bad(part text) RETURNS text LANGUAGE sql AS $$
	SELECT refused('{"cohorts": [{"name": "all", "nominal": 4}], "tenants": [{"name": "a", "cohort": "all", "nominal": 2}],
		"pending": [{"id": "1", "tenant": "a"}]}'::jsonb || part::jsonb)
$$;
SELECT part, bad(part) FROM unnest(ARRAY[
	'[]', '1', 'null', '"x"',
	'{"cohorts": {}}', '{"tenants": "a"}', '{"pending": 1}', '{"usage": []}', '{"admitted": {"a": 1}}',
	'{"cohorts": ["all"]}', '{"tenants": [null]}', '{"pending": [[]]}', '{"admitted": [{"tenant": "a"}, 2]}',
	'{"cohorts": [{}]}', '{"tenants": [{"nominal": 1}]}', '{"tenants": [{"name": null, "nominal": 1}]}', '{"tenants": [{"name": "a"}]}',
	'{"pending": [{"tenant": "a"}]}', '{"pending": [{"id": "1"}]}', '{"pending": [{"id": 1, "tenant": "a"}]}', '{"admitted": [{"slots": 1}]}',
	'{"watch": 1}', '{"finishes": [1]}', '{"tenants": [{"name": {}, "nominal": 1}]}', '{"tenants": [{"name": "a", "nominal": 1, "cohort": 1}]}', '{"cohorts": [{"name": "all", "parent": true}]}'
	]) WITH ORDINALITY p (part, n) ORDER BY n;
SELECT part, bad(part) FROM unnest(ARRAY[
	'{"tenants": [{"name": "", "nominal": 1}]}', '{"pending": [{"id": "", "tenant": "a"}]}',
	'{"tenants": [{"name": "a", "nominal": 1}, {"name": "a", "nominal": 1}]}', '{"tenants": [{"name": "all", "nominal": 1}]}',
	'{"cohorts": [{"name": "all"}, {"name": "all"}]}', '{"pending": [{"id": "1", "tenant": "a"}, {"id": "2", "tenant": "a"}, {"id": "1", "tenant": "a"}]}',
	'{"cohorts": []}', '{"cohorts": [{"name": "all", "parent": "none"}]}', '{"tenants": [{"name": "a", "nominal": 1, "cohort": "a"}]}',
	'{"tenants": [{"name": "a", "nominal": 1, "cohort": ""}]}',
	'{"tenants": []}', '{"pending": [{"id": "1", "tenant": "b"}]}', '{"pending": [{"id": "1", "tenant": "all"}]}',
	'{"usage": {"b": 1}}', '{"usage": {"all": 1}}', '{"admitted": [{"tenant": "b"}]}', '{"admitted": [{"tenant": "all", "slots": 0}]}',
	'{"watch": "2"}', '{"finishes": {"all": 1}}', '{"tenants": [{"name": "a", "nominal": 1, "queueing": "fifo"}]}'
	]) WITH ORDINALITY p (part, n) ORDER BY n;

-- Numbers: each in each place.
CREATE TABLE place AS
SELECT * FROM unnest(ARRAY['{"cohorts": [{"name": "all", "nominal": %s}]}', '{"cohorts": [{"name": "all", "borrowing_limit": %s}]}',
	'{"cohorts": [{"name": "all", "lending_limit": %s}]}', '{"cohorts": [{"name": "all", "weight": %s}]}',
	'{"tenants": [{"name": "a", "cohort": "all", "nominal": %s}]}', '{"tenants": [{"name": "a", "cohort": "all", "nominal": 1, "borrowing_limit": %s}]}',
	'{"tenants": [{"name": "a", "cohort": "all", "nominal": 1, "lending_limit": %s}]}',
	'{"tenants": [{"name": "a", "cohort": "all", "nominal": 1, "weight": %s}]}', '{"usage": {"a": %s}}', '{"admitted": [{"tenant": "a", "slots": %s}]}',
	'{"pending": [{"id": "1", "tenant": "a", "slots": %s}]}', '{"pending": [{"id": "1", "tenant": "a", "priority": %s}]}',
	'{"pending": [{"id": "1", "tenant": "a", "created_s": %s}]}', '{"now_s": %s}', '{"max_age_s": %s}', '{"age_priority": %s}', '{"age_tasks": %s}',
	'{"half_life_s": %s}', '{"finishes": {"a": %s}}']) WITH ORDINALITY p (part, n);
SELECT part, string_agg(number, ' ' ORDER BY i) FILTER (WHERE found LIKE 'accepted%') AS accepted, string_agg(DISTINCT found, '; ') FILTER (WHERE found NOT LIKE 'accepted%') AS refused
FROM place, unnest(ARRAY['0', '-0', '1e9', '2147483647', '2147483647.0', '2147483648', '4294967297', '18446744073709551617', '1e400', '1e131071', '-1', '-2147483648',
	'-2147483649', '-1e400', '0.5', '1.00000000000000000000001', '1e-9', '1e-10', '1e-400', '-1e-400', 'null', 'true', '"1"', '"NaN"', '"Infinity"', '[]', '[1]', '{}'])
	WITH ORDINALITY u (number, i), LATERAL bad(format(part, number)) AS found
GROUP BY part, n ORDER BY n;

-- Cohorts may be nested, not without end.
CREATE FUNCTION nested(depth int, root text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('tenants', '[{"name": "a", "cohort": "c1", "nominal": 1}]'::jsonb, 'cohorts', jsonb_agg(jsonb_build_object('name', 'c' || i,
		'parent', CASE WHEN i < depth THEN 'c' || i + 1 ELSE root END))) FROM generate_series(1, depth) i
$$;
SELECT airflow_bp.preview(nested(32, NULL))->'nodes'->'c32'->>'quota' AS quota;
SELECT refused(nested(33, NULL)), refused(nested(100000, NULL));
SELECT refused(nested(1, 'c1')), refused(nested(2, 'c1')), refused(nested(32, 'c32')), refused(nested(40, 'c17')), refused(nested(100000, 'c1'));

-- Large and strange.  Of a long name a message shows the beginning.
CREATE FUNCTION long_name() RETURNS TABLE (message text) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT airflow_bp.preview(jsonb_build_object('usage', jsonb_build_object(repeat('ü', 1000000), 1)))::text;
EXCEPTION WHEN SQLSTATE 'BP001' THEN
	RETURN QUERY SELECT sqlerrm;
END
$$;
SELECT jsonb_array_length(airflow_bp.preview(jsonb_build_object('tenants', '[{"name": "a", "nominal": null}]'::jsonb,
	'pending', (SELECT jsonb_agg(jsonb_build_object('id', i::text, 'tenant', 'a', 'slots', 2147483647)) FROM generate_series(1, 100000) i)))->'order');
SELECT refused(jsonb_build_object('tenants', (SELECT jsonb_agg(jsonb_build_object('name', repeat('x', 1000000) || i, 'nominal', -i)) FROM generate_series(0, 10) i)));
SELECT length(message) FROM long_name();
SELECT refused((repeat('[', 5000) || repeat(']', 5000))::jsonb), bad('{"tenants": ' || repeat('[', 5000) || repeat(']', 5000) || '}'),
	bad('{"usage": {"a": ' || repeat('{"a": ', 5000) || '1' || repeat('}', 5000) || '}}');
SELECT key, value->'quota' AS quota FROM jsonb_each(airflow_bp.preview('{"tenants": [{"name": "O''Brien", "nominal": 1}, {"name": "\"q\"", "nominal": 2},
	{"name": "ü☃\n%s", "nominal": 3}, {"name": " ", "nominal": 4}]}')->'nodes') ORDER BY key COLLATE "C";
SELECT bad('{"usage": {"%s%n\"": -1}}');

-- Anybody who is let may call it; it reads and changes nothing.
SELECT provolatile, proisstrict, prosecdef FROM pg_proc WHERE oid = 'airflow_bp.preview(jsonb)'::regprocedure;
\c postgres
DROP DATABASE regress_preview;
