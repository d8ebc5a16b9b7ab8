// SPDX-License-Identifier: GPL-2.0
/*
 * The hooks of what has an sk_buff. In C is only what the kernel's Rust bindings do not have: inline functions and macros
 * (ftrace_regs_get_argument(), __get_kernel_nofault(), in_hardirq()), struct fprobe, and the members of net_device,
 * net and sock, which are opaque to them. What is recorded, and where, is decided in Rust.
 */
#include <linux/fprobe.h>
#include <linux/ftrace.h>
#include <linux/if_arp.h>
#include <linux/if_vlan.h>
#include <linux/io.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_tables.h>
#include <net/sock.h>
#include <net/tcp_states.h>

#include "hooks.h"
#include "peek.h"

/* ring.rs: Kind, How, Tracepoint */
enum { ENTRY = 1, EXIT, TRACEPOINT, DERIVED, RESIZED, MERGED, RULE };
enum { HOW_ENTRY, HOW_RETURN, HOW_DERIVE, HOW_RESIZE, HOW_MERGE, HOW_END, HOW_RULE, HOWS };
enum { HAS_SOCK = 1, HAS_DST = 2, HAS_MAC = 4, IS_LAST = 8 };
enum { POSITIONS = 6, TRACEPOINTS = 9, LONGEST_LIST = 64 };

struct klab_entry {
	struct ftrace_ops ops;
	u8 how, position;
	bool live;
};

struct klab_exit {
	struct fprobe probe;
	u8 how, position;
	bool live;
};

struct klab_tracepoint {
	struct tracepoint *tp;
	void *probe;
	bool live;
};

static struct klab_entry entries[HOWS][POSITIONS];
static struct klab_exit exits[HOWS][POSITIONS];

/* As peek64(). */
static __always_inline u32 peek32(const void *at)
{
	u32 value;

	if ((unsigned long)at < PAGE_OFFSET)
		return 0;
	__get_kernel_nofault(&value, at, u32, fault);
	return value;
fault:
	return 0;
}

static bool plausible(const void *address)
{
	return (unsigned long)address >= PAGE_OFFSET && !IS_ERR(address) &&
	       !((unsigned long)address & (sizeof(long) - 1));
}

/* A network namespace is one whose loopback device says that it is in it. */
static u32 netns_of(const struct net *net)
{
	const struct net_device *lo;

	if (!plausible(net))
		return 0;
	lo = (const void *)peek64(&net->loopback_dev);
	if (!plausible(lo) || peek64(&lo->nd_net.net) != (unsigned long)net)
		return 0;
	return peek32(&net->ns.inum);
}

static void look_at_sock(const struct sock *sk, struct klab_event *e)
{
	const struct sock_common *common = &sk->__sk_common;
	u16 family = peek32(&common->skc_family);
	u8 state = peek32((const void *)&common->skc_state);

	e->family = family;
	if (family == AF_INET) {
		*(u32 *)e->sock_source = peek32(&common->skc_rcv_saddr);
		*(u32 *)e->sock_destination = peek32(&common->skc_daddr);
		e->sock_family = 4;
	} else if (family == AF_INET6) {
		*(u64 *)e->sock_source = peek64(&common->skc_v6_rcv_saddr);
		*(u64 *)(e->sock_source + 8) = peek64((const u8 *)&common->skc_v6_rcv_saddr + 8);
		*(u64 *)e->sock_destination = peek64(&common->skc_v6_daddr);
		*(u64 *)(e->sock_destination + 8) = peek64((const u8 *)&common->skc_v6_daddr + 8);
		e->sock_family = 6;
	} else {
		return;
	}
	e->sock_source_port = peek32((const u8 *)&common->skc_dport) >> 16;
	e->sock_destination_port = ntohs((__force __be16)peek32((const u8 *)&common->skc_dport));
	/* Small sockets have no sk_protocol; they are TCP's. */
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		e->sock_protocol = IPPROTO_TCP;
	else
		e->sock_protocol = peek32(&sk->sk_protocol);
}

/* Where the packet's bytes are taken from. A new skb's network_header is 0, which is no header where there is headroom. */
static u32 first_byte(const struct klab_event *e)
{
	return e->network_header && e->network_header < e->tail ? e->network_header : e->data;
}

