"""``ferstore erase``: a person or a picture leaves the store: every table, every kept state, every file.

1. Data files with their rows are written again without them, for the newest state and for every tag.
2. One commit over all tables puts these in place, moves the tags (the only time a tag moves), and expires every other
   snapshot of those tables: their files still hold the rows.
3. Files that nothing names any more are removed, and leftovers of killed runs that hold the rows.

What is to be removed is noted in the store before the commit, so that an erasure cut short is finished by the next
`erase` or `vacuum`. Jobs at work could commit what they read before; it is refused while there are any, and one that
comes back later finds that there was an erasure (`ferstore.store.commit.transact`).
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from ferstore.errors import ConflictError, CorruptionError, FerstoreError, InputError
from ferstore.progress import Progress, Silent
from ferstore.store.at_work import runs_at_work
from ferstore.store.attempts import Attempts
from ferstore.store.commit import as_of, on_newest
from ferstore.store.erase_commit import TableWork, commit_erasure, expiring, holds
from ferstore.store.files import StoredFile, files_below, filesystem, local_path, remove_files, write_file
from ferstore.store.person import Person, person_of
from ferstore.store.pin import Pin
from ferstore.store.reach import patiently, reaching
from ferstore.store.references import References, files_of, leftovers, references
from ferstore.store.rewrite import rewrite
from ferstore.store.rows import read_file, read_rows
from ferstore.store.runs import Run, new_run, record_run
from ferstore.store.store import Store

_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_PENDING = "erasing"


@dataclass(frozen=True, slots=True)
class EraseReport:
    """What was erased, or would be.

    Attributes:
        images: distinct pictures.
        rows: rows that left (of ``runs``: were blacked out) in the newest state, by table.
        urls: where the pictures came from; ingested again, they would be back.
        tags: tags that were moved to a state without them.
        training_sets: those of them that are training sets: no longer exactly reproducible.
        trainings: runs that learnt from those sets; their weights stay.
        snapshots: past states that expired.
        files: files removed.
        run_id: the run; None for a dry run.
    """

    images: int
    rows: Mapping[str, int]
    urls: tuple[str, ...]
    tags: tuple[str, ...]
    training_sets: tuple[str, ...]
    trainings: tuple[str, ...]
    snapshots: int
    files: int
    run_id: str | None


@reaching("the store")
def erase(
    store: Store,
    *,
    subject: str | None = None,
    image_id: str | None = None,
    dataset: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EraseReport:
    """Erase one person, or one picture. It cannot be undone.

    Args:
        store: the store.
        subject: the person's name in the data sets; or
        image_id: SHA-256 of the picture's file, hex.
        dataset: only the person of that name in this data set.
        dry_run: say what would be erased; change nothing.
        progress: told of every data file looked at.

    Raises:
        InputError: neither or both are given, or nothing in the store is of them.
        ConflictError: a job is at work, or other writers kept getting there first; nothing was changed.
        UnavailableError: files or catalog cannot be reached, read or written; run again, it is finished.
        CorruptionError: a data file that must be written again is damaged; nothing was changed.
        StoreError: the catalog cannot do this safely (REST).
    """
    progress = progress or Silent()
    _check(subject, image_id, dataset)
    if not dry_run:
        finish_erasures(store)
    find = partial(_find, store, subject=subject, dataset=dataset, image_id=image_id)
    pin, person, work = on_newest(store, lambda pin: (pin, who := find(pin), _look(store, pin, who, progress)))
    if not any(table.touched for table in work.values()):
        raise InputError(
            f"nothing in this store is of {'subject' if subject else 'image'} {subject or image_id!r}",
            hint="list subjects with: ferstore sql 'select distinct dataset, subject from images'",
        )
    if dry_run:
        return _report(store, pin, person, work, expiring(pin, work), files=_doomed(pin, work), run_id=None)
    run = new_run("erase", {"what": "subject" if subject else "image"})  # never who
    _refuse_while_jobs_work(store, pin)
    record_run(store, run, "running")
    try:
        report = _erase(store, find, person, run, progress)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            record_run(store, run, "failed", None, type(error).__name__)  # its words may say who
        raise
    record_run(store, run, "done", {"images": report.images, **report.rows})
    return report


def _check(subject: str | None, image_id: str | None, dataset: str | None) -> None:
    if (subject is None) == (image_id is None):
        raise InputError("erase takes a subject or an image", allowed="--subject S, or --image ID")
    if image_id is not None and not _IMAGE_ID.fullmatch(image_id):
        raise InputError(f"image {image_id!r}", allowed="the SHA-256 of its file: 64 hex digits, as in images.image_id")
    if dataset is not None and subject is None:
        raise InputError("--dataset with --image", hint="an image is its bytes, in whatever data set: leave it out")


def _find(store: Store, pin: Pin, *, subject: str | None, dataset: str | None, image_id: str | None) -> Person:
    columns = ["dataset", "item_id", "image_id", "source_url", "subject"]
    parts = [read_file(url, columns) for url in files_of(pin.tables["images"])]
    schema = pa.schema([store.schemas["images"].arrow().field(name) for name in columns])
    rows = pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])
    return person_of(rows, subject=subject, dataset=dataset, image_id=image_id)


def _refuse_while_jobs_work(store: Store, pin: Pin) -> None:
    if working := [run for run in runs_at_work(store, pin) if run.alive]:
        named = ", ".join(f"{run.command} {run.run_id} on {run.host}" for run in working)
        raise ConflictError(
            f"at work: {named}; it could commit again what is erased",
            hint="wait for it, or if it is dead: ferstore runs --abandon RUN",
        )


def _look(store: Store, pin: Pin, person: Person, progress: Progress) -> dict[str, TableWork]:
    """Find the person in every data file of every kept state; only columns that tell are read."""
    files = {name: files_of(pin.tables[name]) for name in store.schemas}
    progress.start("erase: look", sum(map(len, files.values())))
    found = {}
    for name, schema in store.schemas.items():
        newest = {data_file.file_path for data_file in pin.data_files(name)}
        work = TableWork()
        columns = person.columns(schema)
        for url, described in files[name].items() if columns else ():
            if affected := person.affected(schema, read_file(url, columns)):
                work.touched[url] = described
                work.rows += affected if url in newest else 0
            progress.advance(1)
        found[name] = work
    return found


def _erase(store: Store, find: Callable[[Pin], Person], person: Person, run: Run, progress: Progress) -> EraseReport:
    cleaned: dict[str, StoredFile | None] = {}
    pending = f"{store.url}/{_PENDING}/{uuid.uuid4().hex}.json"
    named: set[str] = set()  # files that a snapshot named at the beginning
    report: EraseReport | None = None
    for _ in (attempts := Attempts("the store")):
        pin = store.pin()
        with attempts.landing(), as_of(store, pin):
            before = references(pin)
            if (everyone := person.joined(find(pin))) != person:  # another picture of them came meanwhile
                person, cleaned = everyone, {}
            work = _look(store, pin, person, progress)
            if attempts.was_unsure and report and not any(table.touched for table in work.values()):
                break  # an earlier try landed, and only its reply was lost
            named |= before.urls
            for name, table in work.items():
                for url in table.touched.keys() - cleaned.keys():
                    cleaned[url] = rewrite(store, name, [url], partial(person.without, store.schemas[name]))
            gone = expiring(pin, work)
            hidden = _hidden(store, before, person)
            doomed = [*hidden, *(url for table in work.values() for url in table.touched)]
            write_file(pending, json.dumps(doomed).encode())
            report = _report(store, pin, person, work, gone, files=0, run_id=run.run_id)
            commit_erasure(store, pin, work, cleaned, gone, run)
        if attempts.landed:
            break
        if not attempts.was_unsure:
            remove_files([pending])  # the next attempt notes its own
    if report is None:
        raise AssertionError("attempts end with an error")
    _clean_logs(store, person)
    removed = {*hidden, *(named - on_newest(store, references).urls)}
    remove_files(removed)
    remove_files([pending])
    left = on_newest(store, lambda pin: _look(store, pin, person, progress))
    if found := [name for name, table in left.items() if table.touched]:
        raise FerstoreError(
            f"tables {', '.join(found)} hold rows of what was erased: committed meanwhile, or a fault of ferstore",
            hint="run the same command again",
        )
    return replace(report, files=len(removed))


def _hidden(store: Store, needed: References, person: Person) -> list[str]:
    """Data files of no snapshot that hold the person, and such that cannot be read, which could."""
    found = []
    for file in leftovers(store, needed):
        if file.data:
            schema = store.schemas[file.url.removeprefix(f"{store.url}/tables/").partition("/")[0]]
            columns = person.columns(schema)
            try:
                theirs = bool(columns) and person.affected(schema, read_file(file.url, columns)) > 0
            except FileNotFoundError:
                continue
            except (OSError, pa.ArrowException, CorruptionError):
                theirs = True
            if theirs:
                found.append(file.url)
    return found


def _clean_logs(store: Store, person: Person) -> None:
    """Libraries' warnings, in the log of a local store, may name a file."""
    path = local_path(store.url)
    for log in sorted((path / "log").glob("*")) if path is not None else ():
        text = log.read_text("utf-8", "replace") if log.is_file() else ""
        if person.pattern.search(text):
            write_file(str(log), person.pattern.sub("[erased]", text).encode())


