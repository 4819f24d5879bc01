"""Random statements on our SQL surface, and on the tables of Airflow under it.

They depend on the random numbers and on the surface alone, not on what the server answers.
"""

import json

ROLES = {"postgres": 10, "fuzz_operator": 5, "fuzz_reader": 3, "fuzz_nobody": 1, "fuzz_airflow": 3}  # and how often each is taken
HOSTILE = [
    "", " ", "'", '"', "\\", "%", "%s%I%n", "$1", "*", "?", "~", "~(", "~(a*)*b", "~\\1", "~[", "a;b", "'; SELECT 1; --", 'x"y.z',
    "NULL", "null", "default", "public", "pg_catalog", "pg_temp", "airflow_bp", "{}", "[]", '{"a": 1}', "-1", "1e999", "NaN", "\t\n\r",
    "\u00fc\u6f22\u5b57\U0001f600", "\u202ex", "e\u0301" * 40, "\U0001f600" * 16, "x" * 63, "x" * 64, "x" * 255,
    "SELECT 1", "UPDATE task_instance SET state = 'queued'",
]
NUMBERS = [0, 1, -1, 2, 3, 5, 10, 32, 33, 100, 1000, 50000, 2147483647, -2147483648, 2147483646]
BIG = NUMBERS + [2147483648, 9223372036854775807, -9223372036854775808, 1 << 53]
FLOATS = ["0", "1", "-1", "0.5", "1e-9", "1e-10", "1e-320", "1e300"]
ODD_FLOATS = ["-1e300", "NaN", "Infinity", "-Infinity", "-0", "2147483647", "9.3e18"]
INTERVALS = [
    "0", "1 second", "1 minute", "1 hour", "1 day", "-1 day", "100 ms", "0.000001 s", "-1 us", "366 days", "1 month", "178000000 years",
    "-178000000 years", "2147483647 months", "2147483647 days", "2147483647 months 2147483647 days 2562047788 hours",
]
INSTANTS = [
    "infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "epoch", "2000-01-01 00:00:00+00",
    "0001-01-01 00:00:00+00", "now", "yesterday", "tomorrow",
]
AIRFLOW_INSTANTS = ["0001-01-02 00:00:00+00", "9999-12-30 00:00:00+00", "epoch", "now"]  # what Python can write
STATES = [
    "scheduled", "queued", "running", "restarting", "success", "failed", "skipped", "upstream_failed", "up_for_retry", "up_for_reschedule",
    "deferred", "removed", None, None,
]
DOCUMENTS = [
    "null", "true", "1", '""', "[]", "{}", "[[]]", "[null]", '{"": null}', "1e400", '{"a": [1, {"b": null}]}', '{"__type": "dag", "__var": {}}',
]
DEEP = ["repeat('[', 4000) || repeat(']', 4000)", """repeat('{"a":', 5000) || '1' || repeat('}', 5000)"""]
LARGE = """(SELECT jsonb_build_object('tenants', '[{"name": "a", "nominal": 5}]'::jsonb, 'pending',
    jsonb_agg(jsonb_build_object('id', i::text, 'tenant', 'a'))) FROM generate_series(1, 3000) i)::text"""
PREVIEW_KEYS = """admitted age_priority age_tasks best_effort borrowing_limit cohort cohorts created_s dag finishes half_life_s id lending_limit
    max_age_s name nominal now_s parent pending priority queueing slots strict tenant tenants usage watch weight""".split()
BYTES = [
    "''", "'\\x78da'", "'\\x789c4b4c4a06000242012600'", "decode(repeat('ff', 5000), 'hex')", "load_gen.compressed()", "load_gen.zlib('{}')",
    "load_gen.zlib('\\x00ff')",
]
NO_OBJECT = ["0", "4294967295", "12"]
OBJECTS = {
    "oid": [f"'{name}'::regclass" for name in ("task_instance", "task_instance_pkey", "airflow_bp.act_act_id_seq", "pg_class", "pg_settings")],
    "regclass": ["'task_instance'", "'dag_run_pkey'", "'airflow_bp.tenant'", "'pg_class'", "'pg_settings'"],
    "regrole": ["'fuzz_reader'", "'fuzz_operator'", "'postgres'"],
    "regprocedure": ["'airflow_bp.status()'"],
}


def quote(text):
    return "'" + text.replace("'", "''") + "'"


