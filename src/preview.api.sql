-- What would happen, on any policy and any load.

CREATE FUNCTION airflow_bp.preview(input jsonb) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'airflow_bp_preview';
COMMENT ON FUNCTION airflow_bp.preview(jsonb) IS
'What one fill would admit, on a policy and a load that are given; nothing is read or changed.
input: {"cohorts": [{"name", "parent", "nominal", "borrowing_limit", "lending_limit", "weight"}], "tenants": [{"name", "cohort", "nominal", "borrowing_limit", "lending_limit", "weight", "queueing"}], "usage": {tenant: slots}, "admitted": [{"tenant", "slots"}], "pending": [{"id", "tenant", "slots", "priority", "created_s"}]}. usage and admitted add up. What is left out is as in set_tenant() and set_cohort(); slots are 1, priority and created_s 0. With now_s: max_age_s, age_priority and age_tasks make tasks age; half_life_s shares a tenant between its DAGs, by "dag" in admitted and pending. With "finishes": {tenant: slots given back a minute} and "watch": id of a pending task, "turn_s" tells in how many seconds it would be admitted if nobody new came; null: cannot be known.
Returns {"nodes": {name: {"quota", "usage", "available", "potential", "share", "borrowing", "admitted_tasks", "admitted_slots", "held_tasks", "held_slots"}}, "order": [ids in order of admission], "held": [{"id", "reason"}]}, all in slots; share in thousandths, "inf" for a borrower of weight 0. usage to borrowing are those before the fill; null: unlimited.
BP001 empty, unknown or repeated name, BP002 bad number, BP007 cycle or more than 32 nested cohorts, BP008 not of this form.';
