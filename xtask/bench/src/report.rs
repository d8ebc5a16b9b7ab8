//! The table of a run.

use probes::view::{
    Align::{Left, Right},
    Table, View,
};
use serde::Serialize;

/// The direction in which figures are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Smaller,
    Larger,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    klab: f64,
    unit: &'static str,
    better: Better,
    /// Name of a peer, and its figure in the same unit.
    peer: Option<(String, f64)>,
    target: Option<f64>,
    met: Option<bool>,
    note: String,
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// Adds a figure.
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        klab: f64,
        unit: &'static str,
        better: Better,
    ) -> &mut Row {
        let row = Row {
            what: what.into(),
            klab,
            unit,
            better,
            peer: None,
            target: None,
            met: None,
            note: String::new(),
        };
        let at = self.0.len();
        self.0.push(row);
        &mut self.0[at]
    }

    /// Adds figures that could not be measured, and the reason.
    pub(crate) fn failed(&mut self, what: &str, why: &anyhow::Error) {
        let row = self.add(what, f64::NAN, "", Better::Smaller);
        row.met = Some(false);
        row.note(format!("{why:#}"));
    }

    /// As a table; ratios above 1 say how many times better klab is.
    pub(crate) fn text(&self) -> String {
        let columns = [
            ("WHAT", Left),
            ("KLAB", Right),
            ("PEER", Right),
            ("RATIO", Right),
            ("", Left),
            ("TARGET", Right),
            ("", Left),
            ("NOTE", Left),
        ];
        let mut table = Table::new(columns);
        for row in &self.0 {
            let (peer, who, ratio) = match &row.peer {
                None => (String::new(), String::new(), String::new()),
                Some((who, peer)) => (
                    row.figure(*peer),
                    who.clone(),
                    format!("{:.2}", row.ratio(*peer)),
                ),
            };
            let sign = if row.better == Better::Smaller {
                "<="
            } else {
                ">="
            };
            let target = row.target.map_or_else(String::new, |target| {
                format!("{sign} {}", row.figure(target))
            });
            let met = match row.met {
                None => "",
                Some(true) => "met",
                Some(false) => "MISSED",
            };
            table.row([
                row.what.clone(),
                row.figure(row.klab),
                peer,
                ratio,
                who,
                target,
                met.to_owned(),
                row.note.clone(),
            ]);
        }
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        table.note(format!(
            "medians; RATIO: how many times better klab is than the peer (below 1: worse); load at the end {load}, {cpus} CPUs"
        ));
        table.text()
    }
}

impl Row {
    /// Sets its target.
    pub(crate) fn target(&mut self, target: f64) -> &mut Self {
        let met = match self.better {
            Better::Smaller => self.klab <= target,
            Better::Larger => self.klab >= target,
        };
        (self.target, self.met) = (Some(target), Some(met && self.met.unwrap_or(true)));
        self
    }

    /// Sets its peer.
    pub(crate) fn peer(&mut self, who: impl Into<String>, figure: f64) -> &mut Self {
        self.peer = Some((who.into(), figure));
        self
    }

    /// It must beat its peer besides.
    pub(crate) fn ahead(&mut self) -> &mut Self {
        let ahead = self
            .peer
            .as_ref()
            .is_none_or(|(_, peer)| self.ratio(*peer) > 1.0);
        self.met = Some(ahead && self.met.unwrap_or(true));
        self
    }

    /// Sets its note.
    pub(crate) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.note = note.into();
        self
    }

    fn ratio(&self, peer: f64) -> f64 {
        match self.better {
            Better::Smaller => peer / self.klab,
            Better::Larger => self.klab / peer,
        }
    }

    fn figure(&self, value: f64) -> String {
        if value.is_nan() {
            return "-".to_owned();
        }
        let digits = if value >= 100.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        format!("{value:.digits$} {}", self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_stays_and_says_so() {
        let mut report = Report::default();
        report
            .add("cold", 120.0, "ms", Better::Smaller)
            .target(100.0)
            .peer("drgn", 600.0);
        report
            .add("reads", 20.0, "M/s", Better::Larger)
            .target(18.0);
        report
            .add("cell", 150.0, "ms", Better::Smaller)
            .target(200.0)
            .peer("stock", 140.0)
            .ahead();
        report.failed("boot", &anyhow::anyhow!("no QEMU"));
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("MISSED") && lines[1].contains("5.00"),
            "{text}"
        );
        assert!(lines[2].contains(" met"), "{text}");
        assert!(
            lines[3].contains("MISSED") && lines[3].contains("0.93"),
            "{text}"
        );
        assert!(
            lines[4].contains("MISSED") && lines[4].ends_with("no QEMU"),
            "{text}"
        );
    }
}
