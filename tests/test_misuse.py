"""At least 120 kinds of misuse: each raises a one-line LabkitError or works; none crashes or hangs."""

# ruff: noqa: E501  # one case per line

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import write_tiny_encoder, write_tiny_model

LIMIT_S = 30.0

# Each case is Python that a student might type. "model" is a fresh tiny model, "path" its file.
LOADING = [
    *(
        f"load_model({value})"
        for value in ("'missing.gguf'", "'no-such-name'", "''", "'\\x00'", "tmp", "b'bytes'", "7", "[]", "'~'")
    ),
    *(
        f"load_model(tmp / '{name}')"
        for name in ("empty.gguf", "text.gguf", "html.gguf", "half.gguf", "zip.gguf", "v9.gguf")
    ),
    *(
        f"load_model(path, n_ctx={value})"
        for value in ("-1", "'many'", "1.5", "None", "True", "2**40", "2**31 - 1", "float('nan')")
    ),
    *(f"load_model(path, n_threads={value})" for value in ("0", "-1", "10**6", "2.0", "'2'", "True")),
    *(f"load_model(path, n_gpu_layers={value})" for value in ("-2", "-1", "10**9", "'all'", "99")),
    *(f"load_model(path, n_batch={value})" for value in ("0", "-1", "10**9", "'x'", "1")),
    *(f"load_model(path, n_ubatch={value})" for value in ("0", "10**9", "1")),
    *(f"load_model(path, type_k={value})" for value in ("'q9_0'", "999", "-1", "'Q8_0'", "2.0", "12")),
    "load_model(path, type_v='q8_0')",
    "load_model(path, type_v='q8_0', flash_attn=False)",
    "load_model(path, nthreads=2)",
    "load_model(path, flash_attn='yes')",
    "load_model(path, use_mmap=2)",
    "load_model(path, lora_path='missing.gguf')",
    "load_model(path, lora_path=str(tmp / 'text.gguf'))",
    "load_model(path, lora_path=str(path))",
    "load_model(path, tensor_split=[float('nan')])",
    "load_model(path, tensor_split=[0.5] * 100)",
    "load_model(path, tensor_split='half')",
    "load_model(path, kv_overrides={'llama.block_count': 0})",
    "load_model(path, kv_overrides={'llama.block_count': 2**31})",
    "load_model(path, kv_overrides={'llama.attention.head_count': 0})",
    "load_model(path, kv_overrides={'llama.attention.layer_norm_rms_epsilon': float('nan')})",
    "load_model(path, kv_overrides={'k' * 500: 1})",
    "load_model(path, kv_overrides={'general.name': 'x' * 500})",
    "load_model(path, kv_overrides=[1])",
    "load_model(path, vocab_only=True)",
    "generate_text(load_model(path, vocab_only=True), 'Hello')",
    "generate_text(load_model(path, embedding=True), 'Hello')",
    "load_model(path, logits_all=True).create_completion('Hello', max_tokens=2, logprobs=2)",
    "load_model(path, split_mode=77)",
    "load_model(path, main_gpu=15)",
    "load_model(path, pooling_type=99)",
    "load_model(path, rope_scaling_type=99)",
    "load_model(path, rope_freq_base=float('inf'))",
    "load_model(path, rope_freq_base=-5.0)",
    "load_model(path, chat_format='no-such-format')",
    "load_model(path, chat_handler=3)",
    "load_model(path, draft_model='tiny')",
    "load_model(path, tokenizer=object())",
    "load_model(path, numa=99)",
    "load_model(path, last_n_tokens_size=-1)",
    "load_model(path, seed='lucky')",
    "load_model(path, progress='yes')",
    "load_model(path, progress=lambda fraction: 1 / 0)",
    "load_model(path, verbose='loud')",
]
GENERATING = [
    *(
        f"generate_text(model, {value})"
        for value in ("None", "7", "b'bytes'", "['a']", "'\\ud800'", "''", "'\\x00' * 5", "'a' * 100_000")
    ),
    *(
        f"generate_text(model, 'a', max_tokens={value})"
        for value in ("-1", "0", "1.5", "'ten'", "True", "2**70", "10**6", "None")
    ),
    *(
        f"generate_text(model, 'a', max_tokens=3, temperature={value})"
        for value in ("-1", "float('nan')", "float('inf')", "'hot'", "None", "True", "1e-30", "1e6", "1j", "np.float32(0.5)")
    ),
    *(f"generate_text(model, 'a', 3, top_k={value})" for value in ("-1", "1.5", "10**9", "0", "1")),
    *(f"generate_text(model, 'a', 3, top_p={value})" for value in ("-0.1", "1.1", "0", "float('nan')", "'x'")),
    *(f"generate_text(model, 'a', 3, min_p={value})" for value in ("2", "1", "-1")),
    *(f"generate_text(model, 'a', 3, repeat_penalty={value})" for value in ("0", "-1", "float('inf')", "1.3", "1e9")),
    *(
        f"generate_text(model, 'a', 3, {name}={value})"
        for name, values in {
            "frequency_penalty": ("float('nan')", "'x'", "1e9", "-2"),
            "presence_penalty": ("None", "[1]", "True"),
            "repeat_last_n": ("-1", "2**40", "1.5", "0"),
            "dry_multiplier": ("-1", "float('inf')", "1"),
            "dry_base": ("0.5", "0"),
            "dry_allowed_length": ("-1", "'two'"),
            "dry_penalty_last_n": ("-1", "2**31"),
            "typical_p": ("-0.1", "1.5", "0"),
            "dry_sequence_breakers": ("['']", "7", "[None]", "'x' * 500", "'a\\0b'", "{'a'}", "'\\ud800'"),
            "top_n_sigma": ("float('nan')", "'x'", "0.1"),
            "xtc_probability": ("2", "-1"),
            "xtc_threshold": ("1.5", "float('nan')"),
            "logprobs": ("-1", "21", "True", "'all'", "1.5", "0"),
        }.items()
        for value in values
    ),
    "generate_text(model, 'a', 3, dry_multiplier=1, dry_sequence_breakers=['a' * 40, 'é' * 20], dry_penalty_last_n=2**20)",
    *(f"generate_text(model, 'a', 3, seed={value})" for value in ("-1", "2**32", "'x'", "1.0", "0")),
    *(
        f"generate_text(model, 'a', 3, stop={value})"
        for value in ("''", "['']", "7", "[7]", "[None]", "{'a': 1}", "b'x'", "['a'] * 500")
    ),
    "generate_text(model, 'a', 3, temprature=0)",
    "generate_text(model, 'a', 3, parse_special='yes')",
    "generate_text('model', 'a')",
    "generate_text(None, 'a')",
    "generate_chat(load_model, USER)",
    "count_tokens(model, 7)",
    "count_tokens(model, '\\udfff')",
    "count_tokens(model, 'a', add_special=3)",
]
GRAMMARS = [
    *(
        f"generate_text(model, 'a', 8, grammar={grammar!r})"
        for grammar in (
            "",
            "root ::= ",
            "root",
            "root ::= missing",
            'toor ::= "a"',
            'root ::= "a',
            "root ::= [a",
            "root ::= ((((",
            'root ::= root "a" | "a"',
            'root ::= a\na ::= b\nb ::= a "x" | "y"',
            'root ::= "a"{3,2}',
            'root ::= "a"{99999}',
            'root ::= ("a"{900}){900}',
            'root ::= "\\q"',
            'root ::= "\\U00FFFFFF"',
            "root ::= [^\\x00-\\U0010FFFF]",
            'root ::= ("a"?)*',
            'root ::= ("a"* "b"*)* "c"',
            "root ::= " + "(" * 400 + '"a"' + ")" * 400,
            'root ::= "\ud800"',
            'root ::= "a"\x00',
            'root ::= "yes" | "no"',
            "root ::= <[999999999]>",
            "root ::= <|no-such-token|>",
        )
    ),
    *(
        f"generate_text(model, 'a', 8, json_schema={schema})"
        for schema in (
            "7", "[]", "'not json'", "'[1]'", "{'type': 'no-such-type'}", "{'$ref': '#/nowhere'}", "{'$ref': 'https://example.org/x'}",
            "{'type': 'string', 'pattern': '('}", "{'type': 'string', 'minLength': 10**9}", "{'enum': [object()]}", "{'type': 'object'}",
            "{'$defs': {'a': {'$ref': '#/$defs/a'}}, '$ref': '#/$defs/a'}", "{'type': 'array', 'minItems': 5, 'maxItems': 2}",
        )
    ),
    "generate_text(model, 'a', 3, grammar=7)",
    "generate_text(model, 'a', 3, grammar='root ::= \"a\"', json_schema={'type': 'object'})",
]  # fmt: skip
CHATTING = [
    *(
        f"generate_chat(model, {messages}, 3)"
        for messages in (
            "None", "[]", "'Hello'", "{'role': 'user', 'content': 'a'}", "['Hello']", "[None]", "[{}]", "[{'role': 'user'}]",
            "[{'content': 'a'}]", "[{'role': 'tool', 'content': 'a'}]", "[{'role': None, 'content': 'a'}]", "[{'role': [], 'content': 'a'}]",
            "[{'role': 'user', 'content': None}]", "[{'role': 'user', 'content': ['a']}]", "[{'role': 'user', 'content': '\\ud800'}]",
            "[{'role': 'user', 'content': 'a', 'extra': 1}]", "[{'role': 'user', 'content': 'a' * 50_000}]", "USER * 2000", "iter(USER)",
            "[{'role': 'assistant', 'content': ''}]", "[{'role': 'system', 'content': 'only'}]", "({'role': 'user', 'content': 'a'},)",
        )
    ),
    *(
        f"generate_chat(model, USER + [{message}], 3)"
        for message in (
            "{'role': 'tool', 'content': 'a'}", "{'role': 'assistant', 'tool_calls': 7}", "{'role': 'assistant', 'tool_calls': [{}]}",
            "{'role': 'assistant', 'tool_calls': [{'function': {'name': ''}}]}", "{'role': 'assistant', 'tool_calls': [None]}",
            "{'role': 'assistant', 'tool_calls': [{'function': {'name': 'f', 'arguments': '{'}}]}",
            "{'role': 'assistant', 'tool_calls': [{'function': {'name': 'f', 'arguments': {1: object()}}}]}",
            "{'role': 'assistant', 'tool_calls': [{'id': 7, 'function': {'name': 'f'}}]}",
            "{'role': 'assistant', 'content': 'a', 'reasoning_content': 7}", "{'role': 'user', 'content': 'a', 'tool_calls': []}",
        )
    ),
    *(
        f"{call}"
        for tools in (
            "7", "'f'", "[]", "[7]", "[{}]", "[{'name': 'a b'}]", "[{'name': 'f', 'parameters': 7}]", "[lambda x: x]", "[len]", "[print]",
            "[{'name': 'f'}, {'name': 'f'}]", "[{'name': 'f', 'parameters': {'type': 'array'}}]", "[{'name': 'f', 'parameters': {'x': {1}}}]",
            "[{'name': 'f', 'parameters': {'properties': {'a': {'type': 'no-such-type'}}}}]", "[int]", "[labkit.load_model]",
        )
        for call in (f"generate_chat(model, USER, 3, tools={tools})", f"labkit.choose_tool(model, USER, {tools}, max_tokens=3)")
    ),
    "labkit.choose_tool(model, USER, [{'name': 'f'}], grammar='root ::= \"a\"')",
    "labkit.choose_tool(model, USER, [{'name': 'f'}], must_call=1)",
    "labkit.choose_tool(None, USER, [{'name': 'f'}])",
    "labkit.choose_tool(model, USER, [{'name': 'f'}], max_tokens=3)",
    *(
        f"generate_chat(model, USER, 3, {option})"
        for option in (
            "thinking=True", "thinking='no'", "thinking=False", "max_thinking_tokens=-1", "max_thinking_tokens='1'", "template_options=7",
            "template_options={'x': 1}", "template_options={'messages': []}", "template_options={7: 1}", "template_options={'role': {1}}",
        )
    ),
    "generate_chat(model, USER, 3, parse_special=True)",
    "count_chat_tokens(model, [])",
    *(
        f"generate_chat(load_model(tmp / 'template_{name}.gguf'), USER, 3)"
        for name in ("none", "syntax", "endless", "doubling", "power", "recursion", "raises", "attribute", "wide", "silent")
    ),
]  # fmt: skip
ORDER = [
    "model.close(); model.close()",
    *(
        f"model.close(); {call}"
        for call in (
            "generate_text(model, 'a')", "generate_chat(model, USER)", "list(stream_text(model, 'a'))", "count_tokens(model, 'a')",
            "count_chat_tokens(model, USER)", "model.tokenize(b'a')", "model.detokenize([1])", "model('a')", "model.eval([1])",
            "model.n_ctx()", "model.n_vocab()", "model.n_embd()", "model.token_eos()", "model.reset()", "model.save_state()", "model.cancel()",
            "model.create_completion('a')", "model.create_chat_completion(USER)", "model.sample()", "model.embed('a')", "model.set_seed(1)",
            "model.ctx", "model.model", "model.eval_logits", "next(model.generate([1]))", "repr(model)", "model.settings", "model.load_log",
            "model.__enter__()", "model.pooling_type()", "model.tokenizer()", "model.token_bos()", "model.load_state(None)",
        )
    ),
    "s = stream_text(model, 'a', None); next(s); model.close(); list(s)",
    "s = stream_text(model, 'a', 5); model.close(); list(s)",
    "s = stream_text(model, 'a', None); next(s); del s; gc.collect(); generate_text(model, 'a', 3)",
    "s = stream_text(model, 'a', 5); t = stream_text(model, 'b', 5); list(zip(s, t))",
    "s = stream_text(model, 'a', 5); list(s); list(s); s.close(); s.close()",
    "s = stream_text(model, 'a', None); next(s); generate_text(model, 'b', 3)",
    "g = model.generate([5, 6]); next(g); generate_text(model, 'a', 3)",
    "g = model.generate([5, 6]); next(g); g.close(); generate_text(model, 'a', 3)",
    "g = model.generate([5, 6]); next(g); del g; generate_text(model, 'a', 3)",
    "g = model.create_completion('a', max_tokens=400, stream=True); next(g); model.close()",
    "model.generate([]); next(model.generate([10**9]))",
    "model.eval([10**9])",
    "model.eval([-5])",
    "model.detokenize([10**9])",
    "model.detokenize([-3])",
    "model.detokenize(['a'])",
    "model.sample()",
    "model.eval([5] * 5000)",
    "model.create_completion('a' * 100_000)",
    "model.create_completion('a', logprobs=3)",
    "model.create_completion('a', max_tokens=4, grammar='bad')",
    "model.load_state(7)",
    "pickle.dumps(model)",
    "copy.copy(model)",
    "copy.deepcopy(model)",
    "os.truncate(path, 1000) if False else generate_text(model, 'a', 3)",
    "model.cancel(); generate_text(model, 'a', 3)",
    "with model: pass\nwith model: pass",
    "model.settings['nctx']",
    "labkit.Model()",
    # a student's log callback, which llama.cpp keeps by address after Python has freed it
    'import llama_cpp; llama_cpp.llama_log_set(llama_cpp.llama_log_callback(lambda *_: None), ctypes.c_void_p(0)); gc.collect(); junk = [bytearray(300) for _ in range(5000)]; load_model(path).close()',
    "generate_text(model, 'a', 3); import llama_cpp; llama_cpp.llama_log_set(llama_cpp.llama_log_callback(lambda *_: None), ctypes.c_void_p(0)); gc.collect(); junk = [bytearray(300) for _ in range(5000)]; model.close()",
]  # fmt: skip
THREADS = [
    "ts = [threading.Thread(target=generate_text, args=(model, 'a', 20)) for _ in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]",
    "ts = [threading.Thread(target=lambda: list(stream_text(model, 'a', 20))) for _ in range(8)]\n[t.start() for t in ts]; [t.join() for t in ts]",
    "threading.Timer(0.2, model.close).start(); generate_text(model, 'a', None)\ntime.sleep(0.3); generate_text(model, 'a', 3)",
    "threading.Timer(0.1, model.cancel).start(); generate_text(model, 'a', None)",
    "ts = [threading.Thread(target=model.close) for _ in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]",
    "ts = [threading.Thread(target=model.eval, args=([5] * 50,)) for _ in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]",
    "interrupt_after(0.2); generate_text(model, 'a' * 400, None, temperature=1.5); time.sleep(0.5)",
    "interrupt_after(0.1); list(stream_text(model, 'a', None, temperature=1.5)); time.sleep(0.5)",
    "interrupt_after(0.05); [load_model(path).close() for _ in range(50)]; time.sleep(0.5)",
    "interrupt_after(0.1); model.create_completion('a', max_tokens=450, temperature=2); time.sleep(0.5)",
    "a = load_model(path); b = load_model(path); generate_text(a, 'a', 3); a.close(); generate_text(b, 'a', 3)",
    "load_model(path); gc.collect()",
    "x = load_model(path); s = stream_text(x, 'a', None); next(s); x = None; gc.collect(); list(s)",
]
FORKING = [
    "generate_text(model, 'a', 3)\npid = os.fork()\nif pid == 0:\n    try: generate_text(model, 'a', 3)\n    except LabkitError: os._exit(7)\n"
    "    os._exit(1)\nif os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7: raise ValueError('the child had no clear error')",
    "pid = os.fork()\nif pid == 0:\n    model.close(); del model; gc.collect(); os._exit(7)\n"
    "if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7: raise ValueError('the child could not let go')\ngenerate_text(model, 'a', 3)",
]
HOSTILE_OBJECT = (
    "class Hostile:\n    def __getattr__(self, name): raise RuntimeError('no')\n    def __repr__(self): raise RuntimeError('no')\n"
    "    def __index__(self): raise RuntimeError('no')\n    def __float__(self): raise RuntimeError('no')\n"
)
# Cases that crashed, hung or gave wrong results in stress tests.
FOUND = [
    *(
        f"generate_text(load_model(path, kv_overrides={{{key!r}: {value}}}), 'a', 3)"
        for key, value in (
            ("llama.block_count", 1), ("llama.block_count", -1), ("llama.expert_count", 8), ("llama.rope.dimension_count", 7),
            ("llama.attention.head_count_kv", 3), ("llama.embedding_length", 0), ("llama.vocab_size", 5),
            ("llama.attention.key_length", 3), ("llama.attention.layer_norm_rms_epsilon", -1.0), ("llama.rope.freq_base", 0.0),
            ("llama.attention.sliding_window", 4), ("llama.context_length", 2**31 - 1), ("llama.expert_used_count", 3),
            ("llama.rope.scaling.type", "'yarn'"), ("llama.rope.scaling.factor", 1e-30), ("general.architecture", "'mamba'"),
            ("tokenizer.ggml.model", "'t5'"), ("tokenizer.ggml.pre", "'nope'"), ("tokenizer.ggml.bos_token_id", 10**6),
            ("tokenizer.ggml.eos_token_id", 10**6), ("tokenizer.ggml.add_bos_token", True), ("qwen2.context_length", 512),
        )
    ),
    "load_model(window, n_ctx=2**31 - 1)",
    "load_model(path, n_ctx=2**28, logits_all=True)",
    "generate_text(load_model(path, n_threads=512), 'a', 2)",
    "generate_text(load_model(path, n_threads=1, n_threads_batch=512), 'a', 2)",
    "generate_text(load_model(path, n_batch=1, n_ubatch=1), 'abc' * 9, 3)",
    "generate_text(load_model(path, n_batch=7, n_ubatch=3), 'abc' * 40, 3)",
    "generate_text(load_model(path, n_ctx=16384, n_batch=16384, n_ubatch=16384), 'a', 3)",
    "generate_text(load_model(path, rope_freq_base=1e-30, rope_freq_scale=1e5), 'a', 3)",
    "generate_text(load_model(path, split_mode=0, main_gpu=7), 'a', 3)",
    "generate_text(load_model(path, numa=True), 'a', 3)",
    "generate_text(load_model(path, attention_type=1), 'a', 3)",
    "generate_text(load_model(path, pooling_type=4), 'a', 3)",
    "load_model(path, draft_model=lambda tokens: tokens).create_completion('a', max_tokens=4)",
    "load_model(path, draft_model=lambda tokens: 1 / 0).create_completion('a', max_tokens=4)",
    "load_model(path, tokenizer=type('T', (), {'tokenize': None, 'detokenize': None})()).create_completion('a')",
    "load_model(path, chat_format='functionary').create_chat_completion(USER, max_tokens=2)",
    "load_model(path, chat_handler=lambda **kwargs: 7).create_chat_completion(USER)",
    "load_model(path, progress=lambda fraction: load_model(path))",
    "import shutil; p = tmp / 'a\\nb\\x1b[31m.gguf'; shutil.copy(path, p); load_model(p, kv_overrides={'tokenizer.ggml.pre': 'no'})",
    "import shutil; p = tmp / 'a\\nb.gguf'; shutil.copy(path, p); m = load_model(p); m.close(); generate_text(m, 'a')",
    "import shutil; p = os.fsdecode(os.fsencode(tmp) + b'/\\xff.gguf'); shutil.copy(path, p); generate_text(load_model(p), 'a', 3)",
    "load_model(path, **{'a\\nb': 1})",
    "load_model(path, **{'x' * 10_000: 1})",
    *(f"generate_text(load_model(tmp / '{name}.gguf'), 'a', 3)" for name in ("bert", "t5")),
    *(f"load_model(tmp / '{name}.gguf').create_completion('a', max_tokens=3)" for name in ("bert", "t5")),
    *(f"load_model(tmp / '{name}.gguf', embedding=True).embed('the a')" for name in ("bert", "t5", "tiny")),
    *(f"load_model(path, embedding=True).embed({value})" for value in ("''", "[]", "['']", "7", "['a', None]", "'a' * 9999")),
    "load_model(path, embedding=True).create_completion('a')",
    "load_model(path, vocab_only=True).eval([5])",
    "load_model(path, vocab_only=True).embed('a')",
    "generate_text(model, 'a', max_tokens=10**5000)",
    "generate_text(model, 'a', max_tokens=-10**5000)",
    "generate_text(model, 'a', 3, temperature=10**5000)",
    "generate_text(model, 'a', 3, temperature=np.array([0.5]))",
    "generate_text(model, 'a', np.array([3]))",
    *(
        HOSTILE_OBJECT + call
        for call in (
            "generate_text(model, Hostile())", "generate_text(model, 'a', Hostile())", "generate_text(model, 'a', 3, Hostile())",
            "generate_text(model, 'a', 3, stop=Hostile())", "generate_text(model, 'a', 3, grammar=Hostile())",
            "generate_text(model, 'a', 3, json_schema=Hostile())", "generate_chat(model, Hostile())", "generate_chat(model, [Hostile()])",
            "generate_chat(model, [{'role': Hostile(), 'content': 'a'}])", "generate_chat(model, [{'role': 'user', 'content': Hostile()}])",
            "generate_text(Hostile(), 'a')", "load_model(path, n_ctx=Hostile())", "load_model(path, kv_overrides=Hostile())",
            "load_model(path, progress=Hostile())", "load_model(Hostile())", "load_model(path, tensor_split=Hostile())",
        )
    ),
    *(f"count_tokens(model, {text} * {times})" for text in ("'%'", "'1'", "'a'", "' '", "'é'", "'🦙'") for times in (60_000, 1_000_000)),
    "model.tokenize(b'%' * 60_000)",
    "model.tokenize(b'\\xff\\xfe')",
    "model.tokenize('text')",
    "t = threading.Thread(target=count_tokens, args=(model, '%' * 60_000)); t.start(); t.join()",
    *(
        f"generate_text(model, 'a', 8, grammar={grammar!r})"
        for grammar in (
            'root ::= e root "x" | "y"\ne ::= f\nf ::= | "z"',
            "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)) + '\nr60 ::= "a"',
            "root ::= r0\n" + "\n".join(f'r{i} ::= r{i + 1} "x" | r{i + 1} "y"' for i in range(60)) + '\nr60 ::= "a"',
            "\n".join(f"r{i} ::= r{i + 1}" for i in range(15_000)) + '\nr15000 ::= "a"\nroot ::= r0',
            'root ::= ""*', "root ::= []*", 'root ::= ("a"|)*', 'root ::= ("a"?){100}', 'root ::= ("a"?){2000}',
            f'root ::= "{"a" * 1000}"{{2000}}', "root ::= " + " | ".join(['"a"'] * 30_000), "root ::= [z-a]", 'root ::= "\\x00"',
            "root ::= <[4294967296]>", "root ::= <|im_end|>", "root ::= !<|im_end|>", "root ::= <nosuch>", 'root ::= "\\uD800"',
        )
    ),
    *(
        f"from llama_cpp import LlamaGrammar; model.create_completion('a', max_tokens=3, grammar=LlamaGrammar(_grammar={grammar!r}))"
        for grammar in ("root ::= (", "root ::= [z-a]", 'root ::= root "a"', 'root ::= "a"{3,2}', "")
    ),
    "from llama_cpp import LlamaGrammar; model.create_completion('a', grammar=LlamaGrammar(_grammar=7))",
    "from llama_cpp import LlamaGrammar; list(model.generate([5], grammar=LlamaGrammar(_grammar='root ::= [z-a]')))",
    *(
        f"generate_text(model, 'a', 8, json_schema={schema})"
        for schema in (
            "{'type': 'array', 'items': {}, 'minItems': 10**8}", "{'type': 'string', 'maxLength': 10**8}",
            "{'type': 'string', 'pattern': '^a{1000000000}$'}", "{'type': 'string', 'pattern': '((a+)+)+'}", "{'$ref': '#'}",
            "{'type': 'integer', 'minimum': -10**30}", "{'enum': []}", "{'enum': ['🦙' * 9]}", "{7: 7}", "{'type': object()}",
        )
    ),
    "d = {'type': 'object'}; d['properties'] = {'a': d}; generate_text(model, 'a', 3, json_schema=d)",
    "d = {'type': 'null'}\nfor _ in range(40): d = {'anyOf': [d, d]}\ngenerate_text(model, 'a', 3, json_schema=d)",
    "d = {'type': 'null'}\nfor _ in range(5000): d = {'type': 'array', 'items': d}\ngenerate_text(model, 'a', 3, json_schema=d)",
    *(
        f"generate_chat(load_model(tmp / 'template_{name}.gguf'), USER, 3)"
        for name in ("compiling", "equal", "hash", "nesting", "blocks", "parentheses", "empty", "comment", "surrogate", "escape", "sum")
    ),
    "load_model(tmp / 'template_compiling.gguf').create_chat_completion(USER, max_tokens=3)",
    "load_model(tmp / 'template_syntax.gguf').create_chat_completion(USER, max_tokens=3)",
    "s = model.create_completion('a', stream=True, max_tokens=50); t = model.create_completion('b', stream=True); next(s); next(t)",
    "s = model.create_completion('a', stream=True, max_tokens=50); next(s); next(stream_text(model, 'b', 3))",
    "s = model.create_completion('a', stream=True, max_tokens=50); next(s); model.reset()",
    "s = model.create_completion('a', stream=True, max_tokens=50); next(s); count_tokens(model, 'a')",
    "s = model.generate([5]); next(s); s.send([10**9])",
    "s = model.generate([5]); next(s); t = threading.Thread(target=s.close); t.start(); t.join()",
    "s = stream_text(model, 'a', 300)\nts = [threading.Thread(target=list, args=(s,)) for _ in range(4)]\n[t.start() for t in ts]; [t.join() for t in ts]",
    "s = stream_text(model, 'a', None); next(s); t = threading.Thread(target=list, args=(s,)); t.start(); s.close(); t.join()",
    "from llama_cpp import StoppingCriteriaList as L; model.create_completion('a', stopping_criteria=L([lambda i, s: model.close()]))",
    "from llama_cpp import StoppingCriteriaList as L; model.create_completion('a', stopping_criteria=L([lambda i, s: 1 / 0]))",
    "from llama_cpp import LogitsProcessorList as L; model.create_completion('a', logits_processor=L([lambda i, s: (model.close(), s)[1]]))",
    "from llama_cpp import LogitsProcessorList as L; model.create_completion('a', logits_processor=L([lambda i, s: s * float('nan')]))",
    "from llama_cpp import LogitsProcessorList as L; model.create_completion('a', logits_processor=L([lambda i, s: s[:3]]))",
    "with model.vocabulary(): model.close()",
    "with model.vocabulary(): model.create_completion('a', max_tokens=3)",
    "with model.vocabulary(): generate_chat(model, USER, 3)",
    "model.create_completion('a', max_tokens=3, logit_bias={10**9: 1.0})",
    "model.create_completion('a', max_tokens=3, logit_bias={'x': 1.0})",
    "model.create_completion([10**9], max_tokens=3)",
    "model.create_completion(['a'], max_tokens=3)",
    "model.create_completion([], max_tokens=3)",
    "model.create_completion('', max_tokens=3)",
    "model.create_completion('\\ud800', max_tokens=3)",
    *(f"model.create_completion('a', max_tokens=3, temperature={value})" for value in ("float('nan')", "-1.0", "1e30", "'hot'")),
    *(f"model.create_completion('a', max_tokens=3, {value})" for value in ("top_k=-5", "top_p=-1.0", "min_p=9.0", "typical_p=-1.0")),
    *(f"model.create_completion('a', max_tokens=3, {value})" for value in ("mirostat_mode=1", "mirostat_mode=2", "mirostat_mode=77")),
    "model.create_completion('a', max_tokens=3, mirostat_mode=1, mirostat_tau=float('nan'), mirostat_eta=-1.0)",
    *(f"model.create_completion('a', max_tokens=3, {value})" for value in ("repeat_penalty=0.0", "frequency_penalty=float('inf')")),
    "model.create_completion('a', max_tokens=3, suffix='b')",
    "model.create_completion('a', max_tokens=3, echo=True, stop=['a'])",
    "model.create_completion('a', max_tokens=3, seed='x')",
    "model.set_seed('x'); model.create_completion('a', max_tokens=3)",
    "model.set_cache(7); model.create_completion('a', max_tokens=3)",
    "model.load_state(None)",
    "model.eval([5]); s = model.save_state(); s.llama_state = b'x' * len(s.llama_state); model.load_state(s)",
    "model.eval([5]); s = model.save_state(); s.llama_state = s.llama_state[:9]; model.load_state(s)",
    "model.eval([5]); s = model.save_state(); s.n_tokens = 10**6; model.load_state(s); generate_text(model, 'a', 3)",
    "model.eval([5]); s = model.save_state(); m = load_model(path, n_ctx=256); m.load_state(s); m.eval([6])",
    "model.eval([5]); s = model.save_state(); m = load_model(window, n_ctx=256); m.load_state(s); m.eval([6])",
    "model.n_tokens = 400; model.eval([5] * 200)",
    "model.n_batch = 10**6; generate_text(model, 'a' * 400, 3)",
    "model.eval('text')",
    "model.eval(None)",
    "model.sample(temp=float('nan'))",
    "model.eval([5]); model.sample(idx=10**6)",
    "model.generate(5)",
    "model.detokenize(5)",
    "model.detokenize([5], prev_tokens=[10**9])",
    "model.create_embedding('a')",
    "model.create_chat_completion([])",
    "model.create_chat_completion([{'role': 'wizard', 'content': 'a'}], max_tokens=3)",
    "model.create_chat_completion(USER, response_format={'type': 'json_object', 'schema': {'type': 'nope'}})",
    "model.create_chat_completion(USER, max_tokens=3, tools=[{'type': 'function', 'function': {'name': object()}}])",
    "os.chdir(tmp); generate_chat(model, USER, 3)",
    "import sys; sys.executable = None; generate_chat(model, USER, 3)",
]  # fmt: skip
KILL = "import psutil; p = psutil.Process(d.pid); "
DEVICES = [
    *(
        f"load_model(path, n_gpu_layers=-1, devices={value})"
        for value in (
            "[]", "None", "0", "'127.0.0.1:1'", "['127.0.0.1:1']", "['127.0.0.1']", "['cuda']", "[b'127.0.0.1:1']", "[7]",
            "['127.0.0.1:1', '127.0.0.1:1']", "['127.0.0.1:-1']", "['127.0.0.1:99999']", "['\\x00:1']", "['%s:1']",
            "['a' * 10**6 + ':1']", "['localhost:1'] * 10**5", "[[]]", "iter([])", "{'127.0.0.1:1': 1}", "[float('nan')]",
        )
    ),
    "load_model(path, device=['127.0.0.1:1'])",
    "labkit.start_device('0.0.0.0:0')",
    "labkit.start_device('127.0.0.1:70000')",
    "labkit.start_device(50052)",
    "labkit.start_device(n_threads=10**6)",
    "labkit.start_device(n_threads=None)",
    "labkit.serve_device('8.8.8.8:50052')",
    "labkit.serve_device('')",
    "import sys; kept, sys.executable = sys.executable, None\ntry:\n labkit.start_device()\nfinally:\n sys.executable = kept",
    "labkit.ServedDevice()",
    "d = labkit.start_device(); d.close(); load_model(path, n_gpu_layers=-1, devices=[d])",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=-1, devices=[d]); d.close(); generate_text(m, 'a', 5)",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=-1, devices=[d]); d.close(); m.eval([5])",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=-1, devices=[d]); d.close(); m.save_state()",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=-1, devices=[d]); d.close(); m.tokenize(b'a')",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=-1, devices=[d]); d.close(); m.close(); m.close()",
    "d = labkit.start_device(); load_model(path, n_gpu_layers=-1, devices=[d], progress=lambda done: d.close())",
    "d = labkit.start_device(); load_model(path, n_gpu_layers=-1, devices=[d], split_mode=2)",
    "d = labkit.start_device(); load_model(path, n_gpu_layers=-1, devices=[d], split_mode=3, flash_attn=True)",
    "d = labkit.start_device(); load_model(path, n_gpu_layers=-1, devices=[d], split_mode=0, main_gpu=9)",
    "d = labkit.start_device(); load_model(path, n_gpu_layers=-1, devices=[d], tensor_split=[0, 0])",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=1, devices=[d]); threading.Timer(0.05, d.close).start(); [generate_text(m, 'a', 300) for _ in range(200)]",
    "d = labkit.start_device(); m = load_model(path, n_gpu_layers=1, devices=[d]); interrupt_after(0.1); [generate_text(m, 'a', 300) for _ in range(200)]",
    "d = labkit.start_device(); " + KILL + "m = load_model(path, n_gpu_layers=1, devices=[d]); p.suspend(); interrupt_after(0.1); generate_text(m, 'a', 9)",
    "d = labkit.start_device(); " + KILL + "m = load_model(path, n_gpu_layers=1, devices=[d]); p.suspend(); m.close()",
    "pickle.dumps(labkit.start_device())",
]  # fmt: skip
CASES = [
    *LOADING,
    *DEVICES,
    *GENERATING,
    *GRAMMARS,
    *CHATTING,
    *ORDER,
    *THREADS,
    *FOUND,
    *(FORKING if hasattr(__import__("os"), "fork") else []),
]

