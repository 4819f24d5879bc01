/*
 * admit.c - who may start.  Pure: no PostgreSQL.
 */
#include "admit.h"

#include <stddef.h>

int64_t
admit_usage(const AdmitQuota *quota)
{
	return quota->committed + quota->reserved + quota->granted;
}

/* Slots that an admission may still take; never negative. */
int64_t
admit_available(const AdmitQuota *quota)
{
	int64_t		usage = admit_usage(quota);

	if (quota->nominal == NO_LIMIT)
		return NO_LIMIT;
	return usage >= quota->nominal ? 0 : quota->nominal - usage;
}

/* May an ask without a grant pass? */
AdmitReason
admit_verdict(const AdmitQuota *quota, int64_t slots, bool others_wait)
{
	if (quota->nominal == NO_LIMIT)
		return REASON_NONE;
	if (slots > quota->nominal)
		return REASON_NEVER_FITS;
	if (slots > admit_available(quota))
		return REASON_QUOTA;
	return others_wait ? REASON_ORDER : REASON_NONE;
}

/* Negative when a goes first: higher priority, then older, then the tie. */
int
admit_compare(const AdmitRank *a, const AdmitRank *b)
{
	if (a->priority != b->priority)
		return a->priority > b->priority ? -1 : 1;
	if (a->first_asked != b->first_asked)
		return a->first_asked < b->first_asked ? -1 : 1;
	if (a->tie != b->tie)
		return a->tie < b->tie ? -1 : 1;
	return 0;
}

/* A tenant's own mode wins, but "off" for the deployment is off for all. */
AdmitMode
admit_mode(AdmitMode deployment, AdmitMode tenant, bool may_enforce)
{
	AdmitMode	mode = deployment;

	if (deployment > MODE_OFF && tenant != MODE_UNKNOWN)
		mode = tenant;
	if (mode == MODE_ENFORCE && !may_enforce)
		mode = MODE_OBSERVE;
	return mode;
}

const char *
admit_reason_name(AdmitReason reason)
{
	static const char *const names[] = {
		NULL, "held_starting", "held_quota", "held_order", "never_fits"
	};

	return names[reason];
}

const char *
admit_mode_name(AdmitMode mode)
{
	static const char *const names[] = {NULL, "off", "observe", "enforce"};

	return names[mode];
}
