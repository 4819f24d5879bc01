"""Airflow moves from version to version and back with the gate closed; the scheduler of each holds and releases."""

import harness
import pytest
import scenes

TRIGGERS = """
SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'airflow_bp' AND t.tgenabled <> 'D' AND t.tgrelid IN ('task_instance'::regclass, 'dag_run'::regclass)"""

DOWN = [pytest.param(v, id=f"back-to-{v}", marks=[pytest.mark.long] * (v != "3.1.8")) for v in harness.VERSIONS[-2::-1]]


@pytest.fixture(scope="module")
def airflow(shared_stack):
    """The tests are the steps of one way, in their order; some may be left out."""
    airflow = shared_stack(harness.VERSIONS[0], components=False)
    scenes.flood_tenant(airflow, 0)
    return airflow


@pytest.mark.matrix
@pytest.mark.parametrize("version", [*scenes.versions(harness.NEWEST), *DOWN])
def test_migrate(airflow, version):
    airflow.stop()
    triggers = airflow.pg.value(TRIGGERS)
    assert triggers >= 3
    if harness.VERSIONS.index(version) < harness.VERSIONS.index(airflow.version):
        airflow.cli("db", "downgrade", "--to-version", version, "--yes")
        airflow.version = version
    else:
        airflow.version = version
        airflow.cli("db", "migrate")
    assert airflow.pg.value(TRIGGERS) == triggers
    holds_and_releases(airflow)


def holds_and_releases(airflow):
    """One passage of a held task on this version."""
    airflow.cli("dag-processor", "--num-runs", "1")
    airflow.start("api-server", "scheduler").wait_ready()
    minor = r"SELECT mode, head_known, substring(airflow_version, '\d\.\d') FROM airflow_bp.status()"
    assert airflow.pg.rows(minor) == [("enforce", True, airflow.version[:3])]
    scenes.limit(airflow, 0)
    run_id = airflow.trigger("flood")
    airflow.wait(lambda: airflow.pg.value("SELECT count(*) FROM airflow_bp.held()") == 1, 30, "a held task")
    assert airflow.pg.rows("SELECT state, try_number FROM task_instance WHERE run_id = %s", run_id) == [(None, 0)]
    scenes.limit(airflow, 3)
    assert airflow.wait_run("flood", run_id, 60) == "success"
    assert airflow.scheduler_errors() == []
