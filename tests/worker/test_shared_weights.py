"""Two workers of one checkpoint hold its weights once: both map the file, and neither copies what it has mapped."""

from __future__ import annotations

import sys

import pytest

from bainmarie_protocol import Ready

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what the libraries deprecate among themselves
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def mapped(worker, file):
    """Bytes of the worker's mappings of `file`, by the names that smaps gives them."""
    found = {"Rss": 0, "Pss": 0, "Private_Dirty": 0}
    with open(f"/proc/{worker.process.pid}/smaps", encoding="utf-8") as lines:
        here = False
        for line in lines:
            name, _, rest = line.partition(":")
            if rest.endswith("kB\n"):
                if here and name in found:
                    found[name] += int(rest.split()[0]) * 1024
            elif "-" in line.split(" ")[0]:
                here = line.rstrip().endswith(str(file))
    return found


def anonymous(worker):
    with open(f"/proc/{worker.process.pid}/smaps_rollup", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.parametrize("path", ["fused", "packed"])
def test_the_second_one_adds_no_weights(start_worker, make_llama, tokenizer, tmp_path, path):
    import torch

    model = make_llama(hidden_size=512, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=8)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    assert size > 80 << 20
    options = {"path": path, "cache_bytes": 1 << 20}
    workers = [start_worker(tmp_path, device="cpu", shares_weights=True, options=options) for _ in range(2)]
    for worker in workers:
        worker.until(Ready)
        assert worker.chat("Hello", max_tokens=3).status == 200
        assert worker.get("/info").json["engine_path"] == path
    for worker in workers:
        held = mapped(worker, file)
        assert held["Rss"] > 0.9 * size, "the weights are used where they were mapped"
        assert held["Pss"] < 0.6 * size, "and by both"
        assert held["Private_Dirty"] == 0
    tiny = start_worker(make_tiny(make_llama, tokenizer, tmp_path / "tiny"), device="cpu", options=options)
    tiny.until(Ready)
    assert tiny.chat("Hello", max_tokens=3).status == 200
    assert anonymous(workers[0]) - anonymous(tiny) < 0.3 * size, "no copy lies beside the mapping"


def make_tiny(make_llama, tokenizer, directory):
    make_llama().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
