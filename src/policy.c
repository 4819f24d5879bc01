/*
 * policy.c - tables of policy, compiled into shared memory.
 *
 * A statement trigger on each table of policy notes the change; when it has
 * been committed, policy_wanted goes up and the worker is woken.
 */
#include "compat.h"

#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "drain.h"
#include "held.h"
#include "policy.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(airflow_bp_policy_changed);
PG_FUNCTION_INFO_V1(airflow_bp_policy_version);
PG_FUNCTION_INFO_V1(airflow_bp_policy_wanted);

static bool changed;			/* by the open transaction */

static void
policy_xact(XactEvent event, void *arg)
{
	DbState    *db;

	if (!changed || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
					 event != XACT_EVENT_PREPARE))
		return;
	changed = false;
	db = shmem_db(true);
	if (event == XACT_EVENT_ABORT || db == NULL)
		return;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->policy_wanted++;
	LWLockRelease(shmem->lock);
	shmem_wake_worker(db);
}

void
policy_init(void)
{
	RegisterXactCallback(policy_xact, NULL);
}

/* AFTER STATEMENT on the tables of policy. */
Datum
airflow_bp_policy_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("airflow_bp.policy_changed() is a trigger")));
	changed = true;
	PG_RETURN_POINTER(NULL);
}

Datum
airflow_bp_policy_version(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);

	if (db == NULL)
		PG_RETURN_NULL();
	PG_RETURN_INT64((int64) db->policy_version);
}

/* Version that the policy will have when all that is committed is compiled. */
Datum
airflow_bp_policy_wanted(PG_FUNCTION_ARGS)
{
	DbState    *db = shmem_db(false);

	if (db == NULL)
		PG_RETURN_NULL();
	PG_RETURN_INT64((int64) db->policy_wanted);
}

static AdmitMode
mode_parse(const char *name)
{
	for (AdmitMode mode = MODE_OFF; name != NULL && mode <= MODE_ENFORCE; mode++)
	{
		if (strcmp(name, admit_mode_name(mode)) == 0)
			return mode;
	}
	return MODE_UNKNOWN;
}

/* One tenant or cohort, read from the table. */
typedef struct TenantRow
{
	char		name[TENANT_NAME_BYTES];
	bool		cohort;
	int			index;
	int			parent;			/* row, or -1 */
	AdmitMode	mode;
	bool		count_deferred;
	AdmitNode	node;			/* its policy */
} TenantRow;

typedef struct TenantList
{
	int			n;
	int			cut;			/* cohorts in a cycle or nested too deep */
	TenantRow  *rows;			/* cohorts, then tenants, the default tenant among them */
} TenantList;

/* One class, to be mapped to a tenant. */
typedef struct ClassRow
{
	Key			key;
	NameEntry  *names[NUM_NAME_KINDS];
	int			tenant;
} ClassRow;

typedef struct ClassList
{
	bool		all;			/* else those without a tenant */
	int			n;
	int			room;
	ClassRow   *rows;
} ClassList;

/* Index of a tenant; only the worker adds tenants, so looking needs no lock. */
static int
tenant_index(DbState *db, const char *name, bool cohort)
{
	int			index = account_find_tenant(db, name, cohort, false);

	if (index == NO_TENANT)
	{
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		index = account_find_tenant(db, name, cohort, true);
		LWLockRelease(shmem->lock);
	}
	return index;
}

static TenantRow
read_row(uint64 row)
{
	TenantRow	read = {
		.cohort = spi_bool(row, 1),
		.parent = spi_int(row, 3, 0) - 1,
		.mode = mode_parse(spi_text(row, 8)),
		.count_deferred = spi_bool(row, 10),
		.node.nominal = spi_int(row, 4, NO_LIMIT),
		.node.borrowing_limit = spi_int(row, 5, NO_LIMIT),
		.node.lending_limit = spi_int(row, 6, NO_LIMIT),
		.node.weight = spi_int(row, 7, ADMIT_WEIGHT_ONE),
		.node.best_effort = spi_bool(row, 9)
	};

	strlcpy(read.name, spi_text(row, 2), TENANT_NAME_BYTES);
	return read;
}

/* A table edited by hand may have cycles: who is too deep becomes a root. */
static void
cut_cycles(TenantList *list)
{
	for (int i = 0; i < list->n; i++)
	{
		int			depth = 1;

		for (int up = list->rows[i].parent; up >= 0 && depth <= ADMIT_MAX_DEPTH; up = list->rows[up].parent)
			depth++;
		if (depth <= ADMIT_MAX_DEPTH - !!list->rows[i].cohort)
			continue;
		list->rows[i].parent = -1;
		list->cut++;
	}
}

