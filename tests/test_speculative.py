"""speculative="prompt-lookup": the text of generate_text without it, token for token, in fewer decodes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit import generate_batch, generate_chat, generate_text, stream_chat, stream_text
from labkit.engine.drafts import SIZES, Costs, Pace, PromptLookup
from labkit.engine.speculative import Trust
from labkit.system import engine_build, resident_bytes
from tests.gguf_kinds import KINDS
from tests.tiny_models import write_tiny_model

needs_drafts = pytest.mark.skipif("AVX512" not in engine_build().features, reason="drafts were measured on AVX-512 alone")

ON: dict[str, Any] = {"speculative": "prompt-lookup"}
ALIKE: dict[str, Any] = {"flash_attn": True, "type_k": "q8_0", "type_v": "q8_0"}  # several tokens as one, on a CPU
SENTENCES = (
    "The keeper climbed the stairs at six and lit the lamp.", "A bakery at the corner sells rye bread on Mondays.",
    "def area(width, height):\n    return width * height", "Sixteen ships left the harbour before the storm came.",
    '{"name": "Ada", "born": 1815, "city": "London"}', "The committee met on Tuesday and decided nothing.",
    "for index in range(10):\n    print(index, squares[index])", "Nobody knows who painted the small portrait.",
    "SELECT name, price FROM goods WHERE price > 10;", "Roses are red, violets are blue, sugar is sweet.",
)  # fmt: skip
COPIES = [f"Say it again: {text}\n{text}\n{text[:9]}" for text in SENTENCES]
EDITS = [f"Old: {text}\nNew: {text.replace(' the ', ' a ').replace('10', '20')}\nOld:" for text in SENTENCES]
LISTS = [f"{n}, {n + 1}, {n + 2}, {n}, {n + 1}, {n + 2}, {n}," for n in range(1, 11)]
OPENINGS = [text[: len(text) // 2] for text in SENTENCES]
QUESTIONS = [f"Question: what does this mean? {text}\nAnswer: it means that" for text in SENTENCES]
PROMPTS = [*COPIES, *EDITS, *LISTS, *OPENINGS, *QUESTIONS]


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    """Load the bundled model with settings that let it verify several tokens at once."""
    with labkit.load_model(n_ctx=1024, n_threads=1, **ALIKE) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labkit.Model]:
    """Load a tiny model that never ends a text by itself."""
    folder = tmp_path_factory.mktemp("speculative")
    path = folder / "q8_0.gguf"  # F16 weights are multiplied otherwise for several tokens
    labkit.quantize_model(write_tiny_model(folder / "tiny.gguf", endless=True, width=128), path, "Q8_0", progress=False)
    with labkit.load_model(path, n_ctx=1024, n_threads=1, **ALIKE) as loaded:
        yield loaded


def report_of(model: labkit.Model) -> labkit.GenerationReport:
    """Return the report of the last text."""
    assert model.last_generation is not None
    return model.last_generation


def assert_same(
    model: labkit.Model, prompt: str, max_tokens: int | None = 60, temperature: float = 0, **options: Any
) -> Any:
    """Generate with and without; text, tokens and end must be the same. Returns the report of the text with drafts."""
    text = generate_text(model, prompt, max_tokens, temperature, **options)
    plain = report_of(model)
    assert generate_text(model, prompt, max_tokens, temperature, **options, **ON) == text
    found = report_of(model)
    assert found.token_ids == plain.token_ids
    assert (found.finish_reason, found.n_generated, found.n_prompt) == (
        plain.finish_reason,
        plain.n_generated,
        plain.n_prompt,
    )
    assert (plain.n_drafted, plain.n_accepted, plain.acceptance_rate, plain.speculation_off) == (None, None, None, None)
    return found


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft whatever can be drafted, of every size in turn, whether it pays or not."""
    turn = iter(range(10**9))
    monkeypatch.setattr(Pace, "size", lambda _, sizes, *__: sizes[next(turn) % len(sizes)] if sizes else 0)


# -- the same text -----------------------------------------------------------------------------------------------------


@needs_drafts
def test_greedy_text_never_changes(model: labkit.Model) -> None:
    """Fifty prompts, copies and others, get the tokens that they get without; drafts of copies are accepted."""
    reports = [assert_same(model, prompt, 12) for prompt in PROMPTS]
    assert len(PROMPTS) == 50
    assert sum(report.n_accepted for report in reports[:10]) > 10
    assert all(report.n_accepted <= report.n_drafted for report in reports)


