"""A `drgn.Program` on a guest's memory."""

import atexit
import ctypes
import os

import _drgn
import drgn

from klab._native import Kernel
from klab.modules import Modules
from klab.objects import Objects
from klab.types import Types

#: The version of drgn whose C interface is used here. drgn promises no stable ABI, so no other gets the C callback.
DRGN = "0.3.0"

#: The kernel's half of the address space.
KERNEL_HALF = 0xFF00_0000_0000_0000


def program(guest=None, *, core=None, native=True):
    """A program on a guest, or on a dump of one.

    :param guest: the name that `klab up` or `klab attach` was given; `$KLAB_GUEST`, else `default`, where it is none.
    :param core: the path of a dump instead, ELF or kdump, as `klab dump` and QEMU's `dump-guest-memory` write them.
    :param native: read by the C callback. Without it drgn calls Python for each read, which is some ten times slower.
    """
    kernel = Kernel.open_core(core) if core is not None else Kernel.attach(guest or os.environ.get("KLAB_GUEST") or "default")
    return on(kernel, native=native)


def on(kernel, *, native=True):
    """A program on a kernel."""
    if drgn.__version__ != DRGN:
        raise RuntimeError(f"klab reads through drgn {DRGN}, this is {drgn.__version__}: `pip install drgn=={DRGN}`")
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    add = _native_segments(prog, kernel) if native else _python_segments(prog, kernel)
    for start, size in kernel.ranges():
        add(start, size, True)
    prog.set_linux_kernel_custom(kernel.vmcoreinfo(), kernel.is_live)
    # After it, so that it overrides drgn's walk of the page tables: klab's reader knows the direct map and the kernel's
    # image as such, and walks the live tables for the rest.
    add(KERNEL_HALF, 2**64 - KERNEL_HALF, False)
    modules = Modules(prog, kernel)
    types = Types(prog, kernel, modules.follow)
    objects = Objects(prog, kernel, types)
    # Types are BTF's first: a module's DWARF has only what the module uses, and the rest of the kernel's structures as names.
    prog.register_type_finder("klab", types.find, enable_index=0)
    # Objects and symbols are drgn's first: what a compiler wrote into a file that is loaded is nobody's guess.
    prog.register_object_finder("klab", objects.find, enable_index=-1)
    prog.register_symbol_finder("klab", objects.symbols, enable_index=-1)
    modules.image()
    prog.cache["klab"] = kernel
    atexit.register(kernel.let_go)
    return prog


def kernel_of(prog):
    """The kernel that a program of klab's reads."""
    return prog.cache["klab"]


def _python_segments(prog, kernel):
    def read(address, count, offset, physical):
        try:
            return kernel.read(address, count, physical)
        except OSError as error:
            raise drgn.FaultError(str(error), address) from None

    return lambda start, size, physical: prog.add_memory_segment(start, size, read, physical)


def _native_segments(prog, kernel):
    """Adds segments by drgn's C interface, whose functions the Python module exports."""
    library = ctypes.CDLL(_drgn.__file__)
    add = library.drgn_program_add_memory_segment
    add.restype = ctypes.c_void_p
    add.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_bool]
    create_fault = ctypes.cast(library.drgn_error_create_fault, ctypes.c_void_p).value
    reader = kernel.reader(create_fault)
    # `struct Program { PyObject_HEAD; struct drgn_program prog; ...}` (libdrgn/python/drgnpy.h@v0.3.0)
    address = id(prog) + object.__basicsize__

    def segment(start, size, physical):
        if add(address, start, size, Kernel.callback(), reader, physical):
            raise RuntimeError(f"drgn refused the memory segment at {start:#x}")

    return segment
