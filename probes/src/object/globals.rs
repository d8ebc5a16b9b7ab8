//! The types of the kernel's global variables.
//!
//! BTF has the types of per-CPU variables only. These are the declarations of the others that are asked for most, as
//! the kernel's headers and sources have them; each is checked when it is used: the symbol and the type must exist.

use super::ctype::{CType, Form};
use super::cursor::Object;
use crate::kernel::btf::{Kind, TypeId};
use crate::kernel::{Definition, Kernel};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Name and type. A name whose type differs among the kernels from 6.1 on, or whose memory is freed after the boot, has
/// no place here; `[0]` is an array whose length the kernel's configuration says.
const GLOBALS: &[(&str, &str)] = &[
    ("init_task", "struct task_struct"),
    ("init_mm", "struct mm_struct"),
    ("init_net", "struct net"),
    ("init_pid_ns", "struct pid_namespace"),
    ("init_user_ns", "struct user_namespace"),
    ("init_uts_ns", "struct uts_namespace"),
    ("init_ipc_ns", "struct ipc_namespace"),
    ("init_cgroup_ns", "struct cgroup_namespace"),
    ("init_nsproxy", "struct nsproxy"),
    ("init_cred", "struct cred"),
    ("init_files", "struct files_struct"),
    ("init_fs", "struct fs_struct"),
    ("init_signals", "struct signal_struct"),
    ("init_sighand", "struct sighand_struct"),
    ("root_user", "struct user_struct"),
    ("root_task_group", "struct task_group"),
    ("task_groups", "struct list_head"),
    ("tasklist_lock", "rwlock_t"),
    ("nr_threads", "int"),
    ("total_forks", "unsigned long"),
    ("avenrun", "unsigned long [3]"),
    ("jiffies", "unsigned long"),
    ("jiffies_64", "u64"),
    ("tick_do_timer_cpu", "int"),
    ("loops_per_jiffy", "unsigned long"),
    ("modules", "struct list_head"),
    ("module_kset", "struct kset *"),
    ("slab_caches", "struct list_head"),
    ("super_blocks", "struct list_head"),
    ("net_namespace_list", "struct list_head"),
    ("net_rwsem", "struct rw_semaphore"),
    ("workqueues", "struct list_head"),
    ("vmap_area_list", "struct list_head"),
    ("iomem_resource", "struct resource"),
    ("ioport_resource", "struct resource"),
    ("cgrp_dfl_root", "struct cgroup_root"),
    ("cgroup_roots", "struct list_head"),
    ("css_set_count", "int"),
    ("prb", "struct printk_ringbuffer *"),
    ("console_list", "struct hlist_head"),
    ("clocksource_list", "struct list_head"),
    ("curr_clocksource", "struct clocksource *"),
    ("sysctl_table_root", "struct ctl_table_root"),
    ("saved_command_line", "char *"),
    ("linux_banner", "char [0]"),
    ("boot_cpu_data", "struct cpuinfo_x86"),
    ("boot_params", "struct boot_params"),
    ("nr_cpu_ids", "unsigned int"),
    ("__num_online_cpus", "atomic_t"),
    ("__cpu_online_mask", "struct cpumask"),
    ("__cpu_possible_mask", "struct cpumask"),
    ("__cpu_present_mask", "struct cpumask"),
    ("__cpu_active_mask", "struct cpumask"),
    ("__per_cpu_offset", "unsigned long [0]"),
    ("pcpu_base_addr", "void *"),
    ("pcpu_unit_size", "int"),
    ("page_offset_base", "unsigned long"),
    ("vmalloc_base", "unsigned long"),
    ("vmemmap_base", "unsigned long"),
    ("phys_base", "unsigned long"),
    ("max_pfn", "unsigned long"),
    ("max_low_pfn", "unsigned long"),
    ("min_low_pfn", "unsigned long"),
    ("totalreserve_pages", "unsigned long"),
    ("_totalram_pages", "atomic_long_t"),
    ("vm_zone_stat", "atomic_long_t [0]"),
    ("vm_node_stat", "atomic_long_t [0]"),
    ("node_data", "struct pglist_data *[0]"),
    ("contig_page_data", "struct pglist_data"),
    ("mem_section", "struct mem_section **"),
    ("empty_zero_page", "unsigned long [512]"),
    ("init_top_pgt", "pgd_t [512]"),
    ("idt_table", "struct gate_struct [256]"),
    ("sys_call_table", "void *[0]"),
    ("inet_protos", "struct net_protocol *[256]"),
    ("ptype_all", "struct list_head"),
    ("ptype_base", "struct list_head [16]"),
    ("tcp_prot", "struct proto"),
    ("udp_prot", "struct proto"),
    ("tcp_hashinfo", "struct inet_hashinfo"),
    ("panic_on_oops", "int"),
    ("oops_in_progress", "int"),
    ("tainted_mask", "unsigned long"),
    ("system_state", "enum system_states"),
];

