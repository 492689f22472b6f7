//! Untrusted text made safe to print, and how much room it takes.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Returns `text` on one line: every character that [`is_hidden`] written out as `\n`, `\t` or `\u{...}`, so that it
/// can neither move the cursor nor reorder what stands beside it.
pub fn visible(text: &str) -> String {
    written_out(text, |_| false)
}

/// As [`visible`], for texts of several lines: line ends and tabs stay.
pub fn printable(text: &str) -> String {
    written_out(text, |c| matches!(c, '\n' | '\t'))
}

fn written_out(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if stays(c) || !is_hidden(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
        }
    }
    out
}

/// Says whether `c` is a control character, or changes the order or the place of its neighbours without being seen
/// itself: bidirectional marks, zero-width characters, line separators, tags.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// At most `limit` characters of [`visible`] text; a cut is marked with `…`.
pub(crate) fn excerpt(text: &str, limit: usize) -> String {
    // Only the part that can be shown is escaped: a prediction of a megabyte costs no more than a short one.
    let mut head: String = text.chars().take(limit).collect();
    let cut = head.len() < text.len();
    head = visible(&head);
    if cut {
        head.push('…');
    }
    head
}

/// Terminal columns that visible text takes: two for wide characters, none for marks on the character before.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Visible text in lines of at most `most` terminal columns, broken at blanks, and inside a word only where it alone is
/// longer.
pub(crate) fn wrapped(text: &str, most: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() {
            if width(&line) + 1 + width(word) > most {
                lines.push(std::mem::take(&mut line));
            } else {
                line.push(' ');
            }
        }
        for c in word.chars() {
            if !line.is_empty() && width(&line) + c.width().unwrap_or(0) > most {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

/// Untrusted text as a paragraph of lines of at most `most` terminal columns, all but the first indented.
pub(crate) fn paragraph(text: &str, most: usize) -> String {
    const INDENT: &str = "  ";
    let lines = wrapped(&visible(text), most.saturating_sub(INDENT.len()).max(1));
    lines.join(&format!("\n{INDENT}")) + "\n"
}

/// A text as one word of a POSIX shell, quoted where it must be.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@+,=%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A time for people: `40 s`, `12 min`, `3 h 05 min`.
pub(crate) fn short_time(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole.div_ceil(60)),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in [
            "plain",
            "",
            "two words",
            "it's",
            "$(rm -rf x)`id`",
            "snapkv[window=16],full",
            "a\nb",
            "\\",
            "ü\"*?",
        ] {
            let script = format!("printf %s {}", shell_word(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn what_moves_the_cursor_or_the_order_is_written_out() {
        assert_eq!(visible("a\u{1b}[2Jb\r\n\tc"), "a\\u{1b}[2Jb\\r\\n\\tc");
        assert_eq!(visible("x\u{202e}y\u{2066}z\u{200b}"), "x\\u{202e}y\\u{2066}z\\u{200b}");
        assert_eq!(visible("段落 é 🙂 \u{85}"), "段落 é 🙂 \\u{85}");
    }

    #[test]
    fn a_text_of_several_lines_keeps_them_and_nothing_else() {
        assert_eq!(
            printable("a\n\tb\r\u{9b}2J\u{1b}]0;x\u{7}\u{202e}"),
            "a\n\tb\\r\\u{9b}2J\\u{1b}]0;x\\u{7}\\u{202e}"
        );
    }

    #[test]
    fn lines_are_broken_at_blanks_and_long_words_inside() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a bcdefghij k", 4), ["a", "bcde", "fghi", "j k"]);
        assert_eq!(wrapped("段落 段落", 5), ["段落", "段落"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn times_are_short() {
        let times = [0.4, 119.0, 121.0, 7260.0].map(short_time);
        assert_eq!(times, ["0 s", "119 s", "3 min", "2 h 01 min"]);
    }

    #[test]
    fn an_excerpt_is_cut_at_a_character() {
        assert_eq!(excerpt("日本語", 2), "日本…");
        assert_eq!(excerpt("ab", 2), "ab");
    }
}
