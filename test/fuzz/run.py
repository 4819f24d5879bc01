"""Random statements on our SQL surface from several sessions at once: no crash, no internal error, nothing that hangs or grows.

test/fuzz.sh makes the server.  A session's statements depend on the seed and its number alone; they are kept in --out.
"""

import argparse
import collections
import random
import re
import sys
import threading
import time
import traceback
from pathlib import Path

import psycopg2

sys.dont_write_bytecode = True

from statements import MASONRY, ROLES, Statements, Surface

STATEMENT_TIMEOUT = 3  # seconds
GRACE = 30  # seconds after which a statement that should have timed out is stuck
MEMORY_LIMIT = 128 << 20  # bytes of one session or of the worker
LEAK_CALLS = 100
LEAK_LIMIT = 128 << 10  # bytes kept by so many calls

# Internal errors of PostgreSQL itself: message, what the statement or its context says, and why it is no fault of ours.
KNOWN = [
    (r"^tuple concurrently (updated|deleted)$", r"\b(GRANT|REVOKE|TRUNCATE) |grant_(reader|operator|functions)",
     "two sessions changed one row of pg_class or pg_proc"),
]
# These where another session runs DDL at the same time.
GONE = "dropped by another session after its name was looked up"
KNOWN_IN_DDL = [
    (r"^cache lookup failed for (function|relation|type|attribute|constraint|index|trigger|extension)", "", GONE),
    (r"^could not open relation with OID [1-9]", "", GONE),
    (r"^could not find (tuple|trigger|pg_\w+ entry) ", "", GONE),
    (r"^relation \d+ (deleted while still in use|was deleted)", "", GONE),
    (r"^tuple concurrently (updated|deleted)$", "", "two sessions changed one row of a catalog"),
]
INTERNAL = ("XX", "58", "F0")
# What a function that others may call is allowed to raise: our own errors, rights, timeouts, conflicts, limits of the server.
FAIR = ("BP", "42501", "57", "55", "40", "25", "2D", "53", "54", "23")


class Run:
    """The state that all threads share."""

    def __init__(self, options, surface):
        self.options, self.surface, self.began = options, surface, (time.time(), time.monotonic())
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.ddl = []  # [began, ended or None]
        self.codes = collections.Counter()
        self.known = collections.Counter()
        self.clumsy = {}
        self.faults = {}

    def ddl_since(self, began):
        """Has DDL run since then?"""
        with self.lock:
            return any(end is None or end > began for _, end in self.ddl)

    def fault(self, what, where="", script=()):
        """A fault is told once, with what is needed to get it again."""
        key = re.sub(r"\d+", "N", what)[:200]
        with self.lock:
            if key in self.faults:
                self.faults[key] += 1
                return
            self.faults[key] = 1
        print(f"FAULT  seed {self.options.seed}{where}: {what}", flush=True)
        for statement in script:
            print(f"    {statement[:1500]};", flush=True)

    def internal_error(self, message, text, began, where, script):
        """Is it one of PostgreSQL's own?"""
        for pattern, place, why in KNOWN + (KNOWN_IN_DDL if self.ddl_since(began) else []):
            if re.search(pattern, message) and re.search(place, text):
                with self.lock:
                    self.known[f"{pattern}, {why}"] += 1
                return
        self.fault(text[:500], where, script)


