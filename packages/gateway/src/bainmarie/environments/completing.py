"""In `environment: auto`: a module that the preflight misses and the table knows, added once."""

from __future__ import annotations

from dataclasses import replace

from bainmarie.environments.diagnosis import ImportsMissing
from bainmarie.environments.needs import IMPORTS
from bainmarie.environments.spec import EnvironmentSpec, Reason, package_name

ADDED = "preflight"
"""The source of such a package's reason."""


def completed(spec: EnvironmentSpec, failure: ImportsMissing) -> EnvironmentSpec | None:
    """The spec with the packages that hold the missing modules.

    None where the spec was not inferred, was completed already, or the table does not know every module.
    """
    if spec.name != "auto" or any(reason.source == ADDED for reason in spec.reasons):
        return None
    if not all(module in IMPORTS for module in failure.modules):
        return None
    there = {package_name(package) for package in spec.packages}
    added = tuple(
        Reason(IMPORTS[module], f"the finished environment could not import {module}", ADDED)
        for module in failure.modules
        if package_name(IMPORTS[module]) not in there
    )
    if not added:
        return None
    packages = (*spec.packages, *(reason.requirement for reason in added))
    return replace(spec, packages=packages, reasons=(*spec.reasons, *added))
