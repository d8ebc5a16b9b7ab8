// SPDX-License-Identifier: GPL-2.0
/*
 * A breakpoint that is no longer there.
 *
 * While the kernel's text is patched, an int3 stands in it for a moment (smp_text_poke_batch_finish(),
 * arch/x86/kernel/alternative.c); then the first byte of the new instruction is written over it, and all CPUs are made to
 * synchronise. QEMU reads the guest's code when it translates a block and only afterwards looks for writes to that page
 * (tb_gen_code(), tb_link_page() in accel/tcg/translate-all.c@v7.2.0; since v8.1.0 pages are locked before they are
 * read), and it forgets blocks before a write is done and not after it (notdirty_write(), accel/tcg/cputlb.c). So a block
 * that another CPU translates just then has the int3 in it for good: every CPU that runs it meets the int3 until something
 * is written there again, and the kernel, which knows nothing of it, dies ("Oops: int3"). Hooking functions patches
 * hundreds of places under the very load that runs through them. No processor does this.
 *
 * Two things are done about it. While this module is loaded, such an int3 is taken for what memory says stands there.
 * And before it goes, all code is written once more, as it is: then QEMU forgets what it made of it. Nothing stale can
 * be made by that, since memory holds no int3 any more, and none that was made before can outlive it: the kernel has
 * made every CPU synchronise after its last write, so all blocks that were being translated then are known to QEMU.
 */
#include <linux/delay.h>
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/pgtable.h>
#include <asm/text-patching.h>

#include "hooks.h"

/* How often: for whoever looks in a crash. */
static atomic_long_t met;

static int on_die(struct notifier_block *block, unsigned long event, void *data)
{
	struct die_args *args = data;
	struct pt_regs *regs = args->regs;
	unsigned long at = regs->ip - INT3_INSN_SIZE;
	const u8 *code = (const u8 *)at;
	s32 far;

	if (event != DIE_INT3 || user_mode(regs) || at < PAGE_OFFSET || code[0] == INT3_INSN_OPCODE)
		return NOTIFY_DONE;
	memcpy(&far, code + 1, sizeof(far));
	switch (code[0]) {
	case 0x0f: /* nopl 0(%rax,%rax): five bytes */
		if (code[1] != 0x1f || code[2] != 0x44)
			return NOTIFY_DONE;
		regs->ip = at + CALL_INSN_SIZE;
		break;
	case 0x66: /* xchg %ax,%ax: two bytes */
		if (code[1] != 0x90)
			return NOTIFY_DONE;
		regs->ip = at + JMP8_INSN_SIZE;
		break;
	case CALL_INSN_OPCODE:
		int3_emulate_call(regs, at + CALL_INSN_SIZE, at + CALL_INSN_SIZE + far);
		break;
	case JMP32_INSN_OPCODE:
		int3_emulate_jmp(regs, at + JMP32_INSN_SIZE + far);
		break;
	case JMP8_INSN_OPCODE:
		int3_emulate_jmp(regs, at + JMP8_INSN_SIZE + (s8)code[1]);
		break;
	case RET_INSN_OPCODE:
		int3_emulate_ret(regs);
		break;
	default:
		return NOTIFY_DONE;
	}
	atomic_long_inc(&met);
	return NOTIFY_STOP;
}

static struct notifier_block block = { .notifier_call = on_die, .priority = INT_MAX };

/* Where code is: the kernel's image, then modules, ftrace's trampolines, BPF's programs. */
static const unsigned long first_code = __START_KERNEL_map, last_code = MODULES_END;
/* Pages that are written at once. */
enum { SOME = PMD_SIZE / PAGE_SIZE };
static struct page **some;

/* Writes pages as they are: atomically, so that whoever patches there meanwhile loses nothing. */
static void touch(unsigned int count)
{
	unsigned long *words, at;

	/* The kernel's own mapping of code is read only. Memory is short at times, and code that is left out kills the guest. */
	while (!(words = vmap(some, count, VM_MAP, PAGE_KERNEL)))
		msleep(10);
	for (at = 0; at < count * (PAGE_SIZE / sizeof(*words)); at++)
		asm volatile("lock orq $0, %0" : "+m"(words[at]) : : "memory", "cc");
	vunmap(words);
}

static void touch_all_code(void)
{
	unsigned int count = 0, level;
	unsigned long at;

	for (at = first_code; at < last_code; at += PAGE_SIZE) {
		pte_t *pte = lookup_address(at, &level);
		unsigned long pfn;

		if (!pte || !(pte_flags(*pte) & _PAGE_PRESENT) || pte_flags(*pte) & _PAGE_NX)
			continue;
		pfn = slow_virt_to_phys((void *)at) >> PAGE_SHIFT;
		if (!pfn_valid(pfn))
			continue;
		some[count++] = pfn_to_page(pfn);
		if (count == SOME) {
			touch(count);
			count = 0;
			cond_resched();
		}
	}
	if (count)
		touch(count);
}

int klab_watch_int3(void)
{
	int err;

	some = kcalloc(SOME, sizeof(*some), GFP_KERNEL);
	if (!some)
		return -ENOMEM;
	err = register_die_notifier(&block);
	if (err)
		kfree(some);
	return err;
}

/* Only while no hook is registered. */
void klab_unwatch_int3(void)
{
	touch_all_code();
	unregister_die_notifier(&block);
	kfree(some);
}
