"""llama.cpp accepts every grammar that labkit accepts, and every error has a position."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp import llama_grammar

import labkit
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError
from labkit.grammar.check import MAX_DEPTH, check_grammar, tokens_in
from tests.tiny_models import write_tiny_model

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("grammar") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[labkit.Model]:
    with labkit.load_model(tiny, n_ctx=1024, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def accepts(tiny: Path) -> Iterator[Callable[[str], bool]]:
    """Return a function that asks llama.cpp's parser, in a process that it may abort."""
    command = [sys.executable, str(Path(__file__).with_name("grammar_child.py")), str(tiny)]
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        reader = threading.Thread(target=lambda: [answers.put(line) for line in child.stdout or ()] and None, daemon=True)
        reader.start()

        def ask(grammar: str) -> bool:
            assert child.stdin is not None
            child.stdin.write(json.dumps(grammar) + "\n")
            child.stdin.flush()
            try:
                return answers.get(timeout=LIMIT_S).strip() == "yes"
            except queue.Empty:
                child.kill()
                raise AssertionError(f"llama.cpp hung or died ({child.wait()}) on {grammar!r}") from None

        yield ask
        child.kill()
        child.wait()
        reader.join()


FAULTS = [
    ("root", 1, 5, "expected ::= after 'root'"),
    ("::= a", 1, 1, "expected a rule's name"),
    ('root ::= "a', 1, 10, "never closed"),
    ("root ::= [a-z", 1, 10, "never closed"),
    ("root ::= (a | b", 1, 10, "no closing )"),
    ('root ::= ("a"\nb ::= "c"', 1, 10, "no closing )"),
    ('root ::= "a")', 1, 13, "')' was not expected"),
    ("root ::= missing", 1, 10, "'missing' is used but not defined"),
    ('root ::= *"a"', 1, 10, "nothing before it to repeat"),
    ('root ::= ""*', 1, 12, "nothing before it to repeat"),
    ("root ::= []+", 1, 12, "nothing before it to repeat"),
    ('root ::= "a"{0,0}*', 1, 18, "nothing before it to repeat"),
    ('root ::= "a"{3,2}', 1, 13, "a maximum below its minimum"),
    ('root ::= "a"{x}', 1, 13, "expected a repetition"),
    ('root ::= "a"{2\n}', 1, 13, "expected a repetition"),
    ('root ::= "a"{,3}', 1, 13, "expected a repetition"),
    ('root ::= "a"{2001}', 1, 13, "more than 2,000"),
    ('root ::= "a"{50}{50}', 1, 17, "more than 2,000"),
    ('root ::= (("a"|"b")("c"|"d")){900}', 1, 30, "more than 2,000"),
    (f'root ::= "{"x" * 1000}"{{2000}}', 1, 1018, "1,000,000 elements"),
    ('root ::= ("a"?){100}', 1, 16, "may be empty"),
    ('root ::= ws{9}\nws ::= " "*', 1, 12, "may be empty"),
    ('root ::= "\\q"', 1, 11, "unknown escape"),
    ('root ::= "\\x4"', 1, 11, "2 hexadecimal digits"),
    ('root ::= "\\U00110000"', 1, 11, "U+10FFFF"),
    ("root ::= <>", 1, 10, "expected a token"),
    ("root ::= <[12]", 1, 10, "expected a token"),
    ("root ::= <[4294967296]>", 1, 10, "expected a token"),
    ("root ::= " + "(" * (MAX_DEPTH + 2), 1, MAX_DEPTH + 10, "nested deeper"),
    ('root ::= root "a" | "a"', 1, 1, "begins with itself"),
    ('root ::= a\na ::= b\nb ::= a "x" | "y"', 2, 1, "begins with itself"),
    ('root ::= "a"\nc ::= ("x" |)*', 2, 1, "begins with itself"),
    ('root ::= e root "x" | "y"\ne ::= f\nf ::= | "z"', 1, 1, "begins with itself"),
    ('root ::= ("a"? root) "b" | "c"', 1, 1, "begins with itself"),
]


@pytest.mark.parametrize(("grammar", "line", "column", "what"), FAULTS, ids=range(len(FAULTS)))
def test_check_grammar_errors_have_a_position(grammar: str, line: int, column: int, what: str) -> None:
    """Every error is one line with the line, the column and what was expected."""
    with pytest.raises(ArgumentError) as caught:
        check_grammar(grammar)
    message = str(caught.value)
    assert f"line {line}, column {column}:" in message, message
    assert what in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("grammar", "what"),
    [
        ("", "no rule named root"),
        ("# nothing\n\n", "no rule named root"),
        ('toor ::= "a"', "no rule named root"),
        ('root ::= "a"\0', "NUL"),
        ('root ::= "\ud800"', "surrogate"),
        ('root ::= "\\ud83d\\ude00"', r"\\ud83d is half of a character"),
        ("root ::= a_b", r"'_' \(a rule's name has only A-Z"),
        ('root ::= "a"\n | "b"', r"not '\|' \(alternatives go on in a new line if"),
        ("#" * 300_000, "at most 262,144"),
        ("root ::= " + " | ".join(['"a"'] * 20_001), "20,000 ways"),
        ("root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)) + '\nr60 ::= "a"',
        "20,000 ways"),
        ('root ::= r0\n' + "\n".join(f'r{i} ::= r{i+1} "x" | r{i+1} "y"' for i in range(60)) + '\nr60 ::= "a"',
        "20,000 ways"),
    ],
)  # fmt: skip
def test_check_grammar_refuses_what_llama_cpp_cannot_handle(grammar: str, what: str) -> None:
    """Errors of the whole grammar: no root, no end, too many ways to begin."""
    with pytest.raises(ArgumentError, match=what):
        check_grammar(grammar)


