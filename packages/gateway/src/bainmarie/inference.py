"""The Python interface: one call, one text; or one call, a tool loop, and its log.

    text = run_inference(InferenceConfig(prompt="Hello", model_id="demo"))
    text, log = run_inference_with_tools(ToolEnabledInferenceConfig(prompt="What is 173 * 29?", model_id="demo"))

Both talk to the gateway that runs on BAIN_HOME, or start one that ends with this process and serves all its calls.
They block, and may be called from any thread, also below a running event loop. Errors are BainErrors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bainmarie.errors import BadRequest, GatewayUnreachable

if TYPE_CHECKING:
    from bainmarie.cli.asking import Decision
    from bainmarie.cli.runs import Watcher

Approval = Literal["ask", "allow", "deny"]
ApprovalCallback = Callable[[str, Mapping[str, Any]], "bool | Literal['always']"]
"""Gets the tool's name and arguments; True runs the call, "always" also later ones of this tool, False denies it."""
ToolCallback = Callable[[dict[str, Any]], None]
LogCallback = Callable[[str], None]


@dataclass(frozen=True)
class InferenceConfig:
    """One prompt for one model. BadRequest where a value cannot be meant."""

    prompt: str
    model_id: str
    max_new_tokens: int = 256
    temperature: float = 0.7
    """0 always takes the likeliest token."""
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    system_prompt: str | None = None
    """None takes the configuration's for this model."""

    def __post_init__(self) -> None:
        _require(isinstance(self.prompt, str), "prompt", "a text", self.prompt)
        _require(isinstance(self.model_id, str) and self.model_id != "", "model_id", "a model's name", self.model_id)
        _require(_whole(self.max_new_tokens, 1), "max_new_tokens", "a whole number from 1", self.max_new_tokens)
        _require(_between(self.temperature, 0, 2), "temperature", "a number from 0 to 2", self.temperature)
        _require(
            self.top_p is None or (_between(self.top_p, 0, 1) and self.top_p > 0), "top_p", "above 0, to 1", self.top_p
        )
        _require(self.top_k is None or _whole(self.top_k, 1), "top_k", "a whole number from 1", self.top_k)
        _require(self.seed is None or _whole(self.seed, -(2**63)), "seed", "a whole number", self.seed)

    def sampling(self) -> dict[str, Any]:
        """What a request says about how to sample."""
        values = {"top_p": self.top_p, "top_k": self.top_k, "seed": self.seed}
        given = {name: value for name, value in values.items() if value is not None}
        return {"max_tokens": self.max_new_tokens, "temperature": self.temperature, **given}


@dataclass(frozen=True)
class ToolEnabledInferenceConfig(InferenceConfig):
    """One prompt for a model that may call tools."""

    max_tool_iterations: int = 5
    """Turns of the model at most; in the last one it gets no tools, so that it answers."""
    tools: tuple[str, ...] | None = None
    """Names of the tools it is offered; None offers all."""
    workspace: str | Path | None = None
    """The folder that file tools and the shell may touch; None is the current one."""
    approval: Approval | None = None
    """What happens to calls that no rule names; None leaves it to the configuration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.max_tool_iterations
        _require(_whole(count, 1), "max_tool_iterations", "a whole number from 1", count)
        _require(
            self.tools is None or (not isinstance(self.tools, str) and all(isinstance(t, str) for t in self.tools)),
            "tools",
            "names of tools",
            self.tools,
        )
        _require(self.approval in (None, "ask", "allow", "deny"), "approval", "ask, allow or deny", self.approval)
        folder = Path(self.workspace or ".")
        _require(folder.is_dir(), "workspace", "a folder that is there", self.workspace)


def run_inference(config: InferenceConfig) -> str:
    """The model's answer. Loads the model where it is not in memory; it then stays there for the next call."""
    from bainmarie.cli.generate import CHAT, text_of
    from bainmarie.own_gateway import gateway

    messages = [{"role": "system", "content": config.system_prompt}] if config.system_prompt is not None else []
    messages.append({"role": "user", "content": config.prompt})
    body = {"model": config.model_id, "messages": messages, **config.sampling()}
    return text_of(gateway.ask(lambda client: client.post(CHAT, body)))


