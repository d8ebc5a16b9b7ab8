// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests only: structures of a known shape, good and corrupted, for the walkers of `probes`; and a function that
 * is called as often as is asked for, for the rings.
 *
 * The tests find them by their symbols. Nothing of the kernel's own uses them: what is corrupted is put right, or
 * left alone, when the module goes.
 */
#include <linux/idr.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/maple_tree.h>
#include <linux/module.h>
#include <linux/plist.h>
#include <linux/rbtree.h>
#include <linux/skbuff.h>
#include <linux/xarray.h>

enum { ITEMS = 500, RANGES = 2000, ENTRIES = 300 };

struct item {
	u64 key;
	struct list_head list;
	struct hlist_node hlist;
	struct llist_node llist;
	struct plist_node plist;
	struct rb_node rb;
};

/* Where in an item each node is; there is no BTF of this module. */
u64 klab_test_offsets[] = {
	offsetof(struct item, list),  offsetof(struct item, hlist), offsetof(struct item, llist),
	offsetof(struct item, plist), offsetof(struct item, rb),
};

static struct item items[ITEMS];

struct list_head klab_test_list, klab_test_list_empty, klab_test_list_single;
static struct item single;
struct hlist_head klab_test_hlist, klab_test_hlist_empty;
struct llist_head klab_test_llist;
struct plist_head klab_test_plist;
struct rb_root klab_test_rb = RB_ROOT, klab_test_rb_empty = RB_ROOT;

/* Three items each; the middle one is wrong. */
struct list_head klab_test_list_prev, klab_test_list_loop, klab_test_list_null, klab_test_list_poison,
	klab_test_list_odd;
struct hlist_head klab_test_hlist_pprev;
struct plist_head klab_test_plist_order;
struct rb_root klab_test_rb_red = RB_ROOT, klab_test_rb_parent = RB_ROOT;
static struct item wrong[10][3];

DEFINE_MTREE(klab_test_maple);
DEFINE_MTREE(klab_test_maple_empty);
DEFINE_MTREE(klab_test_maple_single);
DEFINE_MTREE(klab_test_maple_pivots);
DEFINE_XARRAY(klab_test_xarray);
DEFINE_XARRAY(klab_test_xarray_empty);
DEFINE_XARRAY(klab_test_xarray_count);
DEFINE_IDR(klab_test_idr);

struct sk_buff *klab_test_skb, *klab_test_skb_clone;

static void insert(struct rb_root *root, struct item *item)
{
	struct rb_node **at = &root->rb_node, *parent = NULL;

	while (*at) {
		parent = *at;
		at = item->key < rb_entry(parent, struct item, rb)->key ? &parent->rb_left : &parent->rb_right;
	}
	rb_link_node(&item->rb, parent, at);
	rb_insert_color(&item->rb, root);
}

/* plist_add() is not exported; this is it for one that is not more urgent than any before it. */
static void append(struct plist_head *head, struct plist_node *node)
{
	if (!plist_head_empty(head) && plist_last(head)->prio != node->prio)
		list_add_tail(&node->prio_list, &plist_first(head)->prio_list);
	list_add_tail(&node->node_list, &head->node_list);
}

static void plant_lists(void)
{
	int i;

	INIT_LIST_HEAD(&klab_test_list);
	INIT_LIST_HEAD(&klab_test_list_empty);
	INIT_LIST_HEAD(&klab_test_list_single);
	plist_head_init(&klab_test_plist);
	for (i = 0; i < ITEMS; i++) {
		/* 7 and ITEMS have no common divisor: every key once, in no order. */
		items[i].key = i * 7 % ITEMS;
		list_add_tail(&items[i].list, &klab_test_list);
		hlist_add_head(&items[i].hlist, &klab_test_hlist);
		llist_add(&items[i].llist, &klab_test_llist);
		insert(&klab_test_rb, &items[i]);
	}
	for (i = 0; i < ITEMS; i++) {
		/* 7 * 143 is 1 modulo ITEMS: the items by their keys. */
		struct item *item = &items[i * 143 % ITEMS];

		plist_node_init(&item->plist, item->key / 5);
		append(&klab_test_plist, &item->plist);
	}
	list_add(&single.list, &klab_test_list_single);
}

static void plant_wrong(void)
{
	struct list_head *lists[] = { &klab_test_list_prev, &klab_test_list_loop, &klab_test_list_null,
				      &klab_test_list_poison, &klab_test_list_odd };
	struct rb_root *trees[] = { &klab_test_rb_red, &klab_test_rb_parent };
	int i, j;

	plist_head_init(&klab_test_plist_order);
	for (i = 0; i < ARRAY_SIZE(lists); i++) {
		INIT_LIST_HEAD(lists[i]);
		for (j = 0; j < 3; j++)
			list_add_tail(&wrong[i][j].list, lists[i]);
	}
	for (j = 0; j < 3; j++) {
		hlist_add_head(&wrong[5][2 - j].hlist, &klab_test_hlist_pprev);
		plist_node_init(&wrong[6][j].plist, j);
		append(&klab_test_plist_order, &wrong[6][j].plist);
		for (i = 0; i < ARRAY_SIZE(trees); i++) {
			wrong[7 + i][j].key = j;
			insert(trees[i], &wrong[7 + i][j]);
		}
	}
	wrong[0][1].list.prev = &wrong[0][2].list;
	wrong[1][2].list.next = &wrong[1][1].list;
	wrong[2][1].list.next = NULL;
	wrong[3][1].list.next = LIST_POISON1;
	wrong[4][1].list.next = (void *)((unsigned long)&wrong[4][2].list + 1);
	wrong[5][1].hlist.pprev = &wrong[5][2].hlist.next;
	wrong[6][1].plist.prio = 9;
	/* A red root; a child that names another parent, with its own colour. */
	klab_test_rb_red.rb_node->__rb_parent_color &= ~1UL;
	klab_test_rb_parent.rb_node->rb_left->__rb_parent_color =
		(unsigned long)klab_test_rb_parent.rb_node->rb_right |
		(klab_test_rb_parent.rb_node->rb_left->__rb_parent_color & 1);
}

