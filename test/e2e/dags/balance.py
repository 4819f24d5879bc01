"""Tasks of one pool that another could take, and a small task among urgent ones."""

import time
from datetime import timedelta

from airflow.sdk import DAG, task


@task
def work(**context):
    conf = context["dag_run"].conf
    time.sleep(conf.get("seconds", 0))
    if conf.get("fail") and context["ti"].try_number == 1:
        raise ValueError("on purpose")


def dag(name, **arguments):
    with DAG(f"balance_{name}", schedule=None, catchup=False, max_active_runs=2000, max_active_tasks=2000):
        work.override(task_id="load", **arguments)()


dag("flood", pool="full", retries=1, retry_delay=timedelta(seconds=6))
dag("urgent", pool="strait", priority_weight=100)
dag("minor", pool="strait", priority_weight=1)
