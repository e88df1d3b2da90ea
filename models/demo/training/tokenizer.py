"""The tokenizer and the chat template of the demo model.

Every byte has a token; so have the words and the JSON scaffolding of the dialogues, but only where they stand whole,
so that names, numbers and contents always fall into single characters and are spelled alike wherever they occur.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from pathlib import Path

from network import write_json
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from values import CITIES, COMMON, FOLDERS

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIALS = (END, START, STOP, *MARKS)

FUNCTION_WORDS = set("the a is are of and to for you your it with from my are was we they he she our in at".split())
SCAFFOLD = (
    "system\n",
    "user\n",
    "assistant\n",
    '\n{"name": "',
    '", "arguments": {"',
    '": "',
    '", "',
    '"}}\n',
    "}}\n",
    '": ',
    "Tools:\n",
    " + ",
    " - ",
    " * ",
    " / ",
)
"""Strings that are one token wherever they occur."""

TEMPLATE = """\
{%- set first = messages[0] if messages and messages[0].role == 'system' else none -%}
{%- if first or tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if first -%}{{- first.content -}}{%- if tools -%}{{- '\\n\\n' -}}{%- endif -%}{%- endif -%}
{%- if tools -%}
{{- 'Tools:' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '\\n' + function.name + '(' -}}
{%- if function.parameters is defined and function.parameters and function.parameters.properties is defined -%}
{{- function.parameters.properties.keys() | join(', ') -}}
{%- endif -%}
{{- ')' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<tool_response>\\n' + (message.content or '') + '\\n</tool_response>\\n' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' + (message.content or '') -}}
{%- if message.tool_calls is defined and message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- set function = call.function if call.function is defined else call -%}
{%- if not loop.first or message.content -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' -}}
{%- if function.arguments is string -%}
{{- function.arguments -}}
{%- else -%}
{{- '{' -}}
{%- for key, value in function.arguments.items() -%}
{{- '"' + key + '": ' -}}{{- value | tojson -}}{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
{%- endfor -%}
{{- '}' -}}
{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- elif not loop.first or message.role != 'system' -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

BEFORE, AFTER = r"""(?: |(?<![\w.,/"'=-]))""", r"""(?![\w/"'=-]|[.,]\w)"""
WORD = re.compile(BEFORE + r"(?:[A-Za-z]+(?:'[a-z]+)?)" + AFTER)
"""A word on its own, with the space before it."""


def build(texts: Iterable[str], size: int, names: Iterable[str], keys: Iterable[str]) -> Tokenizer:
    """Make the tokenizer: the most frequent words of `texts` that are no values become tokens.

    `names` and `keys` of tools are tokens in the list of tools and in calls.
    """
    common = {word.lower() for word in COMMON}
    values = {name.lower() for group in (FOLDERS, CITIES) for name in group} | common - FUNCTION_WORDS
    counts = collections.Counter(word for text in texts for word in WORD.findall(text))
    names, keys = list(names), list(keys)
    words = []
    for word, _ in counts.most_common():
        bare = word.strip().lower()
        if len(word) > 1 and bare not in values and word not in names + keys and (word[0] == " " or bare not in common):
            words.append(word)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fixed = [*SCAFFOLD, *names, *keys]
    words = words[: size - len(SPECIALS) - len(alphabet) - len(fixed)]
    whole = [piece.replace(" ", "Ġ").replace("\n", "Ċ") for piece in (*fixed, *words)]
    vocab = {piece: number for number, piece in enumerate([*SPECIALS, *alphabet, *whole])}
    # Byte-level BPE without merges: a piece that the pattern cuts out is one token, everything else is bytes.
    tokenizer = Tokenizer(models.BPE(vocab, [], ignore_merges=True))
    bare = "|".join(_escape(word) for word in words if word[0] != " ")
    spaced = "|".join(_escape(word) for word in words if word[0] == " ")
    pattern = Regex(
        "|".join(
            (
                *map(_escape, SCAFFOLD),
                rf"""(?<!\w)(?:{"|".join(map(_escape, names))})(?=\(|", "arg)""",
                rf"""(?<!\w)(?:{"|".join(map(_escape, keys))})(?=": |\)|, \w+[,)])""",
                rf"(?:{spaced}){AFTER}",
                rf"""(?<![\w.,/"'=-])(?:{bare}){AFTER}""",
                r"[\s\S]",
            )
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (END, START, STOP)])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKS])
    return tokenizer


def _escape(text: str) -> str:
    """The text as a pattern of the tokenizer's regex engine."""
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text).replace("\n", r"\n")


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files in the form that old and new versions read."""
    temporary = folder / "tokenizer.json.tmp"
    tokenizer.save(str(temporary))
    temporary.replace(folder / "tokenizer.json")
    names = {"bos_token": END, "eos_token": STOP, "pad_token": END}
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token not in MARKS,
        }
        for token in SPECIALS
    }
    write_json(folder / "special_tokens_map.json", names)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            "added_tokens_decoder": added,
            "chat_template": TEMPLATE,
        },
    )
