//! The nearest known name, for messages about unknown ones.

/// `; did you mean …?` or, where nothing is near, the whole list.
pub(crate) fn hint<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let best = known
        .iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), *name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((_, name)) => format!("; did you mean `{name}`?"),
        None => format!("; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn names_the_nearest_or_all() {
        assert_eq!(hint("longbnch", ["longbench", "needle"]), "; did you mean `longbench`?");
        assert_eq!(hint("qqq", ["longbench", "needle"]), "; known: longbench, needle");
    }
}