class Surface:
    """What there is to call, read and write: the same for the same schema."""

    def __init__(self, cursor):
        def rows(sql):
            cursor.execute(sql)
            return cursor.fetchall()

        self.functions = rows("""SELECT p.proname, p.prokind, p.proretset, p.pronargdefaults, p.provariadic <> 0,
                coalesce(p.proargnames[:p.pronargs], '{}'),
                ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u (t, i) ORDER BY i),
                p.prorettype = 'trigger'::regtype
            FROM pg_proc p WHERE p.pronamespace = 'airflow_bp'::regnamespace ORDER BY p.oid::regprocedure::text""")
        self.triggers = [f[0] for f in self.functions if f[7]]
        # What that one is told it keeps: no sweep would come to an end any more.
        self.functions = [f for f in self.functions if not f[7] and f[0] != "set_stuck_progress"]
        self.relations = rows("""SELECT n.nspname, quote_ident(c.relname), c.relkind::text,
                array_agg(quote_ident(a.attname) ORDER BY a.attnum), array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum),
                array_agg(a.atthasdef OR a.attidentity <> '' ORDER BY a.attnum)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE n.nspname IN ('airflow_bp', 'public') AND c.relkind IN ('r', 'v', 'p') GROUP BY 1, 2, 3 ORDER BY 1, 2""")
        self.ours = [r for r in self.relations if r[0] == "airflow_bp"]
        self.our_tables = [r for r in self.ours if r[2] != "v"]
        reader = {r[0] for r in rows("SELECT p.proname FROM airflow_bp.functions_for('reader') f JOIN pg_proc p ON p.oid = f")}
        self.public = reader | {r[0] for r in rows("SELECT p.proname FROM airflow_bp.functions_for('operator') f JOIN pg_proc p ON p.oid = f")}
        self.granted = {
            "fuzz_reader": [f for f in self.functions if f[0] in reader],
            "fuzz_operator": [f for f in self.functions if f[0] in self.public],
        }
        self.airflow = [r for r in self.relations if r[0] == "public" and r[1] != "alembic_version"]
        self.settings = rows("""SELECT name, vartype, coalesce(min_val, ''), coalesce(max_val, ''), context FROM pg_settings
            WHERE name LIKE 'airflow_bp.%' ORDER BY 1""")
        words = rows("""SELECT DISTINCT w[1] FROM pg_proc p, regexp_matches(p.prosrc, '''([a-z][a-z_]{1,28})''', 'g') w
            WHERE p.pronamespace = 'airflow_bp'::regnamespace ORDER BY 1""")
        self.words = [w[0] for w in words]
        self.names = {
            "dag": [r[0] for r in rows("SELECT dag_id FROM dag ORDER BY 1 LIMIT 20")],
            "run": [r[0] for r in rows("SELECT DISTINCT run_id FROM dag_run ORDER BY 1 LIMIT 10")],
            "task": [r[0] for r in rows("SELECT DISTINCT task_id FROM task_instance ORDER BY 1 LIMIT 5")],
            "pool": [r[0] for r in rows("SELECT pool FROM slot_pool ORDER BY 1")],
            "queue": ["default", "gpu", "slow"],
            "executor": ["KubernetesExecutor", "CeleryExecutor"],
            "tenant": ["a", "b", "default"],
            "cohort": ["all", "sub"],
            "match_on": ["team", "tag", "dag_id", "owner", "pool", "queue"],
            "scope": ["deployment", "pool", "queue", "executor", "tenant", "dag", "state", "cause"],
            "mode": ["off", "observe", "enforce"],
            "schema": ["public"] * 5 + ["airflow_bp", "pg_catalog"],
            "statement": ["SELECT 1", "LOCK TABLE task_instance", "SELECT pg_sleep(1)"],
            "state": [s for s in STATES if s],
        }
        self.parallel = rows("SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')")[0][0]


