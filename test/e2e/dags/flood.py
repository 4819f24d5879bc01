"""Two tenants: flood_* takes all it can get, chain is somebody else's six small tasks."""

import time

from airflow.sdk import DAG, task


@task
def work(**context):
    time.sleep(float((context["dag_run"].conf or {}).get("seconds", 0)))


with DAG("flood", schedule=None, catchup=False, max_active_runs=2000, max_active_tasks=2000):
    work.override(task_id="load")()

with DAG("flood_pool", schedule=None, catchup=False, max_active_runs=2000, max_active_tasks=2000):
    work.override(task_id="load", pool="narrow")()

with DAG("flood_wide", schedule=None, catchup=False, max_active_runs=2000, max_active_tasks=2000):
    for number in range(40):
        work.override(task_id=f"load_{number}")()

with DAG("chain", schedule=None, catchup=False, max_active_runs=100):
    previous = None
    for number in range(1, 7):
        step = work.override(task_id=f"step_{number}")()
        if previous is not None:
            previous >> step
        previous = step