class Session(threading.Thread):
    def __init__(self, run, number):
        super().__init__(daemon=True, name=f"session {number}")
        self.run_, self.number = run, number
        self.statements = Statements(random.Random(f"{run.options.seed} {number}"), run.surface)
        self.log = open(Path(run.options.out) / f"session-{number}.sql", "w", encoding="utf-8")
        self.count = 0
        self.began = None  # of the statement at work
        self.group_began = 0
        self.script = []
        self.memory = []
        self.connection = None
        self.pid = 0

    def where(self):
        return f" session {self.number} statement {self.count}"

    def connect(self):
        self.connection = psycopg2.connect(dbname="airflow", application_name=f"fuzz {self.number}")
        self.connection.autocommit = True
        self.pid = self.connection.get_backend_pid()
        self.execute("SET client_min_messages = error")

    def execute(self, sql):
        self.count += 1
        self.script.append(sql)
        self.log.write(f"/* {self.count} */ {sql};\n")
        self.log.flush()
        self.began = time.monotonic()
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else None
        except UnicodeDecodeError:
            self.run_.fault("an answer is not UTF-8", self.where(), self.script)
        except (ValueError, OverflowError, RecursionError):
            pass  # of what PostgreSQL can say, Python cannot hold all
        except psycopg2.Error as error:
            self.judge(error, sql)
        finally:
            self.began = None

    def judge(self, error, sql):
        run, code, message = self.run_, error.pgcode, str(error.diag.message_primary or error)
        with run.lock:
            run.codes[code or "no answer"] += 1
        if code is None:
            return
        context = error.diag.context or ""
        what = f"{code} {message} [{error.diag.source_function}]"
        if code.startswith(INTERNAL):
            run.internal_error(message, f"{what} {context} {sql}", self.group_began, self.where(), self.script)
        elif not code.startswith(FAIR) and "function" in context and not run.ddl_since(self.group_began):
            last = re.findall(r'function "?(?:airflow_bp\.)?(\w+)', context)
            if last and last[-1] in run.surface.public:
                run.clumsy.setdefault(re.sub(r"\d+", "N", f"{last[-1]}: {what} in {last[0]}"), sql[:700])

    def look_at_memory(self):
        self.execute("DISCARD ALL")
        rows = self.execute("SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts")
        if rows and rows[0][0] > MEMORY_LIMIT:
            worst = self.execute("SELECT name, sum(total_bytes) FROM pg_backend_memory_contexts GROUP BY 1 ORDER BY 2 DESC LIMIT 5")
            self.run_.fault(f"{rows[0][0] >> 20} MB of memory: {worst}", self.where())
        if rows:
            self.memory.append(rows[0][0])

    def run(self):
        try:
            self.work()
        except Exception:
            self.run_.fault(f"{self.name} cannot go on: {traceback.format_exc()}")

    def work(self):
        groups = 0
        while not self.run_.stop.is_set():
            if self.connection is None or self.connection.closed:
                try:
                    self.connect()
                except psycopg2.OperationalError:
                    if server_is_down():
                        return
                    time.sleep(0.1)
                    continue
            self.group_began = time.monotonic()
            self.script = []
            for sql in self.statements.group():
                self.execute(sql)
                if self.connection.closed or self.run_.stop.is_set():
                    break
            groups += 1
            if groups % 100 == 0 and not self.connection.closed:
                self.look_at_memory()
        if self.connection and not self.connection.closed:
            self.connection.close()


class Mason(Session):
    """Changes what the others stand on; between its works all is quiet for a while."""

    def change(self, sqls, until_done=False):
        for sql in sqls:
            for attempt in range(200):
                if self.connection.closed:
                    self.connect()
                self.failed = False
                self.execute(sql)
                if not (until_done and self.failed):
                    break
                time.sleep(0.1)
            else:
                self.run_.fault(f"cannot be taken back: {sql}: {self.failed}")
        return not self.failed

    def rename(self):
        """A column that Airflow does not have any more, or not yet."""
        table = self.statements.rng.choice(self.run_.surface.airflow)
        column = self.statements.rng.choice(table[3])
        change = f"ALTER TABLE {table[1]} RENAME COLUMN %s TO %s"
        return [change % (column, "gone")], [change % ("gone", column)]

    def judge(self, error, sql):
        self.failed = str(error)
        super().judge(error, sql)

    def work(self):
        rng = self.statements.rng
        self.connect()
        self.execute("SET statement_timeout = '20s'")
        self.execute("SET lock_timeout = '1s'")
        while not self.run_.stop.wait(rng.choice([5, 15])):
            window = [time.monotonic(), None]
            self.run_.ddl.append(window)
            for do, back in rng.sample(MASONRY, 3) + [self.rename() for _ in range(4)]:
                self.group_began = time.monotonic()
                self.script = []
                pause = rng.random()
                if self.change(do[:1]):
                    self.change(do[1:])
                    self.run_.stop.wait(pause)
                    self.change(back, until_done=True)
                if rng.random() < 0.5:
                    name, kind, low, high, _ = rng.choice([s for s in self.run_.surface.settings if s[4] != "postmaster"])
                    values = {"bool": ["on", "off"], "string": ["'public'", "''"]}.get(kind, [low, high, "1000", "1"])
                    self.change([f"ALTER SYSTEM SET {name} = {rng.choice(values)}", "SELECT pg_reload_conf()"])
            self.change(["ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()"], until_done=True)
            time.sleep(0.5)
            window[1] = time.monotonic()
        self.connection.close()


