"""A client's JSON -> a checked request; what this server cannot do is refused in OpenAI's form, never ignored in silence."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labkit.chat.messages import check_messages
from labkit.chat.options import ChatOptions, chat_prompt
from labkit.chat.prompt import ChatTokenizer
from labkit.chat.tool_choice import ask_for_choice
from labkit.chat_template.tools import call_schema, check_tools
from labkit.checks import check_flag, check_int, one_line, shown
from labkit.engine.generation import GenerationRequest, Splitter
from labkit.engine.sampling_settings import MAX_LOGPROBS, MAX_SEED, SamplingSettings, check_max_tokens, check_sampling
from labkit.errors import (
    ArgumentError,
    ArgumentTypeError,
    ContextOverflowError,
    LabkitError,
    ModelClosedError,
)

if TYPE_CHECKING:
    from labkit.engine.model import Model

_MAX_STOPS = 16  # each costs time per token
_COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens in /v1/completions
_SAMPLING = set(SamplingSettings._fields) - {"temperature", "logprobs"} | {"json_schema"}
_NEUTRAL = {"n": 1, "best_of": 1, "logit_bias": {}, "echo": False, "suffix": ""}
_MISSING = {
    "functions": "functions (use tools)", "audio": "audio", "logit_bias": "logit_bias", "echo": "echo",
    "suffix": "suffix", "n": "more than one choice (n)", "best_of": "best_of",
}  # fmt: skip
_KINDS = {403: "permission_error", 404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error in OpenAI's form, with its HTTP status."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


def unavailable(message: str) -> ApiError:
    """Return the error of a request that may succeed later."""
    return ApiError(503, message, headers={"retry-after": "5"})


def api_error(error: BaseException) -> ApiError:
    """Return an error of labkit, or an unexpected one, as an answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextOverflowError):
        return ApiError(400, one_line(error, 1000), "context_length_exceeded")
    if isinstance(error, (ArgumentError, ArgumentTypeError)):
        return ApiError(400, one_line(error, 1000), "invalid_value")
    if isinstance(error, ModelClosedError):
        return unavailable(one_line(error, 1000))
    if isinstance(error, LabkitError):
        return ApiError(500, one_line(error, 1000))
    logging.getLogger(__name__).error("unexpected error", exc_info=error)
    return ApiError(500, f"an unexpected error in the server ({type(error).__name__}): please report this")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request that fits, and how to answer."""

    request: GenerationRequest
    stream: bool
    include_usage: bool
    has_tools: bool

    @property
    def streams(self) -> bool:
        """Whether text is sent while it comes; a choice of a tool only when it is complete."""
        return self.stream and not self.has_tools


def read_json(data: bytes) -> dict[str, Any]:
    """Return the object of a request's body."""
    try:
        body = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 (byte {error.start:,}): send JSON in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON ({one_line(error, 200)}): send one JSON object") from error
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be a JSON object, not {shown(body)}")
    return body


def prepare(model: Model, body: Mapping[str, Any], n_ctx: int, *, is_chat: bool) -> Prepared:
    """Check a request and compute its prompt's tokens; call it outside the server's loop."""
    body = {name: value for name, value in body.items() if value is not None}
    _refuse_missing(body)
    settings = check_sampling(body.get("temperature", 0.7), {**_options(body), "logprobs": _n_logprobs(body, is_chat)})
    options = body.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise ArgumentTypeError(f"stream_options must be an object, not {shown(options)}")
    limit = _limit(body, is_chat)
    tools, must_call = _tools(body) if is_chat else ([], False)
    splitter = Splitter()
    if tools:
        schema = call_schema(tools, must_call=must_call)
        settings = settings._replace(grammar=check_sampling(0, {"json_schema": schema}).grammar)
    if is_chat:
        prompt, splitter = _chat(model, body, tools, must_call=must_call, constrained=settings.grammar is not None)
    else:
        prompt = _prompt_tokens(model, body)
    if len(prompt) + (limit or 1) > n_ctx:
        raise ContextOverflowError(len(prompt), limit, n_ctx)
    return Prepared(
        GenerationRequest(prompt, limit or n_ctx - len(prompt), settings, splitter, is_chat=is_chat),
        stream=check_flag("stream", body.get("stream", False)),
        include_usage=check_flag("include_usage", options.get("include_usage", False)),
        has_tools=bool(tools),
    )


