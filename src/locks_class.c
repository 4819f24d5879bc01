/*
 * locks_class.c - what a statement is, and which component of Airflow sends it.
 */
#include "locks_class.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* As much of a statement is read, and as much of its shape is looked at. */
#define SCAN_BYTES 16384
#define SCAN_SHAPE 2048

typedef struct Scan
{
	const unsigned char *in;
	const unsigned char *end;
	char	   *out;
	size_t		len;
	size_t		room;
	int			depth;			/* of parentheses */
	int			list;			/* depth of the list of columns that has begun; -1: none */
	bool		columns;		/* INTO table came before: a list of columns opens */
	bool		whole;			/* lists of columns are kept */
} Scan;

static bool
is_word(int c)
{
	return isalnum(c) || c == '_' || c == '$' || c >= 0x80;
}

static void
put(Scan *scan, char c)
{
	if (c == ' ' && (scan->len == 0 || scan->out[scan->len - 1] == ' ' || scan->out[scan->len - 1] == '('))
		return;
	if (scan->len < scan->room)
		scan->out[scan->len++] = c;
}

static void
put_text(Scan *scan, const char *text)
{
	while (*text)
		put(scan, *text++);
}

static bool
ends_with(const Scan *scan, const char *text)
{
	size_t		n = strlen(text);

	return scan->len >= n && memcmp(scan->out + scan->len - n, text, n) == 0;
}

static bool
looking_at(const Scan *scan, const char *text)
{
	size_t		n = strlen(text);

	return (size_t) (scan->end - scan->in) >= n && memcmp(scan->in, text, n) == 0;
}

/* Behind the end of a text in quotes; a backslash escapes where the text says E. */
static void
skip_quoted(Scan *scan, int quote, bool escapes)
{
	scan->in++;
	while (scan->in < scan->end)
	{
		int			c = *scan->in++;

		if (c == '\\' && escapes && scan->in < scan->end)
			scan->in++;
		else if (c == quote && !(scan->in < scan->end && *scan->in == quote))
			return;
		else if (c == quote)
			scan->in++;
	}
}

static void
skip_comment(Scan *scan)
{
	int			depth = 0;

	if (*scan->in == '-')
	{
		while (scan->in < scan->end && *scan->in != '\n')
			scan->in++;
		return;
	}
	while (scan->in < scan->end)
	{
		if (looking_at(scan, "/*"))
			depth++;
		else if (looking_at(scan, "*/"))
			depth--;
		else
		{
			scan->in++;
			continue;
		}
		scan->in += 2;
		if (depth == 0)
			return;
	}
}

/* True at $tag$; the text up to the same tag is passed over. */
static bool
skip_dollar(Scan *scan)
{
	const unsigned char *tag = scan->in;
	const unsigned char *p = tag + 1;
	size_t		n;

	while (p < scan->end && (isalpha(*p) || *p == '_' || (p > tag + 1 && isdigit(*p))))
		p++;
	if (p >= scan->end || *p != '$')
		return false;
	n = ++p - tag;
	while ((size_t) (scan->end - p) >= n && memcmp(p, tag, n) != 0)
		p++;
	scan->in = (size_t) (scan->end - p) >= n ? p + n : scan->end;
	return true;
}

/* A value, with its cast; of a list of values one is left, and of rows of values one row. */
static void
put_value(Scan *scan)
{
	while (looking_at(scan, "::"))
	{
		scan->in += 2;
		while (scan->in < scan->end && (is_word(*scan->in) || strchr("\"[].", *scan->in)))
			scan->in++;
	}
	if (ends_with(scan, "?, "))
		scan->len -= 2;
	else
		put(scan, '?');
}

static void
close_parenthesis(Scan *scan)
{
	scan->depth--;
	if (scan->list > scan->depth)
		scan->list = -1;
	if (ends_with(scan, "(?), (?"))
		scan->len -= strlen("), (?");
	put(scan, ')');
}

