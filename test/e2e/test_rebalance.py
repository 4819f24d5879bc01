"""Tasks move from a full pool to an idle one, or gain priority, and the unmodified scheduler runs them so."""

import harness
import pytest

OVER = """
SELECT coalesce(max(n - slots), 0) FROM slot_pool p
JOIN (SELECT pool, sum(pool_slots) AS n FROM task_instance WHERE state IN ('queued', 'running') GROUP BY 1) t USING (pool)
WHERE p.pool IN ('full', 'idle')"""


@pytest.fixture(scope="module")
def airflow(shared_stack):
    airflow = shared_stack()
    airflow.pg.rows("SELECT airflow_bp.enable()")
    return airflow


def errors(airflow):
    """Of the scheduler, without the task that fails on purpose."""
    return [line for line in airflow.scheduler_errors() if "[task]" not in line]


def test_pool(airflow):
    pg = airflow.pg
    airflow.pool("full", 1)
    airflow.pool("idle", 3)
    airflow.trigger_many("balance_flood", 1, seconds=60)  # longer than all until the move
    airflow.wait(lambda: airflow.tasks("balance_flood", "running") == 1, 30, "the pool to be full")
    [failing] = airflow.trigger_many("balance_flood", 1, fail=True)
    airflow.wait(lambda: airflow.tasks("balance_flood", "scheduled") == 1, 30, "the first to wait")
    airflow.trigger_many("balance_flood", 9, seconds=1)
    airflow.wait(lambda: airflow.tasks("balance_flood", "scheduled") == 10, 30, "all to wait")

    ours = "SELECT pool, try_number, state FROM task_instance WHERE dag_id = 'balance_flood' AND run_id = %s"
    with harness.Sampler(pg, OVER) as over:
        pg.rows(
            "SELECT airflow_bp.set_balance_group('g', 'pool', '{full,idle}', true,"
            " least_age => '0', patience => '0', stay => '10 s')"
        )
        pg.rows("SELECT airflow_bp.rebalance_apply()")  # the first look; the worker has the second
        airflow.wait(lambda: pg.value("SELECT tasks FROM airflow_bp.rebalance"), 25, "the worker to move some")
        first = "SELECT tasks FROM airflow_bp.rebalance ORDER BY moved_at LIMIT 1"
        assert pg.value(first) == 8  # 11 slots asked for: 3 of them stay at the pool of 1, 8 go to that of 3
        assert pg.rows(ours, failing)[0][0] == "idle"
        # A retry stays where the task was moved.
        airflow.wait(lambda: pg.rows(ours, failing) == [("idle", 2, "success")], 60, "the one that fails first")
        airflow.wait(lambda: airflow.tasks("balance_flood", "success") == 11, 60, "all to end")
    assert over.maximum() == 0
    moved = "SELECT count(*) - (SELECT sum(tasks) FROM airflow_bp.rebalance) FROM task_instance WHERE pool = 'idle'"
    assert pg.value(moved) == 0
    measured = "SELECT bool_and(measured_at IS NOT NULL) FROM airflow_bp.rebalance WHERE balance_group = 'g'"
    airflow.wait(lambda: pg.value(measured), 30, "the effect to be measured")

    body = {"dry_run": False, "dag_run_id": failing, "only_failed": False}
    airflow.api("POST", "/dags/balance_flood/clearTaskInstances", body)
    assert pg.rows(ours, failing)[0][0] == "full", "a clear takes it back to its own pool"
    pg.rows("SELECT airflow_bp.drop_balance_group('g')")
    assert pg.value("SELECT sum(abs(drift)) FROM airflow_bp.recount()") == 0
    assert errors(airflow) == []


def test_priority(airflow):
    pg = airflow.pg
    airflow.pool("strait", 1)
    airflow.trigger_many("balance_urgent", 1, seconds=4)
    airflow.wait(lambda: airflow.tasks("balance_urgent", "running") == 1, 30, "the pool to be full")
    minor = airflow.trigger("balance_minor")
    airflow.wait(lambda: airflow.tasks("balance_minor", "scheduled") == 1, 30, "the small task to wait")
    airflow.trigger_many("balance_urgent", 40, seconds=1)
    airflow.wait(lambda: airflow.tasks("balance_urgent", "success") >= 4, 60, "urgent tasks to pass it")
    assert airflow.tasks("balance_minor", "scheduled") == 1

    pg.rows("SELECT airflow_bp.set_priority_ageing('dag', 'balance_minor', step => 100, every => '1 s', cap => 500, act => true)")
    assert airflow.wait_run("balance_minor", minor, 45) == "success"
    assert airflow.tasks("balance_urgent", "scheduled") >= 5, "it went before those who had more"
    [(original, weight)] = pg.rows(
        "SELECT a.original, t.priority_weight FROM airflow_bp.priority_aged a JOIN task_instance t USING (dag_id, run_id, task_id, map_index)"
    )
    assert (original, weight) == (1, 501)
    assert errors(airflow) == []
    assert pg.value("SELECT note FROM airflow_bp.status()") is None
