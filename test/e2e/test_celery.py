"""Tasks that are stuck with CeleryExecutor and a real Redis."""

import shutil

import harness
import letters
import pytest

VERSION = f"{harness.NEWEST}-celery"


def redis():
    """The server's program, as test/setup.sh redis finds it."""
    own = harness.venv(VERSION).parent / "redis-server"
    return shutil.which("redis-server") or (own if own.exists() else None)


def worker(airflow, name, queues):
    """A worker of these queues, of two processes."""
    alone = ["--without-mingle", "--without-gossip"]
    argv = ["airflow", "celery", "worker", "--queues", queues, "--concurrency", "2", "--celery-hostname", f"{name}@test", *alone]
    airflow.running[name] = airflow.spawn(name, argv)
    airflow.wait(lambda: f"{name}@test ready" in airflow.log(name), 90, "a worker")


@pytest.fixture
def airflow(stack):
    program = redis()
    if not program or not harness.venv(VERSION).exists():
        pytest.skip(f"Redis or Celery is not installed: test/setup.sh redis, test/setup.sh airflow {VERSION}")
    airflow = stack(VERSION, components=False, **letters.told())
    port = harness.free_port()
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", airflow.directory]
    harness.spawn([program, *options], airflow.directory / "redis.log")
    letters.hurry(airflow)
    airflow.settings |= {
        "CORE__EXECUTOR": "CeleryExecutor",
        "SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": 1,
        "CELERY__BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "CELERY__RESULT_BACKEND": f"db+postgresql://airflow@127.0.0.1:{airflow.pg.port}/airflow",
    }
    airflow.start("api-server", "scheduler").wait_ready()
    worker(airflow, "worker", "default")
    airflow.pg.rows("SELECT airflow_bp.enable('enforce')")
    letters.threshold(airflow, "running_without_heartbeat", 20, 8)
    letters.threshold(airflow, "queued_too_long", 15, 3)
    return airflow


def test_celery(airflow):
    """A worker is killed while a task of another queue waits for a worker that nobody has started."""
    lost = airflow.trigger("stuck_work", seconds=300)
    airflow.wait(lambda: airflow.tasks("stuck_work", "running") == 1, 60, "a running task")
    waiting = airflow.trigger("stuck_queue")
    letters.kill(airflow, "worker")
    letters.found(airflow, "stuck_queue", ["queued_too_long"], "warning")
    letters.found(airflow, "stuck_work", ["running_without_heartbeat"], "warning")

    # Airflow's sweeps: the one gives it back to the queue and then fails it, as the other does at once.
    ((killed, _, evidence),) = letters.letters(airflow, "stuck_work", ["retries_exhausted"])
    assert "heartbeat timeout" in events(evidence)
    ((unserved, _, evidence),) = letters.letters(airflow, "stuck_queue", ["retries_exhausted"])
    assert {"stuck in queued reschedule", "stuck in queued tries exceeded"} <= events(evidence)
    assert airflow.pg.value("SELECT queue FROM airflow_bp.dead_letter WHERE id = %s", unserved) == "nobody"

    worker(airflow, "second", "default,nobody")
    for letter in (killed, unserved):
        letters.retry(airflow, letter)
    letters.succeeds(airflow, "stuck_work", lost)
    letters.succeeds(airflow, "stuck_queue", waiting)


def events(evidence):
    """What Airflow's log says of a task."""
    return {entry["event"] for entry in evidence["log"]}
