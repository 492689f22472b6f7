//! Shapes of the models of the published tables, as their `config.json` on the hub states them: what a sweep costs can
//! be said before anything is fetched.

use std::path::Path;

use super::config::ModelConfig;
use crate::error::Result;

/// Hub id, and the fields of its `config.json` that shape the graph.
const KNOWN: [(&str, &str); 6] = [
    (
        "meta-llama/Llama-2-7b-chat-hf",
        r#"{"model_type": "llama", "dtype": "float16", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}"#,
    ),
    (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        r#"{"model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}"#,
    ),
    (
        "meta-llama/Meta-Llama-3-70B-Instruct",
        r#"{"model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672,
            "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}"#,
    ),
    (
        "meta-llama/Llama-3.1-8B-Instruct",
        r#"{"model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192}}"#,
    ),
    (
        "mistralai/Mistral-7B-Instruct-v0.2",
        r#"{"model_type": "mistral", "dtype": "bfloat16", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": null,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0}"#,
    ),
    (
        "mistralai/Mistral-7B-Instruct-v0.3",
        r#"{"model_type": "mistral", "dtype": "bfloat16", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": null,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0}"#,
    ),
];

/// The configuration of a hub model, if its shape is known here.
///
/// # Errors
/// None in practice: a test parses every entry.
pub fn config(id: &str) -> Result<Option<ModelConfig>> {
    let Some((_, json)) = KNOWN.iter().find(|(known, _)| *known == id) else { return Ok(None) };
    ModelConfig::parse(json.as_bytes(), &Path::new(id).join("config.json")).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Planner;

    #[test]
    fn every_shape_has_the_parameters_its_name_says() {
        // Billions, to three digits; norms, a few hundred thousand, left out.
        let expected = [6.74, 8.03, 70.55, 8.03, 7.24, 7.25];
        for ((id, _), billions) in KNOWN.iter().zip(expected) {
            let config = config(id).unwrap().unwrap();
            let parameters = Planner::new(&config, 1).parameters() as f64 / 1e9;
            assert!((parameters - billions).abs() < 0.005, "{id}: {parameters}");
        }
        assert!(config("nobody/nothing").unwrap().is_none());
    }
}
