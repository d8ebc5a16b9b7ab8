// SPDX-License-Identifier: GPL-2.0
/*
 * Calls of any function, and their returns, by fprobe. Which are wanted is decided in Rust (calls.rs); here is what its
 * bindings do not have.
 */
#include <linux/fprobe.h>
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/stacktrace.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "hooks.h"
#include "peek.h"

/* ring.rs: Kind; call.rs: PLANS, FRAMES, .. */
enum { CALL = 8, RETURN, POINT, STACK };
enum { PLANS = 32, ARGS = 6, FRAMES = 20, WALKED = 32 };
enum { TEXT_WHOLE = 1, UNDECIDED = 2, MORE_FRAMES = 4 };
/* klab_wants() */
enum { NO, YES, PERHAPS };
/* From a function's address to behind ftrace's call in it. */
enum { LONGEST_ENTRY = 16 };

struct klab_calls {
	struct fprobe probe;
	u32 plan;
	bool live;
};

static struct klab_calls calls[PLANS];

/* What a return must know of its call. */
struct called {
	u64 args[ARGS];
	u64 entered;
};

/* A word of text: the kernel's, or of the task's own memory where that is there. */
static bool word_of_text(unsigned long at, u64 *word)
{
	if (at < TASK_SIZE_MAX)
		return in_task() && !copy_from_user_nofault(word, (const void __user *)at, sizeof(*word));
	return !copy_from_kernel_nofault(word, (const void *)at, sizeof(*word));
}

/* Up to the 0, in words of 8 bytes that cross no page, so that nothing behind the text need be there. */
static u8 copy_text(unsigned long at, char *text, u32 room, u8 *flags)
{
	u32 len = 0;

	while (at && len < room) {
		u32 skip = at & 7, i;
		u64 word;

		if (!word_of_text(at - skip, &word))
			break;
		for (i = skip; i < 8 && len < room; i++, len++) {
			text[len] = word >> (8 * i);
			if (!text[len]) {
				*flags = TEXT_WHOLE;
				return len;
			}
		}
		at += 8 - skip;
	}
	return len;
}

bool klab_read(u64 at, void *to, u32 len)
{
	return !copy_from_kernel_nofault(to, (const void *)(unsigned long)at, len);
}

static void look_at_text(u32 plan, struct klab_call *c, u32 used)
{
	bool hop = false;
	u64 at = klab_text_of(plan, c->args, &hop);

	if (hop)
		at = peek64((const void *)at);
	c->text_len = copy_text(at, c->text + used, sizeof(c->text) - used, &c->flags);
}

/* The first frame behind this module's own and ftrace's: the caller of a function, or where a tracepoint lies. */
static u32 first_frame(const unsigned long *all, u32 count, unsigned long ip)
{
	u32 i;

	for (i = 0; ip && i < count; i++)
		if (all[i] - ip <= LONGEST_ENTRY)
			return i + 1;
	for (i = 0; i < count && within_module(all[i], THIS_MODULE); i++)
		;
	return i;
}

/* A record of its own. */
static void look_at_stack(u32 wanted, const struct klab_call *of, unsigned long ip)
{
	unsigned long all[WALKED];
	struct klab_call c = *of;
	u32 count, i, n = 0, to;

	count = stack_trace_save(all, WALKED, 0);
	memset(c.text, 0, sizeof(c.text));
	for (i = first_frame(all, count, ip); i < count && n < wanted; i++, n++) {
		to = all[i];
		memcpy(c.text + 4 * n, &to, sizeof(to));
	}
	c.kind = STACK;
	c.unread = 0;
	c.text_len = 4 * n;
	c.flags = i < count || count == WALKED ? MORE_FRAMES : 0;
	klab_record_call(&c);
}

/* Completes a record by what its plan asks for, and records it. */
void klab_look(u32 plan, struct klab_call *c, unsigned long ip, u8 wanted)
{
	u32 frames = min_t(u32, klab_frames_of(plan), FRAMES);

	look_at_text(plan, c, min_t(u32, klab_fetch(plan, c), sizeof(c->text)));
	if (wanted == PERHAPS)
		c->flags |= UNDECIDED;
	klab_record_call(c);
	if (frames)
		look_at_stack(frames, c, ip);
}

void klab_begin(struct klab_call *c, u8 kind, u32 site)
{
	memset(c, 0, sizeof(*c));
	c->kind = kind;
	c->site = site;
	c->pid = current->pid;
	c->tgid = current->tgid;
	c->cpu = raw_smp_processor_id();
	c->context = in_nmi() ? 3 : in_hardirq() ? 2 : in_serving_softirq() ? 1 : 0;
	memcpy(c->comm, current->comm, sizeof(c->comm));
}

static void begin(struct klab_call *c, u8 kind, unsigned long ip, const struct called *called)
{
	klab_begin(c, kind, site_of(ip));
	c->entered = called->entered;
	memcpy(c->args, called->args, sizeof(c->args));
}

static int on_call(struct fprobe *probe, unsigned long ip, unsigned long ret, struct ftrace_regs *regs, void *data)
{
	struct klab_calls *of = container_of(probe, struct klab_calls, probe);
	struct called *called = data;
	struct klab_call c;
	u8 wanted;
	u32 i;

	for (i = 0; i < ARGS; i++)
		called->args[i] = ftrace_regs_get_argument(regs, i);
	preempt_disable_notrace();
	wanted = klab_wants(of->plan, raw_smp_processor_id(), called->args);
	if (wanted != NO) {
		called->entered = ktime_get_mono_fast_ns();
		begin(&c, CALL, ip, called);
		c.time = called->entered;
		klab_look(of->plan, &c, ip, wanted);
	}
	preempt_enable_notrace();
	/* Nothing at the return of a call that is not wanted. */
	return wanted ? 0 : 1;
}

static void on_return(struct fprobe *probe, unsigned long ip, unsigned long ret, struct ftrace_regs *regs, void *data)
{
	struct klab_call c;

	preempt_disable_notrace();
	begin(&c, RETURN, ip, data);
	c.value = ftrace_regs_get_return_value(regs);
	c.time = ktime_get_mono_fast_ns();
	klab_record_call(&c);
	preempt_enable_notrace();
}

int klab_hook_calls(u32 plan, unsigned long *addresses, u32 count)
{
	struct klab_calls *of;
	int err;

	if (plan >= PLANS)
		return -EINVAL;
	of = &calls[plan];
	memset(of, 0, sizeof(*of));
	of->plan = plan;
	of->probe.entry_handler = on_call;
	of->probe.exit_handler = on_return;
	of->probe.entry_data_size = sizeof(struct called);
	err = register_fprobe_ips(&of->probe, addresses, count);
	of->live = !err;
	return err;
}

/* Returns when no hook runs any more. */
void klab_unhook_calls(void)
{
	u32 i;

	for (i = 0; i < PLANS; i++) {
		if (calls[i].live)
			unregister_fprobe(&calls[i].probe);
		calls[i].live = false;
	}
}

u64 klab_missed_calls(void)
{
	u64 missed = 0;
	u32 i;

	for (i = 0; i < PLANS; i++)
		missed += calls[i].probe.nmissed;
	return missed;
}
