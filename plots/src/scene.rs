//! A finished picture: a short list of elements, rendered by plotters' back ends to SVG or PNG.
//!
//! Coordinates are in CSS pixels, y downward. SVG uses quarter pixels; PNG is drawn at four times the
//! size and averaged to twice the size, which gives every edge the same soft rim. All colours are opaque.

use crate::color::{INK, MUTED, PAPER, RULE, Rgb};
use crate::{Error, Result, font};
use kvsweep_results::visible;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Units of a CSS pixel in SVG coordinates and in the bitmap that PNG is averaged from.
const UNITS: u32 = 4;
/// PNG pixels a CSS pixel.
const PNG_SCALE: u32 = 2;

/// Where a text's x coordinate lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// How a text is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) em: f64,
    pub(crate) bold: bool,
    pub(crate) color: Rgb,
    pub(crate) anchor: Anchor,
}

impl Style {
    /// Regular text in ink, anchored at its start.
    pub(crate) const fn new(em: f64) -> Self {
        Self { em, bold: false, color: INK, anchor: Anchor::Start }
    }
    pub(crate) const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }
    pub(crate) const fn color(self, color: Rgb) -> Self {
        Self { color, ..self }
    }
    pub(crate) const fn middle(self) -> Self {
        Self { anchor: Anchor::Middle, ..self }
    }
    pub(crate) const fn end(self) -> Self {
        Self { anchor: Anchor::End, ..self }
    }
    /// Width of `text` in this style.
    pub(crate) fn width(self, text: &str) -> f64 {
        font::width(text, self.em, self.bold)
    }
}

#[derive(Clone, Debug)]
enum Item {
    Rect { x: f64, y: f64, w: f64, h: f64, fill: Rgb },
    Line { points: Vec<(f64, f64)>, width: f64, color: Rgb },
    Polygon { points: Vec<(f64, f64)>, fill: Rgb },
    Circle { x: f64, y: f64, r: f64, fill: Rgb },
    Text { x: f64, baseline: f64, text: String, style: Style },
}

const TITLE: Style = Style::new(17.0).bold();
const SUBTITLE: Style = Style::new(12.5).color(MUTED);
/// From one line of a subtitle to the next.
const LINE: f64 = 17.5;

/// A title over small print that wraps at the card's width.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    title: String,
    lines: Vec<String>,
}

impl Heading {
    /// The heading of a card `width` pixels wide.
    pub(crate) fn new(width: f64, margin: f64, title: &str, subtitle: &str) -> Self {
        let lines = font::wrap(subtitle, SUBTITLE.em, SUBTITLE.bold, width - 2.0 * margin);
        Self { title: title.to_owned(), lines }
    }

    /// The least width of a card whose title is not cut.
    pub(crate) fn least_width(title: &str, margin: f64) -> f64 {
        TITLE.width(title) + 2.0 * margin
    }

    /// What the small print adds to the height.
    pub(crate) fn small_print(&self) -> f64 {
        self.lines.len() as f64 * LINE
    }
}

/// A finished picture: [`Picture::encode`] gives the bytes of a file.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
    /// What it shows, for readers who cannot see it.
    pub label: String,
    items: Vec<Item>,
}

impl Picture {
    /// An empty white card with a border.
    pub(crate) fn card(width: f64, height: f64, label: impl Into<String>) -> Self {
        let (width, height) = (width.ceil(), height.ceil());
        let mut card =
            Self { width: width as u32, height: height as u32, label: label.into(), items: Vec::new() };
        card.rect(0.0, 0.0, width, height, RULE);
        card.rect(1.0, 1.0, width - 2.0, height - 2.0, PAPER);
        card
    }

