// SPDX-License-Identifier: GPL-2.0
/*
 * Faults on purpose, for tests and lessons: `fault=NAME` at loading plants one. The guest's next reset undoes it; a module whose
 * threads wait for ever cannot be unloaded.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rwsem.h>
#include <linux/semaphore.h>
#include <linux/slab.h>
#include <linux/wait.h>

static char *fault = "";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "deadlock, rwsem, semaphore, lost_wakeup, softlockup, leak");

static DEFINE_MUTEX(klab_fault_one);
static DEFINE_MUTEX(klab_fault_two);
static DECLARE_RWSEM(klab_fault_rwsem);
static DEFINE_SEMAPHORE(klab_fault_sem, 1);
static DECLARE_COMPLETION(klab_fault_done);
static DECLARE_WAIT_QUEUE_HEAD(klab_fault_queue);
static atomic_t held = ATOMIC_INIT(0);
/* Counts the leaked objects, which nothing points to. */
static unsigned int leaked;
module_param(leaked, uint, 0444);

static void both_hold(void)
{
	atomic_inc(&held);
	while (atomic_read(&held) < 2)
		msleep(10);
}

/* Takes two mutexes, one after the other. */
static int first_to_second(void *unused)
{
	mutex_lock(&klab_fault_one);
	both_hold();
	mutex_lock(&klab_fault_two);
	return 0;
}

/* Takes them the other way round. */
static int second_to_first(void *unused)
{
	mutex_lock(&klab_fault_two);
	both_hold();
	mutex_lock(&klab_fault_one);
	return 0;
}

/* Waits for one of the two that never let go. */
static int bystander(void *unused)
{
	while (atomic_read(&held) < 2)
		msleep(10);
	msleep(100);
	mutex_lock(&klab_fault_one);
	return 0;
}

static int sleep_for_ever(void)
{
	wait_event(klab_fault_queue, false);
	return 0;
}

static int writer(void *unused)
{
	down_write(&klab_fault_rwsem);
	atomic_inc(&held);
	return sleep_for_ever();
}

static int reader(void *unused)
{
	while (!atomic_read(&held))
		msleep(10);
	down_read(&klab_fault_rwsem);
	return 0;
}

static int sem_holder(void *unused)
{
	down(&klab_fault_sem);
	atomic_inc(&held);
	return sleep_for_ever();
}

static int sem_waiter(void *unused)
{
	while (!atomic_read(&held))
		msleep(10);
	down(&klab_fault_sem);
	return 0;
}

/* Waits for what nobody completes. */
static int forgotten(void *unused)
{
	wait_for_completion(&klab_fault_done);
	return 0;
}

/* Keeps its CPU for a minute, with preemption off: longer than the watchdog allows. */
static int spinner(void *unused)
{
	unsigned int i;

	preempt_disable();
	for (i = 0; i < 60 * 1000; i++)
		udelay(1000);
	preempt_enable();
	return 0;
}

static int leak(void)
{
	struct kmem_cache *cache = kmem_cache_create("klab_fault_leak", 200, 0, SLAB_NO_MERGE, NULL);

	if (!cache)
		return -ENOMEM;
	for (leaked = 0; leaked < 5000; leaked++)
		if (!kmem_cache_alloc(cache, GFP_KERNEL))
			return -ENOMEM;
	return 0;
}

static int start(int (*function)(void *), const char *name)
{
	return PTR_ERR_OR_ZERO(kthread_run(function, NULL, "%s", name));
}

static int __init klab_faults_init(void)
{
	if (!strcmp(fault, "deadlock"))
		return start(first_to_second, "klab-first") ?: start(second_to_first, "klab-second") ?:
			start(bystander, "klab-bystander");
	if (!strcmp(fault, "rwsem"))
		return start(writer, "klab-writer") ?: start(reader, "klab-reader");
	if (!strcmp(fault, "semaphore"))
		return start(sem_holder, "klab-holder") ?: start(sem_waiter, "klab-waiter");
	if (!strcmp(fault, "lost_wakeup"))
		return start(forgotten, "klab-forgotten");
	if (!strcmp(fault, "softlockup"))
		return start(spinner, "klab-spinner");
	if (!strcmp(fault, "leak"))
		return leak();
	return -EINVAL;
}

module_init(klab_faults_init);
MODULE_DESCRIPTION("Faults on purpose, of klab");
MODULE_LICENSE("GPL");
