"""What the tests and the demo do with an Airflow."""

import harness
import pytest

USAGE = """
SELECT coalesce(sum(pool_slots), 0) FROM task_instance
WHERE dag_id LIKE %s AND state IN ('scheduled', 'queued', 'running', 'restarting')"""


def versions(*quick):
    """The versions of Airflow as parameters of a test; those not named only in the long form."""
    return [pytest.param(v, marks=[pytest.mark.long] * (v not in quick)) for v in harness.VERSIONS]


def chain(airflow):
    """Seconds that the other team's six tasks take, from the request to the end."""
    run_id = airflow.trigger("chain")
    state = airflow.wait_run("chain", run_id, 400)
    assert state == "success", f"chain ended as {state}"
    return airflow.seconds("chain", run_id)


def fill_pool(airflow, runs, seconds=20):
    """Runs of another team whose tasks all wait for a full pool."""
    airflow.pool("narrow", 3)
    airflow.trigger_many("flood_pool", runs, seconds=seconds)
    asked = "SELECT count(*) FROM task_instance WHERE dag_id = 'flood_pool' AND state IS NOT NULL"
    airflow.wait(lambda: airflow.pg.value(asked) == runs, 60 + runs // 5, f"{runs} runs to wait for the pool")


def wait_policy(airflow):
    """Until the gate knows all that is committed."""
    in_force = "SELECT airflow_bp.policy_version() = airflow_bp.policy_wanted()"
    airflow.wait(lambda: airflow.pg.value(in_force), 10, "the policy to be in force")


def limit(airflow, slots, tenant="flood"):
    """Hold a tenant to so many slots."""
    airflow.pg.rows("SELECT airflow_bp.set_tenant(%s, %s)", tenant, slots)
    wait_policy(airflow)


def flood_tenant(airflow, slots, mode="enforce"):
    """The DAGs named flood* are one tenant with a limit."""
    airflow.pg.rows("SELECT airflow_bp.enable(%s)", mode)
    airflow.pg.rows("SELECT airflow_bp.set_tenant('flood', %s)", slots)
    airflow.pg.rows("SELECT airflow_bp.add_tenant_rule('flood', 'dag_id', 'flood*')")
    limit(airflow, slots)


def wait_end(airflow, dag_like, runs, seconds):
    """States of the runs of these DAGs when all have ended."""
    states = "SELECT count(*), array_agg(DISTINCT state) FROM dag_run WHERE dag_id LIKE %s AND end_date IS NOT NULL"
    airflow.wait(lambda: airflow.pg.rows(states, dag_like)[0][0] == runs, seconds, f"the end of {runs} runs")
    return airflow.pg.rows(states, dag_like)[0][1]


def most_at_once(intervals):
    """Largest number of intervals (start, end, weight) that overlap in one instant."""
    events = sorted(event for start, end, weight in intervals for event in ((start, weight), (end, -weight)))
    most = now = 0
    for _, weight in events:
        now += weight
        most = max(most, now)
    return most
