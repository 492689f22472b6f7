"""Writes engine/tests/fixtures/chat.json: chat templates, conversations, and what transformers renders.

Made with Python 3.11, transformers 5.2, Jinja2 3.1.6. The templates are written for this test; together they use what
published templates use. The date is frozen to 26 July 2024.

    pip install transformers jinja2 && python scripts/make_chat_goldens.py
"""

import datetime
import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = pathlib.Path(__file__).parent.parent / "engine/tests/fixtures/chat.json"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": " Which <b>needle</b> & 'hay'? \n"}]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": " Two. "},
    {"role": "user", "content": "Three?\n\nFour?"},
]
WRONG = [{"role": "assistant", "content": "I start."}]

TEMPLATES = {
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{#- The system message is taken out first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\nToday: " + date_string + "\\n" }}
{%- if tools is not none %}
    {{- "Tools\\n" }}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
""",
    "instructions": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{{ ' ' + content.strip() + ' ' + eos_token }}
{% endif %}
{% endfor %}
""",
    "chatml": """{% set ns = namespace(system=false, last=-1) %}
{% for message in messages %}
  {% if message.role == 'system' %}{% set ns.system = true %}{% endif %}
  {% if message.role == 'user' and message.content.startswith('T') %}{% set ns.last = loop.index0 %}{% endif %}
{% endfor %}
{% if not ns.system %}
<|im_start|>system
You help.<|im_end|>
{% endif %}
{% for message in messages %}
{{ '<|im_start|>' ~ message.role ~ '\\n' }}{{ message.content.split('\\n')[-1].lstrip() | replace('?', '!') }}<|im_end|>
  {% if loop.index0 == ns.last and not loop.first %}
[{{ loop.index }}/{{ messages | length }}{{ ', last' if loop.last else '' }}]
  {% endif %}
{% endfor %}
{% if add_generation_prompt is defined and add_generation_prompt %}
<|im_start|>assistant
{% endif %}""",
    "macro": """{%- macro turn(role, text='') -%}
{{ role.upper() }}: {{ text.rstrip() }}
{%- endmacro -%}
{%- for message in messages | selectattr('role', 'ne', 'system') -%}
{%- if message.role not in ['user', 'assistant'] %}{% continue %}{% endif -%}
{{ turn(message.role, message.content) }}
{{ '' if loop.last else '---' }}
{% endfor %}
{{- unknown_variable }}{{ messages[-1].missing | default('none') }} {{ messages[0].items() | list | length }}""",
    # What Gemma's does: no turn of the system's own, another name for the assistant, contents of several parts.
    "parts": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set before = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set before = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set before, turns = "", messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("turns must alternate") }}
    {%- endif -%}
    {%- set who = "model" if turn['role'] == 'assistant' else turn['role'] -%}
    {{ '<turn>' + who + '\n' + (before if loop.first else "") }}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- elif turn['content'] is iterable -%}
        {%- for part in turn['content'] -%}
            {{ '<image>' if part['type'] == 'image' else part['text'] | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("neither text nor parts") }}
    {%- endif -%}
    {{ '<end>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<turn>model\n'}}
{%- endif -%}
""",
}


def main():
    cases = []
    for name, text in TEMPLATES.items():
        template = _compile_jinja_template(text)
        for messages in (USER, TURNS, WRONG):
            for generate in (True, False):
                frozen = lambda form: datetime.datetime(2024, 7, 26).strftime(form)
                try:
                    rendered, error = template.render(
                        messages=messages, tools=None, documents=None, add_generation_prompt=generate,
                        strftime_now=frozen, **TOKENS,
                    ), None
                except jinja2.exceptions.TemplateError as raised:
                    rendered, error = None, str(raised)
                cases.append(dict(template=name, messages=messages, add_generation_prompt=generate,
                                  rendered=rendered, error=error))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    data = dict(jinja2=jinja2.__version__, special_tokens=TOKENS, templates=TEMPLATES, cases=cases)
    OUT.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
