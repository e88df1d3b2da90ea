"""The HTTP paths of a worker. Bodies have OpenAI shapes; the gateway passes them through unread.

Errors are `{"error": {"message", "type", "code", "param", "hint"}}`. A request whose connection closes is cancelled.
"""

CHAT = "/v1/chat/completions"
"""POST. `model` is one of the served names. 503 `loading` until `Ready` was sent."""
COMPLETIONS = "/v1/completions"
"""POST."""
INFO = "/info"
"""GET -> the `info` of `Ready` and counters: {"loads": int, "requests": int, "running": int, "queued": int, ...}."""
LOAD = "/models/load"
"""POST {"name", "adapter", "chat_template", ...} (a `ServedModel`): loads its adapter, reads its template."""
UNLOAD = "/models/unload"
"""POST {"name"}: drops the adapter and the name. Idempotent."""
