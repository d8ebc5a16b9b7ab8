//! The identity of an object among those of its type, in a few words.

use crate::fs::{d_path, dentry_path};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::FixedStr;
use crate::object::Mirror;
use crate::structures::offset_of;
use crate::{Error, Result};

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Task {
    pid: i32,
    comm: FixedStr<16>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
struct Inode {
    i_ino: u64,
    i_sb: GuestVirt,
}

/// Identity of the object of this type at `at`; `None` for types of which nothing is known.
pub(super) fn of(kernel: &Kernel, c: &str, at: GuestVirt) -> Result<Option<String>> {
    let word = |at: GuestVirt| kernel.read_u64(at);
    let member = |name: &str| -> Result<GuestVirt> { Ok(at.offset(offset_of(kernel, c, name)?)) };
    Ok(match c {
        "struct task_struct" => Some(task(kernel, at)?),
        "struct mm_struct" => {
            let owner = GuestVirt(word(member("owner")?)?);
            match owner.is_null() {
                true => None,
                false => Some(format!("of {}", task(kernel, owner)?)),
            }
        }
        "struct vm_area_struct" => {
            let (start, end) = (word(member("vm_start")?)?, word(member("vm_end")?)?);
            Some(format!("{start:#x}-{end:#x}"))
        }
        "struct file" => Some(d_path(kernel, member("f_path")?)?),
        "struct dentry" => Some(dentry_path(kernel, at)?),
        "struct kmem_cache" | "struct kernfs_node" | "struct proc_dir_entry" => {
            Some(kernel.read_cstr(GuestVirt(word(member("name")?)?), 128)?)
        }
        "struct cred" => Some(format!("uid {}", kernel.read_u32(member("uid.val")?)?)),
        "struct pid" => Some(format!(
            "pid {}",
            kernel.read_u32(member("numbers[0].nr")?)?
        )),
        "struct vmap_area" => {
            let (start, end) = (word(member("va_start")?)?, word(member("va_end")?)?);
            Some(format!("{start:#x}-{end:#x}"))
        }
        "struct inode" => Some(inode(kernel, at)?),
        _ => match member("vfs_inode") {
            Ok(at) => Some(inode(kernel, at)?),
            Err(Error::NoMember { .. }) => None,
            Err(error) => return Err(error),
        },
    })
}

fn task(kernel: &Kernel, at: GuestVirt) -> Result<String> {
    let task: Task = kernel.load(at)?;
    Ok(format!("{} ({})", task.pid, task.comm))
}

fn inode(kernel: &Kernel, at: GuestVirt) -> Result<String> {
    let inode: Inode = kernel.load(at)?;
    let dev = offset_of(kernel, "struct super_block", "s_dev")?;
    let dev = kernel.read_u32(inode.i_sb.offset(dev))?;
    // MAJOR() and MINOR() of include/linux/kdev_t.h.
    Ok(format!(
        "inode {} of {}:{}",
        inode.i_ino,
        dev >> 20,
        dev & 0xf_ffff
    ))
}
