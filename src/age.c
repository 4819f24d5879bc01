/*
 * age.c - a sketch of the ages of waiting tasks.  Pure: no PostgreSQL.
 */
#include "age.h"

#include <stdbool.h>
#include <string.h>

void
age_reset(AgeSketch *sketch)
{
	sketch->used = 0;
}

/* First bucket that ends at or after the instant. */
static int
age_find(const AgeSketch *sketch, int64_t at)
{
	int			i = 0;

	while (i < sketch->used && sketch->buckets[i].to < at)
		i++;
	return i;
}

static void
age_drop(AgeSketch *sketch, int i)
{
	memmove(&sketch->buckets[i], &sketch->buckets[i + 1],
			(sketch->used - i - 1) * sizeof(AgeBucket));
	sketch->used--;
}

/* How wide the union of bucket i and its successor is, for its age. */
static double
age_width(const AgeSketch *sketch, int i, int64_t now)
{
	int64_t		from = sketch->buckets[i].from;
	int64_t		to = sketch->buckets[i + 1].to;
	int64_t		age = now > to ? now - to : 0;

	return (double) (to - from) / (double) (age + 1000000);
}

/* Merge the two neighbours whose union loses least. */
static void
age_merge(AgeSketch *sketch, int64_t now)
{
	int			best = 0;

	for (int i = 1; i + 1 < sketch->used; i++)
	{
		if (age_width(sketch, i, now) < age_width(sketch, best, now))
			best = i;
	}
	sketch->buckets[best].to = sketch->buckets[best + 1].to;
	sketch->buckets[best].count += sketch->buckets[best + 1].count;
	age_drop(sketch, best + 1);
}

/* Count tasks whose instants lie between from and to. */
void
age_add(AgeSketch *sketch, int64_t from, int64_t to, int64_t count, int64_t now)
{
	int			i = age_find(sketch, from);

	if (i < sketch->used && sketch->buckets[i].from <= to)
	{
		AgeBucket  *bucket = &sketch->buckets[i];

		if (from < bucket->from)
			bucket->from = from;
		bucket->count += count;
		if (to > bucket->to)
		{
			bucket->to = to;
			while (i + 1 < sketch->used && sketch->buckets[i + 1].from <= bucket->to)
			{
				if (sketch->buckets[i + 1].to > bucket->to)
					bucket->to = sketch->buckets[i + 1].to;
				bucket->count += sketch->buckets[i + 1].count;
				age_drop(sketch, i + 1);
			}
		}
		return;
	}
	if (sketch->used == AGE_BUCKETS)
	{
		age_merge(sketch, now);
		age_add(sketch, from, to, count, now);
		return;
	}
	memmove(&sketch->buckets[i + 1], &sketch->buckets[i],
			(sketch->used - i) * sizeof(AgeBucket));
	sketch->used++;
	sketch->buckets[i] = (AgeBucket) {from, to, count};
}

/* Uncount tasks of one instant; an instant never counted is ignored. */
void
age_remove(AgeSketch *sketch, int64_t at, int64_t count)
{
	int			i = age_find(sketch, at);

	if (i == sketch->used || sketch->buckets[i].from > at)
		return;
	sketch->buckets[i].count -= count;
	if (sketch->buckets[i].count <= 0)
		age_drop(sketch, i);
}

/* The oldest instant, at most one bucket too old; AGE_NONE when nothing waits. */
int64_t
age_oldest(const AgeSketch *sketch)
{
	return sketch->used == 0 ? AGE_NONE : sketch->buckets[0].from;
}
