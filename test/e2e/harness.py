"""A real Airflow on a private PostgreSQL, on loopback, for the e2e tests and the demo.

Runs under the Python of an Airflow environment: standard library and psycopg2 only.
Nothing survives the program, however it ends: see leave_nothing_behind.
"""

import atexit
import contextlib
import ctypes
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg2

HERE = Path(__file__).resolve().parent
DAGS = HERE / "dags"
VERSIONS = ("3.0.6", "3.1.8", "3.2.2", "3.3.2")
NEWEST = VERSIONS[-1]
PATIENCE = 3  # times the seconds after which a wait has failed on a machine of our own: others are slower
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
libc = ctypes.CDLL(None)


def venv(version):
    """Directory of the Python environment that holds this Airflow."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("AIRFLOW_BP_CACHE") or Path(cache) / "airflow_bp")
    return root / f"airflow-{version}"


def pg_bin(program):
    """A program of the server that the extension is installed in; as pg_config.sh chooses it."""
    usual = Path(f"/usr/lib/postgresql/{os.environ.get('PG_MAJOR', 15)}/bin/pg_config")
    config = os.environ.get("PG_CONFIG") or (usual if usual.exists() else "pg_config")
    return Path(subprocess.check_output([config, "--bindir"], text=True).strip()) / program


def pg_user():
    """PostgreSQL refuses root: then it runs as postgres."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(condition, seconds, what, alive=None):
    """Poll until condition() is true and return it; alive() may raise to end the wait early."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if alive:
            alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} s still waiting for {what}")
        time.sleep(0.05)


# Processes


children = []


def spawn(argv, log, user=None, **options):
    """Start a child in a session of its own: Ctrl-C is for us."""
    if user and os.geteuid() == 0:
        options.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    with open(log, "ab") as out:
        child = subprocess.Popen(
            [str(a) for a in argv],
            stdout=options.pop("stdout", out),
            stderr=out,
            start_new_session=True,
            **options,
        )
    children.append(child)
    return child


def descendants(pid):
    """Processes below pid, children before parents."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                stat = Path("/proc", entry, "stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found[::-1]


