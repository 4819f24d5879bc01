/*
 * locks_graph.c - who waits for whom, from one copy of the contended locks.
 */
#include "locks_graph.h"

#include <stdlib.h>
#include <string.h>

/*
 * What a waiter is led to, as sets of bits, one for each waiter of a lock: the
 * holders, and then those waiters that nobody blocks here, or that wait for
 * other locks as well, as groups may.
 */
typedef struct Reach
{
	uint64_t   *sets;
	int			words;
	int		   *waits;			/* by node: locks that it waits for */
} Reach;

static int
reach_words(const ContendedLock *lock)
{
	return (lock->nholders + lock->nwaiters + 63) / 64;
}

/* Room for locks_graph_edges(). */
size_t
locks_graph_room(const LockGraph *graph)
{
	size_t		most = 0;

	for (int i = 0; i < graph->nlocks; i++)
	{
		const ContendedLock *lock = &graph->locks[i];
		size_t		size = (size_t) lock->nwaiters * reach_words(lock) * sizeof(uint64_t);

		if (size > most)
			most = size;
	}
	return most + graph->nnodes * sizeof(int);
}

static void
set_bit(uint64_t *set, int bit)
{
	set[bit / 64] |= UINT64_C(1) << (bit % 64);
}

/* Add one set to another; false when it was in there. */
static bool
reach_add(Reach *reach, int to, int from)
{
	uint64_t   *into = reach->sets + (size_t) to * reach->words;
	const uint64_t *what = reach->sets + (size_t) from * reach->words;
	bool		news = false;

	for (int i = 0; i < reach->words; i++)
	{
		news |= (what[i] & ~into[i]) != 0;
		into[i] |= what[i];
	}
	return news;
}

static int
edge_add(LockEdge *edges, int n, int from, int to, int lock)
{
	if (edges != NULL)
		edges[n] = (LockEdge) {from, to, lock};
	return n + 1;
}

static int
edges_of_waiter(const LockGraph *graph, int number, int place, Reach *reach, LockEdge *edges, int n)
{
	const ContendedLock *lock = &graph->locks[number];
	const LockWaiter *waiters = &graph->waiters[lock->waiter];
	const LockWaiter *me = &waiters[place];
	uint32_t	conflicts = graph->conflicts[me->mode];
	uint64_t   *mine = reach->sets + (size_t) place * reach->words;
	int			before = n;

	for (int i = 0; i < lock->nholders; i++)
	{
		const LockHolder *holder = &graph->holders[lock->holder + i];

		if (holder->node == me->node || (holder->modes & conflicts) == 0)
			continue;
		set_bit(mine, i);
		n = edge_add(edges, n, me->node, holder->node, number);
	}
	for (int i = place - 1; i >= 0; i--)
	{
		if (waiters[i].node == me->node || (conflicts & (UINT32_C(1) << waiters[i].mode)) == 0)
			continue;
		if (reach_add(reach, place, i) || n == before)
			n = edge_add(edges, n, me->node, waiters[i].node, number);
		/* it is led to all that stand before it and are in my way */
		if (waiters[i].mode == me->mode && reach->waits[waiters[i].node] == 1)
			break;
	}
	if (n == before || reach->waits[me->node] > 1)
		set_bit(mine, lock->nholders + place);
	return n;
}

/* Write the edges, or only count them where edges is NULL. */
int
locks_graph_edges(LockGraph *graph, LockEdge *edges, void *room)
{
	size_t		sets = locks_graph_room(graph) - graph->nnodes * sizeof(int);
	Reach		reach = {.sets = room, .waits = (int *) ((char *) room + sets)};
	int			n = 0;

	memset(reach.waits, 0, graph->nnodes * sizeof(int));
	for (int i = 0; i < graph->nlocks; i++)
	{
		for (int w = 0; w < graph->locks[i].nwaiters; w++)
			reach.waits[graph->waiters[graph->locks[i].waiter + w].node]++;
	}
	for (int i = 0; i < graph->nlocks; i++)
	{
		const ContendedLock *lock = &graph->locks[i];

		reach.words = reach_words(lock);
		memset(reach.sets, 0, (size_t) lock->nwaiters * reach.words * sizeof(uint64_t));
		for (int place = 0; place < lock->nwaiters; place++)
			n = edges_of_waiter(graph, i, place, &reach, edges, n);
	}
	graph->edges = edges;
	graph->nedges = n;
	return n;
}

/* What locks_graph_solve() works with. */
typedef struct Walk
{
	int		   *first;			/* by node that blocks: its edges in into; one more */
	int		   *into;			/* nodes that wait */
	int		   *queue;
	int		   *seen;			/* by node: number of the last walk that met it */
} Walk;

