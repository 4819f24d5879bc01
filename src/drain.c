/*
 * drain.c - drains of maintenance, compiled into the classes of tasks.
 *
 * Nothing is in force in mode off, in the mode off of a tenant, or on an
 * unknown alembic head.  Locks: drain.h says who takes them.
 */
#include "compat.h"

#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "drain.h"
#include "held.h"
#include "park.h"
#include "spi.h"

/* A drain that names nothing we know matches nothing. */
static DrainRow
read_row(DbState *db, uint64 row)
{
	static const char *const kinds[] = {"dag", "pool", "queue", "executor"};
	char	   *scope = spi_text(row, 2);
	char	   *name = spi_text(row, 3);
	Str			text = {name, name ? strlen(name) : -1};
	DrainRow	drain = {
		.id = spi_int(row, 1, 0),
		.deployment = strcmp(scope, "deployment") == 0,
		.by_tenant = strcmp(scope, "tenant") == 0,
		.tenant = NO_TENANT,
		.finish_runs = spi_bool(row, 4),
		.since = spi_instant(row, 5)
	};

	for (int i = 0; i < lengthof(kinds); i++)
	{
		if (strcmp(scope, kinds[i]) == 0)
			drain.kind = i;
	}
	if (drain.kind >= NAME_QUEUE && text.len >= 0 && strcmp(name, "(default)") == 0)
		text = (Str) {"", -1};
	drain.name = account_name_key(drain.kind, text);
	if (drain.by_tenant)
		drain.tenant = account_find_tenant(db, name, false, false);
	return drain;
}

/* Runs that have started since the first drain that lets runs finish. */
static void
read_runs(DbState *db, TimestampTz since)
{
	uint64		n;

	if (since == DRAIN_NONE)
		return;
	n = spi_query("SELECT id, dag_id, run_id, start_date FROM airflow_bp.drain_runs(%s)",
				  quote_literal_cstr(timestamptz_to_str(since)));
	for (uint64 i = 0; i < n; i++)
	{
		char	   *dag_id = spi_text(i, 2);
		char	   *run_id = spi_text(i, 3);

		park_note_start(db, (Str) {dag_id, strlen(dag_id)}, (Str) {run_id, strlen(run_id)},
						spi_int(i, 1, 0), spi_instant(i, 4));
	}
}

DrainList
drain_read(DbState *db)
{
	DrainList	list = {0};
	TimestampTz since = DRAIN_NONE;

	list.n = spi_query("SELECT id, scope, name, finish = 'runs', since, in_force_at IS NULL "
					   "FROM airflow_bp.drain WHERE stopped_at IS NULL");
	list.rows = palloc(Max(list.n, 1) * sizeof(DrainRow));
	for (int i = 0; i < list.n; i++)
	{
		list.rows[i] = read_row(db, i);
		list.unnoted += spi_bool(i, 6);
		if (list.rows[i].finish_runs)
			since = Min(since, list.rows[i].since);
	}
	read_runs(db, since);
	return list;
}

/* Say in the table that these are in force.  A row that somebody else has locked waits for the next turn. */
void
drain_in_force(DbState *db, const DrainList *list)
{
	Oid			types[] = {INT8ARRAYOID};
	Datum	   *ids = palloc(Max(list->n, 1) * sizeof(Datum));
	Datum		values[1];

	if (list->n == 0 || list->unnoted == 0)
		return;
	for (int i = 0; i < list->n; i++)
		ids[i] = Int64GetDatum(list->rows[i].id);
	values[0] = PointerGetDatum(construct_array(ids, list->n, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	spi_write(lengthof(types), types, values, NULL,
			  "UPDATE airflow_bp.drain SET in_force_at = clock_timestamp() WHERE id IN (SELECT d.id FROM airflow_bp.drain d "
			  "WHERE d.id = ANY ($1) AND d.in_force_at IS NULL FOR UPDATE SKIP LOCKED)");
	if (SPI_processed == list->unnoted)
		return;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->policy_wanted++;
	LWLockRelease(shmem->lock);
}

static bool
drain_covers(const DrainRow *drain, const ClassEntry *class)
{
	if (drain->deployment)
		return true;
	if (drain->by_tenant)
		return drain->tenant != NO_TENANT && drain->tenant == class->tenant;
	return memcmp(&drain->name, &class->names[drain->kind]->key, sizeof(Key)) == 0;
}

static void
drain_class(ClassEntry *class, void *arg)
{
	DrainList  *list = arg;
	TenantState *tenant = account_tenant(class->tenant);
	int64		from = DRAIN_NONE;

	for (int i = 0; i < list->n && !(tenant && tenant->mode == MODE_OFF); i++)
	{
		if (drain_covers(&list->rows[i], class))
			from = drain_join(from, list->rows[i].finish_runs, list->rows[i].since);
	}
	list->loosened |= from > class->drained_from;
	class->drained_from = from;
}

/* Put drains in force.  Whoever calls places the held entries after it. */
void
drain_apply(DbState *db, DrainList *list)
{
	if (db->mode <= MODE_OFF || !db->may_enforce)
		list->n = 0;
	db->draining = list->n > 0;
	db->drained_from = DRAIN_NONE;
	for (int i = 0; i < list->n; i++)
	{
		if (list->rows[i].deployment)
			db->drained_from = drain_join(db->drained_from, list->rows[i].finish_runs, list->rows[i].since);
	}
	account_each_class(db, drain_class, list);
	if (list->loosened)
		held_wake_drained(db);
}

/* No drain is in force. */
void
drain_forget(DbState *db)
{
	DrainList	none = {0};

	drain_apply(db, &none);
}