def kill(child):
    """Kill a child with all that it started."""
    for pid in [*descendants(child.pid), child.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()
    if child in children:
        children.remove(child)


def kill_descendants():
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def kill_all():
    """Also kills orphans, which the kernel has given to us."""
    for child in children[::-1]:
        kill(child)
    kill_descendants()


def leave_nothing_behind():
    """Go on in a child; this process waits for its end, however it ends, and kills what it left."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        atexit.register(kill_all)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda n, _: sys.exit(128 + n))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: os.kill(child, n))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    kill_descendants()
    os._exit(status if status >= 0 else 128 - status)


# PostgreSQL


class Postgres:
    """A private cluster; its data directory is made by initdb or copied from a template."""

    database = "airflow"

    def __init__(self, directory, template=None):
        self.directory = Path(directory)
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.user = pg_user()
        self.port = free_port()
        self.settings = {}
        self.environment = {}
        self.process = None
        self.local = threading.local()
        if template:
            subprocess.check_call(["cp", "-a", template, self.data])
        else:
            self.make()

    def make(self):
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        init = [pg_bin("initdb"), "-D", self.data, "-U", "airflow", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        if spawn(init, self.log, self.user, cwd="/").wait():
            raise RuntimeError(self.log.read_text())

    def start(self, **settings):
        """Start with these settings; the ones of an earlier start hold on."""
        self.settings.update(settings)
        conf = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "128MB",
            "fsync": "off",
            "log_min_messages": "warning",
            **{name.replace("__", "."): value for name, value in self.settings.items()},
        }
        options = [f"-c{name}={value}" for name, value in conf.items()]
        argv = [pg_bin("postgres"), "-D", self.data, *options]
        self.process = spawn(argv, self.log, self.user, cwd="/", env={**os.environ, **self.environment})
        wait(self.ready, 30, f"PostgreSQL, see {self.log}", self.alive)
        return self

    def ready(self):
        with suppress(psycopg2.OperationalError):
            psycopg2.connect(self.dsn("postgres")).close()
            return True

    def alive(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended:\n{self.log.read_text()[-3000:]}")

    def stop(self, how=signal.SIGINT):
        """SIGINT is a fast shutdown, SIGQUIT an immediate one."""
        self.process.send_signal(how)
        self.process.wait(60)
        children.remove(self.process)

    def restart(self, how=signal.SIGINT):
        self.stop(how)
        return self.start()

    def dsn(self, database=None):
        return f"host=127.0.0.1 port={self.port} user=airflow dbname={database or self.database}"

    def connect(self, database=None):
        connection = psycopg2.connect(self.dsn(database))
        connection.autocommit = True
        return connection

    def cursor(self):
        """One connection per thread, made again after a restart."""
        connection = getattr(self.local, "connection", None)
        if connection is not None and not connection.closed:
            try:
                cursor = connection.cursor()
                cursor.execute("SELECT 1")
                return cursor
            except psycopg2.Error:
                connection.close()
        self.local.connection = self.connect()
        return self.local.connection.cursor()

    def rows(self, sql, *args):
        cursor = self.cursor()
        cursor.execute(sql, args or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, sql, *args):
        rows = self.rows(sql, *args)
        return rows[0][0] if rows else None


# Airflow


class Airflow:
    """Components of one Airflow on one database; the version may change between starts."""

    def __init__(self, directory, postgres, version=NEWEST):
        self.directory = Path(directory)
        self.pg = postgres
        self.version = version
        self.port = free_port()
        self.settings = {}
        self.running = {}
        self.token = None

    def environment(self):
        url = f"http://localhost:{self.port}"
        airflow = {
            "DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://airflow@127.0.0.1:{self.pg.port}/{self.pg.database}",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": 8,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_FOLDER": DAGS,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "API__HOST": "127.0.0.1",
            "API__PORT": self.port,
            "API__BASE_URL": url,
            "API__WORKERS": 1,
            "API_AUTH__JWT_SECRET": "0123456789abcdef" * 4,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 5,
            "LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": free_port(),
            "USAGE_DATA_COLLECTION__ENABLED": False,
            # 5 unless set: a task fails whose API server takes longer, as it may where all share few cores.
            "WORKERS__EXECUTION_API_TIMEOUT": 60,
            **self.settings,
        }
        return {
            "PATH": f"{venv(self.version)}/bin:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "no_proxy": "*",
            "AIRFLOW_HOME": str(self.directory / "home"),
            **{f"AIRFLOW__{name}": str(value) for name, value in airflow.items()},
        }

    def spawn(self, name, argv, **options):
        program = venv(self.version) / "bin" / argv[0]
        return spawn(
            [program, *argv[1:]], self.directory / f"{name}.log", env=self.environment(), cwd=self.directory, **options
        )

    def cli(self, *arguments, seconds=300):
        """Run one airflow command to its end."""
        name = "-".join(arguments[:2])
        child = self.spawn(name, ["airflow", *arguments])
        try:
            if child.wait(seconds):
                raise RuntimeError(f"airflow {' '.join(arguments)}:\n{self.log(name)[-4000:]}")
        finally:
            kill(child)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def start(self, *components):
        """Start api-server, scheduler, scheduler-2, dag-processor, triggerer; does not wait."""
        for name in components:
            self.running[name] = self.spawn(name, ["airflow", name.split("-2")[0]])
        return self

    def stop(self, *components):
        """SIGTERM, as an operator does; all components by default."""
        stopping = [self.running.pop(name) for name in components or list(self.running)]
        for child in stopping:
            child.terminate()
        for child in stopping:
            with suppress(subprocess.TimeoutExpired):
                child.wait(10)
            kill(child)

    def alive(self):
        for name, child in self.running.items():
            if child.poll() is not None:
                raise RuntimeError(f"{name} ended with {child.returncode}:\n{self.log(name)[-4000:]}")

    def revive(self):
        """Start again what has ended, as a supervisor does."""
        for name, child in list(self.running.items()):
            if child.poll() is not None:
                kill(child)
                self.start(name)

    def wait(self, condition, seconds, what):
        return wait(condition, seconds, f"{what}; logs are in {self.directory}", self.alive)

    def wait_ready(self, seconds=90):
        """Every started component has said so in the database or on its port."""
        schedulers = sum(name.startswith("scheduler") for name in self.running)
        live = "SELECT count(*) FROM job WHERE job_type = %s AND state = 'running' AND latest_heartbeat > now() - interval '30 s'"
        self.wait(lambda: self.pg.value(live, "SchedulerJob") >= schedulers, seconds, "schedulers")
        if "triggerer" in self.running:
            self.wait(lambda: self.pg.value(live, "TriggererJob"), seconds, "the triggerer")
        if "api-server" in self.running:
            self.wait(self.api_ready, seconds, "the API server")
        return self

    # REST

    def request(self, method, path, body=None):
        """One request on a connection of its own, as the server closes idle ones: (status, parsed answer)."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60 * PATIENCE)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text else None

    def api(self, method, path, body=None):
        status, answer = self.request(method, f"/api/v2{path}", body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def api_ready(self):
        with suppress(OSError, http.client.HTTPException, ValueError):
            status, answer = self.request("GET", "/auth/token")
            self.token = answer["access_token"] if status == 201 else None
            return self.token

    def trigger(self, dag_id, run_id=None, logical_date=None, **conf):
        """Start a run by REST and return its run_id."""
        body = {"logical_date": logical_date, "conf": conf, **({"dag_run_id": run_id} if run_id else {})}
        return self.api("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"]

    def trigger_many(self, dag_id, count, **conf):
        """Create many runs through Airflow's models in one process: hundreds in seconds."""
        child = self.running.get("runs")
        if child is None:
            child = self.spawn(
                "runs", ["python", HERE / "runs.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.running["runs"] = child
        child.stdin.write(json.dumps({"dag_id": dag_id, "count": count, "conf": conf}) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        if not answer:
            raise RuntimeError(self.log("runs"))
        return json.loads(answer)

    def pool(self, name, slots):
        body = {"name": name, "slots": slots, "description": "", "include_deferred": False}
        status, _ = self.request("POST", "/api/v2/pools", body)
        if status == 409:
            self.api("PATCH", f"/pools/{name}", body)

    # What the database says

    def run_state(self, dag_id, run_id):
        return self.pg.value("SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s", dag_id, run_id)

    def wait_run(self, dag_id, run_id, seconds=120):
        """Final state of a run."""
        self.wait(lambda: self.run_state(dag_id, run_id) in ("success", "failed"), seconds, f"{dag_id} {run_id}")
        return self.run_state(dag_id, run_id)

    def seconds(self, dag_id, run_id):
        """From the request to the end of a run, or till now."""
        return self.pg.value(
            "SELECT extract(epoch FROM coalesce(end_date, clock_timestamp()) - queued_at)::float8"
            " FROM dag_run WHERE dag_id = %s AND run_id = %s",
            dag_id,
            run_id,
        )

    def tasks(self, dag_like, *states):
        """Number of tasks in these states, in all runs of these DAGs."""
        return self.pg.value(
            "SELECT count(*) FROM task_instance WHERE dag_id LIKE %s AND coalesce(state, 'none') = ANY (%s)",
            dag_like,
            list(states),
        )

    def scheduler_errors(self):
        """Lines of the schedulers' logs that no healthy scheduler writes."""
        bad = ("error", "critical", "traceback", "exception")
        return [
            line
            for name in ("scheduler", "scheduler-2")
            if (self.directory / f"{name}.log").exists()
            for line in self.log(name).splitlines()
            if any(f"[{word}" in line.lower() or f" {word} " in line.lower() for word in bad[:2])
            or line.startswith("Traceback")
        ]


class Sampler(threading.Thread):
    """Runs a query that returns one number, many times a second, on its own connection."""

    def __init__(self, postgres, sql, *args, per_second=20):
        super().__init__(daemon=True)
        self.connection = postgres.connect()
        self.sql, self.args, self.period = sql, args or None, 1 / per_second
        self.samples = []
        self.error = None
        self.done = threading.Event()

    def run(self):
        following = time.monotonic()
        try:
            while not self.done.is_set():
                with self.connection.cursor() as cursor:
                    cursor.execute(self.sql, self.args)
                    self.samples.append((time.time(), cursor.fetchone()[0]))
                following = max(following + self.period, time.monotonic())
                self.done.wait(following - time.monotonic())
        except psycopg2.Error as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        self.connection.close()
        if self.error:
            raise self.error

    def maximum(self):
        return max(value for _, value in self.samples)

    def rate(self):
        return (len(self.samples) - 1) / (self.samples[-1][0] - self.samples[0][0])




# Templates


def make_template(directory, version):
    """A stopped cluster with a migrated, parsed Airflow; returns its data directory."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    pg = Postgres(directory).start()
    connection = pg.connect("postgres")
    connection.cursor().execute("CREATE DATABASE airflow")
    connection.close()
    airflow = Airflow(directory, pg, version)
    airflow.cli("db", "migrate")
    airflow.cli("dag-processor", "--num-runs", "1")
    pg.stop()
    return pg.data


def scratch():
    """A directory that the user of PostgreSQL may enter."""
    directory = Path(tempfile.mkdtemp(prefix="airflow_bp."))
    directory.chmod(0o755)
    return directory


def discard(directory):
    shutil.rmtree(directory, ignore_errors=True)
