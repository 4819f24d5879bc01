/*
 * admit.h - who may start: quotas, shares, lines and the order of admission.
 *
 * Pure: no PostgreSQL, no clock, no memory of its own.  The caller owns all
 * structures and sees to it that one at a time works on a tree.  Amounts are
 * slots, instants microseconds.
 *
 * Nodes form trees: tenants are leaves, cohorts lend between those below them,
 * a tenant without cohort is a tree of its own.  The formulas are those of
 * Kueue (kubernetes-sigs/kueue, keps/79-hierarchical-cohorts) and of dominant
 * resource fairness with weights (A. Ghodsi and others, 2011) for one resource.
 */
#ifndef AIRFLOW_BP_ADMIT_H
#define AIRFLOW_BP_ADMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "heap.h"

#define NO_LIMIT INT64_MAX
#define ADMIT_MAX_DEPTH 33		/* nodes from a tenant to its root */
#define ADMIT_WEIGHT_ONE INT64_C(1000000000)

typedef enum AdmitMode
{
	MODE_UNKNOWN,				/* after a start, until the policy is compiled */
	MODE_OFF,
	MODE_OBSERVE,
	MODE_ENFORCE,
} AdmitMode;

/* Why a task is held; REASON_NONE admits it. */
typedef enum AdmitReason
{
	REASON_NONE,
	REASON_STARTING,
	REASON_DRAIN,
	REASON_QUOTA,
	REASON_ORDER,
	REASON_NEVER_FITS,
	REASON_POOL,				/* no room in its pool */
	REASON_DAG,					/* no room in its DAG */
} AdmitReason;

/* Usage as it is, and with what is reserved for those who lent (during a fill). */
typedef enum AdmitView
{
	ADMIT_USED, ADMIT_CLAIMED, NUM_ADMIT_VIEWS
} AdmitView;

typedef struct AdmitShape AdmitShape;

typedef struct AdmitNode
{
	/* policy */
	struct AdmitNode *parent;	/* NULL: a root */
	struct AdmitNode *child;	/* first of those below, in order of name */
	struct AdmitNode *next;		/* sibling */
	const char *name;
	int64_t		nominal;		/* NO_LIMIT: unlimited, only for a lone tenant */
	int64_t		borrowing_limit;	/* NO_LIMIT: none */
	int64_t		lending_limit;	/* NO_LIMIT: none */
	int64_t		weight;			/* in units of 1 / ADMIT_WEIGHT_ONE */
	bool		best_effort;	/* a tenant's tasks may pass a head that does not fit */

	/* made of it by admit_prepare() */
	int64_t		quota;
	int64_t		kept;			/* of the quota, never lent */
	int64_t		potential;		/* most that could ever be available */

	int64_t		usage[NUM_ADMIT_VIEWS];
	int64_t		waiting;		/* tasks in line at or below it */
	AdmitShape *shapes;			/* of a tenant */

	/* during a fill */
	Heap		contest;		/* children, or the shapes of a tenant */
	HeapNode	place;			/* in the contest of its parent */
	bool		contends;
	AdmitShape *refused;		/* the first of its shapes did not fit */
	int64_t		claim;			/* slots that this one waits for inside the quota */
	int64_t		claims;			/* of a root: how many tenants below have one */
	bool		claims_stale;	/* of a root: ADMIT_CLAIMED is to be made anew */
	AdmitShape *head;			/* shape whose task would be admitted */
	int64_t		entering;		/* by how much that would raise the usage */
	bool		overdue;		/* the head's tenant uses nothing, and the head has all of its age */
} AdmitNode;

/* Tasks of one DAG, where the DAGs of a tenant share by their decayed usage. */
typedef struct AdmitFlow
{
	double		usage;			/* decayed average of slots at instant at */
	int64_t		slots;			/* used since then */
	int64_t		at;
} AdmitFlow;

/* What a pool can take, in slots, or a DAG, in tasks; who would not be served is not admitted. */
typedef struct AdmitRoom
{
	int64_t		limit;			/* NO_LIMIT: none */
	int64_t		committed;
	int64_t		promised;		/* to grants and open admissions */
	bool		closed;			/* the first that waits did not fit: nobody passes it */
} AdmitRoom;

