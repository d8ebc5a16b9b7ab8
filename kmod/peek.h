/* SPDX-License-Identifier: GPL-2.0 */
/* What all hooks look with. */
#ifndef KLAB_PEEK_H
#define KLAB_PEEK_H

#include <linux/uaccess.h>
#include <asm/ibt.h>

/* Read kernel memory; 0 where nothing is mapped. No object lies below PAGE_OFFSET. */
static __always_inline u64 peek64(const void *at)
{
	u64 value;

	if ((unsigned long)at < PAGE_OFFSET)
		return 0;
	__get_kernel_nofault(&value, at, u64, fault);
	return value;
fault:
	return 0;
}

/* kallsyms's address: before the endbr64 that ftrace's call follows. */
static inline u32 site_of(unsigned long ip)
{
	if (IS_ENABLED(CONFIG_X86_KERNEL_IBT) && __is_endbr(*(u32 *)(ip - ENDBR_INSN_SIZE)))
		ip -= ENDBR_INSN_SIZE;
	return ip;
}

#endif
