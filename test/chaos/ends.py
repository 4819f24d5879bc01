"""How each run of dag.py ends: {dag_id: (state of the run, {task_id: (number of instances, state)})}."""


def one(**states):
    return {task: (1, state) for task, state in states.items()}


ENDS = {
    "red_chain": ("success", one(first="success", second="success", third="success")),
    "red_mapped": ("success", {"each": (3, "success"), "after": (1, "success")}),
    "red_retry": ("success", one(twice="success", after="success")),
    "blue_branch": ("success", one(choose="success", left="success", right="skipped", join="success")),
    "blue_wide": ("success", one(two="success", one="success")),
    "green_failed": ("failed", one(always="failed", never="upstream_failed", anyway="success", last="success")),
    "green_sense": ("success", one(sense="success", after="success")),
}


def wrong(pg, runs):
    """Runs of {run_id: dag_id} that did not end as they would have, with what they ended as."""
    states = dict(pg.rows("SELECT run_id, state FROM dag_run"))
    found = {}
    for run_id, task_id, state, count in pg.rows(
        "SELECT run_id, task_id, coalesce(state, 'none'), count(*)::int FROM task_instance GROUP BY 1, 2, 3"
    ):
        found.setdefault(run_id, {}).setdefault(task_id, []).append((count, state))
    differing = {}
    for run_id, dag_id in runs.items():
        state, tasks = ENDS[dag_id]
        if states.get(run_id) != state or found.get(run_id) != {task: [end] for task, end in tasks.items()}:
            differing[f"{dag_id} {run_id}"] = (states.get(run_id), found.get(run_id))
    return differing
