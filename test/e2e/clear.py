"""Runs in every state, and Airflow's own clear of them. One JSON request per line.

"prepare" makes the runs with Airflow's models in the database of its configuration and answers with cases: task instances to clear.
"clear" clears them in the database of a URL, as DAG.clear() does, and the API where it chooses what is downstream.
"""

import json
import os
import re
import sys
from datetime import datetime, timedelta, timezone

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Airflow logs to standard output

import sqlalchemy
from airflow import __version__ as airflow_version
from airflow.models import taskinstance
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.taskreschedule import TaskReschedule
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy.orm import Session

VERSION = tuple(int(part) for part in airflow_version.split(".")[:2])
AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone.utc)
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
GIVEN = {
    "start_date": AT, "end_date": AT + timedelta(seconds=77.25), "duration": 77.25, "hostname": "it's", "unixname": "x", "pid": 77,
    "queued_dttm": AT - timedelta(seconds=9), "scheduled_dttm": AT - timedelta(seconds=10), "queued_by_job_id": 1,
    "last_heartbeat_at": AT + timedelta(seconds=60), "external_executor_id": "the executor's", "_rendered_map_index": "label",
}
STALE = {
    "pool": "moved", "pool_slots": 9, "queue": "moved", "priority_weight": 99, "operator": "Old", "custom_operator_name": "Older",
    "executor": "Other", "executor_config": {"old": 1}, "max_tries": 17,
}  # fmt: skip
if VERSION == (3, 0):
    # 3.0 writes the default queue of the configuration of whoever clears, which no table tells.
    STALE["queue"] = "default"
# State and more of each task of clear_kinds, by task and map index.
KINDS = {
    ("first", -1): dict(state="failed", tries=3, note=True, xcom=True, **STALE),
    ("special", -1): dict(state="deferred", tries=2, trigger=True, end_date=None, duration=None, hitl=True),
    ("never", -1): dict(state="up_for_reschedule", tries=1, reschedules=3),
    ("odd", -1): dict(state="running", tries=2, end_date=None, duration=None, **STALE),
    ("last", -1): dict(state="upstream_failed", tries=0, start_date=None),
    ("mapped", 0): dict(state="success", tries=1, **STALE),
    ("mapped", 1): dict(state="queued", tries=5, start_date=None, end_date=None, duration=None),
    ("mapped", 2): dict(state="removed", tries=1),
}
LATER = {
    ("first", -1): dict(state="up_for_retry", tries=2, recorded=True),
    ("special", -1): dict(state="scheduled", tries=1, start_date=None, **STALE),
    ("never", -1): dict(state="restarting", tries=4, **STALE),
    ("odd", -1): dict(state=None, tries=3, executor_config=None),
    ("last", -1): dict(state=None, tries=0, start_date=None, end_date=None, duration=None, updated_at=None),
    ("mapped", 0): dict(state="skipped", tries=2, next_kwargs={"a": {"b": [1]}}, next_method="it's"),
    ("mapped", 1): dict(state="running", tries=1, end_date=None, duration=None, hitl=True),
    ("mapped", 2): dict(state="failed", tries=2, end_date=None),
}  # fmt: skip


def execute(session, statement, **values):
    return session.execute(sqlalchemy.text(statement), values)


def has(session, table, column):
    return execute(
        session, "SELECT count(*) FROM information_schema.columns WHERE table_name = :t AND column_name = :c", t=table, c=column
    ).scalar()


dags = {}


def make_run(session, dag_id, name, state, conf=None):
    run_id = re.sub("[^A-Za-z0-9]+", "_", name)
    if dag_id not in dags:
        dags[dag_id] = SerializedDagModel.get_dag(dag_id, session=session)
    dag = dags[dag_id]
    # A deadline may count from the logical date, which no two runs share.
    date = AT + timedelta(minutes=session.scalar(sqlalchemy.select(sqlalchemy.func.count(DagRun.id)))) if "deadline" in dag_id else None
    run = dag.create_dagrun(
        run_id=run_id, run_after=AT, conf=conf or {}, run_type=DagRunType.MANUAL, logical_date=date,
        triggered_by=DagRunTriggeredByType.REST_API, state=DagRunState.QUEUED, session=session,
    )  # fmt: skip
    session.flush()
    execute(
        session,
        "UPDATE dag_run SET state = :state, start_date = :at, end_date = :end, last_scheduling_decision = :at WHERE id = :id",
        state=state, at=AT, end=AT if state in FINISHED else None, id=run.id,
    )  # fmt: skip
    session.expire_all()
    return run