class Values:
    """Random SQL expressions of a type."""

    instants = INSTANTS

    def __init__(self, rng, surface):
        self.rng, self.surface = rng, surface

    def chance(self, percent):
        return self.rng.random() * 100 < percent

    def word(self, hint=""):
        known = next((names for key, names in self.surface.names.items() if key in hint), None)
        pick = self.rng.random()
        if pick < (0.6 if known else 0.2):
            return self.rng.choice(known or self.surface.words)
        if pick < 0.7:
            return self.rng.choice(self.rng.choice(list(self.surface.names.values())))
        return self.rng.choice(HOSTILE)

    def text(self, hint=""):
        if self.chance(2):
            return f"repeat({quote(self.rng.choice(HOSTILE) or 'x')}, {self.rng.choice([100, 5000, 70000])})"
        return quote(self.word(hint))

    def node(self):
        return {"name": self.word("tenant")[:70], "nominal": self.rng.choice(NUMBERS), "weight": self.rng.choice([0, 1, 2.5, 1e-9, -1])}

    def task(self):
        return {"id": str(self.rng.randrange(9)), "tenant": self.word("tenant")[:70], "slots": self.rng.choice([1, 1, 2, -1, 1 << 31])}

    def extra(self, depth=2):
        return {self.rng.choice(PREVIEW_KEYS): self.document(depth + 1) for _ in range(self.rng.randrange(3))}

    def document(self, depth):
        pick = self.rng.randrange(8) if depth < 4 else self.rng.randrange(5)
        if pick > 5:
            return self.extra(depth + 1)
        if pick == 5:
            return [self.document(depth + 1) for _ in range(self.rng.randrange(4))]
        return [None, True, self.rng.choice(BIG), self.rng.choice([0.5, 1e308, -1e-9]), self.word()[:200]][pick]

    def preview_input(self):
        """Of the form that preview() reads, more or less."""
        return {
            "cohorts": [self.node() for _ in range(self.rng.randrange(3))],
            "tenants": [self.node() | self.extra() for _ in range(self.rng.randrange(4))],
            "pending": [self.task() | self.extra() for _ in range(self.rng.randrange(5))],
        } | self.extra()

    def jsonb(self):
        if self.chance(70):
            return quote(json.dumps(self.preview_input() if self.chance(60) else self.document(0), ensure_ascii=False))
        return self.rng.choice([quote(self.rng.choice(DOCUMENTS)), LARGE, *DEEP])

    def array(self, element):
        n = self.rng.randrange(4)
        if self.chance(10):
            return self.rng.choice(["'{}'", "'{NULL}'", "'{NULL,NULL}'"])
        items = ", ".join(self.of(element) for _ in range(n))
        if self.chance(5) and n:
            return f"ARRAY[ARRAY[{items}], ARRAY[{items}]]"
        if self.chance(5) and element in ("integer", "bigint"):
            return self.rng.choice(["'[0:1]={1,2}'", "'[-3:-2]={1,NULL}'", "ARRAY(SELECT generate_series(-5, 20000))"])
        return f"ARRAY[{items}]"

    def number(self, kind):
        if kind == "smallint":
            return self.rng.randrange(100)
        return self.rng.randrange(1, 40) if self.chance(60) else self.rng.choice(BIG if kind == "bigint" else NUMBERS)

    def instant(self):
        if self.chance(60):
            return f"(now() + '{self.rng.randrange(-7200, 7200)} s')"
        return quote(self.rng.choice(self.instants))

    def range(self):
        ends = [quote(self.rng.choice(INSTANTS)) + "::timestamptz" if self.chance(80) else "NULL" for _ in "ab"]
        return self.rng.choice(["'empty'", "'(,)'", "tstzrange(now() - interval '1 hour', now())",
                                f"tstzrange(least({', '.join(ends)}), greatest({', '.join(ends)}), '{self.rng.choice(['[]', '()', '[)'])}')"])

    def uuid(self):
        return self.rng.choice(["'00000000-0000-0000-0000-000000000000'", "gen_random_uuid()", f"test.id('a1', {self.rng.randrange(1, 30)})",
                                f"(SELECT id FROM task_instance LIMIT 1 OFFSET {self.rng.randrange(300)})"])

    def row(self, kind):
        choices = [f"jsonb_populate_record(NULL::{kind}, {quote(json.dumps(self.extra(0)))})"]
        if kind in [f"{r[0]}.{r[1]}" for r in self.surface.our_tables]:
            choices.append(f"(SELECT r FROM {kind} r LIMIT 1 OFFSET {self.rng.randrange(5)})")
        return self.rng.choice(choices)

    def of(self, kind, hint=""):
        """An expression of a type; NULL for a type that is not known here."""
        if self.chance(8):
            value = "NULL"
        elif kind.endswith("[]"):
            value = self.array(kind[:-2])
        elif kind in ("text", "character varying", "name"):
            value = f"({self.text(hint)})"
        elif kind in ("integer", "smallint", "bigint"):
            value = f"({self.number(kind)})"
        elif kind in ("double precision", "real", "numeric"):
            value = quote(self.rng.choice(FLOATS if self.chance(60) else FLOATS + ODD_FLOATS))
        elif kind == "boolean":
            value = self.rng.choice(["true", "false"])
        elif kind == "interval":
            value = quote(self.rng.choice(INTERVALS))
        elif kind.startswith("timestamp") or kind == "date":
            value = self.instant()
        elif kind == "tstzrange":
            value = self.range()
        elif kind == "uuid":
            value = self.uuid()
        elif kind in ("json", "jsonb"):
            value = f"({self.jsonb()})"
        elif kind == "bytea":
            value = self.rng.choice(BYTES)
        elif kind in OBJECTS:
            value = self.rng.choice(OBJECTS[kind] * 2 + NO_OBJECT)
        elif kind.startswith("airflow_bp."):
            value = self.row(kind)
        else:
            value = "NULL"
        return f"{value}::{kind}"


