-- The contract of the SQL surface: names, types, volatility, rights, comments, what pg_dump keeps.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS airflow_bp;
BEGIN;
SELECT no_plan();

-- Public functions.  audience: who gets them from grant_reader() and grant_operator(); the rest is for the owner.
CREATE TEMP TABLE contract (audience text, volatility "char", definer boolean, name text, arguments text, result text);
INSERT INTO contract VALUES
('reader', 'v', true, 'status', '', 'TABLE(extension_version text, mode text, airflow_version text, alembic_head text, head_known boolean, preloaded boolean, worker_pid integer, last_tick timestamp with time zone, tick_ms double precision, drift_slots bigint, held bigint, parked_runs bigint, fail_open_total bigint, note text, sweeps jsonb)'),
('reader', 's', true, 'queue', 'scope text', 'TABLE(scope_name text, waiting bigint, held bigint, "none" bigint, scheduled bigint, queued bigint, running bigint, deferred bigint, up_for_retry bigint, up_for_reschedule bigint, slots_used bigint, slots_total bigint, oldest_claimable interval, arrivals_per_min double precision, starts_per_min double precision, finishes_per_min double precision, growth_per_min double precision, clears_in interval)'),
('reader', 's', true, 'queue_rates', 'scope text', 'TABLE(scope_name text, minutes integer, arrivals_per_min double precision, starts_per_min double precision, finishes_per_min double precision, growth_per_min double precision)'),
('reader', 's', true, 'waiting', '', 'TABLE(dag_id text, run_id text, task_id text, map_index integer, try_number integer, tenant text, pool text, queue text, state text, reason text, detail text, waiting_since timestamp with time zone, claimable_age interval)'),
('reader', 's', true, 'waiting_summary', '', 'TABLE(reason text, tasks bigint, slots bigint, oldest interval, example text)'),
('reader', 'v', true, 'tenants', '', 'TABLE(name text, cohort text, nominal integer, borrowing_limit integer, lending_limit integer, weight double precision, usage bigint, available bigint, borrowed bigint, share double precision, held bigint, oldest_held interval, admitted_total bigint)'),
('reader', 's', true, 'tenant_of', 'dag_id text, pool text DEFAULT NULL::text, queue text DEFAULT NULL::text', 'text'),
('reader', 's', true, 'rooms', 'airflow_schema text DEFAULT airflow_bp.airflow_schema_name()', 'TABLE(kind text, name text, most bigint)'),
('reader', 'i', false, 'preview', 'input jsonb', 'jsonb'),
('reader', 'v', true, 'held', '', 'TABLE(ti_id uuid, dag_id text, run_id text, task_id text, map_index integer, tenant text, slots integer, priority integer, first_asked timestamp with time zone, last_asked timestamp with time zone, asks bigint, reason text, granted boolean, run_parked boolean)'),
('reader', 'v', true, 'parked', '', 'TABLE(dag_id text, run_id text, reason text, parked_since timestamp with time zone, next_look timestamp with time zone, last_look timestamp with time zone)'),
('reader', 'v', false, 'policy_version', '', 'bigint'),
('reader', 'v', false, 'policy_wanted', '', 'bigint'),
('reader', 'i', false, 'known_heads', '', NULL),
('reader', 'v', true, 'preview_state', '', 'jsonb'),
('reader', 'v', true, 'preview_change', 'changes jsonb', 'TABLE(tenant text, cohort text, usage bigint, available_before bigint, available_after bigint, potential_before bigint, potential_after bigint, share_before double precision, share_after double precision, starts_before bigint, starts_after bigint, held_before bigint, held_after bigint, note text)'),
('reader', 'v', true, 'explain_tenant', 'name text', 'TABLE(line bigint, fact text, subject text, slots bigint, since timestamp with time zone, turn_in interval, detail text)'),
('reader', 's', true, 'stuck', '', 'TABLE(dag_id text, run_id text, task_id text, map_index integer, try_number integer, ti_id uuid, state text, tenant text, pool text, queue text, executor text, cause text, severity text, since timestamp with time zone, stuck_for interval, threshold interval, evidence jsonb)'),
('reader', 's', true, 'stuck_thresholds', '', 'TABLE(cause text, scope text, name text, warn interval, after interval)'),
('operator', 'v', true, 'set_stuck_threshold', 'cause text, after interval, scope text DEFAULT ''deployment''::text, name text DEFAULT NULL::text, warn interval DEFAULT NULL::interval', 'void'),
('operator', 'v', true, 'drop_stuck_threshold', 'cause text, scope text DEFAULT ''deployment''::text, name text DEFAULT NULL::text', 'void'),
('operator', 'v', true, 'stuck_sweep', '', 'integer'),
('operator', 'v', true, 'set_mode', 'mode text', 'void'),
('operator', 'v', true, 'set_tenant', 'name text, nominal integer, cohort text DEFAULT NULL::text, borrowing_limit integer DEFAULT NULL::integer, lending_limit integer DEFAULT NULL::integer, weight double precision DEFAULT 1, queueing text DEFAULT ''strict''::text, count_deferred boolean DEFAULT false, mode text DEFAULT NULL::text', 'void'),
('operator', 'v', true, 'drop_tenant', 'name text', 'void'),
('operator', 'v', true, 'set_cohort', 'name text, parent text DEFAULT NULL::text, nominal integer DEFAULT 0, borrowing_limit integer DEFAULT NULL::integer, lending_limit integer DEFAULT NULL::integer, weight double precision DEFAULT 1', 'void'),
('operator', 'v', true, 'drop_cohort', 'name text', 'void'),
('operator', 'v', true, 'add_tenant_rule', 'tenant text, match_on text, pattern text, place integer DEFAULT NULL::integer', 'integer'),
('operator', 'v', true, 'drop_tenant_rule', 'place integer', 'void'),
('operator', 'v', true, 'undo', 'act_id bigint', 'void'),
('operator', 'v', true, 'tick', '', 'boolean'),
('operator', 'v', true, 'recount', '', 'TABLE(tenant text, counter bigint, counted bigint, drift bigint)'),
('owner', 'v', false, 'enable', 'mode text DEFAULT ''observe''::text', 'void'),
('owner', 'v', false, 'disable', '', 'void'),
('owner', 'v', false, 'grant_reader', 'role regrole', 'void'),
('owner', 'v', false, 'grant_operator', 'role regrole', 'void'),
('owner', 'v', false, 'schedule_with_pg_cron', 'period interval DEFAULT ''00:00:01''::interval', 'bigint'),
('owner', 'v', false, 'unschedule_pg_cron', '', 'boolean'),
('owner', 'v', false, 'gate', '', 'trigger'),
('owner', 'v', false, 'count', '', 'trigger'),
('owner', 'v', false, 'run_changed', '', 'trigger'),
-- Pools.
('reader', 's', true, 'pool_plan', '', 'TABLE(pool text, slots integer, owner_slots integer, "least" integer, most integer, occupied bigint, demand bigint, proposed integer, reason text, allowed boolean)'),
('operator', 'v', true, 'pool_apply', '', 'integer'),
('operator', 'v', true, 'set_pool', 'name text, at_least integer, at_most integer, step integer DEFAULT 8, period interval DEFAULT ''00:05:00''::interval, act boolean DEFAULT false', 'void'),
('operator', 'v', true, 'drop_pool', 'name text, restore boolean DEFAULT true', 'void'),
-- Drains.
('reader', 'v', true, 'drain_status', '', 'TABLE(id bigint, scope text, name text, since timestamp with time zone, by text, finish text, deadline timestamp with time zone, at_timeout text, state text, in_force boolean, in_force_at timestamp with time zone, scheduled bigint, queued bigint, running bigint, deferred bigint, waiting bigint, runs bigint, held bigint, progress double precision, eta interval)'),
('reader', 'v', true, 'may_i_upgrade', '', 'TABLE(answer boolean, reason text, active bigint, example text, detail text)'),
('operator', 'v', true, 'drain_start', 'scope text, name text DEFAULT NULL::text, timeout interval DEFAULT NULL::interval, finish text DEFAULT ''runs''::text, at_timeout text DEFAULT ''wait''::text', 'bigint'),
('operator', 'v', true, 'drain_stop', 'id bigint', 'void'),
-- Clearing.
('operator', 'v', true, 'clear_tasks', 'ids uuid[], downstream boolean DEFAULT false', 'TABLE(act_id bigint, old_id uuid, new_id uuid, dag_id text, run_id text, task_id text, map_index integer, old_state text, new_state text)'),
('owner', 'v', false, 'write_as_owner', 'relation regclass, statement text', 'bigint'),
-- Letters.
('operator', 'v', true, 'dlq_retry', 'id bigint, downstream boolean DEFAULT true, force boolean DEFAULT false, why text DEFAULT ''retried by hand''::text', 'bigint'),
('operator', 'v', true, 'dlq_fail', 'id bigint, why text, force boolean DEFAULT false', 'bigint'),
('operator', 'v', true, 'dlq_discard', 'id bigint, why text', 'bigint'),
('operator', 'v', true, 'dlq_purge', 'older_than interval', 'bigint'),
('operator', 'v', true, 'dlq_auto', '', 'integer'),
('operator', 'v', true, 'set_dlq_policy', 'cause text, retries integer, backoff interval DEFAULT ''00:01:00''::interval, max_backoff interval DEFAULT ''01:00:00''::interval, jitter double precision DEFAULT 0.2, tenant text DEFAULT NULL::text, dag_id text DEFAULT NULL::text, downstream boolean DEFAULT true', 'void'),
('operator', 'v', true, 'drop_dlq_policy', 'cause text, tenant text DEFAULT NULL::text, dag_id text DEFAULT NULL::text', 'void'),
('operator', 'v', false, 'dlq_retry_all', 'IN cause text DEFAULT NULL::text, IN dag_id text DEFAULT NULL::text, IN tenant text DEFAULT NULL::text, IN pool text DEFAULT NULL::text, IN queue text DEFAULT NULL::text, IN older_than interval DEFAULT ''00:00:00''::interval, IN most bigint DEFAULT NULL::bigint, IN downstream boolean DEFAULT true, IN rate double precision DEFAULT NULL::double precision, IN batch integer DEFAULT 100, IN dry_run boolean DEFAULT true', NULL),
('operator', 'i', true, 'dlq_filter', 'cause text, dag_id text, tenant text, pool text, queue text, older_than interval, most bigint', 'jsonb'),
('operator', 's', true, 'dlq_batch_dry', 'filter jsonb', 'text'),
('operator', 'v', true, 'dlq_batch_begin', 'filter jsonb, batch integer, rate double precision, downstream boolean', 'bigint'),
('operator', 'v', true, 'dlq_batch_next', 'work bigint, began timestamp with time zone, ended_at timestamp with time zone, OUT news text, OUT pause double precision, OUT ended boolean', 'record'),
('reader', 's', true, 'dead_letters', 'scope text', 'TABLE(scope_name text, open bigint, oldest interval, newest interval, retried bigint, failed bigint, discarded bigint, recovered bigint)'),
('reader', 's', true, 'dlq_plan', 'cause text DEFAULT NULL::text, dag_id text DEFAULT NULL::text, tenant text DEFAULT NULL::text, pool text DEFAULT NULL::text, queue text DEFAULT NULL::text, older_than interval DEFAULT ''00:00:00''::interval, most bigint DEFAULT NULL::bigint', 'SETOF airflow_bp.dlq_planned'),
('reader', 's', true, 'dlq_batches', '', 'TABLE(id bigint, state text, started_at timestamp with time zone, started_by text, pid integer, filter jsonb, total bigint, retried bigint, along bigint, refused bigint, reasons jsonb, per_min double precision, ends_in interval, longest interval)'),
-- Rebalance.
('reader', 's', true, 'rebalance_plan', '', 'TABLE(balance_group text, kind text, source text, target text, source_age interval, target_age interval, source_load bigint, source_slots bigint, target_load bigint, target_slots bigint, proposed bigint, reason text, allowed boolean)'),
('operator', 'v', true, 'rebalance_apply', '', 'integer'),
('operator', 'v', true, 'set_balance_group', 'name text, kind text, members text[], act boolean DEFAULT false, ratio double precision DEFAULT 3, least_age interval DEFAULT ''00:01:00''::interval, patience interval DEFAULT ''00:01:00''::interval, stay interval DEFAULT ''00:10:00''::interval, batch integer DEFAULT 100', 'void'),
('operator', 'v', true, 'drop_balance_group', 'name text', 'void'),
('owner', 'v', false, 'undo_rebalance', 'done airflow_bp.act', 'boolean'),
-- Priority.
('reader', 's', true, 'audit', '', 'TABLE(severity text, dag_id text, task_id text, finding text, detail text, hint text)'),
('reader', 's', true, 'priority_plan', '', 'TABLE(dag_id text, run_id text, task_id text, map_index integer, pool text, waited interval, original integer, weight integer, proposed integer, scope text, name text, reason text, allowed boolean)'),
('operator', 'v', true, 'priority_apply', 'most integer DEFAULT 200', 'integer'),
('operator', 'v', true, 'set_priority_ageing', 'scope text, name text DEFAULT NULL::text, step integer DEFAULT 1, every interval DEFAULT ''00:05:00''::interval, cap integer DEFAULT 100, act boolean DEFAULT false', 'void'),
('operator', 'v', true, 'drop_priority_ageing', 'scope text, name text DEFAULT NULL::text', 'void'),
('owner', 'v', false, 'undo_priority', 'done airflow_bp.act', 'boolean'),
-- Speed.
('reader', 's', true, 'scheduler_loops', '', 'TABLE(schedulers bigint, running_runs bigint, looks_per_min double precision, look_lag_median interval, look_lag_p95 interval, look_lag_max interval, never_looked bigint, admissions_per_min double precision, queued_per_min double precision, examine_window_loops double precision)'),
('reader', 's', true, 'job_heartbeats', '', 'TABLE(job_id integer, job_type text, hostname text, state text, heartbeat_lag interval, threshold interval, alive boolean, started timestamp with time zone)'),
('reader', 's', true, 'dag_parses', '', 'TABLE(dag_id text, bundle text, file text, last_parsed timestamp with time zone, age interval, duration interval, stale boolean, import_errors bigint)'),
('reader', 's', true, 'connections', '', 'TABLE(component text, connections bigint, active bigint, idle_in_transaction bigint, oldest_transaction interval, share_of_max double precision, per_hour double precision)'),
('reader', 's', true, 'hot_tables', '', 'TABLE(relation text, live_tuples bigint, dead_tuples bigint, dead_share double precision, changed_since_analyze bigint, analyze_age interval, vacuum_age interval, seq_scans bigint, stale boolean, bloated boolean, advice text)'),
('reader', 's', true, 'slow_statements', 'most integer DEFAULT 20', 'TABLE(component text, calls bigint, total_ms double precision, mean_ms double precision, max_ms double precision, rows bigint, share double precision, statement text)'),
('reader', 's', true, 'deadlock_counts', '', 'TABLE(deadlocks bigint, conflicts bigint, rollbacks bigint, since timestamp with time zone)'),
('reader', 's', true, 'gauges', 'during tstzrange DEFAULT NULL::tstzrange', 'TABLE(resolution interval, from_at timestamp with time zone, to_at timestamp with time zone, name text, label text, samples bigint, mean double precision, "least" double precision, most double precision)'),
('owner', 'v', false, 'gauge_turn', '', 'bigint'),
('owner', 'v', false, 'gauge_roll', 'now timestamp with time zone DEFAULT now()', 'bigint'),
-- Locks.
('reader', 'v', true, 'lock_tree', '', 'TABLE(depth integer, pid integer, blocked_by integer[], waiters integer, component text, rule text, state text, wait_start timestamp with time zone, xact_age interval, lock_type text, lock_mode text, relation text, airflow_row jsonb, statement text, client text, statement_class text, root integer)'),
('reader', 'v', true, 'sessions', '', 'TABLE(pid integer, component text, rule text, state text, backend_start timestamp with time zone, xact_start timestamp with time zone, client text)'),
('reader', 'v', true, 'lock_episodes', 'during tstzrange DEFAULT NULL::tstzrange', 'TABLE(from_at timestamp with time zone, to_at timestamp with time zone, going_on boolean, blocker_component text, blocker_statement text, blocked_component text, blocked_statement text, lock_type text, relation text, airflow_row jsonb, episodes bigint, samples bigint, waiter_seconds double precision, idle_share double precision, longest interval, most_waiters integer, sessions jsonb, resolution interval)'),
('reader', 'v', true, 'lock_report', 'during tstzrange DEFAULT NULL::tstzrange, before tstzrange DEFAULT NULL::tstzrange', 'TABLE(waiter_seconds double precision, share double precision, before_waiter_seconds double precision, blocker_component text, blocker_class text, blocked_component text, blocked_class text, relation text, episodes bigint, samples bigint, idle_share double precision, longest interval, most_waiters integer, example jsonb, blocker_statement text, blocked_statement text)'),
('reader', 'v', true, 'lock_timeline', 'during tstzrange DEFAULT NULL::tstzrange, step interval DEFAULT ''00:01:00''::interval', 'TABLE(at timestamp with time zone, waiter_seconds double precision, idle_share double precision, most_waiters integer, dearest text, deadlocks bigint, critical_share double precision, looks_per_min double precision, admissions_per_min double precision, look_lag interval, heartbeat_lag interval, connections double precision, blind interval)'),
('reader', 's', true, 'critical_section', 'during tstzrange DEFAULT NULL::tstzrange', 'TABLE(pid integer, client text, samples bigint, ticks bigint, share double precision, held_seconds double precision, longest_at_least interval, longest_at_most interval, first_seen timestamp with time zone, last_seen timestamp with time zone)'),
('reader', 'v', true, 'sampler_status', 'during tstzrange DEFAULT NULL::tstzrange', 'TABLE(pid integer, last_look timestamp with time zone, period interval, wanted_period interval, looks bigint, took_ms double precision, longest_ms double precision, cost_share double precision, latest_ms double precision, seen interval, blind interval, waiting_share double precision, errors bigint, last_error text, lost_looks bigint, open_episodes bigint, crowded bigint, note text)'),
('reader', 's', true, 'deadlocks', 'during tstzrange DEFAULT NULL::tstzrange', 'TABLE(at timestamp with time zone, deadlocks bigint, source text, sessions jsonb)'),
('owner', 'v', true, 'deadlock_log', 'most_bytes bigint DEFAULT 4194304', 'TABLE(line text, detail text)'),
('reader', 'v', true, 'lock_rule_plan', '', 'TABLE(rule text, action text, act boolean, allowed boolean, reason text, pid integer, component text, idle interval, relations text[], waiters integer, statement text, backend_start timestamp with time zone, xact_start timestamp with time zone, evidence jsonb)'),
('operator', 'v', true, 'lock_rule_apply', '', 'integer'),
('operator', 'v', true, 'set_lock_rule', 'name text, after interval, action text DEFAULT ''terminate''::text, component text DEFAULT NULL::text, relation text DEFAULT NULL::text, waiters integer DEFAULT 0, act boolean DEFAULT false', 'void'),
('operator', 'v', true, 'drop_lock_rule', 'name text', 'void'),
('reader', 'i', false, 'statement_component', 'statement text', 'text'),
('reader', 'i', false, 'statement_shape', 'statement text', 'text'),
('reader', 'i', false, 'statement_class', 'statement text', 'text'),
('public', 'v', false, 'look_useful', 'dag_id character varying, run_id character varying, seen_by oid', 'boolean');

