/*
 * The kernel's global variables, as its sources declare them, in lines that globals/mod.rs reads. Of several lines of
 * one name the first counts that this kernel can have: its type is in BTF, it is not longer than its symbol, and what is
 * const lies in read-only data. Where that does not tell them apart, `if` names a member that must exist. A word for a
 * length is an enumeration's constant, or one of globals/lengths.rs. `[]` is a length that nothing tells.
 *
 * What lies in memory that is freed after the boot has no place here.
 */

/* Tasks */
struct task_struct init_task;
struct mm_struct init_mm;
struct nsproxy init_nsproxy;
struct pid_namespace init_pid_ns;
struct user_namespace init_user_ns;
struct uts_namespace init_uts_ns;
struct ipc_namespace init_ipc_ns;
struct cgroup_namespace init_cgroup_ns;
struct net init_net;
struct cred init_cred;
struct files_struct init_files;
struct fs_struct init_fs;
struct signal_struct init_signals;
struct sighand_struct init_sighand;
struct user_struct root_user;
struct hlist_head uidhash_table[UIDHASH_SZ];
struct hlist_head *pid_hash;
struct task_group root_task_group;
struct list_head task_groups;
rwlock_t tasklist_lock;
int nr_threads;
unsigned long total_forks;
unsigned long avenrun[3];
const char *const task_state_array[TASK_STATES];
struct kmem_cache *task_struct_cachep;
int ipc_mni_shift;

/* CPUs, time, interrupts */
struct cpuinfo_x86 boot_cpu_data;
struct boot_params boot_params;
unsigned int nr_cpu_ids;
atomic_t __num_online_cpus;
struct cpumask __cpu_online_mask;
struct cpumask __cpu_possible_mask;
struct cpumask __cpu_present_mask;
struct cpumask __cpu_active_mask;
const unsigned long cpu_bit_bitmap[65][BITS_TO_LONGS(NR_CPUS)];
unsigned long __per_cpu_offset[NR_CPUS];
void *pcpu_base_addr;
int pcpu_unit_size;
const struct bus_type cpu_subsys;
struct bus_type cpu_subsys;
volatile unsigned long jiffies;
u64 jiffies_64;
int tick_do_timer_cpu;
unsigned long loops_per_jiffy;
struct list_head clocksource_list;
struct clocksource *curr_clocksource;
struct tk_data timekeeper_data[TIMEKEEPERS_MAX];
gate_desc idt_table[256];
const sys_call_ptr_t sys_call_table[SYSCALLS];
struct softirq_action softirq_vec[NR_SOFTIRQS];
struct maple_tree sparse_irqs;
struct xarray irq_desc_tree;
struct radix_tree_root irq_desc_tree;
unsigned int nr_irqs;
unsigned int total_nr_irqs;
struct list_head workqueues;
struct idr worker_pool_idr;

/* Memory */
unsigned long page_offset_base;
unsigned long vmalloc_base;
unsigned long vmemmap_base;
unsigned long phys_base;
pgd_t init_top_pgt[512];
unsigned long max_pfn;
unsigned long max_low_pfn;
unsigned long min_low_pfn;
unsigned long totalreserve_pages;
atomic_long_t _totalram_pages;
atomic_long_t vm_zone_stat[NR_VM_ZONE_STAT_ITEMS];
atomic_long_t vm_node_stat[NR_VM_NODE_STAT_ITEMS];
atomic_long_t vm_numa_event[NR_VM_NUMA_EVENT_ITEMS];
struct percpu_counter vm_committed_as;
int sysctl_overcommit_ratio;
unsigned long sysctl_overcommit_kbytes;
struct pglist_data *node_data[MAX_NUMNODES];
struct pglist_data contig_page_data;
nodemask_t node_states[NR_NODE_STATES];
unsigned int nr_node_ids;
cpumask_var_t node_to_cpumask_map[MAX_NUMNODES];
struct mempolicy preferred_node_policy[MAX_NUMNODES];
struct mem_section **mem_section;
unsigned long __highest_present_section_nr;
int sections_per_block;
const struct bus_type memory_subsys;
struct bus_type memory_subsys;
const uint8_t empty_zero_page[4096];
unsigned long empty_zero_page[512];
struct vm_area_struct gate_vma;
struct list_head kclist_head;
struct list_head slab_caches;
struct kset *slab_kset;
void *stack_slabs[STACK_ALLOC_MAX_SLABS];
void *stack_pools[DEPOT_MAX_POOLS];
void **stack_pools;
struct list_head vmap_area_list;
struct rb_root vmap_area_root;
struct vmap_node *vmap_nodes;
unsigned int nr_vmap_nodes;
unsigned int vmap_zone_size;
long total_swap_pages;
unsigned int nr_swapfiles;
struct swap_info_struct *swap_info[MAX_SWAPFILES];
atomic_long_t nr_swap_pages;
struct hstate hstates[HUGE_MAX_HSTATE];
int hugetlb_max_hstate;

/* Files, devices */
struct list_head super_blocks;
struct super_block *blockdev_superblock;
struct kmem_cache *mm_cachep;
struct kmem_cache *mnt_cache;
struct kmem_cache *uid_cachep;
struct hlist_head file_systems; /* if struct file_system_type.list */
struct file_system_type *file_systems;
struct hlist_bl_head *dentry_hashtable;
const struct file_operations fanotify_fops;
struct kernfs_root *sysfs_root;
struct kernfs_node *sysfs_root_kn;
struct ctl_table_root sysctl_table_root;
struct kobject *kernel_kobj;
struct kset *class_kset;
struct kset *bus_kset;
const struct kobj_type driver_ktype;
struct kobj_type driver_ktype;
const struct kobj_type device_ktype;
struct kobj_type device_ktype;
const struct kobj_type class_ktype;
struct kobj_type class_ktype;
const struct kobj_type bus_ktype;
struct kobj_type bus_ktype;
const struct class block_class;
struct class block_class;
const struct class mem_class;
struct class *mem_class;
const struct bus_type pci_bus_type;
struct bus_type pci_bus_type;
const struct bus_type platform_bus_type;
struct bus_type platform_bus_type;
struct list_head pci_root_buses;
struct blk_major_name *major_names[255];
struct char_device_struct *chrdevs[255];
struct kobj_map *cdev_map;
struct resource iomem_resource;
struct resource ioport_resource;

/* Network */
struct list_head net_namespace_list;
struct rw_semaphore net_rwsem;
struct net_protocol *inet_protos[256];
struct list_head ptype_all;
struct list_head ptype_base[16];
struct proto tcp_prot;
struct proto udp_prot;
struct inet_hashinfo tcp_hashinfo;
struct neigh_table arp_tbl;

/* Modules, BPF, control groups, the log, the rest */
struct list_head modules;
struct kset *module_kset;
const struct kobj_type module_ktype;
struct kobj_type module_ktype;
struct mod_tree_root mod_tree;
struct idr prog_idr;
struct idr map_idr;
struct idr link_idr;
struct idr btf_idr;
struct cgroup_root cgrp_dfl_root;
struct list_head cgroup_roots;
struct cgroup_subsys *cgroup_subsys[CGROUP_SUBSYS_COUNT];
int css_set_count;
struct printk_ringbuffer *prb;
struct hlist_head console_list;
char *saved_command_line;
const char linux_banner[BANNER_LENGTH];
int panic_on_oops;
int oops_in_progress;
unsigned long tainted_mask;
const struct taint_flag taint_flags[TAINT_FLAGS_COUNT];
enum system_states system_state;
