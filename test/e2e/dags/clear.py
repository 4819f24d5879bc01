"""DAGs whose runs are cleared: every kind of task that a clear treats in its own way."""

from contextlib import suppress
from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task, task_group

ARGUMENTS = {"schedule": None, "catchup": False}


class Special(BaseOperator):
    """Has a name of its own, and defers."""

    custom_operator_name = "Very Special"

    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(hours=1)), method_name="execute")


class Never(BaseSensorOperator):
    """Never true."""

    def poke(self, context):
        return False


@task
def work(item=None):
    return item


with DAG("clear_kinds", default_args={"retries": 1}, tags=["it's"], **ARGUMENTS):
    first = work.override(task_id="first", retries=2, priority_weight=5)()
    special = Special(task_id="special", retries=3, queue="odd queue", pool="odd pool", pool_slots=2, weight_rule="absolute")
    never = Never(task_id="never", mode="reschedule", weight_rule="upstream", priority_weight=7)
    odd = work.override(
        task_id="odd",
        executor="LocalExecutor",
        executor_config={"it's": {"deep": [1, 2.5, None, True, "ä"]}, "big": 12345678901, "minus": -1},
    )()
    last = EmptyOperator(task_id="last", retries=0, priority_weight=4)
    mapped = work.override(task_id="mapped", pool="mapped pool", retries=4, priority_weight=2).expand(item=[1, 2, 3])
    first >> [special, never, mapped] >> odd >> last

with DAG("clear_setup", **ARGUMENTS):
    outer, inner = EmptyOperator(task_id="outer").as_setup(), EmptyOperator(task_id="inner").as_setup()
    alone = EmptyOperator(task_id="alone").as_setup()
    body, after, beside = (EmptyOperator(task_id=t) for t in ("body", "after", "beside"))
    away, gone = EmptyOperator(task_id="away"), EmptyOperator(task_id="gone")
    outer >> inner >> body >> after
    alone >> after >> gone
    outer >> beside >> gone
    body >> away.as_teardown(setups=inner)
    [after, beside] >> EmptyOperator(task_id="end").as_teardown(setups=outer)

with DAG("clear_groups", **ARGUMENTS):

    @task_group
    def group(item):
        work.override(task_id="b")(work.override(task_id="a")(item))

    source = work.override(task_id="source")([1, 2, 3])
    group.expand(item=[10, 20, 30]) >> work.override(task_id="collect")()
    source >> work.override(task_id="collect_source").expand(item=[1, 2])

# Later versions know deadlines, each in its own words.
with suppress(ImportError):
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    try:
        from airflow.sdk import AsyncCallback
    except ImportError:
        from airflow.sdk.definitions.deadline import AsyncCallback

    def alert(reference, **interval):
        callback = AsyncCallback("nowhere.told", kwargs={})
        return DeadlineAlert(reference=reference, interval=timedelta(**interval), callback=callback)

    alerts = [
        alert(DeadlineReference.DAGRUN_QUEUED_AT, minutes=90, milliseconds=250),
        alert(DeadlineReference.DAGRUN_LOGICAL_DATE, days=1),
    ]
    with suppress(TypeError, ValueError):
        with DAG("clear_deadline", deadline=alerts, **ARGUMENTS):
            work.override(task_id="only")()
    with DAG("clear_one_deadline", deadline=alerts[0], **ARGUMENTS):
        work.override(task_id="only")()