@pytest.mark.parametrize(
    ("start", "what"),
    [("ï»¿", "wrong encoding"), (" \ufeff", "BYTE ORDER MARK"), ("\u200b", "ZERO WIDTH SPACE"), ("“", "QUOTATION")],
)
def test_unseen_characters_are_named(start: str, what: str) -> None:
    """A byte order mark at the start is skipped; elsewhere, and for other unseen characters, the error has the name."""
    assert check_grammar('\ufeffroot ::= "a"') == 'root ::= "a"'
    with pytest.raises(ArgumentError, match=what):
        check_grammar(f'{start}root ::= "a"')


def test_check_grammar_requires_text() -> None:
    """Bytes and other objects are a wrong type."""
    for value in (b'root ::= "a"', None, 7, {}):
        with pytest.raises(ArgumentTypeError, match="must be GBNF text"):
            check_grammar(value)  # type: ignore[arg-type]  # on purpose


SOUND = [
    'root ::= "yes" | "no"',
    "root ::=",
    'root ::= "a" # a comment\n# another\n\nb ::= "c"',
    'root ::= (\n  "a" | # one\n  "b"\n)',
    'root ::=\n\n  "a" |\n  "b"',
    r'root ::= [^"\\\x7F\x00-\x1F] "\u00e9" [\U0001F600-\U0001F64F] "\t\r\n\[\]\-\\\""',
    "root ::= [a-] [-a] [a-z-] [--a] []",
    "root ::= . .? .{2} .{1,} .{0,3}",
    'root ::= ("a"? "b"?)* "c"',
    'root ::= ("a"*)+ | "b"{0,2000}',
    "root ::= item root?\nitem ::= [a-z]",
    'root ::= "a" root | "b"',
    'root ::= "a"\r\nb ::= "c"\r\n',
    "root ::= <[5]> !<[6]> <|im_end|> !<|im_start|>",
    'a-b-3 ::= "x"\nroot ::= a-b-3',
    "root ::= " + "(" * MAX_DEPTH + '"a"' + ")" * MAX_DEPTH,
    "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000)) + '\nr3000 ::= "a"\nroot ::= r0',
]


@pytest.mark.parametrize("grammar", SOUND, ids=range(len(SOUND)))
def test_valid_grammars_are_unchanged(grammar: str, accepts: Callable[[str], bool]) -> None:
    """A valid grammar is accepted unchanged, by labkit and by llama.cpp."""
    assert check_grammar(grammar) == grammar
    assert accepts(grammar)


@pytest.mark.parametrize("name", [name for name in dir(llama_grammar) if name.endswith("_GBNF")])
def test_llama_cpp_example_grammars_pass(name: str, accepts: Callable[[str], bool]) -> None:
    """llama.cpp's example grammars are accepted."""
    grammar = getattr(llama_grammar, name)
    assert check_grammar(grammar) == grammar
    assert accepts(grammar)


PIECES = [
    "root ::= ", "a ::= ", "b ::= ", "root", "a", "b", '"x"', '""', '"y"', "[a-c]", "[^x]", "[]", ".", "(", ")", "|",
    "*", "+", "?",
    "{2}", "{0,2}", "{1,}", "{0,0}", "{3,1}", "\n", " ", "#c\n", "<[5]>", "<|im_end|>", "<nosuch>", "\\", "-", "é",
]  # fmt: skip


def _passes(grammar: str) -> bool:
    try:
        check_grammar(grammar)
    except ArgumentError:
        return False
    return "<nosuch>" not in tokens_in(grammar)


HERE = settings(max_examples=3 * settings.default.max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])


@HERE
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14))
def test_llama_cpp_accepts_every_grammar_that_labkit_accepts(accepts: Callable[[str], bool], pieces: list[str]) -> None:
    """Of random, mostly broken grammars, llama.cpp accepts those that labkit accepts, without a crash."""
    grammar = "root ::= " + "".join(pieces)
    if _passes(grammar):
        assert accepts(grammar), grammar


ITEM = st.recursive(
    st.sampled_from(['"x"', '"yy"', "[a-c]", ".", "root", "a", "b", "c"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "{1,}", "{5}"])).map("".join),
        st.lists(st.lists(inner, max_size=3).map(" ".join), min_size=1, max_size=3).map(lambda a: "(" + " | ".join(a) + ")"),
    ),
    max_leaves=6,
)
RULE = st.lists(st.lists(ITEM, max_size=3).map(" ".join), min_size=1, max_size=3).map(" | ".join)


