"""serve_model and `labkit serve`: real clients, many at once, and what breaks connections."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit.engine.generate import run_request
from labkit.engine.generation import GenerationRequest
from labkit.engine.sampling_settings import SamplingSettings
from labkit.errors import LabkitError, LabkitWarning
from labkit.serve import server as server_module
from labkit.serve.requests import ApiError, Prepared, api_error, prepare, read_json
from tests.tiny_models import CHATML, write_tiny_encoder, write_tiny_model

pytest.importorskip("uvicorn", reason="needs the extra serve")

ROUNDING = 0.1  # of log probabilities, if the engine sums in a different order
HELLO = [{"role": "user", "content": "the end"}]


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("serve") / "tiny.gguf", endless=True)


@pytest.fixture(scope="module")
def model(tiny_path: Path) -> Iterator[labkit.Model]:
    """Load a model that never ends a text by itself."""
    with labkit.load_model(tiny_path, n_ctx=1024, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def server(model: labkit.Model) -> Iterator[labkit.Server]:
    with labkit.serve_model(model, n_parallel=3) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: labkit.Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Return status, JSON and headers of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def chat(server: labkit.Server, text: str = "the end", **options: Any) -> dict[str, Any]:
    """Return an answer that must succeed."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **options}
    status, answer, _ = post(f"{server.url}/v1/chat/completions", body)
    assert status == 200, answer
    return dict(answer)


def figures(server: labkit.Server) -> dict[str, float]:
    """Return the server's metrics."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def eventually(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Wait for a condition."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def is_idle(server: labkit.Server) -> bool:
    found = figures(server)
    return found["labkit_requests_running"] == found["labkit_requests_waiting"] == 0


def send(server: labkit.Server, **options: Any) -> socket.socket:
    """Send a request for a chat, and return the connection without waiting for an answer."""
    body = json.dumps({"messages": HELLO, "max_tokens": 900, "temperature": 0, **options}).encode()
    connection = raw(server)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def start_stream(server: labkit.Server) -> socket.socket:
    """Send a request for a long stream, and return the connection once the first text has arrived."""
    connection = send(server, stream=True)
    data = b""
    while b"data:" not in data:
        piece = connection.recv(1000)
        assert piece, data
        data += piece
    return connection


def raw(server: labkit.Server) -> socket.socket:
    """Return a connection that buffers little."""
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    return connection


def assert_same_but_for_rounding(model: labkit.Model, answer: dict[str, Any]) -> None:
    """Compare with model.last_generation; where they part, the two tokens must be equally likely."""
    assert model.last_generation is not None
    for want, got in zip(model.last_generation.token_ids, answer["choices"][0]["logprobs"]["content"], strict=True):
        with model.vocabulary() as tokenizer:
            alone = list(tokenizer.piece(want) or tokenizer.token_text(want).encode())
        if got["bytes"] != alone:
            other = next(one for one in got["top_logprobs"] if one["bytes"] == alone)
            assert got["logprob"] - other["logprob"] < ROUNDING
            return


# -- answers -----------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_generate_chat(model: labkit.Model, server: labkit.Server, client: openai.OpenAI) -> None:
    """OpenAI's own client gets generate_chat's text, whole and streamed, with usage and times."""
    want = labkit.generate_chat(model, HELLO, 20, 0)
    answer = client.chat.completions.create(model="any", messages=HELLO, max_tokens=20, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == want
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == labkit.count_chat_tokens(model, HELLO)
    assert answer.usage.completion_tokens == 20
    assert answer.usage.timings["decode_s"] > 0  # type: ignore[attr-defined]
    chunks = list(
        client.chat.completions.create(
            model="any",
            messages=HELLO,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == want
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


def test_texts_are_those_of_generate_text(model: labkit.Model, client: openai.OpenAI) -> None:
    """/v1/completions continues a text, from text or tokens; a seed gives the same text again."""
    want = labkit.generate_text(model, "the end", 12, 0)
    assert client.completions.create(model="", prompt="the end", max_tokens=12, temperature=0).choices[0].text == want
    with model.vocabulary() as tokenizer:
        tokens = tokenizer.prompt_tokens("the end")
    assert client.completions.create(model="", prompt=tokens, max_tokens=12, temperature=0).choices[0].text == want
    seeded = [
        client.completions.create(model="", prompt="the", max_tokens=12, temperature=1, seed=seed).choices[0].text
        for seed in (5, 5, 6)
    ]
    assert seeded[0] == seeded[1] == labkit.generate_text(model, "the", 12, 1, seed=5)
    assert seeded[0] != seeded[2]


def test_a_stop_sequence_is_not_in_the_answer(model: labkit.Model, client: openai.OpenAI) -> None:
    """Neither whole nor streamed, also if it is split over tokens."""
    text = labkit.generate_text(model, "the end", 40, 0)
    stop = text[10:13]
    want = labkit.generate_text(model, "the end", 40, 0, stop=stop)
    options: dict[str, Any] = {"model": "", "prompt": "the end", "max_tokens": 40, "temperature": 0, "stop": [stop]}
    whole = client.completions.create(**options).choices[0]
    assert (whole.text, whole.finish_reason) == (want, "stop")
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)) == want


def test_log_probabilities_are_those_of_the_logits(model: labkit.Model, client: openai.OpenAI) -> None:
    """The first token's probabilities are the softmax of next_token_logits; the chosen one is the most likely."""
    logits = labkit.next_token_logits(model, "the end").astype(float)
    want = sorted(logits - logits.max() - math.log(sum(math.exp(x - logits.max()) for x in logits)), reverse=True)[:20]
    found = (
        client.completions.create(model="", prompt="the end", max_tokens=3, temperature=0, logprobs=20).choices[0].logprobs
    )
    assert found is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert found.token_logprobs[0] == pytest.approx(want[0], abs=1e-3)
    assert min(found.top_logprobs[0].values()) >= want[-1] - 1e-3
    chosen = client.chat.completions.create(
        model="",
        messages=HELLO,
        max_tokens=5,
        temperature=0,
        logprobs=True,
        top_logprobs=20,  # type: ignore[arg-type]
    ).choices[0]
    assert chosen.logprobs is not None
    assert chosen.logprobs.content is not None
    assert len(chosen.logprobs.content) == 5
    for entry in chosen.logprobs.content:
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert sum(math.exp(one.logprob) for one in entry.top_logprobs) <= 1 + 1e-6


