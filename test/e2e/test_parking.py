"""Parking: runs that can only wait cost the others nothing, and lose nothing themselves."""

import statistics

import pytest
import scenes

ROUNDS = 3
SLOWER = 1.3


@pytest.fixture
def parking(stack):
    return lambda **settings: stack(airflow_bp__parking="on", airflow_bp__park_for="20min", **settings)


def median(airflow):
    return statistics.median(scenes.chain(airflow) for _ in range(3))


def parked(airflow, runs):
    return airflow.pg.value("SELECT count(*) FROM airflow_bp.parked()") >= 0.9 * runs


def costs_nothing(airflow, runs, dag_id, flood):
    """The chain takes as long beside the flood as alone; where it does not, alone is measured again: the machine may be slow."""
    scenes.chain(airflow)
    alone = [median(airflow)]
    flood()
    for number in range(1, ROUNDS + 1):
        beside = median(airflow)
        took = f"6-task chain: alone {max(alone):.2f} s, beside the flood {beside:.2f} s"
        print(took)
        if beside <= SLOWER * max(alone):
            assert parked(airflow, runs)
            return
        if number < ROUNDS:
            airflow.api("PATCH", f"/dags/{dag_id}", {"is_paused": True})
            alone.append(median(airflow))
            airflow.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})
            airflow.wait(lambda: parked(airflow, runs), 60 + runs // 5, "the runs to be parked")
    raise AssertionError(took)


@pytest.mark.parametrize("runs", [300, pytest.param(900, marks=pytest.mark.long)])
def test_full_pool(parking, runs):
    airflow = parking()
    airflow.pg.rows("SELECT airflow_bp.enable('observe')")
    costs_nothing(airflow, runs, "flood_pool", lambda: scenes.fill_pool(airflow, runs))


@pytest.mark.parametrize("runs", [300, pytest.param(900, marks=pytest.mark.long)])
def test_held(parking, runs):
    airflow = parking()
    scenes.flood_tenant(airflow, 0)

    def flood():
        airflow.trigger_many("flood", runs)
        held = "SELECT count(*) FROM airflow_bp.held()"
        airflow.wait(lambda: airflow.pg.value(held) == runs, 60 + runs // 5, f"{runs} held tasks")

    costs_nothing(airflow, runs, "flood", flood)
    scenes.limit(airflow, 1000)
    airflow.wait(lambda: airflow.tasks("flood", "none") == 0, 60 + runs // 5, "all to be admitted")