TWINS = (
    "{% set ns = namespace(s=['a'], t=['a']) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}"
    "{% set ns.t = [ns.t, ns.t] %}{% endfor %}"
)
TEMPLATES = {
    "none": None,
    "syntax": "{% for m in messages %}{{ m.content }",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "raises": "{{ raise_exception('no system role') }}",
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "wide": "{{ '%9999999999d' | format(1) }}{{ 'a'.ljust(9999999999) }}",
    "silent": "",
    "compiling": "{{ 'a' | batch(1000000000, 'x') | list | length }}",
    "equal": TWINS + "{{ ns.s == ns.t }}",
    "hash": TWINS + "{{ {(ns.s | string): 1} | length }}",
    "nesting": TWINS + "{{ ns.s }}",
    "sum": "{{ ([range(99999) | list] * 99999) | sum(start=[]) | length }}",
    "blocks": "{% for a in 'ab' %}" * 30 + "{% endfor %}" * 30,
    "parentheses": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "empty": "",
    "comment": "{# nothing #}",
    "surrogate": "{{ '\\ud800' }}",
    "escape": "{{ raise_exception('\x1b[31m\nred') }}",
}
BROKEN = {
    "empty.gguf": b"",
    "text.gguf": b"This is not a model.\n" * 10,
    "html.gguf": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "zip.gguf": b"PK\x03\x04" + bytes(100),
    "v9.gguf": b"GGUF\x09\x00\x00\x00" + bytes(100),
}


