"""One task each, of the kinds that can be stuck. What takes long does so in the first try only."""

import time
from datetime import timedelta

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, task


class Defer(BaseOperator):
    """Wait in the triggerer."""

    def __init__(self, seconds, **arguments):
        super().__init__(**arguments)
        self.seconds = seconds

    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=self.seconds)), method_name="resume")

    def resume(self, context, event=None):
        return None


@task
def work(**context):
    if context["ti"].try_number == 1:
        time.sleep(float((context["dag_run"].conf or {}).get("seconds", 0)))


@task
def after():
    pass


def dag(name):
    return DAG(f"stuck_{name}", schedule=None, catchup=False, max_active_runs=100)


for name, options in (
    ("work", {}),
    ("pool", {"pool": "doomed"}),
    ("paused", {"pool": "doomed"}),
    ("held", {}),
    ("queue", {"queue": "nobody"}),
):
    with dag(name):
        work.override(task_id="load", **options)() >> after()

with dag("defer"):
    Defer(task_id="load", seconds=15) >> after()