static TenantList
read_tenants(DbState *db)
{
	TenantList	list = {0};
	bool		dflt = false;

	list.n = spi_query("WITH u AS (SELECT true AS cohort, name, parent, nominal, borrowing_limit, lending_limit, weight, "
					   "NULL AS mode, false AS best_effort, false AS count_deferred FROM airflow_bp.cohort "
					   "UNION ALL SELECT false, name, cohort, nominal, borrowing_limit, lending_limit, weight, mode, "
					   "queueing = 'best_effort', count_deferred FROM airflow_bp.tenant), "
					   "n AS (SELECT *, row_number() OVER (ORDER BY cohort DESC, name COLLATE \"C\") AS row FROM u) "
					   "SELECT cohort, name, (SELECT p.row FROM n p WHERE p.cohort AND p.name = n.parent), "
					   "nominal::bigint, borrowing_limit::bigint, lending_limit::bigint, "
					   "CASE WHEN weight > 0 THEN greatest(1, least(weight, 2147483647) * 1e9)::bigint ELSE 0 END, "
					   "mode, best_effort, count_deferred FROM n ORDER BY n.row");
	list.rows = palloc0((list.n + 1) * sizeof(TenantRow));
	for (int i = 0; i < list.n; i++)
	{
		list.rows[i] = read_row(i);
		dflt |= !list.rows[i].cohort && strcmp(list.rows[i].name, DEFAULT_TENANT) == 0;
	}
	if (!dflt)
		list.rows[list.n++] = (TenantRow) {
			.name = DEFAULT_TENANT,
			.parent = -1,
			.node.nominal = NO_LIMIT,
			.node.borrowing_limit = NO_LIMIT,
			.node.lending_limit = NO_LIMIT,
			.node.weight = ADMIT_WEIGHT_ONE
		};
	cut_cycles(&list);
	for (int i = 0; i < list.n; i++)
		list.rows[i].index = tenant_index(db, list.rows[i].name, list.rows[i].cohort);
	return list;
}

static void
collect_class(ClassEntry *class, void *arg)
{
	ClassList  *list = arg;

	if ((!list->all && (class->tenant != NO_TENANT || class->unplaced)) || list->n == list->room)
		return;
	list->rows[list->n].key = class->key;
	list->rows[list->n].tenant = NO_TENANT;
	memcpy(list->rows[list->n++].names, class->names, sizeof(class->names));
}

