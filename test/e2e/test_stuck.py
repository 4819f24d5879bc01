"""Tasks that are stuck are found with the right cause, and brought to an end by a letter or by Airflow's own sweeps.

One of two is retried before the mending; the other recovers when Airflow is mended.
"""

import os
import shutil
import signal

import harness
import letters
import pytest
import scenes

TWO = "LocalExecutor,second:second_executor.SecondExecutor"
QUIET = ("stuck_paused", "stuck_held")
# Short, also for causes that must not be named.
AGES = {
    "executor_unknown": 3,
    "pool_missing": 3,
    "pool_too_small": 3,
    "queued_by_dead_scheduler": 3,
    "scheduled_too_long": 6,
    "deferred_without_trigger": 3,
    "dead_triggerer": 3,
    "run_stalled": 6,
}
COMPONENTS = ("api-server", "scheduler", "triggerer")


@pytest.fixture(scope="module")
def shared_airflow(shared_stack):
    airflow = shared_stack(components=False, **letters.told())
    letters.hurry(airflow)
    dags, config = airflow.directory / "dags", airflow.directory / "home" / "config"
    dags.mkdir()
    config.mkdir(parents=True)
    shutil.copy(harness.DAGS / "stuck.py", dags)
    shutil.copy(harness.HERE / "second" / "dag.py", dags / "second.py")
    shutil.copy(harness.HERE / "second" / "executor.py", config / "second_executor.py")
    airflow.settings |= {"CORE__DAGS_FOLDER": dags, "CORE__EXECUTOR": TWO}
    letters.parse(airflow)
    airflow.start(*COMPONENTS).wait_ready()
    airflow.pg.rows("SELECT airflow_bp.enable('enforce')")
    quiet(airflow)
    for cause, seconds in AGES.items():
        letters.threshold(airflow, cause, seconds)
    letters.threshold(airflow, "running_without_heartbeat", 20, 8)
    letters.threshold(airflow, "queued_too_long", 15, 3)
    return airflow


def quiet(airflow):
    """A task that is held, and one that waits for a pool that is not there, of a DAG that is paused."""
    airflow.pg.rows("SELECT airflow_bp.set_tenant('held', 0)")
    airflow.pg.rows("SELECT airflow_bp.add_tenant_rule('held', 'dag_id', 'stuck_held')")
    scenes.wait_policy(airflow)
    airflow.trigger("stuck_held")
    airflow.wait(lambda: airflow.pg.value("SELECT count(*) FROM airflow_bp.held()") == 1, 30, "a held task")
    airflow.trigger("stuck_paused")
    airflow.wait(lambda: airflow.tasks("stuck_paused", "scheduled") == 1, 30, "a scheduled task")
    airflow.api("PATCH", "/dags/stuck_paused", {"is_paused": True})


@pytest.fixture
def airflow(shared_airflow):
    """All components run; whatever a test does, there is no word of what only waits."""
    missing = [name for name in COMPONENTS if name not in shared_airflow.running]
    shared_airflow.start(*missing).wait_ready()
    yield shared_airflow
    pg = shared_airflow.pg
    for table in ("stuck()", "dead_letter"):
        assert pg.rows(f"SELECT * FROM airflow_bp.{table} WHERE dag_id = ANY (%s)", list(QUIET)) == []
    assert pg.value("SELECT note FROM airflow_bp.status()") is None


def test_scheduler_killed(airflow):
    with letters.hanging_server(airflow):
        runs = letters.queued(airflow, "stuck_work", 2)
        letters.kill(airflow, "scheduler")
    dead = airflow.pg.value("SELECT max(id) FROM job WHERE job_type = 'SchedulerJob'")
    as_it_was = airflow.pg.rows("SELECT xmin, t FROM task_instance t WHERE dag_id = 'stuck_work' ORDER BY id")
    for evidence in letters.found(airflow, "stuck_work", ["queued_by_dead_scheduler"] * 2):
        assert evidence["scheduler"]["job_id"] == dead and not evidence["scheduler"]["alive"]
    (one, *_), (other, *_) = letters.letters(airflow, "stuck_work", ["queued_by_dead_scheduler"] * 2)
    assert airflow.pg.rows("SELECT xmin, t FROM task_instance t WHERE dag_id = 'stuck_work' ORDER BY id") == as_it_was

    letters.retry(airflow, one)
    airflow.start("scheduler").wait_ready()
    letters.succeeds(airflow, "stuck_work", *runs)
    letters.recovered(airflow, other)


