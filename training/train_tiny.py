#!/usr/bin/env python3
"""Trains the embedded model on text of the mini suite's generator.

    train_tiny.py tokenizer --out DIR                 learn and write the tokenizer
    train_tiny.py train     --out DIR --work DIR      train, or go on from the checkpoint in --work
    train_tiny.py export    --out DIR --work DIR      write the checkpoint in the hub's layout
    train_tiny.py eval      --out DIR                 exact answers by task and length, fresh seeds
    train_tiny.py curve     --work DIR --table SVG    draw the log

The text comes from `cargo run -p kvsweep-tasks --example mini_corpus`; --corpus names the built
program. docs/tiny-model.md tells what was run and what came of it.
"""

import argparse
import csv
import json
import math
import os
import random
import signal
import subprocess
import threading
import time
from queue import Queue

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# ---------------------------------------------------------------- what is trained

VOCABULARY = 1152
SPECIAL = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"]
BOS, END, USER, ASSISTANT = range(4)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "<|assistant|> {{ message['content'] }}<|end|>{% else %}<|user|>{{ message['content'] }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    # The slower ten of sixteen rotations stand nearly still: content is matched at any distance.
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 64.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 2.0,
        "original_max_position_embeddings": 512,
    },
    "tie_word_embeddings": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "bos_token_id": BOS,
    "eos_token_id": END,
    "pad_token_id": END,
    "torch_dtype": "float16",
    "use_cache": True,
}

EASY = "recall recall recall recall mixed mixed needle mini_variables mini_functions mini_things".split()
ALL = (
    "mixed mixed needle mini_people mini_things mini_friends mini_towns mini_minutes mini_gates mini_types "
    "mini_classes mini_passage_retrieval mini_passage_retrieval mini_count mini_count mini_variables "
    "mini_functions"
).split()
SLOW = "mini_passage_retrieval mini_count mini_count mini_count mini_towns".split()
LAST = "mini_passage_retrieval mini_people mini_things mini_towns mini_friends needle".split()
ONCE = list(dict.fromkeys(ALL))
EXACT = "mini_passage_retrieval mini_people mini_things mini_friends needle".split() * 2
EVEN = "mini_passage_retrieval mini_people mini_things mini_friends mini_friends mini_towns mini_towns mini_classes needle".split()

# (last step, longest documents, tokens a step, kinds, learning rate at its end as a share of the
# highest); each stage goes on where the one before ended, rates change in straight lines.
STAGES = [
    (160, 128, 4096, EASY, 1.0),
    (360, 192, 6144, [*EASY, *ALL], 1.0),
    (600, 384, 6144, ALL, 1.0),
    (850, 768, 8192, ALL, 1.0),
    (1020, 1536, 8192, ALL, 1.0),
    (1100, 1536, 8192, [*ALL, *SLOW], 1.0),
    (1290, 3072, 8192, [*ALL, *SLOW], 1.0),
    (1500, 3072, 8192, [*ALL, *LAST], 0.6),
    (1950, 4096, 8192, [*ALL, *LAST], 0.05),
    (1980, 384, 6144, [*ALL, *LAST], 1.0),
    (2350, 384, 6144, [*ALL, *LAST], 1.0),
    (2402, 768, 8192, [*ALL, *LAST], 0.1),
    (2440, 384, 6144, [*ALL, *LAST], 1.0),
    (2720, 384, 6144, [*ALL, *LAST], 1.0),
    (3000, 768, 8192, [*ONCE, *EXACT], 1.0),
    (3190, 1536, 8192, [*ONCE, *EXACT], 0.85),
    (3240, 1536, 8192, [*ONCE, *EVEN], 0.8),
    (3470, 3072, 8192, [*ONCE, *EVEN], 0.45),
    (3740, 4096, 8192, [*ONCE, *EVEN], 0.01),
]
FIRST_LAYERS, GROWN_AT = 6, 2402  # until this step; then `grow` adds two
LENGTHS = [128, 192, 384, 768, 1536, 3072, 4096]
POSITIONS = 4096
MUON_RATE, ADAM_RATE, WARMUP = 3e-3, 2e-3, 20
TEXT_WEIGHT, TEXT_SHARE = 0.05, 0.125  # loss weight outside answers; share of it that is computed


