/*
 * locks_class_test.c - what a statement is.
 *
 * The statements of real components, as a server shows them, are in
 * test/fixtures/statements_*.tsv: none may be said to be another's, whole or cut
 * off anywhere.  Then bytes of all kinds.
 */
#include "locks_class.h"

#include <glob.h>
#include <string.h>

#include "tap.h"

static bool
shape_is(const char *statement, const char *expected)
{
	LockShape	shape;

	locks_shape(statement, &shape);
	if (strcmp(shape.text, expected) != 0)
		printf("# %s\n", shape.text);
	return strcmp(shape.text, expected) == 0 && shape.len == (int) strlen(expected);
}

static bool
label_is(const char *statement, const char *expected)
{
	LockShape	shape;
	char		label[128];

	locks_shape(statement, &shape);
	locks_label(&shape, label, sizeof(label));
	if (strcmp(label, expected) != 0)
		printf("# %s\n", label);
	return strcmp(label, expected) == 0;
}

static bool
is(const char *statement, LockComponent component)
{
	return locks_class(statement, NULL).component == component;
}

static void
test_shapes(void)
{
	ok(shape_is("UPDATE  task_instance\n SET state='queued', n=-1.5e3 WHERE id = E'it\\'s' -- note\n;",
				"UPDATE task_instance SET state=?, n=-? WHERE id = ?"), "values, blanks and comments");
	ok(shape_is("SELECT dag.dag_id, dag.x, (SELECT a, b FROM c) AS d \nFROM dag WHERE x IN ('a', 'b', NULL, 1)",
				"SELECT dag.dag_id, .. FROM dag WHERE x IN (?)"), "lists of columns and of values");
	ok(shape_is("INSERT INTO log (dttm, dag_id, event) VALUES ('2026-01-01'::timestamptz, 'x', 1), (NULL, 'y', 2) RETURNING log.id, log.x",
				"INSERT INTO log (dttm, ..) VALUES (?) RETURNING log.id, log.x"), "rows of values");
	ok(shape_is("SELECT 'a''b', \"Column\" FROM t", "SELECT ?, .. FROM t"), "quotes in quotes");
	ok(shape_is("DO $body$ x '$' $body$ LANGUAGE sql", "DO ? LANGUAGE sql"), "dollar quotes");
	ok(shape_is("/* a /* b */ c */ SELECT $1, t1.c2 FROM t1", "SELECT ?, .. FROM t1"), "nested comments, parameters");
	ok(shape_is("SELECT 'cut of", "SELECT ?") && shape_is("", "") && shape_is("SELECT a, b", "SELECT a, .."), "cut off");
	ok(shape_is("SELECT '\xff\xfe', \xc3\xa9t\xc3\xa9 FROM x", "SELECT ?, .. FROM x") && shape_is("\xc3\xa9", "??"), "other bytes");
	ok(label_is("UPDATE public.task_instance SET a = 1", "update task_instance"), "label of an update");
	ok(label_is("SELECT dag.dag_id, dag.x FROM dag JOIN y ON true FOR NO KEY UPDATE OF dag SKIP LOCKED", "select dag for update skip locked"),
	   "of a select that locks");
	ok(label_is("SELECT task_instance.id, task_instance.task_id, task_inst", "select task_instance"), "of one that is cut off");
	ok(label_is("DELETE FROM x WHERE y", "delete x") && label_is("INSERT INTO log (a) VALUES (1)", "insert log") &&
	   label_is("LOCK TABLE dag_run", "lock table dag_run") && label_is("COMMIT", "commit") && label_is("", ""), "of others");
}

static void
test_rules(void)
{
	ok(locks_class("anything", "pg_dump").component == LOCKS_PG_DUMP && is("COPY public.dag (x) TO stdout", LOCKS_UNKNOWN), "pg_dump by its name");
	ok(is("vacuum analyze dag_run", LOCKS_VACUUM) && is("SELECT airflow_bp.tick()", LOCKS_OURS), "our own, and a vacuum");
	ok(is("SELECT 'UPDATE dag_run SET last_scheduling_decision=1'", LOCKS_UNKNOWN), "a statement in a value");
	ok(is("SELECT /* UPDATE dag_run SET last_scheduling_decision=1 */ 1", LOCKS_UNKNOWN), "or in a comment");
	ok(strcmp(locks_component_name(LOCKS_DAG_PROCESSOR), "dag-processor") == 0 && locks_rule_name(0) == NULL &&
	   locks_rule_name(-1) == NULL && locks_rule_name(100000) == NULL, "names");
}

static LockComponent
component_of(const char *name)
{
	for (LockComponent i = 0; i < NUM_LOCK_COMPONENTS; i++)
	{
		if (strcmp(locks_component_name(i), name) == 0)
			return i;
	}
	return LOCKS_UNKNOWN;
}

