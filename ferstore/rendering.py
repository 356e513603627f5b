"""Reports as text for people: what the command line prints without ``--json``."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ferstore.errors import InputError
from ferstore.query.limits import Limits
from ferstore.store.files import local_path, normalise
from ferstore.store.rows import read_rows
from ferstore.terminal import (
    Format,
    human_bytes,
    jsonable,
    print_json,
    print_table,
    say,
    tell,
    write_csv,
    write_json_rows,
)

if TYPE_CHECKING:
    from ferstore.api import FeatureStore
    from ferstore.extract.request import ExtractReport
    from ferstore.figures.draw import FiguresReport
    from ferstore.query.diff import Diff
    from ferstore.query.session import Cursor
    from ferstore.report.make import ReportMade
    from ferstore.sources.ingest import IngestReport
    from ferstore.store.listing import SnapshotInfo, TableInfo
    from ferstore.store.verify import VerifyReport
    from ferstore.train.predict import Prediction
    from ferstore.train.request import TrainReport
    from ferstore.train.training_set import SplitReport


def show_ingest(report: IngestReport, *, dry_run: bool) -> None:
    """The account of an ingest."""
    would = "would be " if dry_run else ""
    say(f"{report.dataset} ({report.kind}, {report.layout}): {report.listed:,} items listed")
    say(
        f"  {would}added {report.added:,}, changed {report.changed:,}, unchanged {report.unchanged:,}, "
        f"quarantined {report.quarantined:,}, listed twice {report.duplicates:,}"
    )
    say(f"  {report.images:,} distinct images; items with the bytes of another item: {report.same_bytes:,}")
    if report.no_longer_listed:
        say(f"  {report.no_longer_listed:,} items of earlier ingests are no longer listed; they stay")
    if report.ignored:
        shown = ", ".join(report.ignored[:3]) + (", ..." if len(report.ignored) > 3 else "")
        say(f"  {len(report.ignored):,} files are no items: {shown}")
    say("  labels: " + ", ".join(f"{label or 'none'} {count:,}" for label, count in report.labels.items()))
    differing = [e for e in report.expected if e.difference]
    if report.expected and not differing:
        say("  all counts are those of the published data set")
    if differing:
        counts = (f"{e.what} {e.found:,} of {e.expected:,} ({e.difference:+,})" for e in differing)
        say(f"  differs from the published data set: {'; '.join(counts)}")
    for item, error in report.errors:
        tell(f"  quarantined {item}: {error}")
    if report.quarantined > len(report.errors):
        tell(f'  and {report.quarantined - len(report.errors):,} more: ferstore sql "from quarantine"')


def show_extract(report: ExtractReport, store: FeatureStore, *, dry_run: bool) -> None:
    """The account of an extract, or its plan."""
    extractor = report.extractor
    todo = report.wanted - report.present - report.held - report.beyond_limit
    say(f"extractor {extractor.extractor_id}: {extractor.weights} weights, {extractor.precision}")
    if extractor.weights_kind == "random":
        say("  RANDOM WEIGHTS: these features say nothing about faces")
    say(f"  {report.images:,} images, {report.wanted:,} image views selected, {report.present:,} already there")
    if dry_run:
        say(f"  would compute {todo:,} in {report.shards:,} shards: {human_bytes(report.nbytes)} before compression")
        say(f"  {_estimate(report, store, todo)}")
    elif todo:
        rate = f" in {report.seconds:.1f} s, {todo / report.seconds:.1f} image views/s" if report.seconds else ""
        say(f"  computed {report.computed:,} into {', '.join(report.layers)} on {report.actors} actors{rate}")
    else:
        say("  nothing to compute")
    if report.landed_elsewhere:
        say(f"  {report.landed_elsewhere:,} were committed by another job first")
    if report.beyond_limit:
        say(f"  {report.beyond_limit:,} left out by --limit")
    if report.in_quarantine:
        say(
            f"  {report.in_quarantine:,} in quarantine ({report.quarantined:,} new); see: "
            'ferstore sql "from quarantine"; try again: --retry-quarantined'
        )


def _estimate(report: ExtractReport, store: FeatureStore, todo: int) -> str:
    """Time from the last finished run of this extractor; a rate never seen here is not guessed."""
    for run in store.runs():
        if run["extractor_id"] == report.extractor.extractor_id and run["state"] == "done" and run["counts"]:
            seconds = (run["ended_at"] - run["started_at"]).total_seconds()
            computed = json.loads(run["counts"]).get("computed", 0)
            if computed and seconds:
                rate = computed / seconds
                return f"about {todo / rate:.0f} s, at the {rate:.1f} image views/s of run {run['run_id']}"
    return "no estimate of time: this extractor has not run on this store yet"


def show_split(report: SplitReport, *, dry_run: bool) -> None:
    """The account of a split."""
    counts = report.counts
    done = "exists already, nothing changed" if report.existed else "would be frozen" if dry_run else "frozen"
    say(f"training set {report.name}: {done} (tag {report.tag!r})")
    seed = "" if report.protocol == "official" else f", seed {report.seed}"
    say(f"  {report.dataset}, {report.protocol} protocol, {report.labels} labels{seed}; folds: {report.folds}")
    say(
        f"  {counts['listed']:,} items: kept {counts['kept']:,} ({counts['images']:,} distinct images, "
        f"{counts['with_votes']:,} with votes), no label {counts['no_label']:,}, "
        f"no official split {counts['no_official_split']:,}"
    )
    if left_out := counts.get("class_only_in_validation"):
        say(f"  left out: {left_out:,} validation items of a class that neither train nor test has")
    say("  " + ", ".join(f"{part} {_span([fold[part] for fold in report.parts])}" for part in report.parts[0]))
    say(f"  classes: {', '.join(report.classes)}")
    over = f", summed over {report.folds} folds" if report.folds > 1 else ""
    say(f"  on both sides of the split (items{over}):")
    rows = [(kind.replace("_", " "), *parts.values()) for kind, parts in report.leak_counts.items()]
    print_table(["  what", *report.parts[0]], [(f"  {row[0]}", *row[1:]) for row in rows], numbers=report.parts[0])
    if report.leaks == "drop":
        say(f"  {'would be ' if dry_run else ''}dropped from train: {report.dropped:,}")


def show_train(report: TrainReport, *, dry_run: bool) -> None:
    """What was trained, and how good it is."""
    width = f", width {report.width}" if report.width is not None else ""
    if report.width is not None and report.width != 2048:
        width += " (the paper's is 2048)"
    settings = f" with {report.settings}" if report.settings else ""
    say(f"{report.experiment} on {report.training_set} fold {report.fold}: recipe {report.recipe}{settings}{width}")
    items = ", ".join(f"{part} {count:,}" for part, count in report.items.items())
    say(f"  items: {items}; {report.examples:,} train examples, extractor {report.extractor_id}")
    if report.weights_kind == "random":
        say("  the features are from RANDOM weights: the figures say nothing about faces")
    if dry_run:
        say(f"  would make {report.total_steps:,} updates")
        return
    if report.state == "diverged":
        say(f"  DIVERGED: the loss of update {report.steps:,} is not a number; run {report.run_id} has its curve")
        return
    kept = f", kept those of {report.best_step:,}" if report.best_step != report.steps else ""
    say(f"  {report.steps:,} of {report.total_steps:,} updates{kept}; {report.parameters:,} parameters")
    for part, found in (("validation", report.validation), ("test", report.test)):
        if found:
            say(f"  {part}: accuracy {100 * found['accuracy']:.1f} %, cross-entropy {found['loss']:.3f}")
    say(f"  run {report.run_id}, {report.seconds:.1f} s")


def show_predictions(found: Sequence[Prediction]) -> None:
    """One line an image."""
    rows = []
    for one in found:
        likely = sorted(one.probabilities.items(), key=lambda pair: -pair[1])[:3]
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in likely)
        rows.append((one.url, one.predicted or "-", one.error or shares))
    print_table(["image", "predicted", "likeliest"], rows)


def show_report(made: ReportMade) -> None:
    """Where the page is, and what it lacks."""
    sets = ", ".join(made.training_sets) or "none"
    say(f"report of {made.trainings:,} trainings; training sets: {sets}; {len(made.files):,} files")
    if made.random:
        say("  some features are from RANDOM weights, and marked so: their figures say nothing about faces")
    if made.faces is not None:
        say(f"  it shows {made.faces:,} faces: pass it on only to those who may see them")
    for what in made.missing[:5]:
        say(f"  missing: {what}")
    if len(made.missing) > 5:
        say(f"  and {len(made.missing) - 5:,} more, on the page with the commands that add them")
    say(made.page)


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def show_query(
    store: FeatureStore,
    query: str,
    *,
    at: str | None,
    kind: Format,
    output: Path | None,
    as_json: bool,
    limits: Limits | None = None,
) -> None:
    """Run a query and print or write its rows. A file is written whole or not at all, and may have any number of rows.

    Raises:
        InputError: Parquet without a file, a file that cannot be made, or one inside the store.
        QueryError: see `ferstore.query.session.Session.execute`.
    """
    if output is not None:
        _check_output(store, output)
        if as_json:
            raise InputError(f"--json with --output {output}", hint="give --format json --output FILE")
    elif kind == "parquet":
        raise InputError("--format parquet without --output", hint="give --output FILE.parquet")
    limits = limits or Limits()
    limits = replace(limits, rows=None) if output else limits
    with store.session(at, limits=limits) as session, session.execute(query) as cursor:
        names = cursor.columns.names
        if output is not None:
            _write_rows(cursor, kind, output)
        elif as_json:
            rows = [dict(zip(names, map(jsonable, row), strict=True)) for row in cursor.rows()]
            print_json({"columns": names, "types": cursor.columns.types, "rows": rows})
        elif kind == "table":
            print_table(names, cursor.rows(), numbers=_numeric(cursor.columns))
        else:
            text = io.StringIO()  # nothing of a query that fails on its way
            (write_json_rows if kind == "json" else write_csv)(names, cursor.rows(), text)
            say(text.getvalue().rstrip("\n"))
    warn_random(store, at, session.tables_named(query))


def _check_output(store: FeatureStore, output: Path) -> None:
    root = local_path(store.url)
    if root is not None and Path(str(local_path(normalise(str(output))))).is_relative_to(root):
        raise InputError(f"--output {output} lies inside the store", hint="choose a path outside it")
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "is in no folder that is there"
        raise InputError(f"--output {output} {what}", hint="name a file in a folder that exists")


def _write_rows(cursor: Cursor, kind: Format, output: Path) -> None:
    partial = output.with_name(f".{output.name}.partial")
    try:
        if kind == "parquet":
            schema, batches = cursor.stream()
            with pq.ParquetWriter(partial, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        else:
            with partial.open("w", encoding="utf-8", newline="") as out:
                (write_json_rows if kind == "json" else write_csv)(cursor.columns.names, cursor.rows(), out)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _numeric(columns: Any) -> list[str]:
    kinds = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "HUGEINT")
    return [n for n, t in zip(columns.names, columns.types, strict=True) if any(k in t for k in kinds) and "[" not in t]


_FROM_FEATURES = {"metrics", "predictions", "conv4"}


def warn_random(store: FeatureStore, at: str | None, tables: Collection[str]) -> None:
    """Say on stderr when features in a result come from random weights."""
    schemas = store.store.schemas
    if not any(table in _FROM_FEATURES or (table in schemas and schemas[table].feature) for table in tables):
        return
    columns = ["extractor_id", "seed", "weights_kind"]
    for row in read_rows(store.store, store.store.pin(at), "extractors", columns).to_pylist():
        if row["weights_kind"] != "random":
            continue
        extractor_id, seed = row["extractor_id"], row["seed"]
        tell(f"note: features of extractor {extractor_id} come from random weights (seed {seed})")


def note_random(report: FiguresReport) -> None:
    """Say on stderr when figures come from random weights."""
    if report.weights_kind == "random":
        tell(f"note: the figures come from random weights (seed {report.seed}) and say nothing about faces")


def show_figures(report: FiguresReport) -> None:
    """What was drawn, and where it lies."""
    by = f"extractor {report.extractor_id}: " if report.extractor_id else ""
    say(f"image {report.image_id}")
    say(f"{by}{report.weights} weights")
    if report.run_id is None:
        say(
            "no trained head with conv1 to conv4: its panels are left out of figure 3; figure 4 draws the paper's heads"
        )
    else:
        say(f"head of training {report.run_id}, width {report.width:,}")
    if report.silent:
        say(f"  {', '.join(report.silent)}: 0 everywhere, nothing of this picture passes their ReLUs")
    rows = [
        ("1", "the last nodes of the extractor; for TensorBoard: figure_1_graph"),
        ("2", "25 channels of the first convolution, and all of them fused; numbers: figure_2.npz"),
        ("3", f"the fused maps of {len(report.panels)} convolutions; numbers: figure_3.npz"),
        ("4", "the structure: " + ", ".join(f"{name} {count:,}" for name, count in report.parameters.items())),
    ]
    print_table(["figure", "what"], rows)
    say(f"in {report.output}, each as PNG and SVG")


def show_tables(found: Sequence[TableInfo]) -> None:
    """Tables that hold something, then the names of the others."""
    filled = [t for t in found if t.rows]
    rows = [(t.name, f"{t.rows:,}", f"{t.files:,}", human_bytes(t.nbytes), t.description) for t in filled]
    if rows:
        print_table(["table", "rows", "files", "size", "what"], rows, numbers=["rows", "files", "size"])
    if empty := [t.name for t in found if not t.rows]:
        say(f"empty: {', '.join(empty)}")


def show_snapshots(found: Sequence[SnapshotInfo]) -> None:
    """Snapshots, newest first."""
    rows = [
        (
            f"{s.committed_at:%Y-%m-%d %H:%M:%S}",
            s.table,
            s.snapshot_id,
            s.command,
            s.run_id,
            f"+{s.added:,}" + (f" -{s.removed:,}" if s.removed else ""),
            ", ".join(s.tags),
        )
        for s in found
    ]
    names = ["time (UTC)", "table", "snapshot", "command", "run", "rows", "tags"]
    print_table(names, rows, numbers=["rows"], whole=["snapshot", "run"])


def show_runs(found: Sequence[Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]]) -> None:
    """Runs and jobs, newest first."""
    rows = [
        (
            run["run_id"],
            run["command"],
            run["state"],
            f"{(run['ended_at'] - run['started_at']).total_seconds():.1f} s" if run["ended_at"] else "",
            _what_came(run),
        )
        for run in found
    ]
    print_table(["run", "command", "state", "took", "what"], rows, numbers=["took"], whole=["run"])
    if jobs:
        say("")
        names = ["job", "for", "state", "attempt", "began (UTC)", "took", "where", "what"]
        print_table(names, [_job_row(job) for job in jobs], numbers=["attempt", "took"])


def _job_row(job: Mapping[str, Any]) -> tuple[Any, ...]:
    steps = ", ".join(f"{step['step']} {step['state']}" for step in job["steps"])
    return (
        job["job"],
        job["logical_date"],
        job["state"],
        job["attempts"],
        f"{job['started_at']:%Y-%m-%d %H:%M:%S}",
        f"{job['seconds']:.1f} s" if job["seconds"] is not None else "",
        f"process {job['pid']} on {job['host']}" if job["state"] in ("running", "killed") else "",
        "; ".join(part for part in (steps, job["error"]) if part),
    )


def _what_came(run: Mapping[str, Any]) -> str:
    """On which data set, what was trained, counts that are not 0, and the error."""
    said = [run["dataset"]] if run["dataset"] else []
    if run["command"] == "train":
        asked = json.loads(run["arguments"])
        said.append(f"{asked['experiment']} on {asked['training_set']} fold {asked['fold']}, {asked['recipe']}")
    counts = json.loads(run["counts"] or "{}")
    said += [f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count]
    return "; ".join([", ".join(said), *([run["error"]] if run["error"] else [])])


def show_tags(tags: Mapping[str, Mapping[str, int]]) -> None:
    """Tags with their tables."""
    print_table(["tag", "tables"], [(name, ", ".join(sorted(targets))) for name, targets in sorted(tags.items())])


def show_diff(found: Diff) -> None:
    """What changed, table by table, then labels and drift."""
    if not found.tables and not found.drift:
        say("no difference")
        return
    rows = [(t.table, f"{t.added:,}", f"{t.removed:,}", f"{t.changed:,}") for t in found.tables]
    print_table(["table", "added", "removed", "changed"], rows, numbers=["added", "removed", "changed"])
    for item in found.relabelled[:20]:
        say(f"relabelled {item.dataset} {item.item_id}: {item.before or 'none'} -> {item.after or 'none'}")
    if len(found.relabelled) > 20:
        say(f"and {len(found.relabelled) - 20:,} more (--json lists all)")
    for drift in found.drift:
        say(
            f"drift of pool_3 by {drift.extractor_id}: {drift.before:,} -> {drift.after:,} vectors, cosine of "
            f"the means {drift.mean_cosine:.4f}, largest shift of a channel {drift.largest_shift:.2f} sd"
        )


def show_verify(report: VerifyReport) -> None:
    """What was read and what is wrong."""
    rows = ", ".join(f"{name} {count:,}" for name, count in report.rows.items() if count)
    say(f"{report.files:,} files, {human_bytes(report.nbytes)} read back; rows: {rows or 'none'}")
    if report.undigested:
        say(f"{report.undigested:,} files were written by another engine and record no digest")
    for url, problem in report.damaged:
        say(f"DAMAGED {url}: {problem}")
    for table, count in report.repeated.items():
        say(f"REPEATED {table}: {count:,} rows have a key that another row has")
    if report.sound:
        say("sound: every file has its digest, every key is there once")
