"""The shape of bain.yaml: written once; the loader, the JSON Schema and the documentation come from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from bainmarie.settings.values import (
    Duration,
    EnvironmentName,
    ModelText,
    Name,
    PathText,
    Size,
    SourceText,
    TemplateText,
    Text,
)

Approval = Literal["ask", "allow", "deny"]


def _table(description: str) -> Any:
    return Field(default_factory=dict, description=description)


class Shape(BaseModel):
    """Nothing is converted silently, nothing unknown is accepted, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GatewaySettings(Shape):
    """Where the gateway listens and who may talk to it."""

    host: Text = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8484, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys: tuple[Text, ...] = Field(
        default=(), description="If there are any, every request but `/health` needs one of them."
    )


class Defaults(Shape):
    """For every model that does not say otherwise."""

    keep_alive: Duration = Field(default=1800.0, description="How long a model stays loaded after its last request.")
    environment: EnvironmentName = Field(default="auto", description="`auto`, or a name under `environments`.")


class ModelSettings(Shape):
    """One model: where its weights are and how it is run."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"engine": {"const": "command"}}, "required": ["engine"]},
            "then": {
                "required": ["command"],
                "properties": {
                    "command": {"contains": {"pattern": r"\{(port|socket)\}"}},
                    "environment": {"not": {"const": "auto"}},
                },
            },
            "else": {"properties": {"command": False, "health": False}},
        },
        protected_namespaces=(),
    )

    model: ModelText | None = Field(
        default=None,
        description="Directory or hub id. A path if it starts with `./`, `../`, `/` or `~`, or is a directory beside "
        "the file. Required but for built-in names and for the engines `command` and `fake`.",
    )
    adapter: PathText | None = Field(
        default=None, description="Directory of a PEFT adapter on `model`; the worker of `model` serves it."
    )
    base: ModelText | None = Field(
        default=None,
        description="Directory or hub id that has the config.json and tokenizer which `model`'s own folder lacks. Not "
        "needed where the folder's README.md or adapter_config.json names it.",
    )
    quantization: Literal["none", "int8", "int4", "nf4", "fp4"] = Field(
        default="none",
        description="How weights are held in memory: by bitsandbytes (`nf4`, `fp4`, on CUDA `int8`), or on CPU by "
        "torch's own kernels (`int8`, `int4`). `none` leaves a checkpoint as it is, quantized ones too.",
    )
    prompt: Literal["chat", "plain"] = Field(
        default="chat",
        description="`chat` uses the model's chat template, `plain` the messages' text alone (base models).",
    )
    system_prompt: str | None = Field(default=None, description="Used when a chat request brings no system message.")
    chat_template: TemplateText | None = Field(
        default=None,
        description="A chat template in place of the adapter's or the model's own: the text itself, or the path of a "
        "file (`.jinja`).",
    )
    environment: EnvironmentName | None = Field(
        default=None, description="`auto` infers the packages from the model's files; else a name under `environments`."
    )
    keep_alive: Duration | None = Field(
        default=None,
        description="How long it stays loaded after its last request: 30m, 90s, 2h, `forever`; 0 unloads at once.",
    )
    engine: Literal["transformers", "command", "fake"] = Field(
        default="transformers",
        description="What generates. `command` is any server you start; `fake` answers without a model, for tests.",
    )
    command: tuple[Text, ...] | None = Field(
        default=None,
        min_length=1,
        description="For the engine `command`: program and arguments, with `{port}` or `{socket}` (and `{name}`) to be "
        "filled in. It starts in the file's folder.",
    )
    health: Annotated[str, Field(pattern="^/")] | None = Field(
        default=None,
        description="For the engine `command`: the path that answers 200 when it is ready; `/health` if not given.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="`auto` is the checkpoint's own."
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        default="auto", description="`auto` takes an accelerator if there is one; else cpu, cuda, cuda:N or mps."
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        default=None,
        description="Spreads the layers over several accelerators, as accelerate's `device_map`; needs `device: auto`.",
    )
    context: int | None = Field(
        default=None, ge=1, description="Tokens of prompt and answer together; else the model's limit."
    )
    allow_pickle: bool = Field(
        default=False, description="Read pickled weights (`.bin`) where there are no safetensors; torch reads no code."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the model's files.")
    parallel: int | None = Field(
        default=None, ge=1, description="Requests that run at once; further ones wait. `workers.parallel` if not given."
    )
    queue: int | None = Field(
        default=None, ge=0, description="Requests that may wait; further ones get a 429. `workers.queue` if not given."
    )
    memory: Size | None = Field(
        default=None,
        description="Memory that it takes at most where its weights lie, such as 4GiB; used until a load has been "
        "measured.",
    )
    pinned: bool = Field(default=False, description="Never unloaded to make room for another model.")
    preload: bool = Field(default=False, description="Load it when the gateway starts.")
    options: Mapping[str, JsonValue] = _table("Settings of one engine alone.")


EXCLUDED: Mapping[str, tuple[str, ...]] = {
    "python_executable": (
        *("python", "packages", "lock", "index_url", "extra_index_urls", "find_links", "torch_backend"),
    ),
    "lock": ("python", "packages", "torch_backend"),
}
"""Keys of an environment that say all that the others would."""


class WorkerSettings(Shape):
    """How workers are started, and limits of their lives."""

    fork_server: bool = Field(
        default=True,
        description="Keep one process for each environment that has imported torch and transformers, and fork workers "
        "from it: a start in a fraction of a second. Linux, models on the CPU; others get a fresh process.",
    )
    pid_namespace: bool = Field(
        default=True,
        description="Keep each worker's processes in a PID namespace where the system allows it (`bain doctor` tells), "
        "so that none survives. Set it to false for workers that start containers by themselves, as `podman` does.",
    )
    start_limit: Duration = Field(default=180.0, description="From the start of the process to its first sign of life.")
    stall_limit: Duration = Field(
        default=300.0, description="A load without progress for so long has failed; one that makes progress goes on."
    )
    load_limit: Duration = Field(default=3600.0, description="For a whole load, whatever its progress.")
    silence_limit: Duration = Field(
        default=120.0, description="A worker with requests that sends nothing for so long is probed for signs of work."
    )
    probe_limit: Duration = Field(
        default=30.0, description="For the answer to that probe; one that neither answers nor works is replaced."
    )
    stop_grace: Duration = Field(default=5.0, description="Between the wish to end and the kill.")
    survive: Duration = Field(
        default=0.0,
        le=3600.0,
        description="When the gateway is killed, its ready workers wait so long for the next one, which goes on with "
        "them as they are. 0 ends them with the gateway.",
    )
    retry_gap: Duration = Field(default=1.0, description="After a first crash; it doubles with each further one.")
    parallel: int = Field(default=256, ge=1, description="Requests of one model that run at once.")
    queue: int = Field(default=1024, ge=0, description="Requests of one model that may wait.")


class MemorySettings(Shape):
    """What all workers together may take."""

    cpu: Size | None = Field(
        default=None,
        description="Such as 16GiB, or 80% of this machine's; idle models are unloaded to stay below. No limit if not "
        "given.",
    )
    gpu: Size | None = Field(
        default=None,
        description="The same for the memory of each NVIDIA accelerator: 20GiB, or 90% of it.",
    )


class EnvironmentSettings(Shape):
    """One Python environment that models share: packages or a lock to build from, or an interpreter."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"if": {"required": [key]}, "then": {"properties": dict.fromkeys(excluded, False)}}
                for key, excluded in EXCLUDED.items()
            ]
        }
    )

    python: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?$")] | None = Field(
        default=None, description='Python version in quotes, such as "3.10".'
    )
    packages: tuple[Text, ...] | None = Field(default=None, description="Requirements as pip writes them.")
    index_url: Text | None = Field(default=None, description="Package index instead of the user's own setting.")
    extra_index_urls: tuple[Text, ...] | None = Field(default=None, description="Further package indexes.")
    find_links: tuple[SourceText, ...] | None = Field(default=None, description="Directories or pages with wheels.")
    torch_backend: Text | None = Field(
        default=None, description="What uv's `--torch-backend` gets where no index is configured: auto, cpu, cu126, ..."
    )
    variables: Mapping[str, str] = _table("Environment variables of the workers.")
    require: Literal["gpu"] | None = Field(
        default=None, description="`gpu`: fail where torch sees no accelerator, instead of working on the CPU."
    )
    lock: PathText | None = Field(
        default=None, description="A file that `bain env lock` wrote, to build exactly that. Excludes python, packages."
    )
    python_executable: PathText | None = Field(
        default=None, description="An existing interpreter, verified and never changed. Excludes all that builds one."
    )


