"""Writes engine/tests/fixtures/gguf: what transformers makes of real GGUF files, for the tests of engine/tests/engine/real.rs.

Made with Python 3.11, torch and transformers 5.2 with its `gguf` package (the exact versions are in the files). Not needed
to build or test:

    pip install torch transformers gguf && python scripts/make_gguf_goldens.py NAME FILE.gguf SHARED_DATA

Weights: transformers dequantises the file to f32. Token ids: of its conversion, with two corrections, as it ignores the
pre-tokenizer's name and most added tokens of a GGUF:
- `smollm` cuts off each digit first, as the tokenizer.json of SmolLM2 on the hub does;
- every control and user-defined token of the file is an added token.
"""

import hashlib
import json
import pathlib
import sys

import torch
import transformers
from gguf import GGUFReader
from tokenizers import AddedToken, pre_tokenizers

OUT = pathlib.Path(__file__).parent.parent / "engine/tests/fixtures/gguf"
FOLDERS = ("longbench", "longbench_samples", "loogle", "ruler")
TEXT = "The needle is hidden in the haystack, 1234 lines deep. Find it:\n\n  def needle(haystack):\n      return"
NEW = 24


def texts(row):
    """Every text of a row, in the order of its keys."""
    return [row[key] for key in sorted(row) if isinstance(row[key], str)]


def tokenizer(path):
    made = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)._tokenizer
    fields = GGUFReader(path).fields
    if fields["tokenizer.ggml.pre"].contents() == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), made.pre_tokenizer]
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    made.add_tokens([AddedToken(text, normalized=False, special=kind == 3)
                     for text, kind in zip(tokens, kinds) if kind in (3, 4)])
    return made


@torch.no_grad()
def main():
    name, path, data = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    transformers.utils.logging.disable_progress_bar()
    made = tokenizer(path)
    hashes = {}
    for file in sorted(file for folder in FOLDERS for file in (data / folder).rglob("*.jsonl")):
        ids = hashlib.sha256()
        for line in file.read_text().splitlines():
            for text in texts(json.loads(line)):
                ids.update(" ".join(map(str, made.encode(text, add_special_tokens=False).ids)).encode() + b"\n")
        hashes[str(file.relative_to(data))] = ids.hexdigest()

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompt = made.encode(TEXT, add_special_tokens=False).ids
    ids, margins = list(prompt), []
    logits = model(torch.tensor([prompt])).logits[0]
    for _ in range(NEW):
        top = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margins.append((top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    tops = logits.topk(5)
    weights = {
        key: hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        for key, value in model.state_dict().items() if ".0." in key or "layers" not in key
    }
    golden = {
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "transformers": transformers.__version__, "torch": torch.__version__,
        "text": TEXT, "prompt": prompt, "greedy": ids[len(prompt):], "least_margin": min(margins),
        "top": [[[i, round(v, 5)] for i, v in zip(row_ids, row)]
                for row_ids, row in zip(tops.indices.tolist(), tops.values.tolist())],
        "weights_sha256": weights, "ids_sha256": hashes,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
