//! The memory of an `sk_buff`: a table, and a bar with its marks.

use crate::skb::SkBuff;
use crate::view::{Align, Anchor, Svg, Table, Text, View};

impl View for SkBuff {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }

    fn svg(&self) -> Option<String> {
        Some(drawn(self))
    }
}

fn table(skb: &SkBuff) -> Table {
    let mut table = Table::new([
        ("MARK", Align::Left),
        ("OFFSET", Align::Right),
        ("", Align::Left),
    ]);
    for (mark, at) in skb.marks() {
        table.row([
            mark.to_owned(),
            at.to_string(),
            skb.head.offset(at).to_string(),
        ]);
    }
    table.note(format!(
        "sk_buff {}: {}; len {}, in fragments {}, headroom {}, tailroom {}, users {}, dataref {}",
        skb.at,
        skb.packet(),
        skb.len,
        skb.data_len,
        skb.data,
        skb.end - skb.tail,
        skb.users,
        skb.dataref
    ));
    table
}

const LEFT: f64 = 24.0;
const WIDTH: f64 = 720.0;
const BAR: f64 = 76.0;

/// Its memory as a bar from `head` to `end`; each mark an arrow. Not to scale: the parts are few, and some are short.
fn drawn(skb: &SkBuff) -> String {
    let marks = skb.marks();
    let mut places: Vec<u64> = marks.iter().map(|(_, at)| *at).collect();
    places.dedup();
    let step = WIDTH / (places.len().max(2) - 1) as f64;
    let x =
        |at: u64| LEFT + step * places.iter().position(|place| *place == at).unwrap_or(0) as f64;
    let mut svg = Svg::new(LEFT * 2.0 + WIDTH + 60.0, 190.0);
    let title = format!("sk_buff {}: {}", skb.at, skb.packet());
    let bold = Text {
        size: 13.0,
        bold: true,
        ..Text::default()
    };
    svg.text((LEFT, 24.0), &title, bold);
    for pair in places.windows(2) {
        let [from, to] = pair else { continue };
        let (fill, what) = if *to <= skb.data {
            ("#eef1f4", "")
        } else if *to <= u64::from(skb.tail) {
            ("#7aa7d6", "")
        } else {
            ("#f6efe2", "")
        };
        svg.rect((x(*from), BAR), (x(*to) - x(*from), 30.0), fill, "#64707d");
        let label = format!("{what}{} B", to - from);
        let middle = Text {
            anchor: Anchor::Middle,
            ..Text::default()
        };
        svg.text(((x(*from) + x(*to)) / 2.0, BAR + 19.0), &label, middle);
    }
    for place in &places {
        let here: Vec<&str> = marks
            .iter()
            .filter(|(_, at)| at == place)
            .map(|(mark, _)| *mark)
            .collect();
        for (row, mark) in here.iter().enumerate() {
            let y = BAR + 52.0 + 15.0 * row as f64;
            svg.text((x(*place), y), mark, Text::default());
        }
        let bottom = (x(*place), BAR + 42.0);
        svg.arrow(&[bottom, (x(*place), BAR + 31.0)], "#1f2933", 1.0, "");
    }
    let shared = Text {
        size: 10.0,
        ..Text::default()
    };
    svg.text(
        (x(u64::from(skb.end)) + 4.0, BAR + 19.0),
        "shared_info",
        shared,
    );
    let note = format!(
        "data to tail is what the layer at work sees; users {}, dataref {}, {} fragments",
        skb.users, skb.dataref, skb.nr_frags
    );
    svg.text((LEFT, 176.0), &note, Text::default());
    svg.finish(&title)
}

crate::displays!(SkBuff);