/* Pass over the rest of a list of columns: up to FROM, or to the parenthesis that closes it. */
static void
skip_columns(Scan *scan)
{
	int			depth = 0;

	scan->list = -1;
	put_text(scan, ", ..");
	while (scan->in < scan->end)
	{
		int			c = *scan->in;

		if (c == '\'' || c == '"')
		{
			skip_quoted(scan, c, false);
			continue;
		}
		if (c == '(')
			depth++;
		else if (c == ')' && depth-- == 0)
			return;
		else if (isspace(c) && depth == 0 && scan->end - scan->in > 5 &&
				 strncmp((const char *) scan->in + 1, "FROM", 4) == 0 && isspace(scan->in[5]))
			return;
		scan->in++;
	}
}

/* true, false, and NULL as a value, not behind IS. */
static bool
is_constant(const Scan *scan, const unsigned char *word, size_t n)
{
	if (n == 4 && memcmp(word, "NULL", 4) == 0)
		return ends_with(scan, ", ") || ends_with(scan, "(") || ends_with(scan, "=");
	return (n == 4 && memcmp(word, "true", 4) == 0) || (n == 5 && memcmp(word, "false", 5) == 0);
}

static void
put_word(Scan *scan)
{
	const unsigned char *word = scan->in;
	size_t		n;

	while (scan->in < scan->end && is_word(*scan->in))
		scan->in++;
	n = scan->in - word;
	if (isdigit(word[0]) || word[0] == '$' || is_constant(scan, word, n))
	{
		/* a fraction or an exponent */
		while (scan->in < scan->end && isdigit(word[0]) && (is_word(*scan->in) || *scan->in == '.'))
			scan->in++;
		put_value(scan);
		return;
	}
	for (size_t i = 0; i < n; i++)
		put(scan, word[i] < 0x80 ? (char) word[i] : '?');
	if (n == 6 && memcmp(word, "SELECT", 6) == 0)
		scan->list = scan->depth;
	else if (n == 4 && (memcmp(word, "FROM", 4) == 0 || memcmp(word, "INTO", 4) == 0))
	{
		scan->list = -1;
		scan->columns = word[0] == 'I';
	}
	else if (n == 6 && memcmp(word, "VALUES", 6) == 0)
		scan->columns = false;
}

static void
open_parenthesis(Scan *scan)
{
	scan->depth++;
	if (scan->columns)
		scan->list = scan->depth;
	scan->columns = false;
	put(scan, '(');
}

static void
scan_one(Scan *scan)
{
	int			c = *scan->in;

	if ((c == 'E' || c == 'e' || c == 'B' || c == 'X') && scan->in + 1 < scan->end && scan->in[1] == '\'')
	{
		scan->in++;
		skip_quoted(scan, '\'', c == 'E' || c == 'e');
		put_value(scan);
	}
	else if (c == '\'')
	{
		skip_quoted(scan, '\'', false);
		put_value(scan);
	}
	else if (looking_at(scan, "--") || looking_at(scan, "/*"))
		skip_comment(scan);
	else if (c == '$' && skip_dollar(scan))
		put_value(scan);
	else if (is_word(c))
		put_word(scan);
	else if (c == ',' && scan->list == scan->depth && !scan->whole)
	{
		scan->in++;
		skip_columns(scan);
	}
	else
	{
		scan->in++;
		if (c == '(')
			open_parenthesis(scan);
		else if (c == ')')
			close_parenthesis(scan);
		else if (c == '"')
			return;
		else
			put(scan, isspace(c) || c < 0x20 || c == 0x7f ? ' ' : (char) c);
	}
}

/* The shape of a statement, up to room - 1 bytes, terminated; its length. */
static size_t
scan_shape(const char *statement, char *out, size_t room, bool whole)
{
	Scan		scan = {
		.in = (const unsigned char *) statement,
		.out = out,
		.room = room - 1,
		.list = -1,
		.whole = whole
	};

	scan.end = scan.in + strnlen(statement, SCAN_BYTES);
	while (scan.in < scan.end && scan.len < scan.room)
		scan_one(&scan);
	while (scan.len > 0 && strchr(" ;", out[scan.len - 1]))
		scan.len--;
	out[scan.len] = '\0';
	return scan.len;
}

