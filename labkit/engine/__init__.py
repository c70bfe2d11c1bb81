"""Load a model, generate text and count tokens: the rooms that call llama.cpp to compute.

::

    loading            load_model
    options            its keyword arguments, checked
    settings           what it chooses, and why
    load_facts         what a file says that loading depends on, remembered
    tuned              settings that `tune` found
    model              Model
    llama_methods      what llama_cpp.Llama itself can do, in the model's thread
    generation         the loop
    generate           generate_*, stream_*, count_*
    logits             the logits of the next token
    sampling_settings  what a caller may pass, checked
    sampler            the native sampler chain
    chat_prompt        text and messages -> tokens; a user's text never becomes a control token
    tokenizer          text <-> tokens
    detokenizer        tokens' bytes -> text; whole characters, stop sequences
    results            TextChunk, GenerationReport
    worker             one thread a model; every native call is a message to it
    native             what llama_cpp.Llama gives no way to set: the log, the abort flag
    contexts           a second context on a model's weights
"""

from __future__ import annotations

from labkit.engine.generate import count_chat_tokens, count_tokens, generate_chat, generate_text, stream_chat, stream_text
from labkit.engine.generation import TextStream
from labkit.engine.loading import load_model
from labkit.engine.logits import next_token_logits, token_text
from labkit.engine.model import Model
from labkit.engine.results import GenerationReport, TextChunk
from labkit.engine.settings import ModelSettings

__all__ = [
    "GenerationReport",
    "Model",
    "ModelSettings",
    "TextChunk",
    "TextStream",
    "count_chat_tokens",
    "count_tokens",
    "generate_chat",
    "generate_text",
    "load_model",
    "next_token_logits",
    "stream_chat",
    "stream_text",
    "token_text",
]
