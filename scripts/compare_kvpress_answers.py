#!/usr/bin/env python3
"""Greedy answers after one compression of the prompt, against kvpress: same weights, same prompt ids, f32.

    pip install torch "transformers<5.3" kvpress==0.5.5
    cargo build --release
    python scripts/compare_kvpress_answers.py MODEL_DIR ROWS.jsonl ...

A prompt is a row's context, cut to `--tokens`, and its question, in the model's chat template. Question seen: all of it is
compressed. Unseen: what comes before the question is; the question and the template's tail are read behind it, at their
true positions. torch reads a prompt once; every press then compresses a copy of that cache, and kvpress's KVzip scores it
once for all budgets. Methods whose budget is split otherwise than kvpress splits it (AdaKV, PyramidKV) have no profile
`@kvpress` and are not compared.
"""

import argparse
import json
import math
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import kvpress
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

NEW = 24
# Scores that a head keeps the best of: our method, kvpress's press.
SCORED = {
    "streamingllm@kvpress": kvpress.StreamingLLMPress,
    "snapkv@kvpress": kvpress.SnapKVPress,
    "knorm@kvpress": kvpress.KnormPress,
    "tova@kvpress": kvpress.TOVAPress,
    "keydiff@kvpress": kvpress.KeyDiffPress,
    "lagkv@kvpress": kvpress.LagKVPress,
}
CHUNK = 20
SINKS, RECENT = 128, 256


class Reading:
    """A prompt that torch read, with what presses look at."""

    def __init__(self, model, ids):
        self.model, self.ids, self.calls = model, ids, []
        self.cache = DynamicCache()
        hooks = [
            layer.self_attn.register_forward_hook(
                lambda module, args, kwargs, output: self.calls.append((module, kwargs, output)), with_kwargs=True
            )
            for layer in model.model.layers
        ]
        positions = torch.arange(len(ids))
        out = model(torch.tensor([ids]), past_key_values=self.cache, cache_position=positions, logits_to_keep=1)
        self.logits = out.logits[0, -1]
        for hook in hooks:
            hook.remove()
        self.repeated = None

    def copy(self):
        copy = DynamicCache()
        for index, layer in enumerate(self.cache.layers):
            copy.update(layer.keys.clone(), layer.values.clone(), index)
        return copy

    def compressed(self, press):
        """A copy of the cache after a press that works layer by layer."""
        press.post_init_from_model(self.model)
        copy = self.copy()
        for module, kwargs, output in self.calls:
            module.masked_key_indices = None
            module.rotary_emb = self.model.model.rotary_emb
            press.forward_hook(module, [], {**kwargs, "past_key_values": copy}, output)
        return copy

    def repeated_by(self, press):
        """The same of KVzip, whose scores are those of the first call."""
        copy = self.copy()
        compress = press.compress_post
        if self.repeated is None:
            def keep(model):
                self.repeated = press.score_val.clone()
                compress(model)
            press.compress_post = keep
        else:
            def again(model, tokenizer):
                press.score_val = self.repeated.clone()
                compress(model)
            press._perform_kvzip_compression = again
        with press(self.model):
            press._context_ids, press._cache = torch.tensor([self.ids]), copy
        return copy

    def answer(self, cache, follow, position):
        logits = self.logits
        answer, rows = [], []

        def read(tokens):
            nonlocal position
            positions = torch.arange(position, position + len(tokens))[None]
            position += len(tokens)
            return self.model(torch.tensor([tokens]), past_key_values=cache, position_ids=positions).logits[0, -1]

        if follow:
            logits = read(follow)
        for _ in range(NEW):
            answer.append(int(logits.argmax()))
            rows.append(logits)
            logits = read(answer[-1:])
        return answer, rows


class Program:
    """Our side."""

    def __init__(self, path, model, directory):
        self.path, self.model, self.file = path, model, Path(directory) / "ids.json"

    def answers(self, prompt, methods, budgets, *options):
        self.file.write_text(json.dumps(prompt))
        command = [self.path, "generate", "--model", self.model, "--methods", ",".join(methods), "--ids", self.file]
        command += ["--budgets", ",".join(map(str, budgets)), "--max-new", str(NEW), "--ignore-eos", "--json", *options]
        output = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return {answer["variant"]: answer["ids"] for answer in output["answers"]}

    def logits(self, prompt, variant, *options):
        method, budget = variant.rsplit("/", 1)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            self.answers(prompt, [method], [budget], "--logits", file.name, *options)
            return load_file(file.name)[variant]