typedef struct Found
{
	int			lines;
	int			known;
	int			wrong;
	int			locking;		/* that write or lock rows */
	int			locking_known;
} Found;

static bool
locks_rows(const char *statement)
{
	return strncmp(statement, "SELECT", 6) != 0 || strstr(statement, " FOR ") != NULL;
}

static void
check_line(char *line, int cut, Found *found)
{
	char	   *statement = strchr(line, '\t');
	LockComponent component;
	LockClass	class;

	if (statement == NULL)
		return;
	*statement++ = '\0';
	statement[strcspn(statement, "\n")] = '\0';
	if (cut >= 0 && strlen(statement) > (size_t) cut)
		statement[cut] = '\0';
	component = component_of(line);
	class = locks_class(statement, "");
	found->lines++;
	found->known += class.component != LOCKS_UNKNOWN;
	found->locking += locks_rows(statement);
	found->locking_known += locks_rows(statement) && class.component != LOCKS_UNKNOWN;
	if (class.component == LOCKS_UNKNOWN || class.component == component)
		return;
	if (found->wrong++ < 2 && cut != -2)
		printf("# %s, not %s (%s): %.300s\n", line, locks_component_name(class.component), locks_rule_name(class.rule), statement);
}

static Found
check_file(const char *path, int cut)
{
	static char line[8192];
	FILE	   *file = fopen(path, "r");
	Found		found = {0};

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		check_line(line, cut == -2 ? (int) tap_random(1100) : cut, &found);
	if (file != NULL)
		fclose(file);
	return found;
}

static void
test_real(void)
{
	glob_t		files;

	ok(glob("test/fixtures/statements_*.tsv", 0, NULL, &files) == 0 && files.gl_pathc == 4, "statements of four versions");
	for (size_t i = 0; i < files.gl_pathc; i++)
	{
		Found		whole = check_file(files.gl_pathv[i], -1);
		Found		least = check_file(files.gl_pathv[i], 99);
		int			wrong = 0;

		for (int round = 0; round < 20; round++)
			wrong += check_file(files.gl_pathv[i], -2).wrong;
		printf("# %s: %d shapes, %d known; of %d that lock %d; cut off at 99 bytes %d known\n", files.gl_pathv[i], whole.lines,
			   whole.known, whole.locking, whole.locking_known, least.known);
		ok(whole.lines > 300 && whole.wrong == 0, "none is taken for another's");
		ok(whole.known * 100 > whole.lines * 25 && whole.locking_known * 2 > whole.locking, "half of those that lock are known");
		ok(least.wrong == 0 && least.known * 100 > least.lines * 20, "nor at the least track_activity_query_size");
		ok(wrong == 0, "nor cut off anywhere");
	}
	globfree(&files);
}

static void
test_fuzz(void)
{
	static const char *const pieces[] = {
		"SELECT ", "FROM ", "INSERT INTO ", "VALUES (", "(", ")", ", ", "'", "''", "\"", "$a$", "$", "$1", "E'", "\\", "--", "/*", "*/", "\n", "1e", ".5",
		"::", "NULL", "task_instance", "\xf0\x9f\x98\x80", "\x80", "\xff", "\x01", "UPDATE dag SET ", "true", ";"
	};
	char		statement[4096];
	int			sound = 0;
	int			rounds = 50000;

	for (int i = 0; i < rounds; i++)
	{
		size_t		n = 0;
		size_t		end = (size_t) tap_random(i % 10 == 0 ? 4000 : 200);
		LockShape	shape;
		char		label[40];
		bool		good = true;

		while (n < end)
		{
			const char *piece = pieces[tap_random(sizeof(pieces) / sizeof(pieces[0]))];

			if (tap_random(5) == 0)
				statement[n++] = (char) (1 + tap_random(255));
			else if (n + strlen(piece) < sizeof(statement))
				n += (size_t) sprintf(statement + n, "%s", piece);
		}
		statement[end] = '\0';
		locks_shape(statement, &shape);
		locks_label(&shape, label, sizeof(label));
		(void) locks_class(statement, statement);
		good &= shape.len >= 0 && shape.len < LOCKS_SHAPE_BYTES && (int) strlen(shape.text) == shape.len;
		for (int c = 0; c < shape.len; c++)
			good &= shape.text[c] >= 0x20 && shape.text[c] < 0x7f;
		sound += good;
	}
	ok(sound == rounds, "any bytes become a short text of ASCII");
}

int
main(void)
{
	tap_seed();
	test_shapes();
	test_rules();
	test_real();
	test_fuzz();
	return tap_done();
}
