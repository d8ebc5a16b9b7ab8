// SPDX-License-Identifier: GPL-2.0
/*
 * A breakpoint that is no longer there.
 *
 * While the kernel's text is patched, an int3 stands in it for a moment (smp_text_poke_batch_finish(),
 * arch/x86/kernel/alternative.c). QEMU's translator can keep code that it translated then, on another thread than the one
 * that patches: that CPU meets the int3 for as long as it runs the translation, long after the kernel knows of it, and the
 * kernel dies ("Oops: int3"). Hooking functions patches hundreds of places under the very load that runs through them.
 * So while this module is loaded, such an int3 is taken for what memory says stands there. No processor does this.
 */
#include <linux/kdebug.h>
#include <linux/notifier.h>
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

int klab_watch_int3(void)
{
	return register_die_notifier(&block);
}

void klab_unwatch_int3(void)
{
	unregister_die_notifier(&block);
}
