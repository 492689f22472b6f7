#!/usr/bin/env python3
"""Compare a sweep with kvpress + transformers: same weights, same prompt ids, same number of new tokens, f32.

    pip install torch "transformers<5.3" kvpress==0.5.5
    cargo build --release -p kvsweep-engine --example sweep_speed
    python scripts/compare_kvpress.py --threads 2 --repeats 3
    python scripts/compare_kvpress.py --threads 2 --repeats 3 --model DIR

Run on an otherwise idle machine: with other load such comparisons are worthless. Both sides run in turn. kvpress
loops over its presses and ratios, each with a prefill of its own, as its evaluation does; PyramidKV is left out
because it fails under sdpa, and AdaKV because it keeps the whole cache. With --model the weights are those of a directory
in the hub's layout, and of theirs only the prefill and the full cache run: their sweep would take an hour. With --threads 1 our side counts processor
time; so does this one.
"""

import argparse
import re
import subprocess
import tempfile
import time

import kvpress
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

NEW_TOKENS = 32
BUDGETS = [64, 128, 256, 512, 1024, 2048]
PRESSES = ["StreamingLLMPress", "SnapKVPress", "TOVAPress", "KnormPress", "KeyDiffPress", "ExpectedAttentionPress"]


def shortest(clock, repeats, run):
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        run()
        best = min(best, clock() - start)
    return best * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", default="target/release/examples/sweep_speed", help="our side, built")
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a directory in the hub's layout; default: random weights, 6.5 M parameters")
    args = parser.parse_args()
    clock = time.perf_counter if args.threads > 1 else time.thread_time
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.model:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    else:
        config = LlamaConfig(
            vocab_size=2048,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=65536,
            attn_implementation="sdpa",
        )
        model = LlamaForCausalLM(config).eval()
    vocab = model.config.vocab_size
    ids = torch.tensor([[(i * 7919 + i // 13) % vocab for i in range(args.prompt)]])

    def prefill():
        cache = DynamicCache()
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return cache, logits

    def decode(cache, logits):
        token = logits[:, -1].argmax(-1, keepdim=True)
        for step in range(NEW_TOKENS - 1):
            position = torch.tensor([[args.prompt + step]])
            token = model(token, past_key_values=cache, use_cache=True, position_ids=position).logits[:, -1].argmax(
                -1, keepdim=True
            )

    def run(press):
        if press is None:
            return decode(*prefill())
        with press(model):
            cache, logits = prefill()
        return decode(cache, logits)

    def press(name, budget):
        ratio = max(0.0, 1 - budget / args.prompt)
        return getattr(kvpress, name)(compression_ratio=ratio) if ratio > 0 else None

    budgets = [budget for budget in BUDGETS if budget <= args.prompt]
    with torch.inference_mode(), tempfile.TemporaryDirectory() as directory:
        if not args.model:
            model.save_pretrained(directory)
        directory = args.model or directory
        options = [f"prompt={args.prompt}", f"threads={args.threads}", f"repeats={args.repeats}", f"model={directory}"]
        ours = subprocess.run([args.example, *options], check=True, capture_output=True, text=True).stdout
        theirs = {"prefill": shortest(clock, args.repeats, prefill)}
        best = float("inf")
        for _ in range(args.repeats):
            cache, logits = prefill()
            best = min(best, shortest(clock, 1, lambda: decode(cache, logits)))
        theirs["decode, full cache alone"] = best
        if not args.model:
            theirs["SnapKV at six budgets"] = shortest(
                clock, 1, lambda: [run(press("SnapKVPress", budget)) for budget in budgets]
            )
            theirs["whole sweep"] = shortest(
                clock, 1, lambda: [run(None)] + [run(press(name, budget)) for name in PRESSES for budget in budgets]
            )

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads\n")
    print(ours)
    print(f"| {args.prompt} prompt tokens, {NEW_TOKENS} new | theirs, ms | ours, ms | ratio |\n| --- | ---: | ---: | ---: |")
    for name, time_theirs in theirs.items():
        time_ours = float(re.search(rf"^{name} +([0-9.]+) ms", ours, re.MULTILINE).group(1))
        print(f"| {name} | {time_theirs:.1f} | {time_ours:.1f} | {time_theirs / time_ours:.1f} x |")


if __name__ == "__main__":
    main()