def finish_erasures(store: Store) -> int:
    """Remove the files that an erasure cut short had still to remove; their number."""
    notes = _notes(store)
    if not notes:
        return 0
    fs = filesystem(store.url)
    pin = store.pin()
    if any(run.command == "erase" and run.alive for run in runs_at_work(store, pin)):
        return 0  # the notes are its own, and it may need them yet
    needed = references(pin).urls
    removed = 0
    for note in notes:
        said = patiently(lambda path=note: fs.cat_file(path))  # type: ignore[misc]
        urls = [url for url in json.loads(said) if url not in needed]
        remove_files(urls)
        remove_files([fs.unstrip_protocol(note)])
        removed += len(urls)
    return removed


def unfinished_erasures(store: Store) -> int:
    """How many erasures were cut short."""
    return len(_notes(store))


def _notes(store: Store) -> list[str]:
    """What cut-short erasures noted; a note that was cut short itself says nothing: nothing was changed after it."""
    return [path for path in files_below(f"{store.url}/{_PENDING}") if path.endswith(".json")]


def _doomed(pin: Pin, work: Mapping[str, TableWork]) -> int:
    gone = {snapshot for ids in expiring(pin, work).values() for snapshot in ids}
    return len(references(pin).urls - references(pin, without=gone).urls)


def _report(
    store: Store,
    pin: Pin,
    person: Person,
    work: Mapping[str, TableWork],
    gone: Mapping[str, list[int]],
    *,
    files: int,
    run_id: str | None,
) -> EraseReport:
    tags = sorted(
        {
            tag
            for tag, targets in pin.tags().items()
            for name, snapshot in targets.items()
            if name in work and work[name].touched and holds(pin.tables[name], snapshot, work[name])
        }
    )
    sets = [row for row in read_rows(store, pin, "training_sets", ["name", "tag"]).to_pylist() if row["tag"] in tags]
    named = {row["name"] for row in sets}
    runs = read_rows(store, pin, "runs", ["run_id", "command", "arguments"]).to_pylist()
    learnt = [
        run["run_id"]
        for run in runs
        if run["command"] == "train" and json.loads(run["arguments"]).get("training_set") in named
    ]
    return EraseReport(
        images=len(person.image_ids),
        rows={name: table.rows for name, table in work.items() if table.rows},
        urls=tuple(sorted(person.urls)),
        tags=tuple(tags),
        training_sets=tuple(sorted(named)),
        trainings=tuple(sorted(learnt)),
        snapshots=sum(map(len, gone.values())),
        files=files,
        run_id=run_id,
    )