@pytest.mark.parametrize("options", [{"frequency_penalty": 2.0}, {"xtc_probability": 1.0, "xtc_threshold": 0.0}])
def test_requests_reach_the_sampler_chain(model: labkit.Model, server: labkit.Server, options: dict[str, Any]) -> None:
    """Penalties in a request change the answer as they change generate_text's."""
    body = {"prompt": "the end the end the end", "max_tokens": 24, "temperature": 0}
    plain, changed = (
        post(f"{server.url}/v1/completions", given)[1]["choices"][0]["text"] for given in (body, body | options)
    )
    assert changed == labkit.generate_text(model, body["prompt"], 24, 0, **options)
    assert changed != plain


@pytest.mark.parametrize("stream", [False, True])
def test_answers_follow_a_json_schema(client: openai.OpenAI, stream: bool) -> None:
    """response_format constrains the answer, though the model's text is random."""
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["age", "ok"],
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    found: Any = client.chat.completions.create(
        model="",
        messages=HELLO,
        max_tokens=60,
        seed=1,
        response_format=form,
        stream=stream,  # type: ignore[call-overload]
    )
    parts = (chunk.choices[0].delta.content for chunk in found) if stream else [found.choices[0].message.content]
    value = json.loads("".join(parts))
    assert set(value) == {"age", "ok"}
    assert 0 <= value["age"] <= 99


def test_the_model_is_listed(server: labkit.Server, client: openai.OpenAI) -> None:
    """/v1/models has the one model; another name is not found; /health answers."""
    (entry,) = client.models.list().data
    assert client.models.retrieve(entry.id).id == entry.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    assert json.load(urllib.request.urlopen(f"{server.url}/health")) == {"status": "ok"}


def test_paths_without_v1_are_the_same(server: labkit.Server) -> None:
    """A base_url without /v1 works, as with llama.cpp's server."""
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as bare:
        assert bare.models.retrieve(bare.models.list().data[0].id).id
        usage = bare.chat.completions.create(model="", messages=HELLO, max_tokens=3).usage  # type: ignore[arg-type]
        assert usage is not None
        assert usage.completion_tokens == 3


