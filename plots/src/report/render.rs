//! From data to the page: the template, the escaping, the content policy.

use super::embed::embed;
use super::{FigureGroup, ReportData, cut};
use crate::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use kvsweep_results::visible;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, context};
use sha2::{Digest as _, Sha256};

const SCRIPT: &str = include_str!("report.js");
const STYLE: &str = include_str!("report.css");
const PAGE: &str = include_str!("report.html.jinja");

/// Renders the page. The same data give the same bytes.
///
/// # Errors
/// A picture that cannot be rendered, or data that cannot be encoded.
pub fn render(data: &ReportData) -> Result<String> {
    let (examples, left_out) = cut::examples(data);
    let variants = embed(&serde_json::json!(data.variants));
    let browser = format!("{{\"examples\":[{}],\"variants\":{variants}}}", examples.join(","));
    let (figures, figures_left_out) = figures(data)?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_filter("visible", |text: String| visible(&text));
    environment.add_template("report", PAGE)?;
    let page = environment.get_template("report")?.render(context! {
        title => data.title,
        subtitle => data.subtitle,
        generator => data.generator,
        notices => data.notices,
        summary => data.summary,
        tables => data.tables,
        papers => data.papers,
        figures => figures,
        figures_left_out => figures_left_out,
        has_examples => !data.examples.is_empty(),
        examples_left_out => left_out,
        provenance => data.provenance,
        policy => Value::from_safe_string(policy()),
        style => Value::from_safe_string(STYLE.to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        data => Value::from_safe_string(browser),
    })?;
    Ok(page)
}

/// Pictures as SVG while they fit, the first of every group before the second of any, and how many do not.
fn figures(data: &ReportData) -> Result<(Vec<Value>, usize)> {
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (place, group) in data.figures.iter().enumerate() {
        order.extend((0..group.figures.len()).map(|rank| (rank, place)));
    }
    order.sort_unstable();
    let (mut used, mut left_out) = (0, 0);
    let mut shown: Vec<Vec<Value>> = vec![Vec::new(); data.figures.len()];
    for (rank, place) in order {
        let figure = &data.figures[place].figures[rank];
        let svg = figure.picture.svg()?;
        if used + svg.len() > cut::FIGURES {
            left_out += 1;
            continue;
        }
        used += svg.len();
        let (caption, width) = (&figure.caption, figure.picture.width);
        shown[place].push(context! { caption, width, svg => Value::from_safe_string(svg) });
    }
    // A group without any figure of its own says why.
    let says = |group: &FigureGroup, shown: &[Value]| !shown.is_empty() || group.figures.is_empty();
    let groups = data.figures.iter().zip(shown).filter(|(group, shown)| says(group, shown));
    let groups =
        groups.map(|(group, figures)| context! { title => group.title, intro => group.intro, figures });
    Ok((groups.collect(), left_out))
}

/// Nothing may be loaded, and only our script may run.
fn policy() -> String {
    let digest = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heatmap::{self, Heatmap, Rows};
    use crate::report::{Answer, Example, Figure, FigureGroup, Table, TableCell, TableHead, Tokens};

    #[test]
    fn nothing_untrusted_becomes_markup() {
        let evil =
            "</script></textarea><script>alert(1)</script><img src=x onerror=alert(1)>\u{202e}\u{2028}";
        let table = Table {
            title: evil.into(),
            notes: vec![evil.into()],
            columns: vec![TableHead { title: evil.into(), ..TableHead::default() }],
            rows: vec![vec![TableCell { note: evil.into(), ..TableCell::text(evil) }]],
        };
        let data = ReportData {
            title: evil.into(),
            notices: vec![evil.into()],
            tables: vec![table.clone()],
            papers: vec![table],
            variants: vec![evil.into()],
            examples: vec![Example {
                dataset: evil.into(),
                tail: evil.into(),
                answers: vec![evil.into()],
                results: vec![Answer { prediction: evil.repeat(20_000).into(), ..Answer::default() }],
                ..Example::default()
            }],
            ..ReportData::default()
        };
        let page = render(&data).unwrap();
        assert_eq!(page.matches("<script").count(), 2, "the data and our own script");
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("<img") && !page.contains("</textarea"));
        assert!(
            !page.contains('\u{202e}')
                || page.matches('\u{202e}').count()
                    == page.split("id=\"data\"").nth(1).unwrap().matches('\u{202e}').count()
        );
        assert!(!page.contains('\u{2028}'));
        assert!(page.len() < 200_000, "a megabyte of text is cut: {}", page.len());
        assert_eq!(page, render(&data).unwrap());
    }

    #[test]
    fn a_sweep_of_any_size_stays_under_five_megabytes() {
        let map = Heatmap {
            title: "t".into(),
            subtitle: String::new(),
            lengths: (1..=40).collect(),
            rows: Rows::Depths((0..20).map(f64::from).collect()),
            values: vec![vec![Some(50.0); 40]; 20],
            range: (0.0, 100.0),
        };
        let figure = Figure { caption: "c".into(), picture: heatmap::draw(&map).unwrap() };
        let group = FigureGroup { title: "g".into(), intro: String::new(), figures: vec![figure; 40] };
        let answer = |variant: usize| Answer {
            variant,
            prediction: format!("{variant} {}", "an answer of some words, with <tags> & all".repeat(4))
                .into(),
            kept: Some("5".repeat(320)),
            strip: Some("5".repeat(64)),
            ..Answer::default()
        };
        let example = |index: usize| Example {
            dataset: format!("set{:02}", index % 21),
            name: index.to_string(),
            tokens: Some(Tokens { pieces: vec!["token ".into(); 320], head: 64, gap: 9 }),
            results: (0..37).map(answer).collect(),
            ..Example::default()
        };
        let data = ReportData {
            figures: vec![group.clone(), group],
            examples: (0..420).map(example).collect(),
            variants: (0..37).map(|v| v.to_string()).collect(),
            ..ReportData::default()
        };
        let page = render(&data).unwrap();
        assert!(page.len() < 5_000_000 && page.len() > 3_500_000, "{}", page.len());
        assert!(page.contains("of 420 examples fit on this page") && page.contains("more pictures would"));
        assert!((0..21).all(|set| page.contains(&format!("set{set:02}"))), "every data set is seen");
    }

    #[test]
    fn a_full_mini_sweep_fits_with_all_its_examples() {
        let example = |index: usize| {
            // Two rows of each of twelve data sets keep their positions: prompts of 512 and of 1,024 tokens.
            let traced = (index % 50 < 2).then_some(512 << (index % 50));
            let answer = |variant: usize| Answer {
                variant,
                prediction: format!(" some words of an answer, number {}", variant % 12).into(),
                score: variant as f64 / 0.37,
                entries: 63.7,
                kept: traced.map(|length| "3".repeat(length)),
                strip: traced.map(|_| "3".repeat(64)),
                ..Answer::default()
            };
            Example {
                dataset: format!("mini_{:02}", index / 50),
                name: format!("row {}", index % 50),
                key: "k".repeat(50),
                tail: if traced.is_none() { "word of a prompt ".repeat(35) } else { String::new() },
                tokens: traced.map(|length| Tokens {
                    pieces: vec![" piece".into(); length],
                    head: 9,
                    gap: 0,
                }),
                results: (0..49).map(answer).collect(),
                ..Example::default()
            }
        };
        let data = ReportData {
            examples: (0..600).map(example).collect(),
            variants: (0..49).map(|v| v.to_string()).collect(),
            ..ReportData::default()
        };
        let page = render(&data).unwrap();
        assert!(page.len() < 3_000_000, "{}", page.len());
        assert!(!page.contains("fit on this page"), "all of them");
        assert!(page.contains("of a prompt"));
    }

    #[test]
    fn the_policy_names_the_script_that_is_in_the_page() {
        let page = render(&ReportData::default()).unwrap();
        let script = page.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
        assert!(page.contains(&format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(script)))));
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing is loaded");
    }
}