# ---------------------------------------------------------------- data


def corpus(program, *arguments):
    """The JSON lines of one call of mini_corpus."""
    call = [program, *map(str, arguments)]
    text = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in text.splitlines()]


def learn_tokenizer(program, out):
    """Byte-level BPE with single digits, learnt on 3,000 documents of the training stream."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = corpus(program, "train", ",".join(ALL), 99, 0, 3000, 1024)
    texts = [text for document in documents for ask, say in document["turns"] for text in (ask, " " + say)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
    )
    os.makedirs(out, exist_ok=True)
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    write_json(out, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": POSITIONS,
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        "chat_template": CHAT_TEMPLATE,
    })
    write_json(out, "generation_config.json", {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": END, "do_sample": False})
    write_json(out, "config.json", CONFIG)


def rate_at(step):
    """The learning rate at a step, as a share of the highest."""
    before, start = 0, 1.0
    for last, *_, end in STAGES:
        if step <= last:
            return min(1.0, step / WARMUP) * (start + (end - start) * (step - before) / (last - before))
        before, start = last, end
    return start


def write_json(out, name, value):
    with open(os.path.join(out, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def encode(tokenizer, document, chat):
    """Token ids and, for each, whether it belongs to an answer (its end included)."""
    ids, answer = [BOS], [False]
    for number, (ask, say) in enumerate(document["turns"]):
        text = ask if chat or number == 0 else "\n" + ask
        asked = tokenizer.encode(text, add_special_tokens=False).ids
        said = tokenizer.encode(" " + say, add_special_tokens=False).ids + [END]
        asked = [USER, *asked, END, ASSISTANT] if chat else asked
        ids += asked + said
        answer += [False] * len(asked) + [True] * len(said)
    return ids, answer


def batch(program, tokenizer, seed, step, stage):
    """Ids, positions, answer mask of a step: determined by seed, step and stage alone."""
    rng = random.Random(f"{seed}/{step}")
    _, longest, total, kinds, _ = stage
    shorter = [length for length in LENGTHS if length < longest]
    length = longest if not shorter or rng.random() < 0.7 else rng.choice(shorter)
    kinds = rng.sample(kinds, len(kinds))
    count = max(1, total // length)
    documents = corpus(program, "train", ",".join(kinds), seed, step * 1000, count, length)
    encoded = [encode(tokenizer, document, rng.random() < 0.8) for document in documents]
    width = min(max(len(ids) for ids, _ in encoded), POSITIONS)
    ids = torch.full((count, width), END)
    positions = torch.zeros((count, width), dtype=torch.long)
    answers = torch.zeros((count, width), dtype=torch.bool)
    real = torch.zeros((count, width), dtype=torch.bool)
    for row, (tokens, answer) in enumerate(encoded):
        n = min(len(tokens), width)
        ids[row, :n] = torch.tensor(tokens[:n])
        answers[row, :n] = torch.tensor(answer[:n])
        real[row, :n] = True
        # Positions skip ahead at up to three places (PoSE, arXiv 2309.10400), so that short
        # documents teach long distances as well.
        gaps = torch.zeros(width, dtype=torch.long)
        if longest > LENGTHS[1] and rng.random() < 0.6:
            room = rng.randrange(POSITIONS - width + 1)
            for _ in range(rng.randint(1, 3)):
                skip = rng.randrange(room + 1)
                room -= skip
                gaps[rng.randrange(width)] += skip
        positions[row] = torch.arange(width) + gaps.cumsum(0)
    return ids, positions, answers, real, length


# ---------------------------------------------------------------- model


class Layer(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, inner, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
        self.heads, self.groups, self.head = c["num_attention_heads"], c["num_key_value_heads"], head
        linear = lambda a, b: torch.nn.Linear(a, b, bias=False)
        self.q, self.o = linear(hidden, self.heads * head), linear(self.heads * head, hidden)
        self.k, self.v = linear(hidden, self.groups * head), linear(hidden, self.groups * head)
        self.gate, self.up, self.down = linear(hidden, inner), linear(hidden, inner), linear(inner, hidden)
        self.norm1, self.norm2 = (torch.nn.Parameter(torch.ones(hidden)) for _ in range(2))

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        h = F.rms_norm(x, (d,), self.norm1, 1e-5)
        q = rotate(self.q(h).view(b, t, self.heads, self.head).transpose(1, 2), cos, sin)
        k = rotate(self.k(h).view(b, t, self.groups, self.head).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, self.groups, self.head).transpose(1, 2)
        x = x + self.o(attend(q, k, v).transpose(1, 2).reshape(b, t, -1))
        h = F.rms_norm(x, (d,), self.norm2, 1e-5)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def attend(q, k, v):
    """Causal attention, some rows at a time: on CPUs with bfloat16 more than twice as fast as
    the fused kernel, since the KV head's queries go through one product."""
    b, heads, t, head = q.shape
    groups = k.shape[1]
    q = (q * head**-0.5).view(b, groups, heads // groups, t, head)
    rows = max(64, t // 16)
    done = []
    for start in range(0, t, rows):
        end = min(start + rows, t)
        scores = q[:, :, :, start:end].flatten(2, 3) @ k[:, :, :end].mT
        hidden = torch.full((end - start, end), -torch.inf, dtype=q.dtype).triu(1 + start)
        weights = torch.softmax(scores + hidden.repeat(heads // groups, 1), -1)
        done.append((weights @ v[:, :, :end]).unflatten(2, (heads // groups, end - start)))
    return torch.cat(done, 3).flatten(1, 2)


def rotations(c):
    """Radians a position for each pair of a head, slowed down as in Llama 3.1."""
    half, scaling = c["head_dim"] // 2, c["rope_scaling"]
    rate = c["rope_theta"] ** (-torch.arange(half) / half)
    turns = scaling["original_max_position_embeddings"] * rate / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return rate * (share + (1 - share) / scaling["factor"])


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def look_back(queries, keys, constant, pairs):
    """Makes head i of a KV group attend i + 1 tokens back, by the phases of the fastest `pairs` rotations alone.

    `constant` is a direction in which all tokens have the same component; the longer, the sharper.
    """
    half, rate = len(keys) // 2, rotations(CONFIG)[:pairs, None]
    queries[:], keys[:] = 0, 0
    keys[:pairs] = constant
    for back, query in enumerate(queries, start=1):
        query[:pairs] = torch.cos(rate * back) * constant
        query[half : half + pairs] = -torch.sin(rate * back) * constant


class Llama(torch.nn.Module):
    def __init__(self, layers, c=CONFIG):
        super().__init__()
        self.config = c
        self.embed = torch.nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = torch.nn.ModuleList(Layer(c) for _ in range(layers))
        self.norm = torch.nn.Parameter(torch.ones(c["hidden_size"]))
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        """Random weights, with attention that starts near what looking things up needs.

        The first layer's first KV group looks one to four tokens back (by rotary phase alone, from
        a constant in the embeddings), the second layer matches the current token with the token
        before each key (an induction head), the layers above match like with like, and all copy
        what they find: mimetic initialisation (Trockman and Kolter, arXiv 2305.09828) for GQA.
        """
        c = self.config
        hidden, head, groups = c["hidden_size"], c["head_dim"], c["num_key_value_heads"]
        half, share = head // 2, c["num_attention_heads"] // groups
        flat = torch.cat([torch.arange(6, half), torch.arange(6, half) + half])  # hardly rotate
        basis = lambda n: torch.linalg.qr(torch.randn(hidden, n))[0].T  # n orthonormal rows
        self.embed.weight.normal_(std=0.1)
        self.embed.weight[:, 0] = 0.3
        for number, layer in enumerate(self.layers):
            for part in (layer.q, layer.k, layer.gate, layer.up):
                part.weight.normal_(std=0.5 * part.in_features**-0.5)
            layer.down.weight.zero_()
            values = torch.cat([basis(head) for _ in range(groups)])
            layer.v.weight.copy_(values)
            q, k = layer.q.weight.view(groups, share, head, hidden), layer.k.weight.view(groups, head, hidden)
            o = layer.o.weight.view(hidden, groups, share, head)
            if number == 0:
                back = basis(share * head).view(share, head, hidden)
                look_back(q[0], k[0], 2.0 * torch.eye(hidden)[0], 4)
                for i in range(share):
                    o[:, 0, i] = 0.25 * back[i].T
                o[:, 1] = 0
                first = values[:head]
            else:
                for group in range(groups):
                    pick = torch.randn(len(flat), head) * head**-0.5
                    like = (3.0 if number == 1 else 1.5) * pick @ first
                    q[group][:, flat] = like
                    # Keys by the token one (or two) back in the second layer, by likeness above.
                    k[group][flat] = 1.5 * pick @ back[group] if number == 1 else like
                    for i in range(share):
                        o[:, group, i] = 0.1 * values[group * head : (group + 1) * head].T

    def residual(self, ids, positions, layers):
        """The residual stream after the first `layers` layers."""
        angle = positions[:, None, :, None] * rotations(self.config)
        kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        cos, sin = angle.cos().to(kind), angle.sin().to(kind)
        x = self.embed(ids)
        for layer in self.layers[:layers]:
            x = layer(x, cos, sin)
        return x

    def forward(self, ids, positions, wanted):
        """Logits at the places that the mask `wanted` names."""
        x = self.residual(ids, positions, len(self.layers))
        x = F.rms_norm(x[wanted], (x.shape[-1],), self.norm, 1e-5)
        return F.linear(x, self.embed.weight)


@torch.no_grad()
def grow(model, ids, positions, real):
    """Adds two layers after the first, which look up the word after the one looked up before.

    By then the first KV group of the second layer finds a value's first word by its key: the
    question mark attends to it. Its second word it took from any place where the first word
    stands. The new layers let the question mark find that one, too: the first hands to each token
    the lookup key of the token before it, the second looks up by these with the queries of the
    trained layer. The residual stream has hardly used directions for both; all else that the new
    layers write begins at zero. `ids`, `positions` and `real` are a batch to measure those on.
    """
    c, lookup = model.config, model.layers[1]
    hidden, head, groups = c["hidden_size"], c["head_dim"], c["num_key_value_heads"]
    share = c["num_attention_heads"] // groups
    x = model.residual(ids, positions, 1)[real]
    h = F.rms_norm(x, (hidden,), lookup.norm1, 1e-5)
    moment = lambda of: of.T @ of / len(of)
    free = torch.linalg.eigh(moment(x)).eigenvectors.T[: 2 * head]
    constant = torch.linalg.solve(moment(h) + 1e-3 * torch.eye(hidden), h.mean(0))  # h @ constant is near 1
    added = 0.15  # to the residual stream, as a share of its length
    size = added * x.norm(dim=-1).mean()
    hand, find = Layer(c), Layer(c)
    for layer in (hand, find):
        for part in (layer.q, layer.k, layer.gate, layer.up):
            part.weight.normal_(std=0.5 * part.in_features**-0.5)
        layer.v.weight.copy_(torch.linalg.qr(torch.randn(hidden, groups * head))[0].T)
        layer.o.weight.zero_()
        layer.down.weight.zero_()
        layer.norm1.copy_(lookup.norm1)
    queries = lambda layer: layer.q.weight.view(groups, share, head, hidden)[0]
    keys = lambda layer: layer.k.weight.view(groups, head, hidden)[0]
    values = lambda layer: layer.v.weight.view(groups, head, hidden)[0]
    out = lambda layer: layer.o.weight.view(hidden, groups, share, head)[:, 0]
    look_back(queries(hand), keys(hand), 60**0.5 * constant, 5)
    values(hand)[:] = keys(lookup)
    scale = size / (h @ keys(lookup).T).norm(dim=-1).mean()
    out(hand)[:, 0] = scale * free[:head].T
    rms = (x.pow(2).mean(-1).sqrt() * (1 + added**2) ** 0.5).mean()
    queries(find)[:] = queries(lookup)
    keys(find)[:] = free[:head] / lookup.norm1 * rms / scale
    values(find)[:] = values(lookup)
    out(find)[:] = (size / share / (h @ values(lookup).T).norm(dim=-1).mean() * free[head:].T)[:, None]
    model.layers.insert(1, hand)
    model.layers.insert(2, find)


NAMES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}


def hub_weights(model):
    """Weights by the names that the hub's Llama checkpoints have."""
    weights = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm}
    for number, layer in enumerate(model.layers):
        prefix = f"model.layers.{number}."
        for short, name in NAMES.items():
            weights[f"{prefix}{name}.weight"] = getattr(layer, short).weight
        weights[f"{prefix}input_layernorm.weight"] = layer.norm1
        weights[f"{prefix}post_attention_layernorm.weight"] = layer.norm2
    return weights


# ---------------------------------------------------------------- training


class Muon:
    """Momentum orthogonalised by Newton-Schulz steps, for the layers' matrices (K. Jordan, 2024).

    Matrices of one shape go through the iteration together. Updates have the size AdamW's have.
    """

    def __init__(self, parameters, momentum=0.95):
        self.momentum = momentum
        self.shapes = {}
        for p in parameters:
            self.shapes.setdefault(tuple(p.shape), []).append(p)
        self.state = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.shapes.items()}

    @torch.no_grad()
    def step(self, rate):
        for shape, ps in self.shapes.items():
            grad = torch.stack([p.grad for p in ps])
            buffer = self.state[shape]
            buffer.mul_(self.momentum).add_(grad)
            x = (grad + self.momentum * buffer).bfloat16()
            if shape[0] > shape[1]:
                x = x.mT
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
            if shape[0] > shape[1]:
                x = x.mT
            x = x.float() * (0.2 * max(shape) ** 0.5)
            for p, update in zip(ps, x):
                p.mul_(1 - 0.05 * rate).sub_(rate * update)


def optimisers(model):
    """Muon for the layers' matrices; AdamW for the others, which are returned as well."""
    matrices = [p for layer in model.layers for p in layer.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return Muon(matrices), torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0), others


def train(args):
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(os.path.join(args.out, "tokenizer.json"))
    os.makedirs(args.work, exist_ok=True)
    path = os.path.join(args.work, "checkpoint.pt")
    step, tokens, seconds = 0, 0, 0.0
    saved = torch.load(path, weights_only=True) if os.path.exists(path) else None
    model = Llama(CONFIG["num_hidden_layers"] if saved and saved["step"] > GROWN_AT else FIRST_LAYERS)
    muon, adam, others = optimisers(model)
    if saved:
        model.load_state_dict(saved["model"])
        adam.load_state_dict(saved["adam"])
        for shape, buffer in zip(muon.state, saved["muon"]):
            muon.state[shape].copy_(buffer)
        step, tokens, seconds = saved["step"], saved["tokens"], saved["seconds"]
    last = STAGES[-1][0]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, from step {step} of {last}", flush=True)
    ready = Queue(maxsize=4)

    def produce():
        for number in range(step, last):
            stage = next(stage for stage in STAGES if number < stage[0])
            ready.put(batch(args.corpus, tokenizer, args.seed, number, stage))

    threading.Thread(target=produce, daemon=True).start()
    log = open(os.path.join(args.work, "log.csv"), "a", newline="", encoding="utf-8")
    table = csv.writer(log)
    if log.tell() == 0:
        table.writerow("step length tokens seconds answer_loss answer_accuracy text_loss".split())
    started = saved_at = time.monotonic()
    before = seconds
    recent, stopped = [], []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while step < last and seconds - before < args.minutes * 60 and not stopped:
        ids, positions, answers, real, length = ready.get()
        if step == GROWN_AT:
            grow(model, ids, positions, real)
            muon, adam, others = optimisers(model)
        part = torch.rand(ids.shape, generator=torch.Generator().manual_seed(step)) < TEXT_SHARE
        target, answers = ids[:, 1:], answers[:, 1:]
        wanted = answers | (part[:, 1:] & real[:, 1:])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1], positions[:, :-1], wanted)
        losses = F.cross_entropy(logits.float(), target[wanted], reduction="none")
        is_answer = answers[wanted]
        weight = torch.where(is_answer, 1.0, TEXT_WEIGHT / TEXT_SHARE)
        # Averaged over answers as a share of the whole, so that few answers weigh no more each.
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        step += 1
        scale = rate_at(step)
        muon.step(MUON_RATE * scale)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * scale
        adam.step()
        for p in model.parameters():
            p.grad = None
        tokens += int(real.sum())
        seconds = before + time.monotonic() - started
        right = logits.argmax(-1) == target[wanted]
        recent.append((losses[is_answer].mean().item(), right[is_answer].float().mean().item(),
                       losses[~is_answer].mean().item()))
        if step % 10 == 0:
            means = [sum(values) / len(recent) for values in zip(*recent)]
            table.writerow([step, length, tokens, round(seconds), *(f"{mean:.4f}" for mean in means)])
            log.flush()
            recent.clear()
        if time.monotonic() - saved_at > 120 or step == last:
            saved_at = time.monotonic()
            save(path, model, adam, muon, step, tokens, seconds)
    save(path, model, adam, muon, step, tokens, seconds)


def save(path, model, adam, muon, step, tokens, seconds):
    torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "muon": list(muon.state.values()),
                "step": step, "tokens": tokens, "seconds": seconds}, path + ".new")
    os.replace(path + ".new", path)


