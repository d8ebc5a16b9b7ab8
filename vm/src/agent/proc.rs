use klab_wire::{
    Answer, Ask, MAX_PAGES, ProcPart, ProcQuery,
    proc::{
        KmsgRecord, Mem, Module, PageEntry, Symbol, Task, Vma, parse_kallsyms, parse_meminfo,
        parse_modules,
    },
};

use super::{Client, Error, Result, unexpected};

/// A reading whose parts are `$part`, at most `$max` values: more than any guest of klab's has.
macro_rules! collect {
    ($client:expr, $query:expr, $part:ident, $max:expr) => {{
        let mut all = Vec::new();
        $client.stream(Ask::Proc($query), |answer| match answer {
            Answer::Proc(ProcPart::$part(some)) if all.len() + some.len() <= $max => {
                all.extend(some);
                Ok(())
            }
            Answer::Proc(ProcPart::$part(_)) => Err(Error::Protocol("too many values".to_owned())),
            other => Err(unexpected(&other)),
        })?;
        Ok(all)
    }};
}

impl Client {
    /// Every thread of every process, those of the kernel too, in `/proc`'s order. One that ends while it
    /// is read is left out.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn proc_tasks(&mut self) -> Result<Vec<Task>> {
        collect!(self, ProcQuery::Tasks, Tasks, 64 << 10)
    }

    /// All areas of a process, in address order; none for a kernel thread.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn proc_maps(&mut self, pid: i32) -> Result<Vec<Vma>> {
        collect!(self, ProcQuery::Maps { pid }, Maps, 256 << 10)
    }

    /// Reads the pagemap entries of `pages` pages of a process from `start` on.
    ///
    /// # Errors
    /// When there is no such process, or more than 1 Mi pages are asked for.
    pub fn proc_pagemap(&mut self, pid: i32, start: u64, pages: u32) -> Result<Vec<PageEntry>> {
        collect!(
            self,
            ProcQuery::Pagemap { pid, start, pages },
            Pagemap,
            MAX_PAGES as usize
        )
    }

    /// Every record of the kernel log, oldest first.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn kmsg(&mut self) -> Result<Vec<KmsgRecord>> {
        collect!(self, ProcQuery::Kmsg, Kmsg, 256 << 10)
    }

    /// `/proc/meminfo`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn meminfo(&mut self) -> Result<Vec<Mem>> {
        Ok(parse_meminfo(&self.read("/proc/meminfo")?))
    }

    /// The modules that are loaded.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn modules(&mut self) -> Result<Vec<Module>> {
        Ok(parse_modules(&self.read("/proc/modules")?))
    }

    /// Every symbol of `/proc/kallsyms`, in its order.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn kallsyms(&mut self) -> Result<Vec<Symbol>> {
        Ok(parse_kallsyms(&self.read("/proc/kallsyms")?))
    }

    /// `/proc/version`, without its line end.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn version(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read("/proc/version")?)
            .trim_end()
            .to_owned())
    }

    /// Seconds since boot.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn uptime(&mut self) -> Result<f64> {
        let text = self.read("/proc/uptime")?;
        let first = std::str::from_utf8(&text)
            .ok()
            .and_then(|t| t.split_whitespace().next()?.parse().ok());
        first.ok_or_else(|| Error::Protocol("uptime".to_owned()))
    }
}
