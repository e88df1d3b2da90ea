from __future__ import annotations

import pytest

from bainmarie_protocol import ServedModel, WorkerConfig


def test_round_trip_in_one_line():
    config = WorkerConfig(
        name="m",
        engine="transformers",
        model="/models/Größe\nodd",
        models=(ServedModel("m"), ServedModel("a", adapter="/a", prompt="plain", system_prompt="Be brief.\n")),
        socket="/run/w.sock",
        context=4096,
        options={"script": [{"content": "x"}]},
    )
    line = config.to_json()
    assert "\n" not in line
    assert WorkerConfig.from_json(line) == config


def test_defaults():
    config = WorkerConfig.from_json('{"name": "m", "engine": "fake", "model": "x", "models": []}')
    assert (config.dtype, config.device, config.quantization, config.queue) == ("auto", "auto", "none", 1024)
    assert config.options == {}


@pytest.mark.parametrize(
    "line", ['{"name": "m"}', '{"name": "m", "engine": "fake", "model": "x", "models": [], "colour": 1}']
)
def test_missing_and_unknown_keys_are_errors(line):
    with pytest.raises((TypeError, KeyError)):
        WorkerConfig.from_json(line)