def cases(reading, question, heads, budgets, pattern):
    """(our method, budget, the press's cache, the position behind it): what both sides can do alike. `question` is how
    many tokens of the prompt are the question's, if it is seen."""
    tokens = len(reading.ids)
    for method, press in SCORED.items():
        for budget in budgets:
            yield method, budget, partial(reading.compressed, press(1 - (budget + 0.5) / tokens)), tokens
    for budget in budgets if question else []:
        press = kvpress.FinchPress(1 - (budget + 0.5) / tokens)
        press.window_size = question
        yield f"finch@kvpress[window={question}]", budget, partial(reading.compressed, press), budget
    chunks, rest = -(-tokens // CHUNK), tokens % CHUNK or CHUNK
    for budget in budgets:
        kept = budget // CHUNK
        press = kvpress.ChunkKVPress(kvpress.SnapKVPress(1 - (kept + 0.5) / chunks), CHUNK)
        yield "chunkkv@kvpress", (kept - 1) * CHUNK + rest, partial(reading.compressed, press), tokens
    entries = heads * tokens
    for budget in budgets:
        press = kvpress.KVzipPress((entries - budget * heads + 0.5) / entries)
        yield "kvzip@kvpress", budget, partial(reading.repeated_by, press), tokens
    for whole in (heads // 6, heads // 3, heads // 2):
        press = kvpress.DuoAttentionPress(1 - whole / heads)
        press.load_attention_pattern = lambda model: (SINKS, RECENT, pattern)
        budget = math.ceil((whole * tokens + (heads - whole) * (SINKS + RECENT)) / heads)
        yield "duoattention@kvpress", budget, partial(reading.compressed, press), tokens


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a directory in the hub's layout")
    parser.add_argument("rows", nargs="+", help="files of LongBench rows; the first row of each is taken")
    parser.add_argument("--program", default="target/release/kvsweep")
    parser.add_argument("--tokens", default="1000,1250,1500", help="tokens of each context")
    parser.add_argument("--budgets", default="128,256,512")
    parser.add_argument("--only", default="", help="methods of ours whose names contain one of these")
    parser.add_argument("--question", default="seen,unseen")
    args = parser.parse_args()
    budgets = [int(budget) for budget in args.budgets.split(",")]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    config = model.config
    heads = config.num_hidden_layers * config.num_key_value_heads
    pattern = torch.rand(config.num_hidden_layers, config.num_key_value_heads, generator=torch.manual_seed(0)).double().numpy()
    equal = {}
    with tempfile.TemporaryDirectory() as directory:
        heads_file = Path(directory) / f"{Path(args.model).name}_full_attention_heads.tsv"
        heads_file.write_text("\n".join("\t".join(map(repr, row)) for row in pattern.tolist()) + "\n")
        program = Program(args.program, args.model, directory)
        options = ("--calibration", heads_file)
        for path, length in zip(args.rows, map(int, args.tokens.split(","))):
            with open(path) as file:
                row = json.loads(file.readline())
            context = tokenizer.decode(tokenizer(row["context"], add_special_tokens=False)["input_ids"][:length])
            mark = "#" * 12
            templated = tokenizer.apply_chat_template(
                [{"role": "user", "content": context + mark}], add_generation_prompt=True, tokenize=False
            )
            before, tail = templated.split(mark)
            encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
            context, question = encode(before), encode(f"\n\nQuestion: {row['input']}\nAnswer in a few words.{tail}")
            for seen in [view == "seen" for view in args.question.split(",")]:
                ids, follow = (context + question, []) if seen else (context, question)
                prompt = ids if seen else {"context": ids, "question": follow}
                reading = Reading(model, ids)
                asked_of = 0 if follow else len(question)
                wanted = [
                    case
                    for case in cases(reading, asked_of, heads, budgets, pattern)
                    if any(name in case[0] for name in args.only.split(","))
                ]
                budgets_of, asked, ours = {}, {}, {}
                for method, budget, _, _ in wanted:
                    budgets_of.setdefault(method, []).append(budget)
                for method, of in budgets_of.items():
                    asked.setdefault(tuple(of), []).append(method)
                for of, methods in asked.items():
                    ours |= program.answers(prompt, methods, of, *options)
                for method, budget, cache, position in wanted:
                    theirs, rows = reading.answer(cache(), follow, position)
                    for layer in model.model.layers:
                        layer.self_attn.masked_key_indices = None
                    variant = f"{method}/{budget}"
                    pair = zip(ours[variant], theirs)
                    same = next((step for step, (a, b) in enumerate(pair) if a != b), NEW)
                    name = f"{method.split('[')[0]}, question {'seen' if seen else 'unseen'}"
                    equal.setdefault(name, []).append(same == NEW)
                    line = f"{name}: {len(ids)} tokens, {budget} entries: {same} of {NEW} equal"
                    if same < NEW:
                        two = [ours[variant][same], theirs[same]]
                        of = lambda logits: " and ".join(f"{float(logits[token]):.5f}" for token in two)
                        mine = program.logits(prompt, variant, *options)[same]
                        line += f"; tokens {two} have {of(mine)} here and {of(rows[same])} there"
                    print(line, flush=True)
    print("\n| method | question seen | question unseen |\n| --- | ---: | ---: |")
    for method in dict.fromkeys(name.split(",")[0] for name in equal):
        of = lambda seen: equal.get(f"{method}, question {seen}", [])
        print(f"| `{method}` | {sum(of('seen'))} of {len(of('seen'))} | {sum(of('unseen'))} of {len(of('unseen'))} |")


main()
