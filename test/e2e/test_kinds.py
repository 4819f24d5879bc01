"""The same DAGs with parking and without: the same ends, and no look comes later."""

import signal
import time

import harness
import pytest

PLAIN = """retry retry_exponential retry_exhausted reschedule reschedule_timeout deferred mapped mapped_empty trigger_rules
branch setup_teardown timeout timeout_upstream task_limit""".split()
IN_ORDER = ["depends_on_past", "wait_for_downstream"]
DAYS = [f"2026-02-0{day}T00:00:00Z" for day in (1, 2, 3)]
LATE = 4.0  # seconds: two loops of a busy scheduler

STATES = """
SELECT dag_id, run_id, task_id, map_index, state, try_number FROM task_instance WHERE dag_id LIKE 'kind%'
UNION ALL SELECT dag_id, run_id, '', 0, state, clear_number FROM dag_run WHERE dag_id LIKE 'kind%'"""

# How long after the last thing that happened in its DAG a try was scheduled, or a run ended.
# A deferred task is scheduled by the triggerer, not by a look.
LAGS = """
WITH try AS (
	SELECT dag_id, run_id, task_id, map_index, try_number, scheduled_dttm, end_date FROM task_instance
	UNION ALL SELECT dag_id, run_id, task_id, map_index, try_number, scheduled_dttm, end_date FROM task_instance_history
), moment AS (
	SELECT dag_id, run_id, task_id, map_index, try_number, scheduled_dttm AS at FROM try
	UNION ALL SELECT dag_id, run_id, '', 0, clear_number, end_date FROM dag_run
), event AS (
	SELECT dag_id, end_date AS at FROM try
	UNION ALL SELECT dag_id, start_date FROM dag_run
	UNION ALL SELECT ti.dag_id, tr.reschedule_date FROM task_reschedule tr JOIN task_instance ti ON ti.id = tr.ti_id
	UNION ALL SELECT dag_id, start_date + interval '9 s' FROM dag_run WHERE dag_id = 'kind_timeout'
	UNION ALL SELECT dag_id, start_date + interval '6 s' FROM dag_run WHERE dag_id = 'kind_timeout_upstream'
	UNION ALL SELECT * FROM unnest(%s::text[], %s::timestamptz[])
)
SELECT m.dag_id, m.run_id, m.task_id, m.map_index, m.try_number, extract(epoch FROM m.at - max(e.at))::float8
FROM moment m JOIN event e ON e.dag_id = m.dag_id AND e.at <= m.at
WHERE m.dag_id LIKE 'kind%%' AND m.task_id <> 'defer'
GROUP BY m.dag_id, m.run_id, m.task_id, m.map_index, m.try_number, m.at"""


class Kinds:
    """One passage of all kinds through one Airflow."""

    def __init__(self, airflow):
        self.airflow = airflow
        self.events = []

    def act(self, kind, method, path, body):
        self.events.append((f"kind_{kind}", time.time()))
        self.airflow.api(method, path, body)

    def task_is(self, kind, task_id, *states):
        query = "SELECT state FROM task_instance WHERE dag_id = %s AND task_id = %s"
        self.airflow.wait(
            lambda: self.airflow.pg.value(query, f"kind_{kind}", task_id) in states, 60, f"{kind}.{task_id} {states}"
        )

    def trigger(self):
        for kind in [*PLAIN, "paused", "cleared", "marked", "marked_run"]:
            self.airflow.trigger(f"kind_{kind}", "run_1")
        for number, day in enumerate(DAYS, 1):
            for kind in [*IN_ORDER, "run_limit"]:
                self.airflow.trigger(f"kind_{kind}", f"run_{number}", day)
        days = {"from_date": "2026-01-02T00:00:00Z", "to_date": "2026-01-04T00:00:00Z", "max_active_runs": 1}
        self.airflow.api("POST", "/backfills", {"dag_id": "kind_backfill", **days})

    def disturb(self):
        """What people do to runs under way."""
        self.task_is("paused", "first", "queued", "running")
        self.act("paused", "PATCH", "/dags/kind_paused", {"is_paused": True})
        self.task_is("marked", "sense", "up_for_reschedule")
        self.act("marked", "PATCH", "/dags/kind_marked/dagRuns/run_1/taskInstances/sense", {"new_state": "success"})
        self.task_is("marked_run", "sense", "up_for_reschedule")
        self.act("marked_run", "PATCH", "/dags/kind_marked_run/dagRuns/run_1", {"state": "failed"})
        self.airflow.wait_run("kind_cleared", "run_1", 60)
        clear = {"dry_run": False, "dag_run_id": "run_1", "only_failed": False, "reset_dag_runs": True}
        self.act("cleared", "POST", "/dags/kind_cleared/clearTaskInstances", clear)
        self.task_is("paused", "first", "success")
        self.act("paused", "PATCH", "/dags/kind_paused", {"is_paused": False})

    def finish(self, seconds):
        unfinished = "SELECT array_agg(dag_id || ' ' || run_id) FROM dag_run WHERE end_date IS NULL"
        try:
            self.airflow.wait(lambda: self.airflow.pg.value(unfinished) is None, seconds, "all kinds to end")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.airflow.pg.value(unfinished)}") from None

    def states(self):
        return {row[:4]: row[4:] for row in self.airflow.pg.rows(STATES)}

    def lags(self):
        dags, times = zip(*self.events)
        stamps = [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) + f".{at % 1:.6f}"[2:] + "+00" for at in times]
        return {row[:5]: row[5] for row in self.airflow.pg.rows(LAGS, list(dags), stamps)}


