"""What the gateway runs by: the checked configuration, and the models and environments in it."""

from __future__ import annotations

import ipaddress
import math
from pathlib import Path

from pydantic import PrivateAttr

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.training_folders import resolved
from bainmarie.settings.builtin import with_built_in
from bainmarie.settings.shape import Defaults, EnvironmentSettings, File, ModelSettings
from bainmarie.settings.values import bytes_of


class Settings(File):
    """Immutable. Paths are absolute; durations are seconds, `math.inf` for ever."""

    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Where it was read from; None for the built-in settings."""
        return self._file

    def catalog(self) -> Catalog:
        """All models, the built-in ones included, with defaults filled in and training folders resolved."""
        folder = str(self._file.absolute().parent if self._file else Path.cwd())
        models = {
            name: resolved(_model(name, model, self.defaults, folder))
            for name, model in with_built_in(self.models).items()
        }
        environments = {name: _environment(name, found) for name, found in self.environments.items()}
        return Catalog(models, environments)

    def notices(self) -> list[str]:
        """What is accepted but has no effect yet, or deserves a second look; one line each."""
        found = []
        if self.tools.mcp_servers:
            found.append(f"tools.mcp_servers: not served yet; no tools of {', '.join(self.tools.mcp_servers)}")
        if self.tools.tool_server:
            found.append("tools.tool_server: not served yet; none of its tools")
        if not is_loopback(self.gateway.host) and not self.gateway.api_keys:
            found.append(f"gateway: {self.gateway.host} can be reached from other machines and api_keys is empty")
        return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _model(name: str, model: ModelSettings, defaults: Defaults, folder: str) -> ModelSpec:
    own = model.engine == "command"  # any server: it needs no environment of ours
    keep_alive = defaults.keep_alive if model.keep_alive is None else model.keep_alive
    return ModelSpec(
        name=name,
        engine=model.engine,
        model=model.model or "",
        adapter=model.adapter,
        base=model.base or "",
        quantization=model.quantization,
        prompt=model.prompt,
        system_prompt=model.system_prompt,
        chat_template=model.chat_template,
        environment=model.environment or ("" if own else defaults.environment),
        keep_alive=None if math.isinf(keep_alive) else keep_alive,
        dtype=model.dtype,
        device=model.device,
        device_map=model.device_map,
        allow_pickle=model.allow_pickle,
        trust_remote_code=model.trust_remote_code,
        context=model.context,
        command=model.command or (),
        health=model.health or "/health",
        folder=folder if own else "",
        parallel=model.parallel,
        queue=model.queue,
        memory=None if model.memory is None else bytes_of(model.memory),
        pinned=model.pinned,
        preload=model.preload,
        options=tuple(sorted(model.options.items())),
    )


def _environment(name: str, found: EnvironmentSettings) -> EnvironmentSpec:
    return EnvironmentSpec(
        name=name,
        python=found.python or "",
        packages=found.packages or (),
        index_url=found.index_url,
        extra_index_urls=found.extra_index_urls or (),
        find_links=found.find_links or (),
        torch_backend=found.torch_backend or "auto",
        variables=tuple(sorted(found.variables.items())),
        lock=found.lock,
        require=found.require or "",
        python_executable=found.python_executable,
    )
