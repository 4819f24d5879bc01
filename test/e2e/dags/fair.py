"""Tenants that contend for slots, a DAG each; urgent and minor belong to one."""

import time

from airflow.sdk import DAG, task


@task
def work(**context):
    time.sleep(context["dag_run"].conf["seconds"])


def dag(name, **arguments):
    with DAG(f"fair_{name}", schedule=None, catchup=False, max_active_runs=2000, max_active_tasks=2000):
        work.override(task_id="load", **arguments)()


for name in ("one", "another", "threefold", "borrower", "light", "heavy"):
    dag(name)
dag("lender", pool_slots=2)
dag("minor", priority_weight=1)
dag("urgent", priority_weight=50)
