"""The chat template (docs/chat-template.md) as Jinja, for the programs that read exported models.

It renders what `text.chat.fit_prompt` encodes, without normalizing the text: content may be text or a list of text parts,
"developer" means "system", messages without text are left out, and system text takes the user's place if there is no user.
The marks are found in the rendered text, so a mark that a user types counts as one. The final </s> is left out: those programs
compare a conversation with its continuation.
"""

from collections.abc import Mapping
from typing import Any

from bulletlm.text.chat import CHAT_TEMPLATE

HF_TEMPLATE = r"""{%- macro text_of(message) -%}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- elif message['content'] -%}
{%- for part in message['content'] -%}
{%- if part is string -%}
{{- part -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- raise_exception('This model reads text only, but a message has a part of another type.') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(system='', role='', user=false) -%}
{%- for message in messages -%}
{%- set text = text_of(message) | trim -%}
{%- if message['role'] == 'system' or message['role'] == 'developer' -%}
{%- if text -%}{%- set ns.system = ns.system + text + '\n' -%}{%- endif -%}
{%- elif message['role'] == 'user' -%}
{%- if text -%}{%- set ns.user = true -%}{%- endif -%}
{%- elif message['role'] != 'assistant' -%}
{{- raise_exception('The roles of messages are system, developer, user and assistant.') -}}
{%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- if ns.system and not ns.user -%}
{{- '<|user|>' + (ns.system | trim) -}}
{%- set ns.system = '' -%}
{%- set ns.role = 'user' -%}
{%- endif -%}
{%- for message in messages -%}
{%- set text = text_of(message) | trim -%}
{%- if text and message['role'] == 'user' -%}
{%- if ns.role == 'user' -%}
{{- '\n' -}}
{%- else -%}
{%- if ns.role -%}{%- generation -%}{{- '<|end|>' -}}{%- endgeneration -%}{%- endif -%}
{{- '<|user|>' -}}
{%- if ns.system -%}
{{- ns.system + '\n' -}}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endif -%}
{{- text -}}
{%- set ns.role = 'user' -%}
{%- elif text and message['role'] == 'assistant' -%}
{%- if ns.role == 'assistant' -%}
{%- generation -%}{{- '\n' -}}{%- endgeneration -%}
{%- else -%}
{%- if ns.role -%}{{- '<|end|>' -}}{%- endif -%}
{{- '<|assistant|>' -}}
{%- endif -%}
{%- generation -%}{{- text -}}{%- endgeneration -%}
{%- set ns.role = 'assistant' -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.role == 'assistant' -%}
{%- generation -%}{{- '<|end|>' -}}{%- endgeneration -%}
{%- elif ns.role -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""
"""For transformers: the tokens that a model learns from a conversation, answers and the <|end|> after each, are marked."""

GGUF_TEMPLATE = HF_TEMPLATE.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
"""For llama.cpp, which does not know those marks."""

_OURS = (CHAT_TEMPLATE, HF_TEMPLATE, GGUF_TEMPLATE)


def exported_template(metadata: Mapping[str, Any], standard: str) -> str:
    """The template to export: the model's own one, or `standard` if the model has BulletLM's."""
    template = metadata.get("chat_template", CHAT_TEMPLATE)
    return standard if template in _OURS else str(template)


def is_standard(template: str) -> bool:
    """Whether it is BulletLM's template, in the form for any program."""
    return template in _OURS
