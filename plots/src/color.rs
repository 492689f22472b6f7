//! Colours: ink and paper, one sequential table, one set of line colours.
//!
//! The sequential table runs from dark indigo to pale yellow with strictly rising lightness, so order
//! survives colour blindness and a grey printer. Line colours are Okabe and Ito's, darkened where their
//! contrast on white is too low; every line has a marker of its own besides.

/// An sRGB colour.
pub(crate) type Rgb = (u8, u8, u8);

/// Text and axes.
pub(crate) const INK: Rgb = (27, 31, 36);
/// Secondary text.
pub(crate) const MUTED: Rgb = (87, 96, 106);
/// Grid lines.
pub(crate) const GRID: Rgb = (228, 231, 235);
/// Frames and ticks.
pub(crate) const RULE: Rgb = (175, 182, 191);
/// The card a picture is drawn on.
pub(crate) const PAPER: Rgb = (255, 255, 255);
/// A cell without a value.
pub(crate) const MISSING: Rgb = (240, 241, 243);

const STOPS: [Rgb; 17] = [
    (38, 26, 70),
    (42, 37, 90),
    (42, 50, 110),
    (36, 64, 128),
    (15, 80, 144),
    (2, 97, 147),
    (7, 113, 149),
    (6, 129, 153),
    (9, 145, 156),
    (7, 161, 158),
    (10, 178, 155),
    (72, 191, 149),
    (118, 202, 144),
    (157, 211, 143),
    (192, 219, 149),
    (222, 227, 161),
    (248, 236, 181),
];

/// Line colours, in order of use.
pub(crate) const LINES: [Rgb; 12] = [
    (0, 114, 178),
    (213, 94, 0),
    (0, 148, 110),
    (190, 90, 150),
    (184, 134, 11),
    (52, 152, 219),
    (110, 76, 160),
    (140, 60, 40),
    (90, 100, 110),
    (200, 30, 90),
    (105, 125, 0),
    (0, 95, 115),
];

/// The sequential colour of `t` (0 dark to 1 light; clamped, NaN is [`MISSING`]).
pub(crate) fn sequential(t: f64) -> Rgb {
    if t.is_nan() {
        return MISSING;
    }
    let last = STOPS.len() - 1;
    let position = t.clamp(0.0, 1.0) * last as f64;
    let index = (position as usize).min(last - 1);
    mix(STOPS[index], STOPS[index + 1], position - index as f64)
}

/// `a` with a share `t` of `b`, per channel.
pub(crate) fn mix(a: Rgb, b: Rgb, t: f64) -> Rgb {
    let channel = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * t).round() as u8;
    (channel(a.0, b.0), channel(a.1, b.1), channel(a.2, b.2))
}

/// Relative luminance (WCAG 2), 0 to 1.
pub(crate) fn luminance(color: Rgb) -> f64 {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(color.0) + 0.7152 * linear(color.1) + 0.0722 * linear(color.2)
}

/// Paper on every colour that carries it legibly, else ink.
pub(crate) fn text_on(background: Rgb) -> Rgb {
    if 1.05 / (luminance(background) + 0.05) >= 4.1 { PAPER } else { INK }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contrast(a: Rgb, b: Rgb) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn lightness_rises_over_the_whole_table() {
        let levels: Vec<f64> = (0..=255).map(|i| luminance(sequential(f64::from(i) / 255.0))).collect();
        // Channels are rounded one by one: a step may fall by a fraction of one level.
        assert!(levels.windows(2).all(|w| w[1] > w[0] - 0.001));
        assert!((0..=240).step_by(16).all(|i| levels[i + 15] > levels[i] + 0.002), "a flat stretch");
        assert_eq!(sequential(-3.0), sequential(0.0));
        assert_eq!(sequential(7.0), sequential(1.0));
        assert_eq!(sequential(f64::NAN), MISSING);
    }

    #[test]
    fn values_printed_on_cells_are_legible() {
        for i in 0..=255 {
            let background = sequential(f64::from(i) / 255.0);
            assert!(contrast(background, text_on(background)) >= 4.0, "level {i}");
        }
        for line in LINES {
            assert!(contrast(line, PAPER) >= 3.0, "{line:?}");
        }
    }
}