class Rule(Shape):
    """What happens to calls of one tool."""

    tool: Text = Field(description="Name of a tool, or a pattern such as `read_*`.")
    action: Approval = Field(description="`deny` wins over `ask`, `ask` over `allow`.")


class McpServer(Shape):
    """One MCP server: a command or an address."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["command"]}, {"required": ["url"]}]},
    )

    command: tuple[Text, ...] | None = Field(default=None, min_length=1, description="Program and arguments.")
    url: Text | None = Field(default=None, description="Address of a server that runs already.")


class ToolServer(Shape):
    """An HTTP tool server."""

    url: Text = Field(description="Its address.")
    token: str | None = Field(default=None, description="Sent as a bearer token.")


class ToolSettings(Shape):
    """What models may do with tools."""

    approval: Approval = Field(default="ask", description="For calls that no rule names.")
    rules: tuple[Rule, ...] = Field(default=(), description="For single tools.")
    max_iterations: int = Field(default=20, ge=1, description="Turns of one run at most.")
    workspace: PathText | None = Field(
        default=None, description="The only directory that file tools see; else the one the run was started in."
    )
    time_limit: Duration = Field(default=60.0, description="For one tool call.")
    mcp_servers: Mapping[Name, McpServer] = _table("MCP servers by name. Not served yet.")
    tool_server: ToolServer | None = Field(default=None, description="An HTTP tool server. Not served yet.")


class File(Shape):
    """The whole of bain.yaml."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    gateway: GatewaySettings = GatewaySettings()
    defaults: Defaults = Defaults()
    models: Mapping[Name, ModelSettings] = _table("Models by the name that requests use.")
    environments: Mapping[EnvironmentName, EnvironmentSettings] = _table("Python environments by name.")
    tools: ToolSettings = ToolSettings()
    workers: WorkerSettings = WorkerSettings()
    memory: MemorySettings = MemorySettings()
