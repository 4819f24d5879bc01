/*
 * clock_step.c - a clock that can be set, for the server of the chaos run.
 *
 * Preloaded into PostgreSQL.  Its clock is ahead by the seconds that stand in
 * the file CLOCK_STEP, for all processes from the same moment on.  No lock is
 * taken and nothing is read but memory: signal handlers ask for the time too.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t none = 0;
static const volatile int64_t *ahead = &none;

__attribute__((constructor)) static void
map_file(void)
{
	const char *name = getenv("CLOCK_STEP");
	int			file = name == NULL ? -1 : open(name, O_RDONLY);
	void	   *memory;

	if (file < 0)
		return;
	memory = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (memory != MAP_FAILED)
		ahead = memory;
}

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	int			result = syscall(SYS_clock_gettime, id, ts);

	if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		ts->tv_sec += *ahead;
	return result;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	int			result = syscall(SYS_gettimeofday, tv, zone);

	if (result == 0)
		tv->tv_sec += *ahead;
	return result;
}

time_t
time(time_t *at)
{
	struct timeval tv;

	gettimeofday(&tv, NULL);
	if (at != NULL)
		*at = tv.tv_sec;
	return tv.tv_sec;
}
