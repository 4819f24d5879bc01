/*
 * account.h - counters of tasks and slots in shared memory.
 *
 * A class is a distinct (dag_id, pool, queue, executor).  Each class counts its
 * unfinished tasks and their slots by state, and belongs to one tenant; sums
 * over classes give every scope of queue() and the usage of every tenant.
 *
 * All of it is protected by shmem->lock, exclusive to write and shared to read.
 * Entries do not move.  A class goes only when it counts nothing and nobody
 * holds a pin.
 */
#ifndef AIRFLOW_BP_ACCOUNT_H
#define AIRFLOW_BP_ACCOUNT_H

#include "admit.h"
#include "age.h"
#include "catalog.h"
#include "shmem.h"

#define NAME_BYTES 256			/* longer names are cut for display only */
#define TENANT_NAME_BYTES 64

typedef enum NameKind
{
	NAME_DAG, NAME_POOL, NAME_QUEUE, NAME_EXECUTOR, NUM_NAME_KINDS
} NameKind;

typedef struct NameEntry
{
	Key			key;
	int32		refs;			/* classes that use it */
	int32		len;			/* -1: NULL */
	AdmitFlow	flow;			/* of a DAG */
	AdmitRoom	room;			/* of a pool or a DAG */
	char		name[NAME_BYTES];
} NameEntry;

typedef struct Counts
{
	int32		tasks[NUM_UNFINISHED];
	int64		slots[NUM_UNFINISHED];
} Counts;

/*
 * Transitions: into existence or cleared; to running; to a finished state; and
 * of the whole database only, to scheduled; to queued.
 */
typedef enum RateKind
{
	RATE_ARRIVED, RATE_STARTED, RATE_FINISHED, NUM_CLASS_RATES,
	RATE_ADMITTED = NUM_CLASS_RATES, RATE_QUEUED, NUM_RATES
} RateKind;

/* Transitions of one class in one minute of the clock. */
typedef struct RateMinute
{
	uint32		minute;			/* minutes since 2000-01-01 */
	uint32		n[NUM_CLASS_RATES];
} RateMinute;

typedef struct ClassEntry
{
	Key			key;
	Oid			db;
	int32		tenant;			/* index, or NO_TENANT until the worker says */
	bool		unplaced;		/* its tenant found no place: admit */
	NameEntry  *names[NUM_NAME_KINDS];
	TimestampTz first_seen;
	int64		drained_from;	/* by all drains over it; drain_state.h */
	pg_atomic_uint32 pins;		/* open transactions with deltas of it */
	Counts		live;
	Counts		since;			/* deltas that the running recount does not see */
	RateMinute	rates[RATE_MINUTES];
	AgeSketch	ages;			/* scheduled_dttm of scheduled and queued tasks */
} ClassEntry;

/* A tenant or a cohort. */
typedef struct TenantState
{
	Oid			db;				/* InvalidOid: free */
	char		name[TENANT_NAME_BYTES];
	bool		cohort;
	bool		listed;			/* in the compiled policy; else it only drains */
	AdmitMode	mode;			/* MODE_UNKNOWN: that of the deployment */
	bool		count_deferred;
	AdmitNode	node;			/* a tenant uses the sum of the next three */
	int64		committed;		/* slots used by committed tasks */
	int64		reserved;		/* used by admissions of open transactions */
	int64		granted;		/* promised to held tasks */
	int64		admitted_total;
	int64		held_total;
	bool		due;			/* of a root: a fill may admit somebody */
	int32		next_due;		/* index, or NO_TENANT */
} TenantState;

/* Change of one class in one open (sub)transaction. */
typedef struct ClassDelta
{
	ClassEntry *class;
	int			level;			/* nesting level */
	int			tenant;			/* who was charged, or NO_TENANT */
	int64		reserved;		/* slots */
	int64		room_slots;		/* promised by the pool */
	int64		room_tasks;		/* promised by the DAG */
	Counts		counts;
	uint32		rates[NUM_RATES];
	TimestampTz claim_from;		/* instants that enter the sketch */
	TimestampTz claim_to;
	int32		claims;
} ClassDelta;

extern Size account_shmem_size(void);
extern void account_shmem_startup(void);
extern int	account_max_tenants(void);
extern int	account_max_classes(void);

extern Key	account_name_key(NameKind kind, Str text);
extern Key	account_class_key(const Str *strs);
extern bool account_class_is(const ClassEntry *class, const Str *strs);
extern ClassEntry *account_pin(DbState *db, const Key *key, const Str *strs);
extern TenantState *account_tenant(int tenant);
extern TenantState *account_tenant_of(const AdmitNode *node);
extern int	account_find_tenant(DbState *db, const char *name, bool cohort, bool create);

/* The caller of these holds shmem->lock exclusively. */
extern void account_use(TenantState *tenant, int64 *part, int64 slots);
extern void account_due(DbState *db, TenantState *tenant);
extern void account_due_all(DbState *db);
extern void account_forget_due(DbState *db);
extern void account_promise(ClassEntry *class, int64 slots, int64 tasks);
extern void account_clear_rooms(DbState *db);
extern void account_set_room(NameKind kind, Str name, int64 limit);
extern void account_apply(DbState *db, const ClassDelta *delta, bool since, TimestampTz now);
extern void account_claim_removed(ClassEntry *class, TimestampTz at);
extern void account_counts_add(Counts *to, const Counts *delta);
extern int64 account_charged(const Counts *counts, bool count_deferred);
extern void account_charge_all(DbState *db);
extern void account_prune(DbState *db);
extern void account_forget(DbState *db);

/* Calls visit for each class of the database.  The caller holds shmem->lock. */
typedef void (*ClassVisitor) (ClassEntry *class, void *arg);
extern void account_each_class(DbState *db, ClassVisitor visit, void *arg);
extern bool account_seen(const SeenXids *seen, TransactionId xid);
extern ClassEntry *account_class_by_key(const Key *key);
extern ClassEntry *account_class_by_names(DbState *db, const Str *names);

#endif							/* AIRFLOW_BP_ACCOUNT_H */
