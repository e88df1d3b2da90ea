from __future__ import annotations

import io

from bainmarie.cli.transcript import Transcript


def test_reasoning_stands_on_lines_of_its_own_beside_the_calls():
    text, calls = io.StringIO(), io.StringIO()
    shown = Transcript(text=text, calls=calls)
    for piece in ("Let me", " see."):
        shown.thought(piece)
    shown.item({"type": "reasoning", "text": "Let me see."})
    shown.delta("I look.")
    shown.item({"type": "message", "role": "assistant", "text": "I look."})
    shown.item({"type": "tool_call", "name": "now", "arguments": "{}"})
    shown.item({"type": "tool_result", "status": "success", "text": "noon"})
    shown.thought("Noon.")
    shown.end_line()
    assert text.getvalue() == "I look.\n"
    assert calls.getvalue() == "Let me see.\nnow()\n  -> noon\nNoon.\n"
