"""What ferstore is installed with: floors that hold known fixes, bounds where a new major could change a result, pins.

No audit runs here: `pip-audit` asks a service for its advisories. The floors below are such advisories, by hand.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
EVERY = [*DECLARED, *(requirement for some in EXTRAS.values() for requirement in some)]
CALENDAR = {"fsspec", "s3fs", "gcsfs", "adlfs"}
"""Versions of these are dates: no number tells a break, and an upper bound would only end security fixes."""
OPEN = CALENDAR | {"pandas"}  # of `Result.pandas()` alone

# The least version with the fix, and of what. The first are the issue's; the others are what they bring along.
FIXED = {
    "pillow": ("13.0", "decoders fed with hostile files"),
    "keras": ("3.15.1", "loading of model files, CVE-2025-9905 and after"),
    "ray": ("2.56", "CVE-2025-62593, CVE-2026-27482, CVE-2026-32981; token authentication"),
    "fsspec": ("2026.6", "chained and templated URLs"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "pyarrow": ("26.0", "CVE-2023-47248 and after"),
    "aiohttp": ("3.13.3", "CVE-2025-69223"),
    "filelock": ("3.20.3", "CVE-2025-68146, CVE-2026-22701"),
    "fonttools": ("4.60.2", "CVE-2025-66034"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "idna": ("3.7", "CVE-2024-3651"),
    "protobuf": ("6.31.1", "CVE-2025-4565"),
    "requests": ("2.32.4", "CVE-2024-47081"),
    "urllib3": ("2.6.0", "CVE-2025-66418, CVE-2025-66471"),
}


def pins() -> dict[str, Version]:
    lines = (ROOT / "tests" / "constraints.txt").read_text("utf-8").splitlines()
    found = {}
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        (exact,) = requirement.specifier
        assert exact.operator == "==", f"{requirement} pins nothing"
        found[canonicalize_name(requirement.name)] = Version(exact.version)
    return found


def installed(name: str) -> Version | None:
    try:
        return Version(version(name))
    except PackageNotFoundError:
        return None


def closure() -> dict[str, list[SpecifierSet]]:
    """All that `ferstore[test]` brings with it here, and what is asked of each."""
    asked: dict[str, list[SpecifierSet]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement("ferstore[test]")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        asked.setdefault(name, []).append(requirement.specifier)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in requires(name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append(further)
    del asked["ferstore"]
    return asked


@pytest.mark.parametrize("requirement", EVERY, ids=str)
def test_a_dependency_has_a_floor_and_a_bound(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators
    assert ("<" in operators) != (canonicalize_name(requirement.name) in OPEN)


@pytest.mark.parametrize("name", sorted(FIXED))
def test_known_fixes_are_in(name: str) -> None:
    least, what = Version(FIXED[name][0]), FIXED[name][1]
    for requirement in EVERY:
        if canonicalize_name(requirement.name) == name:
            floor = next(Version(s.version) for s in requirement.specifier if s.operator == ">=")
            assert floor >= least, f"pyproject.toml lets {name} {floor} in: {what}"
    assert (pinned := pins().get(name)) is None or pinned >= least, (
        f"tests/constraints.txt pins {name} {pinned}: {what}"
    )
    assert (found := installed(name)) is None or found >= least, f"{name} {found} is installed: {what}"


def test_the_pins_are_of_all_that_the_tests_install_and_satisfy_what_is_asked() -> None:
    pinned = pins()
    asked = closure()
    assert {"pytest", "ray", "numpy", "protobuf"} <= asked.keys()
    assert sorted(asked.keys() - pinned.keys()) == []
    assert sorted(pinned.keys() - asked.keys()) == [], "pinned, and nothing asks for it"
    for name, specifiers in asked.items():
        for specifier in specifiers:
            assert specifier.contains(pinned[name], prereleases=True), f"{name} {pinned[name]} is not {specifier}"


def test_what_is_installed_is_what_pyproject_asks_for() -> None:
    for requirement in [*DECLARED, *EXTRAS["test"]]:
        found = installed(requirement.name)
        assert found is not None
        assert requirement.specifier.contains(found, prereleases=True), f"{found} of {requirement}"
