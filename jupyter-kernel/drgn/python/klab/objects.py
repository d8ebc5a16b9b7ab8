"""The kernel's globals, functions, constants and symbols as drgn objects and symbols."""

from drgn import FindObjectFlags, Object, Symbol, SymbolBinding, SymbolKind, TypeKind, sizeof

#: What drgn's helpers ask for and neither BTF nor klab's own table has: the declarations of the kernel's sources. The
#: first whose type exists in this kernel counts.
DECLARATIONS = {
    "timekeeper_data": ["struct tk_data []"],
    "pid_hash": ["struct hlist_head *"],
    "softirq_vec": ["struct softirq_action [10]"],
    "sparse_irqs": ["struct maple_tree"],
    "irq_desc_tree": ["struct xarray", "struct radix_tree_root"],
    "nr_irqs": ["unsigned int"],
    "total_nr_irqs": ["unsigned int"],
    "total_swap_pages": ["long"],
    "nr_swapfiles": ["unsigned int"],
    "swap_info": ["struct swap_info_struct *[]"],
    "nr_swap_pages": ["atomic_long_t"],
    "vmap_nodes": ["struct vmap_node *"],
    "nr_vmap_nodes": ["int"],
    "vmap_zone_size": ["unsigned int"],
    "vmap_area_root": ["struct rb_root"],
    "vm_numa_event": ["atomic_long_t []"],
    "vm_committed_as": ["struct percpu_counter"],
    "sysctl_overcommit_ratio": ["int"],
    "sysctl_overcommit_kbytes": ["unsigned long"],
    "__highest_present_section_nr": ["unsigned long"],
    "node_states": ["nodemask_t []"],
    "nr_node_ids": ["unsigned int"],
    "block_class": ["struct class"],
    "class_kset": ["struct kset *"],
    "bus_kset": ["struct kset *"],
    "slab_kset": ["struct kset *"],
    "pci_root_buses": ["struct list_head"],
    "pci_bus_type": ["struct bus_type"],
    "cpu_bit_bitmap": ["unsigned long [][1]"],
    "major_names": ["struct blk_major_name *[255]"],
    "chrdevs": ["struct char_device_struct *[255]"],
    "cdev_map": ["struct kobj_map *"],
    "blockdev_superblock": ["struct super_block *"],
    "hstates": ["struct hstate []"],
    "hugetlb_max_hstate": ["int"],
    "prog_idr": ["struct idr"],
    "map_idr": ["struct idr"],
    "link_idr": ["struct idr"],
    "btf_idr": ["struct idr"],
    "arp_tbl": ["struct neigh_table"],
    "mod_tree": ["struct mod_tree_root"],
    "taint_flags": ["struct taint_flag []"],
    "task_state_array": ["char *const []"],
    "uidhash_table": ["struct hlist_head []"],
    "ipc_mni_shift": ["int"],
    "sysfs_root_kn": ["struct kernfs_node *"],
    "driver_ktype": ["struct kobj_type"],
    "device_ktype": ["struct kobj_type"],
    "class_ktype": ["struct kobj_type"],
    "bus_ktype": ["struct kobj_type"],
    "module_ktype": ["struct kobj_type"],
    "stack_slabs": ["void *[]"],
    "stack_pools": ["void **", "void *[]"],
    "task_struct_cachep": ["struct kmem_cache *"],
    "special_mapping_name": [],
}
#: Bytes that an array of unknown length has at most.
LARGEST = 1 << 20


class Objects:
    """An object finder and a symbol finder."""

    def __init__(self, prog, kernel, types):
        self.prog = prog
        self.kernel = kernel
        self.types = types

    def find(self, prog, name, flags, filename):
        """drgn's object finder."""
        if filename:
            return None
        if flags & FindObjectFlags.CONSTANT and (found := self.kernel.find_enumerator(name)):
            place, value = found
            return Object(prog, self.types.at(place), value)
        if not flags & (FindObjectFlags.FUNCTION | FindObjectFlags.VARIABLE):
            return None
        address = self.kernel.symbol(name)
        if address is None:
            return None
        if flags & FindObjectFlags.FUNCTION and (place := self.kernel.find_function(name)):
            return Object(prog, self.types.at(place), address=address)
        if flags & FindObjectFlags.VARIABLE and (declared := self.variable(name)):
            return Object(prog, self.sized(name, declared, address), address=address)
        return None

    def sized(self, name, declared, address):
        """An array whose length no declaration says, as long as its symbol is: up to the next one, without what pads it."""
        if declared.kind != TypeKind.ARRAY or declared.length is not None:
            return declared
        found = self.kernel.symbols(name)
        length = min(found[0][2] if found else 0, LARGEST) // sizeof(declared.type)
        if declared.type.kind == TypeKind.POINTER:
            while length and not self.prog.read_u64(address + 8 * (length - 1)):
                length -= 1
        return self.prog.array_type(declared.type, length) if length else declared

    def variable(self, name):
        """The type of a variable: BTF's for a per-CPU one, else a declaration's."""
        if place := self.kernel.find_variable(name):
            return self.types.at(place)
        declared = self.kernel.declaration(name)
        for text in [declared.replace("[0]", "[]")] if declared else DECLARATIONS.get(name, []):
            try:
                return self.prog.type(text)
            except LookupError:
                continue
        return None

    def symbols(self, prog, name, address, one):
        """drgn's symbol finder."""
        if address is not None:
            found = self.kernel.symbol_at(address)
            found = [found] if found and (name is None or found[0] == name) else []
        else:
            found = self.kernel.symbols(name)
        made = (Symbol(*symbol, SymbolBinding.UNKNOWN, SymbolKind.UNKNOWN) for symbol in found)
        return [next(made)] if one and found else list(made)