def run_inference_with_tools(
    config: ToolEnabledInferenceConfig,
    tool_callback: ToolCallback | None = None,
    approval_callback: ApprovalCallback | None = None,
    log_callback: LogCallback | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """The answer after the tool loop, and one entry for each call, in order.

    An entry is {"tool", "args", "status": "success" | "error" | "denied", "result" or "error", "iteration"}.
    `tool_callback` gets each entry when its call has ended, `log_callback` a line for each step. Calls that need
    approval go to `approval_callback`; without one they are denied. What a callback raises cancels the run and
    passes through. A run that fails raises its error; one that ends early (all calls denied, too many turns)
    returns what there is.
    """
    from bainmarie.cli.answers import error_from
    from bainmarie.cli.runs import watch_run
    from bainmarie.own_gateway import gateway

    narrator = _Narrator(tool_callback, approval_callback, log_callback)
    request: dict[str, Any] = {
        "model": config.model_id,
        "prompt": config.prompt,
        "workspace": str(Path(config.workspace or ".").resolve()),
        "max_iterations": config.max_tool_iterations,
        **config.sampling(),
    }
    optional = {
        "system_prompt": config.system_prompt,
        "tools": None if config.tools is None else list(config.tools),
        "approval": config.approval,
    }
    request |= {name: value for name, value in optional.items() if value is not None}
    done = gateway.ask(lambda client: watch_run(client, request, narrator.watcher()))
    narrator.log(f"run {done['status']}")
    if done["status"] == "failed":
        raise error_from(done.get("error") or {})
    if done["status"] in ("cancelled", "interrupted"):
        raise GatewayUnreachable(f"the run was {done['status']} on the gateway", code=str(done["status"]))
    return str(done.get("text") or ""), list(done["log"])


class _Narrator:
    """Turns a run's events into the caller's callbacks."""

    def __init__(self, tool: ToolCallback | None, approval: ApprovalCallback | None, log: LogCallback | None) -> None:
        self._tool, self._approval, self._log = tool, approval, log
        self._calls: dict[str, dict[str, Any]] = {}
        self._stage = ""

    def watcher(self) -> Watcher:
        from bainmarie.cli.runs import Watcher

        return Watcher(decide=self._decide, item=self._item, status=self._status)

    def log(self, line: str) -> None:
        if self._log is not None:
            self._log(line)

    def _item(self, item: dict[str, Any]) -> None:
        kind = item.get("type")
        if kind == "message" and item["role"] == "assistant" and item["text"]:
            self.log(f"turn {item['iteration']}: {item['text']}")
        elif kind == "tool_call":
            self._calls[item["id"]] = item
            self.log(f"turn {item['iteration']}: {item['name']} {item['arguments']}")
        elif kind == "tool_result" and (call := self._calls.get(item["call_id"])):
            entry = _entry(call, item)
            self.log(f"{entry['tool']} {entry['status']}: {item['text']}")
            if self._tool is not None:
                self._tool(entry)

    def _status(self, status: dict[str, Any]) -> None:
        from bainmarie.cli.stages import stage_of

        stage = stage_of(status)
        if stage and stage != self._stage:
            self.log(f"{status['id']}: {stage}")
        self._stage = stage

    def _decide(self, tool: str, arguments: Mapping[str, Any]) -> Decision:
        from bainmarie.cli.asking import Decision

        if self._approval is None:
            self.log(f"denied {tool}: it needs approval and there is no approval_callback")
            return Decision(False)
        answer = self._approval(tool, arguments)
        return Decision(bool(answer), "session" if answer == "always" else "once")


def _entry(call: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The log entry of one call, as the run's own log will have it."""
    status = "error" if result["status"] == "interrupted" else str(result["status"])
    return {
        "tool": call["name"],
        "args": _parsed(call["arguments"]),
        "status": status,
        "result" if status == "success" else "error": result["text"],
        "iteration": call["iteration"],
    }


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise BadRequest(f"{name}: expected {expected}, found {found!r}", param=name)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _between(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
