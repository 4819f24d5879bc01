"""The demo: a real Airflow with two schedulers and two tenants, one of which floods it. Some four minutes."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))

import harness
import scenes

RUNS = 300
END = 260  # seconds: the chain without us is not waited for any longer
began = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)


def do(pg, statement):
    """Print and run a statement that has no answer."""
    print(f"airflow=# {statement};", flush=True)
    pg.rows(statement)


def show(pg, statement):
    """Print a statement and what psql answers."""
    print(f"\nairflow=# {statement};", flush=True)
    subprocess.run([harness.pg_bin("psql"), "-X", "-q", "-P", "pager=off", "-d", pg.dsn(), "-c", statement], check=True)


def prepare(directory):
    say("starting PostgreSQL, airflow db migrate")
    pg = harness.Postgres(directory)
    pg.start(shared_preload_libraries="airflow_bp", airflow_bp__database="airflow", airflow_bp__parking="on")
    connection = pg.connect("postgres")
    connection.cursor().execute("CREATE DATABASE airflow")
    connection.close()
    airflow = harness.Airflow(directory, pg)
    airflow.cli("db", "migrate")
    say("starting Airflow 3.3.2: API server, DAG processor, two schedulers")
    airflow.start("api-server", "dag-processor", "scheduler", "scheduler-2").wait_ready()
    dags = "SELECT count(*) FROM serialized_dag WHERE dag_id IN ('chain', 'flood_pool')"
    airflow.wait(lambda: pg.value(dags) == 2, 60, "the DAGs to be parsed")
    airflow.pool("narrow", 6)
    return airflow


def alone(airflow):
    say("tenant reports runs its DAG, a chain of 6 tasks, alone")
    scenes.chain(airflow)  # the first run fills caches
    return mean(scenes.chain(airflow) for _ in range(2))


def with_us(airflow):
    pg = airflow.pg
    say("the extension comes in: tenant flood may have 3 slots")
    do(pg, "CREATE EXTENSION airflow_bp")
    do(pg, "SELECT airflow_bp.enable('enforce')")
    do(pg, "SELECT airflow_bp.set_tenant('flood', 3), airflow_bp.add_tenant_rule('flood', 'dag_id', 'flood*')")
    do(pg, "SELECT airflow_bp.set_tenant('reports', 20), airflow_bp.add_tenant_rule('reports', 'dag_id', 'chain')")
    scenes.limit(airflow, 3)
    with harness.Sampler(pg, scenes.USAGE, "flood%") as usage:
        say(f"the flood: {RUNS} runs, each with a task of 8 s in a pool of 6 slots")
        airflow.trigger_many("flood_pool", RUNS, seconds=8)
        airflow.wait(lambda: pg.value("SELECT count(*) FROM airflow_bp.held()") > RUNS * 0.9, 60, "the flood")
        say("the same chain in the flood")
        seconds = mean(scenes.chain(airflow) for _ in range(2))
        say("how deep and how old is the queue?")
        columns = "scope_name, waiting, held, scheduled, running, slots_used, date_trunc('second', oldest_claimable) AS oldest"
        rates = "round(arrivals_per_min) AS arrivals, round(starts_per_min) AS starts, date_trunc('second', clears_in) AS clears_in"
        show(pg, f"SELECT {columns}, {rates}\nFROM airflow_bp.queue('tenant')")
        show(pg, f"SELECT {columns}, slots_total FROM airflow_bp.queue('pool')")
        say("why does each task wait?")
        show(pg, "SELECT reason, tasks, slots, date_trunc('second', oldest) AS oldest FROM airflow_bp.waiting_summary()")
        show(
            pg,
            "SELECT dag_id, task_id, tenant, reason, detail, date_trunc('second', claimable_age) AS age\n"
            "FROM airflow_bp.waiting() ORDER BY claimable_age DESC LIMIT 3",
        )
        show(pg, "SELECT name, nominal, usage, held, admitted_total FROM airflow_bp.tenants()")
        show(pg, "SELECT mode, airflow_version, held, parked_runs, drift_slots, fail_open_total FROM airflow_bp.status()")
    say(f"slots of the flood, read {len(usage.samples)} times, {usage.rate():.0f} a second: at most {usage.maximum()}")
    return seconds, usage.maximum()


def lending(airflow):
    pg = airflow.pg
    say("idle slots are lent: three slots each in one cohort; reports lends two and keeps one, so that it never waits")
    do(pg, "SELECT airflow_bp.set_cohort('company')")
    do(pg, "SELECT airflow_bp.set_tenant('flood', 3, 'company'), airflow_bp.set_tenant('reports', 3, 'company', lending_limit => 2)")
    airflow.wait(lambda: pg.value("SELECT usage FROM airflow_bp.tenants() WHERE name = 'flood'") == 5, 30, "the flood to borrow")
    columns = "name, cohort, nominal, usage, borrowed, held"
    show(pg, f"SELECT {columns} FROM airflow_bp.tenants() WHERE cohort IS NOT NULL")
    say("the same chain once more")
    return mean(scenes.chain(airflow) for _ in range(2))


def blocked(airflow):
    pg = airflow.pg
    say("somebody sits in a transaction with the row of a running task, and the API server waits for it")
    idle = pg.connect()
    idle.autocommit = False
    idle.cursor().execute(
        "UPDATE task_instance SET updated_at = updated_at WHERE id = (SELECT id FROM task_instance WHERE state = 'running' LIMIT 1)"
    )
    airflow.wait(lambda: pg.value("SELECT max(depth) FROM airflow_bp.lock_tree()"), 60, "the API server to wait")
    show(
        pg,
        "SELECT depth, component, state, waiters, relation, airflow_row ->> 'dag_id' AS dag, airflow_row ->> 'task_id' AS task, statement_class\n"
        "FROM airflow_bp.lock_tree()",
    )
    say("a rule ends it")
    do(pg, "SELECT airflow_bp.set_lock_rule('idle', '3 seconds', waiters => 1, act => true)")
    airflow.wait(lambda: pg.value("SELECT count(*) FROM airflow_bp.lock_action WHERE done"), 60, "the rule")
    do(pg, "SELECT airflow_bp.drop_lock_rule('idle')")
    airflow.wait(lambda: not pg.value("SELECT count(*) FROM airflow_bp.lock_tree()"), 60, "nobody to wait")
    show(
        pg,
        "SELECT waiter_seconds::numeric(10, 1), blocker_component, blocked_component, blocked_class, relation, idle_share, samples\n"
        "FROM airflow_bp.lock_report() LIMIT 3",
    )


def stuck(airflow):
    pg = airflow.pg
    say("at night somebody deletes the pool of the flood; Airflow leaves its tasks in scheduled for good")
    do(pg, "SELECT airflow_bp.set_stuck_threshold('pool_missing', '0')")
    airflow.api("DELETE", "/pools/narrow")
    opened = "SELECT count(*) FROM airflow_bp.dead_letter WHERE status = 'open' AND cause = 'pool_missing'"
    airflow.wait(lambda: pg.value(opened) >= 3, 60, "the letters")
    show(
        pg,
        "SELECT dag_id, task_id, pool, state, cause, severity, date_trunc('second', stuck_for) AS stuck_for\n"
        "FROM airflow_bp.stuck() WHERE cause = 'pool_missing' LIMIT 3",
    )
    say("they are in the inbox: one letter is retried; when the pool is made again, the others recover by themselves")
    do(pg, "SELECT airflow_bp.dlq_retry(min(id)) FROM airflow_bp.dead_letter WHERE status = 'open'")
    airflow.pool("narrow", 6)
    airflow.wait(lambda: pg.value(opened) == 0, 60, "the letters to be closed")
    show(pg, "SELECT cause, status, count(*) FROM airflow_bp.dead_letter GROUP BY 1, 2")


def drain(airflow):
    pg = airflow.pg
    say("maintenance: nothing new starts, what runs may finish")
    do(pg, "SELECT airflow_bp.drain_start('deployment', finish => 'tasks')")
    airflow.wait(lambda: pg.value("SELECT in_force FROM airflow_bp.drain_status()"), 30, "the drain to be in force")
    show(pg, "SELECT answer, reason, active, example FROM airflow_bp.may_i_upgrade()")
    airflow.wait(lambda: pg.value("SELECT every(answer) FROM airflow_bp.may_i_upgrade()"), 60, "the drain")
    show(pg, "SELECT scope, state, in_force, running, held, progress FROM airflow_bp.drain_status()")
    show(pg, "SELECT answer, reason, detail FROM airflow_bp.may_i_upgrade()")
    do(pg, "SELECT airflow_bp.drain_stop(id) FROM airflow_bp.drain_status()")


def without_us(airflow):
    pg = airflow.pg
    say("the extension goes out; the flood is left to its pool")
    do(pg, "SELECT airflow_bp.disable()")
    airflow.wait(lambda: airflow.tasks("flood_pool", "none") == 0, 60, "the flood to wait for its pool")
    show(pg, "SELECT reason, tasks, slots, date_trunc('second', oldest) AS oldest FROM airflow_bp.waiting_summary()")
    say("the same chain in the same flood, without us; this is the long one")
    run_id = airflow.trigger("chain")
    done = "SELECT count(*) FROM task_instance WHERE dag_id = 'chain' AND run_id = %s AND state = 'success'"
    for task in range(1, 7):
        try:
            airflow.wait(lambda: pg.value(done, run_id) >= task, END - (time.monotonic() - began), "the chain")
        except TimeoutError:
            say("not waiting for the rest")
            return f"> {airflow.seconds('chain', run_id):.0f}"
        say(f"task {task} of 6 ended")
    airflow.wait_run("chain", run_id)
    return f"{airflow.seconds('chain', run_id):.1f}"


def main():
    harness.leave_nothing_behind()
    directory = harness.scratch()
    try:
        airflow = prepare(directory)
        first = alone(airflow)
        second, most = with_us(airflow)
        lent = lending(airflow)
        blocked(airflow)
        stuck(airflow)
        drain(airflow)
        third = without_us(airflow)
    except BaseException as error:
        say(f"stopped: {error!r}; logs are kept in {directory}")
        raise SystemExit(1) from None
    print(f"""
seconds that the 6-task chain of tenant reports takes
  alone                                         {first:6.1f}
  in the flood of {RUNS} runs without airflow_bp    {third:>6}
  in the flood of {RUNS} runs with airflow_bp       {second:6.1f}
  the same, and the flood borrows 2 idle slots  {lent:6.1f}
the flood had a limit of 3 slots and never more than {most}
""")
    say("done; where to look next: README.md, and \\dx+ airflow_bp in psql")
    harness.kill_all()
    harness.discard(directory)


if __name__ == "__main__":
    main()
