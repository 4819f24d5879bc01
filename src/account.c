/*
 * account.c - counters of tasks and slots in shared memory.
 *
 * Locks: see account.h.
 */
#include "compat.h"

#include "access/transam.h"
#include "mb/pg_wchar.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "account.h"
#include "guc.h"

static HTAB *names;
static HTAB *classes;
static TenantState *tenants;

/* Pools, queues and executors come on top of the DAGs. */
static long
max_names(void)
{
	return guc_max_dags + guc_max_dags / 10 + 256;
}

int
account_max_classes(void)
{
	return guc_max_dags + guc_max_dags / 2;
}

/* With a quarter as many cohorts, and a default tenant for each database. */
int
account_max_tenants(void)
{
	return guc_max_tenants + guc_max_tenants / 4 + MAX_DATABASES;
}

Size
account_shmem_size(void)
{
	Size		size = hash_estimate_size(max_names(), sizeof(NameEntry));

	size = add_size(size, hash_estimate_size(account_max_classes(), sizeof(ClassEntry)));
	return add_size(size, mul_size(account_max_tenants(), sizeof(TenantState)));
}

void
account_shmem_startup(void)
{
	Size		size = mul_size(account_max_tenants(), sizeof(TenantState));
	bool		found;

	names = shmem_table("airflow_bp names", max_names(), sizeof(NameEntry));
	classes = shmem_table("airflow_bp classes", account_max_classes(), sizeof(ClassEntry));
	tenants = ShmemInitStruct("airflow_bp tenants", size, &found);
	if (!found)
		memset(tenants, 0, size);
}

TenantState *
account_tenant(int tenant)
{
	return tenant == NO_TENANT ? NULL : &tenants[tenant];
}

TenantState *
account_tenant_of(const AdmitNode *node)
{
	return heap_entry(TenantState, node, node);
}

/* Index of a tenant or cohort of this database; NO_TENANT when absent or the array is full. */
int
account_find_tenant(DbState *db, const char *name, bool cohort, bool create)
{
	int			unused = NO_TENANT;

	for (int i = 0; i < account_max_tenants(); i++)
	{
		if (tenants[i].db == db->db && tenants[i].cohort == cohort &&
			strcmp(tenants[i].name, name) == 0)
			return i;
		if (tenants[i].db == InvalidOid && unused == NO_TENANT)
			unused = i;
	}
	if (create && unused != NO_TENANT)
	{
		memset(&tenants[unused], 0, sizeof(TenantState));
		tenants[unused].db = db->db;
		tenants[unused].cohort = cohort;
		tenants[unused].next_due = NO_TENANT;
		strlcpy(tenants[unused].name, name, TENANT_NAME_BYTES);
		tenants[unused].node.name = tenants[unused].name;
		tenants[unused].node.quota = tenants[unused].node.potential = NO_LIMIT;
		return unused;
	}
	return NO_TENANT;
}

Key
account_name_key(NameKind kind, Str text)
{
	return key_of(KEY_NAME + 16 * kind, &text, 1);
}

static NameEntry *
name_intern(NameKind kind, Str text)
{
	Key			key = account_name_key(kind, text);
	bool		found;
	NameEntry  *entry = shmem_enter(names, max_names(), &key, &found);

	if (entry == NULL || found)
		return entry;
	entry->refs = 0;
	entry->flow = (AdmitFlow) {0};
	entry->room = (AdmitRoom) {.limit = NO_LIMIT};
	entry->len = text.len;
	if (text.len >= NAME_BYTES)
		entry->len = pg_mbcliplen(text.data, text.len, NAME_BYTES - 1);
	if (entry->len > 0)
		memcpy(entry->name, text.data, entry->len);
	entry->name[Max(entry->len, 0)] = '\0';
	return entry;
}

static void
name_release(NameEntry *entry)
{
	if (entry != NULL && entry->refs <= 0)
		hash_search(names, &entry->key, HASH_REMOVE, NULL);
}

