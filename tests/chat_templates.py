"""Chat templates as they are published, a tokenizer to give them to, and their reference."""

import gzip
import json
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from lit_gpt_kit import Tokenizer
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.conftest import shared_data

LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate, got " ~ message["role"]) }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = "model" if (message['role'] == 'assistant') else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


def plain_tokenizer(chat_template: str | None, **tokens: Any) -> Tokenizer:
    """A byte tokenizer with that template, whose special tokens are the words after `special`."""
    special = ("<|endoftext|>", *tokens.pop("special", ()))
    backend = train_tokenizer(TokenizerConfig("byte", special_tokens=special), []).backend
    return Tokenizer(backend, chat_template=chat_template, **tokens)


def reference(template: str, messages: list[dict[str, str]], add: bool, **tokens: str) -> str:
    (text,), _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=add, **tokens
    )
    return str(text)


def smollm2_template() -> str:
    return shared_data("tokenizers/smollm2/chat_template.jinja").read_text()


def qwen3_template() -> str:
    path = shared_data("tokenizers/qwen3/tokenizer_config.json.gz")
    return str(json.loads(gzip.decompress(path.read_bytes()))["chat_template"])
