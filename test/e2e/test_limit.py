"""A tenant is held to its limit: never a slot more, and nothing is lost."""

import time

import harness
import pytest
import scenes


def admissions(airflow):
    """(admitted at, ended at, slots) of each admission in the decision log."""
    return airflow.pg.rows("""
        SELECT d.at, ti.end_date, ti.pool_slots
        FROM airflow_bp.decision d JOIN task_instance ti USING (dag_id, run_id, task_id, map_index)
        WHERE d.tenant = 'flood' AND d.verdict = 'admit'""")


@pytest.mark.matrix
@pytest.mark.parametrize("version", scenes.versions(harness.NEWEST))
def test_two_schedulers(stack, version):
    keeps_limit(stack(version, schedulers=2))


def test_one_scheduler(stack):
    keeps_limit(stack())


def keeps_limit(airflow):
    scenes.flood_tenant(airflow, 3)
    with harness.Sampler(airflow.pg, scenes.USAGE, "flood%") as usage:
        airflow.trigger_many("flood", 20, seconds=0.5)
        airflow.trigger_many("flood_wide", 1)
        assert scenes.wait_end(airflow, "flood%", 21, 240) == ["success"]
    assert usage.rate() > 10, "the sampler was too slow to see"
    assert usage.maximum() == 3

    airflow.wait(lambda: len(admissions(airflow)) == 60, 10, "the decision log")
    assert scenes.most_at_once(admissions(airflow)) == 3
    assert airflow.pg.value("SELECT count(*) FROM airflow_bp.decision WHERE verdict = 'hold' AND tenant = 'flood'") > 0
    assert airflow.pg.value("SELECT drift_slots FROM airflow_bp.status()") == 0
    assert airflow.scheduler_errors() == []


@pytest.mark.matrix
@pytest.mark.parametrize(
    "version, schedulers, parking", [*[(v, 1, "on") for v in harness.VERSIONS], (harness.NEWEST, 2, "off")]
)
def test_hold_and_release(stack, version, schedulers, parking):
    """With a limit of 0 nothing starts; a higher limit lets it start at the scheduler's next loop."""
    airflow = stack(version, schedulers=schedulers, airflow_bp__parking=parking)
    scenes.flood_tenant(airflow, 0)
    airflow.trigger_many("flood", 5)
    held = "SELECT count(*) FROM airflow_bp.held()"
    airflow.wait(lambda: airflow.pg.value(held) == 5, 30, "five held tasks")
    scenes.chain(airflow)  # many loops
    assert airflow.pg.rows("SELECT DISTINCT state, try_number FROM task_instance WHERE dag_id = 'flood'") == [(None, 0)]

    parked = "SELECT count(*) FROM airflow_bp.parked() WHERE dag_id = 'flood'"
    airflow.wait(lambda: airflow.pg.value(parked) == (5 if parking == "on" else 0), 30, "the runs to be parked")

    refused = "SELECT extract(epoch FROM max(last_asked)) FROM airflow_bp.held()"
    with harness.Sampler(airflow.pg, refused) as last_refused:
        released = time.time()
        scenes.limit(airflow, 5)
        in_force = time.time()
        airflow.wait(lambda: airflow.tasks("flood", "none") == 0, 30, "five tasks to start")
        started = time.time()
    refused = max(float(at) for _, at in last_refused.samples if at)
    print(f"in force after {in_force - released:.2f} s, started after {started - released:.2f} s, last refusal {refused - released:+.3f} s")
    assert refused < in_force, "a look after the release was refused"
    assert scenes.wait_end(airflow, "flood", 5, 60) == ["success"]
    assert airflow.scheduler_errors() == []


def test_observe(stack):
    """Decides and logs, holds nothing."""
    airflow = stack()
    scenes.flood_tenant(airflow, 3, "observe")
    with harness.Sampler(airflow.pg, scenes.USAGE, "flood%") as usage:
        airflow.trigger_many("flood_wide", 1, seconds=0.2)
        assert scenes.wait_end(airflow, "flood%", 1, 120) == ["success"]
    assert usage.maximum() > 3
    assert airflow.pg.value("SELECT count(*) FROM airflow_bp.held()") == 0
    verdicts = "SELECT DISTINCT verdict FROM airflow_bp.decision WHERE tenant = 'flood' ORDER BY 1"
    airflow.wait(lambda: airflow.pg.rows(verdicts) == [("admit",), ("would_hold",)], 10, "the decision log")


def test_off_at_any_time(stack):
    """DROP EXTENSION under load leaves plain Airflow."""
    airflow = stack(schedulers=2)
    scenes.flood_tenant(airflow, 1)
    airflow.trigger_many("flood", 20)
    airflow.wait(lambda: airflow.tasks("flood", "success") >= 2, 60, "the first tasks")
    airflow.pg.rows("DROP EXTENSION airflow_bp")
    assert scenes.wait_end(airflow, "flood", 20, 90) == ["success"]
    assert airflow.scheduler_errors() == []