/* Waiting tasks of a tenant that differ only in age. */
struct AdmitShape
{
	AdmitNode  *tenant;
	AdmitFlow  *flow;			/* NULL: usage does not matter */
	AdmitRoom  *pool;			/* NULL: room does not matter */
	AdmitRoom  *dag;
	AdmitShape *next;			/* of the same tenant */
	int64_t		priority;
	int64_t		slots;
	int64_t		waiting;
	Heap		tasks;			/* oldest first */
	int64_t		aged_from;		/* no task ages from before this */
	int64_t		to_age;			/* admissions until aged_from is set anew */

	/* during a fill */
	HeapNode	place;			/* in the contest of its tenant */
	int64_t		effective;		/* priority with age, in thousandths */
	double		flow_usage;
};

typedef struct AdmitTask
{
	HeapNode	place;			/* in its shape */
	AdmitShape *shape;			/* NULL: not in line */
	int64_t		asked;			/* first asked */
	uint64_t	tie;
} AdmitTask;

/* How the tasks of a tenant are put in order. */
typedef struct AdmitOrder
{
	int64_t		max_age;		/* age at which a task has all of age_priority; 0: no ageing */
	int64_t		age_priority;
	int64_t		age_tasks;		/* of each shape, how many age at a time */
	int64_t		half_life;		/* of the usage of a flow; 0: usage does not matter */
} AdmitOrder;

typedef struct AdmitFill
{
	AdmitOrder	order;
	int64_t		now;
	int64_t		largest;		/* slots of any task in line */
	Heap		contest;		/* of the roots */
} AdmitFill;

static inline int64_t
admit_above(int64_t amount, int64_t limit)
{
	return amount > limit ? amount - limit : 0;
}

/* Tree */
extern void admit_link(AdmitNode *node, AdmitNode *parent);	/* in descending order of name */
extern void admit_prepare(AdmitNode *root);
extern AdmitNode *admit_first(AdmitNode *root);
extern AdmitNode *admit_next(const AdmitNode *node, const AdmitNode *root);
extern AdmitNode *admit_root(AdmitNode *node);
extern AdmitNode *admit_use_in(AdmitNode *tenant, int64_t slots, AdmitView view);
extern void admit_use(AdmitNode *tenant, int64_t slots);
extern int64_t admit_free(const AdmitNode *node, AdmitView view);
extern int64_t admit_available(const AdmitNode *node);
extern int64_t admit_borrowed(const AdmitNode *node);
extern double admit_share(const AdmitNode *node);
extern int64_t admit_weight(double weight);

/* Rooms */
extern bool admit_room_fits(const AdmitRoom *room, int64_t amount);

/* Verdict */
extern AdmitReason admit_verdict(const AdmitNode *tenant, int64_t slots, bool in_line, bool alone);
extern AdmitMode admit_mode(AdmitMode deployment, AdmitMode tenant, bool may_enforce);
extern const char *admit_reason_name(AdmitReason reason);
extern const char *admit_mode_name(AdmitMode mode);

/* Lines */
extern void admit_shape_init(AdmitShape *shape, AdmitNode *tenant, AdmitFlow *flow,
							 int64_t priority, int64_t slots);
extern void admit_shape_unlink(AdmitShape *shape);
extern void admit_enter(AdmitShape *shape, AdmitTask *task);
extern void admit_leave(AdmitTask *task);
extern AdmitTask *admit_head(const AdmitNode *tenant, const AdmitOrder *order, int64_t now);
extern double admit_flow_usage(const AdmitFlow *flow, int64_t half_life, int64_t now);
extern void admit_flow_use(AdmitFlow *flow, int64_t slots, int64_t half_life, int64_t now);

/* Fill */
extern void admit_fill_begin(AdmitFill *fill, const AdmitOrder *order, int64_t now);
extern void admit_fill_add(AdmitFill *fill, AdmitNode *root);
extern AdmitTask *admit_fill_next(AdmitFill *fill);
extern AdmitReason admit_fill_reason(AdmitNode *tenant, int64_t slots);

#endif							/* AIRFLOW_BP_ADMIT_H */
