"""Chaos: faults in a seeded loop on a real Airflow with two schedulers and three tenants, and what must hold in the end.

Environment: CHAOS_SECONDS (600), CHAOS_SEED (random), CHAOS_FAULTS (names; all).
"""

import http.client
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import psycopg2

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent / "chaos"
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import harness
import scenes
from ends import ENDS, wrong
from watch import Watcher

SECONDS = int(os.environ.get("CHAOS_SECONDS") or 600)
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 30))
LIMITS = {"red": (("red",), 3), "blue and green": (("blue", "green"), 4)}
BACKLOG = 16  # unfinished runs: more than the limits let run at a time
CONNECTIONS = 100
CLONE_NEWNS = 0x00020000
# Seconds; a fault may last longer than what Airflow calls dead, but not much.
SWEEPS = {
    "task_queued_timeout": 60,
    "task_instance_heartbeat_timeout": 30,
    "scheduler_health_check_threshold": 20,
}
began = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)


def utcnow():
    return datetime.now(timezone.utc)


def gone(pid):
    """Has a process ended? The kernel gives orphans to us, who have to fetch them."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return not os.path.exists(f"/proc/{pid}")


class Server(harness.Postgres):
    """One of two servers that change places."""

    def __init__(self, directory, environment):
        directory.mkdir()
        user = harness.pg_user()
        if os.geteuid() == 0:
            os.chown(directory, user.pw_uid, user.pw_gid)
        super().__init__(directory)
        self.environment = environment

    def make(self):
        """The first is made by initdb, the other by follow()."""

    def crash(self):
        """kill -9 of the postmaster. Nobody else may be there when the next one comes."""
        pids = harness.descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        harness.children.remove(self.process)
        harness.wait(lambda: all(map(gone, pids)), 30, "processes of a dead postmaster to end")

    def follow(self, other):
        """Become a standby of the other from scratch, without which it commits nothing."""
        harness.discard(self.data)
        argv = [harness.pg_bin("pg_basebackup"), "-d", other.dsn("postgres"), "-D", self.data, "-R", "-c", "fast", "--no-sync"]
        if harness.spawn(argv, self.log, self.user, cwd="/").wait():
            raise RuntimeError(self.log.read_text()[-3000:])
        self.start(**other.settings)
        other.rows("ALTER SYSTEM SET synchronous_standby_names = '*'")
        other.rows("SELECT pg_reload_conf()")


class Supervised(harness.Airflow):
    """What ends is started again at once, as a supervisor does, and what does not come to its end is killed.

    A scheduler whose database is gone waits for the workers of its LocalExecutor, and some never end.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.ended = Counter()
        self.seen = {}  # by process: how far its log is read, and when it began to end

    def hangs(self, name, pid):
        log = self.directory / f"{name}.log"
        offset, since = self.seen.get(pid, (log.stat().st_size, None))
        if since is None:
            with log.open("rb") as file:
                file.seek(offset)
                text = file.read()
            since = time.monotonic() if b"Shutting down LocalExecutor" in text else None
            self.seen[pid] = offset + len(text), since
        return since is not None and time.monotonic() - since > 60

    def alive(self):
        for name, child in list(self.running.items()):
            hangs = child.poll() is None and self.hangs(name, child.pid)
            if hangs:
                harness.kill(child)
            if child.poll() is not None:
                errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", self.log(name), re.MULTILINE)
                self.ended[name, "hung after" if hangs else "ended by", errors[-1] if errors else f"exit code {child.returncode}"] += 1
        self.revive()


