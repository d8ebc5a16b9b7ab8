"""The types that klab declares for the kernel's globals, which BTF has none for, are the compiler's, by DWARF."""

from drgn import FindObjectFlags

import klab
from klab._native import Kernel

#: Symbols of the assembler and the linker: no compiler has said what they are.
NO_DWARF = {"init_top_pgt", "phys_base", "jiffies"}
#: Defined twice, once weakly and without a length: drgn gives the one that it comes to first.
WEAK = {"linux_banner": "const char []"}
#: Of static variables of one name the one that is meant.
FILES = {"sysfs_root": "fs/sysfs/mount.c"}


def test_every_global(by_btf, by_dwarf, capsys):
    kernel = klab.kernel_of(by_btf)
    same, absent, wrong = [], [], []
    for name in Kernel.declared():
        if kernel.symbol(name) is None:
            absent.append(name)
            continue
        text = kernel.declaration(name)
        try:
            theirs = by_dwarf.object(name, FindObjectFlags.VARIABLE, FILES.get(name)).type_
        except LookupError:
            assert name in NO_DWARF and text, name
            continue
        if text is None:
            wrong.append((name, "nothing", theirs.type_name()))
            continue
        ours = by_btf.type(text)
        if ours.type_name() == theirs.type_name() or theirs.type_name() == WEAK.get(name):
            same.append(name)
        else:
            wrong.append((name, ours.type_name(), theirs.type_name()))
    with capsys.disabled():
        print(f"\n{kernel.release}: {len(same)} globals are of the type that DWARF has; it has no {absent}")
    assert not wrong, wrong
    assert len(same) > 130 and len(absent) < 20
