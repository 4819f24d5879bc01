/*
 * probe.c - what only the benchmarks need: a trigger that does nothing, the
 * CPU time of this backend, and a stopwatch around the gate alone.
 */
#include "postgres.h"

#include <sys/resource.h>

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(probe_noop);
PG_FUNCTION_INFO_V1(probe_cpu);
PG_FUNCTION_INFO_V1(probe_calls);

/* BEFORE UPDATE row trigger: lets every row pass. */
Datum
probe_noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(((TriggerData *) fcinfo->context)->tg_newtuple);
}

/* Microseconds of CPU that this backend has used. */
Datum
probe_cpu(PG_FUNCTION_ARGS)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	PG_RETURN_INT64((usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64CONST(1000000) +
					usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* The row with another state and updated_at, as the executor would hand it over. */
static void
make_new_row(TupleTableSlot *old, TupleTableSlot *new, AttrNumber state, Datum value)
{
	slot_getallattrs(old);
	ExecClearTuple(new);
	memcpy(new->tts_values, old->tts_values, new->tts_tupleDescriptor->natts * sizeof(Datum));
	memcpy(new->tts_isnull, old->tts_isnull, new->tts_tupleDescriptor->natts * sizeof(bool));
	new->tts_values[state - 1] = value;
	new->tts_isnull[state - 1] = false;
	ExecStoreVirtualTuple(new);
}

static AttrNumber
column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return i + 1;
	}
	elog(ERROR, "no column %s", name);
}

/*
 * probe.calls(tab regclass, tid[], trigger regproc, state text): nanoseconds of
 * one call of the trigger, on average, as if these rows were set to that state.
 */
Datum
probe_calls(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), RowExclusiveLock);
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(1);
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	ItemPointer tids = (ItemPointer) ARR_DATA_PTR(array);
	AttrNumber	state = column(RelationGetDescr(rel), "state");
	Datum		value = PointerGetDatum(PG_GETARG_TEXT_PP(3));
	TupleTableSlot *old = table_slot_create(rel, NULL);
	TupleTableSlot *new = table_slot_create(rel, NULL);
	Bitmapset  *updated = NULL;
	FmgrInfo	flinfo;
	LOCAL_FCINFO(call, 0);
	Trigger		trigger = {.tgname = "probe", .tgenabled = TRIGGER_FIRES_ALWAYS};
	TriggerData data = {
		.type = T_TriggerData,
		.tg_event = TRIGGER_EVENT_UPDATE | TRIGGER_EVENT_ROW | TRIGGER_EVENT_BEFORE,
		.tg_relation = rel,
		.tg_trigger = &trigger,
		.tg_trigslot = old,
		.tg_newslot = new
	};
	instr_time	start;
	instr_time	end;
	int64		total = 0;

	updated = bms_add_member(updated, state - FirstLowInvalidHeapAttributeNumber);
	data.tg_updatedcols = updated;
	fmgr_info(PG_GETARG_OID(2), &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, 0, InvalidOid, (Node *) &data, NULL);
	for (int i = 0; i < n; i++)
	{
		bool		free_old;

		if (!table_tuple_fetch_row_version(rel, &tids[i], GetActiveSnapshot(), old))
			elog(ERROR, "row is gone");
		make_new_row(old, new, state, value);
		/* as after the executor's lock: nothing of the old row is unpacked yet */
		data.tg_newtuple = ExecFetchSlotHeapTuple(old, true, &free_old);
		old->tts_nvalid = 0;
		((HeapTupleTableSlot *) old)->off = 0;
		INSTR_TIME_SET_CURRENT(start);
		FunctionCallInvoke(call);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		total += (end.tv_sec * INT64CONST(1000000000) + end.tv_nsec);
	}
	ExecDropSingleTupleTableSlot(old);
	ExecDropSingleTupleTableSlot(new);
	table_close(rel, NoLock);
	PG_RETURN_FLOAT8(n == 0 ? 0.0 : (double) total / n);
}
