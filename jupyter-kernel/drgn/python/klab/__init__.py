"""drgn on klab's reader: `klab.program("default")` is a `drgn.Program` on the guest of that name.

Nothing but the guest's memory is read, and nothing is written but by `klab.store`: types come from its BTF, symbols from its kallsyms, stacks from its ORC tables.
"""

from klab.change import store
from klab.program import DRGN, kernel_of, program

__all__ = ("DRGN", "kernel_of", "program", "store")