class Canceller(threading.Thread):
    """Stops sessions, and now and then the worker, at moments that no seed can give again."""

    def __init__(self, run, sessions):
        super().__init__(daemon=True, name="canceller")
        self.run_, self.sessions = run, sessions

    def run(self):
        rng = random.Random()
        while not self.run_.stop.wait(rng.expovariate(4)):
            try:
                with monitor() as cursor:
                    if rng.random() < 0.003:
                        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'airflow_bp %'")
                    elif rng.random() < 0.05:
                        cursor.execute("SELECT pg_terminate_backend(%s)", [rng.choice(self.sessions).pid])
                    else:
                        cursor.execute("SELECT pg_cancel_backend(%s)", [rng.choice(self.sessions).pid])
            except psycopg2.OperationalError:
                if server_is_down():
                    return


class monitor:
    """A connection for one look."""

    def __enter__(self):
        self.connection = psycopg2.connect(dbname="airflow", application_name="fuzz monitor")
        self.connection.autocommit = True
        return self.connection.cursor()

    def __exit__(self, *_):
        self.connection.close()


def server_is_down():
    try:
        psycopg2.connect(dbname="postgres").close()
        return False
    except psycopg2.OperationalError as error:
        return "too many clients" not in str(error)


def end_prepared(age):
    """Prepared transactions whose session was stopped before it could end them."""
    with monitor() as cursor:
        cursor.execute("SELECT gid FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - make_interval(secs => %s)", [age])
        for (gid,) in cursor.fetchall():
            try:
                cursor.execute("ROLLBACK PREPARED %s", [gid])
            except psycopg2.Error:
                pass  # its session was quicker


def watch(run, threads):
    """Until the time is over or the server has died: is any statement stuck?"""
    end = time.monotonic() + run.options.seconds
    reported = set()
    while time.monotonic() < end:
        time.sleep(0.5)
        for thread in threads:
            limit = (STATEMENT_TIMEOUT if not isinstance(thread, Mason) else 20) + GRACE
            began = thread.began
            if began and time.monotonic() - began > limit and (thread, began) not in reported:
                reported.add((thread, began))
                with monitor() as cursor:
                    cursor.execute("SELECT state, wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s", [thread.pid])
                    run.fault(f"no end after {limit} s: {cursor.fetchone()}", thread.where(), thread.script)
                    cursor.execute("SELECT pg_terminate_backend(%s)", [thread.pid])
        if not server_is_down():
            end_prepared(10)
        else:
            run.fault("the server is down", "", [f"{t.where()}: {t.script[-1]}" for t in threads if t.script])
            return False
    return True


def join(run, threads):
    end = time.monotonic() + GRACE + 60
    for thread in threads:
        while thread.is_alive() and time.monotonic() < end:
            end_prepared(0)
            thread.join(0.5)
        if thread.is_alive():
            run.fault(f"{thread.name} does not end: {thread.script[-1:]}")