def test_messages_of_clients_are_understood(model: labkit.Model, server: labkit.Server) -> None:
    """Text in parts, the developer role, and the empty fields that clients send back."""
    plain = [{"role": "system", "content": "a b"}, {"role": "user", "content": "the end"}]
    want = labkit.generate_chat(model, plain, 8, 0)
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "end"}]
    sent = [
        {"role": "developer", "content": "a b"},
        {"role": "user", "content": parts, "name": "x", "tool_calls": None, "refusal": None, "annotations": []},
    ]
    assert chat(server, messages=sent)["choices"][0]["message"]["content"] == want


def test_curl_gets_an_answer(server: labkit.Server) -> None:
    """Curl, with the command of the documentation."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-sS", f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    body = json.dumps({"messages": HELLO, "max_tokens": 3, "stream": True})
    found = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=60, check=True).stdout
    assert found.count("data: ") >= 2
    assert found.endswith("data: [DONE]\n\n")


def test_embeddings(tmp_path: Path, server: labkit.Server) -> None:
    """A model loaded for embeddings gives them, and refuses to chat; the others refuse embeddings."""
    with (
        labkit.load_model(write_tiny_encoder(tmp_path / "bert.gguf", "bert"), n_ctx=256, embedding=True) as encoder,
        labkit.serve_model(encoder) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api,
    ):
        found = api.embeddings.create(model="", input=["the", "a the"])  # in base64, the client's default
        assert [len(one.embedding) for one in found.data] == [64, 64]
        plain = api.embeddings.create(model="", input="the", encoding_format="float").data[0].embedding
        assert plain == pytest.approx(found.data[0].embedding, abs=1e-5)
        for changes in ({"input": "the " * 300}, {"dimensions": 8}, {"encoding_format": "hex"}):
            assert post(f"{served.url}/v1/embeddings", {"input": "the", **changes})[0] == 400
        assert found.data[0].embedding == pytest.approx(encoder.create_embedding("the")["data"][0]["embedding"], abs=1e-5)
        assert post(f"{served.url}/v1/chat/completions", {"messages": HELLO})[0] == 400
    assert post(f"{server.url}/v1/embeddings", {"input": "the"})[0] == 400


def test_models_without_pooling_give_no_vector_of_a_text(tiny_path: Path) -> None:
    """A vector per token is not what OpenAI's clients read; the mean is one per text."""
    for pooling, status in ((0, 400), (1, 200)):
        with (
            labkit.load_model(tiny_path, n_ctx=256, n_threads=1, embedding=True, pooling_type=pooling) as own,
            labkit.serve_model(own) as served,
        ):
            assert post(f"{served.url}/v1/embeddings", {"input": "the end"})[0] == status


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_object", "schema": {"enum": ["yes", "no"]}}},
        {"json_schema": {"enum": ["yes", "no"]}},
        {"grammar": 'root ::= "\\"" ("yes" | "no") "\\""', "stop": "", "seed": -1},
    ],
    ids=str,
)
def test_forms_of_llama_cpps_server_are_followed(server: labkit.Server, form: dict[str, Any]) -> None:
    """Its fields ``schema``, ``json_schema`` and ``grammar`` constrain the answer; none of them is dropped in silence."""
    assert json.loads(chat(server, max_tokens=30, **form)["choices"][0]["message"]["content"]) in ("yes", "no")


# -- many at once ------------------------------------------------------------------------------------------------------


def test_many_clients_get_their_own_answers(model: labkit.Model, server: labkit.Server) -> None:
    """Twenty requests of different lengths at once, more than slots: each gets the text that it gets alone."""
    words = [
        "the",
        "end",
        "of",
        "a",
        "story",
        "that",
        "was",
        "told",
        "in",
        "a",
        "town",
        "where",
        "no",
        "one",
        "has",
        "ever",
        "been",
    ]
    texts = [" ".join(words[: n % 15 + 1]) + f" {n}" for n in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda text: chat(server, text, max_tokens=5 + len(text) % 9, logprobs=True, top_logprobs=3), texts)
        )
    for text, answer in zip(texts, answers, strict=True):
        labkit.generate_chat(model, [{"role": "user", "content": text}], 5 + len(text) % 9, 0)
        assert_same_but_for_rounding(model, answer)


