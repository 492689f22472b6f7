"""Answers of kvpress's own code on small random tensors, for `golden/kvpress`.

    pip install kvpress==0.5.5        # it wants transformers 5.2 and torch
    python scripts/make_kvpress_goldens.py golden/kvpress

Inputs are random, answers are facts. The format is that of `golden/methods/README.md`.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from kvpress import ChunkKVPress, FinchPress, KeyDiffPress, KnormPress, LagKVPress, SnapKVPress, TOVAPress
from kvpress_masks import whole_prompt
from safetensors.torch import save_file
from torch import nn

SOURCE = {"repo": "NVIDIA/kvpress", "commit": "0.5.5"}
NO_GROUP = {"head_axis": "kv", "window_agg": None, "group_reduce": None, "group_layout": "contiguous", "order": "none"}
# Smallest relative distance between the score at the cut and the next one: nearer than that, rounding decides.
MIN_GAP = 2e-5


def attention(q, k, window):
    """Rows of the last `window` queries over the columns before them, as `SnapKVPress.compute_window_attention` gives."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    rows = q[:, :, -window:] @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    rows = rows + torch.triu(torch.full_like(rows, float("-inf")), diagonal=k.shape[2] - window + 1)
    return nn.functional.softmax(rows, dim=-1, dtype=torch.float32)[..., :-window]


def module(q, k):
    config = SimpleNamespace(num_attention_heads=q.shape[1], num_key_value_heads=k.shape[1])
    return SimpleNamespace(config=config, head_dim=q.shape[-1])


def by_score(press, q, k, v, budget):
    """Scores and the `budget` best of each head."""
    if isinstance(press, (SnapKVPress, TOVAPress)):
        type(press).compute_window_attention = staticmethod(lambda m, h, keys, window, p: attention(q, keys, window))
        SnapKVPress.compute_window_attention = type(press).compute_window_attention
    hidden = torch.zeros(1, k.shape[2], 1)
    scores = press.score(module(q, k), hidden, k, v, None, {"position_embeddings": None})[0]
    kept = scores.topk(budget, dim=-1).indices.sort(dim=-1).values
    ordered = scores.sort(dim=-1, descending=True).values
    gaps = (ordered[:, budget - 1] - ordered[:, budget]) / ordered[:, budget - 1].abs().clamp_min(1e-30)
    return scores, list(kept), gaps.min().item()


def by_chunk(press, q, k, v, budget):
    """What `ChunkKVPress.compress` keeps, read from values that are their positions; and the sum of its scores."""
    SnapKVPress.compute_window_attention = staticmethod(lambda m, h, keys, window, p: attention(q, keys, window))
    hidden, kwargs = torch.zeros(1, k.shape[2], 1), {"position_embeddings": None}
    places = torch.arange(k.shape[2], dtype=torch.float32)[None, None, :, None].expand_as(v).contiguous()
    press.compression_ratio = 1 - budget / k.shape[2]
    _, kept = press.compress(module(q, k), hidden, k, places, None, kwargs)
    scores = press.press.score(module(q, k), hidden, k, v, None, kwargs)[0].sum(dim=0, keepdim=True)
    kept = [head[:, 0].to(torch.int64) for head in kept[0]]
    return scores, kept, 1.0


def by_question(press, q, k, v, budget):
    """Scores of `FinchPress` and the `budget` best of each head, with the question as its window."""
    press.window_size = q.shape[2]
    SnapKVPress.compute_window_attention = staticmethod(lambda m, h, keys, window, p: attention(q, keys, window))
    scores = press.score(module(q, k), None, k, v, None, {"position_embeddings": None})[0]
    kept = scores.topk(budget, dim=-1).indices.sort(dim=-1).values
    return scores[:, : -q.shape[2]], list(kept), 1.0


# (method, press, parameters, query rows, how it selects)
METHODS = [
    ("keydiff", KeyDiffPress, {}, 1, by_score),
    ("knorm", KnormPress, {}, 1, by_score),
    ("lagkv", LagKVPress, {"sinks": 4, "lag": 16}, 1, by_score),
    ("lagkv", LagKVPress, {"sinks": 2, "lag": 25}, 1, by_score),
    ("chunkkv", None, {"window": 32, "kernel": 5, "chunk": 20}, 32, by_chunk),
    ("chunkkv", None, {"window": 8, "kernel": 7, "chunk": 7}, 8, by_chunk),
    ("finch", FinchPress, {"window": 11}, 11, by_question),
]
SHAPES = [(2, 4, 2, 16, 150), (1, 8, 1, 32, 203), (2, 3, 3, 8, 121)]


