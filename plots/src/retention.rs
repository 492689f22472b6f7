//! Retention maps: the share of the needle's own tokens that each layer and head kept, over the needle's
//! depth, beside how often the answer was right at that depth.

use crate::axis::{fixed, stride};
use crate::color::{INK, LINES, MISSING, MUTED, PAPER, mix, sequential};
use crate::heatmap::{color_bar, percent};
use crate::scene::{Heading, Picture, Style};
use crate::{Error, Result};

/// What one (method, budget) kept of the needle.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// What it shows, e.g. `snapkv, budget 128`.
    pub title: String,
    /// Model, context lengths, needle; may be empty.
    pub subtitle: String,
    /// Depths in percent of the context, ascending, one a row.
    pub depths: Vec<f64>,
    /// Share of the needle's tokens kept, 0 to 1, `[depth][layer][head]`; `None` where not measured.
    pub kept: Vec<Vec<Vec<Option<f64>>>>,
    /// Share of right answers at each depth, 0 to 1.
    pub right: Vec<Option<f64>>,
}

const MARGIN: f64 = 28.0;
const LABEL: Style = Style::new(11.5).color(MUTED);
const BAR: f64 = 96.0;

fn check(map: &Retention) -> Result<(usize, usize)> {
    let layers = map.kept.first().map_or(0, Vec::len);
    let heads = map.kept.first().and_then(|l| l.first()).map_or(0, Vec::len);
    let even = map.kept.iter().all(|l| l.len() == layers && l.iter().all(|h| h.len() == heads));
    let rows = map.depths.len();
    if rows == 0 || layers == 0 || heads == 0 || !even || map.kept.len() != rows || map.right.len() != rows {
        let what = format!(
            "`{}` needs, for each of {rows} depths, {layers} layers of {heads} heads and one answer",
            map.title
        );
        return Err(Error::shape("a retention map", what));
    }
    Ok((layers, heads))
}

/// Draws the map.
///
/// # Errors
/// [`Error::Shape`] if the depths, layers and heads do not fit together.
pub fn draw(map: &Retention) -> Result<Picture> {
    let (layers, heads) = check(map)?;
    let columns = (layers * heads) as f64;
    let split = if heads > 1 { 3.0 } else { 0.0 };
    let cell_w = ((760.0 - split * layers as f64) / columns).clamp(0.75, 16.0);
    // Whole pixels where they cost little, so that cells are even.
    let cell_w = if cell_w >= 4.0 { cell_w.floor() } else { (cell_w * 4.0).floor() / 4.0 };
    let cell_h = (380.0 / map.depths.len() as f64).floor().clamp(9.0, 30.0);
    let layer_w = cell_w * heads as f64 + split;
    let map_w = layer_w * layers as f64 - split;
    let map_h = cell_h * map.depths.len() as f64;
    let left = MARGIN + LABEL.width("100%") + 10.0;
    let kept_x = left + map_w + 28.0;
    let right_x = kept_x + BAR + 58.0;
    let scale_x = right_x + BAR + 62.0;
    let width = (scale_x + 58.0 + MARGIN).max(Heading::least_width(&map.title, MARGIN));
    let heading = Heading::new(width, MARGIN, &map.title, &map.subtitle);
    let top = MARGIN + 66.0 + heading.small_print();
    let height = top + map_h + 46.0 + MARGIN - 8.0;
    let mut card = Picture::card(width, height, format!("retention map: {}", map.title));
    card.heading(MARGIN, &heading);
    card.text(MARGIN, top - 10.0, "Needle depth ↓", LABEL);
    card.text(kept_x, top - 10.0, "Needle kept", LABEL.color(INK));
    card.text(right_x, top - 10.0, "Answer right", LABEL.color(INK));

    let gap = if cell_w >= 5.0 { 0.75 } else { 0.0 };
    let every = stride(&[LABEL.em], cell_h, 2.0);
    for (row, (layers, right)) in map.kept.iter().zip(&map.right).enumerate() {
        let y = top + row as f64 * cell_h;
        let middle = y + (cell_h - 1.0) / 2.0 + 4.0;
        if row % every == 0 {
            card.text(left - 9.0, middle, percent(map.depths[row]), LABEL.end());
        }
        for (layer, kept) in layers.iter().enumerate() {
            for (head, share) in kept.iter().enumerate() {
                let x = left + layer as f64 * layer_w + head as f64 * cell_w;
                card.rect(x, y, cell_w - gap, cell_h - 1.0, share.map_or(MISSING, sequential));
            }
        }
        let (sum, count) = layers.iter().flatten().flatten().fold((0.0, 0_usize), |(s, n), v| (s + v, n + 1));
        let mean = (count > 0).then(|| sum / count as f64);
        for (x, share, color) in [(kept_x, mean, LINES[0]), (right_x, *right, LINES[1])] {
            card.rect(x, y, BAR, cell_h - 1.0, MISSING);
            if let Some(share) = share {
                card.rect(x, y, BAR * share.clamp(0.0, 1.0), cell_h - 1.0, mix(color, PAPER, 0.3));
            }
            if row % every == 0 {
                let text = share.map_or_else(|| "–".to_owned(), |s| format!("{}%", fixed(s * 100.0, 0)));
                card.text(x + BAR + 7.0, middle, text, LABEL.color(INK));
            }
        }
    }
    let widths: Vec<f64> = (0..layers).map(|l| LABEL.width(&l.to_string())).collect();
    let every = stride(&widths, layer_w, 6.0);
    for layer in (0..layers).step_by(every) {
        let x = left + layer as f64 * layer_w + (layer_w - split) / 2.0;
        card.text(x, top + map_h + 16.0, layer.to_string(), LABEL.middle());
    }
    let axis = if heads > 1 { format!("Layer →  {heads} heads each") } else { "Layer →".to_owned() };
    card.text(left, top + map_h + 37.0, axis, LABEL);
    color_bar(&mut card, (scale_x, top), (map_h - 1.0).min(240.0), (0.0, 1.0), "Share kept");
    Ok(card)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Retention {
        Retention {
            title: "snapkv, budget 64".into(),
            subtitle: String::new(),
            depths: vec![0.0, 50.0],
            kept: vec![vec![vec![Some(1.0), Some(0.5)]], vec![vec![Some(0.0), None]]],
            right: vec![Some(1.0), None],
        }
    }

    #[test]
    fn kept_share_and_answers_stand_side_by_side() {
        let svg = draw(&map()).unwrap().svg().unwrap();
        for text in ["75%", "0%", "100%", "–", "Needle kept", "Answer right"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
    }

    #[test]
    fn uneven_data_are_refused() {
        let mut uneven = map();
        uneven.kept[1][0].pop();
        assert!(draw(&uneven).is_err());
        let mut unanswered = map();
        unanswered.right.pop();
        assert!(draw(&unanswered).unwrap_err().to_string().contains("2 depths"));
    }
}