size_t
locks_graph_solve_room(const LockGraph *graph)
{
	return ((size_t) graph->nnodes * 3 + 1 + graph->nedges) * sizeof(int);
}

static int
edge_order(const void *a, const void *b)
{
	const LockEdge *x = a;
	const LockEdge *y = b;

	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	if (x->to != y->to)
		return x->to < y->to ? -1 : 1;
	return (x->lock > y->lock) - (x->lock < y->lock);
}

/* Sort edges by the node that waits, and drop those that say the same. */
static void
sort_edges(LockGraph *graph)
{
	int			n = 0;

	if (graph->nedges > 0)
		qsort(graph->edges, graph->nedges, sizeof(LockEdge), edge_order);
	for (int i = 0; i < graph->nedges; i++)
	{
		LockEdge   *edge = &graph->edges[i];
		LockNode   *node = &graph->nodes[edge->from];

		if (n > 0 && graph->edges[n - 1].from == edge->from && graph->edges[n - 1].to == edge->to)
			continue;
		if (node->nedges++ == 0)
			node->first_edge = n;
		graph->edges[n++] = *edge;
	}
	graph->nedges = n;
}

/* List for each node whom it blocks. */
static void
turn_edges(const LockGraph *graph, Walk *walk)
{
	memset(walk->first, 0, (graph->nnodes + 1) * sizeof(int));
	for (int i = 0; i < graph->nedges; i++)
		walk->first[graph->edges[i].to + 1]++;
	for (int i = 0; i < graph->nnodes; i++)
		walk->first[i + 1] += walk->first[i];
	memcpy(walk->queue, walk->first, graph->nnodes * sizeof(int));
	for (int i = 0; i < graph->nedges; i++)
		walk->into[walk->queue[graph->edges[i].to]++] = graph->edges[i].from;
}

static int
count_waiters(const LockGraph *graph, Walk *walk, int start)
{
	int			n = 0;

	walk->seen[start] = start;
	walk->queue[n++] = start;
	for (int at = 0; at < n; at++)
	{
		int			node = walk->queue[at];

		for (int i = walk->first[node]; i < walk->first[node + 1]; i++)
		{
			int			next = walk->into[i];

			if (walk->seen[next] == start)
				continue;
			walk->seen[next] = start;
			walk->queue[n++] = next;
		}
	}
	return n - 1;
}

/* Put a root and all below it that have no tree yet into the order. */
static int
grow_tree(LockGraph *graph, const Walk *walk, int root, int n)
{
	int			at = n;

	graph->nodes[root].root = root;
	graph->order[n++] = root;
	for (; at < n; at++)
	{
		int			node = graph->order[at];

		for (int i = walk->first[node]; i < walk->first[node + 1]; i++)
		{
			LockNode   *next = &graph->nodes[walk->into[i]];

			if (next->root >= 0)
				continue;
			next->root = root;
			next->depth = graph->nodes[node].depth + 1;
			graph->order[n++] = walk->into[i];
		}
	}
	return n;
}

/* The node without a tree, and blocked by nobody when free, that most wait for; -1: none. */
static int
next_root(const LockGraph *graph, bool free)
{
	int			best = -1;

	for (int i = 0; i < graph->nnodes; i++)
	{
		const LockNode *node = &graph->nodes[i];

		if (node->root < 0 && !(free && node->nedges > 0) &&
			(best < 0 || node->waiters > graph->nodes[best].waiters))
			best = i;
	}
	return best;
}

/* Fill nodes and order from the edges.  What is in a cycle hangs off one of its nodes. */
void
locks_graph_solve(LockGraph *graph, void *room)
{
	Walk		walk = {.first = room};
	int			n = 0;
	int			root;

	walk.queue = walk.first + graph->nnodes + 1;
	walk.seen = walk.queue + graph->nnodes;
	walk.into = walk.seen + graph->nnodes;
	for (int i = 0; i < graph->nnodes; i++)
	{
		graph->nodes[i] = (LockNode) {.root = -1};
		walk.seen[i] = -1;
	}
	sort_edges(graph);
	turn_edges(graph, &walk);
	for (int i = 0; i < graph->nnodes; i++)
		graph->nodes[i].waiters = count_waiters(graph, &walk, i);
	while ((root = next_root(graph, true)) >= 0)
		n = grow_tree(graph, &walk, root, n);
	while ((root = next_root(graph, false)) >= 0)
		n = grow_tree(graph, &walk, root, n);
}
