"""Where packages come from: the user's uv and pip settings and the spec's, as settings of one uv call.

uv's own variables reach uv as they are. pip's, which uv does not read, are translated where the uv variable of the same
meaning is not set. The spec's settings win over both. Addresses travel as variables, not as arguments, because they can
carry passwords and arguments are public on a machine.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bainmarie.environments.spec import EnvironmentSpec

_INDEX_VARIABLES = (
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
)
_RESULT_VARIABLES = (
    *_INDEX_VARIABLES,
    *("UV_INDEX_STRATEGY", "UV_TORCH_BACKEND", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE_NEWER", "UV_PRERELEASE"),
    *("UV_RESOLUTION", "UV_NO_BINARY", "UV_ONLY_BINARY", "UV_NO_BUILD"),
)
"""uv's variables that change what is resolved; they are part of a wish's digest."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
_TORCH = re.compile(r"torch(?![\w.-]*[a-z])", re.IGNORECASE)
_CONFIGURED_KEYS = ("index", "index-url", "extra-index-url", "find-links", "no-index")


@dataclass(frozen=True)
class Indexes:
    """Index settings of one uv call: variables to set and arguments to add to `pip compile` and `pip sync`."""

    variables: Mapping[str, str]
    arguments: tuple[str, ...]
    torch_backend: str
    """What `--torch-backend` gets; empty leaves the argument out."""

    @property
    def backend_arguments(self) -> tuple[str, ...]:
        return ("--torch-backend", self.torch_backend) if self.torch_backend else ()

    @property
    def offline(self) -> bool:
        """Whether uv may not use the network."""
        return _truth(self.variables.get("UV_OFFLINE", ""))

    @property
    def identity(self) -> tuple[str, ...]:
        """All that changes the outcome of a resolve, without credentials."""
        named = (f"{name}={self.variables[name]}" for name in _RESULT_VARIABLES if name in self.variables)
        return tuple(without_credentials(text) for text in (*named, *self.arguments, self.torch_backend))

    def with_backend(self, torch_backend: str) -> Indexes:
        return replace(self, torch_backend=torch_backend)


def indexes(spec: EnvironmentSpec, environ: Mapping[str, str], cwd: Path) -> Indexes:
    """The settings for a spec. `environ` holds the user's variables; relative find-links are relative to `cwd`.

    `torch_backend` is the spec's wish, but only where the spec names torch and nobody has configured an index or
    find-links: those who did have already said where their torch comes from.
    """
    variables = dict(environ)
    arguments: list[str] = []
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(environ) and environ.get("PIP_INDEX_URL"):
        variables["UV_DEFAULT_INDEX"] = environ["PIP_INDEX_URL"]
    if not {"UV_INDEX", "UV_EXTRA_INDEX_URL"} & set(environ) and environ.get("PIP_EXTRA_INDEX_URL"):
        variables["UV_INDEX"] = " ".join(environ["PIP_EXTRA_INDEX_URL"].split())
    links = environ.get("UV_FIND_LINKS", "").split(",") or []
    if "UV_FIND_LINKS" not in environ:
        links = environ.get("PIP_FIND_LINKS", "").split()
    if _truth(environ.get("UV_NO_INDEX", environ.get("PIP_NO_INDEX", ""))):
        arguments.append("--no-index")
    if "UV_INSECURE_HOST" not in environ and environ.get("PIP_TRUSTED_HOST"):
        variables["UV_INSECURE_HOST"] = " ".join(environ["PIP_TRUSTED_HOST"].split())
    if not environ.get("SSL_CERT_FILE") and environ.get("PIP_CERT"):
        variables["SSL_CERT_FILE"] = environ["PIP_CERT"]
    if not _proxied(environ) and environ.get("PIP_PROXY"):
        variables["ALL_PROXY"] = environ["PIP_PROXY"]

    if spec.index_url:
        variables.pop("UV_INDEX_URL", None)
        variables["UV_DEFAULT_INDEX"] = spec.index_url
    if spec.extra_index_urls:
        variables.pop("UV_EXTRA_INDEX_URL", None)
        variables["UV_INDEX"] = " ".join(spec.extra_index_urls)
    if spec.find_links:
        links = list(spec.find_links)
    links = [_absolute(link.strip(), cwd) for link in links if link.strip()]
    variables.pop("UV_FIND_LINKS", None)
    if any("," in link for link in links):  # a comma would split the variable's value
        arguments += [part for link in links for part in ("--find-links", link)]
    elif links:
        variables["UV_FIND_LINKS"] = ",".join(links)

    configured = bool(links or "--no-index" in arguments or set(_INDEX_VARIABLES) & set(variables))
    wished = "" if spec.torch_backend == "none" else spec.torch_backend
    automatic = wished == "auto"
    if not names_torch(spec.packages) or (automatic and (configured or _in_uv_configuration(environ))):
        wished = ""
    if "UV_TORCH_BACKEND" in environ and automatic:
        wished = ""
    return Indexes(variables, tuple(arguments), wished)


def names_torch(packages: tuple[str, ...]) -> bool:
    """Whether one of the requirements is torch itself (not torchvision, torch-geometric, ...)."""
    return any(_TORCH.match(package.strip()) for package in packages)


def without_credentials(text: str) -> str:
    """`text` with the user and password of every address in it removed."""
    return _CREDENTIALS.sub("", text)


def _absolute(link: str, cwd: Path) -> str:
    if urlsplit(link).scheme and len(urlsplit(link).scheme) > 1:  # one letter is a Windows drive
        return link
    return str((cwd / Path(link).expanduser()).resolve())


def _truth(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y", "t")


def _proxied(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name) for name in ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"))


def _in_uv_configuration(environ: Mapping[str, str]) -> bool:
    """Whether the user's or the system's uv.toml names an index or find-links."""
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    places = [environ.get("UV_CONFIG_FILE", ""), f"{home}/uv/uv.toml" if home else "", "/etc/uv/uv.toml"]
    if environ.get("APPDATA"):
        places.append(f"{environ['APPDATA']}/uv/uv.toml")
    for place in filter(None, places):
        try:
            settings = tomllib.loads(Path(place).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # uv itself says what is wrong with it
        if any(key in table for table in (settings, settings.get("pip", {})) for key in _CONFIGURED_KEYS):
            return True
    return False
