//! Layers x heads: importance scores of a calibration, or the capacity each head was given; beside it
//! every layer's mean.

use crate::axis::{fixed, stride, ticks};
use crate::color::{INK, LINES, MISSING, MUTED, PAPER, mix, sequential, text_on};
use crate::heatmap::{color_bar, share};
use crate::scene::{Heading, Picture, Style};
use crate::{Error, Result};

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Importance scores; the three strongest heads are named.
    Importance,
    /// KV entries given; the budget is drawn across the layer means.
    Capacity {
        /// Entries per KV head, averaged over heads and layers.
        budget: f64,
    },
}

/// A map of layers (downward) by heads (to the right).
#[derive(Clone, Debug, PartialEq)]
pub struct HeadMap {
    /// What it shows.
    pub title: String,
    /// Model, calibration or prompt; may be empty.
    pub subtitle: String,
    /// What the numbers are.
    pub kind: Kind,
    /// `[layer][head]`.
    pub values: Vec<Vec<f64>>,
    /// What a column is: `KV head` or `Query head`.
    pub heads: String,
    /// Query heads that share one KV head are set together in groups of this size; 1 for no groups.
    pub group: usize,
}

const MARGIN: f64 = 28.0;
const LABEL: Style = Style::new(11.5).color(MUTED);
const BARS: f64 = 110.0;