def test_server_hangs(airflow):
    """LocalExecutor gives nothing back, so Airflow's sweep passes over what it cannot start."""
    with letters.hanging_server(airflow):
        runs = letters.queued(airflow, "stuck_work", 1)
        letters.found(airflow, "stuck_work", ["queued_too_long"], "warning")
        ((letter, *_),) = letters.letters(airflow, "stuck_work", ["queued_too_long"])
        letters.retry(airflow, letter)
    letters.succeeds(airflow, "stuck_work", *runs)


def test_triggerer_killed(airflow):
    runs = [airflow.trigger("stuck_defer") for _ in range(2)]
    taken = "SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL"
    airflow.wait(lambda: airflow.pg.value(taken) == 2, 60, "two triggers to be taken")
    letters.kill(airflow, "triggerer")
    dead = airflow.pg.value("SELECT max(id) FROM job WHERE job_type = 'TriggererJob'")
    for evidence in letters.found(airflow, "stuck_defer", ["dead_triggerer"] * 2):
        assert evidence["triggerer"]["job_id"] == dead and not evidence["triggerer"]["alive"]
    (one, *_), (other, *_) = letters.letters(airflow, "stuck_defer", ["dead_triggerer"] * 2)

    letters.retry(airflow, one)
    airflow.start("triggerer").wait_ready()
    letters.succeeds(airflow, "stuck_defer", *runs)
    letters.recovered(airflow, other)


def test_worker_killed(airflow):
    """A warning until Airflow's own sweep has failed the task; the letter says what the sweep did."""
    run = airflow.trigger("stuck_work", seconds=300)
    airflow.wait(lambda: airflow.tasks("stuck_work", "running") == 1, 60, "a running task")
    task = airflow.pg.value("SELECT pid FROM task_instance WHERE state = 'running'")
    supervisor = int((open(f"/proc/{task}/stat").read()).rpartition(")")[2].split()[1])
    for pid in (supervisor, task):
        os.kill(pid, signal.SIGKILL)
    mine = "SELECT status, cause FROM airflow_bp.dead_letter WHERE run_id = %s"
    letters.found(airflow, "stuck_work", ["running_without_heartbeat"], "warning")
    assert airflow.pg.rows(mine, run) == []

    ((letter, _, evidence),) = letters.letters(airflow, "stuck_work", ["retries_exhausted"])
    assert "heartbeat timeout" in [entry["event"] for entry in evidence["log"]]
    letters.retry(airflow, letter)
    letters.succeeds(airflow, "stuck_work", run)


def test_pool_deleted(airflow):
    airflow.pool("doomed", 1)
    first = airflow.trigger("stuck_pool", seconds=6)
    airflow.wait(lambda: airflow.tasks("stuck_pool", "running") == 1, 60, "a running task")
    others = [airflow.trigger("stuck_pool") for _ in range(2)]
    airflow.wait(lambda: airflow.tasks("stuck_pool", "scheduled") == 2, 60, "two waiting tasks")
    airflow.api("DELETE", "/pools/doomed")
    letters.found(airflow, "stuck_pool", ["pool_missing"] * 2)
    (one, *_), (other, *_) = letters.letters(airflow, "stuck_pool", ["pool_missing"] * 2)
    letters.succeeds(airflow, "stuck_pool", first)

    letters.retry(airflow, one)
    airflow.pool("doomed", 1)
    letters.succeeds(airflow, "stuck_pool", *others)
    letters.recovered(airflow, other)


def test_executor_removed(airflow):
    """A task that runs is adopted by a scheduler that has no executor for it, and one that waits is never queued."""
    lost = airflow.trigger("stuck_second", seconds=300)
    airflow.wait(lambda: airflow.tasks("stuck_second", "running") == 1, 60, "a running task")
    letters.kill(airflow, "scheduler")
    waiting = airflow.trigger("stuck_second")
    airflow.settings["CORE__EXECUTOR"] = "LocalExecutor"
    airflow.start("scheduler").wait_ready()
    airflow.wait(lambda: airflow.tasks("stuck_second", "scheduled") == 1, 30, "a scheduled task")
    letters.parse(airflow)
    causes = ["executor_unknown"] * 2
    letters.found(airflow, "stuck_second", causes, seconds=90)
    (one, *_), (two, *_) = letters.letters(airflow, "stuck_second", causes)

    for letter in (one, two):
        letters.retry(airflow, letter)
    airflow.settings["CORE__EXECUTOR"] = TWO
    letters.kill(airflow, "scheduler")
    airflow.start("scheduler")
    letters.parse(airflow)
    airflow.wait_ready()
    letters.succeeds(airflow, "stuck_second", lost, waiting)
