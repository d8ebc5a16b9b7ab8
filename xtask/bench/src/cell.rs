//! Cells, by one Jupyter client against klab's kernel and the stock one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::report::{Better, Report, Row};
use crate::{Bench, median, say};

/// Cells whose median is taken.
const TIMES: u32 = 15;

/// Output of `cells.py`.
#[derive(Debug, Deserialize)]
struct Measured {
    first_ms: f64,
    timed: BTreeMap<String, Vec<f64>>,
}

/// Cells that are timed in klab's kernel, with the row's words and its target in milliseconds. `{n}` makes it one that was never compiled.
const CELLS: [(&str, &str, f64); 5] = [
    ("x + {n}", EXPRESSION, 90.0),
    ("guest.tasks()?", "`guest.tasks()?`, a reader's call", 15.0),
    (
        "{ guest.tasks()? } // {n}",
        "the same compiled (`{ guest.tasks()? }`)",
        150.0,
    ),
    (
        "let v = guest.tasks()?; // {n}",
        "`let v = guest.tasks()?;`",
        200.0,
    ),
    ("%ps", "`%ps` in a notebook", 10.0),
];
const EXPRESSION: &str = "a displayed expression, new (`x + 1`)";
/// Number of variables among which the expression is timed once more.
const VARIABLES: usize = 16;
const AMONG: &str = "the expression among 16 variables";
/// Expressions that a session before this one has compiled, in the same order.
const AGAIN: &str = "the expressions of a session, in the next one";

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
    let of = |cell: &'static str| (cell, cell, TIMES);
    let variables = |set: &'static str| {
        let names = (0..VARIABLES).map(move |number| set.replace("NAME", &format!("v{number}")));
        names.map(|code| ("", code, 0)).collect::<Vec<_>>()
    };
    let timed = |x: &'static str, cells: &[&'static str], set: &'static str| -> Value {
        let mut all = vec![("", x.to_owned(), 0)];
        let cells = cells.iter().map(|cell| of(cell));
        all.extend(cells.map(|(name, code, times)| (name, code.to_owned(), times)));
        all.extend(variables(set));
        all.push((AMONG, "x + {n}".to_owned(), TIMES));
        json!(all)
    };
    const LET: [&str; 2] = ["let x: u64 = 41;", "let NAME: u64 = 41;"];
    let klab = json!({ "argv": [klab, "kernel", "--connection-file", "{connection_file}"], "env": { "KLAB_GUEST": name } });
    let ours = measure(
        &python,
        &klab,
        "guest.tasks()?.len()",
        &timed(LET[0], &CELLS.map(|(cell, ..)| cell), LET[1]),
    )?;
    let again = || {
        let cells = json!([("", LET[0], 0), (AGAIN, "x + {k}", TIMES)]);
        measure(&python, &klab, "1 + 1", &cells)
    };
    again()?;
    let again = again()?;
    let stock = bench.stock.clone().or_else(|| in_path("evcxr_jupyter"));
    let stock = stock
        .map(|program| {
            measure(
                &python,
                &json!({ "argv": [program, "--control_file", "{connection_file}"] }),
                "1 + 1",
                &timed(LET[0], &["x + {n}"], LET[1]),
            )
        })
        .transpose()?;
    let ipykernel = measure(
        &python,
        &json!({ "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"] }),
        "1 + 1",
        &timed("x = 41", &["x + {n}"], "NAME = 41"),
    )?;
    let p50 = |measured: &Measured, what: &str| {
        median(measured.timed.get(what).cloned().unwrap_or_default())
    };

    for (cell, words, target) in CELLS {
        let row = report
            .add(words, p50(&ours, cell), "ms", Better::Smaller)
            .target(target);
        if words == EXPRESSION {
            row.note(format!("ipykernel {:.1} ms", p50(&ipykernel, cell)));
        }
        if cell.starts_with("x +") {
            beside(row, stock.as_ref().map(|stock| p50(stock, cell)));
        }
    }
    let row = report
        .add(AMONG, p50(&ours, AMONG), "ms", Better::Smaller)
        .target(90.0);
    beside(row, stock.as_ref().map(|stock| p50(stock, AMONG)));
    report
        .add(AGAIN, p50(&again, AGAIN), "ms", Better::Smaller)
        .target(15.0);
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

fn beside(row: &mut Row, stock: Option<f64>) {
    match stock {
        Some(stock) => row.peer("evcxr_jupyter", stock).ahead(),
        None => row.note("no evcxr_jupyter in PATH: name it by --stock"),
    };
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
    let cells = json!({ "first": first, "timed": timed });
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
