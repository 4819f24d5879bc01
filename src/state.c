/*
 * state.c - the states of a task, by name.  Pure: no PostgreSQL.
 */
#include "state.h"

#include <string.h>

static const char *const state_names[] = {
	"none", "scheduled", "queued", "running", "restarting", "deferred",
	"up_for_retry", "up_for_reschedule", "awaiting_input", "finished"
};

/* A name we do not know is a finished state: it uses nothing and waits for nothing. */
TaskState
task_state_parse(const char *name, size_t len)
{
	for (int i = TASK_SCHEDULED; i < NUM_UNFINISHED; i++)
	{
		if (strlen(state_names[i]) == len && memcmp(state_names[i], name, len) == 0)
			return (TaskState) i;
	}
	return TASK_FINISHED;
}

const char *
task_state_name(TaskState state)
{
	return state_names[state];
}
