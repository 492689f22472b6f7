"""Writes the random-weight models of engine/tests/fixtures/parity with reference logits and greedy tokens.

Made with Python 3.11, torch 2.15 and transformers 5.2 (the exact versions are in the metadata of each
reference.safetensors). Not needed to build or test:

    pip install torch transformers safetensors && python scripts/make_parity_models.py

Weights are drawn wide, so that attention is sharp and a wrong position, mask or head shows in the logits. A seed is
taken only if every greedy step wins by more than MARGIN: a rounding difference then cannot change a token.
"""

import copy
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "engine/tests/fixtures/parity"
PROMPTS = (1, 2, 17, 700)
NEW = 64
MARGIN = 2e-3
LAYERS = 2
VOCAB = 96
COMMON = dict(
    vocab_size=VOCAB, num_hidden_layers=LAYERS, max_position_embeddings=1024, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, use_cache=True,
)

# name: (class, configuration, dtype of the file, most bytes a shard, configuration in the spelling of transformers 4:
# yes, no, or its fields)
MODELS = {
    "llama2": (
        "Llama", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=4,
                      tie_word_embeddings=False, rope_theta=10000.0), torch.float32, None, True,
    ),
    "llama3": (
        "Llama", dict(hidden_size=48, intermediate_size=72, num_attention_heads=6, num_key_value_heads=2,
                      tie_word_embeddings=True, rope_theta=500000.0,
                      rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                        original_max_position_embeddings=256)), torch.bfloat16, None, True,
    ),
    "mistral": (
        "Mistral", dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=1,
                        head_dim=16, tie_word_embeddings=False, sliding_window=None,
                        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), torch.float16, 24_000, False,
    ),
    "qwen2": (
        "Qwen2", dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
                      tie_word_embeddings=True, use_sliding_window=False,
                      rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), torch.float32, None, False,
    ),
    "qwen3": (
        "Qwen3", dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                      tie_word_embeddings=False,
                      rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), torch.bfloat16, None, False,
    ),
    "linear": (
        "Llama", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2,
                      tie_word_embeddings=True, max_position_embeddings=256, rope_theta=10000.0,
                      rope_scaling=dict(rope_type="linear", factor=4.0)), torch.float16, None, True,
    ),
    "dynamic": (
        "Llama", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2,
                      tie_word_embeddings=True, max_position_embeddings=256, rope_theta=10000.0,
                      rope_scaling=dict(rope_type="dynamic", factor=4.0)), torch.float16, None, True,
    ),
    "yarn": (
        "Qwen3", dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                      tie_word_embeddings=True, max_position_embeddings=512,
                      rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                           original_max_position_embeddings=256)), torch.float16, None, False,
    ),
    "mistral-window": (
        "Mistral", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2,
                        tie_word_embeddings=True, sliding_window=48,
                        rope_parameters=dict(rope_type="default", rope_theta=10000.0)), torch.float16, None, False,
    ),
    "qwen2-window": (
        "Qwen2", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2,
                      tie_word_embeddings=True, use_sliding_window=True, sliding_window=100, max_window_layers=1,
                      rope_parameters=dict(rope_type="default", rope_theta=10000.0)), torch.float16, None, False,
    ),
    "gemma3": (
        "Gemma3", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                       num_hidden_layers=3, sliding_window=40, sliding_window_pattern=3, query_pre_attn_scalar=24,
                       rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=50000.0),
                                            sliding_attention=dict(rope_type="default", rope_theta=1000.0))),
        torch.bfloat16, None,
        dict(rope_theta=50000.0, rope_local_base_freq=1000.0, rope_scaling=dict(rope_type="linear", factor=8.0),
             sliding_window_pattern=3),
    ),
    "phi3": (
        "Phi3", dict(hidden_size=64, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2,
                     tie_word_embeddings=True, original_max_position_embeddings=64, pad_token_id=0,
                     partial_rotary_factor=0.75,
                     rope_parameters=dict(rope_type="longrope", rope_theta=10000.0,
                                          short_factor=[1.0, 1.1, 1.2, 1.5, 2.0, 2.5],
                                          long_factor=[1.0, 1.3, 2.0, 4.0, 8.0, 15.0])), torch.float16, None, False,
    ),
    "phi3-window": (
        "Phi3", dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=4,
                     tie_word_embeddings=False, sliding_window=50, pad_token_id=0,
                     rope_parameters=dict(rope_type="default", rope_theta=10000.0)), torch.float16, None, True,
    ),
}


