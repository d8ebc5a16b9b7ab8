use klab_wire::{Answer, Ask};

use super::{Client, Result, Workload, WorkloadKind, unexpected};

impl Client {
    /// Starts a workload; returns once all of it is there. It outlives this client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workload(&mut self, kind: WorkloadKind) -> Result<Workload> {
        self.one_workload(Ask::WorkloadStart(kind))
    }

    /// Moves the program break of a [`WorkloadKind::Brk`] by `bytes`.
    ///
    /// # Errors
    /// When it is no such workload or the kernel refuses.
    pub fn workload_step(&mut self, id: u32, bytes: i64) -> Result<Workload> {
        self.one_workload(Ask::WorkloadStep { id, bytes })
    }

    /// Ends a workload; returns once its processes are gone.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn workload_stop(&mut self, id: u32) -> Result<()> {
        self.done(Ask::WorkloadStop { id })
    }

    /// The workloads that run, by whomever they were started.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn workloads(&mut self) -> Result<Vec<Workload>> {
        let mut all = Vec::new();
        self.stream(Ask::WorkloadList, |answer| match answer {
            Answer::Workload(info) => {
                all.push(info);
                Ok(())
            }
            other => Err(unexpected(&other)),
        })?;
        Ok(all)
    }

    fn one_workload(&mut self, ask: Ask) -> Result<Workload> {
        match self.call(ask)? {
            Answer::Workload(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }
}
