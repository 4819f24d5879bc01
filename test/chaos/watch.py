"""Proof that nobody is above a limit: each commit in its order, and a snapshot many times a second."""

import re
import threading
import time
from contextlib import closing, suppress

import psycopg2
import psycopg2.extras

STATES = ("scheduled", "queued", "running", "restarting")
USED = """
SELECT split_part(dag_id, '_', 1), sum(pool_slots)::int FROM task_instance
WHERE state IN ('scheduled', 'queued', 'running', 'restarting') GROUP BY 1"""
ALL = "SELECT dag_id, run_id, task_id, map_index::text, state, pool_slots FROM task_instance"
MEMORY = "SELECT fail_open_total, drift_slots FROM airflow_bp.memory_state()"
SLOT = "CREATE_REPLICATION_SLOT watch LOGICAL test_decoding EXPORT_SNAPSHOT"
PEEK = "SELECT lsn - '0/0', data FROM pg_logical_slot_peek_changes('watch', NULL, 5000, 'include-xids', '0')"
ROW = re.compile(r"table public\.task_instance: (?:INSERT|UPDATE|DELETE)")


def column(data, name):
    """The value in the new row, as test_decoding writes it."""
    found = re.search(rf" {name}\[[^]]*\]:(?:'((?:[^']|'')*)'|(\S+))", data.rpartition("new-tuple:")[2])
    return None if found is None or found[2] == "null" else found[1] if found[1] is not None else found[2]


class Watcher(threading.Thread):
    """Reads airflow.pg, which may be another server tomorrow. limits: {name: (tenants, slots)}."""

    def __init__(self, airflow, limits):
        super().__init__(daemon=True)
        self.airflow = airflow
        self.limits = limits
        self.most = dict.fromkeys(limits, 0)  # of commits and snapshots
        self.above = []
        self.errors = []
        self.commits = self.snapshots = self.slots = self.fail_open = self.drift = 0
        self.pg = None  # the server that has our slot
        self.tasks = {}
        self.usage = {}
        self.upto = 0
        self.done = threading.Event()

    def run(self):
        while not self.done.is_set():
            try:
                self.snapshot()
                if self.pg is not self.airflow.pg:
                    self.begin(self.airflow.pg)
                self.decode()
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                pass  # no server
            except Exception as error:
                self.errors.append(repr(error))
            self.done.wait(0.05)

    def judge(self, usage, where):
        for name, (tenants, limit) in self.limits.items():
            used = sum(usage.get(tenant, 0) for tenant in tenants)
            self.most[name] = max(self.most[name], used)
            if used > limit:
                self.above.append(f"{name} used {used} of {limit} in {where}")

    def snapshot(self):
        pg = self.airflow.pg
        usage = dict(pg.rows(USED))
        self.snapshots += 1
        self.judge(usage, f"a snapshot at {time.strftime('%H:%M:%S')}")
        for fail_open, drift in pg.rows(MEMORY):
            self.fail_open = max(self.fail_open, fail_open or 0)
            self.drift = max(self.drift, abs(drift or 0))

    def begin(self, pg):
        """A slot, and all tasks as they were at its first change."""
        factory = psycopg2.extras.LogicalReplicationConnection
        with closing(psycopg2.connect(pg.dsn(), connection_factory=factory)) as maker, closing(psycopg2.connect(pg.dsn())) as reader:
            maker.autocommit = True
            cursor, rows = maker.cursor(), reader.cursor()
            cursor.execute(SLOT)
            rows.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            rows.execute("SET TRANSACTION SNAPSHOT %s", (cursor.fetchone()[2],))
            rows.execute(ALL)
            self.tasks, self.usage, self.upto = {}, {}, 0
            for *key, state, slots in rows:
                self.change(tuple(key), state, slots)
        self.slots += 1
        self.pg = pg

    def change(self, key, state, slots):
        tenant = key[0].partition("_")[0]
        used = slots if state in STATES else 0
        self.usage[tenant] = self.usage.get(tenant, 0) + used - self.tasks.get(key, 0)
        self.tasks[key] = used

    def decode(self):
        """What was peeked at but not confirmed comes again after a crash."""
        changes, end = [], None
        for lsn, data in self.pg.rows(PEEK):
            if data.startswith("COMMIT"):
                end = lsn
                if lsn > self.upto:
                    self.commit(changes, lsn)
                changes = []
            elif ROW.match(data):
                changes.append(data)
        if end is not None:
            self.upto = max(self.upto, end)
            self.pg.rows("SELECT pg_replication_slot_advance('watch', '0/0'::pg_lsn + %s)", end)

    def commit(self, changes, lsn):
        for data in changes:
            key = tuple(column(data, name) for name in ("dag_id", "run_id", "task_id", "map_index"))
            if None in key or ": DELETE" in data[:60]:
                raise ValueError(f"a change that cannot be read: {data}")
            self.change(key, column(data, "state"), int(column(data, "pool_slots")))
        if changes:
            self.commits += 1
            self.judge(self.usage, f"the commit at {int(lsn):x}")

    def differing(self):
        tables = {tuple(key): slots if state in STATES else 0 for *key, state, slots in self.airflow.pg.rows(ALL)}
        return {key for key in tables.keys() | self.tasks.keys() if self.tasks.get(key) != tables.get(key)}

    def finish(self):
        """Tasks of which the last change that was read is not what the table says."""
        with suppress(TimeoutError):
            self.airflow.wait(lambda: not self.differing(), 30, "the watcher")
        self.done.set()
        self.join()
        return self.differing()
