"""Load a model, generate text and count tokens: the rooms that call llama.cpp to compute.

::

    bindings   what llama_cpp.Llama gives no way to set: the log, the abort flag
    worker     one thread a model; every native call is a message to it
    arguments  what a caller may pass, checked
    grammar    GBNF, checked before the engine sees it; grammar_rules what llama.cpp would do with it
    schema     JSON schemas -> GBNF; json_rules, patterns, ranges its parts
    guards     around what llama_cpp.Llama itself can do
    options    load_model's keyword arguments, checked
    settings   what load_model chooses, and why
    template   chat templates, rendered within limits by template_child
    vocabulary text <-> tokens, on a large stack (stacks)
    prompts    text and messages -> tokens; a user's text never becomes a control token
    text       tokens' bytes -> text; whole characters, stop sequences
    sampler    the native sampler chain
    generate   the loop, generate_*, stream_*, count_*
    logits     the logits of the next token
    contexts   a second context on a model's weights
    scoring    a row of logits a token, in a context beside the model's
    timing     a generation with its clocks read; llama-bench's protocol
    model      Model
    loading    load_model
    endpoints  host:port; ports one to serve on
    served     a device lent by a child process (served_child): start_device, serve_device
    devices    what load_model(devices=…) borrows; connection the wire to one, rpc its protocol
    relay      between llama.cpp and a device, so that one that dies does not take this process with it
"""

from __future__ import annotations

from labkit.engine.generate import (
    TextStream,
    count_chat_tokens,
    count_tokens,
    generate_chat,
    generate_text,
    stream_chat,
    stream_text,
)
from labkit.engine.loading import load_model
from labkit.engine.logits import next_token_logits, token_text
from labkit.engine.model import Model
from labkit.engine.results import GenerationReport, TextChunk
from labkit.engine.served import ServedDevice, serve_device, start_device
from labkit.engine.settings import ModelSettings

__all__ = [
    "GenerationReport",
    "Model",
    "ModelSettings",
    "ServedDevice",
    "TextChunk",
    "TextStream",
    "count_chat_tokens",
    "count_tokens",
    "generate_chat",
    "generate_text",
    "load_model",
    "next_token_logits",
    "serve_device",
    "start_device",
    "stream_chat",
    "stream_text",
    "token_text",
]
