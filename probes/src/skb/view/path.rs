//! The way of a packet: a block of lines, a table, a sequence diagram.

use crate::skb::{
    Functions, Layer, NetfilterHook, Path, Paths, SkbFunction, Stage, What, context_name,
};
use crate::view::svg::{ACCENT, Anchor, FAINT, Svg, Text, shorten};
use crate::view::{Align, Table, View};

impl View for Path {
    fn text(&self) -> String {
        format!("{}\n{}", head(self), table(self).text())
    }

    fn html(&self) -> Option<String> {
        let mut table = table(self);
        table.note(head(self));
        table.html()
    }

    fn svg(&self) -> Option<String> {
        Some(diagram(self))
    }
}

fn head(path: &Path) -> String {
    format!(
        "{}: {} stages in {:.1} µs{}",
        path.packet,
        path.len(),
        path.duration() as f64 / 1000.0,
        if path.incomplete {
            ", INCOMPLETE: records were lost"
        } else {
            ""
        }
    )
}

/// Describes a stage, beside its name.
pub(crate) fn remark(stage: &Stage) -> String {
    let what = match &stage.what {
        What::Call => String::new(),
        What::Tracepoint => "tracepoint".to_owned(),
        What::Hook(hook) => format!(
            "{}{}{}: {}{}",
            hook.hook.unwrap_or("hook"),
            hook.priority
                .map_or_else(String::new, |priority| format!(" priority {priority}")),
            hook.chain
                .as_ref()
                .map_or_else(String::new, |chain| format!(" chain {chain}")),
            hook.verdict.unwrap_or("return not seen"),
            rules(hook)
        ),
        What::NoHook(_) => "no hook registered here".to_owned(),
        What::Dropped { reason, location } => format!("DROPPED {reason} in {location}"),
        What::Consumed { location } => format!("freed in {location}"),
        What::Derived { from } => format!("made from {from}"),
        What::Resized => "new memory".to_owned(),
        What::Merged { into } => format!("becomes part of {into}"),
    };
    let what = match conntrack(stage) {
        Some(said) if what.is_empty() => said,
        Some(said) => format!("{what}; {said}"),
        None => what,
    };
    match &stage.note {
        Some(note) if what.is_empty() => note.clone(),
        Some(note) => format!("{what}; {note}"),
        None => what,
    }
}

/// Rules that a hook function carried out, and the one that gave the verdict.
fn rules(hook: &NetfilterHook) -> String {
    let mut said = match hook.rule() {
        Some(rule) => format!(
            " by rule {} of {} ({})",
            rule.handle, rule.chain, rule.statement
        ),
        None if hook.chain.is_some() && hook.verdict.is_some() => {
            " by no rule: policy or map".to_owned()
        }
        None => String::new(),
    };
    for hit in hook.rules.iter().filter(|hit| !hit.ends) {
        said += &format!(
            ", past rule {} of {} ({})",
            hit.handle, hit.chain, hit.statement
        );
    }
    said
}

/// Describes the connection, in the stages of connection tracking's own functions and of hooks.
fn conntrack(stage: &Stage) -> Option<String> {
    let known = stage.conntrack.as_ref()?;
    if !matches!(stage.what, What::Hook(_)) && stage.layer != Layer::Netfilter {
        return None;
    }
    let reply = if known.reply { " reply" } else { "" };
    let conn = known
        .conn
        .as_ref()
        .map_or_else(String::new, |conn| format!(" of {}", conn.original));
    Some(format!("ct {}{reply}{conn}", known.state))
}

fn table(path: &Path) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("µs", Right),
        ("CPU", Right),
        ("CONTEXT", Left),
        ("LAYER", Left),
        ("FUNCTION", Left),
        ("DATA", Right),
        ("TAIL", Right),
        ("END", Right),
        ("LEN", Right),
        ("", Left),
    ];
    let mut table = Table::new(columns);
    for stage in path.iter() {
        let at = stage.geometry;
        let name = match &stage.module {
            Some(module) => format!("{} [{module}]", stage.name),
            None => stage.name.clone(),
        };
        let mut row = vec![
            format!("{:.1}", stage.ns as f64 / 1000.0),
            stage.cpu.to_string(),
            context_name(stage.context).to_owned(),
            stage.layer.name().to_owned(),
            name,
        ];
        row.extend([at.data, at.tail, at.end, at.len].map(|offset| {
            if stage.head.is_null() {
                String::new()
            } else {
                offset.to_string()
            }
        }));
        row.push(remark(stage));
        table.row(row);
    }
    table
}

const ROW: f64 = 22.0;
const TOP: f64 = 64.0;
const LANE: f64 = 80.0;
const LEFT: f64 = 74.0;
/// Pixels for the memory from `head` to `end`.
const MEMORY: f64 = 150.0;
/// The most stages that are drawn.
const MOST: usize = 120;

