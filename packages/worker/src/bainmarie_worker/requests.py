"""What a client asked for: OpenAI bodies read into frozen dataclasses. Unknown fields are ignored.

A field that would change the answer and is not supported is refused with a 400 that names it, never dropped silently.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from bainmarie_worker.engine.sequence import Sampling
from bainmarie_worker.errors import RequestError
from bainmarie_worker.messages import read_messages

_STOPS = 16
"""Stop strings of one request at most (OpenAI takes 4)."""
_LIKELIEST = 20
"""Likeliest tokens told beside each at most, as OpenAI has it."""
_ANSWERS = 128
"""Answers of one request at most, as OpenAI has it."""
_TOKEN_ID = re.compile(r"[0-9]{1,10}")
_DIGITS = 30
"""Of a number that an error shows."""
_REFUSED = (
    *("functions", "function_call", "structured_outputs", "guided_json", "guided_regex", "guided_choice"),
    *("guided_grammar", "grammar", "json_schema", "min_tokens", "stop_token_ids", "prompt_logprobs"),
    *("truncate_prompt_tokens", "continue_final_message"),
)
"""Fields of OpenAI and of other servers that would change the answer; null, false, zero and empty ones do not."""


@dataclass(frozen=True)
class Wish:
    """What chat and completion requests have in common."""

    model: str
    stream: bool
    include_usage: bool
    sampling: tuple[tuple[str, Any], ...]
    """The fields of `Sampling` that the request sets itself."""
    stop: tuple[str, ...]
    max_tokens: int | None
    n: int = 1
    """Answers wanted."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told beside each; None: no probabilities."""
    ignore_eos: bool = False

    def sampling_over(self, defaults: dict[str, Any]) -> Sampling:
        """The request's settings over the model's. One that sets top_p or the like, but no temperature, samples."""
        own = dict(self.sampling)
        if "temperature" not in own and "temperature" not in defaults and own.keys() & {"top_p", "top_k", "min_p"}:
            own["temperature"] = 1.0
        return Sampling(**{**defaults, **own})


@dataclass(frozen=True)
class ChatRequest:
    """POST /v1/chat/completions."""

    wish: Wish
    messages: tuple[dict[str, Any], ...]
    """As the chat template takes them: content is a string, arguments of tool calls are objects where they can be."""
    tools: tuple[dict[str, Any], ...]
    """Empty also where tool_choice is `none`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the chat template is told beside messages and tools, such as `enable_thinking`."""
    inline: bool = False
    """Reasoning stays in the content, as the model wrote it."""


@dataclass(frozen=True)
class CompletionRequest:
    """POST /v1/completions."""

    wish: Wish
    prompt: str


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(data, dict):
        raise RequestError(400, "the body must be a JSON object", code="invalid_json")
    return data


def parse_chat(body: bytes) -> ChatRequest:
    """RequestError 400 with `param` where something is off."""
    data = parse_body(body)
    wish = _wish(data, ("max_completion_tokens", "max_tokens"), _chat_logprobs(data))
    messages, tools = read_messages(data.get("messages")), _tools(data)
    return ChatRequest(wish, messages, tools, _settings(data), _inline(data.get("reasoning_format")))


def parse_completion(body: bytes) -> CompletionRequest:
    """RequestError 400 with `param` where something is off."""
    data = parse_body(body)
    wish = _wish(data, ("max_tokens",), _number(data, "logprobs", 0, _LIKELIEST, whole=True))
    for name in ("echo", "suffix"):
        if data.get(name):
            raise _unsupported(name)
    if data.get("best_of") not in (None, 1):
        raise _unsupported("best_of")
    prompt = data.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise _bad("prompt", "must be a string that is not empty, or a list with one such string")
    return CompletionRequest(wish, prompt)


def _settings(data: dict[str, Any]) -> dict[str, Any]:
    """`chat_template_kwargs`, and `reasoning_effort` as templates name it; its `none` turns thinking off."""
    given = data.get("chat_template_kwargs")
    if given is not None and not isinstance(given, dict):
        raise _bad("chat_template_kwargs", "must be an object")
    effort = data.get("reasoning_effort")
    if effort is not None and not isinstance(effort, str):
        raise _bad("reasoning_effort", "must be a string, such as `low`")
    wished: dict[str, Any] = {}
    if effort == "none":
        wished["enable_thinking"] = False
    elif effort is not None:
        wished["reasoning_effort"] = effort
    return {**wished, **(given or {})}