@needs_drafts
@pytest.mark.usefixtures("eager")
def test_wrong_drafts_change_nothing(model: labkit.Model) -> None:
    """The text stays the same where most drafts are wrong."""
    reports = [assert_same(model, prompt, 24) for prompt in (*EDITS[:3], *QUESTIONS[:3])]
    assert sum(report.n_drafted for report in reports) > sum(report.n_accepted for report in reports) > 0


@pytest.mark.parametrize(("options", "threads"), [({}, 1), ({"flash_attn": True}, 2)])
@pytest.mark.usefixtures("eager")
def test_text_is_the_same_where_roundings_differ(options: dict[str, Any], threads: int) -> None:
    """With an F16 cache, where one token may be rounded otherwise than several, nothing is drafted; no text changes."""
    long = (" ".join(SENTENCES) * 2)[:820]
    with labkit.load_model(n_ctx=512, n_threads=threads, **options) as loaded:
        for prompt in (COPIES[0], long):  # from 256 tokens on flash attention goes another way
            found = assert_same(loaded, prompt, 16)
            assert found.n_drafted == 0
            assert "round otherwise" in found.speculation_off


@needs_drafts
@pytest.mark.parametrize("temperature", [0.3, 1.2])
@pytest.mark.usefixtures("eager")
def test_draws_are_the_same_with_a_seed(model: labkit.Model, temperature: float) -> None:
    """With a seed, the same tokens are drawn at any temperature."""
    reports = [assert_same(model, prompt, 24, temperature, seed=5) for prompt in COPIES[:3]]
    assert sum(report.n_drafted for report in reports) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1.3},
        {"grammar": 'root ::= (" " [a-z]+)+ "."'},
        {"json_schema": {"type": "array", "items": {"type": "integer"}}},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.usefixtures("eager")
def test_penalties_and_grammars_see_kept_tokens_only(model: labkit.Model, options: dict[str, Any]) -> None:
    """What depends on the tokens so far depends on those of the text alone, greedy or drawn."""
    for prompt in (COPIES[0], LISTS[1]):
        assert_same(model, prompt, 32, **options)
        assert_same(model, prompt, 32, 0.8, seed=3, **options)


@needs_drafts
@pytest.mark.usefixtures("eager")
def test_long_texts_stay_the_same_up_to_a_full_context(tiny: labkit.Model) -> None:
    """A text that fills the context, over the borders of its blocks, is the same; nothing goes beyond."""
    found = assert_same(tiny, "the end of the end of", None)
    assert found.n_prompt + found.n_generated == 1024
    assert found.n_drafted > 100
    found = assert_same(tiny, "the end of the end of", None, grammar='root ::= "the end of nothing; " root')
    assert found.n_prompt + found.n_generated == 1024
    assert found.n_accepted > 500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("eager")
def test_all_kinds_of_layers_give_their_own_text(tmp_path: Path, kind: str) -> None:
    """Windows, experts, latent attention and states: the same text, or none with drafts and a reason."""
    path = KINDS[kind]().write(tmp_path / "model.gguf")
    choices: tuple[dict[str, Any], ...] = ({}, {"swa_full": True, "flash_attn": True})
    for options in choices:
        with labkit.load_model(path, n_ctx=512, n_threads=1, **options) as loaded:
            for prompt in ("a b c " * 6, "x y x y x"):
                found = assert_same(loaded, prompt, 100)
                assert found.n_drafted > 0 or found.speculation_off


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 3, 4, 9, 17, 18])
@pytest.mark.usefixtures("eager")
def test_max_tokens_is_exact(tiny: labkit.Model, max_tokens: int) -> None:
    """No draft gives a token more than was asked for."""
    text = generate_text(tiny, "the end of the end of", max_tokens, 0)
    assert generate_text(tiny, "the end of the end of", max_tokens, 0, **ON) == text
    if max_tokens:
        assert report_of(tiny).n_generated == max_tokens


@pytest.mark.usefixtures("eager")
def test_stop_sequences_inside_a_draft_end_the_text(model: labkit.Model) -> None:
    """What follows the stop is neither emitted nor counted, wherever the stop lies."""
    for stop in ("stairs", "lit", "p.", " six and", ["zzz", "lamp"]):
        found = assert_same(model, COPIES[0], 60, stop=stop)
        assert found.finish_reason == "stop"


@pytest.mark.usefixtures("eager")
def test_end_tokens_inside_a_draft_end_the_text(model: labkit.Model) -> None:
    """A chat's answer ends where the model ends it, and the stream of it is the same text."""
    messages = [{"role": "user", "content": f"Repeat this sentence: {SENTENCES[0]}"}]
    text = generate_chat(model, messages, 60, 0)
    plain = report_of(model)
    assert generate_chat(model, messages, 60, 0, **ON) == text
    assert report_of(model).token_ids == plain.token_ids
    assert report_of(model).finish_reason == plain.finish_reason
    assert "".join(chunk.text for chunk in stream_chat(model, messages, 60, 0, **ON)) == text


