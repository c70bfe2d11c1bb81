"""Chat templates are untrusted code: they render correctly, and none hangs, exhausts the memory or ends the process."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import psutil
import pytest
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

import labkit
from labkit.chat.prompt import ChatTokenizer
from labkit.chat_template import render as room
from labkit.chat_template.render import ChatTemplate
from labkit.errors import GenerationError
from tests.tiny_models import CHATML, write_tiny_model

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo 🦙\n"}]
# Memory limits and alarms are POSIX features; on other systems only the time limit stops a template.
posix_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")


@contextlib.contextmanager
def short_limit() -> Iterator[None]:
    """Limit rendering to half a second instead of two, to keep a test of an endless template short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "TIME_LIMIT_S", 0.5)
        yield


def hugging_face(source: str) -> jinja2.Template:
    """Compile a template as transformers does (``_compile_jinja_template``), independently of labkit."""

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # as Jinja's own extensions

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

        def _support(self, caller: Any) -> Any:
            return caller()

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(source)


RENDERED = {
    "chatml": (
        CHATML,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHéllo 🦙\n<|im_end|>\n<|im_start|>assistant\n",
    ),
    "tokens": ("{{ bos_token }}{{ messages[1].content | trim }}{{ eos_token }}", "<s>Héllo 🦙</s>"),
    "trim_blocks": ("{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}", "system\nuser\n"),
    "loopcontrols": ("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "system"),
    "tojson": ("{{ messages[1] | tojson }}", '{"role": "user", "content": "Héllo 🦙\\n"}'),
    "tojson indent": ("{{ {'a': '<b>'} | tojson(indent=2) }}", '{\n  "a": "<b>"\n}'),
    "namespace": ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "2"),
    "no prompt": ("{% if not add_generation_prompt %}x{% endif %}", ""),
    "macro": ("{% macro f(m) %}[{{ m.content | length }}]{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
    "[9][8]"),
    "slices": ("{{ messages[1:] | length }}{{ messages[0]['content'][:2] }}{{ messages[-1].role.upper() }}", "1BeUSER"),
    "undefined": ("{{ tools }}{% if tools is defined %}x{% endif %}{{ tools | length }}", "0"),
    "surrogate": ("{{ '\\ud800' }}", "?"),
    "year": ("{{ strftime_now('%Y') | length }}", "4"),
}  # fmt: skip


@pytest.mark.parametrize("name", RENDERED)
def test_render_equals_the_template(name: str) -> None:
    """Jinja has the settings and names that chat templates use."""
    source, expected = RENDERED[name]
    assert ChatTemplate(source, bos_token="<s>", eos_token="</s>").render_unchecked(TURNS) == expected


def test_render_equals_jinja_on_the_bundled_model_s_template() -> None:
    """The real template gives the same text from Jinja in this process and from labkit's renderer."""
    import jinja2

    with labkit.load_model(n_ctx=256, vocab_only=True) as model, model.vocabulary() as tokenizer:
        source = ChatTokenizer(tokenizer).template.source
        rendered = ChatTokenizer(tokenizer).template.render(TURNS)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701  # no HTML
    expected = environment.from_string(source).render(messages=TURNS, add_generation_prompt=True, bos_token="<|im_start|>")
    assert rendered == expected


FEATURES = [
    "{% for m in messages %}{% if m.role == 'user' %}\n  {% generation %}\n{{ m.content }}{% endgeneration %}\n{% endif %}\n"
    "{% endfor %}",
    "{%- for m in messages -%}{%- generation -%} {%- set x = m.role -%} {{ x }} {%- endgeneration -%}{{ x }}{%- endfor -%}",
    "{{ {'b': 'é<&>', 'a': [1, {'c': none}]} | tojson(ensure_ascii=True, indent=2, separators=(',', '='), sort_keys=1) }}",
    "{{ 'é' | tojson(true) }}{{ {'b': 1, 'a': 2} | tojson(indent='  ') }}{{ [1, 2] | tojson(separators=(',', ':')) }}",
    "{{ tools }}{{ documents }}{% if tools is none %}none{% endif %}{% if not tools %}no tools{% endif %}",
    "{{ strftime_now('%Y-%m-%d') }}{{ unk_token }}{{ pad_token is defined }}{{ bos_token ~ eos_token }}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}{{ m.content | trim }}{% endfor %}",
    "  {% set ns = namespace(x=[]) %}\n{% for m in messages %}\n\t{% set ns.x = ns.x + [m.role] %}\n{% endfor %}{{ ns.x }}",
    "{% macro f(a, b='d') %}{{ caller() if caller else a ~ b }}{% endmacro %}{{ f(1) }}{% call f(2) %}in{% endcall %}",
    "{{ messages | map(attribute='role') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[0].get('tool_calls') }}{{ messages[0].items() | list }}{{ 'a b'.split() }}{{ '%s' | format(1.0) }}",
]


