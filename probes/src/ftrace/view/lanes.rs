//! A timeline, shown: a lane for each CPU, and the sums of each task.

use super::{duration, note};
use crate::ftrace::timeline::{Slice, Timeline};
use crate::view::svg::{FAINT, INK, shorten};
use crate::view::{Align, Anchor, Svg, Table, Text, View};

/// Pixels of the picture, and where the lanes are.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 34.0;
/// Pixels of a lane, and from one to the next.
const LANE: f64 = 26.0;
const STEP: f64 = 38.0;
/// Tasks that have a colour, which are named below the lanes.
const NAMED: usize = 12;
/// Ticks of the time.
const TICKS: u64 = 8;
/// Colours that are told apart by those who see fewer, too.
const COLOURS: [&str; NAMED] = [
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988",
    "#997700", "#882255", "#88ccee", "#6699cc",
];
/// The colour of tasks without one, and of what is not known.
const OTHER: &str = "#9aa5b1";
const UNKNOWN: &str = "#f3d9d3";

impl View for Timeline {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        Some(format!("{}{}", picture(self), table(self).html()?))
    }

    fn svg(&self) -> Option<String> {
        Some(picture(self))
    }
}

crate::displays!(Timeline);

fn table(timeline: &Timeline) -> Table {
    let mut table = Table::new([
        ("PID", Align::Right),
        ("COMM", Align::Left),
        ("RAN", Align::Right),
        ("SHARE", Align::Right),
        ("SWITCHES", Align::Right),
        ("LONGEST", Align::Right),
        ("PREEMPTED", Align::Right),
        ("CPUS", Align::Left),
    ]);
    let span = timeline.end.saturating_sub(timeline.start);
    for task in &timeline.tasks {
        let cpus: Vec<String> = task.cpus.iter().map(u32::to_string).collect();
        table.row([
            task.pid.to_string(),
            task.comm.clone(),
            duration(task.time),
            format!("{:.1}%", 100.0 * task.time as f64 / span.max(1) as f64),
            task.switches.to_string(),
            duration(task.longest),
            task.preempted.to_string(),
            cpus.join(","),
        ]);
    }
    let cpus = timeline.cpus.len();
    let mut first = format!(
        "{} on {cpus} {}; SHARE is of one CPU",
        duration(span),
        if cpus == 1 { "CPU" } else { "CPUs" }
    );
    let unknown = timeline.unknown.iter();
    let unknown: u64 = unknown.map(|one| one.end.saturating_sub(one.start)).sum();
    if !timeline.unknown.is_empty() {
        first += &format!("; what ran is not known for {}", duration(unknown));
    }
    note(&mut table, Some(first), &timeline.tally);
    table
}

fn picture(timeline: &Timeline) -> String {
    let named = timeline.tasks.len().min(NAMED);
    let rows = named.div_ceil(4) as f64;
    let lanes = TOP + timeline.cpus.len() as f64 * STEP;
    let mut svg = Svg::new(WIDTH, lanes + 26.0 + rows * 18.0);
    let span = timeline.end.saturating_sub(timeline.start).max(1);
    let x = |time: u64| {
        let part = time.saturating_sub(timeline.start) as f64 / span as f64;
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    for tick in 0..=TICKS {
        let after = span / TICKS * tick;
        let at = x(timeline.start + after);
        svg.line(&[(at, TOP - 6.0), (at, lanes - 8.0)], "#e3e7eb", 1.0, "");
        let style = Text {
            size: 10.0,
            fill: FAINT,
            anchor: Anchor::Middle,
            ..Text::default()
        };
        svg.text((at, TOP - 12.0), &duration(after), style);
    }
    for (lane, cpu) in timeline.cpus.iter().enumerate() {
        let y = TOP + lane as f64 * STEP;
        svg.text((10.0, y + 17.0), &format!("CPU {cpu}"), Text::default());
        let middle = y + LANE / 2.0;
        svg.line(
            &[(LEFT, middle), (WIDTH - RIGHT, middle)],
            "#c8d0d8",
            1.0,
            "",
        );
        for one in timeline.unknown.iter().filter(|one| one.cpu == *cpu) {
            let (from, to) = (x(one.start), x(one.end));
            svg.rect((from, y), ((to - from).max(0.5), LANE), UNKNOWN, UNKNOWN);
        }
        let runs = timeline
            .slices
            .iter()
            .filter(|one| one.cpu == *cpu && one.pid != 0);
        // Of what is narrower than half a pixel one stands for all that begin in it.
        let mut drawn = f64::MIN;
        for slice in runs {
            let (from, to) = (x(slice.start), x(slice.end));
            if to - from < 0.5 && from - drawn < 0.5 {
                continue;
            }
            drawn = from;
            draw(&mut svg, timeline, slice, (from, to), y);
        }
    }
    for (index, task) in timeline.tasks.iter().take(NAMED).enumerate() {
        let at = LEFT + (index % 4) as f64 * (WIDTH - LEFT - RIGHT) / 4.0;
        let y = lanes + 10.0 + (index / 4) as f64 * 18.0;
        svg.rect(
            (at, y),
            (10.0, 10.0),
            COLOURS[index % NAMED],
            COLOURS[index % NAMED],
        );
        let text = format!("{} {} {}", task.comm, task.pid, duration(task.time));
        svg.text((at + 15.0, y + 9.0), &shorten(&text, 30), Text::default());
    }
    svg.finish("What each CPU ran, from left to right; a line is an idle CPU")
}

/// One slice, with its task's name where there is room.
fn draw(svg: &mut Svg, timeline: &Timeline, slice: &Slice, (from, to): (f64, f64), y: f64) {
    let number = timeline.tasks.iter().position(|task| task.pid == slice.pid);
    let colour = number
        .and_then(|number| COLOURS.get(number))
        .unwrap_or(&OTHER);
    let width = (to - from).max(0.5);
    svg.rect((from, y), (width, LANE), colour, colour);
    let size = 10.0;
    if Svg::text_width(&slice.comm, size) + 6.0 < width {
        let style = Text {
            size,
            fill: if matches!(*colour, "#ccbb44" | "#66ccee" | "#88ccee") {
                INK
            } else {
                "#ffffff"
            },
            ..Text::default()
        };
        svg.text((from + 4.0, y + 17.0), &slice.comm, style);
    }
}
