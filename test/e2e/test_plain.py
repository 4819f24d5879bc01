"""What plain Airflow does: the facts that the rest stands on."""

import harness
import pytest


def chain(airflow):
    run_id = airflow.trigger("chain")
    assert airflow.wait_run("chain", run_id, 300) == "success"
    return airflow.seconds("chain", run_id)


def flood_a_pool(airflow, runs):
    """Runs of another team whose tasks all wait for a full pool."""
    airflow.pool("narrow", 3)
    airflow.trigger_many("flood_pool", runs, seconds=20)
    waiting = "SELECT count(*) FROM task_instance WHERE dag_id = 'flood_pool' AND state IS NOT NULL"
    airflow.wait(lambda: airflow.pg.value(waiting) == runs, 60 + runs // 5, f"{runs} runs to wait for the pool")


@pytest.mark.long
def test_window(stack):
    """Runs that can only wait take the places of runs that could go on."""
    airflow = stack(extension=False)
    chain(airflow)
    alone = min(chain(airflow) for _ in range(2))
    flood_a_pool(airflow, 300)
    beside = chain(airflow)
    print(f"6-task chain: alone {alone:.1f} s, beside 300 waiting runs {beside:.1f} s")
    assert beside > 3 * alone


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.long
def test_starts(stack, version):
    """The harness runs every version."""
    chain(stack(version, extension=False))
