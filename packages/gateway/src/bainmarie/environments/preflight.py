"""Look at an environment from inside, before any weights load. Standard library, Python >= 3.7: `-I preflight.py JSON`.

argv[1]: {"prefix": directory sys.prefix must be, or "", "imports": [packages to import for real],
          "needs": [packages that must be there]}
stdout, last line: {"prefix", "base_prefix", "executable", "version": [3, 11, 7], "versions": {distribution: version},
          "accelerator": "cpu" | "cuda" | ... | "", "torch_build": "cpu" | "cuda 13.0" | "rocm 6.4" | "",
          "architectures": [model types that this transformers knows],
          "sought": [top-level modules and distributions that the imports have looked for, found or not],
          "problems": [{"kind", "package", "message"}]}
kind: `missing` (no such module; package is its name), `broken` (its import fails; message is the last line of the
error), `identity` (this is not the interpreter that was meant). Exit code 0 also with problems.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import re
import sys


def main() -> None:
    gc.disable()  # imports make many objects and little garbage
    question = json.loads(sys.argv[1])
    problems = []
    prefix = question["prefix"]
    if prefix and os.path.realpath(prefix) != os.path.realpath(sys.prefix):
        problems.append(_problem("identity", "", f"the interpreter belongs to {sys.prefix}, not to {prefix}"))
    for name in question["needs"]:
        if importlib.util.find_spec(name) is None:
            problems.append(_problem("missing", name, f"there is no package {name}"))
    missing = {problem["package"] for problem in problems}
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    for name in question["imports"]:
        if name not in missing:
            problems.extend(_import(name))
    sys.meta_path.remove(watch)
    answer = {
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "executable": sys.executable,
        "version": list(sys.version_info[:3]),
        "versions": _versions(),
        "accelerator": _accelerator(),
        "torch_build": _torch_build(),
        "architectures": _architectures(),
        "sought": sorted(watch.names),
        "problems": problems,
    }
    print("\n" + json.dumps(answer), flush=True)  # noqa: T201
    os._exit(0)  # taking thousands of modules apart would cost another second


class _Watch:
    """A finder that finds nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        self.names.add(name.partition(".")[0])

    def find_distributions(self, context: object = None) -> tuple[()]:
        name = getattr(context, "name", None)
        if name:
            self.names.add(_normalized(name))
        return ()


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
        absent = _absent(error)
        if absent:
            return [_problem("missing", absent, f"importing {name} needs {absent}, which is not there")]
        return [_problem("broken", name, text)]
    return []


def _absent(error: Exception) -> str:
    """The top-level module that an import did not find; empty where it found the package but not what is in it."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    top = (error.name or "").partition(".")[0]
    return top if top and importlib.util.find_spec(top) is None else ""


def _versions() -> dict[str, str]:
    try:
        from importlib.metadata import distributions
    except ImportError:  # Python 3.7 and older: refused for its version anyway
        return {}
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(_normalized(name), distribution.version)
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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


def _torch_build() -> str:
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    if getattr(torch.version, "hip", None):
        return f"rocm {torch.version.hip}"
    return f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu"


def _architectures() -> list[str]:
    """The keys of transformers' CONFIG_MAPPING_NAMES, read from its source: an import would take a second."""
    spec = importlib.util.find_spec("transformers")
    found: set[str] = set()
    for place in (spec.submodule_search_locations or []) if spec else []:
        for name in ("auto_mappings.py", "configuration_auto.py"):
            try:
                with open(os.path.join(place, "models", "auto", name), encoding="utf-8") as file:
                    text = file.read()
            except OSError:
                continue
            match = re.search(r"^CONFIG_MAPPING_NAMES\b.*?^\)", text, re.DOTALL | re.MULTILINE)
            found.update(re.findall(r'\(\s*"([\w.-]+)"', match.group(0)) if match else [])
    return sorted(found)


def _problem(kind: str, package: str, message: str) -> dict[str, str]:
    return {"kind": kind, "package": package, "message": message}


if __name__ == "__main__":
    main()
