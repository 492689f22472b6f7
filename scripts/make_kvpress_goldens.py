"""Answers of kvpress's own code, and of its fork DefensiveKV, on small random tensors, for `golden/kvpress`.

    pip install kvpress==0.5.5        # it wants transformers 5.2 and torch
    git clone https://github.com/FFY0/DefensiveKV && git -C DefensiveKV checkout 9251b95
    python scripts/make_kvpress_goldens.py golden/kvpress DefensiveKV

Inputs are random, answers are facts. The format is that of `golden/methods/README.md`.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import torch
from kvpress import (
    AdaKVPress,
    ChunkKVPress,
    CriticalAdaKVPress,
    CriticalKVPress,
    ExpectedAttentionPress,
    FinchPress,
    KeyDiffPress,
    KnormPress,
    LagKVPress,
    SnapKVPress,
    TOVAPress,
)
from kvpress.presses import expected_attention_press
from kvpress_masks import whole_prompt
from safetensors.torch import save_file
from torch import nn

KVPRESS = {"repo": "NVIDIA/kvpress", "commit": "0.5.5"}
DEFENSIVEKV = {"repo": "FFY0/DefensiveKV", "commit": "9251b95"}
NO_GROUP = {"head_axis": "kv", "window_agg": None, "group_reduce": None, "group_layout": "contiguous", "order": "none"}
# Smallest relative distance between the score at the cut and the next one: nearer than that, rounding decides.
MIN_GAP = 2e-5
# Rows of the output projection.
HIDDEN = 24


def attention(q, k, window):
    """Rows of the last `window` queries over the columns before them, as `SnapKVPress.compute_window_attention` gives."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    rows = q[:, :, -window:] @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    rows = rows + torch.triu(torch.full_like(rows, float("-inf")), diagonal=k.shape[2] - window + 1)
    return nn.functional.softmax(rows, dim=-1, dtype=torch.float32)[..., :-window]


def gap(scores, kept):
    """How far the `kept` best of the last dimension stand above the others."""
    ordered = scores.sort(dim=-1, descending=True).values
    gaps = (ordered[..., kept - 1] - ordered[..., kept]) / ordered[..., kept - 1].abs().clamp_min(1e-30)
    return gaps.min().item()


class Layer:
    """Tensors of one layer with a batch of one, and what a press reads of its module."""

    def __init__(self, tensors, index, dtype):
        self.q, self.k, self.v = (tensors[name][index : index + 1].to(dtype) for name in "qkv")
        self.q_heads, self.dim = self.q.shape[1], self.q.shape[-1]
        self.kv_heads, self.length = self.k.shape[1:3]
        self.hidden = torch.zeros(1, self.length, 1)
        config = SimpleNamespace(
            num_attention_heads=self.q_heads,
            num_key_value_heads=self.kv_heads,
            num_hidden_layers=len(tensors["k"]),
            head_dim=self.dim,
            hidden_size=HIDDEN,
            _attn_implementation="sdpa",
        )
        self.module = SimpleNamespace(
            config=config, head_dim=self.dim, num_key_value_groups=self.q_heads // self.kv_heads, layer_idx=index
        )
        if "o" in tensors:
            self.module.o_proj = SimpleNamespace(weight=tensors["o"][index].to(dtype))
        if "rope_cos" in tensors:
            tables = [torch.cat([tensors[name]] * 2, dim=-1) for name in ("rope_cos", "rope_sin")]
            self.module.rotary_emb = lambda x, ids: tuple(table[ids[0]].unsqueeze(0).to(x.dtype) for table in tables)
            cos, sin = (table[: self.length].double() for table in tables)
            # What stands in the file is rotated; kvpress wants it as it was before.
            q = self.q.double()
            self.before = (q * cos - rotate_half(q) * sin).to(dtype)

    def score(self, press):
        """`press.score`, with the attention and the queries of this layer."""
        SnapKVPress.compute_window_attention = staticmethod(lambda m, h, keys, w, p: attention(self.q, keys, w))
        TOVAPress.compute_window_attention = SnapKVPress.compute_window_attention
        expected_attention_press.get_prerope_query_states = lambda m, h: self.before[:, :, -h.shape[1] :]
        return press.score(self.module, self.hidden, self.k, self.v, None, {"position_embeddings": None})[0]

    def unmasked(self, press):
        """What a press that masks keeps of each head."""
        self.score(press.press)
        press.compress(self.module, self.hidden, self.k, self.v, None, {"position_embeddings": None})
        kept = torch.ones(self.kv_heads, self.length, dtype=torch.bool)
        _, heads, positions = self.module.masked_key_indices
        kept[heads, positions] = False
        return [head.nonzero()[:, 0] for head in kept]


