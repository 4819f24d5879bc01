"""Runs whose end is known, whatever happens on the way: ends.py says which. Each DAG belongs to the tenant it begins with.

A task that a fault ends is tried again by Airflow; only `always` has few retries, as it fails anyway.
"""

import random
import time
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, BaseSensorOperator, task


class Elapsed(BaseSensorOperator):
    """True some seconds after the start of the run."""

    def poke(self, context):
        return datetime.now(timezone.utc) > context["dag_run"].start_date + timedelta(seconds=12)


@task
def work(item=None):
    time.sleep(random.uniform(1, 5))


@task
def fail(times=99, **context):
    time.sleep(1)
    if context["ti"].try_number <= times:
        raise ValueError("on purpose")


def dag(name):
    default = {"retries": 60, "retry_delay": timedelta(seconds=2)}
    return DAG(name, schedule=None, catchup=False, max_active_runs=100, default_args=default)


with dag("red_chain"):
    work.override(task_id="first")() >> work.override(task_id="second")() >> work.override(task_id="third")()

with dag("red_mapped"):
    work.override(task_id="each").expand(item=[1, 2, 3]) >> work.override(task_id="after")()

with dag("red_retry"):
    fail.override(task_id="twice")(times=2) >> work.override(task_id="after")()

with dag("blue_branch"):

    @task.branch
    def choose():
        return "left"

    left, right = work.override(task_id="left")(), work.override(task_id="right")()
    choose() >> [left, right] >> work.override(task_id="join", trigger_rule="none_failed_min_one_success")()

with dag("blue_wide"):
    work.override(task_id="two", pool_slots=2)() >> work.override(task_id="one")()

with dag("green_failed"):
    broken = fail.override(task_id="always", retries=1)()
    broken >> work.override(task_id="never")()
    broken >> work.override(task_id="anyway", trigger_rule="all_done")() >> work.override(task_id="last")()

with dag("green_sense"):
    Elapsed(task_id="sense", mode="reschedule", poke_interval=10) >> work.override(task_id="after")()
