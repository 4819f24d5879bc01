"""Who waits for whom among real components: named with statement and row, kept as history, ended by a rule."""

import contextlib
import shutil
import signal
from pathlib import Path

import harness
import letters
import scenes

OFTEN = {"airflow_bp__lock_sample_period": "200ms"}
COMPONENTS = ("api-server", "scheduler", "scheduler-2", "dag-processor", "triggerer")
TREE = "SELECT pid, blocked_by, component, rule, state, relation, airflow_row FROM airflow_bp.lock_tree()"


def tree(airflow):
    return airflow.pg.rows(TREE)


def running(airflow, dag_id):
    """A run whose task has started, and the file that it waits for to go."""
    gate = airflow.directory / dag_id
    gate.touch()
    run_id = airflow.trigger(dag_id, until=str(gate))
    airflow.wait(lambda: airflow.tasks(dag_id, "running") == 1, 60, f"the task of {dag_id}")
    return run_id, gate


@contextlib.contextmanager
def asleep(airflow, name, lock, *args):
    """Pid of a session idle in its transaction: its component is stopped while it waits for a lock of ours, which then goes."""
    waiting = "SELECT pid FROM airflow_bp.lock_tree() WHERE component = %s AND depth = 1"
    idle = "SELECT state = 'idle in transaction' FROM airflow_bp.sessions() WHERE pid = %s"
    with contextlib.closing(airflow.pg.connect()) as connection:
        connection.cursor().execute(f"BEGIN; {lock}", args or None)
        pid = airflow.wait(lambda: airflow.pg.value(waiting, name), 30, f"the {name} to wait")
        letters.stop_and_go(airflow.running[name], signal.SIGSTOP)
    try:
        airflow.wait(lambda: airflow.pg.value(idle, pid), 10, "the end of its statement")
        yield pid
    finally:
        letters.stop_and_go(airflow.running[name], signal.SIGCONT)


def wait_known(airflow, component, count):
    """Until so many sessions are known to be of a component."""
    known = "SELECT count(*) FROM airflow_bp.sessions() WHERE component = %s"
    airflow.wait(lambda: airflow.pg.value(known, component) >= count, 60, f"the {component} to be known")


