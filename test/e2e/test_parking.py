"""Parking: runs that can only wait cost the others nothing, and lose nothing themselves."""

import statistics

import pytest
import scenes


@pytest.fixture
def parking(stack):
    return lambda **settings: stack(airflow_bp__parking="on", **settings)


def ratio(airflow, flood):
    """Time of the chain beside the flood, by its time alone."""
    scenes.chain(airflow)
    alone = statistics.median(scenes.chain(airflow) for _ in range(3))
    flood()
    beside = statistics.median(scenes.chain(airflow) for _ in range(3))
    print(f"6-task chain: alone {alone:.2f} s, beside the flood {beside:.2f} s")
    return beside / alone


@pytest.mark.parametrize("runs", [300, pytest.param(900, marks=pytest.mark.long)])
def test_full_pool(parking, runs):
    airflow = parking()
    airflow.pg.rows("SELECT airflow_bp.enable('observe')")
    assert ratio(airflow, lambda: scenes.fill_pool(airflow, runs)) <= 1.3
    assert airflow.pg.value("SELECT count(*) FROM airflow_bp.parked()") >= 0.9 * runs


@pytest.mark.parametrize("runs", [300, pytest.param(900, marks=pytest.mark.long)])
def test_held(parking, runs):
    airflow = parking()
    scenes.flood_tenant(airflow, 0)

    def flood():
        airflow.trigger_many("flood", runs)
        held = "SELECT count(*) FROM airflow_bp.held()"
        airflow.wait(lambda: airflow.pg.value(held) == runs, 60 + runs // 5, f"{runs} held tasks")

    assert ratio(airflow, flood) <= 1.3
    assert airflow.pg.value("SELECT count(*) FROM airflow_bp.parked()") >= 0.9 * runs
    scenes.limit(airflow, 1000)
    airflow.wait(lambda: airflow.tasks("flood", "none") == 0, 60 + runs // 5, "all to be admitted")
