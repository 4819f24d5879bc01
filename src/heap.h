/*
 * heap.h - an intrusive pairing heap.  Pure: no PostgreSQL.
 *
 * It allocates nothing and keeps no address of a function, so that it can live
 * in shared memory.  Source: M. Fredman, R. Sedgewick, D. Sleator, R. Tarjan,
 * The Pairing Heap: A New Form of Self-Adjusting Heap, 1986.
 */
#ifndef AIRFLOW_BP_HEAP_H
#define AIRFLOW_BP_HEAP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct HeapNode
{
	struct HeapNode *child;		/* first of those below */
	struct HeapNode *next;		/* sibling */
	struct HeapNode *prev;		/* sibling, or the parent of a first child */
} HeapNode;

typedef struct Heap
{
	HeapNode   *top;			/* NULL: empty */
} Heap;

/* Does a go before b? */
typedef bool (*HeapBefore) (const HeapNode *a, const HeapNode *b);

extern void heap_add(Heap *heap, HeapNode *node, HeapBefore before);
extern void heap_remove(Heap *heap, HeapNode *node, HeapBefore before);

#define heap_entry(type, member, node) \
	((type *) ((char *) (node) - offsetof(type, member)))

#endif							/* AIRFLOW_BP_HEAP_H */