/* The Ethernet header, where one is: on a device that has such, right before the packet. Before dev_queue_xmit() there is none yet. */
static void look_at_mac(const struct net_device *dev, const struct sk_buff *skb, struct klab_event *e)
{
	u16 type = peek32(&dev->type);
	const u8 *mac = skb->head + e->mac_header;

	if ((type != ARPHRD_ETHER && type != ARPHRD_LOOPBACK) || e->mac_header == (u16)~0U ||
	    first_byte(e) != e->mac_header + ETH_HLEN || first_byte(e) > e->tail || e->tail > e->end)
		return;
	put_unaligned(peek64(mac), (u64 *)e->mac);
	put_unaligned(peek64(mac + ETH_HLEN - 8), (u64 *)(e->mac + ETH_HLEN - 8));
	e->flags |= HAS_MAC;
}

/* skb->dev shares its place with rb_node and dev_scratch: it counts only if it leads to a network namespace. */
static void look_at_device(const struct sk_buff *skb, struct klab_event *e)
{
	const struct net_device *dev = skb->dev;
	const struct sock *sk = skb->sk;

	if (plausible(dev)) {
		e->netns = netns_of((const void *)peek64(&dev->nd_net.net));
		if (e->netns) {
			e->ifindex = peek32(&dev->ifindex);
			look_at_mac(dev, skb, e);
		}
	}
	if (plausible(sk)) {
		u32 netns = netns_of((const void *)peek64(&sk->__sk_common.skc_net.net));

		if (!e->netns)
			e->netns = netns;
		if (netns)
			look_at_sock(sk, e);
	}
}

static void look_at_packet(const struct sk_buff *skb, struct klab_event *e)
{
	u32 from = first_byte(e), at;
	const u8 *packet = skb->head + from;

	if (from >= e->tail || e->tail > e->end || e->end > SZ_1M)
		return;
	e->packet_len = min_t(u32, e->tail - from, KLAB_PACKET);
	/* skb_shared_info follows `end`, so the last word may reach past `tail`. */
	for (at = 0; at + 8 <= e->packet_len; at += 8)
		*(u64 *)(e->packet + at) = peek64(packet + at);
	for (; at < e->packet_len; at += 4)
		*(u32 *)(e->packet + at) = peek32(packet + at);
}

/* Whether there is anything to record: most of what a filter refuses it refuses by the packet's first bytes. */
static bool look(const struct sk_buff *skb, struct klab_event *e)
{
	if (!plausible(skb))
		return true;
	e->head = peek64(&skb->head);
	/* `users` is the last member but for extensions: with both, all of it is mapped. */
	if (!plausible(skb) || e->head < PAGE_OFFSET || !peek32(&skb->users))
		return true;
	e->readable = 1;
	e->data = (unsigned long)skb->data - e->head;
	e->tail = skb->tail;
	e->end = skb->end;
	e->network_header = skb->network_header;
	e->protocol = ntohs(skb->protocol);
	look_at_packet(skb, e);
	if (!klab_may(e))
		return false;
	e->len = skb->len;
	e->mark = skb->mark;
	e->mac_header = skb->mac_header;
	e->transport_header = skb->transport_header;
	e->flags = (skb->sk ? HAS_SOCK : 0) | (skb->_skb_refdst & SKB_DST_PTRMASK ? HAS_DST : 0);
	if (e->kind == ENTRY)
		e->arg = skb->_nfct;
	if (skb_vlan_tag_present(skb)) {
		e->vlan_protocol = ntohs(skb->vlan_proto);
		e->vlan_tag = skb->vlan_tci;
	}
	look_at_device(skb, e);
	return true;
}

/* skb_data_unref() without its effect. */
static bool is_last(const struct sk_buff *skb)
{
	const struct skb_shared_info *info;

	if (!plausible(skb) || !peek64(&skb->head))
		return false;
	if (!skb->cloned)
		return true;
	info = (const void *)(peek64(&skb->head) + skb->end);
	return peek32(&info->dataref) == (skb->nohdr ? (1 << SKB_DATAREF_SHIFT) + 1 : 1);
}

static void begin(struct klab_event *e, u8 kind, u32 site, const void *skb, u64 arg)
{
	memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->site = site;
	e->skb = (unsigned long)skb;
	e->arg = arg;
	e->pid = current->pid;
	e->cpu = raw_smp_processor_id();
	e->context = in_nmi() ? 3 : in_hardirq() ? 2 : in_serving_softirq() ? 1 : 0;
}

static bool record(struct klab_event *e)
{
	e->time = ktime_get_mono_fast_ns();
	return klab_record(e);
}

