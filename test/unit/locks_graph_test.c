/*
 * locks_graph_test.c - trees of who waits for whom.
 *
 * Random locks are compared with the whole graph, which has an edge for each
 * pair that is in the way of each other, as pg_blocking_pids() has: the roots
 * that a node can be led to must be the same.
 */
#include "locks_graph.h"

#include <string.h>

#include "tap.h"

#define MAX_NODES 40
#define MAX_LOCKS 12
#define MAX_ENTRIES 2000
#define ACCESS_EXCLUSIVE 8

/* PostgreSQL's, by mode. */
static const uint32_t conflicts[] = {
	0,
	1 << 8,
	1 << 7 | 1 << 8,
	1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
	1 << 4 | 1 << 6 | 1 << 7 | 1 << 8,
	1 << 3 | 1 << 6 | 1 << 7 | 1 << 8,
	1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
	1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
	0x1fe
};

typedef struct Scene
{
	LockHolder	holders[MAX_ENTRIES];
	LockWaiter	waiters[MAX_ENTRIES];
	ContendedLock locks[MAX_LOCKS];
	int			nholders;
	int			nwaiters;
	LockNode	nodes[MAX_NODES];
	int			order[MAX_NODES];
	LockEdge   *edges;
	LockGraph	graph;
} Scene;

static Scene scene;

static void
scene_begin(int nnodes)
{
	free(scene.edges);
	memset(&scene, 0, sizeof(scene));
	scene.graph.nnodes = nnodes;
}

static void
add_lock(void)
{
	scene.locks[scene.graph.nlocks++] = (ContendedLock) {.holder = scene.nholders, .waiter = scene.nwaiters};
}

static void
add_holder(int node, uint32_t modes)
{
	scene.holders[scene.nholders++] = (LockHolder) {node, modes};
	scene.locks[scene.graph.nlocks - 1].nholders++;
}

static void
add_waiter(int node, int mode)
{
	scene.waiters[scene.nwaiters++] = (LockWaiter) {node, mode};
	scene.locks[scene.graph.nlocks - 1].nwaiters++;
}

static LockGraph *
scene_solve(void)
{
	LockGraph  *graph = &scene.graph;
	void	   *room;

	graph->conflicts = conflicts;
	graph->holders = scene.holders;
	graph->waiters = scene.waiters;
	graph->locks = scene.locks;
	graph->nodes = scene.nodes;
	graph->order = scene.order;
	room = malloc(locks_graph_room(graph) + 1);
	scene.edges = malloc(sizeof(LockEdge) * (locks_graph_edges(graph, NULL, room) + 1));
	locks_graph_edges(graph, scene.edges, room);
	free(room);
	room = malloc(locks_graph_solve_room(graph));
	locks_graph_solve(graph, room);
	free(room);
	return graph;
}

static bool
blocked_by(int node, int by)
{
	const LockNode *of = &scene.nodes[node];

	for (int i = 0; i < of->nedges; i++)
	{
		if (scene.edges[of->first_edge + i].to == by)
			return true;
	}
	return false;
}

/* A row that many want: one waits for the transaction, the others for the tuple that it has locked. */
static void
test_convoy(void)
{
	LockGraph  *graph;

	scene_begin(30);
	add_lock();
	add_holder(0, 1 << 7);
	add_waiter(1, 5);
	add_lock();
	add_holder(1, 1 << 7);
	for (int i = 2; i < 30; i++)
		add_waiter(i, 7);
	graph = scene_solve();
	ok(graph->nedges == 29, "convoy: one edge for each waiter");
	ok(scene.nodes[0].waiters == 29 && scene.nodes[1].waiters == 28 && scene.nodes[5].waiters == 0,
	   "all wait for the root, and all but one for the first");
	ok(scene.nodes[0].depth == 0 && scene.nodes[1].depth == 1 && scene.nodes[29].depth == 2 &&
	   scene.nodes[29].root == 0, "depths");
	ok(scene.order[0] == 0 && scene.order[1] == 1, "the root comes first");
}

/* Readers wait behind one who asks for all, and he for one who reads. */
static void
test_queue(void)
{
	scene_begin(4);
	add_lock();
	add_holder(0, 1 << 1);
	add_waiter(1, ACCESS_EXCLUSIVE);
	add_waiter(2, 1);
	add_waiter(3, 1);
	scene_solve();
	ok(blocked_by(1, 0) && blocked_by(2, 1) && blocked_by(3, 1) && !blocked_by(3, 2) && !blocked_by(2, 0),
	   "who stands before in conflict blocks");
	ok(scene.nodes[0].waiters == 3 && scene.nodes[3].root == 0 && scene.nodes[3].depth == 2, "up to the root");
}

/* A waiter whose own blocker is not all that is before it. */
static void
test_two_roots(void)
{
	scene_begin(4);
	add_lock();
	add_holder(0, 1 << 3);		/* row exclusive: in the way of share */
	add_holder(1, 1 << 1);		/* access share: in the way of access exclusive */
	add_waiter(2, ACCESS_EXCLUSIVE);
	add_waiter(3, 5);			/* share: behind 2, and in conflict with 0 */
	scene_solve();
	ok(blocked_by(3, 0) && blocked_by(3, 2), "an edge to who stands before, as that leads to another holder");
	ok(scene.nodes[1].waiters == 2 && scene.nodes[0].waiters == 2, "both roots have both waiters");
}

