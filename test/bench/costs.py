"""What the extension costs a real scheduler, beside nothing and beside tasks that wait.  See doc/costs.md.

The sides have a PostgreSQL and a scheduler each, which are stopped and let go in turn, so that a machine whose speed drifts is the same for all.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import harness
import letters
import scenes

ROUNDS = int(os.environ.get("ROUNDS", 6))
SECONDS = float(os.environ.get("ROUND", 10))
TASKS = 50  # of a run
LIMIT = 3
WORK, WARM = 20_000, 100  # tasks that end at once, and how many of them before the first round
TICK = os.sysconf("SC_CLK_TCK")
SIDES = ("without", "limits", "parking")
FIGURES = (("tasks a minute", 0), ("bytes of WAL a task", 0), ("ms a task, scheduler", 2), ("ms a task, server", 2))
# No checkpoint and no vacuum comes when it likes; 50,000 tasks keep their place while their scheduler is stopped.
SETTINGS = {"full_page_writes": "off", "autovacuum": "off", "checkpoint_timeout": "1d", "max_wal_size": "20GB"}
OURS = {"shared_preload_libraries": "airflow_bp", "airflow_bp__database": "airflow", "airflow_bp__ask_timeout": "1h"}

# Runs like the first of a DAG, with its tasks.
COPY = """
WITH copied AS (
	INSERT INTO dag_run SELECT c.* FROM dag_run r, generate_series(2, %(runs)s) n, LATERAL jsonb_populate_record(r, jsonb_build_object(
		'id', nextval(pg_get_serial_sequence('dag_run', 'id')), 'run_id', r.run_id || '_' || n)) c
	WHERE r.dag_id = %(dag_id)s RETURNING run_id)
INSERT INTO task_instance SELECT c.* FROM task_instance t, copied r, LATERAL jsonb_populate_record(t, jsonb_build_object(
	'id', gen_random_uuid(), 'run_id', r.run_id)) c
