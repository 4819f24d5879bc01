/*
 * catalog.c - where Airflow's columns are.
 */
#include "compat.h"

#include "access/sysattr.h"
#include "access/tupdesc.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "guc.h"

PG_FUNCTION_INFO_V1(airflow_schema_setting);

typedef enum TaskColumn
{
	COL_ID, COL_DAG_ID, COL_RUN_ID, COL_STATE, COL_POOL, COL_POOL_SLOTS, COL_QUEUE,
	COL_EXECUTOR, COL_PRIORITY, COL_TRY_NUMBER, COL_MAX_TRIES, COL_SCHEDULED, NUM_TASK_COLUMNS
} TaskColumn;

static const struct
{
	const char *name;
	Oid			type;
}			task_columns[NUM_TASK_COLUMNS] = {
	[COL_ID] = {"id", UUIDOID},
	[COL_DAG_ID] = {"dag_id", VARCHAROID},
	[COL_RUN_ID] = {"run_id", VARCHAROID},
	[COL_STATE] = {"state", VARCHAROID},
	[COL_POOL] = {"pool", VARCHAROID},
	[COL_POOL_SLOTS] = {"pool_slots", INT4OID},
	[COL_QUEUE] = {"queue", VARCHAROID},
	[COL_EXECUTOR] = {"executor", VARCHAROID},
	[COL_PRIORITY] = {"priority_weight", INT4OID},
	[COL_TRY_NUMBER] = {"try_number", INT4OID},
	[COL_MAX_TRIES] = {"max_tries", INT4OID},
	[COL_SCHEDULED] = {"scheduled_dttm", TIMESTAMPTZOID},
};

/* task_instance as this backend saw it last; relid is invalid when stale. */
static struct
{
	Oid			relid;
	int			missing;		/* a column that is not there; -1: none */
	AttrNumber	attno[NUM_TASK_COLUMNS];
}			tasks;

static void
catalog_forget(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == tasks.relid)
		tasks.relid = InvalidOid;
}

void
catalog_init(void)
{
	CacheRegisterRelcacheCallback(catalog_forget, (Datum) 0);
}

/* Column of that name and type; InvalidAttrNumber when there is none. */
AttrNumber
catalog_column(TupleDesc desc, const char *name, Oid type)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!attr->attisdropped && attr->atttypid == type &&
			strcmp(NameStr(attr->attname), name) == 0)
			return attr->attnum;
	}
	return InvalidAttrNumber;
}

/* Are all columns of task_instance there? */
bool
catalog_knows_tasks(Relation rel)
{
	if (tasks.relid == RelationGetRelid(rel))
		return tasks.missing < 0;
	tasks.missing = -1;
	for (int i = 0; i < NUM_TASK_COLUMNS; i++)
	{
		tasks.attno[i] = catalog_column(RelationGetDescr(rel), task_columns[i].name,
										task_columns[i].type);
		if (tasks.attno[i] == InvalidAttrNumber)
			tasks.missing = i;
	}
	tasks.relid = RelationGetRelid(rel);
	return tasks.missing < 0;
}

/* Which one is not there; -1 when catalog_knows_tasks(). */
int
catalog_missing_column(void)
{
	return tasks.missing;
}

const char *
catalog_column_name(int column)
{
	return task_columns[column].name;
}

/* Does an UPDATE of these columns matter to the counters? */
bool
catalog_touches_task(const Bitmapset *updated)
{
	static const TaskColumn watched[] = {
		COL_STATE, COL_POOL, COL_POOL_SLOTS, COL_QUEUE, COL_EXECUTOR, COL_DAG_ID,
		COL_RUN_ID, COL_ID, COL_SCHEDULED
	};

	for (int i = 0; i < lengthof(watched); i++)
	{
		if (bms_is_member(tasks.attno[watched[i]] - FirstLowInvalidHeapAttributeNumber,
						  updated))
			return true;
	}
	return false;
}

/* Text in place; false when it would have to be fetched or unpacked. */
bool
catalog_read_text(TupleTableSlot *slot, AttrNumber attno, Str *out)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, attno, &isnull);
	struct varlena *text = (struct varlena *) DatumGetPointer(value);

	if (isnull)
	{
		*out = (Str) {"", -1};
		return true;
	}
	if (VARATT_IS_EXTERNAL(text) || VARATT_IS_COMPRESSED(text))
		return false;
	*out = (Str) {VARDATA_ANY(text), (int) VARSIZE_ANY_EXHDR(text)};
	return true;
}

static int32
read_int(TupleTableSlot *slot, TaskColumn column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, tasks.attno[column], &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

/* False when the row cannot be read without help; call catalog_knows_tasks() first. */
bool
catalog_read_task(TupleTableSlot *slot, TaskRow *row)
{
	bool		isnull;
	Datum		value;

	if (!catalog_read_text(slot, tasks.attno[COL_DAG_ID], &row->dag_id) ||
		!catalog_read_text(slot, tasks.attno[COL_RUN_ID], &row->run_id) ||
		!catalog_read_text(slot, tasks.attno[COL_POOL], &row->pool) ||
		!catalog_read_text(slot, tasks.attno[COL_QUEUE], &row->queue) ||
		!catalog_read_text(slot, tasks.attno[COL_EXECUTOR], &row->executor) ||
		!catalog_read_text(slot, tasks.attno[COL_STATE], &row->state_name))
		return false;
	row->state = row->state_name.len < 0 ? TASK_NONE :
		task_state_parse(row->state_name.data, row->state_name.len);
	row->slots = read_int(slot, COL_POOL_SLOTS);
	row->priority = read_int(slot, COL_PRIORITY);
	row->try_number = read_int(slot, COL_TRY_NUMBER);
	row->max_tries = read_int(slot, COL_MAX_TRIES);
	value = slot_getattr(slot, tasks.attno[COL_SCHEDULED], &isnull);
	row->scheduled = isnull ? 0 : DatumGetTimestampTz(value);
	value = slot_getattr(slot, tasks.attno[COL_ID], &isnull);
	if (isnull)
		return false;
	row->id = *DatumGetUUIDP(value);
	return true;
}

/* airflow_schema_setting() returns text: NULL when not set. */
Datum
airflow_schema_setting(PG_FUNCTION_ARGS)
{
	if (guc_airflow_schema == NULL || guc_airflow_schema[0] == '\0')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(guc_airflow_schema));
}