@needs_drafts
def test_a_stream_can_be_closed_and_the_model_used(tiny: labkit.Model) -> None:
    """Leaving a stream early, or cancelling, ends the generation; the next text is right."""
    with stream_text(tiny, "the end of the end of", None, 0, **ON) as stream:
        next(stream)
    assert_same(tiny, "the end of the end of", 40)


def test_cancel_returns_what_there_is(model: labkit.Model) -> None:
    """A cancelled text is the beginning of the whole one, and the report says so."""
    whole = generate_text(model, COPIES[1], 400, 0)
    threading.Timer(0.3, model.cancel).start()
    part = generate_text(model, COPIES[1], 400, 0, **ON)
    assert whole.startswith(part)
    assert report_of(model).finish_reason in ("cancelled", "length", "end")
    assert_same(model, COPIES[1], 12)


@needs_drafts
def test_close_ends_a_text_and_frees_its_context(tmp_path: Path) -> None:
    """Closing from another thread ends the text with an error."""
    path = tmp_path / "q8_0.gguf"
    labkit.quantize_model(write_tiny_model(tmp_path / "tiny.gguf", endless=True, width=128), path, "Q8_0", progress=False)
    loaded = labkit.load_model(path, n_ctx=4096, n_threads=1, **ALIKE)
    stream = stream_text(loaded, "the end of the end of", None, 0, **ON)
    next(stream)
    loaded.close()
    with pytest.raises(labkit.ModelClosedError):
        list(stream)
    assert loaded._speculative is None


# -- where it cannot be used, or does not pay --------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_a_difference_ends_drafting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows differ the text is that of single tokens, the context goes, and the report says why."""
    path = write_tiny_model(tmp_path / "tiny.gguf", endless=True)
    monkeypatch.setattr("labkit.engine.speculative._rounds_otherwise", lambda _: None)
    monkeypatch.setattr("labkit.engine.speculative.np.array_equal", lambda *_: False)
    with labkit.load_model(path, n_ctx=512, n_threads=1) as loaded:
        for _ in range(2):
            found = assert_same(loaded, "the end of the end of", 40)
            assert "rounds otherwise" in found.speculation_off
        assert loaded._speculative is not None
        assert loaded._speculative._ctx is None
        assert (found.n_drafted, found.acceptance_rate) == (0, 0.0)


@pytest.mark.parametrize("architecture", ["mamba2", "jamba", "lfm2"])
def test_states_fall_back(tmp_path: Path, architecture: str) -> None:
    """A model whose state cannot go back makes its text as ever, and the report says why."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture=architecture, shape="tiny")
    with labkit.load_model(path, n_ctx=256, n_threads=1) as loaded:
        assert "cannot go back" in assert_same(loaded, "a b a b a b", 20).speculation_off


@pytest.mark.parametrize(
    ("value", "error"), [("eagle", labkit.ArgumentError), (True, labkit.ArgumentTypeError), (3, labkit.ArgumentTypeError)]
)
def test_wrong_values_are_refused(tiny: labkit.Model, value: Any, error: type[Exception]) -> None:
    """Anything but the one name, or None, is refused in one line."""
    with pytest.raises(error, match="must be 'prompt-lookup'"):
        generate_text(tiny, "a", 3, speculative=value)
    assert isinstance(generate_text(tiny, "a", 3, 0, speculative=None), str)


def test_a_batch_refuses_it(tiny: labkit.Model) -> None:
    """Batches have no drafts, and say so."""
    with pytest.raises(labkit.ArgumentTypeError, match="unknown argument 'speculative'"):
        generate_batch(tiny, ["a"], 3, **ON)


def test_both_contexts_reuse_their_prompts(tmp_path: Path) -> None:
    """A text with drafts leaves what the model's own context holds alone, and reuses its own."""
    path = tmp_path / "q8_0.gguf"
    labkit.quantize_model(write_tiny_model(tmp_path / "tiny.gguf", endless=True, width=128), path, "Q8_0", progress=False)
    prompt = "the end of a story that was told in town " * 8
    with labkit.load_model(path, n_ctx=1024, n_threads=1, n_batch=64, n_ubatch=32, **ALIKE) as loaded:
        reused = []
        for options in ({}, ON, {}, ON):
            generate_text(loaded, prompt, 20, 0, **options)
            reused.append(report_of(loaded).n_reused)
    assert reused[:2] == [0, 0]
    assert reused[2] == reused[3] >= 32