def rotate_half(x):
    low, high = x.chunk(2, dim=-1)
    return torch.cat([-high, low], dim=-1)


def keep(press, budget, length):
    """Sets the ratio at which `length * (1 - ratio)` and its halves round down to what `budget` gives."""
    press.compression_ratio = 1 - (budget + 1e-6) / length


def by_score(press, layer, budget, params):
    """Scores and the `budget` best of each head."""
    scores = layer.score(press)
    kept = scores.topk(budget, dim=-1).indices.sort(dim=-1).values
    return scores, list(kept), gap(scores, budget)


def by_chunk(press, layer, budget, params):
    """What `ChunkKVPress.compress` keeps, read from values that are their positions; and the sum of its scores."""
    scores = layer.score(press.press).sum(dim=0, keepdim=True)
    places = torch.arange(layer.length, dtype=torch.float32)[None, None, :, None].expand_as(layer.v).contiguous()
    press.compression_ratio = 1 - budget / layer.length
    _, kept = press.compress(layer.module, layer.hidden, layer.k, places, None, {"position_embeddings": None})
    kept = [head[:, 0].to(torch.int64) for head in kept[0]]
    return scores, kept, 1.0


def by_stage(press, layer, budget, params):
    """CriticalKV: the first stage's tokens score 1 above the best of the second's, where kvpress writes a huge number."""
    keep(press, budget, layer.length)
    window = params["window"]
    scores = layer.score(press)
    second = ((layer.score(press.press) + press.epsilon) * press.vwl1norm(layer.v, layer.module)[0])[:, :-window]
    sure = scores[:, :-window] == torch.finfo(scores.dtype).max
    kept = scores.topk(budget, dim=-1).indices.sort(dim=-1).values
    if not all(set(range(layer.length - window, layer.length)) <= set(head.tolist()) for head in kept):
        raise SystemExit("a token of the window is not kept; draw with another seed")
    distance = min(gap(layer.score(press.press)[:, :-window], max(1, int(sure.sum(dim=1).max()))), gap(scores, budget))
    second = torch.where(sure, second.max() + 1, second)
    return second, list(kept), distance


def by_heads(press, layer, budget, params):
    """Heads that compete: the scores, and what is kept of each head."""
    keep(press, budget, layer.length)
    scores = layer.score(press.press)
    kept = layer.unmasked(press)
    safe = max(1, int(budget * params["floor"]))
    sure = scores.scatter(-1, scores.topk(safe, dim=-1).indices, torch.finfo(scores.dtype).max)
    # The window and the sinks tie, above all others: no cut lies among those that compete.
    equal = params.get("window", params.get("sinks"))
    apart = lambda scores, kept: gap(scores, kept) if kept > equal else 1.0
    distance = min(apart(scores, safe), gap(sure.flatten(), budget * layer.kv_heads))
    if "first" not in params:
        return scores, kept, distance
    # How near the second stage's cut is in each head.
    weighed = (scores + press.epsilon) * CriticalKVPress.vwl1norm(layer.v, layer.module)[0]
    for head, chosen in enumerate(kept):
        first = max(safe, int(len(chosen) * params["first"]))
        distance = min(distance, apart(scores[head], first))
        row = weighed[head].scatter(-1, scores[head].topk(first).indices, torch.finfo(scores.dtype).max)
        distance = min(distance, gap(row, len(chosen)))
    return None, kept, distance


def defensive(checkout, name):
    """A press of DefensiveKV, on this kvpress: what it lacks is loaded from the checkout; its Triton kernel for `|W_o v|` needs
    a GPU, and is replaced by the loop that stands beside it."""
    folder = Path(checkout) / "kvpress" / "presses"
    sys.modules.setdefault("kvpress.ops", types.ModuleType("kvpress.ops"))
    norm = types.ModuleType("kvpress.ops.vw_norm")
    norm.vw_l1norm = None
    sys.modules["kvpress.ops.vw_norm"] = norm
    for file in ["efficient_ada_scorer_press", "efficient_ada_global_scorer_press", name]:
        full = f"kvpress.presses.{file}"
        if full not in sys.modules:
            spec = importlib.util.spec_from_file_location(full, folder / f"{file}.py")
            sys.modules[full] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[full])
    presses = vars(sys.modules[f"kvpress.presses.{name}"]).values()
    (kind,) = [p for p in presses if isinstance(p, type) and p.__module__ == f"kvpress.presses.{name}"]
    kind.vwl1norm_triton = kind.vwl1norm
    return kind


