"""Commands that keep a store sound. Each parses, calls the API and prints.

What draws is imported after what can refuse: a refusal does not wait for it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ferstore.cli.options import DONE, FAILED, At, DryRun, Json, duration
from ferstore.cli.root import KEEP, app
from ferstore.cli.session import open_store


@app.command(rich_help_panel=KEEP)
def tag(
    name: Annotated[str | None, typer.Argument(help="The tag to make; tags are listed without one.")] = None,
    at: At = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Name a state of all tables for ever. Example: ferstore tag first"""
    from ferstore import rendering, terminal

    store = open_store()
    if name is None or dry_run:
        tags = store.tags()
        if name is not None and name not in tags:
            terminal.tell(f"would tag {name}")
        terminal.print_json({"tags": tags}) if as_json else rendering.show_tags(tags)
        return
    made = store.tag(name, at=at)
    if as_json:
        terminal.print_json({"tag": name, "snapshots": made})
    else:
        terminal.say(f"tagged {name}: {len(made)} tables")


@app.command(rich_help_panel=KEEP)
def compact(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Merge small data files; no row changes. Example: ferstore compact"""
    from ferstore import terminal, upkeep

    with terminal.TerminalProgress() as progress:
        report = open_store().compact(dry_run=dry_run, progress=progress)
    terminal.print_json(report) if as_json else upkeep.show_compact(report, dry_run=dry_run)


@app.command(rich_help_panel=KEEP)
def vacuum(
    keep: Annotated[str, typer.Option(help="How long a past state stays once it is replaced: 7d, 12h, 0.")] = "7d",
    grace: Annotated[str, typer.Option(help="Age from which a file of no state is a leftover: 1d, 2h.")] = "1d",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove what no state, tag or job needs. Example: ferstore vacuum --keep 30d"""
    from ferstore import terminal, upkeep

    kept, spared = duration("--keep", keep), duration("--grace", grace)
    with terminal.TerminalProgress() as progress:
        report = open_store().vacuum(keep=kept, grace=spared, dry_run=dry_run, progress=progress)
    terminal.print_json(report) if as_json else upkeep.show_vacuum(report, dry_run=dry_run)


@app.command(rich_help_panel=KEEP)
def erase(
    subject: Annotated[str | None, typer.Option(help="A person, as the data sets name them.")] = None,
    image: Annotated[str | None, typer.Option(help="A picture: its image_id.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only the person of that name in this data set.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove a person or picture from every table, state and file. Example: ferstore erase --subject S005 --dry-run"""
    from ferstore import terminal, upkeep

    with terminal.TerminalProgress() as progress:
        report = open_store().erase(
            subject=subject, image_id=image, dataset=dataset, dry_run=dry_run, progress=progress
        )
    terminal.print_json(report) if as_json else upkeep.show_erase(report, dry_run=dry_run)


@app.command(rich_help_panel=KEEP)
def verify(as_json: Json = False) -> None:
    """Read every live file back against its digest. Example: ferstore verify"""
    store = open_store()
    from ferstore import rendering, terminal

    with terminal.TerminalProgress() as progress:
        report = store.verify(progress)
    terminal.print_json({**terminal.jsonable(report), "sound": report.sound}) if as_json else rendering.show_verify(
        report
    )
    raise typer.Exit(DONE if report.sound else FAILED)


@app.command(rich_help_panel=KEEP)
def doctor(as_json: Json = False) -> None:
    """Is the store sound, atomic and reachable; what is left over. Example: ferstore doctor"""
    from ferstore import terminal

    findings = open_store().doctor()
    if as_json:
        terminal.print_json({"findings": findings})
    else:
        terminal.print_table(["state", "check", "detail"], [(f.state, f.check, f.detail) for f in findings])
    raise typer.Exit(FAILED if any(finding.state == "fail" for finding in findings) else DONE)
