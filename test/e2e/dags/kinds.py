"""One DAG for each way in which a run can wait and go on.

A task that goes on sooner than Airflow sees its first worker process exit is failed by Airflow: waits are 10 s.
"""

import time
from datetime import datetime, timedelta, timezone

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task

PAST = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Defer(BaseOperator):
    """Wait in the triggerer."""

    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=10)), method_name="resume")

    def resume(self, context, event=None):
        return None


class Elapsed(BaseSensorOperator):
    """True some seconds after the start of the run."""

    def __init__(self, seconds, **arguments):
        super().__init__(**arguments)
        self.seconds = seconds

    def poke(self, context):
        start = context["dag_run"].start_date
        return datetime.now(timezone.utc) > start + timedelta(seconds=self.seconds)


@task
def work(seconds=0):
    time.sleep(seconds)


@task
def fail(times=99, **context):
    if context["ti"].try_number <= times:
        raise ValueError("on purpose")


@task
def items():
    return [1, 2, 3]


def dag(name, **arguments):
    arguments = {"schedule": None, "catchup": False, "max_active_runs": 100, **arguments}
    return DAG(f"kind_{name}", **arguments)


with dag("retry"):
    fail.override(task_id="twice", retries=2, retry_delay=timedelta(seconds=3))(times=2) >> work.override(
        task_id="after"
    )()

with dag("retry_exponential"):
    fail.override(
        task_id="thrice",
        retries=3,
        retry_delay=timedelta(seconds=2),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(seconds=8),
    )(times=3)

with dag("retry_exhausted"):
    fail.override(task_id="always", retries=1, retry_delay=timedelta(seconds=2))() >> work.override(task_id="never")()

with dag("reschedule"):
    Elapsed(task_id="sense", seconds=18, mode="reschedule", poke_interval=10) >> work.override(task_id="after")()

with dag("reschedule_timeout"):
    Elapsed(task_id="sense", seconds=999, mode="reschedule", poke_interval=10, timeout=15, soft_fail=True)

with dag("deferred"):
    Defer(task_id="defer") >> work.override(task_id="after")()

with dag("depends_on_past", default_args={"depends_on_past": True}):
    work.override(task_id="first")(3) >> work.override(task_id="second")()

with dag("wait_for_downstream", default_args={"wait_for_downstream": True}):
    work.override(task_id="first")() >> work.override(task_id="second")(3)

with dag("mapped"):
    work.override(task_id="each").expand(seconds=items()) >> work.override(task_id="after")()

with dag("mapped_empty"):
    work.override(task_id="each").expand(seconds=[]) >> work.override(task_id="after", trigger_rule="all_done")()

with dag("trigger_rules"):
    broken, fine = fail.override(task_id="broken")(), work.override(task_id="fine")(2)
    for rule in (
        "all_success",
        "all_done",
        "one_failed",
        "one_success",
        "none_failed",
        "all_failed",
        "always",
        "none_skipped",
    ):
        [broken, fine] >> work.override(task_id=rule, trigger_rule=rule)()

with dag("branch"):

    @task.branch
    def choose():
        return "left"

    @task.short_circuit
    def stop():
        return False

    left, right = work.override(task_id="left")(), work.override(task_id="right")()
    choose() >> [left, right] >> work.override(task_id="join", trigger_rule="none_failed_min_one_success")()
    left >> stop() >> work.override(task_id="cut")()

with dag("setup_teardown"):
    before, after = work.override(task_id="before")().as_setup(), work.override(task_id="after")().as_teardown()
    before >> fail.override(task_id="between")() >> after
    before >> after

with dag("timeout", dagrun_timeout=timedelta(seconds=9)):
    Elapsed(task_id="sense", seconds=999, mode="reschedule", poke_interval=120)

with dag("timeout_upstream", dagrun_timeout=timedelta(seconds=6)):
    work.override(task_id="long")(60) >> work.override(task_id="never")()

with dag("task_limit"):
    work.override(task_id="each", max_active_tis_per_dag=1).expand(seconds=[1, 1, 1])

with dag("run_limit", max_active_runs=1):
    work.override(task_id="only")(1)

with dag("backfill", schedule="@daily", start_date=PAST, end_date=PAST + timedelta(days=30)):
    work.override(task_id="first")() >> work.override(task_id="second")()

with dag("paused"):
    work.override(task_id="first")(4) >> work.override(task_id="second")()

with dag("cleared"):
    work.override(task_id="first")() >> work.override(task_id="second")()

with dag("marked"):
    Elapsed(task_id="sense", seconds=999, mode="reschedule", poke_interval=120) >> work.override(task_id="after")()

with dag("marked_run"):
    Elapsed(task_id="sense", seconds=999, mode="reschedule", poke_interval=120) >> work.override(task_id="after")()