/* Fill in a new class; false when there is no room for its names. */
static bool
class_init(DbState *db, ClassEntry *class, const Str *strs)
{
	bool		complete = true;

	memset((char *) class + sizeof(Key), 0, sizeof(ClassEntry) - sizeof(Key));
	class->db = db->db;
	class->tenant = NO_TENANT;
	class->first_seen = GetCurrentTimestamp();
	class->drained_from = db->drained_from;
	pg_atomic_init_u32(&class->pins, 0);
	for (int i = 0; i < NUM_NAME_KINDS; i++)
	{
		class->names[i] = name_intern(i, strs[i]);
		if (class->names[i] == NULL)
			complete = false;
	}
	for (int i = 0; i < NUM_NAME_KINDS; i++)
	{
		if (complete)
			class->names[i]->refs++;
		else
			name_release(class->names[i]);
	}
	return complete;
}

ClassEntry *
account_class_by_key(const Key *key)
{
	return hash_search(classes, key, HASH_FIND, NULL);
}

Key
account_class_key(const Str *strs)
{
	return key_of(KEY_CLASS, strs, NUM_NAME_KINDS);
}

/* Does a pinned class have these names?  False also when they may have been cut. */
bool
account_class_is(const ClassEntry *class, const Str *strs)
{
	for (int i = 0; i < NUM_NAME_KINDS; i++)
	{
		const NameEntry *name = class->names[i];

		if (name->len >= NAME_BYTES - MAX_MULTIBYTE_CHAR_LEN ||
			!str_equal(strs[i], (Str) {name->name, name->len}))
			return false;
	}
	return true;
}

static ClassEntry *
class_get(DbState *db, const Key *key, const Str *strs, bool create)
{
	bool		found;
	ClassEntry *class = create ? shmem_enter(classes, account_max_classes(), key, &found) :
		hash_search(classes, key, HASH_FIND, &found);

	if (class == NULL || found)
		return class;
	if (!class_init(db, class, strs))
	{
		hash_search(classes, key, HASH_REMOVE, NULL);
		return NULL;
	}
	db->unresolved++;
	return class;
}

/* Class of these names, made when absent; NULL when there is no room for it. */
ClassEntry *
account_class_by_names(DbState *db, const Str *strs)
{
	Key			key = account_class_key(strs);

	return class_get(db, &key, strs, true);
}

/* Class of this key, made when absent and pinned; NULL when there is no room. */
ClassEntry *
account_pin(DbState *db, const Key *key, const Str *strs)
{
	ClassEntry *class;

	LWLockAcquire(shmem->lock, LW_SHARED);
	class = class_get(db, key, strs, false);
	if (class == NULL)
	{
		LWLockRelease(shmem->lock);
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		class = class_get(db, key, strs, true);
	}
	if (class != NULL)
		pg_atomic_fetch_add_u32(&class->pins, 1);
	LWLockRelease(shmem->lock);
	return class;
}

/* Did a recount see the effects of this transaction, which is over? */
bool
account_seen(const SeenXids *seen, TransactionId xid)
{
	if (!TransactionIdIsValid(xid) || TransactionIdPrecedes(xid, seen->xmin))
		return true;
	if (TransactionIdFollowsOrEquals(xid, seen->xmax))
		return false;
	for (int i = 0; i < seen->count; i++)
	{
		if (seen->xip[i] == xid)
			return false;
	}
	return true;
}

void
account_counts_add(Counts *to, const Counts *delta)
{
	for (int i = 0; i < NUM_UNFINISHED; i++)
	{
		to->tasks[i] += delta->tasks[i];
		to->slots[i] += delta->slots[i];
	}
}

/* Slots that count against the tenant. */
int64
account_charged(const Counts *counts, bool count_deferred)
{
	int64		sum = 0;

	for (int i = 0; i < NUM_UNFINISHED; i++)
	{
		if (task_state_charged(i, count_deferred))
			sum += counts->slots[i];
	}
	return sum;
}

static void
rates_add(DbState *db, ClassEntry *class, const uint32 *n, TimestampTz now)
{
	uint32		minute = (uint32) (now / USECS_PER_MINUTE);
	RateMinute *slot = &class->rates[minute % RATE_MINUTES];
	EntryMinute *entered = &db->entered[minute % RATE_MINUTES];

	if (slot->minute != minute)
		*slot = (RateMinute) {.minute = minute};
	if (entered->minute != minute)
		*entered = (EntryMinute) {.minute = minute};
	for (int i = 0; i < NUM_CLASS_RATES; i++)
		slot->n[i] += n[i];
	for (int i = NUM_CLASS_RATES; i < NUM_RATES; i++)
		entered->n[i - NUM_CLASS_RATES] += n[i];
}