def becomes_true(sql, seconds=60):
    """Does a query say true before long?  It may fail meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with monitor() as cursor:
                cursor.execute(sql)
                if cursor.fetchone() == (True,):
                    return True
        except psycopg2.Error:
            pass
        time.sleep(0.2)
    return False


def try_all(run, cursor, sqls):
    for sql in sqls:
        try:
            cursor.execute(sql)
        except psycopg2.Error as error:
            if (error.pgcode or "").startswith(INTERNAL):
                run.internal_error(error.diag.message_primary, f"{error.pgcode} {error}", time.monotonic(), "", [sql])


def change_states(run, number):
    made = Statements(random.Random(f"{run.options.seed} burst {number}"), run.surface)
    with monitor() as cursor:
        for _ in range(150):
            try_all(run, cursor, ["BEGIN", made.step(), "SAVEPOINT s", made.step(), made.rng.choice(["ROLLBACK TO s", "RELEASE s"]),
                                  made.rng.choice(["COMMIT", "ROLLBACK"]), "ROLLBACK"])


def look_for_drift(run):
    """Changes of state alone, from three sessions: all of them must be counted."""
    with monitor() as cursor:
        cursor.execute("SELECT count(*) FROM airflow_bp.recount()")
    threads = [threading.Thread(target=change_states, args=[run, i]) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with monitor() as cursor:
        cursor.execute("SELECT tenant, drift FROM airflow_bp.recount() WHERE drift <> 0")
        drift = cursor.fetchall()
    if drift:
        run.fault(f"drift: {drift}")


def settle(run):
    """All sessions have ended: is everything as it should be?"""
    if not becomes_true("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name ~ '^fuzz [0-9]'"):
        run.fault("a session does not end")
    with monitor() as cursor:
        cursor.execute("TRUNCATE airflow_bp.drain, airflow_bp.tenant, airflow_bp.cohort, airflow_bp.tenant_rule; SELECT test.enforce(5, 3)")
        cursor.execute("ALTER SYSTEM RESET ALL")
        cursor.execute("SELECT pg_reload_conf()")
    if not becomes_true("""SELECT count(*) = 0 FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
            WHERE a.pid IS NULL OR (l.locktype = 'advisory' AND a.backend_type = 'client backend')"""):
        run.fault("a lock is left behind")
    if not becomes_true("""SELECT worker_pid IN (SELECT pid FROM pg_stat_activity) AND last_tick > now() - interval '10 s'
            FROM airflow_bp.status()"""):
        run.fault("no worker is at work, or status() fails")
    if not becomes_true("SELECT m.ready AND airflow_bp.policy_version() = airflow_bp.policy_wanted() FROM airflow_bp.memory_state() m"):
        run.fault("the policy is not in force, or the counters are not ready")
    look_for_drift(run)
    with monitor() as cursor:
        cursor.execute("SELECT pg_log_backend_memory_contexts(pid) FROM pg_stat_activity WHERE backend_type LIKE 'airflow_bp %'")


def kept_by(run, calls):
    """Bytes that a session keeps of so many calls; None when they take too long."""
    used = """SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts
        WHERE name <> 'index info' AND name NOT LIKE 'Cache%' AND name NOT LIKE 'PL/pgSQL%' AND name <> 'SPI Plan'"""
    end = time.monotonic() + 1
    with monitor() as cursor:
        def bytes_used():
            cursor.execute(used)
            return cursor.fetchone()[0]

        cursor.execute("SET lock_timeout = '10ms'; SET client_min_messages = error")
        for i in range(20 + LEAK_CALLS):
            try_all(run, cursor, [calls[i % len(calls)]])
            if time.monotonic() > end:
                return None
            if i == 20:
                before = bytes_used()
        return bytes_used() - before


def look_for_leaks(run):
    for function in run.surface.functions:
        if function[1] != "f" or function[0] in ("with_short_locks", "enable", "disable"):
            continue
        made = Statements(random.Random(f"{run.options.seed} leak {function[0]}"), run.surface)
        calls = [f"SELECT count(*) FROM airflow_bp.{function[0]}({made.arguments(function)})" for _ in range(3)]
        try:
            kept = kept_by(run, calls)
        except psycopg2.Error as error:
            if server_is_down():
                run.fault(f"the server is down: {error}", "", calls)
                return
            continue
        if kept is not None and kept > LEAK_LIMIT:
            run.fault(f"{function[0]} keeps {kept} bytes of {LEAK_CALLS} calls", "", calls)


def read_server_log(run, path):
    """Deaths, failed assertions, memory, and internal errors of processes that are no session of ours."""
    death = re.compile(r"terminated by signal|Failed process was running|PANIC|TRAP:|database system is in recovery|was not properly shut down")
    memory = re.compile(r"airflow_bp (worker|sampler) .*Grand total: (\d+) bytes")
    internal = re.compile(r"(\d+\.\d+) \[\d+\] (?:XX|58|F0)\w+ (?!fuzz )(?:.*?)(?:ERROR|FATAL|LOG|WARNING):  (.*)")
    for line in open(path, encoding="utf-8", errors="replace"):
        if death.search(line):
            run.fault(f"server log: {line.strip()[:500]}")
        if (found := memory.search(line)) and int(found[2]) > MEMORY_LIMIT:
            run.fault(f"the {found[1]} has {int(found[2]) >> 20} MB of memory")
        if found := internal.match(line):
            at = float(found[1]) - run.began[0] + run.began[1]
            message = re.sub(r"^airflow_bp: (step \w+|a look of the sampler) failed: ", "", found[2])
            run.internal_error(message, line.strip()[:500], at - 2, " server log", [])


def prepare():
    with monitor() as cursor:
        for role in ROLES:
            if role != "postgres":
                cursor.execute(f"CREATE ROLE {role}")
        cursor.execute("""SELECT airflow_bp.grant_reader('fuzz_reader'), airflow_bp.grant_operator('fuzz_operator');
            GRANT ALL ON ALL TABLES IN SCHEMA public TO fuzz_airflow; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO fuzz_airflow;
            GRANT USAGE ON SCHEMA test, load_gen TO PUBLIC;
            SELECT airflow_bp.set_cohort('all'), airflow_bp.set_cohort('sub', 'all');
            SELECT test.tasks('a1', 1, 20), test.tasks('b1', 1, 20); SELECT test.enforce(5, 3)""")
        return Surface(cursor)


def report(run, sessions, mason):
    print(f"{sum(t.count for t in sessions)} statements of {len(sessions)} sessions, {mason.count} of DDL; SQLSTATEs of errors:")
    print("  " + ", ".join(f"{code} {n}" for code, n in run.codes.most_common()))
    print("memory of a session, MB, at most: " + " ".join(str(max(s.memory, default=0) >> 20) for s in sessions))
    for known, n in run.known.items():
        print(f"known, {n} times: {known}")
    for what, sql in run.clumsy.items():
        print(f"not our own error: {what}\n    {sql}")
    print(f"{not run.faults:d} passed, {len(run.faults)} failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--server-log", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    run = Run(options, prepare())
    sessions = [Session(run, i) for i in range(1, options.sessions + 1)]
    mason = Mason(run, 0)
    for thread in [*sessions, mason, Canceller(run, sessions)]:
        thread.start()
    alive = watch(run, [*sessions, mason])
    run.stop.set()
    try:
        if alive:
            join(run, [*sessions, mason])
            settle(run)
            look_for_leaks(run)
    except psycopg2.Error:
        run.fault(f"the server is {'down' if server_is_down() else 'up'}: {traceback.format_exc()}")
    read_server_log(run, options.server_log)
    report(run, sessions, mason)
    return 1 if run.faults else 0


sys.exit(main())
