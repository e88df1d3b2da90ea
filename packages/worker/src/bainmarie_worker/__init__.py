"""The process that holds one base model, in that model's own environment, and serves it to the gateway.

`__main__` is the way in and its docstring the contract. A request's way: `server` -> `requests` (what was asked) ->
`chat` (prompt) -> `engine` (tokens) -> `reading` (text, tool calls) -> `replies` (OpenAI's shapes) -> `server`.
"""
