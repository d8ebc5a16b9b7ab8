/* SPDX-License-Identifier: GPL-2.0 */
/* Between hooks.c, event.rs and calls.rs: the same layout on both sides, asserted there. */
#ifndef KLAB_HOOKS_H
#define KLAB_HOOKS_H

#include <linux/types.h>

#define KLAB_PACKET 88
#define KLAB_MAC 14

/* What a hook saw, before the filter. */
struct klab_event {
	u64 time, skb, head, arg;
	u32 site, netns, ifindex, mark, pid, data, tail, end, len;
	u16 mac_header, network_header, transport_header, protocol;
	u32 cpu;
	u8 kind, context, readable, packet_len;
	u16 vlan_protocol, vlan_tag, family;
	u8 mac[KLAB_MAC];
	u8 packet[KLAB_PACKET];
	/* Of skb->sk, as its packets on their way out have them: for what has no network header yet. Family 0: none. */
	u8 sock_source[16], sock_destination[16];
	u16 sock_source_port, sock_destination_port;
	/* last: nobody else has the data, when a hook says that it is freed. flags: ring.rs. */
	u8 sock_family, sock_protocol, flags, last;
};

/* In Rust: whether the filter may want it, as far as its packet says; filters and records, whether it was recorded. */
bool klab_may(const struct klab_event *event);
bool klab_record(const struct klab_event *event);

/* A call or a return of any function, a tracepoint, or the stack of one. */
struct klab_call {
	u64 time, args[6], value, entered;
	u32 site, pid, tgid, cpu;
	u8 kind, context, text_len, flags;
	u32 unread;
	char comm[16];
	char text[80];
};

/* In Rust, calls.rs. */
u8 klab_wants(u32 plan, u32 cpu, const u64 *args);
u8 klab_frames_of(u32 plan);
u32 klab_fetch(u32 plan, struct klab_call *call);
u64 klab_text_of(u32 plan, const u64 *args, bool *hop);
void klab_record_call(const struct klab_call *call);

/* A call that the host asks for: Invoke of call.rs. */
#define KLAB_TEXTS 512
enum { KLAB_RETURNED, KLAB_DIED, KLAB_RUNS };

struct klab_invoke {
	u32 version, count;
	u64 function, args[6], value;
	u32 texts, limit, state, thread;
	char text[KLAB_TEXTS];
};

int klab_invoke(struct klab_invoke *call);

int klab_hook_calls(u32 plan, unsigned long *addresses, u32 count);
void klab_unhook_calls(void);
u64 klab_missed_calls(void);
int klab_hook_points(u32 plan, unsigned long *addresses, u32 count);
void klab_unhook_points(void);
u64 klab_missed_points(void);
void klab_begin(struct klab_call *c, u8 kind, u32 site);
void klab_look(u32 plan, struct klab_call *c, unsigned long ip, u8 wanted);
bool klab_read(u64 at, void *to, u32 len);
int klab_hook_entries(u32 how, u32 position, unsigned long *addresses, u32 count);
int klab_hook_exits(u32 how, u32 position, unsigned long *addresses, u32 count);
int klab_hook_tracepoint(u32 id, const char *name, size_t len);
void klab_unhook(void);
int klab_watch_int3(void);
void klab_unwatch_int3(void);
u64 klab_missed(void);
u64 klab_now(void);
u64 klab_phys(const void *address);

#endif
