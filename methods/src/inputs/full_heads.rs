//! Scores of KV heads in the published format of DuoAttention: a line a layer, numbers with tabs between them.

/// Reads such a file; scores are clipped to 0 and 1, as the reference does it.
///
/// # Errors
/// What is wrong, with the line.
pub(super) fn read(text: &str) -> Result<Vec<Vec<f64>>, String> {
    let number = |line: usize, text: &str| match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number.clamp(0.0, 1.0)),
        _ => Err(format!("line {line}: `{text}` is not a score")),
    };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let heads: Vec<Vec<f64>> = lines
        .map(|(line, text)| text.split('\t').map(|text| number(line, text)).collect())
        .collect::<Result<_, _>>()?;
    let first = heads.first().map_or(0, Vec::len);
    match heads.iter().position(|row| row.len() != first) {
        Some(layer) => Err(format!("layer {layer} has {} heads, layer 0 has {first}", heads[layer].len())),
        None if heads.is_empty() => Err("there are no scores".into()),
        None => Ok(heads),
    }
}
