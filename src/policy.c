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

/* One tenant, read from the table. */
typedef struct TenantRow
{
	char		name[TENANT_NAME_BYTES];
	int			index;
	int64		nominal;
	AdmitMode	mode;
	bool		best_effort;
	bool		count_deferred;
} TenantRow;

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
tenant_index(DbState *db, const char *name)
{
	int			index = account_find_tenant(db, name, false);

	if (index == NO_TENANT)
	{
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		index = account_find_tenant(db, name, true);
		LWLockRelease(shmem->lock);
	}
	return index;
}

/* All tenants, the default tenant last. */
static TenantRow *
read_tenants(DbState *db, uint64 *n)
{
	TenantRow  *rows;

	*n = spi_query("SELECT name, nominal::bigint, mode, queueing = "
				   "'best_effort', count_deferred FROM airflow_bp.tenant "
				   "ORDER BY name = 'default', name");
	rows = palloc0((*n + 1) * sizeof(TenantRow));
	for (uint64 i = 0; i < *n; i++)
	{
		strlcpy(rows[i].name, spi_text(i, 1), TENANT_NAME_BYTES);
		rows[i].nominal = spi_int(i, 2, NO_LIMIT);
		rows[i].mode = mode_parse(spi_text(i, 3));
		rows[i].best_effort = spi_bool(i, 4);
		rows[i].count_deferred = spi_bool(i, 5);
	}
	if (*n == 0 || strcmp(rows[*n - 1].name, DEFAULT_TENANT) != 0)
		rows[(*n)++] = (TenantRow) {.name = DEFAULT_TENANT, .nominal = NO_LIMIT};
	for (uint64 i = 0; i < *n; i++)
		rows[i].index = tenant_index(db, rows[i].name);
	return rows;
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
	int			dflt = account_find_tenant(db, DEFAULT_TENANT, false);

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
			account_find_tenant(db, spi_text(i, 2), false);
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

/* Free tenants that are listed no more and owe nothing. */
static void
drop_tenants(DbState *db)
{
	for (int i = 0; i < account_max_tenants(); i++)
	{
		TenantState *tenant = account_tenant(i);

		if (tenant->db != db->db || tenant->listed)
			continue;
		tenant->quota.nominal = NO_LIMIT;
		if (tenant->waiting == 0 && tenant->quota.reserved == 0 && tenant->quota.granted == 0)
			tenant->db = InvalidOid;
	}
}

static void
apply_tenants(DbState *db, const TenantRow *rows, uint64 n)
{
	for (int i = 0; i < account_max_tenants(); i++)
	{
		if (account_tenant(i)->db == db->db)
			account_tenant(i)->listed = false;
	}
	db->limited = false;
	db->tenants_lost = 0;
	for (uint64 i = 0; i < n; i++)
	{
		TenantState *tenant = account_tenant(rows[i].index);

		if (tenant == NULL)
		{
			db->tenants_lost++;
			continue;
		}
		tenant->listed = true;
		tenant->quota.nominal = rows[i].nominal;
		tenant->mode = rows[i].mode;
		tenant->best_effort = rows[i].best_effort;
		tenant->count_deferred = rows[i].count_deferred;
		db->limited |= rows[i].nominal != NO_LIMIT;
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
	TenantRow  *tenants;
	ClassList	classes;
	uint64		n;

	if (changed)
		return;
	spi_query("SELECT mode, enabled_at FROM airflow_bp.deployment");
	mode = SPI_processed == 0 ? MODE_OFF : mode_parse(spi_text(0, 1));
	enabled_at = SPI_processed == 0 ? 0 : spi_instant(0, 2);
	tenants = read_tenants(db, &n);
	classes = map_classes(db, true);

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	db->mode = mode;
	if (db->enabled_at != enabled_at)
	{
		/* triggers made anew: what went on before was not counted */
		db->enabled_at = enabled_at;
		db->since = GetCurrentTimestamp();
		held_clear(db);
	}
	apply_tenants(db, tenants, n);
	apply_classes(&classes);
	account_charge_all(db);
	held_place_all(db);
	drop_tenants(db);
	db->policy_version = wanted;
	LWLockRelease(shmem->lock);
}

/* Give new classes their tenants.  Needs SPI. */
void
policy_resolve(DbState *db)
{
	ClassList	classes;

	if (changed)
		return;
	classes = map_classes(db, false);
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	apply_classes(&classes);
	account_charge_all(db);
	held_place_all(db);
	LWLockRelease(shmem->lock);
}
