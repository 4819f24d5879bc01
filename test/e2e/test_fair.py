"""Tenants of one cohort share its slots by guarantee and weight, and nobody starves."""

import time

import harness
import pytest
import scenes

LOOP = 6  # seconds in which both schedulers have looked at a run that became useful; less than a task that borrows takes


@pytest.fixture(scope="module")
def shared_airflow(shared_stack):
    airflow = shared_stack(schedulers=2, airflow_bp__parking="on", airflow_bp__max_age="10s")
    airflow.pg.rows("SELECT airflow_bp.enable('enforce')")
    return airflow


@pytest.fixture
def airflow(shared_airflow):
    """Each test ends with quotas of 0: what runs ends, what waits stays held, nothing is amiss."""
    yield shared_airflow
    pg = shared_airflow.pg
    pg.rows("UPDATE airflow_bp.cohort SET nominal = 0")
    pg.rows("UPDATE airflow_bp.tenant SET nominal = 0")
    shared_airflow.wait(lambda: pg.value(scenes.USAGE, "fair%") == 0, 60, "the running tasks to end")
    assert pg.rows("SELECT * FROM airflow_bp.recount() WHERE drift <> 0") == []
    assert pg.rows("SELECT drift_slots, fail_open_total, note FROM airflow_bp.status()") == [(0, 0, None)]
    assert shared_airflow.tasks("fair%", "failed", "up_for_retry") == 0
    assert shared_airflow.scheduler_errors() == []


def cohort(airflow, name, nominal):
    """Slots that a cohort has on top of those of its tenants."""
    airflow.pg.rows("SELECT airflow_bp.set_cohort(%s, nominal => %s)", name, nominal)
    scenes.wait_policy(airflow)


def tenants(airflow, cohort, **policies):
    """Tenants of a cohort: (nominal, weight) of each."""
    for name, (nominal, weight) in policies.items():
        airflow.pg.rows("SELECT airflow_bp.set_tenant(%s, %s, %s, weight => %s)", name, nominal, cohort, weight)
        airflow.pg.rows("SELECT airflow_bp.add_tenant_rule(%s, 'dag_id', %s)", name, f"fair_{name}")
    scenes.wait_policy(airflow)


def demand(airflow, **runs):
    """Have so many tasks of each DAG wait, on top of those of another test, that nobody may start yet."""
    before = {name: held(airflow, name) for name in runs}
    for name, (count, seconds) in runs.items():
        airflow.trigger_many(f"fair_{name}", count, seconds=seconds)
    for name, (count, _) in runs.items():
        airflow.wait(lambda: held(airflow, name) == before[name] + count, 60, f"{count} more held tasks of {name}")


def held(airflow, name):
    return airflow.pg.value("SELECT count(*) FROM airflow_bp.held() WHERE dag_id = %s AND NOT granted", f"fair_{name}")


def ended(airflow, name, count):
    return airflow.tasks(f"fair_{name}", "success") == count


def admissions(airflow, *names):
    """(tenant, admitted at, ended at or None, slots) of each admission, in order of time."""
    total = "SELECT sum(admitted_total) FROM airflow_bp.tenants() WHERE name = ANY (%s)"
    logged = """
        SELECT d.tenant, extract(epoch FROM d.at)::float8, extract(epoch FROM ti.end_date)::float8, ti.pool_slots
        FROM airflow_bp.decision d JOIN task_instance ti USING (dag_id, run_id, task_id, map_index)
        WHERE d.tenant = ANY (%s) AND d.verdict = 'admit' ORDER BY d.at"""
    names = list(names)
    airflow.wait(
        lambda: len(airflow.pg.rows(logged, names)) >= airflow.pg.value(total, names), 10, "the decision log"
    )
    return airflow.pg.rows(logged, names)


def most(log):
    """Largest number of slots that were admitted and not yet ended."""
    return scenes.most_at_once([(begin, end or time.time(), slots) for _, begin, end, slots in log])


def slot_time(log, tenant, begin, end):
    """Slot-seconds of a tenant between two instants."""
    return sum(
        slots * max(0, min(to or end, end) - max(at, begin)) for name, at, to, slots in log if name == tenant
    )