def _inline(value: Any) -> bool:
    if value not in (None, "auto", "deepseek", "none"):
        raise _bad("reasoning_format", "must be `auto` (or `deepseek`, which is the same), or `none`")
    return bool(value == "none")


def _chat_logprobs(data: dict[str, Any]) -> int | None:
    likeliest = _number(data, "top_logprobs", 0, _LIKELIEST, whole=True)
    if _flag(data, "logprobs"):
        return int(likeliest or 0)
    if likeliest:
        raise _bad("top_logprobs", "needs `logprobs: true`")
    return None


def _logit_bias(data: dict[str, Any]) -> tuple[tuple[int, float], ...] | None:
    value = data.get("logit_bias")
    if not value:
        return None
    if not isinstance(value, dict) or not all(_TOKEN_ID.fullmatch(token) for token in value):
        raise _bad("logit_bias", "must be an object with token ids as keys")
    named = {f"logit_bias.{token}": bias for token, bias in value.items()}
    return tuple((int(token), _number(named, f"logit_bias.{token}", -100, 100) or 0.0) for token in value)


def _wish(data: dict[str, Any], limits: tuple[str, ...], logprobs: int | None) -> Wish:
    model = data.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model", "must be the name of a model")
    for name in _REFUSED:
        if data.get(name):
            raise _unsupported(name)
    form = data.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise _unsupported("response_format")
    options = data.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _bad("stream_options", "must be an object")
    given = (_number(data, name, 1, math.inf, whole=True) for name in limits)
    return Wish(
        model=model,
        stream=_flag(data, "stream"),
        include_usage=_flag(options, "include_usage"),
        sampling=_sampling(data),
        stop=_stop(data.get("stop")),
        max_tokens=next((int(value) for value in given if value is not None), None),
        n=_number(data, "n", 1, _ANSWERS, whole=True) or 1,
        logprobs=logprobs,
        ignore_eos=_flag(data, "ignore_eos"),
    )


def _sampling(data: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    read = {
        "temperature": _number(data, "temperature", 0, 100),
        "top_p": _number(data, "top_p", 0, 1),
        "top_k": _number(data, "top_k", -1, math.inf, whole=True),
        "min_p": _number(data, "min_p", 0, 1),
        "repetition_penalty": _number(data, "repetition_penalty", 0.01, 100),
        "presence_penalty": _number(data, "presence_penalty", -2, 2),
        "frequency_penalty": _number(data, "frequency_penalty", -2, 2),
        "logit_bias": _logit_bias(data),
        "seed": _number(data, "seed", -(2**63), 2**63 - 1, whole=True),
    }
    if read["top_k"] is not None:
        read["top_k"] = max(read["top_k"], 0)
    if 0 < (read["temperature"] or 0) < 1e-4:
        read["temperature"] = 0.0  # dividing by it would overflow; it means greedy
    return tuple((name, value) for name, value in read.items() if value is not None)


def _number(data: dict[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> Any:
    """The number, or None where it is absent or null."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _bad(name, "must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(name, "must be a number")
    if whole and value != int(value):
        raise _bad(name, f"must be a whole number, not {value}")
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise _bad(name, f"must be {limits}, not {_shown(value)}")
    return int(value) if whole else float(value)


def _shown(number: float) -> str:
    digits = str(number)
    return digits if len(digits) <= _DIGITS else f"one of {len(digits)} digits"


def _flag(data: dict[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(name, "must be true or false")
    return bool(value)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise _bad("stop", "must be a string or a list of strings")
    if len(stops) > _STOPS:
        raise _bad("stop", f"takes at most {_STOPS} strings")
    return tuple(s for s in stops if s)


def _tools(data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The function tools; other kinds are skipped, as clients send kinds that only OpenAI's own service has."""
    tools = [] if data.get("tools") is None else data["tools"]
    if not isinstance(tools, list):
        raise _bad("tools", "must be a list")
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            continue
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _bad(f"tools.{place}", "must be {type: function, function: {name, description, parameters}}")
    choice = data.get("tool_choice")
    if choice == "none":
        return ()
    if choice not in (None, "auto"):
        raise RequestError(
            400,
            "tool_choice can be `auto` or `none`: a call cannot be enforced yet",
            code="unsupported",
            param="tool_choice",
        )
    return tuple(tool for tool in tools if tool.get("type", "function") == "function")


def _bad(param: str, what: str) -> RequestError:
    return RequestError(400, f"{param} {what}", code="invalid_value", param=param)


def _unsupported(param: str) -> RequestError:
    return RequestError(400, f"{param} is not supported yet", code="unsupported", param=param)
