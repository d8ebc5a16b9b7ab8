//! Source of the agent's program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{bad, tools::is_static};
use crate::{
    error::{At as _, Error, Result},
    paths,
    progress::Progress,
};

const NAME: &str = "klab-agent";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Sources of the agent, below the workspace.
const SOURCES: &[&str] = &["vm/agent", "vm/wire", "Cargo.toml", "Cargo.lock"];
/// Other builds may be in front of ours.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The agent's program, one static binary: `$KLAB_AGENT`, else the one that came with an installed klab, else built by
/// cargo from the sources that this library was built from, into `target/agent`. It is built again only when its sources
/// have changed.
///
/// # Errors
/// When `$KLAB_AGENT` is no static program, when there are no sources, or when they do not build.
pub fn agent_binary(progress: &mut dyn Progress) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KLAB_AGENT")
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
    {
        let bytes = fs::read(&path).at("read KLAB_AGENT", &path)?;
        let needs = "(KLAB_AGENT) is no static program: build it with `-C target-feature=+crt-static`, or unset KLAB_AGENT";
        return if is_static(&bytes) {
            Ok(path)
        } else {
            Err(bad(&path, needs))
        };
    }
    if let Some(path) = paths::shipped(NAME) {
        return Ok(path);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"));
    if !workspace.join("vm/agent/Cargo.toml").is_file() {
        return Err(bad(
            workspace,
            "has no sources of the guest's agent any more: set KLAB_AGENT to a static klab-agent",
        ));
    }
    build(workspace, progress)
}

fn build(workspace: &Path, progress: &mut dyn Progress) -> Result<PathBuf> {
    let folder = workspace.join("target/agent");
    let program = folder.join(TARGET).join("release").join(NAME);
    let (stamp, sources) = (folder.join("sources"), hash(workspace)?);
    let fresh =
        || program.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == sources);
    if fresh() {
        return Ok(program);
    }
    fs::create_dir_all(&folder).at("make", &folder)?;
    let _lock = paths::lock(&folder.join("lock"), PATIENCE)?
        .ok_or_else(|| Error::Locked("(agent)".to_owned()))?;
    if fresh() {
        return Ok(program);
    }
    progress.step("building the guest's agent");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            NAME,
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&folder);
    cargo.current_dir(workspace).stdin(Stdio::null());
    // Variables that a surrounding cargo, or an evcxr cell, set for its own build.
    for variable in [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    let built = cargo
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        .output();
    let built = built.map_err(|e| {
        bad(
            workspace,
            format!("cannot be built, cargo does not start: {e}; install Rust or set KLAB_AGENT"),
        )
    })?;
    if !built.status.success() || !program.is_file() {
        let text = String::from_utf8_lossy(&built.stderr);
        let first = text
            .lines()
            .find(|l| l.starts_with("error"))
            .unwrap_or("cargo gives no reason");
        let cure = format!("run `cargo build -p {NAME}` there to see all of it");
        return Err(bad(
            workspace,
            format!("does not build the guest's agent ({first}): {cure}"),
        ));
    }
    paths::write_whole(&stamp, sources.as_bytes())?;
    Ok(program)
}

/// A hash of every source's path and bytes.
fn hash(workspace: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut paths: Vec<PathBuf> = SOURCES.iter().map(|s| workspace.join(s)).collect();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path).at("read", &path)? {
                paths.push(entry.at("read", &path)?.path());
            }
        } else {
            files.push(path);
        }
    }
    files.sort_unstable();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.as_os_str().as_encoded_bytes());
        hash.update(fs::read(&file).at("read", &file)?);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