def test_memory_is_taken_at_the_first_draft_and_given_back(tmp_path: Path) -> None:
    """Loading and plain texts make no second context."""
    with labkit.load_model(n_ctx=512, n_threads=1) as loaded:
        generate_text(loaded, "a", 2, 0)
        assert loaded._speculative is None
        before = resident_bytes()
        for _ in range(3):
            generate_text(loaded, COPIES[0], 40, 0, **ON)
        assert resident_bytes() - before < 64 * 1024**2


@needs_drafts
def test_what_is_not_known_to_be_alike_is_not_drafted(tmp_path: Path) -> None:
    """F16 weights, an F16 cache of values and no flash attention each keep drafts away, and are named."""
    f16 = write_tiny_model(tmp_path / "f16.gguf", endless=True, width=128)
    path = tmp_path / "q8_0.gguf"
    labkit.quantize_model(f16, path, "Q8_0", progress=False)
    cases: tuple[tuple[Path, dict[str, Any], str], ...] = (
        (f16, ALIKE, "weights in"), (path, {"flash_attn": True}, "attention"), (path, {}, "attention"),
    )  # fmt: skip
    for file, options, reason in cases:
        with labkit.load_model(file, n_ctx=256, n_threads=1, **options) as loaded:
            assert reason in assert_same(loaded, "the end of the end of", 40).speculation_off


# -- the parts ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 20))
def test_lookup_finds_what_a_search_finds(tokens: list[int], most: int) -> None:
    """The draft is what follows the last earlier place of the last three tokens, or else of the last two."""
    expected: list[int] = []
    for length in (3, 2):
        places = [
            i for i in range(length, len(tokens)) if len(tokens) > length and tokens[i - length : i] == tokens[-length:]
        ]
        if places:
            whole = list(tokens)
            for index in range(most):
                whole.append(whole[places[-1] + index])
            expected = whole[len(tokens) :]
            break
    assert PromptLookup(tokens).draft(most) == expected


@given(st.lists(st.integers(0, 2), max_size=100))
def test_lookup_counts_the_match(tokens: list[int]) -> None:
    """The match is the length of what both places end with in common, at least the tokens that were looked for."""
    lookup = PromptLookup(tokens)
    start = lookup._start()
    if start is None:
        assert lookup.match() == 0
        return
    match = lookup.match()
    assert tokens[start - match : start] == tokens[len(tokens) - match :]
    assert match >= 2
    assert match in (64, start) or tokens[start - match - 1] != tokens[len(tokens) - match - 1]


def test_lookup_takes_constant_time() -> None:
    """A text ten times as long takes about ten times as long to look through, not a hundred times."""
    random_ = random.Random(0)
    tokens = [random_.randrange(50) for _ in range(40_000)]

    def seconds(count: int) -> float:
        begun = time.perf_counter()
        lookup = PromptLookup()
        for token in tokens[:count]:
            lookup.add(token)
            lookup.draft(15)
        return time.perf_counter() - begun

    assert seconds(40_000) < 40 * min(seconds(4_000) for _ in range(3))


def test_pace_grows_with_success_and_rests_after_failures() -> None:
    """Drafts grow while they are accepted; where they are not, tries become rare, until a long passage repeats."""
    costs = Costs()
    for _ in range(5):
        costs.single(1.0)
        for size, seconds in zip(SIZES, (1.8, 3.0, 5.0), strict=True):
            costs.several(size, seconds)
    pace = Pace(costs)
    for _ in range(4):
        pace.verified(3, 2)
    assert (pace.size(SIZES, 3), pace.size(SIZES, 9)) == (SIZES[0], SIZES[-1])
    tried = []
    for step in range(2_000):
        if size := pace.size(SIZES, 3):
            tried.append(step)
            pace.verified(size, 0)
    assert len(tried) < 20
    assert tried[-1] - tried[-2] > 200
    assert pace.rests
    assert pace.size(SIZES, 64) == SIZES[0]


def test_trust_needs_every_row_and_is_lost_from_a_block_on() -> None:
    """A size is trusted once all its rows agreed; a difference at a trusted size speaks against the block."""
    trust = Trust()
    assert not trust.checked(0)
    trust.note(0, 3, equal=True, n_rows=2)
    assert not trust.checked(0)
    trust.note(0, 3, equal=True, n_rows=3)
    assert trust.checked(0) == {3}
    trust.note(0, 8, equal=False, n_rows=1)
    assert trust.usable(0) == (3,)
    trust.note(2, 3, equal=False, n_rows=1)
    assert trust.usable(1) == (3,)
    assert not trust.usable(2)
    assert trust.refusal(0) is None
    assert "from 512 tokens" in str(trust.refusal(2))
