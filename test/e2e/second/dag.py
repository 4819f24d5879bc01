"""A task of the second executor. Airflow refuses this file where that is not configured."""

import time

from airflow.sdk import DAG, task


@task(executor="second")
def load(**context):
    if context["ti"].try_number == 1:
        time.sleep(float((context["dag_run"].conf or {}).get("seconds", 0)))


@task
def after():
    pass


with DAG("stuck_second", schedule=None, catchup=False, max_active_runs=100):
    load() >> after()
