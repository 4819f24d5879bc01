-- What a change of policy would do, and why a tenant waits.  No worker here: tick() is its turn.
\getenv top PG_ABS_SRCDIR
\set setup :top '/test/fixtures/regress.sql'
\set ECHO none
\i :setup
-- Columns in which a tenant differs before and after; all that is known of one.
CREATE FUNCTION test.change(changes jsonb) RETURNS TABLE (tenant text, cohort text, usage bigint, available text, potential text, share text,
	starts text, held text, note text) LANGUAGE sql AS $$
	SELECT tenant, cohort, usage, concat_ws(' ', available_before, '>', available_after), concat_ws(' ', potential_before, '>', potential_after),
		concat_ws(' ', share_before, '>', share_after), concat_ws(' ', starts_before, '>', starts_after), concat_ws(' ', held_before, '>', held_after), note
	FROM airflow_bp.preview_change(changes) ORDER BY tenant COLLATE "C"
$$;
CREATE FUNCTION test.explain(name text) RETURNS TABLE (line bigint, fact text, subject text, slots bigint, since boolean, detail text)
LANGUAGE sql AS 'SELECT line, fact, subject, slots, since < now(), detail FROM airflow_bp.explain_tenant(name)';
-- The ids that a fill would admit now, and those that have a grant.
CREATE FUNCTION test.foreseen() RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(id ORDER BY id) FROM jsonb_array_elements_text(airflow_bp.preview(airflow_bp.preview_state()) -> 'order') id
$$;
CREATE FUNCTION test.granted() RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(ti_id::text ORDER BY ti_id::text) FROM airflow_bp.held_entries() WHERE granted
$$;
\set ECHO all

-- Before the counters are ready: what follows of the policy alone.
SELECT airflow_bp.set_cohort('all');
SELECT test.tenant('a', 4), test.tenant('b', 4), test.tenant('c', 4, NULL);
SELECT * FROM test.change('{"tenants": [{"name": "a", "nominal": 6}]}');
SELECT * FROM test.explain('a');
SELECT * FROM test.explain('default');
SELECT airflow_bp.preview(airflow_bp.preview_state()) -> 'order' AS nobody;

-- Eight slots of a and b: a has them all, b wants five; c stands alone and has one task too many.
SELECT airflow_bp.enable('enforce');
SELECT test.tasks('a1', 1, 20), test.tasks('b1', 1, 20), test.tasks('c1', 1, 20);
SELECT airflow_bp.tick();
SELECT * FROM test.explain('a');
SELECT test.ask('a1', 1, 10), test.ask('b1', 1, 5), test.ask('c1', 1, 5);
SELECT * FROM test.change('{}');
SELECT * FROM test.explain('a');
SELECT * FROM test.explain('b');
SELECT * FROM test.explain('c');
SELECT * FROM test.explain('default');

-- Before and after: b gets four slots and starts four; the shares of those who stay, limits, new and dropped ones.
SELECT * FROM test.change('{"tenants": [{"name": "b", "nominal": 8}]}');
SELECT * FROM test.change('{"cohorts": [{"name": "all", "nominal": 3}], "tenants": [{"name": "c", "nominal": null}]}');
SELECT * FROM test.change('{"tenants": [{"name": "a", "nominal": 1, "borrowing_limit": 2}, {"name": "d", "cohort": "more", "nominal": 2}],
	"cohorts": [{"name": "more", "parent": "all", "nominal": 1}]}');
SELECT * FROM test.change('{"tenants": [{"name": "a", "drop": true}, {"name": "c", "cohort": "all", "weight": 0}]}');
SELECT * FROM test.change('{"tenants": [{"name": "default", "nominal": 3}]}') WHERE tenant = 'default';
SELECT * FROM test.change('{"tenants": [{"name": "default", "drop": true}]}') WHERE tenant = 'default';
SELECT count(*) FROM airflow_bp.tenant;