void
locks_shape(const char *statement, LockShape *shape)
{
	shape->len = (int) scan_shape(statement, shape->text, sizeof(shape->text), false);
}

/* FNV-1a.  It is kept in tables, so it must not change from build to build. */
uint64_t
locks_print(const LockShape *shape)
{
	uint64_t	print = UINT64_C(0xcbf29ce484222325);

	for (int i = 0; i < shape->len; i++)
		print = (print ^ (unsigned char) shape->text[i]) * UINT64_C(0x100000001b3);
	return print;
}

/* The name that follows some words, without its schema; its length. */
static int
name_after(const char *text, const char *words, const char **name)
{
	const char *p = strstr(text, words);
	int			n;

	if (p == NULL)
		return 0;
	p += strlen(words);
	n = (int) strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
	if (p[n] == '.' && words[0] != 'S')
	{
		p += n + 1;
		n = (int) strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
	}
	*name = p;
	return n;
}

/* A statement in a few words: "update task_instance", "select dag for update". */
void
locks_label(const LockShape *shape, char *label, size_t size)
{
	static const char *const verbs[][2] = {
		{"SELECT ", " FROM "}, {"UPDATE ", "UPDATE "}, {"INSERT ", "INTO "}, {"DELETE ", "FROM "},
		{"LOCK TABLE ", "LOCK TABLE "}, {"ALTER TABLE ", "ALTER TABLE "}, {"TRUNCATE ", "TRUNCATE "}
	};
	const char *name = "";
	int			n = 0;
	int			verb = (int) strcspn(shape->text, " (;");

	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
	{
		if (strncmp(shape->text, verbs[i][0], strlen(verbs[i][0])) != 0)
			continue;
		verb = (int) strlen(verbs[i][0]) - 1;
		n = name_after(shape->text, verbs[i][1], &name);
		/* cut off before FROM: columns are named with their table */
		if (n == 0 && i == 0)
			n = name_after(shape->text, "SELECT ", &name);
	}
	snprintf(label, size, "%.*s%s%.*s%s%s%s", verb, shape->text, n > 0 ? " " : "", n, name,
			 strstr(shape->text, " UPDATE") && shape->text[0] == 'S' ? " for update" : "",
			 strstr(shape->text, " SKIP LOCKED") ? " skip locked" : "",
			 strstr(shape->text, " NOWAIT") ? " nowait" : "");
	for (char *p = label; *p; p++)
		*p = (char) tolower((unsigned char) *p);
}

/*
 * A statement is of a component when its shape, with all columns, begins so and
 * has all of these.  Found in what real components of Airflow 3.0 to 3.3 send;
 * SQLAlchemy writes SET a=1, and migrations write SET a = 1.
 */
typedef struct Rule
{
	LockComponent component;
	const char *name;
	const char *begins;
	const char *has[3];
} Rule;

