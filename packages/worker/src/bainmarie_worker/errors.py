"""The two ways in which a worker says no: to one request, or to the whole load."""

from __future__ import annotations


class RequestError(Exception):
    """One request cannot be answered. The worker lives on."""

    def __init__(
        self, status: int, message: str, *, code: str = "bad_request", param: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.hint = hint

    def to_json(self) -> dict[str, object]:
        """The OpenAI error shape."""
        error: dict[str, object] = {
            "message": self.message,
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "code": self.code,
            "param": self.param,
        }
        if self.hint:
            error["hint"] = self.hint
        return {"error": error}


class LoadError(Exception):
    """A model or an adapter cannot be loaded. `message` is one line, `hint` says what to do about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())
        self.hint = hint

    def as_request_error(self) -> RequestError:
        """The same, for a request that asked for the adapter."""
        return RequestError(503, self.message, code=self.code, hint=self.hint)