-- What is foreseen happens: slots come free by a change, and by tasks that end.
CREATE TEMP TABLE seen AS
SELECT * FROM airflow_bp.preview_change('{"tenants": [{"name": "b", "nominal": 7}]}') WHERE tenant IN ('a', 'b', 'c');
SELECT test.tenant('b', 7);
SELECT test.foreseen() AS foreseen \gset
SELECT airflow_bp.tick();
SELECT cardinality(test.granted()), test.granted() = :'foreseen'::text[] AS as_foreseen;
SELECT t.name, s.starts_after, s.held_after, t.held, s.share_after, (SELECT count(*) FROM airflow_bp.held() h WHERE h.tenant = t.name AND granted) AS granted
FROM airflow_bp.tenants() t JOIN seen s ON s.tenant = t.name;
SELECT * FROM test.explain('b');
-- And when three tasks of a end: two of b, which are inside its nominal, then the one of a with the higher priority.
UPDATE task_instance SET priority_weight = 7 WHERE dag_id = 'a1' AND task_id = 't10';
SELECT test.ask('a1', 9, 10);
SELECT array_agg(id ORDER BY id) AS foreseen, count(*) FROM jsonb_array_elements_text(
	airflow_bp.preview(jsonb_set(airflow_bp.preview_state(), '{usage,a}', '5')) -> 'order') id \gset
CREATE TEMP TABLE granted_before AS SELECT unnest(test.granted()) AS id;
SELECT test.finish('a1', 3);
SELECT :count AS foreseen, array_agg(id ORDER BY id) = :'foreseen'::text[] AS as_foreseen
FROM unnest(test.granted()) id WHERE id NOT IN (SELECT id FROM granted_before);
SELECT * FROM test.explain('a');
SELECT * FROM test.explain('b');

-- Its turn comes when the next task of a ends, at the rate at which they do.
DO $$
BEGIN
	FOR i IN 1 .. 3000 LOOP
		EXIT WHEN airflow_bp.finish_rates() ? 'a';
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SELECT fact, abs(extract(epoch FROM turn_in) * (airflow_bp.finish_rates() ->> 'a')::float8 / 60 - 1) < 0.5 AS after_one_more
FROM airflow_bp.explain_tenant('a') WHERE turn_in IS NOT NULL;
SELECT r.key, abs(r.value::float8 / q.finishes_per_min - 1) < 0.5 AS as_tasks_have_one_slot
FROM jsonb_each(airflow_bp.finish_rates()) r JOIN airflow_bp.queue('tenant') q ON q.scope_name = r.key WHERE r.key = 'a';

-- Limits of its own, slots that others keep, tasks that never fit.
SELECT airflow_bp.set_cohort('lenders'), test.tenant('e', 2, 'lenders', 1), test.tenant('f', 3, 'lenders', NULL, 1);
SELECT test.tasks('e1', 1, 5), test.tasks('e3', 1, 1, slots => 3), test.tasks('e9', 1, 1, slots => 9);
SELECT airflow_bp.tick();
SELECT test.ask('e1', 1, 5), test.ask('e3', 1), test.ask('e9', 1);
SELECT * FROM test.explain('e');
SELECT * FROM test.change('{"tenants": [{"name": "e", "borrowing_limit": null}, {"name": "f", "lending_limit": null}]}') WHERE cohort = 'lenders';

-- A lender that waits for two slots of its own claims the one that is free.
SELECT airflow_bp.set_cohort('claims'), test.tenant('x', 3, 'claims'), test.tenant('y', 3, 'claims'), test.tenant('z', 0, 'claims');
SELECT test.tasks('x1', 1, 1, slots => 2), test.tasks('y1', 1, 7);
SELECT airflow_bp.tick();
SELECT test.ask('y1', 1, 7);
SELECT test.ask('x1', 1);
SELECT test.finish('y1', 1);
SELECT * FROM test.explain('y');
SELECT * FROM test.explain('x');

-- Not enforced; a grant is gone when its task has passed.
SELECT airflow_bp.set_tenant('y', 3, 'claims', mode => 'observe');
SELECT note FROM airflow_bp.preview_change('{"tenants": []}') WHERE tenant IN ('x', 'y') ORDER BY tenant;

-- A policy edited by hand is taken as the worker takes it.
SELECT airflow_bp.set_cohort('inner', 'lenders');
INSERT INTO airflow_bp.cohort VALUES ('one', 'two'), ('two', 'one'), ('lost', 'nowhere');
SELECT c ->> 'name' AS name, c ->> 'parent' AS parent FROM jsonb_array_elements(airflow_bp.preview_state() -> 'cohorts') c ORDER BY 1;
DELETE FROM airflow_bp.cohort WHERE name IN ('one', 'two', 'lost', 'inner');

