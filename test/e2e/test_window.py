"""Who is served among the tasks in `scheduled`: plain Airflow, with a tenant for what is scarce, with admit_ahead. See doc/window.md."""

import time
from contextlib import suppress

import pytest
import scenes

PLACES = 24
AHEAD = 2
SECONDS = 45
GATE = ["plain", "tenant", "ahead"]
PASSED_OVER = """
SELECT count(DISTINCT other.queued_dttm)
FROM task_instance chain JOIN task_instance other
  ON other.queued_dttm > chain.scheduled_dttm
  AND other.queued_dttm < coalesce(chain.queued_dttm, clock_timestamp())
WHERE chain.dag_id = 'chain' AND chain.run_id = %s AND other.dag_id <> 'chain'"""


@pytest.fixture
def roomy(stack):
    """An Airflow whose executor has places to spare; `tenants` maps a name to its rule and limit; or with admit_ahead."""

    def start(tenants=None, schedulers=1, ahead=None):
        gate = {} if tenants is None and ahead is None else {"airflow_bp__parking": "on"}
        if ahead is not None:
            gate["airflow_bp__admit_ahead"] = str(ahead)
        airflow = stack(extension=bool(gate), components=False, **gate)
        airflow.settings["CORE__PARALLELISM"] = PLACES
        airflow.start("api-server", *["scheduler", "scheduler-2"][:schedulers]).wait_ready()
        airflow.pool("full", 0)
        airflow.pool("window", 8)
        if gate:
            airflow.pg.rows("SELECT airflow_bp.enable('enforce')")
        for tenant, (match_on, slots) in (tenants or {}).items():
            airflow.pg.rows("SELECT airflow_bp.set_tenant(%s, %s)", tenant, slots)
            airflow.pg.rows("SELECT airflow_bp.add_tenant_rule(%s, %s, %s)", tenant, match_on, tenant)
            scenes.limit(airflow, slots, tenant)
        scenes.chain(airflow)
        return airflow

    return start


def start(airflow, dag_id, runs, tasks, state):
    for _ in range(runs):
        airflow.trigger(dag_id)
    airflow.wait(lambda: airflow.tasks(dag_id, state) >= tasks, 120, f"{tasks} tasks of {dag_id} in {state}")


def passed_over(airflow):
    """How often the scheduler queued others while a task of the chain, which had all it needs, stood in `scheduled`."""
    run_id = airflow.trigger("chain")
    with suppress(TimeoutError):
        airflow.wait_run("chain", run_id, SECONDS)
    times, state = airflow.pg.value(PASSED_OVER, run_id), airflow.run_state("chain", run_id)
    print(f"chain passed over {times} times, {state} after {airflow.seconds('chain', run_id):.1f} s")
    return times, state


@pytest.mark.long
@pytest.mark.parametrize("gate", GATE)
@pytest.mark.parametrize(
    "dag_id, runs, slow, tenant, rule",
    [
        pytest.param("window_pool", 10, 0, "window", ("pool", "pool", 8), id="pool"),
        pytest.param("window_dag", 1, 10, "window_dag", ("run", "dag_id", 16), id="max_active_tasks"),
        pytest.param("window_task", 10, 0, "window_task", ("tis", "dag_id", 8), id="max_active_tis_per_dag"),
        pytest.param("window_dagrun", 1, 10, "window_dagrun", ("tis", "dag_id", 8), id="max_active_tis_per_dagrun"),
    ],
)
def test_a_slot_in_each_loop(roomy, gate, dag_id, runs, slow, tenant, rule):
    """Tasks of higher rank whose limit has a slot to give in each loop keep all others from the query."""
    if gate == "ahead" and rule[0] == "tis":
        pytest.skip("admit_ahead knows pools and DAGs, not tasks")
    airflow = roomy({tenant: rule[1:]} if gate == "tenant" else None, ahead=AHEAD if gate == "ahead" else None)
    if slow:
        start(airflow, "window_full", slow, slow * 500, "none" if gate == "ahead" else "scheduled")
    start(airflow, dag_id, runs, 20, "success")
    times, state = passed_over(airflow)
    if gate != "plain":
        assert times <= 5 and state == "success"
    else:
        assert times > 10


@pytest.mark.long
@pytest.mark.parametrize(
    "dag_id, runs, tasks",
    [("window_full", 10, 5000), ("window_big", 1, 290), ("window_never", 1, 290), ("window_kinds", 3, 1200)],
)
def test_nothing_to_give(roomy, dag_id, runs, tasks):
    """Tasks that cannot start are left out of the query until it finds one that can."""
    airflow = roomy()
    start(airflow, dag_id, runs, tasks, "scheduled")
    assert passed_over(airflow) == (0, "success")


@pytest.mark.parametrize(
    "name, starves",
    [
        ("task", True),
        pytest.param("dagrun", True, marks=pytest.mark.long),
        pytest.param("big", True, marks=pytest.mark.long),
        pytest.param("never", True, marks=pytest.mark.long),
        pytest.param("nowhere", True, marks=pytest.mark.long),
        pytest.param("many", False, marks=pytest.mark.long),
    ],
)
def test_sibling(roomy, name, starves):
    """Where max_active_tasks is below max_tis_per_query, tasks that cannot start hide those of their own run."""
    airflow = roomy()
    start(airflow, f"window_sibling_{name}", 1, 90, "scheduled")
    assert passed_over(airflow) == (0, "success")
    assert sibling(airflow) == ("scheduled" if starves else "success")


@pytest.mark.long
@pytest.mark.parametrize("name, pool, slots", [("big", "window", 8), ("never", "window", 8), ("nowhere", "nowhere", 0)])
def test_sibling_with_tenant(roomy, name, pool, slots):
    airflow = roomy({pool: ("pool", slots)})
    airflow.trigger(f"window_sibling_{name}")
    airflow.wait(lambda: sibling(airflow) == "success", SECONDS, "the sibling")


@pytest.mark.long
@pytest.mark.parametrize("name", ["big", "never"])
def test_sibling_with_ahead(roomy, name):
    airflow = roomy(ahead=AHEAD)
    airflow.trigger(f"window_sibling_{name}")
    airflow.wait(lambda: sibling(airflow) == "success", SECONDS, "the sibling")


def sibling(airflow):
    return airflow.pg.value("SELECT state FROM task_instance WHERE task_id = 'sibling'")


@pytest.mark.parametrize(
    "gate", [pytest.param("plain", marks=pytest.mark.long), pytest.param("tenant", marks=pytest.mark.long), "ahead"]
)
def test_many_slots(roomy, gate):
    """A task of many slots and high rank waits for as long as small ones of low rank want the same pool."""
    airflow = roomy({"window": ("pool", 6)} if gate == "tenant" else None, ahead=AHEAD if gate == "ahead" else None)
    airflow.pool("window", 6)
    start(airflow, "window_small", 1, 20, "success")
    started = time.time()
    airflow.trigger("window_large")
    with suppress(TimeoutError):
        airflow.wait(lambda: airflow.tasks("window_large", "running", "success"), SECONDS, "the large task")
    passed = airflow.pg.value(
        "SELECT count(*) FROM task_instance WHERE dag_id = 'window_small' AND start_date > to_timestamp(%s)", started
    )
    served = airflow.tasks("window_large", "running", "success") == 1
    print(f"large task served: {served} after {time.time() - started:.1f} s, {passed} small ones started meanwhile")
    assert served == (gate != "plain") and (served or passed > 40)