    pub(crate) fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, fill: Rgb) {
        self.items.push(Item::Rect { x, y, w, h, fill });
    }

    /// A rectangle's outline, `width` pixels wide, drawn inside it.
    pub(crate) fn frame(&mut self, x: f64, y: f64, w: f64, h: f64, width: f64, color: Rgb) {
        self.rect(x, y, w, width, color);
        self.rect(x, y + h - width, w, width, color);
        self.rect(x, y, width, h, color);
        self.rect(x + w - width, y, width, h, color);
    }

    pub(crate) fn line(&mut self, points: Vec<(f64, f64)>, width: f64, color: Rgb) {
        self.items.push(Item::Line { points, width, color });
    }

    /// A straight line of dashes `dash` pixels long with gaps of the same length.
    pub(crate) fn dashed(&mut self, from: (f64, f64), to: (f64, f64), dash: f64, width: f64, color: Rgb) {
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        if length <= 0.0 {
            return;
        }
        let at = |d: f64| {
            let t = (d / length).min(1.0);
            (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t)
        };
        let mut start = 0.0;
        while start < length {
            self.line(vec![at(start), at(start + dash)], width, color);
            start += 2.0 * dash;
        }
    }

    pub(crate) fn polygon(&mut self, points: Vec<(f64, f64)>, fill: Rgb) {
        self.items.push(Item::Polygon { points, fill });
    }

    pub(crate) fn circle(&mut self, x: f64, y: f64, r: f64, fill: Rgb) {
        self.items.push(Item::Circle { x, y, r, fill });
    }

    /// Text; names of models and data sets are untrusted, so marks that reorder or hide are written out.
    pub(crate) fn text(&mut self, x: f64, baseline: f64, text: impl AsRef<str>, style: Style) {
        self.items.push(Item::Text { x, baseline, text: visible(text.as_ref()), style });
    }

    /// A heading at the left margin.
    pub(crate) fn heading(&mut self, margin: f64, heading: &Heading) {
        let room = f64::from(self.width) - 2.0 * margin;
        let mut y = margin + 13.0;
        self.text(margin, y, font::fit(&heading.title, TITLE.em, TITLE.bold, room), TITLE);
        y += 2.5;
        for line in &heading.lines {
            y += LINE;
            self.text(margin, y, line, SUBTITLE);
        }
    }

    fn paint<B: DrawingBackend>(
        &self,
        backend: &mut B,
        vector: bool,
        mut text: impl FnMut(&mut B, f64, f64, &str, Style) -> Result<()>,
    ) -> Result<()> {
        let scale = f64::from(UNITS);
        let unit = |v: f64| (v * scale).round() as i32;
        let units =
            |points: &[(f64, f64)]| points.iter().map(|&(x, y)| (unit(x), unit(y))).collect::<Vec<_>>();
        for item in &self.items {
            match item {
                Item::Rect { x, y, w, h, fill } => {
                    let (left, top, right, bottom) = (unit(*x), unit(*y), unit(x + w), unit(y + h));
                    if right > left && bottom > top {
                        let corner = (right, bottom);
                        backend.draw_rect((left, top), corner, &solid(*fill), true).map_err(failed)?;
                    }
                }
                Item::Line { points, width, color } if vector => {
                    let style = solid(*color).stroke_width((width * scale).round() as u32);
                    backend.draw_path(units(points), &style).map_err(failed)?;
                }
                // plotters' bitmap lines grow spikes at sharp corners: quads with round joints instead.
                Item::Line { points, width, color } => {
                    let style = solid(*color);
                    for pair in points.windows(2) {
                        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
                        let length = (x1 - x0).hypot(y1 - y0).max(1e-9);
                        let (dx, dy) = ((y0 - y1) / length * width / 2.0, (x1 - x0) / length * width / 2.0);
                        let quad =
                            [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)];
                        backend.fill_polygon(units(&quad), &style).map_err(failed)?;
                    }
                    let joint = (width * scale / 2.0).round() as u32;
                    for &(x, y) in points.iter().skip(1).take(points.len().saturating_sub(2)) {
                        backend.draw_circle((unit(x), unit(y)), joint, &style, true).map_err(failed)?;
                    }
                }
                Item::Polygon { points, fill } => {
                    backend.fill_polygon(units(points), &solid(*fill)).map_err(failed)?;
                }
                Item::Circle { x, y, r, fill } => {
                    let radius = (r * scale).round() as u32;
                    backend.draw_circle((unit(*x), unit(*y)), radius, &solid(*fill), true).map_err(failed)?;
                }
                Item::Text { x, baseline, text: content, style } => {
                    text(backend, x * scale, baseline * scale, content, *style)?;
                }
            }
        }
        Ok(())
    }

    /// The bytes of the file `path`: PNG or SVG by its extension.
    ///
    /// # Errors
    /// [`Error::UnknownExtension`] for other extensions.
    pub fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("png") => self.png(),
            Some("svg") => Ok(self.svg()?.into_bytes()),
            _ => Err(Error::UnknownExtension { path: path.to_owned() }),
        }
    }

    /// The picture as an SVG document, also valid inside HTML.
    ///
    /// # Errors
    /// [`Error::Render`] if the back end refuses an element.
    pub fn svg(&self) -> Result<String> {
        let size = (self.width * UNITS, self.height * UNITS);
        let mut body = String::new();
        {
            let mut backend = SVGBackend::with_string(&mut body, size);
            self.paint(&mut backend, true, |backend, x, baseline, text, style| {
                // plotters divides by 1.24 and puts the baseline 0.76 em below a top anchor.
                let em = style.em * f64::from(UNITS);
                let weight = if style.bold { FontStyle::Bold } else { FontStyle::Normal };
                let anchor = match style.anchor {
                    Anchor::Start => HPos::Left,
                    Anchor::Middle => HPos::Center,
                    Anchor::End => HPos::Right,
                };
                let text_style = FontDesc::new(FontFamily::Name(font::FAMILY), em * 1.24, weight)
                    .color(&rgb(style.color))
                    .pos(Pos::new(anchor, VPos::Top));
                let at = (x.round() as i32, (baseline - 0.76 * em).round() as i32);
                backend.draw_text(text, &text_style, at).map_err(failed)
            })?;
            backend.present().map_err(failed)?;
        }
        // plotters repeats defaults on every element and knows no accessible name. Quotes are escaped
        // in text, so these strings occur only as attributes.
        let family = font::FAMILY.replace('\'', "&apos;");
        let body = body
            .replace(" opacity=\"1\"", "")
            .replace(" stroke=\"none\"", "")
            .replace(&format!(" font-family=\"{family}\""), "")
            .replace("font-weight=\"bold\"", "font-weight=\"600\"");
        let rest = body.split_once(">\n").map_or("", |(_, rest)| rest);
        let label = escape(&visible(&self.label));
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\" \
             role=\"img\" aria-label=\"{label}\" font-family=\"{family}\" stroke-linejoin=\"round\" \
             style=\"font-variant-numeric:tabular-nums\">\n{rest}",
            self.width, self.height, size.0, size.1
        ))
    }

    /// The picture as PNG bytes, two pixels to the CSS pixel.
    ///
    /// # Errors
    /// [`Error::Render`] or [`Error::Png`].
    pub fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = (self.width * UNITS, self.height * UNITS);
        let mut pixels = vec![255_u8; width as usize * height as usize * 3];
        {
            let mut backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            self.paint(&mut backend, false, |backend, x, baseline, text, style| {
                let em = style.em * f64::from(UNITS);
                let shift = match style.anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => font::width(text, em, style.bold) / 2.0,
                    Anchor::End => font::width(text, em, style.bold),
                };
                let color = rgb(style.color);
                let mut outcome = Ok(());
                font::paint(text, em, style.bold, x - shift, baseline, |px, py, coverage| {
                    let inside = px >= 0 && py >= 0 && px < width as i32 && py < height as i32;
                    if inside && coverage > 0.0 && outcome.is_ok() {
                        let color = color.mix(f64::from(coverage)).to_backend_color();
                        outcome = backend.draw_pixel((px, py), color);
                    }
                });
                outcome.map_err(failed)
            })?;
            backend.present().map_err(failed)?;
        }
        let small = average(&pixels, width as usize, (UNITS / PNG_SCALE) as usize);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width * PNG_SCALE, self.height * PNG_SCALE);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Best);
        encoder.set_adaptive_filter(png::AdaptiveFilterType::Adaptive);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&small)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// Means of `factor` x `factor` blocks of an RGB image `width` pixels wide.