/* Preemption is off in every caller, so that the CPU stays the same until the record is whole. */
static bool hit(u8 kind, u32 site, const void *skb, u64 arg)
{
	struct klab_event e;

	begin(&e, kind, site, skb, arg);
	return look(skb, &e) && record(&e);
}

static void on_entry(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	struct klab_entry *entry = container_of(ops, struct klab_entry, ops);
	const void *skb = (const void *)ftrace_regs_get_argument(regs, entry->position);
	struct klab_event e;

	switch (entry->how) {
	case HOW_MERGE:
		hit(MERGED, site_of(ip), skb, ftrace_regs_get_argument(regs, 0));
		break;
	case HOW_RULE:
		skb = (const void *)peek64(&((const struct nft_pktinfo *)skb)->skb);
		hit(RULE, site_of(ip), skb, ftrace_regs_get_argument(regs, 0));
		break;
	case HOW_END:
		begin(&e, ENTRY, site_of(ip), skb, 0);
		if (look(skb, &e)) {
			e.last = is_last(skb);
			e.flags |= e.last ? IS_LAST : 0;
			record(&e);
		}
		break;
	default:
		hit(ENTRY, site_of(ip), skb, 0);
	}
}

struct entered {
	const struct sk_buff *skb;
	u64 head;
};

static int on_enter(struct fprobe *probe, unsigned long ip, unsigned long ret, struct ftrace_regs *regs, void *data)
{
	struct klab_exit *exit = container_of(probe, struct klab_exit, probe);
	struct entered *entered = data;
	bool recorded;

	entered->skb = (const void *)ftrace_regs_get_argument(regs, exit->position);
	entered->head = plausible(entered->skb) ? peek64(&entered->skb->head) : 0;
	preempt_disable_notrace();
	recorded = hit(ENTRY, site_of(ip), entered->skb, 0);
	preempt_enable_notrace();
	/* Nothing at its exit of what the filter does not want. */
	return recorded ? 0 : 1;
}

static void on_exit(struct fprobe *probe, unsigned long ip, unsigned long ret, struct ftrace_regs *regs, void *data)
{
	struct klab_exit *exit = container_of(probe, struct klab_exit, probe);
	struct entered *entered = data;
	unsigned long value = ftrace_regs_get_return_value(regs);
	const struct sk_buff *made = (const void *)value;
	struct klab_event e;
	int i;

	preempt_disable_notrace();
	switch (exit->how) {
	case HOW_RETURN:
		begin(&e, EXIT, site_of(ip), entered->skb, value);
		e.head = entered->head;
		e.readable = 1;
		record(&e);
		break;
	case HOW_RESIZE:
		hit(RESIZED, site_of(ip), entered->skb, entered->head);
		break;
	case HOW_DERIVE:
		for (i = 0; i < LONGEST_LIST && plausible(made); i++) {
			hit(DERIVED, site_of(ip), made, (unsigned long)entered->skb);
			made = (const void *)peek64(&made->next);
		}
		break;
	}
	preempt_enable_notrace();
}

static void on_tracepoint(u32 id, const void *skb, u64 arg)
{
	preempt_disable_notrace();
	hit(TRACEPOINT, id, skb, arg);
	preempt_enable_notrace();
}

/* Tracepoints whose arguments begin with the skb, and of which nothing else is wanted. */
#define PLAIN(id) \
	static void on_tracepoint_##id(void *data, struct sk_buff *skb) { on_tracepoint(id, skb, 0); }
PLAIN(1)
PLAIN(2)
PLAIN(3)
PLAIN(8)

static void on_net_dev_start_xmit(void *data, const struct sk_buff *skb, const struct net_device *dev)
{
	on_tracepoint(4, skb, 0);
}

/* The driver may have freed it. */
static void on_net_dev_xmit(void *data, struct sk_buff *skb, int rc, struct net_device *dev, unsigned int len)
{
	struct klab_event e;

	preempt_disable_notrace();
	begin(&e, TRACEPOINT, 5, skb, (u32)rc);
	e.len = len;
	e.ifindex = dev->ifindex;
	e.netns = netns_of(dev_net(dev));
	e.readable = 1;
	record(&e);
	preempt_enable_notrace();
}

static void on_kfree_skb(void *data, struct sk_buff *skb, void *location, enum skb_drop_reason reason,
			 const struct sock *rx_sk)
{
	on_tracepoint(6, skb, (u64)(u32)(unsigned long)location << 32 | (u32)reason);
}

