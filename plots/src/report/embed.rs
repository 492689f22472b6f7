//! Data inside a page.

/// JSON that can stand inside a `script` element: nothing in it can end the element, and no line separator
/// that old parsers trip over.
pub(super) fn embed(value: &serde_json::Value) -> String {
    value
        .to_string()
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