class Load(threading.Thread):
    """Keeps a backlog; a request that failed is made again until it is known that the run is there."""

    def __init__(self, airflow):
        super().__init__(daemon=True)
        self.airflow = airflow
        self.random = random.Random(SEED)
        self.runs = {}
        self.done = threading.Event()

    def run(self):
        while not self.done.is_set():
            with suppress(psycopg2.Error):
                if self.airflow.pg.value("SELECT count(*) FROM dag_run WHERE end_date IS NULL") < BACKLOG:
                    self.trigger(self.random.choice(list(ENDS)))
                    continue
            self.done.wait(0.5)

    def trigger(self, dag_id):
        run_id = f"run_{len(self.runs) + 1}"
        body = {"logical_date": None, "dag_run_id": run_id}
        while True:
            with suppress(OSError, http.client.HTTPException, ValueError):
                if self.airflow.request("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)[0] in (200, 409):
                    break
            time.sleep(0.5)
        self.runs[run_id] = dag_id

    def finish(self):
        self.done.set()
        self.join()
        return self.runs


def prepare_disk(directory):
    """A file system of our own that no other process sees, and that goes with us; the reason when there is none."""
    small = directory / "small"
    small.mkdir()
    commands = [
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", small],
    ]
    if harness.libc.unshare(CLONE_NEWNS) or any(subprocess.run(c, capture_output=True).returncode for c in commands):
        return None
    (small / "space").mkdir()
    user = harness.pg_user()
    os.chown(small / "space", user.pw_uid, user.pw_gid)
    return small


def prepare_clock(directory):
    """What makes the clock of a server one that we can set."""
    library, ahead = directory / "clock_step.so", directory / "ahead"
    subprocess.check_call(["cc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "clock_step.c"])
    ahead.write_bytes(struct.pack("q", 0))
    return {"LD_PRELOAD": str(library), "CLOCK_STEP": str(ahead)}


class Chaos:
    def __init__(self, directory):
        self.random = random.Random(SEED)
        self.directory = directory
        self.small = prepare_disk(directory)
        self.clock = prepare_clock(directory)
        self.ahead = 0
        self.counts = {}
        self.failures = []
        self.servers = [Server(directory / name, self.clock) for name in ("a", "b")]
        self.airflow = self.prepare()
        self.watcher = Watcher(self.airflow, LIMITS)
        self.load = Load(self.airflow)

    @property
    def pg(self):
        return self.airflow.pg

    # A running Airflow

    def prepare(self):
        say("starting PostgreSQL, airflow db migrate")
        pg = self.servers[0]
        harness.Postgres.make(pg)
        pg.start(
            shared_preload_libraries="airflow_bp",
            airflow_bp__database="airflow",
            airflow_bp__parking="on",
            airflow_bp__startup_hold="120s",
            max_connections=CONNECTIONS,
            wal_level="logical",
            log_line_prefix="%m|%p|%b|%a| ",
            **{f"airflow_bp__{name}": f"{value}s" for name, value in SWEEPS.items()},
        )
        connection = pg.connect("postgres")
        connection.cursor().execute("CREATE DATABASE airflow")
        connection.close()
        airflow = Supervised(self.directory, pg)
        dags = self.directory / "dags"
        dags.mkdir()
        shutil.copy(HERE / "dag.py", dags)
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in self.servers)
        airflow.settings = {f"SCHEDULER__{name.upper()}": value for name, value in SWEEPS.items()} | {
            "DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://airflow@/airflow?{hosts}&target_session_attrs=read-write",
            "CORE__DAGS_FOLDER": dags,
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 5,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 3,
            "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 2,
        }
        airflow.cli("db", "migrate")
        airflow.cli("dag-processor", "--num-runs", "1")
        say("two schedulers, tenant red with 3 slots, blue and green with 2 each that they lend")
        pg.rows("CREATE EXTENSION airflow_bp")
        pg.rows("SELECT airflow_bp.enable('enforce')")
        pg.rows("SELECT airflow_bp.set_tenant('red', 3), airflow_bp.set_cohort('lenders')")
        for tenant in ("blue", "green"):
            pg.rows("SELECT airflow_bp.set_tenant(%s, 2, 'lenders')", tenant)
        for tenant in ("red", "blue", "green"):
            pg.rows("SELECT airflow_bp.add_tenant_rule(%s, 'dag_id', %s)", tenant, f"{tenant}_*")
        scenes.wait_policy(airflow)
        airflow.start("api-server", "scheduler", "scheduler-2").wait_ready()
        return airflow

    def ask(self, sql, *args):
        """The first row, or nothing while there is no server."""
        with suppress(psycopg2.Error):
            rows = self.pg.rows(sql, *args)
            return rows[0] if rows else None

    def wait(self, condition, seconds, what):
        return self.airflow.wait(condition, seconds, what)

    def pause(self, least, most):
        end = time.monotonic() + self.random.uniform(least, most)
        self.wait(lambda: time.monotonic() > end, most, "a pause")

    def recovered(self, old=()):
        """Wait until all is well again; what came back and after how many seconds. old: processes of ours that are gone."""
        begin, moment, told = time.monotonic(), utcnow(), []
        now = "BETWEEN clock_timestamp() - interval '5 s' AND clock_timestamp()"

        def until(what, seconds, sql, *args):
            self.wait(lambda: self.ask(sql, *args), seconds, what)
            told.append(f"{what} {time.monotonic() - begin:.0f} s")

        until("server", 60, "SELECT 1 WHERE NOT pg_is_in_recovery()")
        ready = "ready AND may_enforce AND drift_slots = 0 AND note IS NULL AND worker_pid <> ALL (%s)"
        until("worker", 60, f"SELECT 1 FROM airflow_bp.memory_state() WHERE {ready} AND last_tick {now}", list(old))
        until("sampler", 60, f"SELECT 1 FROM airflow_bp.sampler_status() WHERE last_look {now}")
        self.wait(lambda: self.ask("SELECT 1 FROM airflow_bp.set_tenant('red', 3)"), 30, "a change of policy")
        until("policy", 30, "SELECT 1 WHERE airflow_bp.policy_version() = airflow_bp.policy_wanted()")
        (decisions,) = self.wait(lambda: self.ask("SELECT count(*) FROM airflow_bp.decision"), 30, "the log")
        schedulers = "SELECT 1 FROM job WHERE job_type = 'SchedulerJob' AND state = 'running' AND latest_heartbeat > %s OFFSET 1"
        until("schedulers", 120, schedulers, moment)
        if self.ahead >= 0:
            until("a task", 120, "SELECT 1 FROM task_instance WHERE state = 'success' AND end_date > %s", moment)
            until("the log", 60, "SELECT 1 FROM airflow_bp.decision HAVING count(*) > %s", decisions)
        else:
            told.append("tasks wait: Airflow looks at no run whose run_after is to come by the server's clock")
        return ", ".join(told)

    def ours(self):
        return {pid for (pid,) in self.pg.rows("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'airflow_bp%'")}

    # Faults; each says what it did

    def scheduler(self):
        names = self.random.choice((["scheduler"], ["scheduler-2"], ["scheduler", "scheduler-2"]))
        for name in names:
            harness.kill(self.airflow.running[name])
            self.airflow.start(name)
        return f"kill -9 of {' and '.join(names)} with its tasks; {self.recovered()}"

    def worker(self):
        """One of our processes: PostgreSQL restarts as when it had crashed."""
        old = self.ours()
        name, pid = self.random.choice(
            self.pg.rows("SELECT backend_type, pid FROM pg_stat_activity WHERE backend_type LIKE 'airflow_bp%' ORDER BY 1")
        )
        os.kill(pid, signal.SIGKILL)
        return f"kill -9 of {name}; {self.recovered(old)}"

    def backend(self):
        """Sessions, one that is in a transaction if there is one; the next maybe while the server recovers."""
        old, killed = self.ours(), 0
        pick = """SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            ORDER BY state = 'idle', random() LIMIT 1"""
        for _ in range(self.random.choice((1, 1, 2, 3))):
            (pid,) = self.wait(lambda: self.ask(pick), 60, "a session")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            self.pause(0, 3)
        return f"kill -9 of a session, {killed} times; {self.recovered(old)}"

    def postmaster(self):
        self.pg.crash()
        self.pause(0, 3)
        self.pg.start()
        return f"kill -9 of the postmaster; {self.recovered()}"

    def locks(self):
        """Sessions that lock tables and rows and sit there; our worker does not wait for them."""
        tables = ["task_instance", "dag_run", "slot_pool", "serialized_dag", "alembic_version"]
        mine = "relnamespace = 'airflow_bp'::regnamespace AND relkind = 'r'"
        ours = self.pg.rows(f"SELECT 'airflow_bp.' || relname FROM pg_class WHERE {mine} ORDER BY 1")
        statements = [f"LOCK TABLE {table}" for table in self.random.sample(tables, 2)]
        statements += [f"LOCK TABLE {table}" for (table,) in self.random.sample(ours, 3)]
        rows = "SELECT 1 FROM {} WHERE state IN ('queued', 'running') LIMIT 20 FOR UPDATE"
        statements.append(rows.format(self.random.choice(("task_instance", "dag_run"))))
        self.random.shuffle(statements)
        sessions = []
        for statement in statements:
            session = self.pg.connect()
            session.autocommit = False
            with suppress(psycopg2.Error):
                session.cursor().execute(f"SET lock_timeout = '2s'; {statement}")
                sessions.append((session, statement))
        self.pause(2, 6)
        tick = self.last_tick()
        self.wait(lambda: self.last_tick() != tick, 10, "the worker to take its turns")
        for session, _ in sessions:
            session.close()
        return f"{', '.join(statement.split(' LIMIT')[0] for _, statement in sessions)}; {self.recovered()}"

    def last_tick(self):
        return self.ask("SELECT last_tick FROM airflow_bp.memory_state()")

    def disk(self):
        """Our tables are in a full file system; Airflow does not notice."""
        if self.small is None:
            return None
        space, filler = self.small / "space", self.small / "filler"
        self.pg.rows(f"CREATE TABLESPACE small LOCATION '{space}'")
        self.move_tables("small")
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        note = "SELECT 1 FROM airflow_bp.memory_state() WHERE note LIKE '%No space left%'"
        self.wait(lambda: self.ask(note), 120, "the worker to say that the disk is full")
        moment = utcnow()
        task = "SELECT 1 FROM task_instance WHERE state = 'success' AND start_date > %s"
        self.wait(lambda: self.ask(task, moment), 120, "a task to start and end meanwhile")
        filler.unlink()
        recovered = self.recovered()
        self.move_tables("pg_default")
        self.pg.rows("CHECKPOINT")
        self.pg.rows("DROP TABLESPACE small")
        self.pg.rows("CHECKPOINT")
        return f"the disk of our tables full for a while; {recovered}"

    def move_tables(self, space):
        self.pg.rows(f"""DO $$ DECLARE r record; BEGIN
            FOR r IN SELECT CASE relkind WHEN 'r' THEN 'TABLE' ELSE 'INDEX' END AS kind, oid::regclass AS name FROM pg_class
                WHERE relnamespace = 'airflow_bp'::regnamespace AND relkind IN ('r', 'i') LOOP
                EXECUTE format('ALTER %s %s SET TABLESPACE {space}', r.kind, r.name);
            END LOOP; END $$""")

    def clocks(self):
        """The clock of the server goes ahead and back, or back and ahead, by different times; it is not left behind that of Airflow."""
        told = []
        first, second = (self.random.randrange(60, 900) for _ in range(2))
        for ahead in self.random.choice(([self.ahead + first, max(self.ahead + first - second, 0)], [self.ahead - first, self.ahead])):
            told.append(f"clock {ahead - self.ahead:+} s")
            self.set_clock(ahead)
            told.append(self.recovered())
            self.pause(0, 3)
        return "; ".join(told)

    def set_clock(self, ahead):
        self.ahead = ahead
        with open(self.clock["CLOCK_STEP"], "r+b", buffering=0) as file:
            file.write(struct.pack("q", ahead))

    def connections(self):
        """Nobody else gets a connection for a while; our worker has its own."""
        sessions = []
        with suppress(psycopg2.OperationalError):
            while True:
                sessions.append(self.pg.connect())
        self.pause(2, 8)
        tick = "SELECT last_tick FROM airflow_bp.memory_state()"
        cursor = sessions[0].cursor()

        def last_tick():
            cursor.execute(tick)
            return cursor.fetchall()

        first = last_tick()
        self.wait(lambda: last_tick() != first, 10, "the worker to take its turns")
        for session in sessions:
            session.close()
        return f"{len(sessions)} sessions, and no room for more; {self.recovered()}"

    def failover(self):
        """To a standby that has all commits, and back to the first, made anew."""
        told = []
        for _ in range(2):
            old = self.pg
            (new,) = [server for server in self.servers if server is not old]
            new.follow(old)
            self.wait(lambda: old.value("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), 60, "the standby")
            self.pause(2, 5)
            old.crash()
            new.rows("SELECT pg_promote()")
            self.airflow.pg = new
            told.append(self.recovered())
        return f"kill -9 of the primary, the standby is promoted: {told[0]}; and back: {told[1]}"

    # The run

    def strike(self, kind):
        try:
            told = getattr(self, kind)()
        except Exception as error:
            self.failures.append(f"{kind}: {error!r}")
            told = f"NOT RECOVERED: {error!r}; {self.ask('SELECT * FROM airflow_bp.memory_state()')}"
        if told is not None:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        say(f"{kind}: {told or 'skipped: this system lets us mount nothing'}")

    def run(self, kinds):
        self.watcher.start()
        self.load.start()
        self.wait(lambda: self.airflow.tasks("%", "success"), 120, "the first task")
        end = time.monotonic() + SECONDS
        order = []
        while time.monotonic() < end and not self.failures:
            order = order or self.random.sample(kinds, len(kinds))
            self.strike(order.pop())
            self.pause(1, 6)
        self.set_clock(0)
        say("no more faults, no more runs; waiting for the end of all")
        self.runs = self.load.finish()
        unfinished = "SELECT 1 FROM dag_run WHERE end_date IS NULL"
        with suppress(TimeoutError):
            self.wait(lambda: not self.pg.value(unfinished), 20 if self.failures else 300, "the end of all runs")

    # What must hold

    def check(self):
        """(what holds, what was found against it) one after the other."""
        pg, watcher = self.pg, self.watcher
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts.items())
        yield f"{sum(self.counts.values())} faults are over: {counts}", self.failures or ([] if counts else ["none"])
        tasks = pg.value("SELECT count(*) FROM task_instance")
        yield f"{len(self.runs)} runs with {tasks} tasks ended as they would have", wrong(pg, self.runs)
        lost = watcher.finish()
        seen = f"{watcher.commits} commits and {watcher.snapshots} snapshots"
        yield f"the watcher has followed every change since the last failover, {watcher.slots} in all", lost
        for name, (_, limit) in LIMITS.items():
            most = watcher.most[name]
            above = [line for line in watcher.above if line.startswith(f"{name} ")]
            yield f"{name} never above {limit} slots in {seen}: at most {most}", above or ([] if most == limit else ["never as many"])
        yield "the watcher could read all", watcher.errors
        yield "nothing was admitted unjudged", watcher.fail_open
        yield "no drift in any recount of the worker", watcher.drift
        yield "no drift in the end", pg.rows("SELECT * FROM airflow_bp.recount() WHERE drift <> 0") + [
            row for row in pg.rows("SELECT drift_slots FROM airflow_bp.status()") if row != (0,)
        ]
        yield "nobody is held", pg.rows("SELECT * FROM airflow_bp.held()")
        yield "no error of ours in the logs of Airflow", list(self.airflow_errors())
        yield "no error of ours in the logs of PostgreSQL", list(self.postgres_errors())

    def lines(self, log):
        """Without names of directories that are like our name."""
        for line in log.read_text(errors="replace").splitlines():
            yield line.replace(str(self.directory), "").replace(str(harness.venv("")), "")

    def airflow_errors(self):
        """Also what a row that the gate keeps back would mean to a writer that is not the admission."""
        bad = re.compile(r"airflow_bp|\bBP\d{3}\b|StaleDataError|signal 11|SIGSEGV")
        for log in self.directory.glob("*.log"):
            for line in self.lines(log):
                if bad.search(line):
                    yield f"{log.name}: {line[:300]}"

    def postgres_errors(self):
        """PANIC, crashes that are not ours, errors of our processes, and of our code in other sessions than those of the test."""
        expected = re.compile(
            r"lock timeout|statement timeout|No space left on device|administrator command|because of crash|postmaster exit"
        )
        crashed = re.compile(r"PANIC:|TRAP:|terminated by signal (?!9\b)")
        for server in self.servers:
            for line in self.lines(server.log) if server.log.exists() else ():
                _, _, backend, name, text = (line.split("|", 4) + [""] * 4)[:5]
                level = text.strip().partition(":")[0]
                ours = backend.startswith("airflow_bp") and level != "STATEMENT"
                wrong_of_ours = ours and (level in ("ERROR", "FATAL", "WARNING") or "failed" in text)
                in_session = backend == "client backend" and name != "chaos" and "airflow_bp" in text
                if crashed.search(line) or ((wrong_of_ours or in_session) and not expected.search(text)):
                    yield f"{server.log.parent.name}: {line[:300]}"

    def verdict(self):
        passed = failed = 0
        for what, against in self.check():
            passed, failed = passed + (not against), failed + bool(against)
            print(f"{'not ok' if against else 'ok'} - {what}", flush=True)
            shown = list(against.items()) if isinstance(against, dict) else against if isinstance(against, list | set) else [against]
            for line in list(shown)[:8] if against else ():
                print(f"#   {line}"[:600])
        for (name, how, why), times in sorted(self.airflow.ended.items()):
            print(f"# {name} {how} {why[:200]}: started again {times} times")
        print(f"# seed {SEED}{f'; logs are kept in {self.directory}' if failed else ''}")
        print(f"{passed} passed, {failed} failed", flush=True)
        return failed


KINDS = ["scheduler", "worker", "backend", "postmaster", "locks", "disk", "clocks", "connections", "failover"]


def main():
    kinds = (os.environ.get("CHAOS_FAULTS") or " ".join(KINDS)).split()
    if not kinds or not set(kinds) <= set(KINDS):
        raise SystemExit(f"CHAOS_FAULTS is some of: {' '.join(KINDS)}")
    say(f"seed {SEED}, {SECONDS} s of {' '.join(kinds)}")
    harness.leave_nothing_behind()
    os.environ["PGAPPNAME"] = "chaos"
    directory = harness.scratch()
    try:
        chaos = Chaos(directory)
        chaos.run(kinds)
        failed = chaos.verdict()
    except BaseException as error:
        say(f"stopped: {error!r}; logs are kept in {directory}")
        raise SystemExit(1) from None
    harness.kill_all()
    if chaos.small:
        subprocess.run(["umount", chaos.small], capture_output=True)
    if not failed and not os.environ.get("KEEP"):
        harness.discard(directory)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
