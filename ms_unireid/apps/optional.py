"""Optional packages: imported at first use, with a clear error if they are missing."""

import importlib
from types import ModuleType

from ms_unireid.errors import EnvironmentProblem


def need(module: str, user: str, fix: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: Its import name.
        user: The part of the program that needs it, for the message.
        fix: How to install it, for the message.

    Raises:
        EnvironmentProblem: If it is not installed, or cannot be imported.
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
            f"{user}: the package {module} is installed but cannot be imported ({reason}); install the system library "
            f"that is named there, or {fix}"
        ) from error


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    import importlib.metadata  # a fifth of the time that --help takes

    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
