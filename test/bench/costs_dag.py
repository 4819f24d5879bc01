"""work: what ends at once.  waiting: what waits for a tenant at its limit, or for a pool that is full."""

from airflow.sdk import DAG, task

TASKS = 50  # of a run


@task
def nothing():
    pass


for name, runs, pool in (("work", 40, "default_pool"), ("waiting", 2000, "full")):
    with DAG(name, schedule=None, catchup=False, max_active_runs=runs, max_active_tasks=100_000):
        for number in range(TASKS):
            nothing.override(task_id=f"task_{number}", pool=pool)()