/// A lane for each layer, a row for each stage, and beside each row where the data was in its memory.
fn diagram(path: &Path) -> String {
    let lanes: Vec<Layer> = Layer::ALL
        .into_iter()
        .filter(|layer| path.iter().any(|stage| stage.layer == *layer))
        .collect();
    let shown = path.len().min(MOST);
    let right = LEFT + LANE * lanes.len() as f64;
    let names = right + 8.0;
    let memory = names + 300.0;
    let bottom = TOP + ROW * shown as f64;
    let mut svg = Svg::new(memory + MEMORY + 20.0, bottom + 34.0);
    let faint = |anchor| Text {
        size: 10.0,
        fill: FAINT,
        anchor,
        ..Text::default()
    };
    let title = head(path);
    let bold = Text {
        size: 13.0,
        bold: true,
        ..Text::default()
    };
    svg.text((14.0, 24.0), &title, bold);
    let x = |layer: Layer| {
        let index = lanes.iter().position(|lane| *lane == layer).unwrap_or(0);
        LEFT + LANE * (index as f64 + 0.5)
    };
    for lane in &lanes {
        svg.text(
            (x(*lane), 46.0),
            &shorten(lane.name(), 13),
            faint(Anchor::Middle),
        );
        svg.line(
            &[(x(*lane), 52.0), (x(*lane), bottom)],
            "#d5d9de",
            1.0,
            "4 3",
        );
    }
    svg.text((LEFT - 10.0, 46.0), "µs", faint(Anchor::End));
    svg.text(
        (memory, 46.0),
        "head .. data▐█▌tail .. end",
        faint(Anchor::Start),
    );
    let widest = path
        .iter()
        .map(|stage| stage.geometry.end)
        .max()
        .unwrap_or(1);
    let mut before: Option<(f64, f64)> = None;
    for (index, stage) in path.iter().take(shown).enumerate() {
        let at = (x(stage.layer), TOP + ROW * index as f64);
        let bad = matches!(stage.what, What::Dropped { .. })
            || matches!(&stage.what, What::Hook(hook) if hook.verdict == Some("DROP"));
        let ghost = matches!(stage.what, What::NoHook(_));
        let colour = if bad { ACCENT } else { "#2563a8" };
        if let Some(from) = before {
            svg.arrow(&[from, at], if ghost { "#b8c0c8" } else { colour }, 1.2, "");
        }
        let fill = if ghost { "#fcfcfa" } else { colour };
        svg.circle(at, 3.5, fill, colour);
        before = Some(at);
        let time = format!("{:.1}", stage.ns as f64 / 1000.0);
        svg.text((LEFT - 10.0, at.1 + 4.0), &time, faint(Anchor::End));
        let label = match remark(stage) {
            remark if remark.is_empty() => stage.name.clone(),
            remark => format!("{} · {remark}", stage.name),
        };
        let style = Text {
            size: 11.0,
            fill: if bad { ACCENT } else { crate::view::svg::INK },
            ..Text::default()
        };
        svg.text((names, at.1 + 4.0), &shorten(&label, 43), style);
        bar(&mut svg, (memory, at.1), stage, widest);
    }
    let note = match path.len() - shown {
        0 => String::new(),
        more => format!("{more} more stages"),
    };
    svg.text((14.0, bottom + 20.0), &note, faint(Anchor::Start));
    svg.finish(&title)
}

/// `head` to `end`, with `data` to `tail` filled; all to one scale.
fn bar(svg: &mut Svg, (x, y): (f64, f64), stage: &Stage, widest: u32) {
    if stage.head.is_null() {
        return;
    }
    let at = stage.geometry;
    let scale = |offset: u32| MEMORY * f64::from(offset.min(widest)) / f64::from(widest.max(1));
    svg.rect((x, y - 6.0), (scale(at.end), 12.0), "#eef1f4", "#b8c0c8");
    let length = scale(at.tail) - scale(at.data);
    svg.rect(
        (x + scale(at.data), y - 6.0),
        (length.max(1.0), 12.0),
        "#7aa7d6",
        "#2563a8",
    );
}

impl View for Paths {
    fn text(&self) -> String {
        let mut out = String::new();
        for path in self.iter() {
            out += &path.text();
            out.push('\n');
        }
        out + &tally(self)
    }

    fn html(&self) -> Option<String> {
        let mut out = String::new();
        for path in self.iter() {
            out += &path.html()?;
        }
        out += &format!(
            "<div style=\"font-size:12px\">{}</div>",
            crate::view::escape(&tally(self))
        );
        Some(out)
    }
}

fn tally(paths: &Paths) -> String {
    let tally = paths.tally;
    let mut said = format!(
        "{} packets; {} functions hooked; {} records read, {} lost",
        paths.len(),
        paths.hooked,
        tally.delivered,
        tally.lost,
    );
    if tally.lost > 0 {
        let by_cpu = paths.cpus.iter().filter(|cpu| cpu.lost > 0);
        let by_cpu: Vec<String> = by_cpu
            .map(|cpu| format!("{} of CPU {}", cpu.lost, cpu.cpu))
            .collect();
        said += &format!(" ({})", by_cpu.join(", "));
    }
    let mut more = |count: u64, what: &str| {
        if count > 0 {
            said += &format!(", {count} {what}");
        }
    };
    more(tally.missed, "returns not seen");
    more(tally.forgotten, "packets not followed to their ends");
    more(paths.strays as u64, "returns of calls that were not seen");
    let left = paths.left_out;
    if left.netlink + left.unix > 0 {
        said += &format!(
            "; left out: {} netlink and {} unix messages (--all-families shows them)",
            left.netlink, left.unix
        );
    }
    said
}

crate::lists! { SkbFunction => functions }

fn functions(functions: &Functions) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("FUNCTION", Left),
        ("ARGUMENT", Right),
        ("MODULE", Left),
        ("ADDRESS", Left),
    ];
    let mut table = Table::new(columns);
    for function in functions.iter() {
        table.row([
            function.name.clone(),
            function.position.to_string(),
            function.module.clone().unwrap_or_default(),
            function.at.to_string(),
        ]);
    }
    table.note(format!(
        "{} functions take a struct sk_buff * and can be hooked",
        functions.len()
    ));
    table
}

crate::displays!(Path, Paths);