@HERE
@given(rules=st.tuples(RULE, RULE, RULE, RULE))
def test_llama_cpp_survives_every_rule_set_that_labkit_accepts(
    accepts: Callable[[str], bool], rules: tuple[str, ...]
) -> None:
    """Random rules that refer to each other cause no null pointer, no endless recursion and no crash."""
    grammar = "\n".join(f"{name} ::= {rule}" for name, rule in zip(("root", "a", "b", "c"), rules, strict=True))
    if _passes(grammar):
        assert accepts(grammar), grammar


OBEYED = [
    ('root ::= "yes" | "no"', r"yes|no"),
    ("root ::= [a-c]{3,5}", r"[a-c]{3,5}"),
    ('root ::= ("ab" | "cd")+ "." [0-9]?', r"(ab|cd)+\.[0-9]?"),
    ('root ::= "é" [à-ü]{2} "🦙"', r"é[à-ü]{2}🦙"),
    ('root ::= "\\"" [\\x20-\\x21\\x23-\\x7E]{0,6} "\\""', r'"[ !#-~]{0,6}"'),
    ('root ::= item ("," item){0,3}\nitem ::= [0-9] | "(" item ")"', r"[0-9()]+(,[0-9()]+){0,3}"),
    ("root ::= <[97]> <[98]>", "ab"),
]


@pytest.mark.parametrize(("grammar", "pattern"), OBEYED)
def test_generated_text_follows_the_grammar(model: labkit.Model, grammar: str, pattern: str) -> None:
    """For many seeds at a high temperature, a finished text matches, and an unfinished one is the beginning of a match."""
    ended = 0
    for seed in range(20):
        text = labkit.generate_text(model, "start", 40, temperature=1.5, seed=seed, grammar=grammar)
        assert model.last_generation is not None
        if model.last_generation.finish_reason == "end":
            ended += 1
            assert re.fullmatch(pattern, text), (seed, text)
    assert ended > 0


def test_control_tokens_do_not_match_text(tmp_path: Path) -> None:
    """Text in a grammar is generated as characters, even if a control token has the same name."""
    path = write_tiny_model(tmp_path / "flat.gguf", scale=0.05)
    with labkit.load_model(path, n_ctx=256, n_threads=1) as model:
        for seed in range(20):
            settings = {"temperature": 1.0, "seed": seed, "top_k": 0, "min_p": 0, "top_p": 1}
            text = labkit.generate_text(model, "a", 60, grammar='root ::= ("<|im_start|>" | "<unk>"){4}', **settings)
            assert re.fullmatch(r"(<\|im_start\|>|<unk>){4}", text)
            assert labkit.generate_text(model, "a", 40, grammar="root ::= <|im_start|>", **settings) == ""


@pytest.mark.parametrize("grammar", ['root ::= "a"', "root ::= [a-c]", 'root ::= "" | "a"'])
def test_llama_methods_follow_a_grammar(model: labkit.Model, grammar: str) -> None:
    """create_completion with a LlamaGrammar follows the grammar."""
    given = llama_cpp.LlamaGrammar.from_string(grammar, verbose=False)
    text = model.create_completion("start", max_tokens=5, temperature=0, grammar=given)["choices"][0]["text"]
    assert text in ("", "a", "b", "c")


@pytest.mark.parametrize("grammar", ["root ::= [z-a]", 'root ::= "\\x00"', "root ::= <[9999]>"])
def test_grammar_that_allows_no_token_is_an_error(model: labkit.Model, grammar: str) -> None:
    """Where llama.cpp would abort the process, labkit's calls and Llama's raise a one-line error."""
    with pytest.raises(GenerationError, match="allows no token"):
        labkit.generate_text(model, "start", 5, grammar=grammar)
    with pytest.raises(GenerationError, match="allows no token"):
        model.create_completion("start", grammar=llama_cpp.LlamaGrammar.from_string(grammar, verbose=False))
    assert labkit.generate_text(model, "start", 3, temperature=0) is not None


def test_named_token_missing_in_the_model_is_an_error(model: labkit.Model, capfd: pytest.CaptureFixture[str]) -> None:
    """<|name|> must be a token of this model; llama.cpp's own message is not printed."""
    with pytest.raises(ArgumentError, match=r"<\|none\|>.*does not have"):
        labkit.generate_text(model, "start", 5, grammar="root ::= <|none|>")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("grammar", ["root ::= (", 'root ::= root "a"', "", 'root ::= ""*'])
def test_llama_methods_refuse_a_broken_grammar(model: labkit.Model, grammar: str) -> None:
    """Where llama-cpp-python would pass a null pointer on, the error is one line."""
    broken = llama_cpp.LlamaGrammar.from_string(grammar, verbose=False)
    with pytest.raises(ArgumentError):
        model.create_completion("start", max_tokens=3, grammar=broken)
    with pytest.raises(ArgumentError):
        list(model.create_completion("start", max_tokens=3, grammar=broken, stream=True))
    with pytest.raises(ArgumentTypeError, match="LlamaGrammar"):
        model.create_completion("start", grammar=grammar or "x")