-- What the others call: for the owner alone.  A new function has to be put here or above.
CREATE TEMP TABLE internal AS SELECT btrim(n, E'\t\n') AS name FROM string_to_table('
	airflow_has,airflow_relation,airflow_schema_name,airflow_schema_or_null,airflow_schema_setting,airflow_sweeps,alembic_head,audit_tasks,audit_weights,
	change_fault,change_rows,change_state,check_changes,check_choice,check_cohort,check_drain,check_drainable,check_limit,check_name,check_place,check_weight,
	clear_columns,clear_deadlines,clear_dialect,clear_document,clear_pinned,clear_plan,clear_record,clear_runs,clear_selection,clear_specs,clear_turned,
	clear_version_expression,clear_write,connection_counts,connections_max,cron_database,cron_schedule,cron_version,data_time,deployment_state,dlq_batch_news,
	dlq_batch_refuse,dlq_batch_retry,dlq_batch_singly,dlq_batch_size,dlq_check_why,dlq_clear,dlq_close,dlq_decide,dlq_delay,dlq_discard_now,dlq_do,dlq_due,
	dlq_fail_now,dlq_lock,dlq_look,dlq_matching,dlq_refuse,dlq_reopen,dlq_retry_now,dlq_run_tasks,dlq_take,dlq_tasks,dlq_timeout,drain_end,drain_knows,
	drain_left,drain_note,drain_open,drain_query,drain_runs,drain_to_inbox,drain_turn,drains_hold,end_session,enforced,entry_rates,facts_of_head,
	facts_of_limits,facts_of_others,finish_rates,functions_for,gate_schema,gate_table,gauge_airflow,gauge_server,grant_functions,held_entries,history_move,history_roll,
	inflate,library_version,lock_cycle,lock_cycles,lock_during,lock_episode_done,lock_episodes_named,lock_episodes_open,lock_hosts,lock_pieces,lock_policy,lock_roll,
	lock_row,lock_turn,lock_waits,lock_write_deadlocks,lock_write_episodes,lock_write_ticks,match_tenants,memory_state,need_library,park_entries,park_facts,park_gone,
	park_read_version,park_retry_date,park_runs_query,park_stamps,pattern_regexp,pattern_valid,pickled,policy_changed,pool_look,pool_low,pool_next,pool_write,
	pool_write_soon,preloaded,preview_nodes,preview_tree,priority_forget,priority_next,priority_query,priority_write,queue_counts,queue_from_memory,
	queue_from_tables,queue_limits,rebalance_loads,rebalance_look,rebalance_measure,rebalance_move,rebalance_next,rebalance_take,rebalance_write,relation_name,
	retry_delay,row_at,row_text,row_update,runs_code,sampler_memory,sampler_ticks,sampler_ticks_done,seconds,serialized_below,serialized_dag,serialized_edges,
	serialized_mapped_groups,serialized_number,serialized_relatives,serialized_specs,serialized_tasks,sessions_seen,set_stuck_progress,share_now,stuck_causes,
	stuck_close,stuck_cutoffs,stuck_end,stuck_failures,stuck_find,stuck_look,stuck_progress,stuck_query,stuck_record,stuck_ring,stuck_ring_done,
	stuck_surroundings,stuck_suspect,sweeps,task_name,tenant_facts,tenant_head,tenant_usage,triggerers,undo_clear,undo_dlq_discard,undo_dlq_fail,undo_drain,
	undo_pool,undo_set_mode,upgrade_sessions,upgrade_tasks,uuid7,version_note,waiting_query,with_short_locks,without_misfits', ',') n;

CREATE ROLE bp_nobody;
CREATE ROLE bp_reader;
CREATE ROLE bp_operator;
SELECT airflow_bp.grant_reader('bp_reader'), airflow_bp.grant_operator('bp_operator') \g /dev/null

CREATE TEMP VIEW ours AS
SELECT p.*, c.audience FROM pg_proc p LEFT JOIN contract c ON c.name = p.proname WHERE p.pronamespace = 'airflow_bp'::regnamespace;
CREATE TEMP VIEW relations AS
SELECT oid, relname, relkind FROM pg_class WHERE relnamespace = 'airflow_bp'::regnamespace AND relkind IN ('r', 'v', 'S');

SELECT is((SELECT count(*) FROM ours p WHERE p.proname = c.name), 1::bigint, c.name || ': there is one') FROM contract c;
SELECT is((SELECT pg_get_function_arguments(p.oid) FROM ours p WHERE p.proname = c.name), c.arguments, c.name || ': arguments') FROM contract c;
SELECT is((SELECT pg_get_function_result(p.oid) FROM ours p WHERE p.proname = c.name), c.result, c.name || ': result')
FROM contract c WHERE c.result IS NOT NULL;
SELECT is((SELECT p.provolatile FROM ours p WHERE p.proname = c.name), c.volatility, c.name || ': volatility') FROM contract c;
SELECT is((SELECT p.prosecdef FROM ours p WHERE p.proname = c.name), c.definer, c.name || ': security definer') FROM contract c;

-- Rights, of every function.
SELECT set_eq('SELECT proname::text FROM ours', 'SELECT name FROM contract UNION SELECT name FROM internal', 'it is said of each function whom it is for');
SELECT is(has_function_privilege('bp_nobody', oid, 'EXECUTE'), coalesce(audience = 'public', false), proname || ': PUBLIC') FROM ours ORDER BY proname;
SELECT is(has_function_privilege('bp_reader', oid, 'EXECUTE'), coalesce(audience IN ('public', 'reader'), false), proname || ': reader') FROM ours ORDER BY proname;
SELECT is(has_function_privilege('bp_operator', oid, 'EXECUTE'), coalesce(audience IN ('public', 'reader', 'operator'), false), proname || ': operator')
FROM ours ORDER BY proname;
SELECT is_empty($$
	SELECT o FROM (SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) FROM ours WHERE proname <> 'look_useful'
		UNION ALL SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'airflow_bp'::regnamespace
		UNION ALL SELECT oid::regtype::text, coalesce(typacl, acldefault('T', typowner)) FROM pg_type WHERE typnamespace = 'airflow_bp'::regnamespace AND typcategory <> 'A'
		UNION ALL SELECT attrelid::regclass || '.' || attname, attacl FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid
		UNION ALL SELECT nspname, nspacl FROM pg_namespace WHERE nspname = 'airflow_bp') v (o, acl), aclexplode(acl) WHERE grantee = 0$$, 'nothing at all for PUBLIC');
