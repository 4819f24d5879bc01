/*
 * heap_test.c - the heap against a plain array.
 */
#include "heap.h"

#include "tap.h"

#define ROOM 64
#define STEPS 200000
#define LONG 100000

typedef struct Item
{
	HeapNode	place;
	int64_t		key;
	bool		in;
} Item;

static bool
item_before(const HeapNode *a, const HeapNode *b)
{
	const Item *x = heap_entry(const Item, place, a);
	const Item *y = heap_entry(const Item, place, b);

	return x->key != y->key ? x->key < y->key : x < y;
}

/* The nodes below one, with links both ways; -1 when one is not as it must be. */
static int
sound_below(const HeapNode *node)
{
	const HeapNode *prev = node;
	int			count = 0;

	for (const HeapNode *child = node->child; child != NULL; prev = child, child = child->next)
	{
		int			below = sound_below(child);

		if (below < 0 || child->prev != prev || item_before(child, node))
			return -1;
		count += 1 + below;
	}
	return count;
}

/* As many as there must be, and the first on top. */
static bool
sound(const Heap *heap, const Item *items)
{
	const Item *first = NULL;
	int			count = 0;

	for (const Item *item = items; item < items + ROOM; item++)
	{
		count += item->in;
		if (item->in && (first == NULL || item_before(&item->place, &first->place)))
			first = item;
	}
	if (count == 0)
		return heap->top == NULL;
	return heap->top == &first->place && 1 + sound_below(heap->top) == count;
}

static void
test_random(void)
{
	static Item items[ROOM];
	Heap		heap = {NULL};
	bool		always = true;

	for (int i = 0; i < STEPS; i++)
	{
		/* Mostly full at times, mostly empty at others. */
		int			lean = i / 1000 % 2 ? 3 : 1;
		Item	   *item = &items[tap_random(ROOM)];

		if (!item->in && tap_random(4) < lean)
		{
			item->key = tap_random(ROOM);
			heap_add(&heap, &item->place, item_before);
			item->in = true;
		}
		else if (item->in && tap_random(4) < 4 - lean)
		{
			heap_remove(&heap, &item->place, item_before);
			item->in = false;
		}
		always &= sound(&heap, items);
	}
	ok(always, "first on top and all there after each of many adds and removes");
}

static void
test_sort(void)
{
	static Item items[LONG];
	Heap		heap = {NULL};
	int64_t		last = -1;
	int			count = 0;
	bool		sorted = true;

	for (int i = 0; i < LONG; i++)
	{
		items[i].key = tap_random(LONG);
		heap_add(&heap, &items[i].place, item_before);
	}
	for (; heap.top != NULL; count++)
	{
		Item	   *item = heap_entry(Item, place, heap.top);

		sorted &= item->key >= last;
		last = item->key;
		heap_remove(&heap, &item->place, item_before);
	}
	ok(sorted && count == LONG, "a long one comes out in order");
}

int
main(void)
{
	tap_seed();
	test_random();
	test_sort();
	return tap_done();
}