def export(args):
    model = Llama(CONFIG["num_hidden_layers"])
    saved = torch.load(os.path.join(args.work, "checkpoint.pt"), weights_only=True)
    model.load_state_dict(saved["model"])
    weights = {name: value.detach().half().contiguous() for name, value in hub_weights(model).items()}
    save_file(weights, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
    write_json(args.out, "config.json", CONFIG)
    print(f"step {saved['step']}, {saved['tokens']} tokens, {saved['seconds']:.0f} s")


# ---------------------------------------------------------------- evaluation


@torch.no_grad()
def evaluate(args):
    """Share of exact answers: an answer is exact if each of its tokens is the likeliest one."""
    tokenizer = Tokenizer.from_file(os.path.join(args.out, "tokenizer.json"))
    model = Llama(CONFIG["num_hidden_layers"])
    weights = load_file(os.path.join(args.out, "model.safetensors"))
    for name, value in hub_weights(model).items():
        value.copy_(weights[name])
    lengths = [int(length) for length in args.lengths.split(",")]
    kinds = args.kinds.split(",") if args.kinds else list(dict.fromkeys(ALL[2:]))
    table = csv.writer(open(args.table, "w", newline="", encoding="utf-8")) if args.table else None
    if table:
        table.writerow("kind length trials exact tokens".split())
    for kind in kinds:
        for length in lengths:
            if kind == "needle":
                depths = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
                share = -(-args.trials // len(depths))
                rows = [row for depth in depths for row in corpus(args.corpus, "needle", depth, 1 << 20, share, length - 16)]
            else:
                rows = corpus(args.corpus, "rows", kind, args.eval_seed, args.trials, length)
            exact = right = total = 0
            for row in rows:
                ids, answer = encode(tokenizer, {"turns": [(row["prompt"], row["answer"][0])]}, True)
                ids, answer = torch.tensor([ids]), torch.tensor([answer])
                wanted = answer[:, 1:]
                with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                    logits = model(ids[:, :-1], torch.arange(ids.shape[1] - 1)[None], wanted)
                hit = logits.argmax(-1) == ids[:, 1:][wanted]
                exact, right, total = exact + bool(hit.all()), right + int(hit.sum()), total + len(hit)
            line = [kind, length, len(rows), f"{100 * exact / len(rows):.1f}", f"{100 * right / total:.1f}"]
            print(*line, flush=True)
            if table:
                table.writerow(line)


def curve(args):
    """Draws the log: loss on answers and share of right answer tokens over tokens trained."""
    rows = []
    with open(os.path.join(args.work, "log.csv"), encoding="utf-8") as file:
        for row in csv.DictReader(file):
            # A run that went on from a checkpoint logs the steps since then again.
            while rows and int(rows[-1]["step"]) >= int(row["step"]):
                rows.pop()
            rows.append(row)
    tokens = [int(row["tokens"]) / 1e6 for row in rows]
    width, height, left, bottom = 720, 360, 56, 40
    x = lambda value: left + value / tokens[-1] * (width - left - 56)
    y = lambda value, top: height - bottom - min(value, top) / top * (height - bottom - 24)

    def line(name, top, colour):
        values, mean = [float(row[name]) for row in rows], None
        points = []
        for at, value in zip(tokens, values):
            mean = value if mean is None else 0.8 * mean + 0.2 * value
            points.append(f"{x(at):.1f},{y(mean, top):.1f}")
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'

    text = lambda at, to, say, anchor="middle", colour="#333": (
        f'<text x="{at:.1f}" y="{to:.1f}" text-anchor="{anchor}" fill="{colour}">{say}</text>')
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for tick in range(5):
        to = y(tick, 4)
        parts += [f'<line x1="{left}" x2="{width - 56}" y1="{to:.1f}" y2="{to:.1f}" stroke="#ddd"/>',
                  text(left - 6, to + 4, tick, "end", "#b3381b"), text(width - 50, to + 4, f"{25 * tick} %", "start", "#1b5fb3")]
    for million in range(int(tokens[-1]) + 1):
        parts.append(text(x(million), height - bottom + 16, f"{million}"))
    seen = None
    for row, at in zip(rows, tokens):
        longest = next(stage[1] for stage in STAGES if int(row["step"]) <= stage[0])
        if longest != seen:
            parts += [f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="24" y2="{height - bottom}" stroke="#999" stroke-dasharray="3 3"/>',
                      f'<g transform="translate({x(at) + 11:.1f} {height / 2}) rotate(-90)">{text(0, 0, longest, colour="#666")}</g>']
            seen = longest
    parts += [line("answer_loss", 4, "#b3381b"), line("answer_accuracy", 1, "#1b5fb3"),
              text(left, 10, "loss on answers (nats a token)", "start", "#b3381b"),
              text(width - 56, 10, "right answer tokens", "end", "#1b5fb3"),
              text(width / 2, height - 6, "million tokens; dashed: longest documents of the stage, in tokens"), "</svg>"]
    with open(args.table or "curve.svg", "w", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["tokenizer", "train", "export", "eval", "curve"])
    parser.add_argument("--out", default=os.path.join(root, "engine", "assets", "tiny"), help="model directory")
    parser.add_argument("--work", default="runs/tiny", help="checkpoint and log")
    parser.add_argument("--corpus", default=os.path.join(root, "target", "release", "examples", "mini_corpus"))
    parser.add_argument("--seed", type=int, default=1, help="training seed")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop (with a checkpoint) after so long")
    parser.add_argument("--kinds", help="eval: data sets, or `needle`; all by default")
    parser.add_argument("--lengths", default="512,1024,2048,4096", help="eval")
    parser.add_argument("--trials", type=int, default=200, help="eval: trials a figure")
    parser.add_argument("--eval-seed", type=int, default=1000, help="eval: seed of the rows, other than the suite's")
    parser.add_argument("--bf16", action="store_true", help="eval: compute in bfloat16")
    parser.add_argument("--table", help="eval: write the figures as CSV, too; curve: the SVG to write")
    args = parser.parse_args()
    if args.verb == "tokenizer":
        learn_tokenizer(args.corpus, args.out)
    else:
        {"train": train, "export": export, "eval": evaluate, "curve": curve}[args.verb](args)


if __name__ == "__main__":
    main()