@pytest.mark.parametrize("seconds", [120, pytest.param(600, marks=pytest.mark.long)])
def test_weights(airflow, seconds):
    """With endless demand slot-time is as the weights."""
    slots, weights = 10, {"one": 1, "another": 1, "threefold": 3}
    total = sum(weights.values())
    cohort(airflow, "weighted", 0)
    tenants(airflow, "weighted", **{name: (0, weight) for name, weight in weights.items()})
    demand(airflow, **{name: (seconds * slots // 6 * weight // total + 10, 6) for name, weight in weights.items()})

    with harness.Sampler(airflow.pg, scenes.USAGE, "fair%") as usage:
        began = time.time()
        cohort(airflow, "weighted", slots)
        airflow.wait(lambda: time.time() > began + seconds, seconds + 10, "the end of the run")
        assert all(held(airflow, name) > 0 for name in weights), "demand was not endless"
        over = time.time()
    log = admissions(airflow, *weights)
    used = {name: slot_time(log, name, began, over) for name in weights}
    tasks = {name: sum(name == tenant for tenant, *_ in log) for name in weights}
    print(f"slot-seconds {used} of {slots * (over - began):.0f}, admissions {tasks}")

    assert usage.rate() > 10, "the sampler was too slow to see"
    assert usage.maximum() == slots
    assert most(log) == slots
    for name, weight in weights.items():
        assert used[name] == pytest.approx(sum(used.values()) * weight / total, rel=0.1)
    assert sum(used.values()) > 0.75 * slots * (over - began), "slots stood idle while tasks waited"


def test_lender_wakes(airflow):
    """Who lent its slots has them back when the tasks that borrowed them end, before any borrower."""
    cohort(airflow, "lending", 0)
    tenants(airflow, "lending", lender=(4, 0.01), borrower=(4, 100))
    for number in range(32):
        airflow.trigger_many("fair_borrower", 1, seconds=8 + number % 3)
    airflow.wait(lambda: airflow.tasks("fair_borrower", "running") == 8, 60, "the borrower to use all")
    airflow.trigger_many("fair_lender", 4, seconds=6)
    airflow.wait(lambda: airflow.tasks("fair_lender", "running", "success") >= 2, 60, "the lender to use its slots")

    log = admissions(airflow, "lender", "borrower")
    asked = airflow.pg.value(
        "SELECT extract(epoch FROM min(at))::float8 FROM airflow_bp.decision WHERE tenant = 'lender'"
    )
    served = [at for name, at, *_ in log if name == "lender"][1]
    borrower = [(at, end or served) for name, at, end, _ in log if name == "borrower" and at < served]
    back = sorted(end for at, end in borrower if at <= asked < end)[-5]
    print(f"back {back - asked:.1f} s after the lender asked, served {served - back:.1f} s later")
    assert served - back < LOOP
    assert held(airflow, "borrower") > 0, "nobody contended with the lender"
    for at, _ in borrower:
        if at > asked + LOOP:
            assert sum(begin <= at < end for begin, end in borrower) <= 4, "borrowed what the lender waits for"
    assert most(log) == 8


def test_light_tenant_ends(airflow):
    """A heavy tenant that always has work does not starve one whose share is less than a slot."""
    cohort(airflow, "uneven", 0)
    tenants(airflow, "uneven", light=(0, 1), heavy=(0, 6))
    demand(airflow, heavy=(100, 1), light=(3, 1))
    cohort(airflow, "uneven", 5)
    airflow.wait(lambda: ended(airflow, "light", 3), 60, "the light tenant to end")
    assert held(airflow, "heavy") > 0, "it ended when the heavy tenant had no more work"
    assert most(admissions(airflow, "light", "heavy")) <= 5


def test_minor_task_ends(airflow):
    """Inside a tenant age brings forth what would always have to let others pass."""
    airflow.pg.rows("SELECT airflow_bp.set_tenant('aged', 0)")
    for name in ("urgent", "minor"):
        airflow.pg.rows("SELECT airflow_bp.add_tenant_rule('aged', 'dag_id', %s)", f"fair_{name}")
    scenes.wait_policy(airflow)
    demand(airflow, urgent=(40, 1), minor=(2, 1))
    scenes.limit(airflow, 2, "aged")
    airflow.wait(lambda: ended(airflow, "minor", 2), 60, "the minor tasks to end")
    assert held(airflow, "urgent") > 0, "they ended when there was no more urgent work"
    assert most(admissions(airflow, "aged")) == 2
