"""Tasks that go on until a file is gone."""

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.sdk import DAG, task

PAST = datetime(2026, 1, 1, tzinfo=timezone.utc)


@task
def work(**context):
    while Path(context["dag_run"].conf["until"]).exists():
        time.sleep(0.1)


def dag(name, **options):
    with DAG(f"locks_{name}", catchup=False, **options):
        work.override(task_id="load")()


# Of a DAG with a schedule it is kept whether it has as many runs as it may.
dag("full", schedule="@daily", start_date=PAST, end_date=PAST, max_active_runs=1)
dag("timeout", schedule=None, dagrun_timeout=timedelta(hours=1))