def test_a_new_request_joins_the_running_ones(server: labkit.Server) -> None:
    """A short request is answered while a long one still runs."""
    with start_stream(server) as long:
        assert chat(server, max_tokens=3)["usage"]["completion_tokens"] == 3
        assert figures(server)["labkit_requests_running"] == 1
        rest = b""
        while b"[DONE]" not in rest[-200:]:
            rest += long.recv(100_000)


def test_a_shared_prefix_is_computed_once(server: labkit.Server) -> None:
    """A prompt's prefix is found again: in a slot, and after others used all slots, in the store."""
    prefix = "the end of a story " * 12
    first = chat(server, prefix + "x")
    second = chat(server, prefix + "y")
    n_prompt = first["usage"]["prompt_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > n_prompt * 0.8
    others = [
        "in a town where no one was " * 9,
        "once upon a time " * 12,
        "water and fire " * 14,
        "1 2 " * 40,
        "a b c d " * 20,
    ]
    for other in others:
        chat(server, other)
    again = chat(server, prefix + "x")
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > n_prompt * 0.8
    assert again["choices"][0]["message"] == first["choices"][0]["message"]
    assert figures(server)["labkit_prefix_store_bytes"] > 0


@pytest.mark.parametrize("kind", ["window", "state"])
def test_a_conversation_goes_on_where_it_ended(tmp_path: Path, kind: str) -> None:
    """Layers with a window or a state cannot be cut: a text that begins with an earlier one and its answer goes on there."""
    path = tmp_path / "model.gguf"
    if kind == "window":
        write_tiny_model(path, architecture="gemma3", endless=True)
    else:
        labkit.build_ghost_model(path, architecture="mamba", shape="tiny")
    with labkit.load_model(path, n_ctx=512, n_threads=1) as own, labkit.serve_model(own, n_parallel=2) as served:
        with own.vocabulary() as tokenizer:
            prompt = tokenizer.prompt_tokens("the end of a story " * 20)
        for n_cached in (0, len(prompt) + 7):
            body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 2}
            _, answer, _ = post(f"{served.url}/v1/completions", body)
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == n_cached
            run_request(own, GenerationRequest(prompt, 8, SamplingSettings(temperature=0)))
            assert own.last_generation is not None
            alone = list(own.last_generation.token_ids)
            assert answer["choices"][0]["logprobs"]["tokens"] == [labkit.token_text(own, token) for token in alone]
            prompt = [*prompt, *alone, *prompt[:5]]


def test_the_store_respects_its_budget(model: labkit.Model) -> None:
    """With 1 MiB it never holds more, and drops the states not used for longest; with 0 it holds none."""
    for mib in (0, 1):
        with labkit.serve_model(model, n_parallel=1, cache_mib=mib) as small:
            for n in range(12):
                chat(small, f"{n} " + "the end of a story " * 30, max_tokens=1)
                assert figures(small)["labkit_prefix_store_bytes"] <= mib * 2**20


def test_prefixes_are_never_mixed_up(model: labkit.Model) -> None:
    """Clients with prompts that share prefixes of all lengths, some of whom leave: each text is the one that it is alone."""
    random_ = random.Random(1)
    words = ["the", "end", "of", "a", "story", "that", "was", "told", "in", "town"]
    stems = [" ".join(random_.choices(words, k=250)) for _ in range(4)]
    texts = [random_.choice(stems)[: random_.randint(100, 1200)] + f" {n}" for n in range(60)]
    with labkit.serve_model(model, n_parallel=3, cache_mib=2) as small:

        def ask(text: str) -> dict[str, Any] | None:
            if text.endswith(("3", "7")):  # this client leaves
                with send(small, messages=[{"role": "user", "content": text}]):
                    time.sleep(0.02)
                return None
            return chat(small, text, max_tokens=6, logprobs=True, top_logprobs=5)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, texts))
        assert figures(small)['labkit_tokens_total{kind="prompt_cached"}'] > 0
    for text, answer in zip(texts, answers, strict=True):
        if answer is not None:
            labkit.generate_chat(model, [{"role": "user", "content": text}], 6, 0)
            assert_same_but_for_rounding(model, answer)


