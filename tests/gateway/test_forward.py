"""What becomes of a request that has come while another gateway was about to take over."""

from __future__ import annotations

from bainmarie.forward import Forward


async def test_a_request_whose_other_gateway_has_died_meanwhile_is_answered_here() -> None:
    """Its body was read already when the place was taken back."""
    told: list[dict[str, object]] = []
    seen: list[bytes] = []

    async def app(scope: object, receive: object, send: object) -> None:
        message = await receive()  # type: ignore[operator]
        seen.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"ours"})  # type: ignore[operator]

    front = Forward(app)
    front.to = "http://127.0.0.1:1"
    parts = [
        {"type": "http.request", "body": b"to ", "more_body": True},
        {"type": "http.request", "body": b"be", "more_body": False},
    ]

    async def receive() -> dict[str, object]:
        front.to = ""
        return parts.pop(0)

    async def send(message: dict[str, object]) -> None:
        told.append(message)

    await front({"type": "http", "method": "POST"}, receive, send)  # type: ignore[arg-type]
    assert seen == [b"to be"]
    assert told[-1]["body"] == b"ours"