def test_dag_processor_blocks_scheduler(stack):
    """The end of a run waits for a DAG processor that sits on the DAG's row: apache/airflow 70614."""
    airflow = stack(components=False, **OFTEN)
    dags = airflow.directory / "dags"
    dags.mkdir()
    shutil.copy(harness.DAGS / "locks.py", dags)
    airflow.settings |= {"CORE__DAGS_FOLDER": dags, "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 1}
    airflow.start("api-server", "scheduler", "scheduler-2", "dag-processor").wait_ready()
    run_id, gate = running(airflow, "locks_full")
    full = "SELECT exceeds_max_non_backfill FROM dag WHERE dag_id = 'locks_full'"
    airflow.wait(lambda: airflow.pg.value(full), 30, "the DAG processor to count the run")

    # import_error is written last for a file, when the rows of its DAGs are locked.
    episode = """
    SELECT samples, waiter_seconds, going_on, idle_share, relation, airflow_row FROM airflow_bp.lock_episodes()
    WHERE blocker_component = 'dag-processor' AND blocked_component = 'scheduler' AND samples >= 10"""
    row = ("dag", {"dag_id": "locks_full"})
    with asleep(airflow, "dag-processor", "LOCK TABLE import_error IN SHARE MODE") as pid:
        gate.unlink()
        airflow.wait(lambda: airflow.pg.rows(episode), 30, "a scheduler that waits to be seen")
        blocker, waiter = tree(airflow)
        assert blocker == (pid, [], "dag-processor", "import errors", "idle in transaction", *row)
        assert waiter[1:] == ([pid], "scheduler", "run of a DAG has ended", "active", *row)
        assert airflow.run_state("locks_full", run_id) == "running"
        since = "SELECT extract(epoch FROM clock_timestamp() - min(wait_start))::float8 FROM airflow_bp.lock_tree()"
        waited = airflow.pg.value(since)
    assert airflow.wait_run("locks_full", run_id) == "success"
    airflow.wait(lambda: tree(airflow) == [], 10, "nobody to wait")

    airflow.wait(lambda: not airflow.pg.rows(episode)[0][2], 10, "a look that sees nobody wait")
    ((samples, seconds, *rest),) = airflow.pg.rows(episode)
    print(f"a wait of {waited:.1f} s: {seconds:.1f} s in {samples} samples")
    assert abs(seconds - waited) < 1
    assert rest == [False, 1, *row]
    ranked = "SELECT blocker_component, blocked_component, relation, share > 0.5 FROM airflow_bp.lock_report()"
    assert airflow.pg.rows(ranked)[0] == ("dag-processor", "scheduler", "dag", True)
    assert airflow.scheduler_errors() == []


def test_api_server_blocks_scheduler(stack):
    """A rule ends the session of an API server that sits on a heartbeat: apache/airflow 65712.

    Schedulers pass over tasks that are locked (SKIP LOCKED), but not when the run has timed out.
    """
    airflow = stack(components=False, **OFTEN)
    airflow.settings["WORKERS__MIN_HEARTBEAT_INTERVAL"] = 1
    airflow.start("api-server", "scheduler").wait_ready()
    other, gate = running(airflow, "locks_full")
    run_id, _ = running(airflow, "locks_timeout")
    wait_known(airflow, "scheduler", 1)

    log = "SELECT acted, done, action, pid, evidence FROM airflow_bp.lock_action ORDER BY at"
    rule = """
    SELECT airflow_bp.set_lock_rule('asleep', '1 s', component => 'api-server', relation => 'task_instance',
        waiters => 1, act => %s)"""
    # Of what the server sends for a running task, only heartbeats wait for that.
    mine = "SELECT FROM task_instance WHERE run_id = %s FOR NO KEY UPDATE"
    with asleep(airflow, "api-server", mine, run_id) as pid:
        airflow.pg.rows("UPDATE dag_run SET start_date = start_date - interval '2 h' WHERE run_id = %s", run_id)
        airflow.wait(lambda: tree(airflow), 30, "the scheduler to wait")
        blocker, waiter = as_it_was = tree(airflow)
        assert blocker[:-2] == (pid, [], "api-server", "heartbeat of a task", "idle in transaction")
        assert waiter[1:3] == ([pid], "scheduler") and waiter[3].startswith("earlier: ") and waiter[4] == "active"
        task = {"dag_id": "locks_timeout", "run_id": run_id, "task_id": "load", "map_index": "-1"}
        for *_, relation, row in as_it_was:
            assert relation == "task_instance" and task.items() <= row.items()

        airflow.pg.rows(rule, False)
        airflow.wait(lambda: airflow.pg.rows(log), 30, "what the rule would do")
        assert tree(airflow) == as_it_was
        airflow.pg.rows(rule, True)
        airflow.wait(lambda: len(airflow.pg.rows(log)) == 2, 30, "what it does")
        (*would, _), (*did, evidence) = airflow.pg.rows(log)
        assert would == [False, None, "terminate", pid] and did == [True, True, "terminate", pid]
        assert evidence["session"]["statement"].startswith("UPDATE task_instance SET last_heartbeat_at=")
        assert [blocked["pid"] for blocked in evidence["blocked"]] == [waiter[0]]
        assert airflow.wait_run("locks_timeout", run_id, 30) == "failed"
        assert tree(airflow) == []

    # The server has lost one session; workers ask again, and the one whose run has failed is told so and ends.
    worker = airflow.pg.value("SELECT pid FROM task_instance WHERE run_id = %s", run_id)
    airflow.wait(lambda: not Path(f"/proc/{worker}").exists(), 60, "the end of a worker")
    gate.unlink()
    assert airflow.wait_run("locks_full", other) == "success"
    states = "SELECT state, try_number FROM task_instance ORDER BY dag_id"
    assert airflow.pg.rows(states) == [("success", 1), ("skipped", 1)]
    assert len(airflow.pg.rows(log)) == 2
    assert all("Server indicated the task shouldn't be running anymore" in line for line in airflow.scheduler_errors())


def test_critical_section(stack):
    """The sampler finds both schedulers in their critical section."""
    airflow = stack(schedulers=2, airflow_bp__lock_sample_period="100ms")
    wait_known(airflow, "scheduler", 2)
    airflow.trigger_many("flood", 60, seconds=0.1)
    query = """
    SELECT s.component, c.client, c.longest_at_least <= c.longest_at_most, c.share
    FROM airflow_bp.critical_section() c LEFT JOIN airflow_bp.sessions() s USING (pid)"""
    airflow.wait(lambda: len(airflow.pg.rows(query)) == 2, 60, "both schedulers to be seen")
    assert scenes.wait_end(airflow, "flood", 60, 120) == ["success"]
    for *session, share in airflow.pg.rows(query):
        print(f"{share:.1%} of the time")
        assert session == ["scheduler", "127.0.0.1", True] and 0 < share < 1
    status = "SELECT errors, lost_looks, blind < seen / 20 FROM airflow_bp.sampler_status()"
    assert airflow.pg.rows(status) == [(0, 0, True)]


def start_named(airflow, *components):
    """Each connects with a role of its own, which sets its application_name with any driver."""
    plain = airflow.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    for name in components:
        airflow.pg.rows(f'CREATE ROLE "{name}" SUPERUSER LOGIN')
        airflow.pg.rows(f'ALTER ROLE "{name}" SET application_name = "{name.removesuffix("-2")}"')
        airflow.settings["DATABASE__SQL_ALCHEMY_CONN"] = plain.replace("airflow@", f"{name}@")
        airflow.start(name)
    airflow.settings["DATABASE__SQL_ALCHEMY_CONN"] = plain


def test_sessions(stack):
    """A session is said to be of its own component or of none, and those of what loops are all known."""
    airflow = stack(components=False, **OFTEN)
    start_named(airflow, *COMPONENTS)
    airflow.wait_ready()
    sessions = "pg_stat_activity a JOIN airflow_bp.sessions() s USING (pid) WHERE a.application_name = ANY (%s)"
    wrong = f"SELECT count(*) FROM {sessions} AND s.component NOT IN (a.application_name, 'unknown')"
    known = f"SELECT avg((s.component <> 'unknown')::int)::float8 FROM {sessions}"
    clear = {"dry_run": False, "only_failed": False, "reset_dag_runs": True}
    looping = [name for name in COMPONENTS if name != "api-server"]
    with harness.Sampler(airflow.pg, wrong, list(COMPONENTS)) as mistakes:
        airflow.trigger_many("flood", 60, seconds=0.1)
        airflow.trigger_many("kind_deferred", 2)
        assert scenes.wait_end(airflow, "flood", 60, 120) == ["success"]
        airflow.api("POST", "/dags/flood/clearTaskInstances", clear)
        airflow.api("PATCH", "/dags/chain", {"is_paused": True})
        airflow.api("GET", "/dags/~/dagRuns/~/taskInstances")
        assert scenes.wait_end(airflow, "%", 62, 120) == ["success"]
        airflow.wait(lambda: airflow.pg.value(known, looping) == 1, 30, "all of their sessions to be known")
    print(f"known of the API server's: {airflow.pg.value(known, ['api-server']):.0%}, looks: {len(mistakes.samples)}")
    assert mistakes.rate() > 5 and mistakes.maximum() == 0
