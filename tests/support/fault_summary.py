"""What a run of the fault suite comes to: counts against their aims, and what was skipped."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

AIMS: Mapping[str, int] = {
    "sequences": 2000,
    "kills": 20,
    "mutated images": 20_000,
    "escapes refused": 30,
    "planted bugs caught": 10,
}
"""The least that each count must reach."""


@dataclass
class Summary:
    """Results of one or more runs of pytest.

    Attributes:
        counts: sums of what tests tallied, by name.
        passed: tests.
        failed: names of tests that failed, were in error, or the whole run where it did not come to an end.
        skipped: tests and why.
    """

    counts: dict[str, int] = field(default_factory=dict)
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def short_of_aims(self) -> dict[str, tuple[int, int]]:
        """Counts below their aims: what was reached, and the aim."""
        return {what: (self.counts.get(what, 0), aim) for what, aim in AIMS.items() if self.counts.get(what, 0) < aim}

    @property
    def sound(self) -> bool:
        """Nothing failed, and every aim was reached."""
        return not self.failed and not self.short_of_aims()

    def asdict(self, seconds: float, seed: int, level: str) -> dict[str, object]:
        """For ``--json``."""
        return {
            "level": level,
            "seed": seed,
            "seconds": round(seconds, 1),
            "sound": self.sound,
            "counts": dict(sorted(self.counts.items())),
            "aims": dict(AIMS),
            "passed": self.passed,
            "failed": self.failed,
            "skipped": [{"test": test, "reason": reason} for test, reason in self.skipped],
        }

    def table(self) -> Iterable[str]:
        """Lines for people."""
        width = max([len(what) for what in self.counts], default=0)
        for what, count in sorted(self.counts.items()):
            aim = f"  (aim {AIMS[what]:,})" if what in AIMS else ""
            yield f"{what:<{width}}  {count:>9,}{aim}"
        for what, (count, aim) in self.short_of_aims().items():
            yield f"BELOW ITS AIM: {what}: {count:,} of {aim:,}"
        yield from (f"skipped: {test}: {reason}" for test, reason in self.skipped)
        yield from (f"FAILED: {test}" for test in self.failed)


def read(reports: Iterable[Path]) -> Summary:
    """Add up JUnit reports. A report that is missing or cut short is a failure."""
    summary = Summary()
    for report in reports:
        try:
            cases = list(ElementTree.parse(report).getroot().iter("testcase"))  # written by pytest just now
        except (OSError, ElementTree.ParseError) as error:
            summary.failed.append(f"{report.stem}: no report ({type(error).__name__})")
            continue
        if not cases:
            summary.failed.append(f"{report.stem}: no test was run")
        for case in cases:
            _add(summary, case)
    return summary


def _add(summary: Summary, case: ElementTree.Element) -> None:
    name = f"{case.get('classname')}::{case.get('name')}"
    for entry in case.iter("property"):
        if entry.get("name") == "count":
            what, count = ast.literal_eval(entry.get("value") or "")  # the pair that tally made, as pytest wrote it
            summary.counts[what] = summary.counts.get(what, 0) + count
    if case.find("failure") is not None or case.find("error") is not None:
        summary.failed.append(name)
    elif (skipped := case.find("skipped")) is not None:
        summary.skipped.append((name, skipped.get("message") or "no reason"))
    else:
        summary.passed += 1
