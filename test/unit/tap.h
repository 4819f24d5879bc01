/*
 * tap.h - for tests without a server: lines "ok" and "not ok", and random
 * numbers that a seed in the environment repeats.
 */
#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int	tap_tests;
static int	tap_failures;
static uint64_t tap_random_state;

static inline bool
tap_ok(bool passed, const char *name, const char *file, int line)
{
	printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_tests, name);
	if (!passed)
	{
		printf("#   at %s line %d\n", file, line);
		tap_failures++;
	}
	return passed;
}

#define ok(passed, name) tap_ok(passed, name, __FILE__, __LINE__)

static inline void
tap_seed(void)
{
	const char *given = getenv("SEED");

	tap_random_state = given ? strtoull(given, NULL, 10) : (uint64_t) time(NULL);
	printf("# SEED=%llu\n", (unsigned long long) tap_random_state);
}

/* A number from 0 to below n. */
static inline int64_t
tap_random(int64_t n)
{
	uint64_t	z = tap_random_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (int64_t) ((z ^ (z >> 31)) % (uint64_t) n);
}

static inline int
tap_done(void)
{
	printf("1..%d\n", tap_tests);
	return tap_failures > 0;
}

#endif							/* TAP_H */
