"""A pool follows its demand, and two schedulers go on as if nobody had touched it."""


def test_pool(stack):
    airflow = stack(schedulers=2)
    pg = airflow.pg
    pg.rows("SELECT airflow_bp.enable()")
    airflow.pool("narrow", 1)
    pg.rows("SELECT airflow_bp.set_pool('narrow', 1, 6, step => 2, period => '1 second', act => true)")
    slots = "SELECT slots FROM slot_pool WHERE pool = 'narrow'"

    airflow.trigger_many("flood_pool", 30, seconds=2)
    airflow.wait(lambda: pg.value(slots) == 6, 60, "the pool to grow")
    sizes = "SELECT (new ->> 'slots')::int FROM airflow_bp.act WHERE action = 'pool' ORDER BY act_id"
    assert [size for (size,) in pg.rows(sizes)] == [3, 5, 6]
    airflow.wait(lambda: airflow.tasks("flood_pool", "running") > 3, 60, "the larger pool to be used")

    airflow.wait(lambda: airflow.tasks("flood_pool", "success") == 30, 120, "the flood to end")
    airflow.wait(lambda: pg.value(slots) == 1, 60, "the pool to shrink")
    pg.rows("SELECT airflow_bp.drop_pool('narrow')")
    assert pg.value(slots) == 1
    assert airflow.scheduler_errors() == []
    assert pg.value("SELECT note FROM airflow_bp.status()") is None