class Statements(Values):
    """Random statements, in groups that belong together."""

    role = "postgres"

    def arguments(self, function, plain=False, columns=()):
        _, _, _, defaults, variadic, names, types, _ = function
        given = len(types) - (self.rng.randrange(defaults + 1) if defaults else 0)
        values = []
        for i, type_ in enumerate(types[:given]):
            hint = names[i] if i < len(names) else ""
            value = self.of(type_, hint)
            if columns and type_ == "text" and self.chance(60):
                value = f"t.{self.rng.choice(columns)}::text"
            if plain and "SELECT" in value:
                value = f"NULL::{type_}"
            values.append(f"{hint} => {value}" if i >= len(types) - defaults and hint and not variadic else value)
        if variadic and given == len(types):
            values[-1] = "VARIADIC " + values[-1]
        return ", ".join(values)

    def function(self):
        """For most calls one that the role may call."""
        may = self.surface.granted.get(self.role)
        return self.rng.choice(may if may and self.chance(90) else self.surface.functions)

    def call(self):
        rng = self.rng
        function = self.function()
        target = f"airflow_bp.{function[0]}({self.arguments(function, plain=function[1] == 'p')})"
        if function[1] == "p":
            return f"CALL {target}"
        shape = rng.randrange(14)
        if shape == 0:
            table = rng.choice([r for r in self.surface.airflow if r[1] in ("task_instance", "dag", "dag_run")])
            columns = [c for c, t in zip(table[3], table[4]) if t in ("text", "character varying")]
            return (f"SELECT f.* FROM (SELECT * FROM {table[1]} LIMIT 3 OFFSET {rng.randrange(200)}) t, "
                    f"LATERAL airflow_bp.{function[0]}({self.arguments(function, columns=columns)}) f LIMIT 5")
        if shape == 1:
            return f"SELECT {target} FROM generate_series(1, 3) LIMIT {rng.randrange(4)}"
        if shape == 2:
            return f"SELECT ({target})"
        if shape == 3:
            return f"SELECT CASE WHEN EXISTS (SELECT FROM {target}) THEN 1 END"
        if shape == 4:
            return f"SELECT * FROM {target} WITH ORDINALITY a FULL JOIN {target} WITH ORDINALITY b USING (ordinality) LIMIT 5"
        if shape == 5:
            return f"EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM {target}"
        if shape == 6:
            return f"DO $do$ BEGIN PERFORM {target}; EXCEPTION WHEN SQLSTATE 'BP001' OR unique_violation THEN NULL; END $do$"
        if shape == 7:
            return f"SELECT * FROM {target} LIMIT {rng.randrange(3)}"
        return f"SELECT * FROM {target}"

    def read(self):
        _, name, _, columns, _, _ = self.rng.choice(self.surface.ours)
        what = self.rng.choice(["SELECT * FROM %s LIMIT 20", "TABLE %s", "SELECT t FROM %s t FOR UPDATE SKIP LOCKED LIMIT 3",
                                f"SELECT count(*), max({self.rng.choice(columns)}::text) FROM %s"])
        return what % f"airflow_bp.{name}"

    def column_value(self, table, i):
        column, kind = table[3][i], table[4][i]
        self.instants = AIRFLOW_INSTANTS
        try:
            return self.random_value(column, kind)
        finally:
            self.instants = INSTANTS

    def random_value(self, column, kind):
        if column == "state" and self.chance(80):
            state = self.rng.choice(STATES)
            return "NULL" if state is None else quote(state)
        return self.of(kind, column)

    def write(self, table):
        """Any row of any table, any value."""
        rng = self.rng
        schema, relation, _, names, _, defaults = table
        name = f"{schema}.{relation}"
        changed = {i: self.column_value(table, i) for i in rng.sample(range(len(names)), min(len(names), rng.randrange(1, 4)))}
        rows = f"ctid IN (SELECT ctid FROM {name} LIMIT {rng.randrange(1, 4)} OFFSET {rng.randrange(60)})"
        what = rng.randrange(10)
        if what == 0:
            return f"DELETE FROM {name} WHERE {rows}"
        if what < 6:
            return f"UPDATE {name} SET {', '.join(f'{names[i]} = {value}' for i, value in changed.items())} WHERE {rows}"
        kept = [i for i in range(len(names)) if i in changed or not defaults[i]]
        return (f"INSERT INTO {name} ({', '.join(names[i] for i in kept)}) OVERRIDING SYSTEM VALUE "
                f"SELECT {', '.join(changed.get(i, names[i]) for i in kept)} FROM {name} "
                f"LIMIT {rng.randrange(1, 3)} OFFSET {rng.randrange(30)}{rng.choice(['', ' ON CONFLICT DO NOTHING', ' RETURNING *'])}")

    def write_ours(self):
        table = self.rng.choice(self.surface.our_tables)
        if self.chance(1):
            return f"TRUNCATE airflow_bp.{table[1]}{self.rng.choice(['', ' CASCADE'])}"
        return self.write(table)

    def write_airflow(self):
        often = [t for t in self.surface.airflow if t[1] in (
            "task_instance", "dag_run", "dag", "slot_pool", "job", "trigger", "serialized_dag", "task_reschedule")]
        return self.write(self.rng.choice(often if self.chance(70) else self.surface.airflow))

    def some_tasks(self, condition):
        order = self.rng.choice(["id", "dag_id, run_id", "priority_weight"])
        return (f"WHERE id IN (SELECT id FROM task_instance WHERE {condition} ORDER BY {order} "
                f"LIMIT {self.rng.choice([1, 3, 20])} OFFSET {self.rng.randrange(50)})")

    def step(self):
        """A change of state as Airflow makes it."""
        rng = self.rng
        state = rng.choice(STATES)
        to = quote(state) if state else "NULL"
        dag = quote(rng.choice("ab") + str(rng.randrange(1, 9)))
        tasks = f"{dag}, {rng.randrange(1, 9)}, {rng.randrange(9, 15)}"
        run = quote(rng.choice(["running", "queued", "success", "failed"]))
        gone = rng.choice(["dag", "dag_run", "job", "slot_pool", "trigger"])
        slots = rng.choice([0, 1, 2, -1, 1000, 2147483647])
        return rng.choice([
            "UPDATE task_instance SET state = 'scheduled', scheduled_dttm = now(), try_number = try_number + 1 " + self.some_tasks("state IS NULL"),
            "UPDATE task_instance SET state = 'scheduled' " + self.some_tasks("state IN ('up_for_retry', 'up_for_reschedule')"),
            "UPDATE task_instance SET state = 'queued', queued_dttm = now() " + self.some_tasks("state = 'scheduled'"),
            "UPDATE task_instance SET state = 'success' " + self.some_tasks("state IN ('running', 'queued')"),
            f"UPDATE task_instance SET state = {to} " + self.some_tasks("true"),
            f"UPDATE task_instance SET pool_slots = {slots} " + self.some_tasks("true"),
            f"UPDATE dag_run SET state = {run}, last_scheduling_decision = now() "
            f"WHERE id IN (SELECT id FROM dag_run ORDER BY id LIMIT 3 OFFSET {rng.randrange(60)})",
            f"SELECT test.tasks({tasks})",
            f"SELECT test.ask({tasks})",
            "SELECT test.ask_again()",
            f"SELECT test.set_state({dag}, {rng.randrange(1, 15)}, {to})",
            "DELETE FROM task_instance " + self.some_tasks("true"),
            f"DELETE FROM {gone} WHERE ctid IN (SELECT ctid FROM {gone} LIMIT 1 OFFSET {rng.randrange(100)})",
            "INSERT INTO task_instance (id, dag_id, run_id, task_id, map_index, try_number, pool, pool_slots, queue, state) "
            f"SELECT gen_random_uuid(), dag_id, run_id, task_id, {rng.choice([-1, 0, 5])}, 1, pool, 1, 'default', 'scheduled' "
            f"FROM task_instance LIMIT 3 OFFSET {rng.randrange(300)} "
            "ON CONFLICT ON CONSTRAINT task_instance_composite_key DO UPDATE SET state = excluded.state, try_number = 2",
        ])

    def set(self):
        name, kind, low, high, _ = self.rng.choice(self.surface.settings)
        values = {"bool": ["on", "off"], "string": [quote(self.word("schema"))]}.get(kind, [low, high, "0", "1", "1000", "-1", "99999999999"])
        return f"SET{self.rng.choice(['', ' LOCAL'])} {name} = {self.rng.choice(values)}"

    def any(self):
        often = {self.call: 50, self.read: 6, self.write_ours: 8, self.write_airflow: 10, self.step: 24, self.set: 2}
        return self.rng.choices(list(often), often.values())[0]()

    # Groups

    def alone(self):
        return [self.any() for _ in range(self.rng.randrange(1, 4))]

    def transaction(self):
        rng = self.rng
        group = ["BEGIN" + rng.choice(["", "", "", " ISOLATION LEVEL REPEATABLE READ", " ISOLATION LEVEL SERIALIZABLE", " READ ONLY"])]
        for i in range(rng.randrange(1, 6)):
            group += [f"SAVEPOINT s{i}", self.any()] + rng.choice([[], [f"ROLLBACK TO s{i}"], [f"RELEASE s{i}"]])
        if self.chance(20):
            name = f"'fuzz {rng.randrange(1000)}'"
            return group + [f"PREPARE TRANSACTION {name}"] + self.alone() + [f"{rng.choice(['COMMIT', 'ROLLBACK'])} PREPARED {name}"]
        return group + [rng.choice(["COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN"])]

    def cursor(self):
        one = self.rng.choice([f for f in self.surface.functions if f[2]])
        kind = self.rng.choice(["CURSOR", "CURSOR WITH HOLD", "SCROLL CURSOR"])
        declare = f"DECLARE c {kind} FOR SELECT * FROM airflow_bp.{one[0]}({self.arguments(one)})"
        end = self.rng.choice([["COMMIT"], ["ROLLBACK"], ["CLOSE c", "COMMIT"], ["COMMIT", "FETCH 1 FROM c"]])
        return ["CLOSE ALL", "BEGIN", declare, "FETCH 2 FROM c", self.any(), "FETCH 1 FROM c"] + end

    def parallel(self):
        settings = [f"{self.surface.parallel} = on", "parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0"]
        one = self.rng.choice([f for f in self.surface.functions if f[1] == "f"])
        table = self.rng.choice(["task_instance", "dag_run", "dag"])
        call = f"SELECT count(*) FROM {table} WHERE airflow_bp.{one[0]}({self.arguments(one, plain=True)}) IS NOT NULL"
        return [f"SET {s}" for s in settings] + [self.call(), call, self.read()]

    def prepared(self):
        one = self.rng.choice([f for f in self.surface.functions if f[1] == "f" and 0 < len(f[6]) < 9])
        marks = [f"${i + 1}" for i in range(len(one[6]))]
        if one[4]:
            marks[-1] = "VARIADIC " + marks[-1]
        all_given = (*one[:3], 0, False, [], one[6], False)
        return ["DEALLOCATE ALL", f"SET plan_cache_mode = {self.rng.choice(['force_generic_plan', 'force_custom_plan'])}",
                f"PREPARE p ({', '.join(one[6])}) AS SELECT * FROM airflow_bp.{one[0]}({', '.join(marks)})",
                *(f"EXECUTE p ({self.arguments(all_given, plain=True)})" for _ in range(3))]

    def trigger(self):
        """Our trigger functions where they do not belong."""
        rng = self.rng
        when = rng.choice(["BEFORE", "AFTER"])
        event = rng.choice(["INSERT", "UPDATE", "DELETE", "TRUNCATE", "INSERT OR UPDATE OR DELETE", "UPDATE OF state"])
        columns = rng.choice(["LIKE public.task_instance INCLUDING ALL", "LIKE public.dag_run INCLUDING ALL", "state text, id int", "a int",
                              "id uuid, dag_id text, run_id text, task_id text, pool text, pool_slots int, queue text, state text, try_number int"])
        function = f"airflow_bp.{rng.choice(self.surface.triggers)}({rng.choice(['', '1, 2'])})"
        return [f"CREATE TEMP TABLE fuzz ({columns})",
                f"CREATE TRIGGER t {when} {event} ON fuzz FOR EACH {rng.choice(['ROW', 'ROW', 'STATEMENT'])} EXECUTE FUNCTION {function}",
                "INSERT INTO fuzz SELECT * FROM task_instance LIMIT 3", "INSERT INTO fuzz SELECT * FROM dag_run LIMIT 3",
                "INSERT INTO fuzz DEFAULT VALUES", "INSERT INTO fuzz (state) VALUES ('queued'), (NULL)",
                "UPDATE fuzz SET state = 'scheduled'", "UPDATE fuzz SET id = id", "DELETE FROM fuzz", "TRUNCATE fuzz", "DROP TABLE fuzz"]

    def group(self):
        often = {self.alone: 50, self.transaction: 25, self.cursor: 6, self.parallel: 5, self.prepared: 5, self.trigger: 2}
        make = self.rng.choices(list(often), often.values())[0]
        self.role = "postgres" if make == self.trigger else self.rng.choices(list(ROLES), ROLES.values())[0]
        return [f"SET SESSION AUTHORIZATION {self.role}", *make(), "ROLLBACK", "RESET SESSION AUTHORIZATION", "RESET ALL"]