/// The declared type of a global variable, in C: `struct list_head`. `[0]` is an array of unknown length.
#[must_use]
pub fn declaration_of(global: &str) -> Option<&'static str> {
    let found = GLOBALS.iter().find(|(name, _)| *name == global);
    found.map(|(_, ty)| *ty)
}

impl Kernel {
    /// The global variable of this name, with its type.
    ///
    /// A per-CPU variable lies at its offset: `per_cpu(name, cpu)` in an expression says which CPU's. For a
    /// variable whose type is not known, the error says how to cast.
    pub fn object(&self, name: &str) -> Result<Object> {
        let object = self.global(name)?;
        if matches!(object.c_type().form()?, Form::Void) {
            return Err(Error::Invalid(format!(
                "BTF has no type for `{name}`: say it with a cast, *(type *)&{name}"
            )));
        }
        Ok(object)
    }

    /// As [`object`](Self::object), but a symbol without a known type is a `void`, whose address can be taken.
    pub(super) fn global(&self, spelling: &str) -> Result<Object> {
        self.defined(&self.resolve(spelling)?)
    }

    /// A definition of a symbol as an object. What a module defines has the types of its own BTF, not those of the
    /// kernel's variable or function of that name.
    pub(super) fn defined(&self, definition: &Definition) -> Result<Object> {
        let (name, at) = (definition.symbol.name.as_str(), definition.symbol.at);
        let btf = match &definition.module {
            None => self.btf()?.clone(),
            Some(module) => {
                let all = self.module_btfs()?;
                let own = all.into_iter().find(|btf| btf.name == *module);
                match own {
                    Some(own) => own.btf?,
                    None => return self.untyped(at),
                }
            }
        };
        let own = |id: &TypeId| definition.module.is_none() || btf.ids().any(|own| own == *id);
        let of_kind = |kind| {
            let ty = btf.named(name).find(|ty| ty.kind == kind && own(&ty.id));
            ty.and_then(|ty| ty.target())
        };
        let known = GLOBALS
            .iter()
            .filter(|(global, _)| definition.module.is_none() && *global == name)
            .find_map(|(_, ty)| self.c_type(ty).ok());
        let typed = || of_kind(Kind::Var).or_else(|| of_kind(Kind::Func));
        match known.or_else(|| typed().map(|id| CType::of(&btf, id))) {
            Some(ty) => Ok(Object::in_memory(self, ty, at)),
            None => self.untyped(at),
        }
    }

    fn untyped(&self, at: GuestVirt) -> Result<Object> {
        let ty = CType::of(self.btf()?, TypeId::VOID);
        Ok(Object::in_memory(self, ty, at))
    }

    /// The names of the globals whose types are known here, for completion.
    pub fn known_globals() -> impl Iterator<Item = &'static str> {
        GLOBALS.iter().map(|(name, _)| *name)
    }
}
