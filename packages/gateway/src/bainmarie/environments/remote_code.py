"""What the Python code that comes with a model imports, read without running it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from bainmarie.environments.needs import ALWAYS_THERE, IMPORTS
from bainmarie.environments.spec import Reason


def remote_code_reasons(directory: Path) -> Iterator[Reason]:
    """A package for each import that the table knows, a remark for each that it does not."""
    for file in sorted(directory.glob("*.py")):
        text = f"{file.name}, the model's own code,"
        try:
            imported = imports(file.read_text(encoding="utf-8", errors="replace"))
        except SyntaxError as error:
            yield Reason("", f"{text} cannot be read as Python: {error}", file.name)
            continue
        for name in sorted(imported - ALWAYS_THERE - sys.stdlib_module_names):
            if name in IMPORTS:
                yield Reason(IMPORTS[name], f"{text} imports {name}", file.name)
            elif name == "flash_attn":
                yield Reason("", f"{text} imports flash_attn, which must be compiled: {_FLASH}", file.name)
            elif not (directory / f"{name}.py").exists() and not (directory / name).is_dir():
                yield Reason("", f"{text} imports {name}, which no row of the table knows: {_NAME_IT}", file.name)


_NAME_IT = "if loading fails, name an environment with that package"
_FLASH = "if loading fails, name an environment with a wheel of it that fits your torch and CUDA"


def imports(source: str) -> set[str]:
    """Top-level modules that the code cannot do without.

    What stands in a `try` or under a condition that asks whether something is available is optional.
    """
    return set(_imports(ast.parse(source).body))


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                yield node.module.partition(".")[0]
        elif isinstance(node, ast.Try):
            yield from _imports(node.orelse + node.finalbody)
        elif isinstance(node, ast.If):
            if not any(word in ast.unparse(node.test) for word in ("available", "TYPE_CHECKING")):
                yield from _imports(node.body + node.orelse)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.With):
            yield from _imports(node.body)
