"""A transformers tokenizer behind the few words that the worker needs."""

from __future__ import annotations

import contextlib
import filecmp
import inspect
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bainmarie_protocol import ServedModel
from bainmarie_worker import answer_format, chat_templates
from bainmarie_worker.engine.engine import Spelling
from bainmarie_worker.errors import LoadError, RequestError
from bainmarie_worker.template_ways import with_text_arguments
from bainmarie_worker.token_bytes import token_bytes
from bainmarie_worker.tokenizer_loading import has_tokenizer, load_tokenizer, special_tokens


class TransformersTokenizer:
    """Implements `Tokenizer`. Not for several threads at once: fast tokenizers refuse that."""

    def __init__(self, tokenizer: Any, template: str | None = None, directory: str = "", trust: bool = False) -> None:
        self._tokenizer = tokenizer
        self._directory = directory
        self._trust = trust
        self._variants: dict[tuple[str | None, str | None], TransformersTokenizer] = {}
        self._given = template
        """A template in place of the tokenizer's own; None lets the tokenizer choose among those it has."""
        own = chat_templates.chosen(getattr(tokenizer, "chat_template", None))
        self.template = own if template is None else template
        self._begin = getattr(tokenizer, "bos_token_id", None)
        end = getattr(tokenizer, "eos_token_id", None)
        ends, shown = answer_format.ends(self.template), answer_format.markers(self.template)
        self.ends = frozenset(
            token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token_id == end or str(token) in ends
        ) | frozenset(() if end is None else (end,))
        self._added = tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._hidden = {
            token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special and str(token) not in shown
        }

    def of(self, served: ServedModel) -> TransformersTokenizer:
        """The tokenizer that this model name speaks: with its adapter's files, with its own chat template.

        RequestError 503 where the configured template cannot be read or parsed; it is read anew the next time.
        """
        key = (served.adapter, served.chat_template)
        if key == (None, None):
            return self
        if key not in self._variants:
            try:
                self._variants[key] = self._variant(served)
            except LoadError as error:
                raise error.as_request_error() from error
        return self._variants[key]

    def forget(self, adapter: str) -> list[TransformersTokenizer]:
        """What this adapter's files said is read anew when it comes again. Those that are let go."""
        gone = [key for key in self._variants if key[0] == adapter]
        return [self._variants.pop(key) for key in gone]

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The prompt's text as the chat template writes it; `settings` are names of its own.

        A template that cannot write arguments as objects gets them as text. RequestError 400 with the template's own
        complaint, or for a setting that is not the template's.
        """
        write = self._tokenizer.apply_chat_template
        foreign = settings.keys() & (inspect.signature(write).parameters.keys() - {"documents"})
        if foreign:
            raise RequestError(
                400,
                f"chat_template_kwargs cannot set {', '.join(sorted(foreign))}",
                code="invalid_value",
                param="chat_template_kwargs",
            )

        def written(messages: list[dict[str, Any]]) -> str:
            text: str = write(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, chat_template=self._given, **settings
            )
            return text

        try:
            try:
                return written(messages)
            except TypeError:
                return written(with_text_arguments(messages))
        except Exception as error:  # a template is foreign code: any error of it concerns this request alone
            raise RequestError(
                400, f"the model's chat template refuses these messages: {error}", code="template", param="messages"
            ) from error

    def warm(self) -> None:
        """Compiles the template. One that refuses this conversation is compiled all the same."""
        if self.template:
            with contextlib.suppress(RequestError):
                self.render([{"role": "user", "content": "Hello"}], None)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a raw text, such as a begin token, once only.

        RequestError 400 for a text that is none.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                400, f"the text holds half of a surrogate pair: {error}", code="invalid_value", param="messages"
            ) from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        while special and self._begin is not None and ids[:2] == [self._begin, self._begin]:
            del ids[0]  # the text brought its own
        return ids

    def is_boundary(self, text: str) -> bool:
        """Whether the text begins with an added token: those never melt into what stands before them."""
        return text.startswith(self._added)

    def decode(self, ids: list[int]) -> str:
        """The text without control tokens; those that mark reasoning and calls stay. Half characters become U+FFFD."""
        kept = [token for token in ids if token not in self._hidden]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def spell(self, token: int) -> Spelling:
        """One token by itself, a control token by its name."""
        text: str = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        raw = token_bytes(self._tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else None
        if raw is None:
            return Spelling(text, text.encode())
        return Spelling("bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw)

    def _check_syntax(self, served: ServedModel) -> None:
        """LoadError where the configured template is none, by the parser that will read it."""
        try:
            self.render([{"role": "user", "content": "Hello"}], None)
        except RequestError as refused:  # whatever else the template says of this conversation
            error = refused.__cause__
            if error is not None and type(error).__name__ == "TemplateSyntaxError":
                raise chat_templates.broken(served, error) from error

    def _variant(self, served: ServedModel) -> TransformersTokenizer:
        tokenizer, template = self._tokenizer, chat_templates.configured(served)
        if served.adapter is not None:
            template = template or chat_templates.of_directory(served.adapter)
            if self._differs(served.adapter):
                tokenizer = load_tokenizer(served.adapter, self._trust)
                template = template or self.template or None
        variant = TransformersTokenizer(tokenizer, template)
        if served.chat_template is not None:
            variant._check_syntax(served)
        return variant

    def _differs(self, adapter: str) -> bool:
        """Whether the adapter brings a tokenizer of its own and not a copy of its base's."""
        if not os.path.isdir(adapter) or not has_tokenizer(adapter):
            return False
        own, base = (os.path.join(place, "tokenizer.json") for place in (adapter, self._directory))
        same = os.path.isfile(own) and os.path.isfile(base) and filecmp.cmp(own, base, shallow=False)
        said = special_tokens(adapter)
        return not same or (bool(said) and said != special_tokens(self._directory))
