"""Meet a model: summary, tokens, a completion, a streamed chat, speed and memory, in less than 30 seconds.

The default is the bundled SmolLM2-135M-Instruct, which needs no download.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import labkit
from labkit.cli.output import Output
from labkit.units import counted, format_bytes, format_count, format_duration, format_rate

HELP = "meet the bundled model: tokens, text, a chat, speed and memory"

PROMPT = "The three primary colours are"
QUESTION = "Why is the sky blue? Answer in two sentences."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FILE", help="another GGUF file, or a name from `labkit models`")
    parser.add_argument("--question", default=QUESTION, help="question to ask in the chat")
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads; default: all physical cores")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    card = _card(labkit.get_model_info(args.model))
    out.title("1. The model")
    out.table(("", ""), card.items())
    with labkit.load_model(args.model, n_threads=args.threads, progress=not args.json) as model:
        results = {
            "card": card,
            "tokens": _show_tokens(model, out),
            "completion": _show_completion(model, out),
            "chat": _show_chat(model, args.question, out),
            "speed": _show_speed(model, out),
            "memory": _show_memory(model, out),
        }
    out.say()
    out.say("Next: labkit lab --work mine opens your copy of the course; labkit doctor checks the installation.")
    out.result(results)
    return 0


def _card(info: labkit.ModelInfo) -> dict[str, str]:
    return {
        "name": info.name,
        "file": Path(info.path).name,
        "architecture": info.architecture,
        "weights": f"{format_count(info.parameter_count)} in {format_bytes(info.weights_bytes)}",
        "bits per weight": f"{info.bits_per_weight:.2f}",
        "tensors": ", ".join(f"{count} {name}" for name, (count, _) in info.tensor_types.items()),
        "trained context": f"{info.context_length or 0:,} tokens",
        "licence": info.license or "not stated",
    }


def _show_tokens(model: labkit.Model, out: Output) -> dict[str, Any]:
    tokens = model.tokenize(PROMPT.encode(), add_bos=False)
    pieces = [model.detokenize([token]).decode("utf-8", "replace") for token in tokens]
    out.title("2. Tokens: what the model reads")
    out.say(f"{PROMPT!r} is {counted(len(tokens), 'token')}: {' · '.join(pieces)}")
    return {"text": PROMPT, "count": len(pieces), "pieces": pieces}


def _show_completion(model: labkit.Model, out: Output) -> dict[str, Any]:
    text = labkit.generate_text(model, PROMPT, max_tokens=24, temperature=0)
    out.title("3. Completion: the model continues a text")
    out.say(f"{PROMPT}[{text}]")
    return {"prompt": PROMPT, "text": text}


def _show_chat(model: labkit.Model, question: str, out: Output) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": question}]
    n_prompt = labkit.count_chat_tokens(model, messages)
    out.title(f"4. A chat (its prompt is {n_prompt} tokens, template included)")
    out.say(f"you:   {question}")
    out.say("model: ", end="")
    answer = ""
    for chunk in labkit.stream_chat(model, messages, max_tokens=80, temperature=0.2, seed=7):
        out.stream(chunk.text)
        answer += chunk.text
    out.say()
    out.say("(A model of 135 million weights is quick and often wrong; larger ones know more.)", style="dim")
    return {"question": question, "answer": answer, "n_prompt": n_prompt}


def _show_speed(model: labkit.Model, out: Output) -> dict[str, Any]:
    model.reset()  # type: ignore[no-untyped-call]  # llama_cpp's own method
    labkit.generate_text(model, "Once upon a time, " * 25, max_tokens=64, temperature=0)
    report = model.last_generation
    if report is None:
        return {}
    out.title("5. Speed on this machine")
    rows = [
        ("prompt", format_rate(report.prompt_tokens_per_second), f"{report.n_prompt} tokens at once"),
        ("generation", format_rate(report.decode_tokens_per_second), "one token at a time"),
        ("time to first token", format_duration(report.prefill_s), f"after a prompt of {report.n_prompt} tokens"),
    ]
    out.table(("", "", ""), rows)
    return dict(report)


def _show_memory(model: labkit.Model, out: Output) -> dict[str, Any]:
    from labkit.system import peak_resident_bytes

    peak = peak_resident_bytes()
    out.title("6. Memory and settings")
    out.say(f"{format_bytes(peak)} peak RSS: weights, cache for {model.n_ctx():,} tokens, buffers, and Python itself")
    settings = model.settings
    out.say(f"threads: {settings.n_threads} (physical cores available to this process); flash attention "
            f"{settings.reasons.get('flash_attn', 'as given')}")  # fmt: skip
    return {"peak_resident_bytes": peak, "settings": settings.to_dict()}
