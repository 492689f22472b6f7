#!/usr/bin/env python3
"""Greedy answers of methods that choose again while they generate, against kvpress's `DecodingPress`: same weights, same
prompt ids, f32.

    pip install torch "transformers<5.3" kvpress==0.5.5
    cargo build --release
    python scripts/compare_decoding_press.py MODEL_DIR TEXT_FILE

Both compress the prompt to the target and, after every `interval` tokens of the answer, the cache again. SnapKV is left
out: kvpress rotates the queries of its window by the position of the last one.
"""

import argparse
import json
import subprocess
import tempfile

import torch
from kvpress import DecodingPress, KeyDiffPress, KnormPress, StreamingLLMPress, TOVAPress
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

METHODS = [
    (TOVAPress, "tova[interval={}]"),
    (KnormPress, "knorm@kvpress[interval={}]"),
    (KeyDiffPress, "keydiff@kvpress[interval={}]"),
    (StreamingLLMPress, "streamingllm@kvpress[interval={}]"),
]


@torch.no_grad()
def theirs(model, press, ids, interval, target, new):
    decoding = DecodingPress(press(), compression_interval=interval, target_size=target)
    prefilling = press()
    prefilling.compression_ratio = decoding._find_target_compression_ratio(len(ids), target)
    cache, answer = DynamicCache(), []
    positions = torch.arange(len(ids))
    with prefilling(model):
        logits = model(torch.tensor([ids]), past_key_values=cache, cache_position=positions).logits[0, -1]
    with decoding(model):
        for step in range(new):
            answer.append(int(logits.argmax()))
            position = torch.tensor([len(ids) + step])
            token = torch.tensor([answer[-1:]])
            logits = model(token, past_key_values=cache, position_ids=position[None], cache_position=position).logits[0, -1]
    return answer


def ours(program, model, spec, ids, target, new):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        command = [program, "generate", "--model", model, "--methods", spec, "--budget", str(target), "--ids", file.name]
        command += ["--max-new", str(new), "--ignore-eos", "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["answers"][0]["ids"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a directory in the hub's layout")
    parser.add_argument("text", help="a file whose first tokens are the prompt")
    parser.add_argument("--program", default="target/release/kvsweep")
    parser.add_argument("--prompt", type=int, default=700)
    parser.add_argument("--new", type=int, default=128)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    with open(args.text) as file:
        ids = AutoTokenizer.from_pretrained(args.model)(file.read())["input_ids"][: args.prompt]
    for press, spec in METHODS:
        for interval, target in [(16, 128), (40, 64)]:
            spec_of = spec.format(interval)
            pair = zip(
                ours(args.program, args.model, spec_of, ids, target, args.new),
                theirs(model, press, ids, interval, target, args.new),
            )
            equal = next((i for i, (a, b) in enumerate(pair) if a != b), args.new)
            print(f"{spec_of} at {target}: {equal} of {args.new} tokens equal", flush=True)


main()
