"""Look at an environment from inside, before any weights load. Standard library, Python >= 3.7: `-I preflight.py JSON`.

argv[1]: {"prefix": directory sys.prefix must be, or "", "imports": [packages to import for real],
          "needs": [packages that must be there]}
stdout, last line: {"prefix", "base_prefix", "executable", "version": [3, 11, 7], "versions": {distribution: version},
          "accelerator": "cpu" | "cuda" | ... | "", "problems": [{"kind", "package", "message"}]}
kind: `missing` (no such package), `broken` (its import fails; message is the last line of the error),
`identity` (this is not the interpreter that was meant). Exit code 0 also with problems.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys


def main() -> None:
    question = json.loads(sys.argv[1])
    problems = []
    prefix = question["prefix"]
    if prefix and os.path.realpath(prefix) != os.path.realpath(sys.prefix):
        problems.append(_problem("identity", "", f"the interpreter belongs to {sys.prefix}, not to {prefix}"))
    for name in question["needs"]:
        if importlib.util.find_spec(name) is None:
            problems.append(_problem("missing", name, f"there is no package {name}"))
    missing = {problem["package"] for problem in problems}
    for name in question["imports"]:
        if name not in missing:
            problems.extend(_import(name))
    answer = {
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "executable": sys.executable,
        "version": list(sys.version_info[:3]),
        "versions": _versions(),
        "accelerator": _accelerator(),
        "problems": problems,
    }
    print("\n" + json.dumps(answer))  # noqa: T201


def _import(name: str) -> list[dict[str, str]]:
    """A real import: it also leaves the compiled bytecode, so that the first worker starts faster."""
    try:
        module = importlib.import_module(name)
        if name == "transformers":
            module.AutoModelForCausalLM  # noqa: B018  its modules load when it is named
            module.AutoTokenizer  # noqa: B018
    except Exception as error:  # noqa: BLE001  whatever an import raises is the finding
        lines = str(error).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {lines[-1]}"
        kind = "missing" if isinstance(error, ModuleNotFoundError) and error.name == name else "broken"
        return [_problem(kind, name, text)]
    return []


def _versions() -> dict[str, str]:
    try:
        from importlib.metadata import distributions
    except ImportError:  # Python 3.7 and older: refused for its version anyway
        return {}
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def _accelerator() -> str:
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    if torch.cuda.is_available():
        return "cuda"
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        return "mps"
    return "cpu"


def _problem(kind: str, package: str, message: str) -> dict[str, str]:
    return {"kind": kind, "package": package, "message": message}


if __name__ == "__main__":
    main()
