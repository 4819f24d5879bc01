"""What the tests of stuck tasks do with an Airflow."""

import contextlib
import os
import signal

import harness

# Airflow's sweeps, seconds; what the extension is told about them is the same.
SWEEPS = {
    "task_queued_timeout": 15,
    "task_queued_timeout_check_interval": 2,
    "task_instance_heartbeat_timeout": 20,
    "scheduler_health_check_threshold": 10,
    "orphaned_tasks_check_interval": 5,
}
TRIGGERER = 8


def told():
    """Settings of PostgreSQL that say what Airflow's sweeps are."""
    seconds = {**SWEEPS, "triggerer_health_check_threshold": TRIGGERER}
    return {f"airflow_bp__{name}": f"{value}s" for name, value in seconds.items()}


def hurry(airflow):
    """Airflow mends soon what it mends by itself."""
    airflow.settings |= {f"SCHEDULER__{name.upper()}": value for name, value in SWEEPS.items()}
    airflow.settings |= {
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
        "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": TRIGGERER,
    }


def parse(airflow):
    airflow.cli("dag-processor", "--num-runs", "1")


def kill(airflow, *names):
    """As kill -9 does, with all their processes."""
    for name in names:
        harness.kill(airflow.running.pop(name))


def stop_and_go(child, number):
    """SIGSTOP or SIGCONT to a component."""
    for pid in [child.pid, *harness.descendants(child.pid)]:
        os.kill(pid, number)


@contextlib.contextmanager
def hanging_server(airflow):
    """An API server that answers nobody, so that no executor can tell that a task starts."""
    server = airflow.running["api-server"]
    stop_and_go(server, signal.SIGSTOP)
    try:
        yield
    finally:
        stop_and_go(server, signal.SIGCONT)


def queued(airflow, dag_id, count):
    """New runs of a DAG, when their first tasks are queued."""
    run_ids = airflow.trigger_many(dag_id, count)
    waiting = "SELECT count(*) FROM task_instance WHERE run_id = ANY (%s) AND state = 'queued'"
    airflow.wait(lambda: airflow.pg.value(waiting, run_ids) == count, 60, f"{count} queued tasks")
    return run_ids


def threshold(airflow, cause, after, warn=None, scope="deployment", name=None):
    airflow.pg.rows(
        "SELECT airflow_bp.set_stuck_threshold(%s, make_interval(secs => %s), %s, %s, make_interval(secs => %s))",
        cause, after, scope, name, warn,
    )


def found(airflow, dag_id, causes, severity="stuck", seconds=60):
    """Evidence of the first tasks of a DAG when stuck() names exactly these causes."""
    query = """SELECT cause, evidence FROM airflow_bp.stuck()
        WHERE dag_id = %s AND task_id = 'load' AND severity = %s ORDER BY 1"""
    rows = []

    def look():
        rows[:] = airflow.pg.rows(query, dag_id, severity)
        return [cause for cause, _ in rows] == sorted(causes)

    try:
        airflow.wait(look, seconds, f"{causes} of {dag_id}")
    except TimeoutError as error:
        raise AssertionError(f"{error}; stuck() says {airflow.pg.rows('SELECT * FROM airflow_bp.stuck()')}") from None
    return [evidence for _, evidence in rows]


def letters(airflow, dag_id, causes, seconds=60):
    """(id, run_id, evidence) of the open letters of a DAG's first tasks when these are their causes."""
    query = """SELECT id, run_id, evidence, cause FROM airflow_bp.dead_letter
        WHERE dag_id = %s AND task_id = 'load' AND status = 'open' ORDER BY cause, id"""
    rows = []

    def look():
        rows[:] = airflow.pg.rows(query, dag_id)
        return [cause for *_, cause in rows] == sorted(causes)

    try:
        airflow.wait(look, seconds, f"letters {causes} of {dag_id}")
    except TimeoutError as error:
        everything = "SELECT dag_id, task_id, cause, status, evidence FROM airflow_bp.dead_letter"
        raise AssertionError(f"{error}; there are {airflow.pg.rows(everything)}") from None
    return [row[:3] for row in rows]


def retry(airflow, letter):
    airflow.pg.rows("SELECT airflow_bp.dlq_retry(%s)", letter)
    assert status(airflow, letter) == "retried"


def status(airflow, letter):
    return airflow.pg.value("SELECT status FROM airflow_bp.dead_letter WHERE id = %s", letter)


def succeeds(airflow, dag_id, *run_ids, seconds=90):
    for run_id in run_ids:
        state = airflow.wait_run(dag_id, run_id, seconds)
        assert state == "success", f"{dag_id} {run_id} ended as {state}"


def recovered(airflow, letter):
    airflow.wait(lambda: status(airflow, letter) == "recovered", 60, "a letter to be closed by the sweep")
