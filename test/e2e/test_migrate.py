"""Airflow moves to another version and back with the gate closed."""

import harness
import scenes

TRIGGERS = """
SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'airflow_bp' AND t.tgenabled <> 'D' AND t.tgrelid IN ('task_instance'::regclass, 'dag_run'::regclass)"""


def holds_and_releases(airflow):
    """One passage of a held task on this version."""
    airflow.cli("dag-processor", "--num-runs", "1")
    airflow.start("api-server", "scheduler").wait_ready()
    mode, known = airflow.pg.rows("SELECT mode, head_known FROM airflow_bp.status()")[0]
    assert (mode, known) == ("enforce", True)
    scenes.limit(airflow, 0)
    run_id = airflow.trigger("flood")
    airflow.wait(lambda: airflow.pg.value("SELECT count(*) FROM airflow_bp.held()") == 1, 30, "a held task")
    scenes.limit(airflow, 3)
    assert airflow.wait_run("flood", run_id, 60) == "success"
    assert airflow.scheduler_errors() == []
    airflow.stop()


def test_migrate(stack):
    airflow = stack("3.0.6", components=False)
    scenes.flood_tenant(airflow, 0)
    triggers = airflow.pg.value(TRIGGERS)
    assert triggers >= 3
    airflow.version = harness.NEWEST
    airflow.cli("db", "migrate")
    assert airflow.pg.value(TRIGGERS) == triggers
    holds_and_releases(airflow)
    airflow.cli("db", "downgrade", "--to-version", "3.1.8", "--yes")
    assert airflow.pg.value(TRIGGERS) == triggers
    airflow.version = "3.1.8"
    holds_and_releases(airflow)