fn average(pixels: &[u8], width: usize, factor: usize) -> Vec<u8> {
    let stride = width * 3;
    let area = (factor * factor) as u32;
    let mut out = Vec::with_capacity(pixels.len() / (factor * factor));
    for rows in pixels.chunks_exact(stride * factor) {
        for x in 0..width / factor {
            for channel in 0..3 {
                let sum: u32 = (0..factor * factor)
                    .map(|i| u32::from(rows[(i / factor) * stride + (x * factor + i % factor) * 3 + channel]))
                    .sum();
                out.push(((sum + area / 2) / area) as u8);
            }
        }
    }
    out
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Render(error.to_string())
}

fn rgb((r, g, b): Rgb) -> RGBColor {
    RGBColor(r, g, b)
}

fn solid(color: Rgb) -> ShapeStyle {
    rgb(color).filled()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Picture {
        let mut card = Picture::card(120.0, 60.0, "a <test>");
        card.rect(10.0, 10.0, 30.0, 20.0, (10, 20, 30));
        card.line(vec![(10.0, 50.0), (60.0, 20.0), (110.0, 50.0)], 2.0, (200, 0, 0));
        card.text(80.0, 56.0, "a<b> \"c\"\u{202e}\u{0}", Style::new(12.0).middle());
        card
    }

    #[test]
    fn svg_escapes_text_and_names_itself() {
        let svg = sample().svg().unwrap();
        assert!(svg.contains("aria-label=\"a &lt;test&gt;\""));
        assert!(svg.contains("a&lt;b&gt; &quot;c&quot;\\u{202e}\\u{0}"));
        assert!(svg.starts_with("<svg xmlns") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("viewBox=\"0 0 480 240\"") && svg.contains("width=\"120\""));
    }

    #[test]
    fn png_has_the_drawn_pixels_and_stable_bytes() {
        let bytes = sample().png().unwrap();
        assert_eq!(bytes, sample().png().unwrap());
        let mut reader = png::Decoder::new(bytes.as_slice()).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (240, 120));
        let at = |x: usize, y: usize| &pixels[(y * 240 + x) * 3..][..3];
        assert_eq!(at(20, 20), [10, 20, 30]);
        assert_eq!(at(79, 59), [10, 20, 30], "the rectangle's last pixel");
        assert_eq!(at(80, 20), [255, 255, 255], "the first pixel after it");
        assert_eq!(at(0, 0), [RULE.0, RULE.1, RULE.2]);
    }

    #[test]
    fn the_extension_says_which_form() {
        let encode = |name: &str| sample().encode(Path::new(name));
        assert_eq!(encode("a.png").unwrap(), sample().png().unwrap());
        assert_eq!(encode("b.SVG").unwrap(), sample().svg().unwrap().into_bytes());
        for name in ["c.jpg", "d"] {
            let error = encode(name).unwrap_err().to_string();
            assert!(error.contains(".png, .svg") && error.contains(name), "{error}");
        }
    }
}