-- Names are only names.
SELECT airflow_bp.set_tenant($$it's "q" \ %s {x}$$, 2);
SELECT * FROM test.explain($$it's "q" \ %s {x}$$);
SELECT tenant, potential_before, potential_after, note
FROM airflow_bp.preview_change(jsonb_build_object('tenants', jsonb_build_array(jsonb_build_object('name', $$it's "q" \ %s {x}$$, 'nominal', 5),
	jsonb_build_object('name', $$'; DROP TABLE x; --$$, 'nominal', 1)))) WHERE tenant ~ '\W';

-- Bad input: its code, and what is wrong.
CREATE FUNCTION test.refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' ', sqlstate, CASE WHEN hint = '' THEN 'NO HINT' END, sqlerrm);
END
$$;
SELECT test.refused(format('SELECT airflow_bp.explain_tenant(%L)', name)) FROM unnest('{all,X,"",NULL}'::text[]) name;
SELECT changes, test.refused(format('SELECT * FROM airflow_bp.preview_change(%L)', changes)) FROM unnest(ARRAY[
	NULL, 'null', '[]', '1', '{"tenant": []}', '{"tenants": {}}', '{"cohorts": null}', '{"tenants": [1]}', '{"tenants": [{}]}',
	'{"tenants": [{"nominal": 1}]}', '{"tenants": [{"name": null}]}', '{"tenants": [{"name": "a", "mode": "off"}]}', '{"tenants": [{"name": "a", "parent": "all"}]}',
	'{"cohorts": [{"name": "all", "cohort": "all"}]}', '{"cohorts": [{"name": "all", "queueing": "strict"}]}', '{"tenants": [{"name": "a", "cohort": 1}]}',
	'{"tenants": [{"name": "a", "drop": 1}]}', '{"tenants": [{"name": "a", "drop": null}]}',
	'{"tenants": [{"name": "c"}, {"name": "a", "nominal": "3"}]}', '{"tenants": [{"name": "a", "nominal": -1}]}', '{"tenants": [{"name": "a", "nominal": 1.5}]}',
	'{"tenants": [{"name": "a", "nominal": 2147483648}]}', '{"tenants": [{"name": "a", "lending_limit": true}]}', '{"tenants": [{"name": "a", "weight": null}]}',
	'{"tenants": [{"name": "a", "weight": 1e-10}]}', '{"tenants": [{"name": "a", "weight": "1"}]}', '{"tenants": [{"name": "a", "queueing": "fifo"}]}',
	'{"tenants": [{"name": "a", "nominal": null}]}', '{"cohorts": [{"name": "all", "nominal": null}]}', '{"tenants": [{"name": "a", "cohort": "none"}]}',
	'{"tenants": [{"name": "new"}]}', '{"tenants": [{"name": "", "nominal": 1}]}', '{"tenants": [{"name": "new", "drop": true}]}', '{"cohorts": [{"name": "new", "drop": true}]}',
	'{"cohorts": [{"name": "all", "drop": true}]}', '{"tenants": [{"name": "all", "nominal": 1}]}', '{"tenants": [{"name": "a"}, {"name": "a"}]}',
	'{"tenants": [{"name": "e", "cohort": null}]}', '{"cohorts": [{"name": "all", "borrowing_limit": 1}]}', '{"cohorts": [{"name": "all", "parent": "all"}]}',
	'{"cohorts": [{"name": "all", "parent": "claims"}, {"name": "claims", "parent": "all"}]}'
	]) WITH ORDINALITY p (changes, n) ORDER BY n;
SELECT test.refused(format('SELECT * FROM airflow_bp.preview_change(%L)', format('{"tenants": [{"name": "%s", "nominal": 1}]}', repeat('x', 64))));

-- Who may: readers; not PUBLIC.
CREATE ROLE explain_reader;
GRANT USAGE ON SCHEMA airflow_bp TO PUBLIC;
SET ROLE explain_reader;
SELECT airflow_bp.preview_change('{}');
SELECT airflow_bp.explain_tenant('a');
SELECT airflow_bp.preview_state();
RESET ROLE;
SELECT airflow_bp.grant_reader('explain_reader');
SET ROLE explain_reader;
SELECT count(*) FROM airflow_bp.preview_change('{}');
SELECT count(*) > 1 AS rows FROM airflow_bp.explain_tenant('a');
SELECT count(*) FROM jsonb_object_keys(airflow_bp.preview_state() -> 'usage');
RESET ROLE;

SELECT test.clean();
SELECT airflow_bp.tick();
DROP FUNCTION test.foreseen, test.granted, test.explain, test.change, test.refused;
DROP EXTENSION airflow_bp;
DROP OWNED BY explain_reader;
DROP ROLE explain_reader;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA airflow, airflow_bp, test CASCADE;
