/*
 * heap.c - an intrusive pairing heap.  Pure: no PostgreSQL.
 */
#include "heap.h"

/* Two heaps become one; each may be NULL. */
static HeapNode *
merge(HeapNode *a, HeapNode *b, HeapBefore before)
{
	if (a == NULL || b == NULL)
		return a == NULL ? b : a;
	if (before(b, a))
	{
		HeapNode   *swap = a;

		a = b;
		b = swap;
	}
	b->next = a->child;
	if (b->next != NULL)
		b->next->prev = b;
	b->prev = a;
	a->child = b;
	a->next = a->prev = NULL;
	return a;
}

/* Pairs from the left, then all from the right: this is what makes it fast. */
static HeapNode *
merge_siblings(HeapNode *first, HeapBefore before)
{
	HeapNode   *pairs = NULL;
	HeapNode   *all = NULL;

	while (first != NULL)
	{
		HeapNode   *second = first->next;
		HeapNode   *rest = second == NULL ? NULL : second->next;
		HeapNode   *pair = merge(first, second, before);

		pair->next = pairs;
		pairs = pair;
		first = rest;
	}
	while (pairs != NULL)
	{
		HeapNode   *next = pairs->next;

		all = merge(all, pairs, before);
		pairs = next;
	}
	return all;
}

void
heap_add(Heap *heap, HeapNode *node, HeapBefore before)
{
	node->child = node->next = node->prev = NULL;
	heap->top = merge(heap->top, node, before);
}

void
heap_remove(Heap *heap, HeapNode *node, HeapBefore before)
{
	HeapNode   *below = merge_siblings(node->child, before);

	if (node == heap->top)
	{
		heap->top = below;
		return;
	}
	if (node->prev->child == node)
		node->prev->child = node->next;
	else
		node->prev->next = node->next;
	if (node->next != NULL)
		node->next->prev = node->prev;
	heap->top = merge(heap->top, below, before);
}
