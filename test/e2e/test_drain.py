"""Drains under load: nothing new starts but what was allowed, PostgreSQL may restart meanwhile, and all ends well."""

import harness
import pytest
import scenes

STATUS = "SELECT state, in_force, held FROM airflow_bp.drain_status() WHERE id = %s"
# What was admitted or had a worker after the drain was in force; scheduled_dttm is set by the admission.
LATE = """
SELECT ti.dag_id, ti.run_id, ti.task_id, ti.state, ti.scheduled_dttm - d.in_force_at
FROM airflow_bp.drain d, task_instance ti JOIN dag_run r USING (dag_id, run_id)
WHERE d.id = %s AND ti.scheduled_dttm > d.in_force_at AND (d.finish = 'tasks' OR NOT r.start_date < d.since)
AND ti.dag_id LIKE %s"""


def start(airflow, *arguments):
    """Id of a drain that is in force, and how long that took."""
    drain = airflow.pg.value("SELECT airflow_bp.drain_start(%s, %s, finish => %s)", *arguments)
    airflow.wait(lambda: airflow.pg.rows(STATUS, drain)[0][1], 10, "the drain to be in force")
    took = "SELECT extract(epoch FROM in_force_at - since) * 1000 FROM airflow_bp.drain WHERE id = %s"
    print(f"{arguments}: in force after {airflow.pg.value(took, drain):.1f} ms")
    return drain


def wait_drained(airflow, drain):
    airflow.wait(lambda: airflow.pg.rows(STATUS, drain)[0][0] == "drained", 60, "the end of what may finish")


def answers(airflow):
    return airflow.pg.rows("SELECT answer, reason FROM airflow_bp.may_i_upgrade() ORDER BY reason")


def looks(airflow):
    """Looks of the schedulers at runs that are held."""
    return airflow.pg.value("SELECT coalesce(sum(asks), 0) FROM airflow_bp.held() WHERE reason = 'held_drain'")


@pytest.mark.matrix
@pytest.mark.parametrize("version", scenes.versions(harness.VERSIONS[0], harness.NEWEST))
def test_drain(stack, version):
    airflow = stack(version, components=False, airflow_bp__parking="on")
    # Tasks of 3.0 fail where the API server needs more than five seconds for an answer.
    airflow.settings["CORE__PARALLELISM"] = 3
    airflow.start("api-server", "scheduler", "scheduler-2").wait_ready()
    airflow.pg.rows("SELECT airflow_bp.enable('observe')")
    scenes.wait_policy(airflow)
    airflow.trigger_many("flood_wide", 1, seconds=0.5)
    airflow.trigger_many("chain", 3)
    airflow.wait(lambda: airflow.tasks("chain", "success") > 3, 60, "chains on their way")

    # Only what was admitted finishes.
    assert answers(airflow)[0] == (False, "no_drain")
    drain = start(airflow, "deployment", None, "tasks")
    airflow.trigger_many("flood", 5)
    airflow.wait(lambda: airflow.pg.rows(STATUS, drain)[0][2] >= 8, 60, "new runs to be held")
    airflow.alive = airflow.revive
    airflow.pg.restart()
    airflow.wait(lambda: airflow.pg.rows(STATUS, drain)[0][1], 30, "the drain to be in force again")
    airflow.wait(lambda: looks(airflow) >= 8, 60, "the schedulers to ask again")
    airflow.trigger_many("flood", 5)
    airflow.wait(lambda: looks(airflow) >= 13, 60, "runs after the restart to be held")
    wait_drained(airflow, drain)
    assert airflow.tasks("%", "scheduled", "queued", "running", "deferred") == 0
    assert airflow.pg.rows(LATE, drain, "%") == []
    assert answers(airflow) == [(True, "drained")]
    airflow.pg.rows("SELECT airflow_bp.drain_stop(%s)", drain)
    assert scenes.wait_end(airflow, "%", 14, 120) == ["success"]

    # One DAG: its runs that had started finish, the others do not notice.
    airflow.trigger_many("chain", 3)
    airflow.wait(lambda: airflow.tasks("chain", "success") > 20, 60, "chains on their way")
    drain = start(airflow, "dag", "chain", "runs")
    airflow.trigger_many("chain", 2)
    airflow.trigger_many("flood", 3)
    assert scenes.wait_end(airflow, "flood", 13, 60) == ["success"]
    wait_drained(airflow, drain)
    assert scenes.wait_end(airflow, "chain", 6, 60) == ["success"]
    airflow.wait(lambda: looks(airflow) >= 2, 60, "new runs to be held")
    assert airflow.pg.rows(LATE, drain, "chain") == []
    airflow.pg.rows("SELECT airflow_bp.drain_stop(%s)", drain)
    assert scenes.wait_end(airflow, "chain", 8, 60) == ["success"]
    assert airflow.pg.value("SELECT fail_open_total FROM airflow_bp.status()") == 0
    assert airflow.pg.value("SELECT drift_slots FROM airflow_bp.status()") == 0