SELECT ok(NOT has_schema_privilege('bp_nobody', 'airflow_bp', 'USAGE'), 'PUBLIC may not use the schema');
SELECT ok(has_schema_privilege(r, 'airflow_bp', 'USAGE') AND NOT has_schema_privilege(r, 'airflow_bp', 'CREATE'), r || ' may use the schema, not make things in it')
FROM unnest('{bp_reader,bp_operator}'::text[]) r;
SELECT ok(NOT has_any_column_privilege('bp_nobody', oid, 'SELECT'), relname || ': PUBLIC may not read') FROM relations WHERE relkind <> 'S';
SELECT ok(has_table_privilege(r, oid, 'SELECT') AND NOT has_any_column_privilege(r, oid, 'INSERT, UPDATE')
	AND NOT has_table_privilege(r, oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER'), relname || ': ' || r || ' reads only')
FROM relations, unnest('{bp_reader,bp_operator}'::text[]) r WHERE relkind <> 'S';

-- What runs with the rights of the owner, or builds statements, has its search_path pinned.
SELECT ok(proconfig @> '{"search_path=pg_catalog, pg_temp"}', proname || ': search_path is pinned') FROM ours
-- A procedure that commits can pin nothing, and names everything in full.  A body of expressions is bound when it is made.
WHERE prosecdef OR prokind <> 'p' AND prosqlbody IS NULL AND prolang IN (SELECT oid FROM pg_language WHERE lanname IN ('plpgsql', 'sql')) ORDER BY proname;
SELECT ok(rolsuper, proname || ': the owner of a definer is the owner of the extension') FROM ours JOIN pg_roles r ON r.oid = proowner WHERE prosecdef;

-- Comments.
SELECT ok(obj_description(oid, 'pg_proc') <> '', proname || ': comment') FROM ours ORDER BY proname;
SELECT ok(obj_description(format('airflow_bp.%s', t)::regtype, 'pg_type') <> '', t || ': comment') FROM unnest('{queue_count,dlq_planned}'::text[]) t;
SELECT ok(obj_description(oid, 'pg_class') <> '', relname || ': comment') FROM relations WHERE relkind <> 'S';
SELECT ok(obj_description('airflow_bp'::regnamespace, 'pg_namespace') <> '', 'schema: comment');

-- Tables and their columns.
SELECT columns_are('airflow_bp', t, c, t || ': columns') FROM (VALUES
	('deployment', '{singleton,mode,enabled_at}'::name[]),
	('tenant', '{name,nominal,cohort,borrowing_limit,lending_limit,weight,queueing,count_deferred,mode}'),
	('cohort', '{name,parent,nominal,borrowing_limit,lending_limit,weight}'),
	('tenant_rule', '{place,tenant,match_on,pattern,exact}'),
	('pool_policy', '{pool,least,most,step,period,act,owner_slots,our_slots,changed_at,low_since,low_seen,error}'),
	('balance_group', '{name,kind,act,ratio,least_age,patience,stay,batch,uneven_from,uneven_since,uneven_seen,error}'),
	('balance_member', '{kind,member,balance_group}'),
	('rebalance', '{moved_at,act_id,balance_group,kind,source,target,tasks,age_before,target_age_before,age_after,target_age_after,measure_at,measured_at}'),
	('priority_policy', '{scope,name,step,every,cap,act}'),
	('priority_aged', '{dag_id,run_id,task_id,map_index,original,ours,stopped_since,aged_at}'),
	('decision', '{at,verdict,reason,tenant,dag_id,run_id,task_id,map_index,try_number,slots,detail}'),
	('dead_letter', '{id,dag_id,run_id,task_id,map_index,try_number,ti_id,cause,evidence,state,tenant,pool,queue,executor,first_seen,last_seen,times_seen,status,closed_at,closed_by,why,act_id,attempts,attempted_at,refusal}'),
	('stuck_threshold', '{cause,scope,name,after,warn}'),
	('dlq_policy', '{cause,tenant,dag_id,retries,backoff,max_backoff,jitter,downstream}'),
	('dlq_batch', '{id,started_at,started_by,pid,filter,total,retried,along,refused,reasons,after_id,busy,rounds,size,longest,said_at,ended_at}'),
	('lock_statement', '{print,class,shape}'),
	('lock_history', '{resolution,from_at,to_at,episode,blocker,blocked,blocker_component,blocked_component,lock_type,relation,airflow_row,episodes,samples,waiter_seconds,idle_seconds,longest,most_waiters,sessions}'),
	('sampler_tick', '{resolution,from_at,to_at,planned,ticks,late,latest,took,longest,period,waiting,most_waiters,cut,errors,error}'),
	('critical_hold', '{resolution,from_at,to_at,pid,client,xact,samples,at_least,at_most}'),
	('deadlock', '{at,deadlocks,total,source,sessions}'),
	('lock_rule', '{name,after,action,component,relation,waiters,act}'),
	('lock_action', '{at,rule,action,acted,done,pid,backend_start,xact_start,evidence}'),
	('drain', '{id,scope,name,finish,since,started_by,at_timeout,timeout,deadline,timed_out_at,left_at_start,in_force_at,stopped_at,stopped_by}'),
	('gauge', '{resolution,from_at,to_at,name,label,samples,total,least,most}'),
	('act', '{act_id,at,actor,action,old,new,undone_at}')) v (t, c);
SELECT col_type_is('airflow_bp', t, c, y, t || '.' || c) FROM (VALUES
	('tenant', 'name', 'text'), ('tenant', 'nominal', 'integer'), ('tenant', 'weight', 'double precision'), ('tenant', 'count_deferred', 'boolean'),
	('tenant', 'cohort', 'text'), ('tenant', 'borrowing_limit', 'integer'), ('tenant', 'lending_limit', 'integer'),
	('cohort', 'name', 'text'), ('cohort', 'parent', 'text'), ('cohort', 'nominal', 'integer'), ('cohort', 'borrowing_limit', 'integer'),
	('cohort', 'lending_limit', 'integer'), ('cohort', 'weight', 'double precision'),
	('tenant_rule', 'place', 'integer'), ('tenant_rule', 'pattern', 'text'),
	('decision', 'at', 'timestamp with time zone'), ('decision', 'slots', 'integer'),
	('act', 'act_id', 'bigint'), ('act', 'old', 'jsonb'), ('act', 'new', 'jsonb'), ('act', 'undone_at', 'timestamp with time zone')) v (t, c, y);
SELECT col_is_pk('airflow_bp', t, c, t || ': key') FROM (VALUES ('deployment', 'singleton'), ('tenant', 'name'), ('cohort', 'name'), ('tenant_rule', 'place'), ('pool_policy', 'pool'), ('balance_group', 'name'), ('act', 'act_id'), ('dead_letter', 'id')) v (t, c);
SELECT fk_ok('airflow_bp', 'tenant', 'cohort', 'airflow_bp', 'cohort', 'name', 'pg_dump puts cohorts before their tenants');
SELECT is_empty($$SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = 'airflow_bp.cohort'::regclass$$, 'and has no cycle of foreign keys');
SELECT trigger_is('airflow_bp', t, 'policy_changed', 'airflow_bp', 'policy_changed', t || ': a change wakes the worker')
FROM unnest('{deployment,cohort,tenant,tenant_rule,drain}'::name[]) t;
SELECT has_view('airflow_bp', 'queue_by_' || s, 'queue_by_' || s) FROM unnest('{deployment,pool,queue,executor,tenant,dag,state}'::text[]) s;
SELECT results_eq(format('SELECT attname::text FROM pg_attribute WHERE attrelid = %L::regclass AND attnum > 0 ORDER BY attnum', 'airflow_bp.queue_by_' || s),
	'SELECT unnest(proargnames[2:]) FROM pg_proc WHERE oid = ''airflow_bp.queue(text)''::regprocedure', 'queue_by_' || s || ': columns of queue()')
FROM unnest('{deployment,pool,queue,executor,tenant,dag,state}'::text[]) s;

SELECT results_eq(format('SELECT attname::text FROM pg_attribute WHERE attrelid = %L::regclass AND attnum > 0 ORDER BY attnum', 'airflow_bp.dead_letters_by_' || s),
	'SELECT unnest(proargnames[2:]) FROM pg_proc WHERE oid = ''airflow_bp.dead_letters(text)''::regprocedure', 'dead_letters_by_' || s || ': columns of dead_letters()')
FROM unnest('{deployment,cause,tenant,pool,queue,dag}'::text[]) s;

-- Everything belongs to the extension; what is set up by hand is kept by pg_dump, with its sequences; what is logged by turns is not.
SELECT is_empty($$
	SELECT o.class, o.oid FROM (SELECT 'pg_proc'::regclass AS class, oid FROM ours UNION ALL SELECT 'pg_class', oid FROM relations WHERE relkind <> 'S') o
	WHERE NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'airflow_bp'
		WHERE d.classid = o.class AND d.objid = o.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')$$, 'all of it belongs to the extension');
SELECT set_eq($$SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'airflow_bp'$$,
	ARRAY['airflow_bp.deployment', 'airflow_bp.cohort', 'airflow_bp.tenant', 'airflow_bp.tenant_rule', 'airflow_bp.pool_policy', 'airflow_bp.act', 'airflow_bp.act_act_id_seq',
	'airflow_bp.dead_letter', 'airflow_bp.dead_letter_id_seq', 'airflow_bp.dlq_policy',
	'airflow_bp.balance_group', 'airflow_bp.balance_member', 'airflow_bp.priority_policy', 'airflow_bp.priority_aged',
	'airflow_bp.drain', 'airflow_bp.drain_id_seq', 'airflow_bp.lock_rule', 'airflow_bp.stuck_threshold'], 'pg_dump keeps policy, acts and letters');
SELECT is_empty($$SELECT FROM pg_extension, unnest(extcondition) c WHERE extname = 'airflow_bp' AND c <> ''$$, 'all rows of them');
SELECT is_empty($$SELECT FROM airflow_bp.deployment UNION ALL SELECT FROM airflow_bp.cohort UNION ALL SELECT FROM airflow_bp.tenant UNION ALL SELECT FROM airflow_bp.tenant_rule UNION ALL SELECT FROM airflow_bp.pool_policy UNION ALL SELECT FROM airflow_bp.balance_group UNION ALL SELECT FROM airflow_bp.priority_policy UNION ALL SELECT FROM airflow_bp.dlq_policy$$, 'and a new extension has none that a restore would meet');

-- What preview() answers with.
SELECT set_eq(format('SELECT jsonb_object_keys(airflow_bp.preview(%L)%s)', '{"tenants": [{"name": "a", "nominal": 1}], "pending": [{"id": "1", "tenant": "a", "slots": 2}]}', path),
	keys, 'preview: keys of ' || what) FROM (VALUES
	('the outcome', '', '{nodes,order,held}'::text[]),
	('a node', $$->'nodes'->'a'$$, '{quota,usage,available,potential,share,borrowing,admitted_tasks,admitted_slots,held_tasks,held_slots}'),
	('what is held', $$->'held'->0$$, '{id,reason}')) v (what, path, keys);
SELECT throws_ok(format('SELECT airflow_bp.preview(%L)', input), code, NULL, 'preview: ' || code) FROM (VALUES
	('BP001', '{"usage": {"a": 1}}'), ('BP002', '{"usage": {"a": -1}}'), ('BP007', '{"cohorts": [{"name": "a", "parent": "a"}]}'), ('BP008', '[]')) v (code, input);

-- Settings.
SELECT is((SELECT context FROM pg_settings WHERE name = 'airflow_bp.' || n), c, 'airflow_bp.' || n) FROM (VALUES
	('database', 'postmaster'), ('max_held', 'postmaster'), ('max_tenants', 'postmaster'), ('max_dags', 'postmaster'), ('max_runs', 'postmaster'),
	('airflow_schema', 'superuser'), ('startup_hold', 'sighup'), ('ask_timeout', 'sighup'), ('grant_timeout', 'sighup'), ('ready_grace', 'sighup'),
	('park_for', 'sighup'), ('parking', 'superuser'), ('admit_ahead', 'sighup'), ('max_age', 'sighup'), ('age_priority', 'sighup'), ('age_tasks', 'sighup'),
	('usage_half_life', 'sighup'), ('recount_period', 'sighup'), ('log_retention', 'sighup'), ('letter_retention', 'sighup'), ('lock_sample_period', 'sighup'),
	('task_queued_timeout', 'sighup'), ('task_queued_timeout_check_interval', 'sighup'), ('task_instance_heartbeat_timeout', 'sighup'),
	('scheduler_health_check_threshold', 'sighup'), ('triggerer_health_check_threshold', 'sighup'), ('orphaned_tasks_check_interval', 'sighup')) v (n, c);

SELECT * FROM finish();
ROLLBACK;
