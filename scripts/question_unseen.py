#!/usr/bin/env python3
"""Renews the tables and the picture of docs/question-unseen.md: the mini suite, all methods, question seen and unseen.

    cargo build --release --locked && python3 scripts/question_unseen.py target/release/kvsweep [ROWS]

ROWS of each data set, 8 unless given. Runs are kept in runs/question-seen-ROWS and runs/question-unseen-ROWS: called again,
what is finished is not computed again; after a change of methods remove both. Needs nothing but Python and the program.
"""

import csv
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "question-unseen.md"
PICTURE = ROOT / "docs" / "images" / "question-unseen.png"
SHARES = ["0.05", "0.1", "0.2", "0.5"]
# The mini suite's prompts are shorter than LagKV's two parts of 128 tokens, which it always keeps, and than the tokens that
# DuoAttention's streaming heads keep; no head patterns are published for the embedded model; KVzip repeats a prompt behind
# it, and must find positions there: rows of 4,096 tokens, every fourth, leave it none.
PARAMETERS = {
    "lagkv": ["lagkv.lag=32"],
    "duoattention": ["duoattention.heads=retrieval", "duoattention.sinks=4", "duoattention.recent=16"],
    "kvzip": ["kvzip.chunk=512"],
}


def kvsweep(*arguments: str) -> str:
    return subprocess.run([sys.argv[1], *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def rows(run: str) -> dict[str, dict[str, str]]:
    """Average by method and share; the full cache has the share 1.0."""
    scores: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(kvsweep("table", run, "--format", "csv").splitlines()):
        scores.setdefault(row["method"], {})[row["budget"] or "full"] = f"{float(row['Average']):.1f}"
    return scores


def remarks(run: str) -> str:
    """What the table says of methods that had no room, and how many prompts there are."""
    shown = json.loads(kvsweep("table", run, "--format", "json"))["table"]
    notes = [note for note in shown["notes"] if note.startswith("no room")]
    return " ".join([f"{shown['rows'][0]['n']} prompts."] + [f"{note[0].upper()}{note[1:]}." for note in notes])


def table(scores: dict[str, dict[str, str]]) -> str:
    """Methods by shares, the best of each share in bold."""
    lines = ["| kept | " + " | ".join(SHARES) + " |", "| --- |" + " ---: |" * len(SHARES)]
    best = {share: max(float(of.get(share, 0)) for of in scores.values()) for share in SHARES}
    for method, of in scores.items():
        if method == "full":
            continue
        cells = [of[share] if float(of[share]) < best[share] else f"**{of[share]}**" for share in SHARES]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return f"Full cache: {scores['full']['full']}.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    listed = json.loads(kvsweep("list", "methods", "--json"))
    methods = [method["name"] for method in listed if "@" not in method["name"]]
    rows_each = sys.argv[2] if len(sys.argv) > 2 else "3"
    runs = {view: str(ROOT / "runs" / f"question-{view}-{rows_each}") for view in ("seen", "unseen")}
    parameters = [f"--param={one}" for name in methods for one in PARAMETERS.get(name, [])]
    for view, run in runs.items():
        if view == "unseen":
            # FINCH reads the question.
            methods.remove("finch")
        kvsweep("run", "longbench", "--question", view, "--ratios", ",".join(SHARES), "--limit", rows_each,
                "--methods", ",".join(methods), *parameters, "--out", run)
    kvsweep("table", *runs.values(), "--mixed", "-o", str(PICTURE))
    page = PAGE.read_text(encoding="utf-8")
    for view, run in runs.items():
        begin, end = f"<!-- {view}: scripts/question_unseen.py -->\n", f"<!-- end of {view} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{table(rows(run))}\n{remarks(run)}\n\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