static void on_consume_skb(void *data, struct sk_buff *skb, void *location)
{
	on_tracepoint(7, skb, (unsigned long)location);
}

static struct klab_tracepoint tracepoints[TRACEPOINTS] = {
	[1] = { .probe = on_tracepoint_1 }, [2] = { .probe = on_tracepoint_2 },
	[3] = { .probe = on_tracepoint_3 }, [4] = { .probe = on_net_dev_start_xmit },
	[5] = { .probe = on_net_dev_xmit }, [6] = { .probe = on_kfree_skb },
	[7] = { .probe = on_consume_skb },  [8] = { .probe = on_tracepoint_8 },
};

struct wanted {
	const char *name;
	size_t len;
	struct tracepoint *tp;
};

static void is_wanted(struct tracepoint *tp, void *data)
{
	struct wanted *wanted = data;

	if (strlen(tp->name) == wanted->len && !memcmp(tp->name, wanted->name, wanted->len))
		wanted->tp = tp;
}

int klab_hook_tracepoint(u32 id, const char *name, size_t len)
{
	struct wanted wanted = { .name = name, .len = len };
	int err;

	if (id >= TRACEPOINTS || !tracepoints[id].probe)
		return -EINVAL;
	for_each_kernel_tracepoint(is_wanted, &wanted);
	if (!wanted.tp)
		return -ENOENT;
	err = tracepoint_probe_register(wanted.tp, tracepoints[id].probe, NULL);
	if (err)
		return err;
	tracepoints[id].tp = wanted.tp;
	tracepoints[id].live = true;
	return 0;
}

int klab_hook_entries(u32 how, u32 position, unsigned long *addresses, u32 count)
{
	struct klab_entry *entry;
	int err;

	if (how >= HOWS || position >= POSITIONS)
		return -EINVAL;
	entry = &entries[how][position];
	memset(entry, 0, sizeof(*entry));
	entry->how = how;
	entry->position = position;
	entry->ops.func = on_entry;
	/* ftrace then guards against recursion, per context, and turns preemption off. */
	entry->ops.flags = FTRACE_OPS_FL_RECURSION;
	err = ftrace_set_filter_ips(&entry->ops, addresses, count, 0, 1);
	if (!err)
		err = register_ftrace_function(&entry->ops);
	if (err)
		ftrace_free_filter(&entry->ops);
	entry->live = !err;
	return err;
}

int klab_hook_exits(u32 how, u32 position, unsigned long *addresses, u32 count)
{
	struct klab_exit *exit;
	int err;

	if (how >= HOWS || position >= POSITIONS)
		return -EINVAL;
	exit = &exits[how][position];
	memset(exit, 0, sizeof(*exit));
	exit->how = how;
	exit->position = position;
	exit->probe.entry_handler = on_enter;
	exit->probe.exit_handler = on_exit;
	exit->probe.entry_data_size = sizeof(struct entered);
	err = register_fprobe_ips(&exit->probe, addresses, count);
	exit->live = !err;
	return err;
}

/* Returns when no hook runs any more. */
void klab_unhook(void)
{
	int i, j;

	for (i = 0; i < TRACEPOINTS; i++) {
		if (tracepoints[i].live)
			tracepoint_probe_unregister(tracepoints[i].tp, tracepoints[i].probe, NULL);
		tracepoints[i].live = false;
	}
	for (j = 0; j < POSITIONS; j++) {
		for (i = 0; i < HOWS; i++) {
			if (entries[i][j].live) {
				unregister_ftrace_function(&entries[i][j].ops);
				ftrace_free_filter(&entries[i][j].ops);
			}
			entries[i][j].live = false;
			if (exits[i][j].live)
				unregister_fprobe(&exits[i][j].probe);
			exits[i][j].live = false;
		}
	}
	klab_unhook_calls();
	klab_unhook_points();
	tracepoint_synchronize_unregister();
}

u64 klab_missed(void)
{
	u64 missed = klab_missed_calls() + klab_missed_points();
	int i, j;

	for (i = 0; i < HOWS; i++)
		for (j = 0; j < POSITIONS; j++)
			missed += exits[i][j].probe.nmissed;
	return missed;
}

u64 klab_now(void)
{
	return ktime_get_mono_fast_ns();
}

u64 klab_phys(const void *address)
{
	return virt_to_phys((void *)address);
}
