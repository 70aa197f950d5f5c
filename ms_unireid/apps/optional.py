"""Packages that only some methods need: imported at their first use, or a clear word on what to install."""

import importlib
import importlib.metadata
from types import ModuleType

from ms_unireid.errors import EnvironmentProblem


def need(module: str, user: str, fix: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: Its import name.
        user: What needs it, for the message.
        fix: How to get it, for the message.

    Raises:
        EnvironmentProblem: If it is missing, or there and cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise EnvironmentProblem(f"{user}: {module} needs {error.name}, which is not installed; {fix}") from error
        raise EnvironmentProblem(f"{user} needs the package {module}, which is not installed; {fix}") from error
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise EnvironmentProblem(
            f"{user}: the package {module} is installed and cannot be imported ({reason}); install the system library "
            f"that it names, or {fix}"
        ) from error


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of installed distributions; what is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
