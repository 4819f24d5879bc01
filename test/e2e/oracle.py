"""Compare what airflow_bp computes with what this Airflow computes. usage: oracle.py DSN SEED

Prints what differs, and as its last line how many retry dates and tasks were compared.
"""

import json
import os
import random
import sys
import zlib
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Airflow logs to standard output

import psycopg2
import sqlalchemy
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import UtcDateTime

dsn, seed = sys.argv[1], int(sys.argv[2])
draw = random.Random(seed)
cursor = psycopg2.connect(dsn).cursor()


def differs(what, ours, theirs):
    if ours != theirs:
        answers.write(f"{what}: {ours} is not {theirs}\n")


def multiplier(exponential):
    """3.0 and 3.1 have a boolean, later versions a number."""
    return 2.0 if exponential is True else float(exponential or 0)


def as_stored(session, instant):
    """The object that Airflow has when it reads the instant from its database."""
    return session.execute(sqlalchemy.select(sqlalchemy.cast(sqlalchemy.literal(instant, UtcDateTime()), UtcDateTime()))).scalar()


def compare_retry_date(session, exponentials):
    date = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=draw.randrange(10**8))
    date += timedelta(microseconds=draw.choice([0, draw.randrange(10**6)]))
    date = draw.choice([None, date, date, date])
    delay = draw.choice([0, 0.001, 0.5, 1, 3.7, 10, 77, 300, 3600, 90000])
    most = draw.choice([None, None, 0, 60, 420.5, 7200, 10**7])
    exponential = draw.choice(exponentials)
    end = datetime(2026, 5, 1, tzinfo=timezone.utc)
    ti = SimpleNamespace(
        dag_id=draw.choice(["d", "a'b", "é%s", "x" * 250]),
        task_id=f"t{draw.randrange(1000)}",
        logical_date=date and as_stored(session, date),
        try_number=draw.choice([0, 1, 2, 3, 5, 10, 17, 40, 80, 1100]),
        end_date=end,
        retry_delay_override=None,
        log=SimpleNamespace(warning=lambda *_: None),
        task=SimpleNamespace(
            retry_delay=timedelta(seconds=delay),
            retry_exponential_backoff=exponential,
            max_retry_delay=None if most is None else timedelta(seconds=most),
        ),
    )
    arguments = (ti.dag_id, ti.task_id, date, ti.try_number, delay, multiplier(exponential), most)
    cursor.execute("SELECT %s + airflow_bp.retry_delay(%s, %s, %s, %s, %s, %s, %s)", (end, *arguments))
    differs(arguments, cursor.fetchone()[0], TaskInstance.next_retry_datetime(ti))


def compare_tasks(serialized):
    theirs = {
        task.task_id: (
            task.retry_delay.total_seconds(),
            multiplier(task.retry_exponential_backoff),
            task.max_retry_delay and task.max_retry_delay.total_seconds(),
            task.max_active_tis_per_dag,
            task.max_active_tis_per_dagrun,
        )
        for task in serialized.dag.tasks
    }
    text = json.dumps(serialized.data)
    for document in ("%s::json, NULL", "%s::jsonb, NULL", "NULL::json, %s"):
        argument = zlib.compress(text.encode()) if document.startswith("NULL") else text
        cursor.execute(
            "SELECT task_id, retry_delay, coalesce(multiplier, 0), max_retry_delay, max_tis_per_dag, max_tis_per_dagrun "
            f"FROM airflow_bp.serialized_tasks(airflow_bp.serialized_dag({document}))",
            (argument,),
        )
        differs((serialized.dag_id, document), {row[0]: row[1:] for row in cursor}, theirs)
    return len(theirs)


with create_session() as session:
    numeric = session.execute(sqlalchemy.text("SELECT count(*) FROM information_schema.columns WHERE column_name = 'fail_fast'")).scalar()
    dates = 500
    for _ in range(dates):
        compare_retry_date(session, [0, 0.0, 1.0, 2.0, 1.5, 3.0, 0.5] if numeric else [True, False])
    tasks = sum(compare_tasks(serialized) for serialized in session.scalars(sqlalchemy.select(SerializedDagModel)))
answers.write(f"{dates} {tasks}\n")