@pytest.mark.parametrize("source", FEATURES, ids=range(len(FEATURES)))
def test_the_world_is_hugging_faces(source: str) -> None:
    """Tags, filters and names are those that transformers gives to templates."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    values = {"messages": TURNS, "add_generation_prompt": True, "tools": None, "documents": None}
    expected = hugging_face(source).render(**values, **names)
    assert ChatTemplate(source, **names).render_unchecked(TURNS) == expected


BROKEN = {
    "unclosed": ("{% if", "not valid Jinja"),
    "unknown tag": ("{% foo %}", "not valid Jinja"),
    "unknown filter": ("{{ 'a' | nope }}", "not valid Jinja"),
    "nested blocks": ("{% for a in 'ab' %}" * 30 + "x" + "{% endfor %}" * 30, "not valid Jinja"),
    "nested parentheses": ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "not valid Jinja"),
    "nested nots": ("{{ " + "not " * 50_000 + "1 }}", "not valid Jinja"),
    "raises": ("{{ raise_exception('no system role') }}", "no system role"),
    "raises lines": ("{{ raise_exception('a\x1b[31m\nb\tc') }}", r"a\\x1b\[31m b c"),
    "undefined": ("{{ a.b.c }}", "'a' is undefined"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "include": ("{% include 'secret.txt' %}", "no loader"),
    "class": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "globals": ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
    "mutation": ("{{ messages.append(1) }}", "not safely callable|unsafe"),
    "recursion": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
    "long": ("{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "8,000,000 characters"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_templates_are_one_line_errors(name: str) -> None:
    """An error in a template is one line without control characters."""
    source, what = BROKEN[name]
    with pytest.raises(GenerationError, match=what) as caught:
        ChatTemplate(source).render_unchecked(TURNS)
    assert str(caught.value).isprintable()


DOUBLING = (
    "{{% set ns = namespace(s={start}) %}}{{% for i in range(90) %}}{{% set ns.s = {step} %}}{{% endfor %}}{{{{ {end} }}}}"
)
TWIN = (
    "{{% set ns = namespace(s=['a'], t=['a']) %}}{{% for i in range(90) %}}{{% set ns.s = [ns.s, ns.s] %}}"
    "{{% set ns.t = [ns.t, ns.t] %}}{{% endfor %}}{{{{ {end} }}}}"
)
HOSTILE = {
    "endless": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "while compiling": "{{ 'a' | batch(1000000000, 'x') | list | length }}",
    "slices": "{{ 'a' | slice(1000000000) | list | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of a power": "{{ ((10 ** 100000) ** 100000) % 7 }}",
    "adding": DOUBLING.format(start="'aaaaaaaa'", step="ns.s + ns.s", end="ns.s | length"),
    "joining": DOUBLING.format(start="'aaaaaaaa'", step="[ns.s, ns.s] | join", end="ns.s | length"),
    "tilde": DOUBLING.format(start="'aaaaaaaa'", step="ns.s ~ ns.s", end="ns.s | length"),
    "nesting": DOUBLING.format(start="['a']", step="[ns.s, ns.s]", end="ns.s"),
    "nested json": DOUBLING.format(start="['a']", step="[ns.s, ns.s]", end="ns.s | tojson"),
    "nested hash": DOUBLING.format(start="('a',)", step="(ns.s, ns.s)", end="{ns.s: 1} | length"),
    "nested equality": TWIN.format(end="ns.s == ns.t"),
    "nested membership": TWIN.format(end="ns.s in [ns.t]"),
    "sum of lists": "{{ ([range(99999) | list] * 99999) | sum(start=[]) | length }}",
    "join of texts": "{{ (['a' * 1000000] * 1000000) | join | length }}",
    "format": "{{ '{:>{w}}'.format('x', w=3000000000) | length }}",
    "percent": "{{ ('%*d' % (2000000000, 1)) | length }}",
    "justified": DOUBLING.format(start="[]", step="ns.s + ['a'.ljust(10 ** 8 + i)]", end="ns.s"),
    "translated": "{{ ('a' * 7000000).translate({97: 'b' * 99999}) | length }}",
    "expanded tabs": "{{ ('a\\t' * 3000000).expandtabs(1000) | length }}",
    "lipsum": "{{ lipsum(n=100000000) }}",
    "urlize": "{{ ('www.a.b ' * 900000) | urlize | length }}",
}  # fmt: skip


@posix_only
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_one_line_errors(name: str) -> None:
    """A template that wastes time or memory ends within the limit, and this process's memory does not grow."""
    template = ChatTemplate(HOSTILE[name])
    before = psutil.Process().memory_info().rss
    started = time.monotonic()
    with short_limit(), pytest.raises(GenerationError, match="this model's chat template") as caught:
        template.render_unchecked(TURNS)
    assert time.monotonic() - started < 15
    assert str(caught.value).isprintable()
    assert psutil.Process().memory_info().rss - before < 64 * 1024**2
    assert ChatTemplate("ok").render_unchecked(TURNS) == "ok"


