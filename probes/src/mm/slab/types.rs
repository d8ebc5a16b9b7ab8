//! Types of the objects of caches, by the cache's name.

use crate::kernel::Kernel;
use crate::kernel::btf::Kind;

/// Caches whose name is not that of their objects' type, as the callers of `kmem_cache_create()` have it.
const NAMES: [(&str, &str); 37] = [
    ("TCP", "tcp_sock"),
    ("TCPv6", "tcp6_sock"),
    ("UDP", "udp_sock"),
    ("UDPv6", "udp6_sock"),
    ("RAW", "raw_sock"),
    ("RAWv6", "raw6_sock"),
    ("PING", "inet_sock"),
    ("UNIX", "unix_sock"),
    ("UNIX-STREAM", "unix_sock"),
    ("PACKET", "packet_sock"),
    ("NETLINK", "netlink_sock"),
    ("sock_inode_cache", "socket_alloc"),
    ("bdev_cache", "bdev_inode"),
    ("inode_cache", "inode"),
    ("shmem_inode_cache", "shmem_inode_info"),
    ("proc_inode_cache", "proc_inode"),
    ("ext4_inode_cache", "ext4_inode_info"),
    ("hugetlbfs_inode_cache", "hugetlbfs_inode_info"),
    ("mqueue_inode_cache", "mqueue_inode_info"),
    ("filp", "file"),
    ("files_cache", "files_struct"),
    ("fs_cache", "fs_struct"),
    ("mnt_cache", "mount"),
    ("cred_jar", "cred"),
    ("key_jar", "key"),
    ("names_cache", "filename"),
    ("signal_cache", "signal_struct"),
    ("sighand_cache", "sighand_struct"),
    ("delayacct_cache", "task_delay_info"),
    ("uid_cache", "user_struct"),
    ("net_namespace", "net"),
    ("skbuff_head_cache", "sk_buff"),
    ("skbuff_fclone_cache", "sk_buff_fclones"),
    ("kernfs_node_cache", "kernfs_node"),
    ("kernfs_iattrs_cache", "kernfs_iattrs"),
    ("radix_tree_node", "xa_node"),
    ("blkdev_ioc", "io_context"),
];

/// The C type of the objects of a cache, if the kernel has one of that name that fits into them.
pub(super) fn of_cache(kernel: &Kernel, cache: &str, object_size: u32) -> Option<String> {
    let btf = kernel.btf().ok()?;
    let listed = NAMES.iter().find(|(name, _)| *name == cache);
    let name = listed.map_or(cache, |(_, name)| *name);
    let name = match listed {
        Some(_) => name,
        None => name.strip_suffix("_cache").unwrap_or(name),
    };
    let size = btf.size_of(btf.find(Kind::Struct, name)?).ok()??;
    let object_size = u64::from(object_size);
    // A task_struct is cut to the registers that the processor has; other objects have something behind the structure.
    let fits = size > 0 && size < object_size * 2 && (listed.is_some() || object_size < size * 2);
    fits.then(|| format!("struct {name}"))
}
