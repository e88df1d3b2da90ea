"""`require: gpu`: an environment that must not work on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from bainmarie.environments.environment import Environment
from bainmarie.environments.inspection import Inspection, inspect
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import EnvironmentFailed


async def require_accelerator(spec: EnvironmentSpec, environment: Environment, variables: Mapping[str, str]) -> None:
    """Ask torch now what it sees. EnvironmentFailed (gpu_missing, wrong_torch_build) where that is the CPU alone.

    It is asked at each start: a driver can break after the environment was built.
    """
    told = await inspect(
        environment.python,
        name=spec.name,
        variables={**variables, **environment.variables},
        cwd=environment.python.parent,
        imports=("torch",),
    )
    if told.accelerator in ("", "cpu"):
        raise _refused(spec, told)


def _refused(spec: EnvironmentSpec, told: Inspection) -> EnvironmentFailed:
    text = f"environment {spec.name!r} requires a GPU (`require: gpu`)"
    if not told.accelerator:
        cause = "; ".join(problem.message for problem in told.problems) or "torch was not imported"
        mend = f"Correct the packages of `environments: {spec.name}:`; torch must be among them and importable."
        return EnvironmentFailed(f"{text}, but torch cannot say: {cause}", hint=mend, code="gpu_missing")
    torch = f"torch {told.versions.get('torch', '')}"
    if told.torch_build == "cpu":
        mend = f"Set `environments: {spec.name}: torch_backend:` to auto or to your CUDA version (cu126, cu130, ...)"
        return EnvironmentFailed(
            f"{text}, but {torch} is built for the CPU alone",
            hint=f"{mend}, or point `find_links:` or `index_url:` at wheels that are built for it.",
            code="wrong_torch_build",
        )
    return EnvironmentFailed(
        f"{text}, but {torch}, built for {told.torch_build}, sees none",
        hint="See whether the driver answers (nvidia-smi, rocminfo) and CUDA_VISIBLE_DEVICES does not hide it.",
        code="gpu_missing",
    )