/* The pivots of the first leaf: swapped, they do not ascend. */
static unsigned long *pivots(struct maple_tree *tree)
{
	unsigned long at = (unsigned long)tree->ma_root;

	/* mte_node_type() of lib/maple_tree.c */
	while ((at >> 3 & 15) != maple_leaf_64)
		at = (unsigned long)((struct maple_node *)(at & ~255UL))->mr64.slot[0];
	return ((struct maple_node *)(at & ~255UL))->mr64.pivot;
}

static int plant_trees(void)
{
	int i, err = 0;

	for (i = 0; i < RANGES && !err; i++) {
		err = mtree_insert_range(&klab_test_maple, i * 16, i * 16 + 7, &items[i % ITEMS], GFP_KERNEL);
		if (!err)
			err = mtree_insert_range(&klab_test_maple_pivots, i * 16, i * 16 + 7, &items[i % ITEMS],
						 GFP_KERNEL);
	}
	if (!err)
		err = mtree_insert(&klab_test_maple_single, 0, &single, GFP_KERNEL);
	for (i = 0; i < ENTRIES && !err; i++) {
		err = xa_err(xa_store(&klab_test_xarray, i * i, &items[i], GFP_KERNEL));
		if (!err)
			err = xa_err(xa_store(&klab_test_xarray_count, i, &items[i], GFP_KERNEL));
		if (!err && idr_alloc(&klab_test_idr, &items[i], i * 3, i * 3 + 1, GFP_KERNEL) < 0)
			err = -ENOMEM;
	}
	if (err)
		return err;
	swap(pivots(&klab_test_maple_pivots)[0], pivots(&klab_test_maple_pivots)[1]);
	xa_to_node(klab_test_xarray_count.xa_head)->count ^= 1;
	return 0;
}

static void uproot_trees(bool whole)
{
	if (whole) {
		swap(pivots(&klab_test_maple_pivots)[0], pivots(&klab_test_maple_pivots)[1]);
		xa_to_node(klab_test_xarray_count.xa_head)->count ^= 1;
	}
	mtree_destroy(&klab_test_maple);
	mtree_destroy(&klab_test_maple_pivots);
	mtree_destroy(&klab_test_maple_single);
	xa_destroy(&klab_test_xarray);
	xa_destroy(&klab_test_xarray_count);
	idr_destroy(&klab_test_idr);
}

/* 100 bytes of room, 14 of one header, 20 of the next, the text. */
static int plant_skb(void)
{
	static const char text[] = "planted by klab";
	struct sk_buff *skb = alloc_skb(600, GFP_KERNEL);

	if (!skb)
		return -ENOMEM;
	skb_reserve(skb, 100);
	skb_reset_mac_header(skb);
	skb_put_zero(skb, 14);
	skb_pull(skb, 14);
	skb_reset_network_header(skb);
	skb_put_zero(skb, 20);
	skb_set_transport_header(skb, 20);
	skb_put_data(skb, text, sizeof(text) - 1);
	skb->protocol = htons(0x88b5);
	skb->mark = 0x6b6c6162;
	klab_test_skb_clone = skb_clone(skb, GFP_KERNEL);
	if (!klab_test_skb_clone) {
		kfree_skb(skb);
		return -ENOMEM;
	}
	klab_test_skb = skb;
	return 0;
}

/* Calls skb_pull() so often on a clone of the planted skb, each with another mark. */
static int hits_set(const char *text, const struct kernel_param *param)
{
	struct sk_buff *skb;
	u32 count, i;
	int err = kstrtou32(text, 0, &count);

	if (err)
		return err;
	skb = klab_test_skb ? skb_clone(klab_test_skb, GFP_KERNEL) : NULL;
	if (!skb)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		skb->mark = i;
		skb_pull(skb, 0);
		if (i % 4096 == 0)
			cond_resched();
	}
	consume_skb(skb);
	return 0;
}

static const struct kernel_param_ops hits_ops = { .set = hits_set };
module_param_cb(hits, &hits_ops, NULL, 0200);

static int __init klab_test_init(void)
{
	int err;

	plant_lists();
	plant_wrong();
	err = plant_skb();
	if (err)
		return err;
	err = plant_trees();
	if (err) {
		uproot_trees(false);
		consume_skb(klab_test_skb_clone);
		consume_skb(klab_test_skb);
	}
	return err;
}

static void __exit klab_test_exit(void)
{
	uproot_trees(true);
	consume_skb(klab_test_skb_clone);
	consume_skb(klab_test_skb);
}

module_init(klab_test_init);
module_exit(klab_test_exit);
MODULE_DESCRIPTION("Structures that the tests of klab walk, and calls that they count");
MODULE_LICENSE("GPL");
