"""Queue analysis against what Airflow itself computes."""

import random
import subprocess

import harness
import pytest


@pytest.mark.matrix
@pytest.mark.parametrize("version", harness.VERSIONS)
def test_oracle(stack, version):
    """Retry dates and limits of tasks are those of Airflow's own code."""
    airflow = stack(version, components=False)
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    oracle = harness.HERE / "oracle.py"
    python = harness.venv(version) / "bin" / "python"
    done = subprocess.run(
        [python, oracle, airflow.pg.dsn(), str(seed)],
        env=airflow.environment(), capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    *differences, compared = done.stdout.splitlines()
    assert not differences, differences[:10]
    dates, tasks = map(int, compared.split())
    assert dates == 500 and tasks > 0
