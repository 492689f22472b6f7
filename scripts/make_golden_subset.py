"""Chooses the golden vectors that travel with the repository out of the larger set beside it.

    python3 scripts/make_golden_subset.py ../shared

Writes `golden/methods` and `golden/metrics`. Their READMEs say how the vectors were made; this file says
which of them are taken. Files and lines are copied as they are; what is left out is left out whole. The one line that
is made here is the total of the cloze cases, which is over the lines of its file.
"""

import json
import re
import shutil
import sys
from pathlib import Path

SHARED = Path(sys.argv[1]).resolve()
ROOT = Path(__file__).resolve().parent.parent
METHODS, METRICS = SHARED / "golden/methods", SHARED / "golden/metrics"

# Tensor cases above this size are left out, but for the one that has the head counts of Llama 3 (32 over 8).
MOST_BYTES = 150_000
LLAMA_LIKE = "snapkv-compresskv-08"
# Computed from score files that CompressKV and HeadKV publish without a licence.
PUBLISHED_SCORES = "avg_score"


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value + "\n", encoding="utf-8")


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def listed(head, name, items):
    """A JSON object with one list, an item a line, so that a difference shows the case."""
    lines = [f"{json.dumps(key)}: {compact(value)}," for key, value in head.items()]
    return "{\n" + "\n".join(lines) + f'\n"{name}": [\n' + ",\n".join(map(compact, items)) + "\n]}"


def methods():
    out = ROOT / "golden/methods"
    for folder in ("cases", "budgets"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    manifest = json.loads((METHODS / "manifest.json").read_text())
    cases = []
    for case in manifest["cases"]:
        source = METHODS / case["file"]
        if source.stat().st_size <= MOST_BYTES or case["id"] == LLAMA_LIKE:
            shutil.copyfile(source, out / case["file"])
            cases.append(case)
    manifest["budgets"].remove("budgets/headkv.json")
    for file in ("budgets/pyramidkv.json", "budgets/cake.json", manifest["head_identification"]):
        shutil.copyfile(METHODS / file, out / file)
    table = json.loads((METHODS / "budgets/compresskv.json").read_text())
    rows = [case for case in table.pop("cases") if PUBLISHED_SCORES not in case["name"]]
    dump(out / "budgets/compresskv.json", listed(table, "cases", rows))
    manifest.pop("cases")
    dump(out / "manifest.json", listed(manifest, "cases", cases))


# Texts of the metric cases. A case is taken if its file says that its text was written for it, or, where the file does
# not say, if all of its words occur in texts that were.

WORD = re.compile(r"\w+")
CHINESE = re.compile("[\u4e00-\u9fff]+")
# Written by the generator around its texts, and the class names of TREC and LSHT.
AROUND = "Dialogue: more text Question: x Type: 新闻类别 答案是段落"
# Values of the cloze cases that were not taken from a LooGLE document.
WRITTEN_MASKS = {"", "x", "y", "z", "a", "a b", "5", "true", "é", "Łódź", "New York City", "Ana O'Brien"}


def lines(name):
    """The lines of a file and what they hold. Texts contain other line ends than LF."""
    raw = (METRICS / f"{name}.jsonl").read_bytes().split(b"\n")
    return [(line, json.loads(line)) for line in raw if line.strip()]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def grams(text):
    return {text[i : i + 3] for i in range(len(text) - 2)}


class Written:
    """Knows the words and the Chinese trigrams of the texts that were written for the cases."""

    def __init__(self, sourced):
        self.words, self.grams = set(), set()
        for name in sourced:
            for _, case in lines(name):
                if case["source"] == "written":
                    self.learn([case["prediction"], *case["answers"], *(case["all_classes"] or [])])
        self.learn([AROUND])

    def learn(self, texts):
        for text in texts:
            self.words |= {word for word in WORD.findall(text.lower()) if not CHINESE.search(word)}
            self.grams |= set().union(*map(grams, CHINESE.findall(text)))

    def has(self, text):
        found = set().union(*map(grams, CHINESE.findall(text.replace(" ", ""))))
        if sum(gram in self.grams for gram in found) < 0.9 * len(found):  # Swapped sentences make new joints.
            return False
        words = (word for word in WORD.findall(text.lower()) if not CHINESE.search(word))
        return all(len(word) <= 3 or word.isdigit() or word in self.words for word in words)


def metrics():
    out = ROOT / "golden/metrics"
    for old in out.glob("*.jsonl"):
        old.unlink()
    first = {path.stem: lines(path.stem)[0][1] for path in METRICS.glob("*.jsonl")}
    sourced = [name for name, case in first.items() if {"source", "prediction"} <= case.keys()]
    written = Written(sourced)
    # Of TREC and LSHT the class names are needed: labels, not rows.
    for _, case in lines("dataset_scorer"):
        for row in case["rows"] if case["dataset"] in ("trec", "lsht") else []:
            written.learn(row["all_classes"] or [])
    needles = "".join(file.read_text() for file in (SHARED / "data/head_detection").glob("*/needles.jsonl"))
    for path in sorted(METRICS.glob("*.jsonl")):
        name, kept = path.stem, []
        if name == "loogle_meteor_without_wordnet":
            continue
        for line, case in lines(name):
            if name in sourced:
                taken = case["source"] == "written"
            elif name in ("dataset_scorer", "longbench_e_scorer"):
                taken = all(written.has(text) for row in case["rows"] for text in strings([row["pred"], row["answers"]]))
            elif name == "jieba_cut":
                taken = written.has(case["text"])
            elif name == "loogle_cloze":
                taken = "reference" in case and set(case["reference"].values()) <= WRITTEN_MASKS
            elif name == "needle_rouge":
                taken = len(case["target"]) < 60 or "Dolores" in case["target"] or case["target"] not in needles
            else:
                taken = True
            if taken:
                kept.append((line, case))
        if name == "loogle_cloze":
            kept.append((cloze_total([case for _, case in kept]), None))
        dump(out / path.name, "\n".join(line if isinstance(line, str) else line.decode() for line, _ in kept))
        print(f"{name}: {len(kept)} of {len(lines(name))}")


def cloze_total(cases):
    """The official driver's last step, over the cases on which neither function raises."""
    whole = lines("loogle_cloze")
    total = {}
    for source, into in ((whole[:-1], None), ([(b"", case) for case in cases], total)):
        fine = [case for _, case in source if case["partial"] is not None and case["exact"] is not None]
        shares = {
            f"{name}_match": round(sum(c[name][0] for c in fine) / sum(c[name][1] for c in fine), 4)
            for name in ("exact", "partial")
        }
        if into is None:
            stored = whole[-1][1]
            assert all(stored[key] == value for key, value in shares.items()), (stored, shares)
        else:
            into |= {**whole[-1][1], "n": len(fine), **shares}
    return json.dumps(total)


methods()
metrics()