def put(session, ti, state, tries, **more):
    """Bring a task to its last try, as Airflow's own code records the tries before."""
    for number in range(tries):
        ti.try_number = number + 1
        ti.set_state("failed" if number + 1 < tries else "running", session=session)
        session.flush()
        if number + 1 < tries:
            ti.prepare_db_for_next_try(session)
            session.flush()
    if more.pop("recorded", False):
        ti.prepare_db_for_next_try(session)
        session.flush()
    if more.pop("trigger", False):
        trigger = Trigger(classpath="nowhere.Trigger", kwargs={})
        session.add(trigger)
        session.flush()
        more.update(trigger_id=trigger.id, trigger_timeout=AT + timedelta(hours=1), next_method="execute", next_kwargs={"it's": [1, {"a": None}]})
    for number in range(more.pop("reschedules", 0)):
        session.add(TaskReschedule(ti.id, AT, AT + timedelta(seconds=5 + number), AT + timedelta(seconds=60 + number)))
    key = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    if more.pop("note", False):
        session.flush()
        execute(session, "INSERT INTO task_instance_note (ti_id, content, created_at, updated_at) VALUES (:id, 'it''s', :at, :at)", id=ti.id, at=AT)
    if more.pop("xcom", False):
        run = execute(session, "SELECT id FROM dag_run WHERE run_id = :run_id AND dag_id = :dag_id", run_id=ti.run_id, dag_id=ti.dag_id).scalar()
        execute(
            session,
            "INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp)"
            " VALUES (:run, :task_id, :map_index, 'k', :dag_id, :run_id, '1', :at)",
            run=run, at=AT, **key,
        )  # fmt: skip
        execute(
            session,
            "INSERT INTO rendered_task_instance_fields (dag_id, task_id, run_id, map_index, rendered_fields)"
            " VALUES (:dag_id, :task_id, :run_id, :map_index, '{}')",
            **key,
        )
    if more.pop("hitl", False) and has(session, "hitl_detail", "ti_id"):
        session.flush()
        fields = {"ti_id": ti.id, "options": ["yes", "no"], "subject": "it's", "params": {"b": 1, "a": 2}, "params_input": {}}
        if VERSION > (3, 1) or "created_at" in taskinstance.TaskInstance.hitl_detail.property.mapper.columns:
            fields["created_at"] = AT
        session.add(taskinstance.TaskInstance.hitl_detail.property.mapper.class_(**fields))
    session.flush()
    for name, value in {**GIVEN, **more}.items():
        setattr(ti, name, value)
    ti.state = state
    session.flush()
    execute(session, "UPDATE task_instance SET updated_at = :at WHERE id = :id", at=more.get("updated_at", AT), id=ti.id)
    session.expire_all()


def tasks(session, run):
    return session.scalars(
        sqlalchemy.select(TaskInstance)
        .where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
        .order_by(TaskInstance.task_id, TaskInstance.map_index)
    ).all()


def kinds(session, run_id, state, states, conf=None):
    run = make_run(session, "clear_kinds", run_id, state, conf)
    for ti in tasks(session, run):
        put(session, ti, **states[ti.task_id, ti.map_index])
    return run


def case(name, run, wanted=None, downstream=False, plain=False):
    """All tasks of a run, or these (task, map index)."""
    return {"name": name, "dag_id": run.dag_id, "run_id": run.run_id, "wanted": wanted, "downstream": downstream, "plain": plain}


