//! The embedded typeface: measuring, shortening, and painting glyphs at sub-pixel positions.
//!
//! plotters' own bitmap text drops each glyph's left bearing and rounds every advance to whole pixels,
//! which spaces letters unevenly; glyphs are therefore outlined here. SVG text stays text.

use ab_glyph::{Font as _, FontRef, GlyphId, PxScale, point};
use std::sync::LazyLock;

/// Families that SVG viewers may use in this order; all are near the embedded font's widths.
pub(crate) const FAMILY: &str = "Inter, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif";

static REGULAR: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("../assets/Inter-Regular.otf")).ok());
static SEMIBOLD: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("../assets/Inter-SemiBold.otf")).ok());

fn face(bold: bool) -> Option<&'static FontRef<'static>> {
    if bold { SEMIBOLD.as_ref() } else { REGULAR.as_ref() }
}

fn advance(font: &FontRef<'_>, id: GlyphId, em: f64) -> f64 {
    f64::from(font.h_advance_unscaled(id)) * em / f64::from(font.units_per_em().unwrap_or(1000.0))
}

/// Width of `text` in pixels at `em` pixels to the em.
pub(crate) fn width(text: &str, em: f64, bold: bool) -> f64 {
    face(bold).map_or(0.0, |font| text.chars().map(|c| advance(font, font.glyph_id(c), em)).sum())
}

/// `text`, cut with an ellipsis so that it is at most `limit` pixels wide.
pub(crate) fn fit(text: &str, em: f64, bold: bool, limit: f64) -> String {
    if width(text, em, bold) <= limit {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if width(&cut, em, bold) + width("…", em, bold) > limit {
            cut.pop();
            break;
        }
    }
    format!("{}…", cut.trim_end())
}

/// `text` in lines at most `limit` pixels wide: broken at its ` · `, else between words; no line for an empty text.
pub(crate) fn wrap(text: &str, em: f64, bold: bool, limit: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let fits = |line: &str| width(line, em, bold) <= limit;
    for part in text.split(" · ").filter(|part| !part.is_empty()) {
        let longer = if line.is_empty() { part.to_owned() } else { format!("{line} · {part}") };
        if fits(&longer) {
            line = longer;
            continue;
        }
        lines.extend(Some(std::mem::take(&mut line)).filter(|line| !line.is_empty()));
        for word in part.split(' ') {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if line.is_empty() || fits(&longer) {
                line = longer;
            } else {
                lines.push(std::mem::replace(&mut line, word.to_owned()));
            }
        }
    }
    lines.extend(Some(line).filter(|line| !line.is_empty()));
    lines.into_iter().map(|line| fit(&line, em, bold, limit)).collect()
}

/// Calls `pixel(x, y, coverage)` for every touched pixel of `text` set from (`x`, `baseline`).
pub(crate) fn paint(
    text: &str,
    em: f64,
    bold: bool,
    x: f64,
    baseline: f64,
    mut pixel: impl FnMut(i32, i32, f32),
) {
    let Some(font) = face(bold) else { return };
    let scale = em * f64::from(font.height_unscaled()) / f64::from(font.units_per_em().unwrap_or(1000.0));
    let mut pen = x;
    for c in text.chars() {
        let id = font.glyph_id(c);
        let glyph =
            id.with_scale_and_position(PxScale::from(scale as f32), point(pen as f32, baseline as f32));
        if let Some(outline) = font.outline_glyph(glyph) {
            let origin = outline.px_bounds().min;
            outline.draw(|dx, dy, coverage| {
                pixel(origin.x as i32 + dx as i32, origin.y as i32 + dy as i32, coverage.clamp(0.0, 1.0));
            });
        }
        pen += advance(font, id, em);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_faces_parse_and_digits_are_tabular() {
        for bold in [false, true] {
            assert!(face(bold).is_some());
            let one = width("1111", 100.0, bold);
            assert!((one - width("8050", 100.0, bold)).abs() < 1.0 && one > 200.0);
        }
        assert!(width("→λ≤°é", 10.0, false) > 20.0);
    }

    #[test]
    fn subtitles_break_at_their_dots_then_between_words() {
        let text =
            "embedded model tiny · kvsweep-1 v1 · cpu f32 · a check of the pipeline, not of any real model";
        let lines = wrap(text, 12.5, false, 260.0);
        assert!(lines.iter().all(|line| width(line, 12.5, false) <= 260.0));
        assert_eq!(lines[0], "embedded model tiny · kvsweep-1 v1");
        assert_eq!(lines[1], "cpu f32");
        assert_eq!(lines[2..].join(" "), "a check of the pipeline, not of any real model");
        assert_eq!(wrap(text, 12.5, false, 9000.0), [text]);
        assert!(wrap("", 12.5, false, 50.0).is_empty());
        assert!(wrap(&"x".repeat(99), 12.5, false, 50.0)[0].ends_with('…'));
    }

    #[test]
    fn long_labels_are_cut_to_the_limit() {
        let cut = fit("a-very-long-model-name-indeed", 12.0, false, 80.0);
        assert!(cut.ends_with('…') && width(&cut, 12.0, false) <= 80.0 && cut.len() > 6);
        assert_eq!(fit("short", 12.0, false, 80.0), "short");
    }
}
