"""Chat templates with random damage: rendered with every message, or refused in one line, never hanging."""

from __future__ import annotations

import random
import re

import pytest

from labkit.chat_template.render import ChatTemplate
from labkit.errors import GenerationError
from tests.tiny_models import CHATML

INSTRUCTIONS = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {% if loop.first and system %}{{ system ~ '\\n\\n' }}{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% else %}{{ raise_exception('no such role') }}"
    "{% endif %}{% endfor %}"
)
HEADERS = (
    "{%- for message in messages %}"
    "{%- set content = '<|header|>' + message['role'] + '<|end|>\\n' + message['content'] | trim %}"
    "{%- if loop.index0 == 0 %}{%- set content = bos_token + content %}{%- endif %}{{- content + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header|>assistant<|end|>\\n' }}{%- endif %}"
)
TALK = [
    {"role": "system", "content": "Answer Xalpha in Welsh."},
    {"role": "user", "content": "Name Xbeta a river <b> of Asia"},
    {"role": "assistant", "content": "The Xgamma Nile flows"},
    {"role": "user", "content": "Another Xdelta one, quickly"},
]
OTHER_CONTENTS = ("content[0].text", "text", "content | length", "content[:9]", "content.split()[0]")


def damaged(source: str, luck: random.Random) -> str:
    """Return a template with one to three pieces removed, doubled, swapped or changed."""
    pieces = re.findall(r"\{%.*?%\}|\{\{.*?\}\}|[^{]+|\{", source, re.DOTALL)
    for _ in range(luck.randint(1, 3)):
        at = luck.randrange(len(pieces))
        piece, other = pieces[at], luck.randrange(len(pieces))
        pieces[at : at + 1] = luck.choice([
            [],
            [luck.choice(pieces), piece],
            [pieces[other]],
            [piece.replace("content", luck.choice(OTHER_CONTENTS), 1)],
            [piece.replace("==", "!=") if "==" in piece else piece.replace("not ", "", 1)],
            [piece.replace("user", "tool", 1) if "user" in piece else piece.replace("messages", "others", 1)],
        ]) or [" "]  # fmt: skip
    return "".join(pieces)


@pytest.mark.parametrize(
    "count",
    [pytest.param(40, id="few"), pytest.param(1500, id="many", marks=[pytest.mark.thorough, pytest.mark.timeout(900)])],
)
@pytest.mark.parametrize("source", [CHATML, INSTRUCTIONS, HEADERS], ids=["chatml", "instructions", "headers"])
def test_no_message_is_lost_in_silence(source: str, count: int) -> None:
    """Each rendered text has every message; every other template is one line."""
    luck = random.Random(count)
    rendered = 0
    for _ in range(count):
        template = damaged(source, luck)
        try:
            text = ChatTemplate(template, bos_token="<s>", eos_token="</s>").render(TALK)
        except GenerationError as error:
            text, refused = "", str(error)
        else:
            rendered, refused = rendered + 1, ""
        lost = [m["content"] for m in TALK if m["content"] not in text.replace('\\"', '"')]
        assert refused.isprintable(), template
        assert refused or not lost, template
    assert 0 < rendered < count