def by_defence(kind, layers, budget, params):
    """Scores and kept positions of all layers: the layer-wise press looks at them together."""
    press = kind(window_size=params["window"], kernel_size=params["kernel"])
    first, window = layers[0], params["window"]
    keep(press, budget, first.length)
    metadata = SimpleNamespace(
        bsz=1,
        num_key_value_heads=first.kv_heads,
        head_lens=[first.length] * first.kv_heads,
        _update_metadata_while_compressing=lambda *sizes: None,
    )
    flat = lambda x: x[0].reshape(-1, first.dim).contiguous()
    cache = SimpleNamespace(
        metadata_list=[metadata] * len(layers),
        layer_scores=[],
        key_cache=[flat(layer.k) for layer in layers],
        value_cache=[flat(layer.v) for layer in layers],
    )
    scores, kept = [], []
    whole = "Layer" in kind.__name__
    for layer in layers:
        # Queries come rotated: their rotation does nothing.
        layer.module.q_proj = lambda h, q=layer.q: q[:, :, -window:].transpose(1, 2).flatten(2)
        still = (torch.ones(1, window, layer.dim), torch.zeros(1, window, layer.dim))
        kwargs = {"past_key_values": cache, "metadata": metadata, "position_embeddings": still}
        keys, values = flat(layer.k), flat(layer.v)
        of_layer = press.score(layer.module, layer.hidden, keys, values, None, kwargs)
        scores.append(of_layer.view(layer.kv_heads, layer.length))
        keys, _ = press.compress(layer.module, layer.hidden, keys, values, None, kwargs)
        if not whole:
            cache.key_cache[layer.module.layer_idx] = keys
    all_scores = torch.stack(scores)
    for layer, keys in zip(layers, cache.key_cache):
        # Rows are random: each of those that came back is found where it was.
        places = [(flat(layer.k) == row).all(dim=1).nonzero().item() for row in keys]
        heads = [[place % layer.length for place in places if place // layer.length == head] for head in range(layer.kv_heads)]
        kept += [torch.tensor(sorted(head), dtype=torch.int64) for head in heads]
    ranked = all_scores.flatten()[None] if whole else all_scores.flatten(1)
    distance = gap(ranked, budget * first.kv_heads * (len(layers) if whole else 1))
    scores = scores if whole else [one[:, :-window] for one in scores]
    return scores, kept, distance


def by_question(press, layer, budget, params):
    """FINCH with the question as its window."""
    press.window_size = layer.q.shape[2]
    scores, kept, distance = by_score(press, layer, budget, params)
    return scores[:, : -press.window_size], kept, distance


# (method, press, parameters, query rows, how it selects)
SNAPKV = {"window": 16, "kernel": 5, "first": 0.5, "epsilon": 1e-4}
METHODS = [
    ("keydiff", KeyDiffPress, {}, 1, by_score),
    ("knorm", KnormPress, {}, 1, by_score),
    ("lagkv", LagKVPress, {"sinks": 4, "lag": 16}, 1, by_score),
    ("lagkv", LagKVPress, {"sinks": 2, "lag": 25}, 1, by_score),
    ("chunkkv", ChunkKVPress, {"window": 32, "kernel": 5, "chunk": 20}, 32, by_chunk),
    ("chunkkv", ChunkKVPress, {"window": 8, "kernel": 7, "chunk": 7}, 8, by_chunk),
    ("criticalkv", CriticalKVPress, SNAPKV, 16, by_stage),
    ("criticalkv", CriticalKVPress, {"window": 40, "kernel": 7, "first": 0.25, "epsilon": 1e-3}, 40, by_stage),
    ("ada-criticalkv", CriticalAdaKVPress, {**SNAPKV, "floor": 0.2}, 16, by_heads),
    ("ada-criticalkv", CriticalAdaKVPress, {**SNAPKV, "window": 8, "first": 0.75, "floor": 0.5}, 8, by_heads),
    ("expected-attention", ExpectedAttentionPress, {"sinks": 4, "future": 64, "epsilon": 0.0}, 0, by_score),
    ("ada-expected-attention", AdaKVPress, {"sinks": 3, "future": 50, "epsilon": 1e-2, "floor": 0.2}, 0, by_heads),
    ("defensivekv", "efficient_defensivekv_press", {"window": 16, "kernel": 5}, 16, by_defence),
    ("defensivekv", "efficient_defensivekv_press", {"window": 32, "kernel": 7}, 32, by_defence),
    ("layer-defensivekv", "efficient_layer_defensivekv_press", {"window": 16, "kernel": 5}, 16, by_defence),
    ("layer-defensivekv", "efficient_layer_defensivekv_press", {"window": 32, "kernel": 7}, 32, by_defence),
    ("finch", FinchPress, {"window": 11}, 11, by_question),
]
SHAPES = [(2, 4, 2, 16, 150), (1, 8, 1, 32, 203), (2, 3, 3, 8, 121)]


def press_of(name, kind, params):
    snapkv = lambda: SnapKVPress(window_size=params["window"], kernel_size=params["kernel"])
    expected = lambda: ExpectedAttentionPress(
        n_future_positions=params["future"], n_sink=params["sinks"], epsilon=params["epsilon"]
    )
    return {
        "lagkv": lambda: kind(n_sink=params["sinks"], lag_size=params["lag"]),
        "chunkkv": lambda: kind(snapkv(), params["chunk"]),
        "criticalkv": lambda: kind(snapkv(), params["epsilon"], params["first"]),
        "ada-criticalkv": lambda: kind(snapkv(), params["floor"], params["epsilon"], params["first"]),
        "expected-attention": expected,
        "ada-expected-attention": lambda: kind(expected(), params["floor"]),
    }.get(name, kind)()


def draw(name, params, rows, shape, seed):
    """The tensors of a case, by name."""
    layers, q_heads, kv_heads, dim, length = shape
    torch.manual_seed(seed)
    random = lambda heads, tokens: (torch.randn(layers, heads, tokens, dim) * 1.5).half()
    q, k, v = random(q_heads, rows or length), random(kv_heads, length), random(kv_heads, length)
    tensors = {"q": q, "k": k, "v": v}
    if "expected" in name:
        # Queries with a mean, rotated.
        angles = torch.arange(length + params["future"])[:, None] * 10000.0 ** -(torch.arange(0, dim, 2) / dim)
        tensors["rope_cos"], tensors["rope_sin"] = angles.cos(), angles.sin()
        cos, sin = (torch.cat([table[:length]] * 2, dim=-1) for table in (angles.cos(), angles.sin()))
        mean = torch.randn(layers, q_heads, 1, dim)
        q = q.float() * 0.5 + mean
        tensors["q"] = (q * cos + rotate_half(q) * sin).half()
    if "critical" in name or "defensive" in name:
        tensors["o"] = (torch.randn(layers, HIDDEN, q_heads * dim) * 0.1).half()
    if "defensive" in name and params["kernel"] == 5:
        # Sharp attention: the first stage ends by its mass.
        tensors["q"] = (tensors["q"] * 3).half()
    return tensors


def answer(name, kind, params, select, tensors, budget):
    """Scores of each layer, kept positions of each head, and how near the cut was."""
    # Cosines of both signs nearly cancel: in f64 the answer is not a matter of rounding.
    dtype = torch.float64 if name == "keydiff" else torch.float32
    layers = [Layer(tensors, index, dtype) for index in range(len(tensors["k"]))]
    if select is by_defence:
        return by_defence(kind, layers, budget, params)
    answers = [select(press_of(name, kind, params), layer, budget, params) for layer in layers]
    scores, kept, gaps = zip(*answers)
    return scores, [head for heads in kept for head in heads], min(gaps)


def main(out, checkout):
    (out / "cases").mkdir(parents=True, exist_ok=True)
    cases = []
    for name, kind, params, rows, select in METHODS:
        source = KVPRESS
        if select is by_defence:
            kind, source = defensive(checkout, kind), DEFENSIVEKV
        for number, shape in enumerate(SHAPES):
            layers, q_heads, kv_heads, dim, length = shape
            for budget in (100, 118) if select is by_chunk else (72, 100):
                seed = 1000 * len(cases) + number
                while True:
                    tensors = draw(name, params, rows, shape, seed)
                    scores, kept, distance = answer(name, kind, params, select, tensors, budget)
                    if distance >= MIN_GAP or name == "lagkv":
                        break
                    seed += 1_000_000
                lens = [len(head) for head in kept]
                case = f"{name}-{'defensivekv' if source is DEFENSIVEKV else 'kvpress'}-{len(cases):02}"
                if name in ("keydiff", "knorm", "chunkkv"):
                    del tensors["v"]
                tensors |= {f"scores.{i}": one.float().contiguous() for i, one in enumerate(scores) if one is not None}
                tensors["kept_len"] = torch.tensor(lens, dtype=torch.int32).reshape(layers, kv_heads)
                tensors["kept_idx"] = torch.cat(kept).to(torch.int32)
                save_file(tensors, out / "cases" / f"{case}.safetensors")
                cases.append({
                    "id": case, "method": name, "impl": case.split("-")[-2], "note": "", "file": f"cases/{case}.safetensors",
                    "source": {**source, "symbol": kind.__name__}, "layers": layers, "q_heads": q_heads,
                    "kv_heads": kv_heads, "head_dim": dim, "prompt_len": length, "seed": seed,
                    "q_rows": "window" if rows else "all",
                    "params": {"budget": lens[0] if select is by_chunk else budget, **params}, "semantics": NO_GROUP,
                    "out_heads": kv_heads, "compare": "exact", "kept_total": sum(lens),
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


main(Path(sys.argv[1]), sys.argv[2])
