"""The demo's transcript and its end, with a fake model in the place of the demo model."""

from __future__ import annotations

import json
import re
from pathlib import Path

SCRIPT = [
    {"tool_calls": [{"name": "calculator", "arguments": {"expression": "17 + 5"}}]},
    {"tool_calls": [{"name": "write_file", "arguments": {"path": "greeting.txt", "content": "hello"}}]},
    {"content": "Done."},
]


def configured(folder: Path) -> str:
    file = folder / "bain.yaml"
    file.write_text(json.dumps({"models": {"demo": {"engine": "fake", "options": {"script": SCRIPT}}}}))
    return str(file)


def test_the_demo_without_a_terminal_approves_nothing_and_leaves_nothing(home, tmp_path: Path) -> None:
    told = home.bain("demo", "--config", configured(tmp_path))
    assert told.returncode == 0, told.stderr
    assert 'calculator(expression="17 + 5")\n  -> 22\n' in told.stdout
    assert "Nobody is at the terminal, so write_file is not approved." in told.stdout
    assert "greeting.txt in the workspace was not written" in told.stdout
    for step in ("gateway", "process", "first answer"):
        assert re.search(rf"^{step} +[\d.]+ m?s", told.stdout, re.MULTILINE), step
    assert re.search(r"1 +calculator\(expression=\"17 \+ 5\"\) +[\d.]+ ms", told.stdout)
    assert "/v1/chat/completions" in told.stdout
    assert home.pid() is None


def test_the_demo_in_a_terminal_asks_and_stays_up_until_ctrl_c(home, tmp_path: Path) -> None:
    demo = home.terminal("demo", "--config", configured(tmp_path))
    for _ in range(2):  # The fake model writes in both runs.
        demo.expect_exact("[y] once  [a] always in this session  [n] no: ")
        demo.sendline("y")
        demo.expect_exact("Wrote 5 bytes to greeting.txt.")
    demo.expect_exact("greeting.txt in the workspace holds 'hello'")
    demo.expect_exact("It stays up until Ctrl-C.")
    assert home.bain("status").returncode == 0
    demo.sendintr()
    demo.expect_exact("stopping")
    demo.wait()
    assert demo.exitstatus == 0
    assert home.pid() is None
