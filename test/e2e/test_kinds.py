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
ROUNDS = 3
SECONDS = 70
PARK_FOR = "20min"  # no safety look comes in time

STATES = """
SELECT dag_id, run_id, task_id, map_index, state, try_number FROM task_instance WHERE dag_id LIKE 'kind%'
UNION ALL SELECT dag_id, run_id, '', 0, state, clear_number FROM dag_run WHERE dag_id LIKE 'kind%'"""

# Tasks that Airflow queued anew before it saw the end of their first worker process, and therefore failed.
OVERTAKEN = "SELECT array_agg(DISTINCT dag_id) FROM log WHERE event = 'state mismatch'"

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
            lambda: self.airflow.pg.value(query, f"kind_{kind}", task_id) in states, SECONDS, f"{kind}.{task_id} {states}"
        )

    def trigger(self):
        for kind in [*PLAIN, "cleared", "marked", "marked_run"]:
            self.airflow.trigger(f"kind_{kind}", "run_1")
        for number, day in enumerate(DAYS, 1):
            for kind in [*IN_ORDER, "run_limit"]:
                self.airflow.trigger(f"kind_{kind}", f"run_{number}", day)
        days = {"from_date": "2026-01-02T00:00:00Z", "to_date": "2026-01-04T00:00:00Z", "max_active_runs": 1}
        self.airflow.api("POST", "/backfills", {"dag_id": "kind_backfill", **days})
        self.airflow.trigger("kind_paused", "run_1")

    def disturb(self):
        """What people do to runs under way."""
        # On a slow machine it may have ended before a restart.
        self.task_is("paused", "first", "queued", "running", "success")
        self.act("paused", "PATCH", "/dags/kind_paused", {"is_paused": True})
        self.task_is("marked", "sense", "up_for_reschedule")
        self.act("marked", "PATCH", "/dags/kind_marked/dagRuns/run_1/taskInstances/sense", {"new_state": "success"})
        self.task_is("marked_run", "sense", "up_for_reschedule")
        self.act("marked_run", "PATCH", "/dags/kind_marked_run/dagRuns/run_1", {"state": "failed"})
        self.airflow.wait_run("kind_cleared", "run_1", SECONDS)
        clear = {"dry_run": False, "dag_run_id": "run_1", "only_failed": False, "reset_dag_runs": True}
        self.act("cleared", "POST", "/dags/kind_cleared/clearTaskInstances", clear)
        self.task_is("paused", "first", "success")
        self.act("paused", "PATCH", "/dags/kind_paused", {"is_paused": False})

    def finish(self):
        unfinished = "SELECT array_agg(dag_id || ' ' || run_id) FROM dag_run WHERE end_date IS NULL"
        try:
            self.airflow.wait(lambda: self.airflow.pg.value(unfinished) is None, SECONDS, "all kinds to end")
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
    airflow = stack(components=False, airflow_bp__parking=parking, airflow_bp__park_for=PARK_FOR)
    airflow.pg.rows("SELECT airflow_bp.enable('observe')")
    airflow.settings["CORE__PARALLELISM"] = 6 // schedulers
    return airflow.start("api-server", "triggerer", *["scheduler", "scheduler-2"][:schedulers]).wait_ready()


def passage(airflow):
    """States, lags, and the DAGs that had a parked run at some time, without the DAGs that Airflow has overtaken."""
    kinds = Kinds(airflow)
    parked = "SELECT array_agg(DISTINCT dag_id) FROM airflow_bp.parked()"
    with harness.Sampler(airflow.pg, parked, per_second=5) as sampler:
        kinds.trigger()
        kinds.disturb()
        kinds.finish()
    overtaken = set(airflow.pg.value(OVERTAKEN) or [])
    result = kinds.states(), kinds.lags(), {dag for _, dags in sampler.samples for dag in dags or []}, overtaken
    airflow.stop()
    return result


def differing(ours, theirs, void, differ):
    """What differs between two passages: (with parking, without)."""
    both = {key: (ours.get(key), theirs.get(key)) for key in ours.keys() | theirs.keys() if key[0] not in void}
    return {key: pair for key, pair in both.items() if differ(*pair)}


def is_late(ours, theirs):
    return theirs is not None and (ours is None or ours > theirs + LATE)


@pytest.mark.parametrize("schedulers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_same_with_parking(stack, schedulers):
    """What comes late in one round only is a slow machine: parking would make it late in each."""
    compared, late = set(), None
    for number in range(1, ROUNDS + 1):
        plain_states, plain_lags, never, void = passage(start(stack, "off", schedulers))
        states, lags, parked, overtaken = passage(start(stack, "on", schedulers))
        void |= overtaken
        wrong = differing(states, plain_states, void, lambda ours, theirs: ours != theirs)
        assert not wrong, f"with parking, without: {wrong}"
        assert not never and len(parked) > 15, f"parked: {sorted(parked)}"
        assert len(plain_lags) > 80
        now = differing(lags, plain_lags, void, is_late)
        still = now if late is None else {key for key in late if key in now or key[0] in void}
        late = {key: (*(late or {}).get(key, ()), *now.get(key, ())) for key in still}
        compared |= {key[0] for key in states} - void
        missing = {key[0] for key in states} - compared
        print(f"round {number}: late {late}, overtaken {void}")
        if not late and not missing:
            return
    assert not late, f"late in each round, with parking and without: {late}"
    assert not missing, f"overtaken by Airflow in each round: {missing}"


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
    kinds.finish()


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
