"""The JSON of answers in OpenAI's form, and server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from labkit.chat.tool_choice import read_choice
from labkit.engine.results import TokenLogprob
from labkit.errors import GenerationError
from labkit.serve.scheduler import Piece, Ticket

_REASONS = {"end": "stop", "stop": "stop", "length": "length"}
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


class Form:
    """One answer's form: of a chat or a text, whole or in chunks."""

    def __init__(self, model_id: str, ticket: Ticket) -> None:
        given = self._given = ticket.prepared
        self._is_chat = given.request.is_chat
        self.wants_usage = given.include_usage
        self._ticket, self._offset, self._begins = ticket, 0, True
        name = "chat.completion" if self._is_chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{name}.chunk" if self._is_chat and given.stream else name,
            "created": int(time.time()),
            "model": model_id,
        }

    def whole(self, piece: Piece) -> dict[str, Any]:
        """Return the whole answer."""
        text = {"message": {"role": "assistant", **self._said(piece)}} if self._is_chat else {"text": piece.text}
        return {**self._head, "choices": [self._choice(text, piece)], "usage": usage(self._ticket)}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """Return a chunk of the answer."""
        text: dict[str, Any] = {"text": piece.text}
        if self._is_chat:
            text = {"delta": {**({"role": "assistant"} if self._begins else {}), **self._said(piece)}}
        self._begins = False
        extra = {"usage": None} if self._given.include_usage else {}
        return {**self._head, "choices": [self._choice(text, piece)], **extra}

    def last(self) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return {**self._head, "choices": [], "usage": usage(self._ticket)}

    def _said(self, piece: Piece) -> dict[str, Any]:
        """Return the fields of an assistant's message: its text, its reasoning, its call of a tool."""
        said: dict[str, Any] = {"content": piece.text}
        if piece.reasoning:
            said["reasoning_content"] = piece.reasoning
        if self._given.has_tools:
            try:
                choice = read_choice(piece.text)
            except GenerationError:  # cut off by max_tokens: the finish_reason says so
                return said
            said["content"] = choice.text if choice.name is None else None
            if choice.name is not None:
                arguments = json.dumps(choice.arguments, ensure_ascii=False)
                function = {"name": choice.name, "arguments": arguments}
                call = {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}
                said["tool_calls"] = [call]
        return said

    def _choice(self, text: dict[str, Any], piece: Piece) -> dict[str, Any]:
        logprobs: dict[str, Any] | None = None
        if self._given.request.settings.logprobs is not None:
            logprobs = _chat_logprobs(piece.logprobs) if self._is_chat else self._text_logprobs(piece.logprobs)
        reason = _REASONS.get(piece.finish_reason or "")
        if "tool_calls" in (text.get("message") or text.get("delta") or ()):
            reason = "tool_calls"
        return {"index": 0, **text, "logprobs": logprobs, "finish_reason": reason}

    def _text_logprobs(self, found: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        offsets = []
        for one in found:
            offsets.append(self._offset)
            self._offset += len(one.text)
        return {
            "tokens": [one.text for one in found],
            "token_logprobs": [one.logprob for one in found],
            "top_logprobs": [{each.text: each.logprob for each in one.top} for one in found],
            "text_offset": offsets,
        }


def usage(ticket: Ticket) -> dict[str, Any]:
    """Return a request's tokens and times."""
    n_prompt, n_generated = len(ticket.prepared.request.prompt), ticket.n_generated
    decode_s = ticket.ended_s - ticket.first_s
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": ticket.n_cached},
        "timings": {
            "queue_s": ticket.started_s - ticket.arrived_s,
            "prefill_s": ticket.first_s - ticket.started_s,
            "decode_s": decode_s,
            "tokens_per_second": (n_generated - 1) / decode_s if n_generated > 1 and decode_s > 0 else 0.0,
        },
    }


def _chat_logprobs(found: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    def entry(one: TokenLogprob) -> dict[str, Any]:
        return {"token": one.text, "logprob": one.logprob, "bytes": list(one.piece)}

    return {"content": [{**entry(one), "top_logprobs": [entry(each) for each in one.top]} for one in found]}
