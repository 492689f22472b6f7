//! Names from outside (a manifest, a data set, a model) as parts of paths.

/// The longest part of a path that is made of a name: file systems allow 255 bytes, and endings are to follow.
const LONGEST: usize = 150;

/// A name as one path component that cannot leave its folder: ASCII letters, digits, `-`, `_`, `.` and `@` stay, all
/// else, slashes included, becomes `_`. Of the names that differ only in what is replaced or cut, the paths are equal.
pub fn component(name: &str) -> String {
    let safe: String = name
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_ascii_alphanumeric() || "-_.@".contains(c) { c } else { '_' })
        .collect();
    // Neither empty, nor `.` or `..`, nor hidden.
    if safe.is_empty() || safe.starts_with('.') { format!("_{safe}") } else { safe }
}

/// The last part of a hub id or path, as [`component`]: `meta-llama/Llama-3.1-8B` is `Llama-3.1-8B`.
pub fn last_component(name: &str) -> String {
    let name = name.trim_end_matches(['/', '\\']);
    component(name.rsplit(['/', '\\']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        assert_eq!(last_component("meta-llama/Llama-3.1-8B"), "Llama-3.1-8B");
        assert_eq!(last_component("a/b:c"), "b_c");
        assert_eq!(component("snapkv@headkv[window=16]"), "snapkv@headkv_window_16_");
        for bad in
            ["..", ".", "", "/", "../..", "a/../..", "/etc/x", "C:\\x", "a\0b", "\u{1b}[2J", ".git", "é"]
        {
            for name in [component(bad), last_component(bad)] {
                let path = std::path::Path::new(&name);
                let parts: Vec<_> = path.components().collect();
                assert!(matches!(parts[..], [std::path::Component::Normal(_)]), "{bad:?} became {name:?}");
                assert!(!name.starts_with('.') && name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
            }
        }
        assert!(component(&"x".repeat(1000)).len() < 200);
    }
}
