"""Answers of the presses that choose for all layers together and mask what they drop: a part of `make_kvpress_goldens.py`."""

from types import SimpleNamespace

import torch
from kvpress import DuoAttentionPress, KVzipPress
from kvpress.presses import kvzip_press


def masked(stubs, kv_heads, tokens):
    """What is left of each head when a press has named the entries that it masks."""
    kept = []
    for stub in stubs:
        left = torch.ones(kv_heads, tokens, dtype=torch.bool)
        _, heads, entries = stub.masked_key_indices
        left[heads, entries] = False
        kept += [head.nonzero()[:, 0] for head in left]
    return kept


def kvzip(q_heads, layers, kv_heads, dim, tokens, budget, params):
    """`KVzipPress` on random queries and keys of a prompt that is repeated in parts behind a template of six tokens: its
    scores, with the sinks beyond every attention as here, and what it keeps."""
    head, group = 6, q_heads // kv_heads
    press = KVzipPress(0.5, params["layerwise"], n_sink=params["sinks"], chunk_size=params["chunk"])
    keep = budget * kv_heads * (1 if params["layerwise"] else layers)
    total = tokens * kv_heads * (1 if params["layerwise"] else layers)
    press.compression_ratio = (total - keep + 0.5) / total
    press.context_length = tokens
    press.score_val = torch.zeros(layers, 1, kv_heads, tokens)
    config = SimpleNamespace(num_attention_heads=q_heads, num_key_value_heads=kv_heads, _attn_implementation="sdpa")
    stubs = [SimpleNamespace(config=config, head_dim=dim, layer_idx=layer) for layer in range(layers)]
    for start in range(head, tokens, params["chunk"]):
        press.start_idx, press.end_idx = start, min(start + params["chunk"], tokens)
        read = press.end_idx - start + 9
        position = {"position_embeddings": (torch.ones(1, read, dim), torch.zeros(1, read, dim))}
        for stub in stubs:
            torch.manual_seed(7 * start + stub.layer_idx)
            queries, keys = torch.randn(1, q_heads, read, dim) * 1.5, torch.randn(1, kv_heads, tokens + read, dim)
            kvzip_press.get_prerope_query_states = lambda module, hidden: queries
            press.score_kvzip(stub, torch.zeros(1, read, 1), keys, keys, None, position)
    scores = press.score_val.clone()
    scores[..., : params["sinks"]] = 2.0
    press.compress_post(SimpleNamespace(model=SimpleNamespace(layers=[SimpleNamespace(self_attn=s) for s in stubs])))
    tensors = {}
    for layer in range(layers):
        tensors[f"reconstruction.{layer}"] = tensors[f"scores.{layer}"] = scores[layer, 0].contiguous()
    return {name: tensor.clone() for name, tensor in tensors.items()}, masked(stubs, kv_heads, tokens), {}


def duoattention(q_heads, layers, kv_heads, dim, tokens, whole, params):
    """`DuoAttentionPress` with random head scores, so many of the heads whole."""
    scores = torch.rand(layers, kv_heads).double().numpy()
    press = DuoAttentionPress()
    press.sink_size, press.recent_size = params["sinks"], params["recent"]
    press.load_attention_pattern = lambda model: (params["sinks"], params["recent"], scores)
    press.head_compression_ratio = 1 - whole / scores.size
    press.post_init_from_model(SimpleNamespace(device="cpu"))
    config = SimpleNamespace(_attn_implementation="sdpa")
    stubs = [SimpleNamespace(config=config, layer_idx=layer) for layer in range(layers)]
    keys = torch.zeros(1, kv_heads, tokens, dim)
    for stub in stubs:
        press.compress(stub, None, keys, keys, None, {})
    return {}, masked(stubs, kv_heads, tokens), {"full_heads": scores.tolist()}


def whole_prompt():
    """Cases of presses that choose for all layers together: (method, press, shape, parameters, tensors, kept, facts)."""
    for layers, q_heads, kv_heads, dim, tokens in [(3, 4, 2, 16, 150), (2, 6, 3, 8, 121)]:
        shape = (q_heads, layers, kv_heads, dim, tokens)
        for params in [
            {"sinks": 4, "chunk": 60, "layerwise": False},
            {"sinks": 4, "chunk": 500, "layerwise": False},
            {"sinks": 2, "chunk": 50, "layerwise": True},
        ]:
            budget = 40
            yield "kvzip", KVzipPress, shape, {"budget": budget, **params}, kvzip(*shape, budget, params)
        for whole in (0, 1, 3):
            params = {"sinks": 3, "recent": 21, "stretch": False}
            least, heads = params["sinks"] + params["recent"], layers * kv_heads
            budget = -(-(whole * tokens + (heads - whole) * least) // heads)
            torch.manual_seed(whole)
            yield "duoattention", DuoAttentionPress, shape, {"budget": budget, **params}, duoattention(*shape, whole, params)