def draw(model, generator):
    """Replaces every parameter: projections at twice unit gain, norms around one, embeddings for logits of size 2."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            # Gemma counts them from one.
            value = 0.2 * noise + (0.0 if model.config.model_type == "gemma3_text" else 1.0)
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = 2.0 * noise / parameter.shape[1] ** 0.5
        else:
            value = (2.0 if "q_proj" in name or "k_proj" in name else 1.0) * noise / parameter.shape[1] ** 0.5
        parameter.data.copy_(value)


def rows_kept(length):
    """All rows of a short prompt; of a long one the first, every seventh, and the last sixteen."""
    if length < 100:
        return list(range(length))
    return sorted({0, 1, 2, 3, *range(0, length, 7), *range(length - 16, length)})


@torch.no_grad()
def reference(model, prompt):
    logits = model(torch.tensor([prompt])).logits[0]
    ids, margin = list(prompt), float("inf")
    out = model(torch.tensor([ids]), use_cache=True)
    greedy = []
    for _ in range(NEW):
        top = out.logits[0, -1].topk(2).values
        margin = min(margin, (top[0] - top[1]).item())
        greedy.append(out.logits[0, -1].argmax().item())
        out = model(torch.tensor([greedy[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return logits, greedy, margin


def make(name, seed):
    kind, config, dtype, shard, old_spelling = MODELS[name]
    target = OUT / name
    shutil.rmtree(target, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)
    config_class = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    built = getattr(transformers, config_class)(**{**COMMON, **copy.deepcopy(config)})
    model = getattr(transformers, f"{kind}ForCausalLM")(built)
    draw(model, generator)
    model = model.to(dtype)
    model.save_pretrained(target, **({"max_shard_size": shard} if shard else {}))
    if old_spelling:
        path = target / "config.json"
        saved = json.loads(path.read_text())
        saved.pop("rope_parameters", None)
        saved["torch_dtype"] = saved.pop("dtype", "float32")
        if isinstance(old_spelling, dict):
            saved.pop("layer_types", None)
            saved.pop("_sliding_window_pattern", None)
            saved.update(old_spelling)
        else:
            theta = config.get("rope_theta", config.get("rope_parameters", {}).get("rope_theta"))
            saved.update(rope_theta=theta, rope_scaling=config.get("rope_scaling"))
        path.write_text(json.dumps(saved, indent=2) + "\n")

    loaded = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, attn_implementation="eager")
    loaded.eval()
    tensors = {}
    worst = float("inf")
    for length in PROMPTS:
        prompt = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        logits, greedy, margin = reference(loaded, prompt)
        worst = min(worst, margin)
        rows = rows_kept(length)
        tensors[f"prompt_{length}"] = torch.tensor(prompt, dtype=torch.int64)
        tensors[f"rows_{length}"] = torch.tensor(rows, dtype=torch.int64)
        tensors[f"logits_{length}"] = logits[rows].contiguous()
        tensors[f"greedy_{length}"] = torch.tensor(greedy, dtype=torch.int64)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": str(seed)}
    save_file(tensors, target / "reference.safetensors", metadata=versions)
    return worst


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for name in sys.argv[1:] or MODELS:
        for seed in range(200):
            margin = make(name, seed)
            if margin > MARGIN:
                break
        else:
            sys.exit(f"{name}: no seed below 200 has margins above {MARGIN}")
        size = sum(path.stat().st_size for path in (OUT / name).iterdir())
        print(f"{name}: seed {seed}, least margin {margin:.4f}, {size} bytes")


if __name__ == "__main__":
    main()