static void
apply_claims(ClassEntry *class, const ClassDelta *delta, TimestampTz now)
{
	if (class->live.tasks[TASK_SCHEDULED] + class->live.tasks[TASK_QUEUED] <= 0)
		age_reset(&class->ages);
	else if (delta->claims > 0)
		age_add(&class->ages, delta->claim_from, delta->claim_to, delta->claims, now);
}

/* A task that was able to start has started or gone. */
void
account_claim_removed(ClassEntry *class, TimestampTz at)
{
	age_remove(&class->ages, at, 1);
}

/* Somebody in the tree of this tenant may go: have the next fill look. */
void
account_due(DbState *db, TenantState *tenant)
{
	TenantState *root = account_tenant_of(admit_root(&tenant->node));

	if (root->due || root->node.waiting == 0)
		return;
	root->due = true;
	root->next_due = db->due;
	db->due = root - tenants;
}

/* Somebody may go anywhere. */
void
account_due_all(DbState *db)
{
	for (int i = 0; i < account_max_tenants(); i++)
	{
		if (tenants[i].db == db->db && tenants[i].node.parent == NULL)
			account_due(db, &tenants[i]);
	}
}

/* What was due has been done, or is to be marked anew. */
void
account_forget_due(DbState *db)
{
	while (db->due != NO_TENANT)
	{
		TenantState *root = account_tenant(db->due);

		db->due = root->next_due;
		root->due = false;
	}
}

/* The pool and the DAG of a class promise room, or need not keep it any more. */
void
account_promise(ClassEntry *class, int64 slots, int64 tasks)
{
	class->names[NAME_POOL]->room.promised += slots;
	class->names[NAME_DAG]->room.promised += tasks;
}

static void
commit_room(ClassEntry *class, const Counts *counts)
{
	for (int i = 0; i < NUM_UNFINISHED; i++)
	{
		if (!task_state_charged(i, false))
			continue;
		class->names[NAME_POOL]->room.committed += counts->slots[i];
		class->names[NAME_DAG]->room.committed += counts->tasks[i];
	}
}

static void
open_room(AdmitRoom *room)
{
	room->limit = NO_LIMIT;
	room->closed = false;
}

static void
clear_room(ClassEntry *class, void *arg)
{
	open_room(&class->names[NAME_POOL]->room);
	open_room(&class->names[NAME_DAG]->room);
}

/* Pools and DAGs have no limit but those that are set again. */
void
account_clear_rooms(DbState *db)
{
	account_each_class(db, clear_room, NULL);
}

/* Limit of a pool in slots, of a DAG in tasks. */
void
account_set_room(NameKind kind, Str name, int64 limit)
{
	Key			key = account_name_key(kind, name);
	NameEntry  *entry = hash_search(names, &key, HASH_FIND, NULL);

	if (entry != NULL)
		entry->room.limit = limit;
}

/* Change one of the parts of what a tenant uses. */
void
account_use(TenantState *tenant, int64 *part, int64 slots)
{
	*part += slots;
	admit_use(&tenant->node, slots);
}

/*
 * Apply what a committed transaction did to one class; since: the running
 * recount does not see it.
 */
void
account_apply(DbState *db, const ClassDelta *delta, bool since, TimestampTz now)
{
	ClassEntry *class = delta->class;
	TenantState *charged = account_tenant(delta->tenant);
	TenantState *tenant = account_tenant(class->tenant);
	int64		change = 0;

	account_counts_add(&class->live, &delta->counts);
	if (since)
		account_counts_add(&class->since, &delta->counts);
	rates_add(db, class, delta->rates, now);
	commit_room(class, &delta->counts);
	account_promise(class, -delta->room_slots, -delta->room_tasks);
	apply_claims(class, delta, now);
	if (charged != NULL)
		account_use(charged, &charged->reserved, -delta->reserved);
	if (tenant != NULL)
	{
		change = account_charged(&delta->counts, tenant->count_deferred);
		account_use(tenant, &tenant->committed, change);
		admit_flow_use(&class->names[NAME_DAG]->flow, change, db->order.half_life, now);
	}
	if (charged != NULL && change < delta->reserved)
		account_due(db, charged);
	if (tenant != NULL && change < delta->reserved)
		account_due(db, tenant);
	if (db->ahead >= 0 && account_charged(&delta->counts, false) < delta->room_slots)
		account_due_all(db);
}