def test_a_full_queue_is_reported(model: labkit.Model) -> None:
    """With one slot and one place in the queue, a third request gets 429 and Retry-After; later it is answered."""
    with labkit.serve_model(model, n_parallel=1, max_waiting=1) as small, start_stream(small) as first:
        with send(small, stream=True) as second:
            assert eventually(lambda: figures(small)["labkit_requests_waiting"] == 1)
            status, answer, headers = post(f"{small.url}/v1/chat/completions", {"messages": HELLO})
            assert (status, answer["error"]["code"]) == (429, "queue_full")
            assert int(headers["retry-after"]) >= 1
            second.close()
            first.close()
        assert eventually(lambda: is_idle(small))
        assert chat(small)["choices"]


def test_the_model_stays_usable_between_requests(model: labkit.Model, server: labkit.Server) -> None:
    """Calls of the model work next to the server, and model.cancel() ends a request without ending the server."""
    want = labkit.generate_text(model, "the end", 8, 0)
    with start_stream(server) as stream:
        assert model.cancel()
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += stream.recv(100_000)
        assert b'"error"' in data
    assert labkit.generate_text(model, "the end", 8, 0) == want
    assert chat(server)["choices"]


def test_a_closed_model_is_reported(tiny_path: Path) -> None:
    """After close() during a request the server answers 503, and ends without an error."""
    with labkit.load_model(tiny_path, n_ctx=1024, n_threads=1) as own, labkit.serve_model(own) as served:
        with start_stream(served):
            own.close()
        assert post(f"{served.url}/v1/chat/completions", {"messages": HELLO})[0] == 503
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{served.url}/health")


# -- who may ask, and what --------------------------------------------------------------------------------------------


_LAMP = {
    "type": "object",
    "properties": {"level": {"type": "integer"}, "on": {"type": "boolean"}},
    "required": ["level", "on"],
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "Set it.", "parameters": _LAMP}}
    for name in ("lamp", "heater")
]


