"""What plain Airflow does: the facts that the rest stands on."""

import pytest
import scenes


@pytest.mark.long
def test_window(stack):
    """Runs that can only wait take the places of runs that could go on."""
    airflow = stack(extension=False)
    scenes.chain(airflow)
    alone = min(scenes.chain(airflow) for _ in range(2))
    scenes.fill_pool(airflow, 300)
    beside = scenes.chain(airflow)
    print(f"6-task chain: alone {alone:.1f} s, beside 300 waiting runs {beside:.1f} s")
    assert beside > 3 * alone
