/*
 * serialized.c - what Airflow computes in Python over a serialized DAG.
 */
#include "compat.h"

#include <math.h>
#include <zlib.h>

#include "common/cryptohash.h"
#include "common/sha1.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "shmem.h"

#define INFLATE_STEP 65536
#define MAX_TASK_RETRY_DELAY 86400

PG_FUNCTION_INFO_V1(serialized_inflate);
PG_FUNCTION_INFO_V1(serialized_retry_delay);

static void *
zlib_alloc(void *opaque, unsigned items, unsigned size)
{
	return palloc_extended((Size) items * size, MCXT_ALLOC_NO_OOM);
}

static void
zlib_free(void *opaque, void *address)
{
	pfree(address);
}

/* Append all of a zlib stream; false when it is damaged or cut short. */
static bool
inflate_all(z_stream *stream, StringInfo out)
{
	int			status;

	do
	{
		enlargeStringInfo(out, INFLATE_STEP);
		stream->next_out = (unsigned char *) out->data + out->len;
		stream->avail_out = INFLATE_STEP;
		status = inflate(stream, Z_NO_FLUSH);
		out->len += INFLATE_STEP - stream->avail_out;
		CHECK_FOR_INTERRUPTS();
	} while (status == Z_OK);
	return status == Z_STREAM_END;
}

/* inflate(bytea) returns text */
Datum
serialized_inflate(PG_FUNCTION_ARGS)
{
	bytea	   *in = PG_GETARG_BYTEA_PP(0);
	z_stream	stream = {.zalloc = zlib_alloc, .zfree = zlib_free};
	StringInfoData out;

	stream.next_in = (unsigned char *) VARDATA_ANY(in);
	stream.avail_in = VARSIZE_ANY_EXHDR(in);
	initStringInfo(&out);
	if (inflateInit(&stream) != Z_OK || !inflate_all(&stream, &out))
		ereport(ERROR,
				(errcode(ERRCODE_BP_STRUCTURE),
				 errmsg("not a complete zlib stream"),
				 errhint("Let the DAG processor parse the DAG again.")));
	inflateEnd(&stream);
	pg_verifymbstr(out.data, out.len, false);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/* An instant as Python prints it, in UTC. */
static void
append_python_datetime(StringInfo out, TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	appendStringInfo(out, "%04d-%02d-%02d %02d:%02d:%02d", tm.tm_year, tm.tm_mon,
					 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	if (fsec != 0)
		appendStringInfo(out, ".%06d", (int) fsec);
	appendStringInfoString(out, "+00:00");
}

/* SHA-1 of the text, as one large number, modulo divisor. */
static uint32
sha1_modulo(const StringInfo text, uint32 divisor)
{
	uint8		digest[SHA1_DIGEST_LENGTH];
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA1);
	uint64		rest = 0;

	if (ctx == NULL || pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, (uint8 *) text->data, text->len) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-1: %s", pg_cryptohash_error(ctx))));
	pg_cryptohash_free(ctx);
	for (int i = 0; i < SHA1_DIGEST_LENGTH; i++)
		rest = (rest << 8 | digest[i]) % divisor;
	return (uint32) rest;
}

/* Seconds of exponential backoff, with the jitter that Airflow takes from the task's name. */
static int
backoff_seconds(FunctionCallInfo fcinfo, double delay, double multiplier, int try_number)
{
	double		factor = pow(multiplier, try_number - 1);
	double		least = Max(ceil(delay * factor), 1);
	StringInfoData name;

	if (isinf(factor) || !(least < MAX_TASK_RETRY_DELAY))
		return MAX_TASK_RETRY_DELAY;
	initStringInfo(&name);
	appendStringInfo(&name, "%s#%s#", text_to_cstring(PG_GETARG_TEXT_PP(0)),
					 text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (PG_ARGISNULL(2))
		appendStringInfoString(&name, "None");
	else
		append_python_datetime(&name, PG_GETARG_TIMESTAMPTZ(2));
	appendStringInfo(&name, "#%d", try_number);
	return Min((int) least + sha1_modulo(&name, (uint32) least), MAX_TASK_RETRY_DELAY);
}

/*
 * retry_delay(dag_id text, task_id text, logical_date timestamptz, try_number int,
 * delay float8, multiplier float8, max_delay float8) returns interval
 */
Datum
serialized_retry_delay(PG_FUNCTION_ARGS)
{
	double		delay;
	double		multiplier = PG_ARGISNULL(5) ? 0 : PG_GETARG_FLOAT8(5);
	Interval   *result = palloc0(sizeof(Interval));

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3) || PG_ARGISNULL(4))
		PG_RETURN_NULL();
	delay = PG_GETARG_FLOAT8(4);
	if (multiplier > 0 && multiplier != 1)
	{
		delay = backoff_seconds(fcinfo, delay, multiplier, PG_GETARG_INT32(3));
		if (!PG_ARGISNULL(6) && PG_GETARG_FLOAT8(6) != 0)
			delay = Min(delay, PG_GETARG_FLOAT8(6));
	}
	if (!(fabs(delay) < (double) PG_INT64_MAX / USECS_PER_SEC))
		PG_RETURN_NULL();
	result->time = (int64) rint(delay * USECS_PER_SEC);
	PG_RETURN_INTERVAL_P(result);
}