static const Rule rules[] = {
	{.component = LOCKS_UNKNOWN},
	[LOCKS_RULE_OUR_WORKER] = {.component = LOCKS_OURS, .name = "background worker"},
	[LOCKS_RULE_AUTOVACUUM] = {.component = LOCKS_VACUUM, .name = "autovacuum worker"},
	[LOCKS_RULE_PG_DUMP] = {.component = LOCKS_PG_DUMP, .name = "application name pg_dump"},
	{LOCKS_OURS, "calls airflow_bp", "SELECT airflow_bp."},
	{LOCKS_OURS, "calls airflow_bp", "SELECT * FROM airflow_bp."},
	{LOCKS_OURS, "calls airflow_bp", "CALL airflow_bp."},
	{LOCKS_VACUUM, "vacuum", "VACUUM"},
	{LOCKS_VACUUM, "analyze", "ANALYZE"},
	{LOCKS_VACUUM, "autovacuum", "autovacuum: "},
	{LOCKS_SCHEDULER, "run starts", "UPDATE dag_run SET start_date=?, state=?"},
	{LOCKS_SCHEDULER, "run ends at a look", "UPDATE dag_run SET end_date=?, state=?, last_scheduling_decision=?"},
	{LOCKS_SCHEDULER, "schedules tasks", "UPDATE task_instance SET state=?, try_number=(task_instance.try_number + ?)"},
	{LOCKS_SCHEDULER, "schedules tasks", "UPDATE task_instance SET state=?, try_number=CASE WHEN"},
	{LOCKS_SCHEDULER, "queues tasks", "UPDATE task_instance SET state=?, queued_dttm=?, queued_by_job_id=?"},
	{LOCKS_SCHEDULER, "deferred past timeout", "UPDATE task_instance SET state=?, scheduled_dttm=?",
	{"next_method=?", "WHERE task_instance.state = ? AND task_instance.trigger_timeout <"}},
	{LOCKS_SCHEDULER, "expands a task", "UPDATE task_instance SET map_index=?"},
	{LOCKS_SCHEDULER, "examines runs", "SELECT dag_run.id, ",
	{" FROM dag_run JOIN dag ON dag.dag_id = dag_run.dag_id"}},
	{LOCKS_SCHEDULER, "critical section", "SELECT pg_try_advisory_xact_lock(?)"},
	{LOCKS_SCHEDULER, "pools of the critical section", "SELECT slot_pool.pool, ",
	{" FROM slot_pool FOR ", "NOWAIT"}},
	{LOCKS_SCHEDULER, "slots by state", "SELECT task_instance.pool, task_instance.state, sum("},
	{LOCKS_SCHEDULER, "running runs", "SELECT dag_run.dag_id, dag_run.backfill_id, count("},
	{LOCKS_SCHEDULER, "deadlines", "SELECT deadline.id, ", {"WHERE deadline.deadline_time < ?"}},
	{LOCKS_SCHEDULER, "failed jobs", "UPDATE job SET state=?", {"WHERE job.job_type = ?"}},
	{LOCKS_SCHEDULER, "orphans", "SELECT task_instance.id, ",
	{" FROM task_instance JOIN job ON ", "SKIP LOCKED"}},
	{LOCKS_SCHEDULER, "triggers without a task", "DELETE FROM trigger WHERE NOT (EXISTS"},
	{LOCKS_SCHEDULER, "triggers without a task", "DELETE FROM trigger WHERE (trigger.id"},
	{LOCKS_SCHEDULER, "creates runs", "SELECT dag.dag_id, ",
	{" FROM dag WHERE dag.is_paused = ?", "dag.next_dagrun_create_after"}},
	{LOCKS_SCHEDULER, "next run of a DAG", "UPDATE dag SET next_dagrun=?"},
	{LOCKS_SCHEDULER, "next run of a DAG", "UPDATE dag SET next_dagrun_"},
	{LOCKS_SCHEDULER, "run of a DAG has ended", "UPDATE dag SET exceeds_max_non_backfill=? WHERE"},
	{LOCKS_SCHEDULER, "dates of a reschedule", "SELECT task_reschedule.reschedule_date FROM"},
	{LOCKS_SCHEDULER, "backfills", "SELECT backfill.id, ", {"SKIP LOCKED"}},
	{LOCKS_SCHEDULER, "asset events", "DELETE FROM asset_dag_run_queue WHERE (asset_dag_run_queue.asset_id"},
	{LOCKS_SCHEDULER, "asset events", "INSERT INTO dagrun_asset_event"},
	{LOCKS_SCHEDULER, "asset events", "SELECT asset_partition_dag_run.id, ", {"SKIP LOCKED"}},
	{LOCKS_SCHEDULER, "assets without a DAG", "DELETE FROM asset_active WHERE"},
	{LOCKS_SCHEDULER, "callbacks of the scheduler", "INSERT INTO callback_request"},
	{LOCKS_API_SERVER, "heartbeat of a task", "UPDATE task_instance SET last_heartbeat_at=?"},
	{LOCKS_API_SERVER, "task starts", "UPDATE task_instance SET start_date=?, end_date=?, state=?, hostname=?"},
	{LOCKS_API_SERVER, "task starts", "UPDATE task_instance SET end_date=?, state=?, hostname=?"},
	{LOCKS_API_SERVER, "task ends", "UPDATE task_instance SET end_date=?, duration=EXTRACT(EPOCH FROM"},
	{LOCKS_API_SERVER, "task is asked for", "SELECT task_instance.state, ", {"FOR UPDATE OF task_instance"}},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO rendered_task_instance_fields ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO xcom ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO task_reschedule ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO task_map ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO connection ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO variable ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO backfill ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO backfill_dag_run ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO dag_run_note ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO task_instance_note ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO hitl_detail ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO dag_favorite ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO revoked_token ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO dag_priority_parsing_request ("},
	{LOCKS_API_SERVER, "written through the API", "INSERT INTO asset_partition_dag_run ("},
	{LOCKS_API_SERVER, "xcom", "DELETE FROM xcom WHERE xcom.key = ?"},
	{LOCKS_API_SERVER, "xcom", "UPDATE xcom SET value=?"},
	{LOCKS_API_SERVER, "clears a run", "UPDATE dag_run SET queued_at=?"},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM slot_pool WHERE slot_pool."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM connection WHERE connection."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM variable WHERE variable."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM backfill WHERE backfill."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM dag_tag WHERE dag_tag."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM task_instance WHERE task_instance."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM dag_run WHERE dag_run."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM serialized_dag WHERE serialized_dag."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM dag_code WHERE dag_code."},
	{LOCKS_API_SERVER, "deleted through the API", "DELETE FROM job WHERE job."},
	{LOCKS_API_SERVER, "pool", "UPDATE slot_pool SET slots=?"},
	{LOCKS_API_SERVER, "variable", "UPDATE variable SET val=?"},
	{LOCKS_API_SERVER, "backfills", "UPDATE backfill SET "},
	{LOCKS_API_SERVER, "pages", "DECLARE c_"},
	{LOCKS_API_SERVER, "pages", "FETCH FORWARD ? FROM c_"},
	{LOCKS_DAG_PROCESSOR, "DAG is parsed", "UPDATE dag SET last_parsed_time=?"},
	{LOCKS_DAG_PROCESSOR, "DAG is parsed", "UPDATE dag SET exceeds_max_non_backfill=?, last_parsed_time=?"},
	{LOCKS_DAG_PROCESSOR, "DAG is parsed", "UPDATE dag SET asset_expression=?"},
	{LOCKS_DAG_PROCESSOR, "DAGs of a file", "SELECT dag.dag_id, ", {"dag_tag_1.name"}},
	{LOCKS_DAG_PROCESSOR, "version of a DAG", "SELECT dag_version.id, ",
	{"FOR NO KEY UPDATE OF dag_version"}},
	{LOCKS_DAG_PROCESSOR, "DAG is gone", "UPDATE dag SET is_stale=?"},
	{LOCKS_DAG_PROCESSOR, "code of a DAG", "UPDATE dag_code SET last_updated=?"},
	{LOCKS_DAG_PROCESSOR, "code of a DAG", "SELECT dag_code.id, ", {"ORDER BY dag_code.last_updated DESC"}},
	{LOCKS_DAG_PROCESSOR, "requests to parse", "SELECT dag_priority_parsing_request.id"},
	{LOCKS_DAG_PROCESSOR, "requests to parse", "DELETE FROM dag_priority_parsing_request"},
	{LOCKS_DAG_PROCESSOR, "callbacks", "SELECT callback.id, ", {"WHERE callback.bundle_name IN"}},
	{LOCKS_DAG_PROCESSOR, "callbacks", "SELECT callback_request.id, "},
	{LOCKS_DAG_PROCESSOR, "callbacks", "DELETE FROM callback_request WHERE callback_request.id"},
	{LOCKS_DAG_PROCESSOR, "warnings", "DELETE FROM dag_warning USING dag"},
	{LOCKS_DAG_PROCESSOR, "import errors", "DELETE FROM import_error WHERE (import_error.bundle_name"},
	{LOCKS_DAG_PROCESSOR, "import errors", "UPDATE import_error SET"},
	{LOCKS_DAG_PROCESSOR, "bundles", "UPDATE dag_bundle SET last_refreshed=?"},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO import_error ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO dag ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO serialized_dag ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO dag_version ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO dag_code ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO dag_tag ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO dag_schedule_asset_reference ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO dag_schedule_asset_alias_reference ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO task_outlet_asset_reference ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO task_inlet_asset_reference ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO asset ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO asset_active ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO asset_alias ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO asset_trigger ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO asset_watcher ("},
	{LOCKS_DAG_PROCESSOR, "DAG is written", "INSERT INTO deadline_alert ("},
	{LOCKS_TRIGGERER, "triggers to run", "SELECT trigger.id FROM trigger"},
	{LOCKS_TRIGGERER, "triggers to run", "SELECT count(trigger.id)"},
	{LOCKS_TRIGGERER, "triggers to run", "UPDATE trigger SET triggerer_id=?"},
	{LOCKS_TRIGGERER, "triggers that ended", "UPDATE task_instance SET updated_at=?, trigger_id=? WHERE task_instance.state != ?"},
	{LOCKS_TRIGGERER, "triggers that ended", "DELETE FROM trigger WHERE trigger.id IN (SELECT trigger.id"},
	{LOCKS_TRIGGERER, "event of a trigger", "UPDATE task_instance SET state=?, scheduled_dttm=?",
	{"trigger_id=?", "WHERE task_instance.id = ?"}},
	{LOCKS_MIGRATION, "advisory lock", "SELECT pg_advisory_lock(?)"},
	{LOCKS_MIGRATION, "advisory lock", "SELECT pg_advisory_unlock(?)"},
	{LOCKS_MIGRATION, "changes the schema", "ALTER TABLE "},
	{LOCKS_MIGRATION, "changes the schema", "CREATE TABLE "},
	{LOCKS_MIGRATION, "changes the schema", "CREATE INDEX "},
	{LOCKS_MIGRATION, "changes the schema", "CREATE UNIQUE INDEX "},
	{LOCKS_MIGRATION, "changes the schema", "DROP TABLE "},
	{LOCKS_MIGRATION, "changes the schema", "DROP INDEX "},
	{LOCKS_MIGRATION, "changes the schema", "UPDATE alembic_version "},
	{LOCKS_MIGRATION, "changes the schema", "INSERT INTO alembic_version "},
	{LOCKS_MIGRATION, "changes the schema", "DELETE FROM alembic_version "},
	{LOCKS_WORKER, "result of Celery", "INSERT INTO celery_taskmeta ("},
	{LOCKS_WORKER, "result of Celery", "UPDATE celery_taskmeta SET"},
};

#define NUM_RULES ((int) (sizeof(rules) / sizeof(rules[0])))

static bool
rule_matches(const Rule *rule, const char *shape)
{
	if (rule->begins == NULL || strncasecmp(shape, rule->begins, strlen(rule->begins)) != 0)
		return false;
	for (int i = 0; i < 3 && rule->has[i] != NULL; i++)
	{
		if (strstr(shape, rule->has[i]) == NULL)
			return false;
	}
	return true;
}

LockClass
locks_class(const char *statement, const char *application)
{
	char		shape[SCAN_SHAPE];

	if (application != NULL && strcmp(application, "pg_dump") == 0)
		return (LockClass) {LOCKS_PG_DUMP, LOCKS_RULE_PG_DUMP};
	scan_shape(statement, shape, sizeof(shape), true);
	for (int i = 1; i < NUM_RULES; i++)
	{
		if (rule_matches(&rules[i], shape))
			return (LockClass) {rules[i].component, i};
	}
	return (LockClass) {LOCKS_UNKNOWN, 0};
}

const char *
locks_component_name(LockComponent component)
{
	static const char *const names[NUM_LOCK_COMPONENTS] = {
		"unknown", "scheduler", "api-server", "dag-processor", "triggerer", "migration", "worker", "ours",
		"pg_dump", "vacuum"
	};

	return names[component];
}

const char *
locks_rule_name(int rule)
{
	return rule >= 0 && rule < NUM_RULES ? rules[rule].name : NULL;
}
