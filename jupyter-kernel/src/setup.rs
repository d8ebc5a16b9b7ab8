//! The subcommands that set the kernel up and run it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::{kernel, prepare};

/// The subcommands that set the kernel up and run it.
#[derive(Debug, Subcommand)]
pub(crate) enum Setup {
    /// Run the Jupyter kernel; Jupyter calls this
    Kernel {
        /// The file in which the client wrote its ports and key
        #[arg(long, short = 'f', value_name = "FILE")]
        connection_file: PathBuf,
    },
    /// Tell Jupyter about this kernel
    Kernelspec {
        /// The environment that gets the spec, instead of this user
        #[arg(long, value_name = "DIR", conflicts_with = "user")]
        prefix: Option<PathBuf>,
        /// Install for this user; the default
        #[arg(long)]
        user: bool,
    },
    /// Compile the library of the cells and get what it needs, once
    Prepare {
        /// Run evcxr in the folder of a template
        #[arg(long, hide = true)]
        template: bool,
    },
}

impl Setup {
    /// Does it; returns what there is to say.
    pub(crate) fn run(&self) -> Result<String> {
        match self {
            Self::Kernel { connection_file } => kernel::run(connection_file)?,
            Self::Kernelspec { prefix, user: _ } => {
                return Ok(format!(
                    "{}\n",
                    kernel::install(prefix.as_deref())?.display()
                ));
            }
            Self::Prepare { template: true } => prepare::build()?,
            Self::Prepare { template: false } => prepare::prepare(&|text| eprint!("{text}"))?,
        }
        Ok(String::new())
    }
}
