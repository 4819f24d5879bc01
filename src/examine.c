/*
 * examine.c - the scheduler's query for the runs to look at.
 *
 * It is recognised by its shape and only then changed: AND look_useful(dag_id,
 * run_id, trigger) is added to its WHERE.  All of this must hold:
 *	 SELECT ... FROM dag_run JOIN dag LEFT JOIN backfill_dag_run
 *	 WHERE dag_run.state = 'running' AND ...
 *	 ORDER BY ..., dag_run.last_scheduling_decision NULLS FIRST, dag_run.run_after
 *	 LIMIT n FOR [NO KEY] UPDATE OF dag_run SKIP LOCKED
 * and dag_run carries our trigger, and the function is ours and the role may
 * call it.  Airflow 3.0 and 3.1 wrap it in a subquery to read the tasks along.
 *
 * The function stays while the query runs: DROP EXTENSION must first lock
 * dag_run to drop the trigger, and the query has it locked since it was parsed.
 * A cached plan is made anew when the function or the table changes, and is
 * analyzed again by this hook.
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_node.h"
#include "parser/parsetree.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "examine.h"
#include "guc.h"
#include "locks_sample.h"
#include "shmem.h"

static post_parse_analyze_hook_type prev_post_parse_analyze_hook = NULL;

static Node *
strip_relabel(Node *node)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

/* Is this the column of that name of that relation of the query? */
static bool
is_column(Query *query, Node *node, Index rti, const char *name)
{
	RangeTblEntry *rte = rt_fetch(rti, query->rtable);
	Var		   *var = (Var *) strip_relabel(node);
	char	   *found;

	if (!IsA(var, Var) || var->varno != rti || var->varlevelsup != 0)
		return false;
	found = get_attname(rte->relid, var->varattno, true);
	return found != NULL && strcmp(found, name) == 0;
}

static bool
sorts_by(Query *query, int n, Index rti, const char *name, bool nulls_first)
{
	SortGroupClause *sort = list_nth(query->sortClause, n);

	return sort->nulls_first == nulls_first &&
		is_column(query, get_sortgroupclause_expr(sort, query->targetList), rti, name);
}

/* 'running', or a parameter that will be. */
static bool
may_be_running(Node *node)
{
	Const	   *constant = (Const *) strip_relabel(node);

	if (IsA(constant, Param))
		return true;
	return IsA(constant, Const) && !constant->constisnull &&
		(constant->consttype == TEXTOID || constant->consttype == VARCHAROID) &&
		strcmp(TextDatumGetCString(constant->constvalue), "running") == 0;
}

static bool
asks_for_running(Query *query, Index rti)
{
	ListCell   *cell;

	foreach(cell, make_ands_implicit((Expr *) query->jointree->quals))
	{
		OpExpr	   *op = lfirst(cell);

		if (IsA(op, OpExpr) && list_length(op->args) == 2 &&
			is_column(query, linitial(op->args), rti, "state") &&
			may_be_running(lsecond(op->args)))
			return true;
	}
	return false;
}

static bool
is_table(RangeTblEntry *rte, const char *name)
{
	char	   *found = get_rel_name(rte->relid);

	return rte->relkind == RELKIND_RELATION && found != NULL && strcmp(found, name) == 0;
}

/* The three tables of the query and nothing else. */
static bool
reads_runs(Query *query, Index rti)
{
	bool		dag = false;
	bool		backfill = false;
	ListCell   *cell;

	foreach(cell, query->rtable)
	{
		RangeTblEntry *rte = lfirst(cell);

		if (rte->rtekind == RTE_JOIN)
			continue;
		if (rte->rtekind != RTE_RELATION)
			return false;
		if (foreach_current_index(cell) == rti - 1)
		{
			if (!is_table(rte, "dag_run"))
				return false;
		}
		else if (!dag && is_table(rte, "dag"))
			dag = true;
		else if (!backfill && is_table(rte, "backfill_dag_run"))
			backfill = true;
		else
			return false;
	}
	return dag && backfill;
}

/* Index of dag_run in the examine query; 0 for any other.  Cheap tests first. */
static Index
examined(Query *query)
{
	RowMarkClause *mark;

	if (query->commandType != CMD_SELECT || list_length(query->rowMarks) != 1 ||
		list_length(query->sortClause) != 3 || query->limitCount == NULL ||
		query->limitOffset != NULL || query->groupClause != NIL || query->distinctClause != NIL ||
		query->setOperations != NULL || query->cteList != NIL || query->hasAggs ||
		query->hasWindowFuncs || query->hasSubLinks || query->hasTargetSRFs)
		return 0;
	mark = linitial(query->rowMarks);
	if (mark->waitPolicy != LockWaitSkip || mark->pushedDown ||
		mark->strength < LCS_FORNOKEYUPDATE || !reads_runs(query, mark->rti) ||
		!sorts_by(query, 1, mark->rti, "last_scheduling_decision", true) ||
		!sorts_by(query, 2, mark->rti, "run_after", false) ||
		!asks_for_running(query, mark->rti))
		return 0;
	return mark->rti;
}