WHERE t.dag_id = %(dag_id)s"""
# As the scheduler asks.
ASK = """
UPDATE task_instance SET state = 'scheduled', try_number = try_number + 1, scheduled_dttm = now(), updated_at = now()
WHERE dag_id = 'waiting' AND state IS NULL"""


def template(directory):
    """A database with one run of each DAG."""
    pg = harness.Postgres(directory).start()
    with contextlib.closing(pg.connect("postgres")) as connection:
        connection.cursor().execute("CREATE DATABASE airflow")
    airflow = configured(harness.Airflow(directory, pg))
    airflow.cli("db", "migrate")
    pg.rows("INSERT INTO slot_pool (pool, slots, description, include_deferred) VALUES ('full', 0, '', false)")
    airflow.cli("dag-processor", "--num-runs", "1")
    for dag_id in ("work", "waiting"):
        airflow.trigger_many(dag_id, 1)
    airflow.stop()
    pg.stop()
    return pg.data


def configured(airflow):
    """The DAGs and the executor of this benchmark."""
    dags, config = airflow.directory / "dags", airflow.directory / "home" / "config"
    dags.mkdir()
    config.mkdir(parents=True)
    shutil.copy(HERE / "costs_dag.py", dags)
    shutil.copy(HERE / "costs_executor.py", config)
    airflow.settings |= {"CORE__DAGS_FOLDER": dags, "CORE__EXECUTOR": "costs_executor.AtOnce", "CORE__PARALLELISM": 32}
    return airflow


class Side:
    """A scheduler that stands still unless it is its turn."""

    def __init__(self, directory, data, name, held):
        self.name = name
        directory.mkdir()
        directory.chmod(0o755)
        self.ours = name != "without"
        ours = {**OURS, "airflow_bp__parking": "on" if name == "parking" else "off"} if self.ours else {}
        self.pg = harness.Postgres(directory, data).start(**SETTINGS, **ours)
        self.airflow = configured(harness.Airflow(directory, self.pg))
        self.load("work", WORK)
        self.load("waiting", held)
        if self.ours:
            self.limits()
        self.hold(held)
        self.pg.rows("VACUUM ANALYZE")
        self.airflow.start("scheduler").wait_ready()
        if name == "parking":
            parked = "SELECT count(*) FROM airflow_bp.parked() WHERE dag_id = 'waiting'"
            self.airflow.wait(lambda: self.pg.value(parked) >= 0.95 * held / TASKS, 200, "the runs to be parked")
        self.airflow.wait(lambda: self.ended() >= WARM, 100, "the first tasks to end")
        self.turn(signal.SIGSTOP)
        self.rounds = []

    def load(self, dag_id, tasks):
        if not tasks:
            self.pg.rows("DELETE FROM dag_run WHERE dag_id = %s", dag_id)
            return
        with self.pg.cursor() as cursor:
            cursor.execute(COPY, {"dag_id": dag_id, "runs": tasks // TASKS})
        if dag_id == "waiting":
            self.pg.rows("UPDATE dag_run SET state = 'running', start_date = now(), last_scheduling_decision = now() WHERE dag_id = %s", dag_id)

    def limits(self):
        self.pg.rows("CREATE EXTENSION airflow_bp")
        self.pg.rows("SELECT airflow_bp.enable('enforce')")
        for tenant, slots in (("work", 100_000), ("waiting", LIMIT)):
            self.pg.rows("SELECT airflow_bp.set_tenant(%s, %s), airflow_bp.add_tenant_rule(%s, 'dag_id', %s)", tenant, slots, tenant, tenant)
        scenes.wait_policy(self.airflow)

    def hold(self, tasks):
        """The same statement on each side: with us it is held, without it waits for the pool."""
        wanted = max(tasks - LIMIT, 0) if self.ours else 0
        left = "SELECT count(*) FROM task_instance WHERE dag_id = 'waiting' AND state IS NULL"
        known = "SELECT count(*) FROM airflow_bp.held_entries()" if self.ours else left

        def asked():
            self.pg.rows(ASK)
            return self.pg.value(left) == self.pg.value(known) == wanted

        self.airflow.wait(asked, 60, f"{tasks} tasks to wait")

    def memory(self):
        """Of each kind of process the largest."""
        query = """SELECT backend_type, pid FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND (backend_type ~ '^airflow_bp' OR backend_type = 'client backend') ORDER BY 1"""
        kinds = {}
        for kind, pid in self.pg.rows(query):
            kinds[kind] = max(kinds.get(kind, (0, 0)), memory(pid))
        return kinds

    def turn(self, number):
        letters.stop_and_go(self.airflow.running["scheduler"], number)

    def ended(self):
        """Tasks that the executor has ended."""
        with contextlib.suppress(FileNotFoundError):
            return int((self.airflow.directory / "home" / "ended").read_text() or 0)
        return 0

    def state(self):
        """Tasks that have ended, bytes of WAL, seconds of the processor: scheduler, server."""
        if self.ours:
            # What the worker still has to write is a part of the costs.
            self.airflow.wait(lambda: self.pg.value("SELECT airflow_bp.tick()"), 10, "a turn of the worker")
        wal = self.pg.value("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        return self.ended(), wal, cpu(self.airflow.running["scheduler"].pid), cpu(self.pg.process.pid)

    def round(self):
        """From the end of one loop of the scheduler to that of another."""
        before = self.state()
        began = time.monotonic()
        self.turn(signal.SIGCONT)
        time.sleep(SECONDS)
        ended = self.ended()
        while self.ended() == ended:
            self.airflow.alive()
            time.sleep(0.002)
        self.turn(signal.SIGSTOP)
        took = time.monotonic() - began
        n, *costs = (b - a for a, b in zip(before, self.state()))
        assert self.airflow.tasks("work", "none", "scheduled") > 0, "there was no more work"
        self.rounds.append((60 * n / took, *(scale * cost / n for scale, cost in zip((1, 1000, 1000), costs))))


def cpu(pid):
    """Seconds of a process with all below it, also those that have ended."""
    ticks = 0
    for process in [pid, *harness.descendants(pid)]:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / TICK


def memory(pid):
    """Kilobytes that a process has alone, and with what it shares."""
    lines = [line.split() for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()[1:]]
    return sum(int(size) for name, size, _ in lines if name.startswith("Private_")), sum(int(size) for name, size, _ in lines if name == "Rss:")


def spread(values, digits):
    return " ".join(f"{value:>9,.{digits}f}" for value in (min(values), median(values), max(values)))


def report(held, sides):
    print(f"\n{held:,} held tasks; least, median and most of {ROUNDS} rounds of {SECONDS:.0f} s")
    for place, (what, digits) in enumerate(FIGURES):
        plain, *_ = figures = [[row[place] for row in side.rounds] for side in sides]
        for side, values in zip(sides, figures):
            ratio = f"   {spread([a / b for a, b in zip(values, plain)], 3)} of without" if side.ours else ""
            print(f"{what:<22} {side.name:<8} {spread(values, digits)}{ratio}")
    shared = "SELECT sum(allocated_size) FROM pg_shmem_allocations WHERE name IS NOT NULL"
    print(f"shared memory of ours  {int(sides[1].pg.value(shared) - sides[0].pg.value(shared)):,} bytes")
    for side in sides:
        print(f"kB alone, resident     {side.name:<8} " + ", ".join(f"{kind} {alone:,} {all_:,}" for kind, (alone, all_) in side.memory().items()))
    sys.stdout.flush()


def measure(directory, data, held):
    directory.mkdir()
    directory.chmod(0o755)
    began = time.monotonic()
    sides = [Side(directory / name, data, name, held) for name in SIDES]
    print(f"{held} held: ready after {time.monotonic() - began:.0f} s", file=sys.stderr)
    for number in range(ROUNDS):
        for side in sides if number % 2 == 0 else sides[::-1]:
            side.round()
    report(held, sides)
    harness.kill_all()


def main():
    harness.leave_nothing_behind()
    directory = harness.scratch()
    try:
        data = template(directory)
        for held in map(int, sys.argv[1:] or (0, 1_000, 50_000)):
            measure(directory / str(held), data, held)
    except BaseException as error:
        print(f"stopped: {error!r}; logs are kept in {directory}", file=sys.stderr)
        raise SystemExit(1) from None
    harness.discard(directory)


if __name__ == "__main__":
    main()
