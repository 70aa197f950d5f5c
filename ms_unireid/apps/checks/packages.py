"""The doctor's checks of Python and the installed packages, against the ranges that the project allows.

Only metadata is read: a broken package must not stop the doctor.
"""

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_unireid.data.findings import Finding
from ms_unireid.installation import INSTALL_CORE

_PROJECT = "ms-unireid"
_ROOT = Path(__file__).resolve().parents[3]
_CONSEQUENCES = {"numpy": "; MindSpore's kernels crash with numpy 2"}


def own_requirements() -> list[str]:
    """Return the core requirements, such as "numpy<2": from requirements.txt in a checkout, else from the metadata."""
    if _in_checkout():
        lines = (_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and line[0] not in "#-"]
    return [text for text in importlib.metadata.requires(_PROJECT) or () if "extra ==" not in text]


def check_python() -> Finding:
    """Compare the running Python with the versions that the project allows."""
    version, allowed = platform.python_version(), _allowed_python()
    specifier_set = _packaging("specifiers", "SpecifierSet")
    if specifier_set is None:
        return Finding(
            "Python", "warning", f"{version}; not compared with {allowed}: packaging is missing", INSTALL_CORE
        )
    if specifier_set(allowed).contains(version, prereleases=True):
        return Finding("Python", "ok", f"{version} ({allowed})")
    return Finding("Python", "problem", f"{version}, expected {allowed}", f"use a Python {allowed}")


def check_packages() -> list[Finding]:
    """Compare each required package's version with the allowed range."""
    return [_check_package(text) for text in own_requirements()]


def check_conflicts() -> list[Finding]:
    """Check what installed packages require of each other, as far as it concerns the project's packages.

    An unmet requirement of a package that the project needs is a problem. If any other package has an unmet requirement
    of such a package, that is a warning: pip may install numpy 2 to meet it.
    """
    requirement = _packaging("requirements", "Requirement")
    if requirement is None:
        return [Finding("dependencies", "warning", "not checked: the package packaging is missing", INSTALL_CORE)]
    installed = {_canonical(d.metadata["Name"]): d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    required = {name: list(_requirements_of(dist, requirement)) for name, dist in installed.items()}
    ours = _closure([_canonical(requirement(text).name) for text in own_requirements()], required)
    unmet = [_conflict(*conflict) for conflict in _conflicts(installed, required, ours)]
    return unmet or [Finding("dependencies", "ok", f"{len(ours)} packages agree with each other")]


def _conflict(name: str, entry: Any, found: str | None, state: str) -> Finding:
    detail = f"{name} requires {_plain(entry)}, {'which is missing' if found is None else f'found {found}'}"
    fix = f"pip install '{_plain(entry)}'" if state == "problem" else f"keep {name} in a separate environment"
    return Finding("dependencies", state, detail, fix)


def _conflicts(
    installed: dict[str, Any], required: dict[str, list[Any]], ours: set[str]
) -> Iterator[tuple[str, Any, str | None, str]]:
    for name in sorted(installed):
        for entry in required[name]:
            target = _canonical(entry.name)
            found = installed[target].version if target in installed else None
            concerns_us = name in ours or target in ours
            if concerns_us and (found is None or not entry.specifier.contains(found, prereleases=True)):
                yield name, entry, found, "problem" if name in ours else "warning"


def _closure(names: list[str], required: dict[str, list[Any]]) -> set[str]:
    """Return the installed packages that the project needs, directly or indirectly."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in required and name not in found:
            found.add(name)
            pending += [_canonical(entry.name) for entry in required[name]]
    return found


def _requirements_of(dist: importlib.metadata.Distribution, requirement: Any) -> Iterator[Any]:
    for text in dist.requires or ():
        try:
            entry = requirement(text)
        except ValueError:
            continue  # an old form, which pip ignores too
        if entry.marker is None or entry.marker.evaluate({"extra": ""}):
            yield entry


def _check_package(text: str) -> Finding:
    name = re.match(r"[\w.-]+", text).group()
    fix = f"pip install '{text}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "problem", f"not installed, expected {text}", fix)
    requirement = _packaging("requirements", "Requirement")
    if requirement is None:
        return Finding(name, "warning", f"{version}; not compared with {text}: packaging is missing", INSTALL_CORE)
    if requirement(text).specifier.contains(version, prereleases=True):
        return Finding(name, "ok", f"{version} ({text})")
    return Finding(name, "problem", f"{version}, expected {text}{_CONSEQUENCES.get(name, '')}", fix)


def _allowed_python() -> str:
    if _in_checkout():
        text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return re.search(r'^requires-python = "(.*)"', text, re.MULTILINE).group(1)
    return importlib.metadata.metadata(_PROJECT)["Requires-Python"]


def _in_checkout() -> bool:
    return (_ROOT / "pyproject.toml").is_file() and (_ROOT / "requirements.txt").is_file()


def _packaging(module: str, name: str) -> Any:
    """Return a class of the package `packaging`, which MindSpore requires; None if it is missing."""
    try:
        return getattr(importlib.import_module(f"packaging.{module}"), name)
    except ImportError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _plain(entry: Any) -> str:
    return f"{entry.name}{entry.specifier}"
