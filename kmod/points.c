// SPDX-License-Identifier: GPL-2.0
/*
 * Any tracepoint: a probe for all of them, whatever their arguments are. Which of them fire into records is decided in
 * Rust (calls.rs), as it is of calls.
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>

#include "hooks.h"
#include "peek.h"

/* ring.rs: Kind; call.rs: PLANS */
enum { POINT = 10 };
enum { PLANS = 32, ARGS = 6, CONTEXTS = 4 };

struct klab_point {
	struct klab_point *next;
	struct tracepoint *tp;
	/* The module that has the tracepoint, held meanwhile; NULL: the kernel itself. */
	struct module *owner;
	u32 plan;
};

/* Those that are hooked. Changed with the capture's lock held. */
static struct klab_point *points;

/* Whether the probe runs on a CPU, by context: what it calls may have tracepoints too, and those are not recorded. */
static DEFINE_PER_CPU(u8[CONTEXTS], inside);
static atomic64_t missed;

/*
 * A probe is called with its data and the arguments of the tracepoint. Five more registers have the first five, and the word
 * above the return address is the sixth: where a tracepoint has fewer, what is read in their place means nothing, and the
 * host, which knows how many there are, does not look at it.
 */
static void on_point(void *data, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	const struct klab_point *of = data;
	const u64 args[ARGS] = { a, b, c, d, e, f };
	u8 context = in_nmi() ? 3 : in_hardirq() ? 2 : in_serving_softirq() ? 1 : 0;
	struct klab_call call;
	u8 *running, wanted;

	/* In preemptible tasks, too: the tracepoints of system calls may be. */
	preempt_disable_notrace();
	running = &(*this_cpu_ptr(&inside))[context];
	if (*running) {
		atomic64_inc(&missed);
	} else {
		*running = 1;
		barrier();
		wanted = klab_wants(of->plan, raw_smp_processor_id(), args);
		if (wanted) {
			klab_begin(&call, POINT, (u32)(unsigned long)of->tp);
			call.time = ktime_get_mono_fast_ns();
			call.entered = call.time;
			memcpy(call.args, args, sizeof(args));
			klab_look(of->plan, &call, 0, wanted);
		}
		barrier();
		*running = 0;
	}
	preempt_enable_notrace();
}

struct sought {
	struct notifier_block modules;
	unsigned long address;
	struct tracepoint *tp;
	struct module *owner;
};

static void is_sought(struct tracepoint *tp, void *data)
{
	struct sought *sought = data;

	if ((unsigned long)tp == sought->address)
		sought->tp = tp;
}

/* Registering the notifier calls it for each module that is there, unregistering it once more. */
static int in_module(struct notifier_block *block, unsigned long state, void *data)
{
	struct sought *sought = container_of(block, struct sought, modules);
	struct module *mod = ((struct tp_module *)data)->mod;
	unsigned int i;

	if (state != MODULE_STATE_COMING || sought->tp)
		return NOTIFY_DONE;
	for (i = 0; i < mod->num_tracepoints && !sought->tp; i++)
		is_sought(tracepoint_ptr_deref(&mod->tracepoints_ptrs[i]), sought);
	if (sought->tp && try_module_get(mod))
		sought->owner = mod;
	else
		sought->tp = NULL;
	return NOTIFY_DONE;
}

/* The tracepoint at an address, if the kernel or a module has one there. */
static int find(struct sought *sought)
{
	int err;

	for_each_kernel_tracepoint(is_sought, sought);
	if (sought->tp)
		return 0;
	sought->modules.notifier_call = in_module;
	err = register_tracepoint_module_notifier(&sought->modules);
	if (err)
		return err;
	unregister_tracepoint_module_notifier(&sought->modules);
	return sought->tp ? 0 : -ENOENT;
}

static int hook(u32 plan, unsigned long address)
{
	struct sought sought = { .address = address };
	struct klab_point *point;
	int err;

	point = kzalloc(sizeof(*point), GFP_KERNEL);
	if (!point)
		return -ENOMEM;
	err = find(&sought);
	if (err)
		goto free;
	point->tp = sought.tp;
	point->owner = sought.owner;
	point->plan = plan;
	err = tracepoint_probe_register(point->tp, on_point, point);
	if (err)
		goto put;
	point->next = points;
	points = point;
	return 0;
put:
	module_put(point->owner);
free:
	kfree(point);
	return err;
}

int klab_hook_points(u32 plan, unsigned long *addresses, u32 count)
{
	u32 i;
	int err = 0;

	/* One function for tracepoints of any type: the kernel's control-flow checks would not allow it. */
	if (IS_ENABLED(CONFIG_CFI) || IS_ENABLED(CONFIG_CFI_CLANG))
		return -EOPNOTSUPP;
	if (plan >= PLANS)
		return -EINVAL;
	for (i = 0; i < count && !err; i++)
		err = hook(plan, addresses[i]);
	return err;
}

/* Returns when no probe runs any more. */
void klab_unhook_points(void)
{
	struct klab_point *point;

	if (!points)
		return;
	for (point = points; point; point = point->next)
		tracepoint_probe_unregister(point->tp, on_point, point);
	tracepoint_synchronize_unregister();
	while (points) {
		point = points;
		points = point->next;
		module_put(point->owner);
		kfree(point);
	}
	atomic64_set(&missed, 0);
}

u64 klab_missed_points(void)
{
	return atomic64_read(&missed);
}