static Datum
name_array(const ClassList *list, NameKind kind)
{
	Datum	   *values = palloc(Max(list->n, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(list->n, 1) * sizeof(bool));
	int			dims = list->n;
	int			lower = 1;

	for (int i = 0; i < list->n; i++)
	{
		const NameEntry *name = list->rows[i].names[kind];

		nulls[i] = name->len < 0;
		values[i] = PointerGetDatum(cstring_to_text_with_len(name->name, Max(name->len, 0)));
	}
	return PointerGetDatum(construct_md_array(values, nulls, 1, &dims, &lower, TEXTOID,
											  -1, false, TYPALIGN_INT));
}

/*
 * Classes with the tenant that the rules give them.  Names do not go while we
 * read them: only this process prunes.
 */
static ClassList
map_classes(DbState *db, bool all)
{
	static Oid	types[] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[3];
	ClassList	list = {.all = all, .room = account_max_classes()};
	int			dflt = account_find_tenant(db, DEFAULT_TENANT, false, false);

	list.rows = MemoryContextAllocHuge(CurrentMemoryContext,
									   (Size) list.room * sizeof(ClassRow));
	LWLockAcquire(shmem->lock, LW_SHARED);
	account_each_class(db, collect_class, &list);
	LWLockRelease(shmem->lock);
	if (list.n == 0)
		return list;

	values[0] = name_array(&list, NAME_DAG);
	values[1] = name_array(&list, NAME_POOL);
	values[2] = name_array(&list, NAME_QUEUE);
	spi_write(lengthof(types), types, values, NULL,
			  "SELECT n, tenant FROM airflow_bp.match_tenants($1, $2, $3)");
	for (int i = 0; i < list.n; i++)
		list.rows[i].tenant = dflt;
	for (uint64 i = 0; i < SPI_processed; i++)
		list.rows[spi_int(i, 1, 1) - 1].tenant =
			account_find_tenant(db, spi_text(i, 2), false, false);
	return list;
}

static void
apply_classes(const ClassList *list)
{
	for (int i = 0; i < list->n; i++)
	{
		ClassEntry *class = account_class_by_key(&list->rows[i].key);

		if (class == NULL)
			continue;
		class->tenant = list->rows[i].tenant;
		class->unplaced = class->tenant == NO_TENANT;
	}
}

/* Free tenants and cohorts that are listed no more and owe nothing. */
static void
drop_tenants(DbState *db)
{
	for (int i = 0; i < account_max_tenants(); i++)
	{
		TenantState *tenant = account_tenant(i);

		if (tenant->db == db->db && !tenant->listed && !tenant->due && tenant->node.waiting == 0 &&
			tenant->reserved == 0 && tenant->granted == 0)
			tenant->db = InvalidOid;
	}
}

/* What is listed no more has no limit and stands alone. */
static void
unlist_all(DbState *db)
{
	for (int i = 0; i < account_max_tenants(); i++)
	{
		TenantState *tenant = account_tenant(i);

		if (tenant->db != db->db)
			continue;
		tenant->listed = false;
		tenant->node.parent = tenant->node.child = tenant->node.next = NULL;
		tenant->node.nominal = tenant->cohort ? 0 : NO_LIMIT;
		tenant->node.borrowing_limit = tenant->node.lending_limit = NO_LIMIT;
	}
}

static void
apply_node(AdmitNode *node, const AdmitNode *policy)
{
	node->nominal = policy->nominal;
	node->borrowing_limit = policy->borrowing_limit;
	node->lending_limit = policy->lending_limit;
	node->weight = policy->weight;
	node->best_effort = policy->best_effort;
}

/* In descending order of name, as admit_link() wants it. */
static void
apply_tenants(DbState *db, const TenantList *list)
{
	account_forget_due(db);		/* a root may become a child */
	unlist_all(db);
	db->limited = false;
	db->tenants_lost = 0;
	db->cohorts_cut = list->cut;
	for (int i = list->n - 1; i >= 0; i--)
	{
		const TenantRow *row = &list->rows[i];
		TenantState *tenant = account_tenant(row->index);
		TenantState *parent = row->parent < 0 ? NULL : account_tenant(list->rows[row->parent].index);

		if (tenant == NULL)
		{
			db->tenants_lost++;
			continue;
		}
		tenant->listed = true;
		tenant->mode = row->mode;
		tenant->count_deferred = row->count_deferred;
		apply_node(&tenant->node, &row->node);
		admit_link(&tenant->node, parent ? &parent->node : NULL);
		db->limited |= row->node.nominal != NO_LIMIT;
	}
}

/*
 * Put the tables of policy in force.  Needs SPI.  A transaction that has changed
 * them itself does not: it may yet be rolled back.
 */
void
policy_compile(DbState *db)
{
	uint64		wanted = db->policy_wanted;
	AdmitMode	mode;
	TimestampTz enabled_at;
	TenantList	tenants;
	ClassList	classes;
	DrainList	drains;

	if (changed)
		return;
	spi_query("SELECT mode, enabled_at FROM airflow_bp.deployment");
	mode = SPI_processed == 0 ? MODE_OFF : mode_parse(spi_text(0, 1));
	enabled_at = SPI_processed == 0 ? 0 : spi_instant(0, 2);
	tenants = read_tenants(db);
	classes = map_classes(db, true);
	drains = drain_read(db);

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->mode = mode;
	if (db->enabled_at != enabled_at)
	{
		/* triggers made anew: what went on before was not counted */
		db->enabled_at = enabled_at;
		db->since = GetCurrentTimestamp();
		db->log_from = Min(enabled_at, db->since);
		held_clear(db);
	}
	apply_tenants(db, &tenants);
	apply_classes(&classes);
	drain_apply(db, &drains);
	account_charge_all(db);
	held_place_all(db);
	drop_tenants(db);
	db->policy_version = wanted;
	LWLockRelease(shmem->lock);
	drain_in_force(db, &drains);
}

/* Give new classes their tenants.  Needs SPI. */
void
policy_resolve(DbState *db)
{
	ClassList	classes;
	DrainList	drains;

	if (changed)
		return;
	classes = map_classes(db, false);
	drains = drain_read(db);
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	apply_classes(&classes);
	drain_apply(db, &drains);
	account_charge_all(db);
	held_place_all(db);
	LWLockRelease(shmem->lock);
}