# What a superuser may do to everybody, and how it is taken back.
MASONRY = [
    (["SELECT airflow_bp.disable()"], ["SELECT airflow_bp.enable('enforce')"]),
    (["SELECT airflow_bp.set_mode('off')", "SELECT airflow_bp.set_mode('observe')"], ["SELECT airflow_bp.set_mode('enforce')"]),
    (["DROP EXTENSION airflow_bp"],
     ["CREATE EXTENSION airflow_bp", "SELECT airflow_bp.grant_operator('fuzz_operator'), airflow_bp.grant_reader('fuzz_reader')",
      "SELECT airflow_bp.enable('enforce')", "SELECT test.enforce(5, 3)"]),
    (["TRUNCATE airflow_bp.deployment"], ["SELECT airflow_bp.enable('enforce')"]),
    (["ALTER TABLE task_instance RENAME TO gone"], ["ALTER TABLE gone RENAME TO task_instance"]),
    (["ALTER TABLE slot_pool RENAME TO gone"], ["ALTER TABLE gone RENAME TO slot_pool"]),
    (["ALTER TABLE job RENAME TO gone"], ["ALTER TABLE gone RENAME TO job"]),
    (["ALTER TABLE task_instance RENAME COLUMN pool_slots TO gone"], ["ALTER TABLE task_instance RENAME COLUMN gone TO pool_slots"]),
    (["ALTER TABLE task_instance ALTER COLUMN pool_slots TYPE bigint"], ["ALTER TABLE task_instance ALTER COLUMN pool_slots TYPE int"]),
    (["ALTER TABLE task_instance ADD COLUMN gone text", "ALTER TABLE task_instance DROP COLUMN gone"], []),
    (["UPDATE alembic_version SET version_num = version_num || 'x'"], ["UPDATE alembic_version SET version_num = rtrim(version_num, 'x')"]),
    (["CREATE SCHEMA gone", "CREATE TABLE gone.alembic_version ()", "CREATE TABLE gone.task_instance ()"], ["DROP SCHEMA gone CASCADE"]),
    (["CREATE VIEW gone AS SELECT * FROM task_instance"], ["DROP VIEW gone"]),
    (["ALTER TABLE task_instance DISABLE TRIGGER USER"], ["ALTER TABLE task_instance ENABLE TRIGGER USER"]),
    (["ALTER TABLE airflow_bp.tenant RENAME COLUMN nominal TO gone"], ["ALTER TABLE airflow_bp.tenant RENAME COLUMN gone TO nominal"]),
    (["ALTER TABLE airflow_bp.decision RENAME TO gone"], ["ALTER TABLE airflow_bp.gone RENAME TO decision"]),
    (["VACUUM FULL task_instance", "VACUUM ANALYZE airflow_bp.act", "REINDEX TABLE task_instance"], []),
    (["REVOKE ALL ON ALL TABLES IN SCHEMA public FROM fuzz_airflow"], ["GRANT ALL ON ALL TABLES IN SCHEMA public TO fuzz_airflow"]),
]