/* A function of ours, in C, so that only a superuser can have made it. */
static Oid
our_function(const char *name, int nargs, const Oid *argtypes)
{
	Oid			namespace = get_namespace_oid("airflow_bp", true);
	HeapTuple	tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(name),
										PointerGetDatum(buildoidvector(argtypes, nargs)),
										ObjectIdGetDatum(namespace));
	Oid			found = InvalidOid;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId)
		found = ((Form_pg_proc) GETSTRUCT(tuple))->oid;
	ReleaseSysCache(tuple);
	return found;
}

static bool
is_live(const Trigger *trigger, Oid function)
{
	return trigger->tgfoid == function && TRIGGER_FOR_UPDATE(trigger->tgtype) &&
		(trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN || trigger->tgenabled == TRIGGER_FIRES_ALWAYS);
}

/* Our trigger on dag_run; the table is locked since the query was parsed. */
static Oid
our_trigger(Oid relid)
{
	Oid			function = our_function("run_changed", 0, NULL);
	Relation	rel;
	Oid			found = InvalidOid;

	if (!OidIsValid(function))
		return InvalidOid;
	rel = table_open(relid, NoLock);
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		if (is_live(&rel->trigdesc->triggers[i], function))
			found = rel->trigdesc->triggers[i].tgoid;
	}
	table_close(rel, NoLock);
	return found;
}

/* The column of that name as a varchar; NULL when it is something else. */
static Node *
column_of(Index rti, Oid relid, const char *name)
{
	AttrNumber	attno = get_attnum(relid, name);
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (attno == InvalidAttrNumber)
		return NULL;
	get_atttypetypmodcoll(relid, attno, &type, &typmod, &collation);
	if (type != VARCHAROID)
		return NULL;
	return (Node *) makeVar(rti, attno, type, typmod, collation, 0);
}

/* AND look_useful(dag_run.dag_id, dag_run.run_id, trigger) */
static void
leave_out_parked(Query *query, Index rti)
{
	static const Oid argtypes[] = {VARCHAROID, VARCHAROID, OIDOID};
	Oid			relid = rt_fetch(rti, query->rtable)->relid;
	Oid			trigger = our_trigger(relid);
	Oid			function = our_function("look_useful", lengthof(argtypes), argtypes);
	Node	   *dag_id = column_of(rti, relid, "dag_id");
	Node	   *run_id = column_of(rti, relid, "run_id");
	Const	   *seen_by;
	FuncExpr   *call;

	if (!OidIsValid(trigger) || !OidIsValid(function) || dag_id == NULL || run_id == NULL ||
		object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		return;
	seen_by = makeConst(OIDOID, -1, InvalidOid, sizeof(Oid), ObjectIdGetDatum(trigger), false, true);
	call = makeFuncExpr(function, BOOLOID, list_make3(dag_id, run_id, seen_by),
						InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	query->jointree->quals = make_and_qual(query->jointree->quals, (Node *) call);
}

/* The definition of a view must stay as it was written. */
static bool
creates(ParseState *pstate, Query *query)
{
	const char *text = pstate->p_sourcetext;

	if (text == NULL)
		return false;
	text += Max(query->stmt_location, 0);
	text += strspn(text, " \t\r\n");
	return pg_strncasecmp(text, "create", 6) == 0;
}

static void
on_analyzed(ParseState *pstate, Query *query, JumbleState *jstate)
{
	Index		rti;

	if (prev_post_parse_analyze_hook)
		prev_post_parse_analyze_hook(pstate, query, jstate);
	locks_hear(pstate->p_sourcetext);
	if (!guc_parking || shmem == NULL || query->commandType != CMD_SELECT)
		return;
	if (query->rowMarks == NIL && query->rtable != NIL)
	{
		RangeTblEntry *rte = linitial(query->rtable);

		if (rte->rtekind != RTE_SUBQUERY)
			return;
		query = rte->subquery;
	}
	rti = examined(query);
	if (rti != 0 && !creates(pstate, query))
		leave_out_parked(query, rti);
}

void
examine_init(void)
{
	prev_post_parse_analyze_hook = post_parse_analyze_hook;
	post_parse_analyze_hook = on_analyzed;
}