def other_version(session, dag_id, **fields):
    """A later version of a DAG, in which all tasks are changed."""
    old = session.scalar(sqlalchemy.select(SerializedDagModel).where(SerializedDagModel.dag_id == dag_id))
    data = json.loads(json.dumps(old.data))
    for item in data["dag"]["tasks"]:
        (item["__var"].get("partial_kwargs") or item["__var"]).update(fields)
    execute(
        session,
        "INSERT INTO dag_version (id, version_number, dag_id, bundle_name, bundle_version, created_at, last_updated)"
        " SELECT 'aaaaaaaa-0000-7000-8000-000000000000', 2, dag_id, bundle_name, 'v2', now(), now() FROM dag_version WHERE dag_id = :d",
        d=dag_id,
    )
    execute(
        session,
        "INSERT INTO serialized_dag (id, dag_id, data, created_at, last_updated, dag_hash, dag_version_id)"
        " VALUES ('aaaaaaaa-0000-7000-8000-000000000001', :d, :data, now(), now(), 'other', 'aaaaaaaa-0000-7000-8000-000000000000')",
        d=dag_id, data=json.dumps(data),
    )  # fmt: skip
    session.expire_all()


def prepare(session):
    cases = []
    for state in ("failed", "running", "queued"):
        cases.append(case(f"all of a {state} run", kinds(session, f"kinds {state}", state, KINDS)))
        if state != "queued":
            run = kinds(session, f"other {state}", state, LATER, {"airflow/task_span_detail_level": 2})
            cases.append(case(f"others of a {state} run", run))
    for task_id, map_index in (("first", -1), ("special", -1), ("mapped", 1)):
        run = make_run(session, "clear_kinds", f"below {task_id}", "success")
        cases.append(case(f"below {task_id}", run, [[task_id, map_index]], True))
    run = make_run(session, "clear_setup", "names", "failed")
    for ti in tasks(session, run):
        for downstream in (False, True):
            one = make_run(session, "clear_setup", f"{ti.task_id} {downstream}", "failed")
            cases.append(case(one.run_id, one, [[ti.task_id, -1]], downstream))
    cases.append(case("two of setup", run, [["beside", -1], ["body", -1]], True))
    for wanted in ([["group.a", 1]], [["group.b", 2]], [["source", -1]], [["group.a", 0], ["source", -1]], [["collect_source", 1]]):
        run = make_run(session, "clear_groups", f"groups {wanted}", "success")
        cases.append(case(run.run_id, run, wanted, True))
        run = make_run(session, "clear_groups", f"only {wanted}", "failed")
        cases.append(case(run.run_id, run, wanted))
    execute(session, "UPDATE dag SET bundle_version = 'v9' WHERE dag_id LIKE 'clear%'")
    for dag_id in ("clear_deadline", "clear_one_deadline"):
        if session.scalar(sqlalchemy.select(SerializedDagModel.id).where(SerializedDagModel.dag_id == dag_id)):
            for state in ("running", "success"):
                run = make_run(session, dag_id, f"{dag_id} {state}", state)
                cases.append(case(run.run_id, run))
            if VERSION > (3, 1):
                execute(session, "UPDATE deadline SET missed = true WHERE dagrun_id = :r", r=make_run(session, dag_id, "missed", "failed").id)
                cases.append(case(f"missed {dag_id}", make_run(session, dag_id, "missed too", "failed")))
    # A task that its DAG has no more, and a DAG that is no more serialized.
    run = make_run(session, "clear_setup", "ghost", "failed")
    ghost = tasks(session, run)[0]
    put(session, ghost, "failed", 3, **{**STALE, "max_tries": 1})
    execute(session, "UPDATE task_instance SET task_id = 'ghost' WHERE id = :id", id=ghost.id)
    session.expire_all()
    cases.append(case("a task that is gone", run, [["ghost", -1]]))
    run = make_run(session, "kind_retry", "gone", "failed")
    for ti in tasks(session, run):
        put(session, ti, "failed", 2)
    execute(session, "DELETE FROM serialized_dag WHERE dag_id = 'kind_retry'")
    cases.append(case("a DAG that is gone", run, plain=True))
    # Tasks without a version: some are cleared, some only find their version again.
    run = make_run(session, "kind_mapped", "no version", "running")
    execute(session, "UPDATE task_instance SET dag_version_id = NULL, state = 'scheduled' WHERE run_id = 'no_version'")
    cases.append(case("tasks without version", run, [["items", -1]]))
    run = make_run(session, "kind_mapped", "run without version", "running")
    execute(session, "UPDATE dag_run SET created_dag_version_id = NULL WHERE run_id = 'run_without_version'")
    if VERSION >= (3, 3):
        cases.append(case("a running run without version", run))
    # The same run by its own version and by the latest.
    own = make_run(session, "kind_branch", "own", "success")
    execute(session, "UPDATE dag_run SET bundle_version = 'v1' WHERE id = :id", id=own.id)
    latest = make_run(session, "kind_branch", "latest", "success")
    for run in (own, latest):
        for ti in tasks(session, run):
            put(session, ti, "success", 1, **STALE)
    other_version(session, "kind_branch", pool="other", retries=8, executor_config={"__type": "dict", "__var": {"x": [1, "é", -2.5, 2**40]}})
    cases += [case("by the version of the run", own), case("by the latest version", latest)]
    if VERSION > (3, 0):
        disabled = "jsonb_set(data::jsonb, '{dag,disable_bundle_versioning}', 'true')"
        execute(session, f"UPDATE serialized_dag SET data = {disabled} WHERE dag_id = 'clear_groups'")
    return cases