class Child:
    """A process that runs cases until one of them crashes it."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("misuse_child.py")), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"'):
                self.lines.put(line)
        self.lines.put(None)

    def run(self, index: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([index, CASES[index]]) + "\n")
        self.process.stdin.flush()
        while True:
            try:
                line = self.lines.get(timeout=LIMIT_S)
            except queue.Empty:
                self.process.kill()
                self.process.wait()
                return {"ended": "hang"}
            if line is None:
                return {"ended": f"process died with {self.process.wait()}"}
            answer = json.loads(line)
            if answer.get("end") == index:
                return dict(answer)

    def close(self) -> None:
        """Wait until the process exits."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(timeout=LIMIT_S)
        self.reader.join()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[int, dict[str, Any]]:
    """Run every selected case; replace a child that crashed or hangs."""
    selected = {item.callspec.params["index"] for item in request.session.items if item.name.startswith(TEST)}
    folder = tmp_path_factory.mktemp("misuse")
    whole = write_tiny_model(folder / "tiny.gguf").read_bytes()
    (folder / "half.gguf").write_bytes(whole[: len(whole) // 2])
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    for name, template in TEMPLATES.items():
        write_tiny_model(folder / f"template_{name}.gguf", template=template)
    write_tiny_model(folder / "window.gguf", architecture="gemma3")
    for name in ("bert", "t5"):
        write_tiny_encoder(folder / f"{name}.gguf", name)
    results: dict[int, dict[str, Any]] = {}
    child = Child(folder)
    for index in sorted(selected):
        results[index] = child.run(index)
        if child.process.poll() is not None:
            child.close()
            child = Child(folder)
    child.close()
    return results


TEST = "test_misuse_ends_in_one_line_or_works"
# Without --thorough, every fourth case is tried.
THOROUGH = {f"{TEST}[{index}-{CASES[index][:60]}]" for index in range(len(CASES)) if index % 4}


def test_there_are_enough_cases() -> None:
    """There are at least 120 cases, without duplicates."""
    assert len(CASES) == len(set(CASES)) >= 120


@pytest.mark.timeout(900)
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: f"{index}-{CASES[index][:60]}")
def test_misuse_ends_in_one_line_or_works(index: int, outcomes: dict[int, dict[str, Any]]) -> None:
    """No crash, no hang, no foreign exception; the message is one line."""
    outcome = outcomes[index]
    if "interrupt_after" in CASES[index] and outcome["ended"] == "KeyboardInterrupt":
        return
    assert outcome["ended"] in ("worked", "LabkitError"), f"{CASES[index]}\n{outcome}"
    message = outcome.get("message", "one line")
    assert message
    assert "\n" not in message
