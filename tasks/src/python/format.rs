//! Python's `str.format`, as the official scripts fill prompts.

/// Python's `str.format` for named text fields: one pass, so braces in the values are not special; `{{` and `}}` are
/// braces. Fields that are not given stay as they are.
pub(crate) fn python_format(template: &str, fields: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + fields.iter().map(|f| f.1.len()).sum::<usize>());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            out.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let field = fields.iter().find_map(|(name, value)| {
            Some((from.strip_prefix('{')?.strip_prefix(name)?.strip_prefix('}')?, value))
        });
        match field {
            Some((after, value)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_single_pass() {
        let filled = python_format("{{a}} {context}{input}{x}", &[("context", "{input}"), ("input", "i")]);
        assert_eq!(filled, "{a} {input}i{x}");
        assert_eq!(python_format("é{context}}", &[("context", "ü")]), "éü}");
    }
}
