"""Writes harness/tests/data/kvpress-prompts.json: token ids that kvpress's own pipeline makes of rows.

Made with Python 3.11, kvpress 0.5.5, transformers 5.2 and the tokenizer of SmolLM2-135M-Instruct.

    python scripts/make_kvpress_prompts.py FOLDER_OF_THE_MODEL
"""

import json
import pathlib
import sys

from kvpress.pipeline import KVPressTextGenerationPipeline
from transformers import AutoTokenizer

OUT = pathlib.Path(__file__).parent.parent / "harness/tests/data/kvpress-prompts.json"
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
NEEDLE = "One of the special magic numbers for calm-otter is: 7419302.\n"
QUESTION = "What is the special magic number for calm-otter mentioned in the provided text? "
PREFIX = "The special magic number for calm-otter mentioned in the provided text is"

ROWS = [
    {"context": NOISE * 3 + NEEDLE + NOISE * 2, "question": QUESTION, "answer_prefix": PREFIX},
    {"context": "\n  a heading ##\n\n###", "question": " naïve — 你好?\n", "answer_prefix": "Answer: "},
    {"context": NOISE * 8, "question": QUESTION, "answer_prefix": PREFIX, "max_context_length": 77},
]


def ids(pipeline, row, query_aware):
    context, question = row["context"], row["question"]
    if query_aware:
        # evaluate.py, `_load_and_prepare_dataset`.
        context, question = context + question, ""
    made = pipeline.preprocess(context, [question], row["answer_prefix"], row.get("max_context_length", 8192))
    return {"context": made["context_ids"][0].tolist(), "question": made["questions_ids"][0][0].tolist()}


def main():
    # The pipeline needs a model only to answer.
    pipeline = KVPressTextGenerationPipeline.__new__(KVPressTextGenerationPipeline)
    pipeline.tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    cases = [{**row, "unseen": ids(pipeline, row, False), "seen": ids(pipeline, row, True)} for row in ROWS]
    OUT.write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n", encoding="utf-8")


main()