def start(stack, parking, schedulers=1):
    """With few workers at a time: a busy machine is not what is compared."""
    airflow = stack(components=False, airflow_bp__parking=parking)
    airflow.pg.rows("SELECT airflow_bp.enable('observe')")
    airflow.settings["CORE__PARALLELISM"] = 6 // schedulers
    return airflow.start("api-server", "triggerer", *["scheduler", "scheduler-2"][:schedulers]).wait_ready()


def passage(airflow):
    """States, lags, and the DAGs that had a parked run at some time."""
    kinds = Kinds(airflow)
    parked = "SELECT array_agg(DISTINCT dag_id) FROM airflow_bp.parked()"
    with harness.Sampler(airflow.pg, parked, per_second=5) as sampler:
        kinds.trigger()
        kinds.disturb()
        kinds.finish(150)
    result = kinds.states(), kinds.lags(), {dag for _, dags in sampler.samples for dag in dags or []}
    airflow.stop()
    return result


@pytest.mark.parametrize("schedulers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_same_with_parking(stack, schedulers):
    plain_states, plain_lags, never = passage(start(stack, "off", schedulers))
    states, lags, parked = passage(start(stack, "on", schedulers))
    assert states == plain_states
    assert not never and len(parked) > 15
    assert len(plain_lags) > 80
    late = {key: (lags.get(key), lag) for key, lag in plain_lags.items() if lags.get(key, 1e9) > lag + LATE}
    assert not late, "with parking, without"


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGQUIT, marks=pytest.mark.long)])
def test_restart(stack, how):
    """PostgreSQL restarts while runs wait: each still ends long before its safety look."""
    airflow = start(stack, "on")
    kinds = Kinds(airflow)
    kinds.trigger()
    kinds.task_is("reschedule", "sense", "up_for_reschedule")
    airflow.pg.restart(how)
    airflow.alive = airflow.revive
    kinds.disturb()
    kinds.finish(140)


GROWING = """
from airflow.sdk import DAG, BaseSensorOperator, task

class Never(BaseSensorOperator):
    def poke(self, context):
        return False

@task
def work():
    pass

with DAG("kind_growing", schedule=None, catchup=False):
    Never(task_id="sense", mode="reschedule", poke_interval=600)
"""


def test_new_version(stack):
    """A new version of a DAG brings its parked runs a task at once."""
    airflow = stack(components=False, airflow_bp__parking="on")
    airflow.pg.rows("SELECT airflow_bp.enable('observe')")
    dags = airflow.directory / "dags"
    dags.mkdir()
    airflow.settings.update(CORE__DAGS_FOLDER=dags, CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL=0)
    file = dags / "growing.py"
    file.write_text(GROWING)
    airflow.cli("dag-processor", "--num-runs", "1")
    airflow.start("api-server", "scheduler").wait_ready()
    airflow.trigger("kind_growing", "run_1")
    parked = "SELECT count(*) FROM airflow_bp.parked() WHERE dag_id = 'kind_growing'"
    state = "SELECT state FROM task_instance WHERE dag_id = 'kind_growing' AND task_id = %s"
    airflow.wait(lambda: airflow.pg.value(state, "sense") == "up_for_reschedule", 30, "the sensor to wait")
    airflow.wait(lambda: airflow.pg.value(parked), 30, "the run to be parked")
    file.write_text(GROWING + '    work.override(task_id="late")()\n')
    airflow.cli("dag-processor", "--num-runs", "1")
    airflow.wait(lambda: airflow.pg.value(state, "late") == "success", 30, "the new task")