static void
test_cycle(void)
{
	scene_begin(3);
	add_lock();
	add_holder(0, 1 << 7);
	add_waiter(1, 5);
	add_lock();
	add_holder(1, 1 << 7);
	add_waiter(0, 5);
	add_waiter(2, 5);
	scene_solve();
	ok(scene.nodes[0].root == scene.nodes[1].root && scene.nodes[2].root == scene.nodes[0].root, "a cycle is one tree");
	ok(scene.nodes[scene.nodes[0].root].nedges > 0 && scene.nodes[2].root != 2, "its root is itself blocked");
	ok(scene.nodes[0].waiters == 2 && scene.nodes[2].waiters == 0, "nobody waits for himself");
}

/* The parallel workers of one session are not in each other's way. */
static void
test_group(void)
{
	scene_begin(2);
	add_lock();
	add_holder(0, 1 << 8);
	add_waiter(0, 1);
	add_waiter(1, 1);
	scene_solve();
	ok(scene.nodes[0].nedges == 0 && blocked_by(1, 0), "a group does not block itself");
}

/* The whole graph by the rule alone, closed over all distances. */
static void
whole_graph(bool reach[MAX_NODES][MAX_NODES])
{
	memset(reach, 0, sizeof(bool) * MAX_NODES * MAX_NODES);
	for (int l = 0; l < scene.graph.nlocks; l++)
	{
		const ContendedLock *lock = &scene.locks[l];

		for (int w = 0; w < lock->nwaiters; w++)
		{
			LockWaiter	me = scene.waiters[lock->waiter + w];

			for (int h = 0; h < lock->nholders; h++)
			{
				if ((scene.holders[lock->holder + h].modes & conflicts[me.mode]) && scene.holders[lock->holder + h].node != me.node)
					reach[me.node][scene.holders[lock->holder + h].node] = true;
			}
			for (int b = 0; b < w; b++)
			{
				LockWaiter	before = scene.waiters[lock->waiter + b];

				if ((conflicts[me.mode] & 1 << before.mode) && before.node != me.node)
					reach[me.node][before.node] = true;
			}
		}
	}
	for (int k = 0; k < scene.graph.nnodes; k++)
		for (int i = 0; i < scene.graph.nnodes; i++)
			for (int j = 0; j < scene.graph.nnodes; j++)
				reach[i][j] |= reach[i][k] && reach[k][j];
}

static void
random_scene(void)
{
	int			nodes = 2 + (int) tap_random(MAX_NODES - 2);
	bool		waits[MAX_NODES] = {0};
	int			locks = 1 + (int) tap_random(MAX_LOCKS - 1);

	scene_begin(nodes);
	for (int l = 0; l < locks; l++)
	{
		int			nwaiters = 1 + (int) tap_random(6);

		add_lock();
		for (int h = 0; h < nodes; h++)
		{
			if (tap_random(6) == 0)
				add_holder(h, 1 << (1 + tap_random(8)) | (tap_random(3) == 0 ? 1 << (1 + tap_random(8)) : 0));
		}
		for (int w = 0; w < nwaiters; w++)
		{
			int			node = (int) tap_random(nodes);

			/* a process waits for one lock; groups may for several */
			if (!waits[node] || tap_random(10) == 0)
				add_waiter(node, 1 + (int) tap_random(8));
			waits[node] = true;
		}
	}
}

static bool
same_roots(void)
{
	static bool whole[MAX_NODES][MAX_NODES];
	static bool ours[MAX_NODES][MAX_NODES];
	int			n = scene.graph.nnodes;
	bool		same = true;

	whole_graph(whole);
	memset(ours, 0, sizeof(ours));
	for (int i = 0; i < scene.graph.nedges; i++)
		ours[scene.edges[i].from][scene.edges[i].to] = true;
	for (int k = 0; k < n; k++)
		for (int i = 0; i < n; i++)
			for (int j = 0; j < n; j++)
				ours[i][j] |= ours[i][k] && ours[k][j];
	for (int j = 0; j < n; j++)
	{
		bool		root = true;

		for (int i = 0; i < n; i++)
			root &= !whole[j][i];
		for (int i = 0; i < n && root; i++)
			same &= whole[i][j] == ours[i][j];
	}
	for (int i = 0; i < n; i++)
	{
		bool		blocked = false;

		for (int j = 0; j < n; j++)
		{
			blocked |= whole[i][j];
			same &= !ours[i][j] || whole[i][j];
		}
		same &= blocked == (scene.nodes[i].nedges > 0);
	}
	return same;
}

static bool
sound(void)
{
	int			met[MAX_NODES] = {0};
	bool		good = true;

	for (int i = 0; i < scene.graph.nnodes; i++)
	{
		const LockNode *node = &scene.nodes[scene.order[i]];

		met[scene.order[i]]++;
		good &= node->root >= 0 && (node->depth == 0) == (node->root == scene.order[i]);
	}
	for (int i = 0; i < scene.graph.nnodes; i++)
		good &= met[i] == 1;
	return good;
}

static void
test_random(void)
{
	int			same = 0;
	int			good = 0;
	int			rounds = 20000;

	for (int i = 0; i < rounds; i++)
	{
		random_scene();
		scene_solve();
		same += same_roots();
		good += sound();
	}
	printf("# %d of %d the same, %d sound\n", same, rounds, good);
	ok(same == rounds, "random locks: the same roots as in the whole graph");
	ok(good == rounds, "each node is once in the order, under a root");
}

int
main(void)
{
	tap_seed();
	test_convoy();
	test_queue();
	test_two_roots();
	test_cycle();
	test_group();
	test_random();
	free(scene.edges);
	return tap_done();
}
