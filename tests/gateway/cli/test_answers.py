from __future__ import annotations

import json

import pytest

from bainmarie.cli.answers import GatewayError, error_from, to_error
from bainmarie.errors import (
    ApprovalFailed,
    BadRequest,
    BainError,
    ConfigurationError,
    EnvironmentFailed,
    GatewayUnreachable,
    LoadFailed,
    NotFound,
    OverCapacity,
    Refused,
    WorkerDied,
)

KINDS = [
    ApprovalFailed,
    BadRequest,
    ConfigurationError,
    EnvironmentFailed,
    GatewayUnreachable,
    LoadFailed,
    NotFound,
    OverCapacity,
    Refused,
    WorkerDied,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["", "a_more_exact_code"])
def test_an_error_comes_back_as_what_it_was(kind: type[BainError], code: str) -> None:
    if kind in (ConfigurationError, GatewayUnreachable) and code:
        return  # These are raised before there is a gateway to answer with them.
    sent = kind("what happened", hint="what to do", code=code, param="model", log_tail="the\nlog")
    back = to_error(sent.status, json.dumps(sent.to_json()))
    assert type(back) is kind
    assert back.exit_code == sent.exit_code
    assert back.__dict__ == sent.__dict__


@pytest.mark.parametrize("kind", [EnvironmentFailed, LoadFailed, OverCapacity])
def test_an_error_in_a_stream_is_known_by_its_type(kind: type[BainError]) -> None:
    error = kind("what happened", code="a_more_exact_code").to_json()["error"]
    assert isinstance(error, dict)
    assert type(error_from(error)) is kind


def test_an_answer_that_is_no_json_still_says_something() -> None:
    error = to_error(502, b"<html>Bad gateway</html>")
    assert isinstance(error, WorkerDied)
    assert "502" in error.message
    assert "Bad gateway" in error.message


def test_an_unknown_failure_of_the_gateway_has_exit_code_1() -> None:
    error = to_error(500, json.dumps({"error": {"message": "no", "code": "internal_error"}}))
    assert type(error) is GatewayError
    assert error.exit_code == 1


def test_a_refused_key_names_the_variable_to_set() -> None:
    assert "BAIN_API_KEY" in to_error(401, json.dumps({"error": {"message": "no key"}})).hint