void
account_each_class(DbState *db, ClassVisitor visit, void *arg)
{
	HASH_SEQ_STATUS scan;
	ClassEntry *class;

	hash_seq_init(&scan, classes);
	while ((class = hash_seq_search(&scan)) != NULL)
	{
		if (class->db == db->db)
			visit(class, arg);
	}
}

static void
discharge_class(ClassEntry *class, void *arg)
{
	DbState    *db = arg;
	AdmitFlow  *flow = &class->names[NAME_DAG]->flow;

	admit_flow_use(flow, -flow->slots, db->order.half_life, GetCurrentTimestamp());
	class->names[NAME_POOL]->room.committed = class->names[NAME_DAG]->room.committed = 0;
}

static void
charge_class(ClassEntry *class, void *arg)
{
	DbState    *db = arg;
	TenantState *tenant = account_tenant(class->tenant);
	int64		slots;

	commit_room(class, &class->live);
	if (tenant == NULL)
	{
		db->unresolved += !class->unplaced;
		return;
	}
	slots = account_charged(&class->live, tenant->count_deferred);
	tenant->committed += slots;
	class->names[NAME_DAG]->flow.slots += slots;
}

/* Sum the usage of all tenants and cohorts again from their classes. */
void
account_charge_all(DbState *db)
{
	for (int i = 0; i < account_max_tenants(); i++)
	{
		if (tenants[i].db == db->db)
			tenants[i].committed = 0;
	}
	db->unresolved = 0;
	account_each_class(db, discharge_class, db);
	account_each_class(db, charge_class, db);
	for (int i = 0; i < account_max_tenants(); i++)
	{
		TenantState *tenant = &tenants[i];

		if (tenant->db == db->db)
			tenant->node.usage[ADMIT_USED] = tenant->committed + tenant->reserved + tenant->granted;
	}
	for (int i = 0; i < account_max_tenants(); i++)
	{
		if (tenants[i].db == db->db && tenants[i].node.parent == NULL)
			admit_prepare(&tenants[i].node);
	}
}

static bool
class_idle(const ClassEntry *class)
{
	uint32		minute = (uint32) (GetCurrentTimestamp() / USECS_PER_MINUTE);

	for (int i = 0; i < NUM_UNFINISHED; i++)
	{
		if (class->live.tasks[i] != 0 || class->since.tasks[i] != 0)
			return false;
	}
	for (int i = 0; i < RATE_MINUTES; i++)
	{
		if (class->rates[i].minute + RATE_MINUTES > minute)
			return false;
	}
	return true;
}

static void
class_remove(ClassEntry *class, void *arg)
{
	DbState    *db = arg;

	for (int i = 0; i < NUM_NAME_KINDS; i++)
	{
		class->names[i]->refs--;
		name_release(class->names[i]);
	}
	if (class->tenant == NO_TENANT && !class->unplaced)
		db->unresolved--;
	hash_search(classes, &class->key, HASH_REMOVE, NULL);
}

static void
prune_class(ClassEntry *class, void *arg)
{
	if (pg_atomic_read_u32(&class->pins) == 0 && class_idle(class))
		class_remove(class, arg);
}

/* The database is gone, and with it all who could hold a pin. */
void
account_forget(DbState *db)
{
	account_each_class(db, class_remove, db);
	for (int i = 0; i < account_max_tenants(); i++)
	{
		if (tenants[i].db == db->db)
			tenants[i].db = InvalidOid;
	}
}

/* Forget idle classes when the table is four fifths full. */
void
account_prune(DbState *db)
{
	if (hash_get_num_entries(classes) * 5 > account_max_classes() * 4 ||
		hash_get_num_entries(names) * 5 > max_names() * 4)
		account_each_class(db, prune_class, db);
}