/// Draws the map.
///
/// # Errors
/// [`Error::Shape`] for an empty or ragged map, or values that are not finite.
pub fn draw(map: &HeadMap) -> Result<Picture> {
    let bad = |what: String| Err(Error::shape("a head map", format!("`{}` {what}", map.title)));
    let (layers, heads) = (map.values.len(), map.values.first().map_or(0, Vec::len));
    if layers == 0 || heads == 0 || map.values.iter().any(|row| row.len() != heads) {
        return bad("needs layers with the same number of heads".into());
    }
    if map.values.iter().flatten().any(|v| !v.is_finite()) {
        return bad("has a value that is not finite".into());
    }
    let group = map.group.max(1);
    let high = map.values.iter().flatten().copied().fold(0.0, f64::max);
    let low = map.values.iter().flatten().copied().fold(0.0, f64::min);
    let range = (low, if high > low { high } else { low + 1.0 });

    let cell_w = (600.0 / heads as f64).floor().clamp(8.0, 40.0);
    let cell_h = (520.0 / layers as f64).floor().clamp(9.0, 26.0);
    let split = if group > 1 { 4.0 } else { 0.0 };
    let at_x = |head: usize| head as f64 * cell_w + (head / group) as f64 * split;
    let map_w = at_x(heads - 1) + cell_w;
    let map_h = cell_h * layers as f64;
    let left = MARGIN + LABEL.width("000") + 10.0;
    let bars = left + map_w + 26.0;
    let scale_x = bars + BARS + 62.0;
    let (unit, mean_label) = match map.kind {
        Kind::Importance => ("Score", "Layer mean"),
        Kind::Capacity { .. } => ("Entries", "Layer mean"),
    };
    let width = (scale_x + 62.0 + MARGIN).max(Heading::least_width(&map.title, MARGIN));
    let heading = Heading::new(width, MARGIN, &map.title, &map.subtitle);
    let top = MARGIN + 66.0 + heading.small_print();
    let strongest = map.kind == Kind::Importance;
    let height = top + map_h + if strongest { 62.0 } else { 40.0 } + MARGIN - 8.0;
    let mut card = Picture::card(width, height, format!("layers by heads: {}", map.title));
    card.heading(MARGIN, &heading);
    card.text(MARGIN, top - 10.0, "Layer ↓", LABEL);

    let places = if range.1 >= 10.0 { 0 } else { 2 };
    let em = (cell_h * 0.44).clamp(9.0, 11.0);
    let style = Style::new(em).middle();
    let widest = map.values.iter().flatten().map(|v| style.width(&fixed(*v, places))).fold(0.0, f64::max);
    let printed = widest + 7.0 <= cell_w && em + 4.0 <= cell_h;
    let every = stride(&[LABEL.em], cell_h, 2.0);
    let means: Vec<f64> = map.values.iter().map(|row| row.iter().sum::<f64>() / heads as f64).collect();
    let budget = if let Kind::Capacity { budget } = map.kind { budget } else { 0.0 };
    let longest = means.iter().copied().fold(budget, f64::max).max(1e-12);
    for (layer, row) in map.values.iter().enumerate() {
        let y = top + layer as f64 * cell_h;
        if layer % every == 0 {
            card.text(left - 9.0, y + cell_h / 2.0 + 4.0, layer.to_string(), LABEL.end());
        }
        for (head, &value) in row.iter().enumerate() {
            let fill = sequential(share(value, range));
            card.rect(left + at_x(head), y, cell_w - 1.0, cell_h - 1.0, fill);
            if printed {
                let at = (left + at_x(head) + (cell_w - 1.0) / 2.0, y + (cell_h - 1.0) / 2.0 + em * 0.36);
                card.text(at.0, at.1, fixed(value, places), style.color(text_on(fill)));
            }
        }
        let length = BARS * (means[layer] / longest).max(0.0);
        card.rect(bars, y + 1.0, BARS, cell_h - 3.0, MISSING);
        card.rect(bars, y + 1.0, length, cell_h - 3.0, mix(LINES[0], PAPER, 0.35));
        if layer % every == 0 {
            let text = fixed(means[layer], if places == 0 { 1 } else { 3 });
            card.text(bars + BARS + 7.0, y + cell_h / 2.0 + 4.0, text, LABEL.color(INK));
        }
    }
    card.text(bars, top - 10.0, mean_label, LABEL);
    if let Kind::Capacity { budget } = map.kind {
        let x = bars + BARS * budget / longest;
        card.dashed((x, top - 3.0), (x, top + map_h + 4.0), 4.0, 1.25, INK);
        let text = format!("budget {}", fixed(budget, 0));
        card.text(x, top + map_h + 18.0, text, LABEL.color(INK).middle());
    }
    let below = top + map_h + 17.0;
    let widths: Vec<f64> = (0..heads).map(|h| LABEL.width(&h.to_string())).collect();
    let marks: Vec<usize> = if stride(&widths, cell_w, 5.0) == 1 {
        (0..heads).collect()
    } else {
        ticks(0.0, heads as f64 - 1.0, 8).into_iter().map(|t| t as usize).collect()
    };
    for head in marks {
        card.text(left + at_x(head) + cell_w / 2.0, below, head.to_string(), LABEL.middle());
    }
    let mut name = format!("{} →", map.heads);
    if group > 1 {
        name.push_str(&format!("  groups of {group} share a KV head"));
    }
    card.text(left, below + 21.0, name, LABEL);
    if strongest {
        let mut order: Vec<(f64, usize, usize)> = Vec::new();
        for (layer, row) in map.values.iter().enumerate() {
            order.extend(row.iter().enumerate().map(|(head, &value)| (value, layer, head)));
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let named = order
            .iter()
            .take(3)
            .map(|(v, l, h)| format!("layer {l} head {h} ({})", fixed(*v, places.max(2))));
        let text = format!("Strongest: {}", named.collect::<Vec<_>>().join(", "));
        card.text(left, below + 42.0, text, LABEL.color(INK));
    }
    color_bar(&mut card, (scale_x, top), (map_h - 1.0).min(240.0), range, unit);
    Ok(card)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(kind: Kind, values: Vec<Vec<f64>>) -> HeadMap {
        HeadMap {
            title: "t".into(),
            subtitle: String::new(),
            kind,
            values,
            heads: "KV head".into(),
            group: 1,
        }
    }

    #[test]
    fn the_strongest_heads_are_named_in_order() {
        let values = vec![vec![0.1, 0.9], vec![0.5, 0.2]];
        let svg = draw(&map(Kind::Importance, values)).unwrap().svg().unwrap();
        assert!(
            svg.contains("Strongest: layer 0 head 1 (0.90), layer 1 head 0 (0.50), layer 1 head 1 (0.20)")
        );
    }

    #[test]
    fn capacity_shows_layer_means_and_the_budget() {
        let values = vec![vec![96.0, 160.0], vec![100.0, 156.0]];
        let svg = draw(&map(Kind::Capacity { budget: 128.0 }, values)).unwrap().svg().unwrap();
        assert!(svg.contains("\nbudget 128\n") && svg.matches("\n128.0\n").count() == 2);
        assert!(svg.contains("\n96\n") && svg.contains("\n160\n"));
    }

    #[test]
    fn ragged_empty_and_infinite_maps_are_refused() {
        for values in [vec![], vec![vec![]], vec![vec![1.0], vec![1.0, 2.0]], vec![vec![f64::INFINITY]]] {
            assert!(draw(&map(Kind::Importance, values)).is_err());
        }
        assert!(draw(&map(Kind::Importance, vec![vec![0.0]])).is_ok(), "all zero still has a scale");
    }
}
