//! Tasks that have a file of a module open: the part of a module's `uses` that is open files.

use serde::Serialize;

use crate::fs::OpenFile;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::{Listing, Result};

/// A task that has a file open whose functions are a module's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleUser {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The descriptor.
    pub fd: u32,
    /// The file's path, as `/proc/PID/fd` shows it.
    pub path: String,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct file")]
struct File {
    f_op: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct file_operations")]
struct Operations {
    owner: GuestVirt,
}

impl Guest {
    /// The processes that have a file of the module `name` open: its device, a file of its file system. What else may
    /// use a module (another module, a mount, a socket) is not among them.
    ///
    /// # Errors
    /// When no such module is loaded.
    pub fn module_users(&self, name: &str) -> Result<Listing<ModuleUser>> {
        let (kernel, module) = (self.kernel()?, self.module(name)?.module.at);
        let tasks = self.tasks()?;
        let mut users = Listing::new();
        users.missing.extend(tasks.missing.iter().cloned());
        for task in &tasks {
            let who = || format!("the files of {} ({})", task.comm, task.pid);
            // A kernel thread, and a process that has ended, has none.
            let files = match self.files_of(task) {
                Ok(files) => files,
                Err(crate::Error::Absent(_)) => continue,
                Err(error) => {
                    users.miss(who(), &error);
                    continue;
                }
            };
            users.missing.extend(files.missing.iter().cloned());
            for file in &files {
                match owner(&kernel, file) {
                    Ok(owner) if owner == module => users.items.push(ModuleUser {
                        pid: task.pid,
                        comm: task.comm.to_string(),
                        fd: file.fd,
                        path: file.path.to_string(),
                    }),
                    Ok(_) => {}
                    Err(error) => users.miss(who(), &error),
                }
            }
        }
        Ok(users)
    }
}

/// `file->f_op->owner`: null for what is built in.
fn owner(kernel: &Kernel, file: &OpenFile) -> Result<GuestVirt> {
    let File { f_op } = kernel.load(file.at)?;
    if f_op.is_null() {
        return Ok(f_op);
    }
    let Operations { owner } = kernel.load(f_op)?;
    Ok(owner)
}
