"""From a request to the sequences that the engine shall continue: prompt text, token ids, how many may follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bainmarie_protocol import ServedModel
from bainmarie_worker.engine.engine import Runner, Tokenizer
from bainmarie_worker.engine.sequence import Sampling, Sequence
from bainmarie_worker.errors import RequestError
from bainmarie_worker.messages import plain_text
from bainmarie_worker.requests import ChatRequest, CompletionRequest, Wish
from bainmarie_worker.template_ways import fitted
from bainmarie_worker.tokenizer import TransformersTokenizer
from bainmarie_worker.transcripts import Transcripts

_PLAIN_TOKENS = 1024
"""Answer at most when the request names no max_tokens and no template tells the model where to end."""


@dataclass(frozen=True)
class Prompt:
    """What is to be continued, and as which text the model reads it."""

    text: str
    sequence: Sequence

    def sequences(self, count: int) -> list[Sequence]:
        """So many of the same, each with a seed of its own where the request has one."""
        sampling = self.sequence.sampling
        if sampling.seed is None:
            return [self.sequence] * count
        seeds = [sampling.seed + number for number in range(count)]
        return [replace(self.sequence, sampling=replace(sampling, seed=seed)) for seed in seeds]


def chat_prompt(request: ChatRequest, served: ServedModel, runner: Runner, transcripts: Transcripts) -> Prompt:
    """Through the model's chat template, or for `prompt: plain` the messages' text alone.

    The template writes begin tokens itself, so none are added to its text. RequestError 400 if there is no template.
    """
    tokenizer = tokenizer_of(runner, served)
    messages = _with_system_prompt(request.messages, served.system_prompt)
    if served.prompt == "plain":
        plain = plain_text(tuple(messages))
        ids = tokenizer.encode(plain, special=True)
        return Prompt(plain, _sequence(request.wish, served, runner, ids, _PLAIN_TOKENS, "messages"))
    if not tokenizer.template:
        raise RequestError(
            400,
            f"the model {served.name!r} has no chat template",
            code="no_chat_template",
            param="messages",
            hint="Set `prompt: plain` for it in bain.yaml, or give it a `chat_template:`.",
        )
    messages = fitted(messages, tokenizer.template)
    text = tokenizer.render(messages, list(request.tools) or None, request.settings)
    return Prompt(text, _sequence(request.wish, served, runner, transcripts.encode(text), None, "messages"))


def completion_prompt(request: CompletionRequest, served: ServedModel, runner: Runner) -> Prompt:
    """The prompt as it is, with what the tokenizer puts around a raw text."""
    ids = tokenizer_of(runner, served).encode(request.prompt, special=True)
    return Prompt(request.prompt, _sequence(request.wish, served, runner, ids, _PLAIN_TOKENS, "prompt"))


def tokenizer_of(runner: Runner, served: ServedModel) -> Tokenizer:
    """The tokenizer of one model name, which may differ from the base's where its adapter or template does."""
    tokenizer = runner.tokenizer
    return tokenizer.of(served) if isinstance(tokenizer, TransformersTokenizer) else tokenizer


def forget_adapter(runner: Runner, adapter: str) -> Iterable[Tokenizer]:
    """Lets go of the tokenizers that came with the adapter, and tells which."""
    tokenizer = runner.tokenizer
    return tokenizer.forget(adapter) if isinstance(tokenizer, TransformersTokenizer) else ()


def _with_system_prompt(messages: tuple[dict[str, Any], ...], default: str | None) -> list[dict[str, Any]]:
    if default is None or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": default}, *messages]


def _sequence(wish: Wish, served: ServedModel, runner: Runner, ids: list[int], most: int | None, of: str) -> Sequence:
    """The prompt, which came in the request's field `of`, is never cut: RequestError 400 if it leaves no room.

    A max_tokens beyond the room that is left ends with finish_reason `length` when the room is used up.
    """
    if not ids:
        raise RequestError(400, "the prompt is empty", code="invalid_value", param=of)
    sampling = wish.sampling_over(runner.defaults)
    _check_bias(sampling, runner.vocabulary)
    room = runner.context - len(ids) if runner.context is not None else wish.max_tokens or _PLAIN_TOKENS
    if room < 1:
        raise RequestError(
            400,
            f"the prompt has {len(ids)} tokens, the model {served.name!r} takes {runner.context} for prompt and answer "
            "together",
            code="context_length_exceeded",
            param=of,
            hint=f"Shorten the {of}.",
        )
    return Sequence(
        prompt=tuple(ids),
        max_tokens=min(room, wish.max_tokens or most or room),
        sampling=sampling,
        adapter=served.adapter,
        ignore_eos=wish.ignore_eos,
        ends=tokenizer_of(runner, served).ends,
        logprobs=wish.logprobs,
    )


def _check_bias(sampling: Sampling, vocabulary: int | None) -> None:
    """RequestError 400 for a token that the model does not have."""
    beyond = [token for token, _ in sampling.logit_bias if vocabulary is not None and token >= vocabulary]
    if beyond:
        raise RequestError(
            400,
            f"logit_bias names the token {beyond[0]}, the model has those from 0 to {(vocabulary or 0) - 1}",
            code="invalid_value",
            param="logit_bias",
        )
