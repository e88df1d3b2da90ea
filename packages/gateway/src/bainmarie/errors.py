"""Every error that reaches a person, with its HTTP status and its exit code.

    BainError
    ├── BadRequest              400   2   the request's or the command's words are off (TooLarge: 413)
    ├── ConfigurationError      500   3   bain.yaml is wrong; carries file, line, column
    ├── Refused                 403   2   the request may not come from there (401: it brings no valid key)
    ├── NotFound                404   4   unknown model, run, tool, approval
    ├── EnvironmentFailed       503   5   an environment could not be built or is not fit
    ├── LoadFailed              503   6   a worker did not start, or died while loading
    ├── WorkerDied              502   6   a worker died while it answered
    ├── GatewayUnreachable      503   7   no gateway, or its address is taken
    ├── SmokeTestFailed         500   8   `bain test`
    ├── ApprovalFailed          409   9   decided already, or the call has changed
    └── OverCapacity            503  10   memory full, or the gateway stops (QueueFull: 429)

`message` says what happened and where, `hint` what to do next. `code` is stable, for programs.
"""

from __future__ import annotations


class BainError(Exception):
    """The root: never raised itself."""

    status = 500
    exit_code = 1
    type = "server_error"
    code = "error"

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", param: str | None = None, log_tail: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code
        self.param = param
        self.log_tail = log_tail

    def to_json(self) -> dict[str, object]:
        """The OpenAI error shape, with `hint` and `log_tail` where there are any."""
        error: dict[str, object] = {
            "message": self.message,
            "type": self.type,
            "code": self.code,
            "param": self.param,
        }
        if self.hint:
            error["hint"] = self.hint
        if self.log_tail:
            error["log_tail"] = self.log_tail
        return {"error": error}


class BadRequest(BainError):
    status = 400
    exit_code = 2
    type = "invalid_request_error"
    code = "bad_request"


class TooLarge(BadRequest):
    status = 413
    code = "request_too_large"


class Refused(BainError):
    status = 403
    exit_code = 2
    type = "permission_error"
    code = "forbidden"


class KeyMissing(Refused):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ConfigurationError(BainError):
    """`message` begins with `file:line:column:` where the place is known."""

    exit_code = 3
    type = "configuration_error"
    code = "configuration"


class NotFound(BainError):
    status = 404
    exit_code = 4
    type = "invalid_request_error"
    code = "not_found"


class EnvironmentFailed(BainError):
    status = 503
    exit_code = 5
    type = "environment_error"
    code = "environment_failed"


class LoadFailed(BainError):
    status = 503
    exit_code = 6
    type = "load_error"
    code = "load_failed"


class WorkerDied(BainError):
    status = 502
    exit_code = 6
    type = "worker_error"
    code = "worker_died"


class GatewayUnreachable(BainError):
    status = 503
    exit_code = 7
    type = "gateway_error"
    code = "gateway_unreachable"


class SmokeTestFailed(BainError):
    exit_code = 8
    code = "smoke_test_failed"


class ApprovalFailed(BainError):
    status = 409
    exit_code = 9
    type = "invalid_request_error"
    code = "approval_failed"


class OverCapacity(BainError):
    """`retry_after`: seconds after which another try may go well."""

    status = 503
    exit_code = 10
    type = "capacity_error"
    code = "over_capacity"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        param: str | None = None,
        log_tail: str = "",
        retry_after: int = 5,
    ) -> None:
        super().__init__(message, hint=hint, code=code, param=param, log_tail=log_tail)
        self.retry_after = retry_after


class QueueFull(OverCapacity):
    status = 429
    code = "queue_full"
