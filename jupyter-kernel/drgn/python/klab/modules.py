"""The kernel's image and its loaded modules as drgn's modules: drgn unwinds by the ORC tables of modules alone."""

import logging

from drgn import FaultError, Object
from drgn.helpers.linux.module import module_address_regions

log = logging.getLogger("drgn")


class Modules:
    """drgn's modules, kept as the kernel's are: they come and go while a program lives."""

    def __init__(self, prog, kernel):
        self.prog = prog
        self.kernel = kernel
        #: drgn's module of each that is loaded, by what `Kernel.modules` says of it.
        self.made = {}

    def image(self):
        """The kernel's image."""
        start, end = self.kernel.symbol("_stext") or self.kernel.symbol("_text"), self.kernel.symbol("_end")
        if start and end and start < end:
            self.prog.main_module("kernel", create=True).address_ranges = [(start, end)]

    def follow(self):
        """Takes up modules that were loaded since, and lets go of those that are gone. What fails is told, and no more
        than that: a stack that does not go through modules needs none."""
        try:
            loaded = set(self.kernel.modules())
        except OSError as error:
            log.warning("stacks through modules may be wrong: the list of modules cannot be read: %s", error)
            return
        for key in self.made.keys() - loaded:
            # drgn keeps a module for ever; one without addresses is in nobody's way.
            self.made.pop(key).address_ranges = ()
        for key in loaded - self.made.keys():
            try:
                self.made[key] = self.make(*key)
            except (OSError, LookupError, ValueError, FaultError) as error:
                log.warning("stacks through the module %s may be wrong: it cannot be read: %s", key[0], error)

    def make(self, name, address, number):
        """drgn's module of a `struct module`."""
        pointer = Object(self.prog, "struct module *", address)
        try:
            known = self.prog.linux_kernel_loadable_module(pointer)
        except LookupError:
            known = None
        if known is None or any(known.address_ranges or ()):
            return self.prog.linux_kernel_loadable_module(pointer, create=True)
        # A module of this name was at this place before. drgn takes the two for one and has kept the tables of the first,
        # so this one gets a number in place of its address.
        made = self.prog.relocatable_module(name, number, create=True)
        made.object = pointer
        made.address_ranges = [(start, start + size) for start, size in module_address_regions(pointer) if size]
        made.section_addresses.update(self.kernel.sections(name))
        return made
