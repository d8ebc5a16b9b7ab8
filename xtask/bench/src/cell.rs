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

/// Output of `cells.py`.
#[derive(Debug, Deserialize)]
struct Measured {
    first_ms: f64,
    timed: BTreeMap<String, Vec<f64>>,
}

/// Cells that are timed in klab's kernel, with the row's words and its target in milliseconds.
const CELLS: [(&str, &str, f64); 5] = [
    ("x + 1", "a displayed expression (`x + 1`)", 90.0),
    ("guest.tasks()?", "`guest.tasks()?`, a reader's call", 15.0),
    (
        "{ guest.tasks()? }",
        "the same compiled (`{ guest.tasks()? }`)",
        150.0,
    ),
    (
        "let v = guest.tasks()?;",
        "`let v = guest.tasks()?;`",
        200.0,
    ),
    ("%ps", "`%ps` in a notebook", 10.0),
];

/// Measures klab's kernel and two others.
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
    let timed = |cells: &[&str]| -> Value {
        let cells = cells.iter().map(|cell| (*cell, (*cell, TIMES)));
        json!(cells.collect::<BTreeMap<_, _>>())
    };
    let ours = measure(
        &python,
        &json!({ "argv": [klab, "kernel", "--connection-file", "{connection_file}"], "env": { "KLAB_GUEST": name } }),
        "guest.tasks()?.len()",
        "let x: u64 = 41;",
        &timed(&CELLS.map(|(cell, ..)| cell)),
    )?;
    let stock = bench.stock.clone().or_else(|| in_path("evcxr_jupyter"));
    let stock = stock
        .map(|program| {
            measure(
                &python,
                &json!({ "argv": [program, "--control_file", "{connection_file}"] }),
                "1 + 1",
                "let x: u64 = 41;",
                &timed(&["x + 1"]),
            )
        })
        .transpose()?;
    let ipykernel = measure(
        &python,
        &json!({ "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"] }),
        "1 + 1",
        "x = 41",
        &timed(&["x + 1"]),
    )?;
    let p50 = |measured: &Measured, what: &str| {
        median(measured.timed.get(what).cloned().unwrap_or_default())
    };

    for (cell, words, target) in CELLS {
        let row = report
            .add(words, p50(&ours, cell), "ms", Better::Smaller)
            .target(target);
        if cell == "x + 1" {
            row.note(format!("ipykernel {:.1} ms", p50(&ipykernel, cell)));
            match &stock {
                Some(stock) => row.peer("evcxr_jupyter", p50(stock, cell)).ahead(),
                None => row.note("no evcxr_jupyter in PATH: name it by --stock"),
            };
        }
    }
    let row = report
        .add(
            "kernel start to first Rust result",
            ours.first_ms / 1e3,
            "s",
            Better::Smaller,
        )
        .target(2.5)
        .note(format!(
            "once; klab's cell reads the guest, a peer's is `1 + 1`; ipykernel {:.1} s",
            ipykernel.first_ms / 1e3
        ));
    if let Some(stock) = &stock {
        row.peer("evcxr_jupyter", stock.first_ms / 1e3);
    }
    Ok(())
}

fn measure(
    python: &Path,
    spec: &Value,
    first: &str,
    setup: &str,
    timed: &Value,
) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let [script, kernel] = ["cells.py", "kernel.json"].map(|name| folder.path().join(name));
    let mut spec = spec.clone();
    spec["display_name"] = json!("bench");
    spec["language"] = json!("rust");
    spec["interrupt_mode"] = json!("message");
    fs::write(&script, include_str!("cells.py"))?;
    fs::write(&kernel, spec.to_string())?;
    let cells = json!({ "first": first, "setup": [setup], "timed": timed });
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