def test_tools_are_called_and_their_results_read(client: openai.OpenAI) -> None:
    """The openai client gets calls with valid arguments, whole and streamed, and sends results back."""
    named = {"type": "function", "function": {"name": "heater"}}
    options: dict[str, Any] = {"model": "any", "messages": HELLO, "tools": TOOLS, "max_tokens": 300, "seed": 1}
    for choice in ("required", named):
        answer = client.chat.completions.create(**options, tool_choice=choice).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        (call,) = answer.message.tool_calls or ()
        assert call.function.name in (("heater",) if choice is named else ("lamp", "heater"))
        assert {key: type(value) for key, value in json.loads(call.function.arguments).items()} == {"level": int, "on": bool}
    chunks = list(client.chat.completions.create(**options, tool_choice=named, stream=True))
    calls = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ()]
    assert [(one.function.name, one.function.arguments) for one in calls if one.function] == [
        ("heater", call.function.arguments)
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    talk = [*HELLO, answer.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    again = client.chat.completions.create(**{**options, "messages": talk, "max_tokens": 8}, tool_choice="none").choices[0]
    assert again.message.tool_calls is None
    cut = client.chat.completions.create(**{**options, "max_tokens": 5}, tool_choice="required").choices[0]
    assert (cut.finish_reason, cut.message.tool_calls) == ("length", None)


def test_reasoning_is_a_field_of_its_own(tmp_path: Path) -> None:
    """What a model thinks is in ``reasoning_content``, whole and streamed; the template's variables come from the client."""
    off = "enable_thinking is defined and not enable_thinking or reasoning_effort == 'minimal'"
    think = f"{{% if {off} %}}{{{{ '</think>' }}}}{{% else %}}{{{{ '<think>' }}}}{{% endif %}}"
    path = write_tiny_model(tmp_path / "thinks.gguf", template=CHATML + think, endless=True)
    with labkit.load_model(path, n_ctx=256, n_threads=1) as thinker, labkit.serve_model(thinker, n_parallel=1) as server:
        options = {"max_tokens": 12, "temperature": 0}
        message = chat(server, **options)["choices"][0]["message"]
        assert message["content"] == ""
        assert message["reasoning_content"].strip()
        plain = chat(server, **options, chat_template_kwargs={"enable_thinking": False})["choices"][0]["message"]
        assert "reasoning_content" not in plain
        assert plain["content"]
        quick = chat(server, **options, reasoning_effort="minimal")["choices"][0]["message"]
        assert quick["content"]  # OpenAI's field is the template's variable
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
            stream = made.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "the end"}], stream=True, max_tokens=12, temperature=0
            )
            deltas = [chunk.choices[0].delta for chunk in stream]
        assert "".join(getattr(one, "reasoning_content", None) or "" for one in deltas) == message["reasoning_content"]
        assert "".join(one.content or "" for one in deltas) == ""


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, None),
        (b"\xff\xfe{}", 400, None),
        (b"[]", 400, None),
        (b"[" * 100_000, 400, None),
        ({}, 400, "invalid_value"),
        ({"messages": []}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "robot", "content": "a"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}, 400, "invalid_value"),
        ({"messages": HELLO, "tools": TOOLS, "tool_choice": "other"}, 400, "invalid_value"),
        ({"messages": HELLO, "tools": TOOLS, "tool_choice": {"function": {"name": "other"}}}, 400, "invalid_value"),
        ({"messages": HELLO, "tools": TOOLS, "response_format": {"type": "json_object"}}, 400, "invalid_value"),
        ({"messages": HELLO, "tools": TOOLS, "grammar": "root ::= [a]"}, 400, "invalid_value"),
        ({"messages": HELLO, "json_schema": {}, "response_format": {"type": "json_object"}}, 400, "invalid_value"),
        ({"messages": HELLO, "tool_choice": "required"}, 400, "invalid_value"),
        ({"messages": HELLO, "chat_template_kwargs": {"unknown_name": 1}}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_value"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, 400, "invalid_value"),
        ({"messages": HELLO, "functions": [{"name": "f"}]}, 400, "unsupported_parameter"),
        ({"messages": HELLO, "n": 2}, 400, "unsupported_parameter"),
        ({"messages": HELLO, "temperature": "hot"}, 400, "invalid_value"),
        ({"messages": HELLO, "max_tokens": 0}, 400, "invalid_value"),
        ({"messages": HELLO, "max_tokens": 5000}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "the " * 3000}]}, 400, "context_length_exceeded"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, 400, "invalid_value"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, 400, "invalid_value"),
        ({"messages": HELLO, "response_format": {"type": "xml"}}, 400, "invalid_value"),
        ({"messages": HELLO, "n": 2, "tool_choice": "none"}, 400, "unsupported_parameter"),
        ({"messages": HELLO, "stop": ["a"] * 100}, 400, "invalid_value"),
        ({"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {}}}, 400, "invalid_value"),
        ({"messages": HELLO, "top_p": float("nan")}, 400, "invalid_value"),
        ({"messages": HELLO, "frequency_penalty": "much"}, 400, "invalid_value"),
        ({"messages": HELLO, "dry_sequence_breakers": [7]}, 400, "invalid_value"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_requests_are_refused_in_openais_form(server: labkit.Server, body: Any, status: int, code: str | None) -> None:
    """Each gets its status and a message, and the server goes on."""
    found, answer, _ = post(f"{server.url}/v1/chat/completions", body)
    assert (found, answer["error"]["code"]) == (status, code), answer
    assert answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just({}), st.just([]),
    st.just({"type": "json_object"}), st.just(HELLO), st.lists(st.integers(-2, 400), max_size=3),
    st.dictionaries(st.sampled_from(["type", "role", "content", "include_usage"]), st.text(max_size=5), max_size=2),
)  # fmt: skip
_FIELDS = (
    "messages", "prompt", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "max_tokens", "max_completion_tokens",
    "stream", "stream_options", "logprobs", "top_logprobs", "response_format", "grammar", "n", "tools", "tool_choice",
    "frequency_penalty", "presence_penalty", "repeat_penalty", "dry_multiplier", "logit_bias", "echo",
    "dry_sequence_breakers", "suffix", "best_of", "user", "json_schema",
)  # fmt: skip


@settings(max_examples=3 * settings.default.max_examples)
@given(
    body=st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=6).map(
        lambda given: {"messages": HELLO, "prompt": "a", **given}
    ),
    is_chat=st.booleans(),
)
def test_any_json_is_prepared_or_refused(model: labkit.Model, body: dict[str, Any], is_chat: bool) -> None:
    """Every field with any value gives a request that fits, or an error of the client: never one of the server."""
    try:
        found: Any = prepare(model, read_json(json.dumps(body).encode()), 1024, is_chat=is_chat)
    except (LabkitError, ApiError) as error:
        found = api_error(error)
    if isinstance(found, Prepared):
        assert 0 < len(found.request.prompt) + found.request.max_tokens <= 1024
    else:
        assert found.status == 400


def test_an_api_key_is_required_if_there_is_one(model: labkit.Model) -> None:
    """Everything but the page and /health needs it."""
    with labkit.serve_model(model, n_parallel=1, api_key="secret") as locked:
        with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="secret", max_retries=0) as api:
            assert len(api.models.list().data) == 1
            with pytest.raises(openai.AuthenticationError):
                api.with_options(api_key="Secret").models.list()
        assert post(f"{locked.url}/v1/chat/completions", {"messages": HELLO})[0] == 401
        assert post(f"{locked.url}/v1/chat/completions", {"messages": HELLO}, {"Authorization": "Bearer \xe9"})[0] == 401
        for path in ("/", "/health"):
            assert urllib.request.urlopen(locked.url + path).status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{locked.url}/metrics")


