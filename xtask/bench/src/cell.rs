//! Cells, by one Jupyter client against klab's kernel and the stock one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::report::{Better, Report};
use crate::{Bench, median, say};

/// Cells whose median is taken.
const TIMES: u32 = 15;

/// What `cells.py` prints.
#[derive(Debug, Deserialize)]
struct Measured {
    first_ms: f64,
    timed: BTreeMap<String, Vec<f64>>,
}

/// Measures both kernels.
pub(crate) fn run(name: &str, bench: &Bench, report: &mut Report) -> Result<()> {
    say("cells");
    let klab = crate::klab()?;
    let python = vm::paths::cache()?.join("venv/bin/python");
    if !python.exists() {
        bail!(
            "cells are measured by JupyterLab's client, and {} is not there: `cargo xtask lab` sets it up",
            python.display()
        );
    }
    let ours = measure(
        &python,
        &json!({ "argv": [klab, "kernel", "--connection-file", "{connection_file}"], "env": { "KLAB_GUEST": name } }),
        "guest.tasks()?.len()",
        &json!({ "x + 1": ["x + 1", TIMES], "%ps": ["%ps", TIMES] }),
    )?;
    let stock = bench.stock.clone().or_else(|| in_path("evcxr_jupyter"));
    let theirs = stock
        .map(|program| {
            measure(
                &python,
                &json!({ "argv": [program, "--control_file", "{connection_file}"] }),
                "1 + 1",
                &json!({ "x + 1": ["x + 1", TIMES] }),
            )
        })
        .transpose()?;
    let p50 = |measured: &Measured, what: &str| {
        median(measured.timed.get(what).cloned().unwrap_or_default())
    };

    let row = report
        .add(
            "a displayed expression (`x + 1`)",
            p50(&ours, "x + 1"),
            "ms",
            Better::Smaller,
        )
        .target(200.0);
    match &theirs {
        Some(theirs) => row.peer("evcxr_jupyter", p50(theirs, "x + 1")).ahead(),
        None => row.note("no evcxr_jupyter in PATH: name it by --stock"),
    };
    let row = report
        .add(
            "kernel start to first Rust result",
            ours.first_ms / 1e3,
            "s",
            Better::Smaller,
        )
        .target(5.0)
        .note("once; klab's cell reads the guest, the peer's is `1 + 1`");
    if let Some(theirs) = &theirs {
        row.peer("evcxr_jupyter", theirs.first_ms / 1e3);
    }
    report
        .add(
            "`%ps` in a notebook",
            p50(&ours, "%ps"),
            "ms",
            Better::Smaller,
        )
        .target(20.0);
    Ok(())
}

fn measure(python: &Path, spec: &Value, first: &str, timed: &Value) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let [script, kernel] = ["cells.py", "kernel.json"].map(|name| folder.path().join(name));
    let mut spec = spec.clone();
    spec["display_name"] = json!("bench");
    spec["language"] = json!("rust");
    spec["interrupt_mode"] = json!("message");
    fs::write(&script, include_str!("cells.py"))?;
    fs::write(&kernel, spec.to_string())?;
    let cells = json!({ "first": first, "setup": ["let x: u64 = 41;"], "timed": timed });
    let output = Command::new(python)
        .arg(&script)
        .arg(&kernel)
        .arg(cells.to_string())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start", python.display()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!(
            "the cells could not be measured: {}",
            words
                .trim()
                .lines()
                .last()
                .unwrap_or("no word from the client")
        );
    }
    serde_json::from_slice(&output.stdout).context("the client's answer is no JSON")
}

fn in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
