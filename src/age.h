/*
 * age.h - a sketch of the ages of waiting tasks.  Pure: no PostgreSQL.
 *
 * An exponential histogram over instants (after Datar, Gionis, Indyk and
 * Motwani, 2002), with removal: each bucket covers a span of instants and
 * counts the tasks whose instant lies in it.  When the sketch is full, the two
 * neighbours whose union is narrowest for its age are merged, so old spans
 * grow wide and young ones stay narrow.
 */
#ifndef AIRFLOW_BP_AGE_H
#define AIRFLOW_BP_AGE_H

#include <stdint.h>

#define AGE_BUCKETS 12
#define AGE_NONE INT64_MAX

typedef struct AgeBucket
{
	int64_t		from;			/* oldest instant that came in, microseconds */
	int64_t		to;				/* newest */
	int64_t		count;
} AgeBucket;

typedef struct AgeSketch
{
	int32_t		used;
	AgeBucket	buckets[AGE_BUCKETS];	/* oldest first, spans do not overlap */
} AgeSketch;

extern void age_reset(AgeSketch *sketch);
extern void age_add(AgeSketch *sketch, int64_t from, int64_t to, int64_t count, int64_t now);
extern void age_remove(AgeSketch *sketch, int64_t at, int64_t count);
extern int64_t age_oldest(const AgeSketch *sketch);

#endif							/* AIRFLOW_BP_AGE_H */
