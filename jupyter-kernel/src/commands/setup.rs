//! The subcommands that set the kernel up and run it. What they do is the program's: no command knows of the kernel.

use std::path::PathBuf;

use clap::Subcommand;

/// The subcommands that set the kernel up and run it.
#[derive(Debug, Subcommand)]
pub(crate) enum Setup {
    /// Run the Jupyter kernel; Jupyter calls this
    Kernel {
        /// The file in which the client wrote its ports and key
        #[arg(long, short = 'f', value_name = "FILE")]
        connection_file: PathBuf,
    },
    /// Open the lessons in JupyterLab, on a guest that is started if it is not up
    #[command(after_long_help = include_str!("manual/lab.txt"))]
    Lab {
        /// The folder to open [default: `klab-lessons` in the home folder, where the lessons are put]
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
        /// Print the address, open nothing
        #[arg(long)]
        no_browser: bool,
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
    Prepare,
}