def compress(session):
    """As [core] compress_serialized_dags stores it."""
    import zlib

    for row in execute(session, "SELECT id, data FROM serialized_dag WHERE dag_id = 'clear_groups'").all():
        execute(
            session, "UPDATE serialized_dag SET data = NULL, data_compressed = :data WHERE id = :id",
            data=zlib.compress(json.dumps(row.data).encode()), id=row.id,
        )  # fmt: skip


def chosen(session, run, given):
    """The task instances of a case."""
    return [ti for ti in tasks(session, run) if given is None or [ti.task_id, ti.map_index] in given]


def dag_of(session, run):
    if VERSION == (3, 0):
        from airflow.jobs.scheduler_job_runner import SchedulerDagBag

        return SchedulerDagBag().get_dag(run, session)
    from airflow.models.dagbag import DBDagBag

    return DBDagBag().get_dag_for_run(run, session)


def markers(session, dag, run, tis, downstream):
    """Tasks as DAG.clear() takes them."""
    normal = {ti.task_id for ti in tis if ti.map_index < 0}
    mapped = {(ti.task_id, ti.map_index) for ti in tis if ti.map_index >= 0}
    if downstream and VERSION >= (3, 2):
        more = taskinstance.find_relevant_relatives(normal, mapped, dag=dag, run_id=run.run_id, direction="downstream", session=session)
        normal |= {task for task in more if isinstance(task, str)}
        mapped |= {task for task in more if not isinstance(task, str)}
    elif downstream:
        names = normal | {task_id for task_id, _ in mapped}
        normal |= set(dag.partial_subset(task_ids=names, include_downstream=True, include_upstream=False).task_dict) - names
    return [*normal, *((t, i) for t, i in mapped if t not in normal)]


def clear(session, one):
    run = session.scalar(sqlalchemy.select(DagRun).where(DagRun.dag_id == one["dag_id"], DagRun.run_id == one["run_id"]))
    tis = chosen(session, run, one["wanted"])
    if one["plain"]:
        clear_task_instances(tis, session, DagRunState.QUEUED)
        return
    dag = dag_of(session, run)
    dag.clear(task_ids=markers(session, dag, run, tis, one["downstream"]), run_id=run.run_id, session=session)


for line in sys.stdin:
    request = json.loads(line)
    answer = []
    if request["do"] == "prepare":
        with create_session() as session:
            answer = prepare(session)
            compress(session)
    else:
        with Session(sqlalchemy.create_engine(request["url"])) as session:
            for one in request["cases"]:
                try:
                    clear(session, one)
                    session.commit()
                except TypeError as error:
                    # 3.3 cannot clear a run whose deadline counts from the moment it was queued: the interval is no number any more.
                    session.rollback()
                    answer.append([one["name"], str(error)])
                    taskinstance.timedelta = lambda seconds: timedelta(seconds=seconds["__data__"])
                    clear(session, one)
                    session.commit()
                    taskinstance.timedelta = timedelta
            session.get_bind().dispose()
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