def test_pages_of_other_hosts_are_refused(server: labkit.Server) -> None:
    """Neither a page of another host nor a name that points here (DNS rebinding) reaches the model; its own page does."""
    url = f"{server.url}/v1/chat/completions"
    body = {"messages": HELLO, "max_tokens": 1}
    assert post(url, body, {"Origin": "https://example.org"})[0] == 403
    assert post(url, body, {"Host": "example.org"})[0] == 403
    assert post(url, body, {"Host": "[::1"})[0] == 400
    assert post(url, body, {"Origin": server.url})[0] == 200


def test_the_page_needs_no_other_host(server: labkit.Server) -> None:
    """It has labels for its controls, and neither loads nor may load anything from elsewhere."""
    with urllib.request.urlopen(server.url) as answer:
        page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?://|@import", page)
    assert policy.startswith("default-src 'none'")
    for needed in ('lang="en"', 'label for="text"', 'role="status"', 'role="log"', "prefers-color-scheme: dark"):
        assert needed in page


def test_wrong_arguments_are_refused(model: labkit.Model, server: labkit.Server) -> None:
    """A port in use, numbers out of range; an address that others can reach without a key warns."""
    port = int(server.url.rsplit(":", 1)[1])
    for options in (
        {"port": port},
        {"n_parallel": 0},
        {"n_ctx": 0},
        {"cache_mib": -1},
        {"max_waiting": -1},
        {"port": 70_000},
        {"host": "no such host"},
    ):
        with pytest.raises(LabkitError), labkit.serve_model(model, **options):  # type: ignore[arg-type]
            pass
    with pytest.warns(LabkitWarning, match="API key"), labkit.serve_model(model, host="0.0.0.0", n_parallel=1):  # noqa: S104
        pass


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_frees_its_slot(server: labkit.Server) -> None:
    """Streams and whole answers, all slots: after their clients left, nothing runs, and others are answered."""
    streams = [start_stream(server) for _ in range(server.n_parallel)]
    whole = send(server)
    assert figures(server)["labkit_requests_running"] > 0
    for connection in (*streams, whole):
        connection.close()
    assert eventually(lambda: is_idle(server))
    assert chat(server)["choices"]


def test_a_storm_of_cancelled_requests_leaves_nothing(server: labkit.Server) -> None:
    """Two hundred requests whose clients leave at once; the server answers the next one."""
    for _ in range(200):
        send(server, stream=True).close()
    body = {"messages": HELLO, "max_tokens": 4}  # until the server has seen that they left, its queue may be full
    assert eventually(lambda: post(f"{server.url}/v1/chat/completions", body)[0] == 200)
    assert eventually(lambda: is_idle(server))