def _refuse_missing(body: Mapping[str, Any]) -> None:
    for name, what in _MISSING.items():
        if body.get(name) and body[name] != _NEUTRAL.get(name):
            raise ApiError(400, f"this server does not support {what}: leave {name!r} out", "unsupported_parameter")


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: body[name] for name in _SAMPLING if body.get(name, "") != ""}
    if type(options.get("seed")) is int:
        options["seed"] %= MAX_SEED + 1  # OpenAI's have 64 bits
    if isinstance(options.get("stop"), list) and len(options["stop"]) > _MAX_STOPS:
        raise ArgumentError(f"stop has {len(options['stop']):,} texts: at most {_MAX_STOPS} are possible")
    form = body.get("response_format", {"type": "text"})
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind != "text" and "json_schema" in options:
        raise ArgumentError("json_schema and response_format were both given: an answer can follow one of them, so send one")
    if kind == "json_object":
        options["json_schema"] = form.get("schema") or {"type": "object"}  # as in llama.cpp's server
    elif kind == "json_schema":
        given = form.get("json_schema")
        options["json_schema"] = given.get("schema") if isinstance(given, Mapping) else None
        if not isinstance(options["json_schema"], Mapping):
            raise ArgumentError('response_format needs {"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}')
    elif kind != "text":
        raise ArgumentError(f"response_format is {shown(form)}: its type must be text, json_object or json_schema")
    return options


def _limit(body: Mapping[str, Any], is_chat: bool) -> int | None:
    given = body.get("max_completion_tokens", body.get("max_tokens", None if is_chat else _COMPLETION_TOKENS))
    limit = check_max_tokens(given)
    if limit == 0:
        raise ArgumentError("max_tokens=0 asks for nothing: it must be at least 1")
    return limit


def _n_logprobs(body: Mapping[str, Any], is_chat: bool) -> int | None:
    if not is_chat:
        return check_int("logprobs", body["logprobs"], 0, MAX_LOGPROBS) if "logprobs" in body else None
    n_top = check_int("top_logprobs", body.get("top_logprobs", 0), 0, MAX_LOGPROBS)
    if check_flag("logprobs", body.get("logprobs", False)):
        return n_top
    if n_top:
        raise ArgumentError('top_logprobs needs "logprobs": true')
    return None


def _prompt_tokens(model: Model, body: Mapping[str, Any]) -> list[int]:
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    with model.vocabulary() as tokenizer:
        if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
            tokenizer.check_tokens(prompt)
            return prompt
        if not isinstance(prompt, str):
            raise ArgumentTypeError(f"prompt must be one text or one list of tokens, not {shown(prompt)}")
        return tokenizer.prompt_tokens(prompt)


def _tools(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return the tools that the answer may call, and whether it has to."""
    choice = body.get("tool_choice", "auto")
    if choice == "none" or (not body.get("tools") and choice == "auto"):
        return [], False
    tools = check_tools(body.get("tools", []))
    if body.get("response_format", {"type": "text"}) != {"type": "text"} or body.get("grammar") or "json_schema" in body:
        raise ArgumentError(
            "tools and response_format, json_schema or grammar were given: an answer can follow one of them, so send one"
        )
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        tools = [tool for tool in tools if tool["function"]["name"] == name]
    if not tools or not (isinstance(choice, Mapping) or choice in ("auto", "required")):
        raise ArgumentError(
            f"tool_choice is {shown(choice)}: it must be none, auto, required or the name of one of the tools"
        )
    return tools, choice != "auto"


def _chat(
    model: Model, body: Mapping[str, Any], tools: list[dict[str, Any]], *, must_call: bool, constrained: bool
) -> tuple[list[int], Splitter]:
    messages = body.get("messages")
    if isinstance(messages, list):
        messages = [_message(index, message) for index, message in enumerate(messages)]
    checked = check_messages(messages)
    with model.vocabulary() as tokenizer:
        if tools:
            checked = ask_for_choice(tokenizer, checked, tools, must_call=must_call)
        variables = body.get("chat_template_kwargs", {})
        effort = {"reasoning_effort": body["reasoning_effort"]} if "reasoning_effort" in body else {}
        if effort and isinstance(variables, Mapping) and "reasoning_effort" in ChatTokenizer(tokenizer).template.source:
            variables = {**effort, **variables}  # gpt-oss's template knows it, most others do not
        return chat_prompt(tokenizer, checked, ChatOptions(template_options=variables), constrained=constrained)


def _message(index: int, message: Any) -> Any:
    """Return a message as labkit writes it: no fields that are empty or only name the author."""
    if not isinstance(message, dict):
        return message
    plain = {key: value for key, value in message.items() if value not in (None, [], {}) and key != "name"}
    if plain.get("role") == "developer":
        plain["role"] = "system"
    return plain