def press_of(name, kind, params):
    if name == "lagkv":
        return kind(n_sink=params["sinks"], lag_size=params["lag"])
    if name == "chunkkv":
        return ChunkKVPress(SnapKVPress(window_size=params["window"], kernel_size=params["kernel"]), params["chunk"])
    return kind()


def main(out):
    (out / "cases").mkdir(parents=True, exist_ok=True)
    cases = []
    for name, kind, params, rows, select in METHODS:
        for number, (layers, q_heads, kv_heads, dim, length) in enumerate(SHAPES):
            for budget in (72, 100) if select is not by_chunk else (100, 118):
                seed = 1000 * len(cases) + number
                torch.manual_seed(seed)
                shape = lambda heads, tokens: (layers, heads, tokens, dim)
                draw = lambda heads, tokens: (torch.randn(shape(heads, tokens)) * 1.5).half()
                q, k, v = draw(q_heads, rows), draw(kv_heads, length), draw(kv_heads, length)
                lens, kept, scores, gap = [], [], {}, float("inf")
                for layer in range(layers):
                    # Cosines of both signs nearly cancel: in f64 the answer is not a matter of rounding.
                    dtype = torch.float64 if name == "keydiff" else torch.float32
                    wide = [t[layer : layer + 1].to(dtype) for t in (q, k, v)]
                    of_layer, chosen, cut = select(press_of(name, kind, params), *wide, budget)
                    scores[f"scores.{layer}"] = of_layer.float().contiguous()
                    lens += [len(head) for head in chosen]
                    kept += [head for head in chosen]
                    gap = min(gap, cut)
                if gap < MIN_GAP and name != "lagkv":
                    raise SystemExit(f"{name}: scores within {gap} of the cut; draw with another seed")
                entries = lens[0] if select is by_chunk else budget
                case = f"{name}-kvpress-{len(cases):02}"
                tensors = {"q": q, "k": k, **({"v": v} if name == "lagkv" else {}), **scores}
                tensors["kept_len"] = torch.tensor(lens, dtype=torch.int32).reshape(layers, kv_heads)
                tensors["kept_idx"] = torch.cat(kept).to(torch.int32)
                save_file(tensors, out / "cases" / f"{case}.safetensors")
                cases.append({
                    "id": case, "method": name, "impl": "kvpress", "note": "", "file": f"cases/{case}.safetensors",
                    "source": {**SOURCE, "symbol": (kind or ChunkKVPress).__name__}, "layers": layers, "q_heads": q_heads,
                    "kv_heads": kv_heads, "head_dim": dim, "prompt_len": length, "seed": seed, "q_rows": "window",
                    "params": {"budget": entries, **params}, "semantics": NO_GROUP, "out_heads": kv_heads,
                    "compare": "exact", "kept_total": sum(lens),
                })
    for name, press, (q_heads, layers, kv_heads, dim, length), params, (tensors, kept, facts) in whole_prompt():
        case = f"{name}-kvpress-{len(cases):02}"
        zeros = lambda heads, tokens: torch.zeros(layers, heads, tokens, dim, dtype=torch.float16)
        lens = torch.tensor([len(head) for head in kept], dtype=torch.int32).reshape(layers, kv_heads)
        tensors |= {"q": zeros(q_heads, 1), "k": zeros(kv_heads, length), "kept_len": lens}
        tensors["kept_idx"] = torch.cat(kept).to(torch.int32)
        save_file(tensors, out / "cases" / f"{case}.safetensors")
        cases.append({
            "id": case, "method": name, "impl": "kvpress", "note": "", "file": f"cases/{case}.safetensors",
            "source": {**SOURCE, "symbol": press.__name__}, "layers": layers, "q_heads": q_heads, "kv_heads": kv_heads,
            "head_dim": dim, "prompt_len": length, "seed": 0, "q_rows": "window", "params": params,
            "semantics": NO_GROUP, "out_heads": kv_heads, "compare": "exact", "kept_total": int(lens.sum()), **facts,
        })
    index = {"format_version": 1, "cases": cases, "budgets": []}
    (out / "manifest.json").write_text(json.dumps(index, indent=1) + "\n")


main(Path(sys.argv[1]))
