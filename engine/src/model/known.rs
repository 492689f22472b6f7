//! Shapes of the models of the published tables, as their `config.json` on the hub states them: what a sweep costs can
//! be said before anything is fetched.

use std::path::Path;

use super::config::ModelConfig;
use crate::error::Result;

/// Hub id, and the fields of its `config.json` that shape the graph.
const KNOWN: [(&str, &str); 14] = [
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
    (
        "Qwen/Qwen2.5-7B-Instruct",
        r#"{"model_type": "qwen2", "dtype": "bfloat16", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "use_sliding_window": false,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}"#,
    ),
    (
        "Qwen/Qwen3-8B",
        r#"{"model_type": "qwen3", "dtype": "bfloat16", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}"#,
    ),
    (
        "Qwen/Qwen3-4B-Instruct-2507",
        r#"{"model_type": "qwen3", "dtype": "bfloat16", "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0,
            "tie_word_embeddings": true}"#,
    ),
    (
        "google/gemma-3-1b-it",
        r#"{"model_type": "gemma3_text", "dtype": "bfloat16", "vocab_size": 262144, "hidden_size": 1152,
            "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
            "head_dim": 256, "max_position_embeddings": 32768, "sliding_window": 512}"#,
    ),
    (
        "google/gemma-3-4b-it",
        r#"{"model_type": "gemma3", "dtype": "bfloat16", "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 1024,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}}"#,
    ),
    (
        "google/gemma-3-12b-it",
        r#"{"model_type": "gemma3", "dtype": "bfloat16", "text_config": {"hidden_size": 3840, "intermediate_size": 15360,
            "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 1024,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}}"#,
    ),
    (
        "microsoft/phi-4",
        r#"{"model_type": "phi3", "dtype": "bfloat16", "vocab_size": 100352, "hidden_size": 5120, "intermediate_size": 17920,
            "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10, "sliding_window": null,
            "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "rope_theta": 250000.0}"#,
    ),
    // LongRoPE's divisors are no sizes: ones stand for them.
    (
        "microsoft/Phi-4-mini-instruct",
        r#"{"model_type": "phi3", "dtype": "bfloat16", "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8, "sliding_window": 262144,
            "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "tie_word_embeddings": true,
            "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                                  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
                             "long_factor": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                             1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}}"#,
    ),
];

/// Hub ids of the models whose shapes are known here.
pub fn ids() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(id, _)| *id)
}

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
        let expected =
            [6.74, 8.03, 70.55, 8.03, 7.24, 7.25, 7.62, 8.19, 4.02, 1.00, 3.88, 11.77, 14.66, 3.84];
        for ((id, _), billions) in KNOWN.iter().zip(expected) {
            let config = config(id).unwrap().unwrap();
            let parameters = Planner::new(&config, 1).parameters() as f64 / 1e9;
            assert!((parameters - billions).abs() < 0.006, "{id}: {parameters}");
        }
        assert!(config("nobody/nothing").unwrap().is_none());
    }
}
