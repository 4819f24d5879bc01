/*
 * locks_graph.h - who waits for whom, from one copy of the contended locks.
 *
 * Pure: no PostgreSQL, no memory of its own.  A node is a lock group: a session
 * with its parallel workers, or a prepared transaction.  An edge says that one
 * is blocked by another.
 *
 * A waiter is blocked by whoever holds the lock in conflict with it, and by who
 * asks for it in conflict and stands before it in the queue.  Edges of the
 * second kind grow with the square of the queue, so only those are made that
 * lead to a holder which no other edge of the waiter leads to.  What a node can
 * be led to is the same as with all of them.
 */
#ifndef AIRFLOW_BP_LOCKS_GRAPH_H
#define AIRFLOW_BP_LOCKS_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Modes are bits 1 << mode, as in PostgreSQL. */
typedef struct LockHolder
{
	int			node;
	uint32_t	modes;
} LockHolder;

typedef struct LockWaiter
{
	int			node;
	int			mode;
} LockWaiter;

/* A lock that somebody waits for: pieces of two arrays, waiters in the order of the queue. */
typedef struct ContendedLock
{
	int			holder;
	int			nholders;
	int			waiter;
	int			nwaiters;
} ContendedLock;

typedef struct LockEdge
{
	int			from;			/* node that waits */
	int			to;				/* node that blocks it */
	int			lock;
} LockEdge;

typedef struct LockNode
{
	int			waiters;		/* nodes whose edges lead here, at any distance */
	int			root;			/* of its tree; itself: blocked by nobody, or first of a cycle */
	int			depth;			/* edges to the root; 0: root */
	int			first_edge;		/* edges that say what blocks it */
	int			nedges;
} LockNode;

typedef struct LockGraph
{
	const uint32_t *conflicts;	/* by mode: modes that conflict with it */
	const LockHolder *holders;
	const LockWaiter *waiters;
	const ContendedLock *locks;
	int			nlocks;
	int			nnodes;
	LockNode   *nodes;			/* of the caller, as many as nnodes */
	LockEdge   *edges;			/* of the caller; by node that waits after locks_graph_solve() */
	int			nedges;
	int		   *order;			/* of the caller: roots with most waiters first, each with its tree */
} LockGraph;

extern size_t locks_graph_room(const LockGraph *graph);
extern int	locks_graph_edges(LockGraph *graph, LockEdge *edges, void *room);
extern size_t locks_graph_solve_room(const LockGraph *graph);
extern void locks_graph_solve(LockGraph *graph, void *room);

#endif							/* AIRFLOW_BP_LOCKS_GRAPH_H */
