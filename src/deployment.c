/*
 * deployment.c - which Airflow is in this database, as it was seen last.
 *
 * To look for its tables, and for code of others in them, is most of what a
 * turn with nothing to do would take.  So the answer is kept until a relation,
 * schema or cast changes, or the setting.  The alembic head is a row, of
 * whose change nobody is told: it is read at each look.
 */
#include "compat.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "deployment.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(airflow_bp_alembic_head);

static struct
{
	Deployment	what;
	char		head[256];		/* cut, where longer: no known one is */
	uint64		changes;		/* as of so many; 0: never looked */
}			seen;
static uint64 changes = 1;

void
deployment_forget(void)
{
	changes++;
}

static void
relation_changed(Datum arg, Oid relid)
{
	deployment_forget();
}

static void
object_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	deployment_forget();
}

void
deployment_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, object_changed, (Datum) 0);
}

static int
compare_heads(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* The heads in their order, with commas; NULL: none.  Nobody's code is run: no policy, no cast. */
static char *
read_head(const char *airflow_schema, Snapshot snapshot)
{
	Oid			schema = get_namespace_oid(airflow_schema, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid("alembic_version", schema) : InvalidOid;
	Relation	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	List	   *heads = NIL;
	ListCell   *head;
	StringInfoData all;
	AttrNumber	attno;

	if (rel == NULL)
		return NULL;
	attno = catalog_column(RelationGetDescr(rel), "version_num", VARCHAROID);
	if (rel->rd_rel->relkind == RELKIND_RELATION && attno != InvalidAttrNumber)
	{
		TupleTableSlot *slot = table_slot_create(rel, NULL);
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;
			Datum		value = slot_getattr(slot, attno, &isnull);

			if (!isnull)
				heads = lappend(heads, TextDatumGetCString(value));
		}
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(rel, AccessShareLock);
	if (heads == NIL)
		return NULL;
	list_sort(heads, compare_heads);
	initStringInfo(&all);
	foreach(head, heads)
		appendStringInfo(&all, "%s%s", all.len > 0 ? "," : "", (char *) lfirst(head));
	return all.data;
}

/* alembic_head(airflow_schema text) returns text */
Datum
airflow_bp_alembic_head(PG_FUNCTION_ARGS)
{
	char	   *head = PG_ARGISNULL(0) ? NULL :
		read_head(text_to_cstring(PG_GETARG_TEXT_PP(0)), GetActiveSnapshot());

	if (head == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(head));
}

/* Is what was seen still so? */
static bool
still_so(void)
{
	char	   *head = NULL;

	if (seen.changes == changes && seen.what.airflow_schema[0] != '\0')
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		head = read_head(seen.what.airflow_schema, snapshot);
		UnregisterSnapshot(snapshot);
	}
	/* To open the table may have told of a change. */
	return seen.changes == changes && strncmp(head ? head : "", seen.head, sizeof(seen.head) - 1) == 0;
}

/* Good until the next look of this session. */
const Deployment *
deployment_look(void)
{
	uint64		as_of;

	if (still_so())
		return &seen.what;
	as_of = changes;
	spi_query("SELECT airflow_schema, alembic_head, head_known, gate_enabled FROM airflow_bp.deployment_state()");
	seen.changes = 0;
	strlcpy(seen.what.airflow_schema, spi_null(0, 1) ? "" : spi_text(0, 1), NAMEDATALEN);
	strlcpy(seen.head, spi_null(0, 2) ? "" : spi_text(0, 2), sizeof(seen.head));
	seen.what.head_known = spi_bool(0, 3);
	seen.what.gate_enabled = spi_bool(0, 4);
	seen.changes = as_of;
	return &seen.what;
}