def test_a_thousand_connections(server: labkit.Server) -> None:
    """With a thousand open connections that say nothing, or half of something, clients are answered."""
    with contextlib.ExitStack() as stack:
        for index in range(1000):
            connection = stack.enter_context(raw(server))
            if index % 2:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert chat(server)["choices"]
    assert eventually(lambda: is_idle(server))


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_100_mb_is_refused(server: labkit.Server, is_chunked: bool) -> None:
    """It is refused with 413, whether or not its length is known, and is not kept in memory."""
    piece = b" " * 1_000_000
    body = iter([piece] * 100) if is_chunked else piece * 100
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body, headers)  # type: ignore[arg-type]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 413
    assert json.load(caught.value)["error"]["code"] == "body_too_large"
    assert chat(server)["choices"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 5000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 200_000,
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["zeros", "version", "long", "tls", "no host"],
)
def test_what_is_not_http_is_refused(server: labkit.Server, data: bytes) -> None:
    """Such a connection gets an error or is closed."""
    with raw(server) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
        assert not answer or b" 400 " in answer or b" 403 " in answer
    assert chat(server)["choices"]


def test_idle_connections_and_stuck_readers_are_closed(model: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request, half a body, and a reader that stops reading hold a connection only for a while, and no slot."""
    from labkit.serve import app as app_module

    monkeypatch.setattr(server_module, "IDLE_LIMIT_S", 0.5)
    monkeypatch.setattr(app_module, "SEND_LIMIT_S", 0.5)
    monkeypatch.setattr(app_module, "BODY_LIMIT_S", 0.5)
    with labkit.serve_model(model, n_parallel=2) as served, contextlib.ExitStack() as stack:
        silent, half, body = (stack.enter_context(raw(served)) for _ in range(3))
        half.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        body.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in body.recv(1000)
        for connection in (silent, half):
            with contextlib.suppress(OSError):
                assert connection.recv(1000) == b""
        stack.enter_context(send(served, stream=True, logprobs=True, top_logprobs=20))  # it never reads
        assert eventually(lambda: figures(served)["labkit_requests_running"] == 1)
        assert eventually(lambda: is_idle(served))
        assert chat(served)["choices"]


def test_an_error_of_the_engine_ends_only_what_runs(
    model: labkit.Model, server: labkit.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a computation fails, its requests get an error, and the next ones are answered as before."""
    from labkit.engine import stepping

    before = chat(server)
    with monkeypatch.context() as patch, start_stream(server) as stream:
        patch.setattr(stepping, "_check", lambda _status: (_ for _ in ()).throw(labkit.GenerationError("it failed")))
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += stream.recv(100_000)
        assert b"it failed" in data
    assert chat(server)["choices"][0]["message"] == before["choices"][0]["message"]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for other processes")
def test_sigterm_finishes_what_runs(tiny_path: Path) -> None:
    """`labkit serve` answers, and after SIGTERM finishes the running stream, refuses others and ends with 0."""
    command = [
        sys.executable,
        "-m",
        "labkit",
        "serve",
        str(tiny_path),
        "--port",
        "0",
        "--n-ctx",
        "4096",
        "--threads",
        "1",
        "--json",
    ]
    with subprocess.Popen([*command, "--parallel", "1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["url"]
            body = json.dumps({"messages": HELLO, "max_tokens": 3000, "stream": True}).encode()
            request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.readline().startswith(b"data:")
                process.send_signal(signal.SIGTERM)
                rest = answer.read()
            assert rest.endswith(b"data: [DONE]\n\n")
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_the_bundled_model_answers() -> None:
    """The bundled model chats through OpenAI's client as generate_chat does, four at a time."""
    questions = ["What is 2 + 2?", "Name three colours.", "Who wrote Hamlet?", "What is the capital of France?"]
    with labkit.load_model(n_ctx=512, n_threads=1) as bundled, labkit.serve_model(bundled, n_parallel=4) as served:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            options = {"max_tokens": 12, "logprobs": True, "top_logprobs": 4}
            answers = list(pool.map(lambda text: chat(served, text, **options), questions))
        for question, answer in zip(questions, answers, strict=True):
            labkit.generate_chat(bundled, [{"role": "user", "content": question}], 12, 0)
            assert_same_but_for_rounding(bundled, answer)
