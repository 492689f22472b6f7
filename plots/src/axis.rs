//! Numbers for axes: round tick positions, short labels, thinning of labels that would touch.

/// Round tick positions (1, 2, 2.5 or 5 times a power of ten apart) that cover `low..=high` from inside,
/// about `target` of them.
pub(crate) fn ticks(low: f64, high: f64, target: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 || target == 0 {
        return vec![low];
    }
    let raw = span / target as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let factor =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|f| f * magnitude >= raw * 0.999).unwrap_or(10.0);
    let step = factor * magnitude;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// `value` with as many decimals as a step of `step` needs, a true minus sign, and no `-0`.
pub(crate) fn number(value: f64, step: f64) -> String {
    let decimals = (0..6).find(|&d| {
        let scaled = step.abs() * 10f64.powi(d);
        scaled >= 0.999 && (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    });
    fixed(value, decimals.unwrap_or(3) as usize)
}

/// `value` with `decimals` decimals, a true minus sign, and no `-0`.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// Bytes in the largest unit that keeps the number at least 1, e.g. `1.5 MiB`.
pub(crate) fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.95 || unit == "GiB" {
            let short = if unit == "B" || (value - value.round()).abs() < 0.05 {
                format!("{value:.0}")
            } else {
                format!("{value:.1}")
            };
            return format!("{short} {unit}");
        }
        value /= 1024.0;
    }
    String::new()
}

/// Which of `widths.len()` equally spaced labels (`pitch` pixels apart) to show: every k-th for the
/// least k at which neighbours keep a gap.
pub(crate) fn stride(widths: &[f64], pitch: f64, gap: f64) -> usize {
    let widest = widths.iter().copied().fold(0.0, f64::max);
    ((widest + gap) / pitch.max(1e-9)).ceil().max(1.0) as usize
}

/// Moves `wanted` positions apart to be at least `gap` from each other inside `low..=high` where they
/// fit; order is kept.
pub(crate) fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]).then(a.cmp(&b)));
    // Blocks of labels that touch: (sum of wanted tops, count); each block is centred on its members.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    let start = |block: &(f64, usize)| {
        let length = gap * (block.1 - 1) as f64;
        (block.0 / block.1 as f64).min(high - length).max(low)
    };
    for &index in &order {
        blocks.push((wanted[index], 1));
        while blocks.len() > 1 {
            let (a, b) = (blocks[blocks.len() - 2], blocks[blocks.len() - 1]);
            if start(&a) + gap * a.1 as f64 <= start(&b) + 1e-9 {
                break;
            }
            blocks.pop();
            if let Some(last) = blocks.last_mut() {
                *last = (a.0 + b.0 - gap * (a.1 * b.1) as f64, a.1 + b.1);
            }
        }
    }
    let mut placed = vec![0.0; wanted.len()];
    let mut next = 0;
    for block in &blocks {
        for i in 0..block.1 {
            placed[order[next]] = start(block) + gap * i as f64;
            next += 1;
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 100.0, 4), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(12.0, 41.0, 4), [20.0, 30.0, 40.0]);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0]);
        assert_eq!(ticks(0.0, f64::NAN, 4), [0.0]);
    }

    #[test]
    fn numbers_carry_no_more_decimals_than_their_step() {
        assert_eq!(number(0.6000000000000001, 0.2), "0.6");
        assert_eq!(number(25.0, 25.0), "25");
        assert_eq!(number(2.5, 2.5), "2.5");
        assert_eq!(number(-3.0, 1.0), "−3");
        assert_eq!(number(-0.0001, 0.5), "0.0");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0), "3 MiB");
    }

    #[test]
    fn spread_keeps_order_gap_and_bounds() {
        let placed = spread(&[10.0, 11.0, 50.0, 12.0], 10.0, 0.0, 100.0);
        assert_eq!(placed, [1.0, 11.0, 50.0, 21.0]);
        let placed = spread(&[95.0, 99.0, 99.0], 10.0, 0.0, 100.0);
        assert_eq!(placed, [80.0, 90.0, 100.0]);
        assert_eq!(stride(&[30.0, 40.0], 25.0, 6.0), 2);
    }
}