def test_time_limit_is_two_seconds() -> None:
    """The default limit is in the error; renderings before and after are not affected."""
    assert room.TIME_LIMIT_S == 2.0
    started = time.monotonic()
    with pytest.raises(GenerationError, match="more than 2 s"):
        ChatTemplate(HOSTILE["endless"]).render_unchecked(TURNS)
    assert time.monotonic() - started < 10


def test_process_start_does_not_count_as_rendering_time() -> None:
    """After the process was stopped, the next template starts a new one; the start does not count as rendering time."""
    for _ in range(3):
        with short_limit(), pytest.raises(GenerationError, match="ran for more"):
            ChatTemplate(HOSTILE["endless"]).render_unchecked(TURNS)
        assert ChatTemplate("fine").render_unchecked(TURNS) == "fine"


def test_threads_share_the_renderer() -> None:
    """Many threads share the process, and each gets the right answer."""
    answers: dict[int, str] = {}

    def render(number: int) -> None:
        for _ in range(20):
            answers[number] = ChatTemplate(f"{number}:{{{{ messages[0].content }}}}").render_unchecked(TURNS)

    threads = [threading.Thread(target=render, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"{number}:Be brief." for number in range(8)}


def test_long_conversations_are_rendered() -> None:
    """A conversation of five megabytes is rendered; the size limit is on the result."""
    text = "é🦙 " * 500_000
    assert ChatTemplate("{{ messages[0].content }}").render_unchecked([{"role": "user", "content": text}]) == text


def test_killed_renderer_is_replaced() -> None:
    """After the renderer was killed, the next rendering works."""
    assert ChatTemplate("a").render_unchecked(TURNS) == "a"
    process = room._renderer()._process
    assert process is not None
    process.kill()
    process.wait()
    assert ChatTemplate("b").render_unchecked(TURNS) == "b"


def test_renderer_ends_with_python() -> None:
    """The renderer ends with Python, without a warning."""
    code = (
        "from labkit.chat_template.render import ChatTemplate, _renderer\n"
        "print(ChatTemplate('x').render_unchecked([]), _renderer()._process.pid)"
    )
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr == ""
    pid = int(re.fullmatch(r"x (\d+)\n", result.stdout)[1])  # type: ignore[index]  # it does
    assert not psutil.pid_exists(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to a single process on Windows")
def test_ctrl_c_interrupts_a_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C interrupts a slow template long before its limit, and the next rendering gets the right answer."""
    monkeypatch.setattr(room, "TIME_LIMIT_S", 120.0)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    assert ChatTemplate("first").render_unchecked(TURNS) == "first"
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ChatTemplate(HOSTILE["endless"]).render_unchecked(TURNS)
    assert time.monotonic() - started < 60
    assert ChatTemplate("second").render_unchecked(TURNS) == "second"


def test_error_if_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no process can be started, one line says what still works."""
    renderer = room._Renderer()
    monkeypatch.setattr(room, "_renderer", lambda: renderer)
    for executable in ("/nowhere/python", None):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(GenerationError, match=r"could not be started.*use generate_text"):
            ChatTemplate("x").render_unchecked(TURNS)


@pytest.mark.parametrize("source", ["{% if", HOSTILE["while compiling"], "{{ 1 / 0 }}", "{# nothing #}"])
def test_model_with_a_bad_template_completes_text(tmp_path: Path, source: str) -> None:
    """Loading does not compile the template: text can be generated, and a chat raises a one-line error, Llama's too."""
    path = write_tiny_model(tmp_path / "bad.gguf", template=source)
    with short_limit(), labkit.load_model(path, n_ctx=256, n_threads=1) as model:
        assert isinstance(labkit.generate_text(model, "a", 3), str)
        for call in (labkit.generate_chat, labkit.stream_chat, labkit.count_chat_tokens):
            with pytest.raises(GenerationError, match="chat template"):
                call(model, TURNS)
        if source != "{# nothing #}":
            with pytest.raises(labkit.LabkitError, match="chat template"):
                model.create_chat_completion(TURNS, max_tokens=3)
        assert isinstance(labkit.generate_text(model, "a", 3), str)
