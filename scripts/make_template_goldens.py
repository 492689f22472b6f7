"""Writes target/templates/goldens.json: what transformers renders with the chat templates that packages publish.

The test `published_templates_render_like_transformers` compares with it, where it is. The templates are not ours to keep:

    pip download --no-deps --only-binary=:all: --dest target/templates trl axolotl unsloth
    for wheel in target/templates/*.whl; do unzip -qo "$wheel" '*.jinja' -d target/templates; done
    pip install transformers jinja2 && python scripts/make_template_goldens.py

The date is frozen to 26 July 2024, as kvsweep has it.
"""

import datetime
import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

ROOT = pathlib.Path(__file__).parent.parent / "target/templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
CONVERSATIONS = [
    [{"role": "user", "content": " Which <b>needle</b> & 'hay'? \n"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\n Two. "},
        {"role": "user", "content": "Three?\n\nFour \"five\" \\ \u00e9?"},
    ],
]


def render(template, messages, add_generation_prompt):
    compiled = _compile_jinja_template(template)
    compiled.environment.globals["strftime_now"] = datetime.datetime(2024, 7, 26).strftime
    try:
        text = compiled.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **TOKENS
        )
        return {"rendered": text}
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        return {"error": str(error)}


def main():
    cases = []
    for path in sorted(ROOT.rglob("*.jinja")):
        template = path.read_text()
        try:
            _compile_jinja_template(template)
        except jinja2.TemplateError:
            continue
        for messages in CONVERSATIONS:
            for opens in (False, True):
                case = render(template, messages, opens)
                cases.append({"file": str(path.relative_to(ROOT)), "messages": messages, "opens": opens, **case})
    golden = {"special_tokens": TOKENS, "cases": cases}
    (ROOT / "goldens.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{len(cases)} cases of {len({case['file'] for case in cases})} templates, "
          f"{sum('error' in case for case in cases)} refused")


if __name__ == "__main__":
    main()
