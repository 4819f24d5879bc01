/*
 * age_test.c - the sketch of ages against a model that keeps every instant.
 *
 * What must hold exactly: no task is counted twice or lost, and the oldest one
 * lies in the first bucket, so the sketch never says younger than it is.  How
 * much older it says is measured and bounded for the loads below.
 */
#include "age.h"

#include <string.h>

#include "tap.h"

#define SECOND INT64_C(1000000)
#define ROOM 20000

typedef struct Model
{
	int			n;
	int64_t		at[ROOM];
} Model;

static Model model;
static AgeSketch sketch;

static int64_t
model_oldest(void)
{
	int64_t		oldest = AGE_NONE;

	for (int i = 0; i < model.n; i++)
		oldest = model.at[i] < oldest ? model.at[i] : oldest;
	return oldest;
}

static bool
sketch_sound(void)
{
	int64_t		count = 0;
	int64_t		oldest = model_oldest();

	for (int i = 0; i < sketch.used; i++)
	{
		const AgeBucket *bucket = &sketch.buckets[i];

		if (bucket->count <= 0 || bucket->from > bucket->to ||
			(i > 0 && sketch.buckets[i - 1].to >= bucket->from))
			return false;
		count += bucket->count;
	}
	if (sketch.used > AGE_BUCKETS || count != model.n)
		return false;
	return model.n == 0 ? age_oldest(&sketch) == AGE_NONE :
		age_oldest(&sketch) <= oldest && oldest <= sketch.buckets[0].to;
}

static void
add(int64_t from, int64_t to, int count, int64_t now)
{
	for (int i = 0; i < count && model.n < ROOM; i++)
		model.at[model.n++] = i == 0 ? from : i == 1 ? to : from + tap_random(to - from + 1);
	age_add(&sketch, from, to, count, now);
}

static void
take(int i)
{
	age_remove(&sketch, model.at[i], 1);
	model.at[i] = model.at[--model.n];
}

static int
model_first(void)
{
	int			first = 0;

	for (int i = 1; i < model.n; i++)
		first = model.at[i] < model.at[first] ? i : first;
	return first;
}

/* Ages in parts of the true one; the first second does not matter. */
static double
relative_error(int64_t now)
{
	int64_t		oldest = model_oldest();

	if (model.n == 0)
		return 0;
	return (double) (oldest - age_oldest(&sketch)) / (double) (now - oldest + SECOND);
}

/*
 * So many tasks come in per second, and above keep some of 100 leave; of these
 * some of 100 leave oldest first.
 */
static void
run_load(const char *name, int arrivals, int keep, int leave, int in_order, double bound)
{
	int64_t		now = 0;
	double		worst = 0;
	double		sum = 0;
	bool		sound = true;
	char		text[128];

	age_reset(&sketch);
	model.n = 0;
	for (int i = 0; i < 20000; i++)
	{
		double		error;

		now += tap_random(2 * SECOND / arrivals) + 1;
		if (model.n < ROOM - 1)
			add(now, now, 1, now);
		if (model.n > keep && tap_random(100) < leave)
			take(tap_random(100) < in_order ? model_first() : (int) tap_random(model.n));
		if (i % 20 != 0)
			continue;
		sound &= sketch_sound();
		error = relative_error(now);
		worst = error > worst ? error : worst;
		sum += error;
	}
	printf("# %s: too old by %.1f %% at most, %.1f %% on average\n", name, 100 * worst, 100 * sum / 1000);
	snprintf(text, sizeof(text), "%s: no task lost, oldest in the first bucket", name);
	ok(sound, text);
	snprintf(text, sizeof(text), "%s: at most %.0f %% too old", name, 100 * bound);
	ok(worst <= bound, text);
}

static void
test_single(void)
{
	age_reset(&sketch);
	ok(age_oldest(&sketch) == AGE_NONE, "nothing waits");
	age_add(&sketch, 5, 5, 2, 10);
	ok(age_oldest(&sketch) == 5, "one instant");
	age_remove(&sketch, 6, 1);
	ok(age_oldest(&sketch) == 5, "an instant that never came in is ignored");
	age_remove(&sketch, 5, 1);
	ok(age_oldest(&sketch) == 5, "one of two leaves");
	age_remove(&sketch, 5, 1);
	ok(age_oldest(&sketch) == AGE_NONE, "both have left");
	age_add(&sketch, INT64_MIN / 2, INT64_MAX / 2, 3, 0);
	age_remove(&sketch, 0, 3);
	ok(age_oldest(&sketch) == AGE_NONE, "absurd instants");
}

/* While there are fewer instants than buckets, nothing is lost at all. */
static void
test_few(void)
{
	bool		exact = true;

	for (int n = 0; n < 2000; n++)
	{
		age_reset(&sketch);
		model.n = 0;
		for (int i = 0; i < AGE_BUCKETS; i++)
		{
			int64_t		at = tap_random(100 * SECOND);

			add(at, at, 1, 100 * SECOND);
		}
		while (model.n > 0)
		{
			exact &= age_oldest(&sketch) == model_oldest();
			take((int) tap_random(model.n));
		}
		exact &= age_oldest(&sketch) == AGE_NONE;
	}
	ok(exact, "a few instants are kept exactly");
}

/* Ranges, as a transaction brings them, in any order and overlapping. */
static void
test_ranges(void)
{
	bool		sound = true;

	for (int n = 0; n < 300 && sound; n++)
	{
		age_reset(&sketch);
		model.n = 0;
		for (int i = 0; i < 300 && sound; i++)
		{
			int64_t		from = tap_random(1000);
			int64_t		to = from + tap_random(tap_random(4) ? 5 : 300);

			if (model.n == 0 || tap_random(3) > 0)
				add(from, to, 2 + (int) tap_random(4), 2000);
			else
				take((int) tap_random(model.n));
			sound &= sketch_sound();
		}
	}
	ok(sound, "ranges: no task lost, oldest in the first bucket");
}

int
main(void)
{
	tap_seed();
	test_single();
	test_few();
	test_ranges();
	run_load("oldest first, steady", 10, 300, 100, 100, 1.5);
	run_load("oldest first, growing", 10, 0, 60, 100, 1.5);
	run_load("any order, steady", 10, 300, 100, 0, 1.5);
	run_load("any order, growing", 10, 0, 60, 0, 1.5);
	run_load("mostly in order, fast", 1000, 50, 98, 80, 1.5);
	return tap_done();
}
