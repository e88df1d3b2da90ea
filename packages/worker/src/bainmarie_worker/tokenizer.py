"""A transformers tokenizer behind the few words that the worker needs."""

from __future__ import annotations

import contextlib
from typing import Any

from bainmarie_worker import tool_parsers
from bainmarie_worker.errors import RequestError


class TransformersTokenizer:
    """Implements `Tokenizer`. Not for several threads at once: fast tokenizers refuse that."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.template = _template(tokenizer)
        shown = set(tool_parsers.markers())
        self._added = tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._hidden = {
            token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special and str(token) not in shown
        }

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """The prompt's text as the chat template writes it. RequestError 400 with the template's own complaint."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is foreign code: any error of it concerns this request alone
            raise RequestError(
                400, f"the model's chat template refuses these messages: {error}", code="template", param="messages"
            ) from error
        return text

    def warm(self) -> None:
        """Compiles the template. One that refuses this conversation is compiled all the same."""
        if self.template:
            with contextlib.suppress(RequestError):
                self.render([{"role": "user", "content": "Hello"}], None)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a raw text, such as a begin token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def is_boundary(self, text: str) -> bool:
        """Whether the text begins with an added token: those never melt into what stands before them."""
        return text.startswith(self._added)

    def decode(self, ids: list[int]) -> str:
        """The text without control tokens; tokens that mark tool calls stay. Incomplete characters become U+FFFD."""
        kept = [token for token in ids if token not in self._hidden]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def _template(tokenizer: Any) -> str:
    """The source of the chat template; of several named ones the one for tools, as transformers itself chooses."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template or ""
