"""Count how reasoning is kept apart for every chat template in a folder, such as llama.cpp's ``models/templates``.

Each template is put into a tiny model. What its model writes (``WRITTEN``, by hand, from the makers' documentation) goes
token by token through the prompt, the splitter and the budget. Usage: ``python benchmarks/thinking_templates.py FOLDER``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import labkit
from labkit.chat.options import ChatOptions, chat_prompt
from labkit.chat.thinking import Thinking
from labkit.engine.tokenizer import Tokenizer
from tests.tiny_models import SPECIALS, write_tiny_model

REASON, ANSWER = "17 is prime, as I\nsee. A <tag> & [x]", "Yes: 17 <think> is\n\n  prime </think>."
THINK = f"<think>\n{REASON}\n</think>\n\n{ANSWER}"
# The beginning of a template's file name -> all that its model writes after the assistant's header.
WRITTEN = {
    "Apertus": f"<|inner_prefix|>{REASON}<|inner_suffix|>{ANSWER}",
    "Apriel-1.6": f"Here are my reasoning steps:\n{REASON}\n[BEGIN FINAL RESPONSE]\n{ANSWER}",
    "ByteDance-Seed": f"<seed:think>{REASON}</seed:think>{ANSWER}",
    "Cohere2MoE": f"<|START_THINKING|>{REASON}<|END_THINKING|><|START_TEXT|>{ANSWER}<|END_TEXT|>",
    "CohereForAI-c4ai-command-r7b": f"<|START_THINKING|>{REASON}<|END_THINKING|>{ANSWER}",
    "Kimi-K3": f"<|open|>think<|sep|>{REASON}<|close|>think<|sep|><|open|>response<|sep|>{ANSWER}",
    "MiniMax-M3": f"<mm:think>{REASON}</mm:think>{ANSWER}",
    "google-gemma-4": f"<|channel>thought\n{REASON}<channel|>{ANSWER}",
    "ibm-granite-granite-3.3": f"<think>{REASON}</think>\n<response>{ANSWER}",
    "mistralai-Ministral": f"[THINK]{REASON}[/THINK]{ANSWER}",
    "muse": f" to=self<|message|>{REASON}<|eom|><|start|>assistant to=user<|message|>{ANSWER}",
    "openai-gpt-oss": f"<|channel|>analysis<|message|>{REASON}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
    "tencent-Hy3": f"<think:opensource>{REASON}</think:opensource>{ANSWER}",
    "upstage-Solar": f"<|think|>{REASON}<|end|><|begin|>assistant<|content|>{ANSWER}",
    **dict.fromkeys(
        ("Bielik", "GLM-4", "HuggingFaceTB-SmolLM3", "Kimi-K2-Thinking", "LFM2.5", "MiniMax-M2", "NVIDIA", "Qwen-QwQ",
         "Qwen-Qwen3", "Qwen3.5", "Reka", "Spark", "StepFun", "deepseek", "inclusionai", "llama-cpp",
         "openbmb", "poolside"), THINK),
}  # fmt: skip


def main() -> None:
    """Print one line per template that is not exact, and the counts."""
    counts: Counter[str] = Counter()
    for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        written = next((text for name, text in WRITTEN.items() if path.name.startswith(name)), None)
        marks = set(re.findall(r"<[^<>\s'\"{}%]{1,40}>|\[/?[A-Z_]{2,20}\]", source + (written or ""))) - {"<tag>", "<pad>"}
        folder = tempfile.TemporaryDirectory()
        model_path = Path(folder.name) / "tiny.gguf"
        write_tiny_model(model_path, template=source, specials=tuple(dict.fromkeys((*SPECIALS, *sorted(marks)))))
        with (
            labkit.load_model(model_path, n_ctx=512, n_threads=1, vocab_only=True) as model,
            model.vocabulary() as tokenizer,
        ):
            for thinking in (None, True, False):
                result = _result(tokenizer, written, thinking)
                counts[result] += 1
                if result not in ("separated", "no reasoning", "switched off", "as it is"):
                    print(f"{path.stem} thinking={thinking}: {result}")
        folder.cleanup()
    print(", ".join(f"{name} {count}" for name, count in counts.most_common()))


def _result(tokenizer: Tokenizer, written: str | None, thinking: bool | None) -> str:
    messages = [{"role": "user", "content": "Is 17 prime?"}]
    try:
        tokens, split = chat_prompt(tokenizer, messages, ChatOptions(thinking))
    except labkit.LabkitError as error:
        return "no reasoning" if written is None and thinking and "no reasoning" in str(error) else f"error: {error}"
    if not isinstance(split, Thinking):
        return "as it is" if written is None else "left in text"
    if written is None:
        return f"a form that does not exist: {split._form}"
    prompt = "".join(tokenizer.token_text(token) for token in tokens[-40:]).replace("Ġ", " ").replace("Ċ", "\n")
    form = split._form
    text = written
    if prompt.rstrip().endswith(form.begin):  # the prompt has begun it
        text = written.partition(form.begin)[2]
    elif form.end in prompt[-60:].rpartition("17 prime?")[2] and thinking is not True:  # and ended it
        text = ANSWER
    reasoning, answer = _through(tokenizer, split, text)
    if answer != _seen(tokenizer, ANSWER):
        return f"cut wrongly: {reasoning!r} {answer!r}"
    if text == ANSWER:
        return "switched off" if not reasoning else f"cut wrongly: {reasoning!r}"
    return (
        "separated" if reasoning == REASON or (thinking is False and REASON.startswith(reasoning)) else f"cut: {reasoning!r}"
    )


def _through(tokenizer: Tokenizer, split: Thinking, text: str) -> tuple[str, str]:
    parts: list[tuple[Any, str]] = []
    for token in tokenizer.tokenize(text, parse_special=True):
        piece = split.mark(token) + tokenizer.piece(token).decode("utf-8", "replace")
        parts += split.split(piece)
    parts += split.split("", last=True)
    return tuple("".join(text for kind, text in parts if kind == wanted) for wanted in ("reasoning", "answer"))  # type: ignore[return-value]


def _seen(tokenizer: Tokenizer, text: str) -> str:
    """Return a text as the tokenizer's pieces give it: without control tokens."""
    return b"".join(map(tokenizer.piece, tokenizer.tokenize(text, parse_special=True))).decode()


if __name__ == "__main__":
    main()
