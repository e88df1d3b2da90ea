"""The contenders by the names of `--only`, in the order of the table's columns."""

from __future__ import annotations

from collections.abc import Mapping

from contest.contender import Contender
from contest.targets import LOOP

from rivals.library import Library
from rivals.llama_server import LlamaServer
from rivals.ours import Ours
from rivals.transformers_serve import TransformersServe
from rivals.vllm_cpu import VllmCpu

CONTENDERS: Mapping[str, Contender] = {
    "ours": Ours(),
    "script": Library(LOOP, "loop"),
    "batching": Library("transformers' continuous batching", "batching"),
    "serve": TransformersServe(),
    "llama": LlamaServer(),
    "vllm": VllmCpu(),
}
