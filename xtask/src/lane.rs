//! Stages that run one after the other, with guests of their own, and their results.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::board::{Board, time};
use crate::cells;
use crate::guests::Guests;
use crate::lab;
use crate::packages;
use crate::paths::Paths;
use crate::stages::Stage;
use crate::tally::Tally;

/// Results of the stages.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<String>,
    /// Last words of failed tests and programs.
    pub(crate) last_words: Vec<String>,
    pub(crate) total: Tally,
}

/// Stages that run one after the other, with guests of their own.
pub(crate) struct Lane<'a> {
    paths: &'a Paths,
    report: &'a Mutex<Report>,
    guests: Guests,
}

impl<'a> Lane<'a> {
    pub(crate) fn new(paths: &'a Paths, report: &'a Mutex<Report>, number: u32) -> Result<Self> {
        let guests = Guests::new(number)?;
        Ok(Self {
            paths,
            report,
            guests,
        })
    }

    /// Tells whether the lab is there; it is set up if need be.
    pub(crate) fn set_up(&self) -> bool {
        println!("==> set-up");
        let began = Instant::now();
        let board = Board::new();
        let packages = packages::LAB.iter().chain(packages::TESTS);
        let done = lab::set_up(&board, self.paths, packages)
            .and_then(|()| cells::ensure(&board, self.paths));
        if let Err(error) = &done {
            println!("set-up failed: {error:#}");
        }
        self.note("set-up", began, Tally::one(done.is_ok()), Vec::new());
        done.is_ok()
    }

    /// Runs a stage, with or without the lab.
    pub(crate) fn run(&self, stage: &Stage, lab: bool) {
        println!("==> {}", stage.name);
        let began = Instant::now();
        let mut last_words = Vec::new();
        let run = match lab {
            true => self.programs(stage, &mut last_words),
            false => Err(anyhow!("the set-up failed")),
        };
        let tally = run.unwrap_or_else(|error| {
            println!("{} CANNOT RUN: {error:#}", stage.name);
            Tally::one(false)
        });
        self.note(stage.name, began, tally, last_words);
    }

    fn programs(&self, stage: &Stage, last_words: &mut Vec<String>) -> Result<Tally> {
        if stage.needs_lab {
            lab::guest(&Board::new(), self.paths, Some(&self.guests.run))?;
        }
        let mut tally = Tally::default();
        for program in (stage.programs)(self.paths)? {
            let (counted, said) = program.run(self.paths, &self.guests, stage)?;
            last_words.extend(said);
            tally += counted;
        }
        Ok(tally)
    }

    fn note(&self, name: &str, began: Instant, tally: Tally, last_words: Vec<String>) {
        let line = format!(
            "{name:<20} {:<40} {}",
            tally.to_string(),
            time(began.elapsed())
        );
        println!("==> {line}");
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.lines.push(line);
        report.last_words.extend(last_words);
        report.total += tally;
    }

    /// Stops its guests.
    pub(crate) fn end(self) {
        let began = Instant::now();
        let tally = self.guests.end(self.paths);
        self.note("leftovers", began, tally, Vec::new());
    }
}
