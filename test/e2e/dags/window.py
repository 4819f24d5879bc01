"""Tasks in `scheduled` that compete in the scheduler's queueing query. They outrank the DAG chain."""

import time

from airflow.sdk import DAG, task

HOUR = 3600
SETTINGS = {"schedule": None, "catchup": False, "max_active_runs": 2000}
MANY = {**SETTINGS, "max_active_tasks": 2000}
FEW = {**SETTINGS, "max_active_tasks": 8}


@task(priority_weight=100, weight_rule="absolute")
def hot(seconds, number=0):
    time.sleep(seconds)


@task(priority_weight=1, weight_rule="absolute")
def sibling():
    pass


def mapped(count, seconds, **options):
    hot.override(**options).partial(seconds=seconds).expand(number=list(range(count)))


# Short tasks: while the scheduler goes round once, some end.
with DAG("window_pool", **MANY):
    mapped(600, 1, pool="window")

with DAG("window_dag", **SETTINGS, max_active_tasks=16):
    mapped(600, 1)

with DAG("window_task", **MANY):
    mapped(600, 1, max_active_tis_per_dag=8)

with DAG("window_dagrun", **MANY):
    mapped(600, 1, max_active_tis_per_dagrun=8)

# Tasks that wait for good.
with DAG("window_full", **MANY):
    mapped(600, HOUR, pool="full")

with DAG("window_big", **MANY):
    mapped(300, HOUR, pool="window", pool_slots=5)

with DAG("window_never", **MANY):
    mapped(300, HOUR, pool="window", pool_slots=99)

with DAG("window_kinds", **MANY):
    for kind in range(400):
        hot.override(task_id=f"hot_{kind}", pool="window", pool_slots=99)(0)

# Tasks that wait for good, and one of the same run that could start.
for name, options, settings in (
    ("task", {"max_active_tis_per_dag": 2}, FEW),
    ("dagrun", {"max_active_tis_per_dagrun": 2}, FEW),
    ("big", {"pool": "window", "pool_slots": 5}, FEW),
    ("never", {"pool": "window", "pool_slots": 99}, FEW),
    ("nowhere", {"pool": "nowhere"}, FEW),
    ("many", {"max_active_tis_per_dag": 2}, MANY),
):
    with DAG(f"window_sibling_{name}", **settings):
        mapped(100, HOUR, **options)
        sibling()

# One task of many slots, and small ones of lower rank that end at different times.
with DAG("window_large", **SETTINGS):
    hot.override(pool="window", pool_slots=5)(1)

with DAG("window_small", **MANY):
    hot.override(pool="window", priority_weight=1).expand(seconds=[2 + 7 * n % 10 / 5 for n in range(300)])
