"""Why a worker or an adapter is `failed`, kept for everyone who asks until the next try."""

from __future__ import annotations

from dataclasses import dataclass

from bainmarie.errors import BainError, EnvironmentFailed, LoadFailed

_CRASHES = frozenset(
    {"worker_died", "no_sign_of_life", "stalled", "load_too_long", "internal", "wedged", "out_of_memory"}
)
"""Causes that say nothing about the configuration: too many of them end the automatic starts."""


@dataclass(frozen=True)
class Failure:
    """`code` and `message` say what happened, `hint` what to do, `log_tail` what the process said last."""

    code: str
    message: str
    hint: str = ""
    log_tail: str = ""
    in_environment: bool = False
    """The environment failed, not the worker: another error class, another exit code."""
    retry_at: str | None = None
    """ISO time from which a request may start it again; None: only a manual load."""

    @property
    def crash(self) -> bool:
        return self.code in _CRASHES

    def error(self) -> BainError:
        """A new exception each time: many callers raise it in their own tasks."""
        kind = EnvironmentFailed if self.in_environment else LoadFailed
        return kind(self.message, hint=self.hint, code=self.code, log_tail=self.log_tail)

    @staticmethod
    def of(error: BainError, log_tail: str = "") -> Failure:
        return Failure(
            code=error.code,
            message=error.message,
            hint=error.hint,
            log_tail=error.log_tail or log_tail,
            in_environment=isinstance(error, EnvironmentFailed),
        )
