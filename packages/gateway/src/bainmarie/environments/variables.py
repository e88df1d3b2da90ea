"""The environment variables of a worker: an allow-list, the environment's own, and defaults that keep threads calm."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec

_NAMES = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH"),
        *("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
        *("PROGRAMFILES", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"),
    )
)
_BEGINNINGS = (
    *("LC_", "SSL_CERT_", "HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_", "TORCH_", "TORCHINDUCTOR_"),
    *(
        "PYTORCH_",
        "TRITON_",
        "CUDA_",
        "NVIDIA_",
        "NCCL_",
        "CUBLAS_",
        "HIP_",
        "HSA_",
        "ROCR_",
        "ROCM_",
        "ONEAPI_",
        "ZE_",
    ),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "BNB_", "BITSANDBYTES_", "TOKENIZERS_"),
)
_ENDINGS = ("_PROXY",)
_DEFAULTS = {
    # Threads that spin for long while idle slow every other worker down by several times; those that never do cost
    # their own worker a third of its speed: a pass has hundreds of steps that begin and end together. About 0.1 ms
    # bridges the gap between two of them. Workers that compute at the same time share the threads (engine/cores.py).
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "3000",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


def worker_variables(environment: Environment, spec: EnvironmentSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker in `environment` gets of `environ`, then the spec's variables, which win.

    Nothing else is inherited: no PYTHON*, VIRTUAL_ENV, CONDA_* or LD_PRELOAD of the gateway's own surroundings. The
    environment's own programs come first on PATH.
    """
    passed = {name: value for name, value in environ.items() if _allowed(name.upper())}
    directory = str(environment.python.parent)
    passed["PATH"] = os.pathsep.join(part for part in (directory, passed.get("PATH", "")) if part)
    return {**_DEFAULTS, **passed, **environment.variables, **dict(spec.variables)}


def _allowed(name: str) -> bool:
    return name in _NAMES or name.startswith(_BEGINNINGS) or name.endswith(_ENDINGS)
