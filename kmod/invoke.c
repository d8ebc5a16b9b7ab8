// SPDX-License-Identifier: GPL-2.0
/*
 * Calls of a kernel function that the host asks for. Each runs in a thread of its own: one that faults or never returns
 * ends or keeps that thread, not the agent. Who asked waits for it, up to a limit.
 */
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "hooks.h"

struct invocation {
	struct klab_invoke call;
	struct completion done;
	refcount_t users;
};

static void put(struct invocation *it)
{
	if (refcount_dec_and_test(&it->users))
		kfree(it);
}

/* The types of the two functions differ, which the kernel's control-flow checks would not allow. */
static int __nocfi run(void *data)
{
	struct invocation *it = data;
	u64 (*function)(u64, u64, u64, u64, u64, u64) = (void *)(unsigned long)it->call.function;
	const u64 *args = it->call.args;

	it->call.value = function(args[0], args[1], args[2], args[3], args[4], args[5]);
	complete(&it->done);
	put(it);
	module_put_and_kthread_exit(0);
	return 0;
}

/* The state is what became of it; an error says that it was not begun. */
int klab_invoke(struct klab_invoke *call)
{
	struct invocation *it;
	struct task_struct *task;
	unsigned long until;
	int i;

	it = kzalloc(sizeof(*it), GFP_KERNEL);
	if (!it)
		return -ENOMEM;
	it->call = *call;
	it->call.text[KLAB_TEXTS - 1] = 0;
	for (i = 0; i < 6; i++) {
		if (!(call->texts & (1u << i)))
			continue;
		if (call->args[i] >= KLAB_TEXTS) {
			kfree(it);
			return -EINVAL;
		}
		it->call.args[i] = (unsigned long)(it->call.text + call->args[i]);
	}
	init_completion(&it->done);
	refcount_set(&it->users, 2);
	/* Of a thread that does not end in run() the module stays, since its code is on that thread's stack. */
	__module_get(THIS_MODULE);
	task = kthread_create(run, it, "klab/call");
	if (IS_ERR(task)) {
		module_put(THIS_MODULE);
		kfree(it);
		return PTR_ERR(task);
	}
	get_task_struct(task);
	call->thread = task_pid_nr(task);
	wake_up_process(task);
	until = jiffies + msecs_to_jiffies(call->limit);
	for (;;) {
		long left = wait_for_completion_interruptible_timeout(&it->done, HZ / 50 + 1);
		/* Looked at before the completion is: a thread that has completed ends, too. */
		bool ended = READ_ONCE(task->exit_state);

		if (left > 0 || completion_done(&it->done)) {
			call->value = it->call.value;
			call->state = KLAB_RETURNED;
			break;
		}
		if (ended) {
			call->state = KLAB_DIED;
			break;
		}
		if (left < 0 || time_after(jiffies, until)) {
			call->state = KLAB_RUNS;
			break;
		}
	}
	put_task_struct(task);
	put(it);
	return 0;
}
