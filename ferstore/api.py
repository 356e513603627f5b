"""The Python API: what the command line does, as calls.

import ferstore

store = ferstore.open("ferstore-data")
store.sql("select label, count(*) from images group by label").pandas()
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import FerstoreError, InputError
from ferstore.progress import Progress
from ferstore.query import similar
from ferstore.query.diff import Diff, diff
from ferstore.query.limits import Limits
from ferstore.query.session import Session
from ferstore.query.vectors import Vectors
from ferstore.result import Result
from ferstore.store.at_work import abandon
from ferstore.store.catalog import default_catalog_uri
from ferstore.store.compact import CompactReport, compact
from ferstore.store.doctor import Finding, doctor
from ferstore.store.erase import EraseReport, erase
from ferstore.store.job_runs import shown_jobs
from ferstore.store.listing import SnapshotInfo, TableInfo, list_snapshots, list_tables
from ferstore.store.rows import read_rows
from ferstore.store.schema import MapDtype
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import GRACE, KEEP, VacuumReport, vacuum
from ferstore.store.verify import VerifyReport, verify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferstore.extract.request import ExtractReport, ExtractRequest
    from ferstore.figures.draw import FiguresReport
    from ferstore.report.contents import Head
    from ferstore.report.make import ReportMade
    from ferstore.sources.ingest import IngestReport
    from ferstore.train.predict import Prediction
    from ferstore.train.request import TrainReport, TrainRequest
    from ferstore.train.split_plan import SplitRequest
    from ferstore.train.training_set import SplitReport, TrainingSet

DEFAULT_STORE = "ferstore-data"


def default_store_url() -> str:
    """``FERSTORE_STORE``, else ``./ferstore-data``."""
    return os.environ.get("FERSTORE_STORE") or DEFAULT_STORE


def init(url: str | None = None, *, catalog: str | None = None, map_dtype: MapDtype | None = None) -> FeatureStore:
    """Make a store, or open the one that is there. See `ferstore.store.store.init_store`."""
    return FeatureStore(
        init_store(url or default_store_url(), catalog=catalog or default_catalog_uri(), map_dtype=map_dtype)
    )


def open(url: str | None = None, *, catalog: str | None = None) -> FeatureStore:  # noqa: A001  as in ferstore.open
    """Open a store. See `ferstore.store.store.open_store`."""
    return FeatureStore(open_store(url or default_store_url(), catalog=catalog or default_catalog_uri()))


class FeatureStore:
    """An open store.

    Args:
        store: from `init` or `open`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._vectors = Vectors(store)

    @property
    def url(self) -> str:
        """Its URL."""
        return self.store.url

    def __repr__(self) -> str:
        filled = ", ".join(f"{t.name} {t.rows:,}" for t in self.tables() if t.rows)
        return f"FeatureStore({self.url!r}: {filled or 'empty'})"

    def _repr_html_(self) -> str:
        from ferstore.report.shown import html_table

        filled = [t for t in self.tables() if t.rows]
        names = ("name", "rows", "files", "description")
        return html_table(pa.table({name: [getattr(t, name) for t in filled] for name in names}), title=self.url)

    def sql(self, query: str, *, at: str | None = None, limits: Limits | None = None) -> Result:
        """Run one read-only query over the newest state, or the one at a tag, snapshot id or time.

        Args:
            query: one SELECT.
            at: the state.
            limits: what it may use of the machine; None for the defaults, which a stranger may be given.

        Raises:
            QueryError: see `ferstore.query.session.Session.execute`.
        """
        return Result(Session(self.store, self.store.pin(at), limits or Limits()), query)

    def session(self, at: str | None = None, *, limits: Limits | None = None) -> Session:
        """Queries over one pinned state, whatever is committed meanwhile, each within its limits.

        It keeps the process of a query for the next one: use it in a ``with``.
        """
        return Session(self.store, self.store.pin(at), limits or Limits(), keep=True)

    def _own_session(self, at: str | None) -> Session:
        """For ferstore's own queries, which need no bounds."""
        return Session(self.store, self.store.pin(at))

    def ingest(
        self,
        kind: str,
        url: str,
        *,
        name: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        log: IO[bytes] | None = None,
    ) -> IngestReport:
        """Register a data set. See `ferstore.sources.ingest.ingest`."""
        from ferstore.sources.ingest import ingest

        return ingest(self.store, kind, url, name=name, dry_run=dry_run, progress=progress, log=log)

    def extract(
        self,
        request: ExtractRequest,
        *,
        address: str | None = None,
        insecure: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> ExtractReport:
        """Compute what is missing. See `ferstore.extract.run.extract`."""
        from ferstore.extract.run import extract

        return extract(self.store, request, address=address, insecure=insecure, dry_run=dry_run, progress=progress)

    def split(self, request: SplitRequest, *, dry_run: bool = False) -> SplitReport:
        """Freeze a training set. See `ferstore.train.training_set.split`."""
        from ferstore.train.training_set import split

        return split(self.store, request, dry_run=dry_run)

    def training_set(self, name: str) -> TrainingSet:
        """Open a frozen training set. See `ferstore.train.training_set.open_training_set`."""
        from ferstore.train.training_set import open_training_set

        return open_training_set(self.store, name)

    def train(
        self,
        request: TrainRequest,
        *,
        resume: str | None = None,
        address: str | None = None,
        insecure: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> list[TrainReport]:
        """Fit a head on a training set, fold by fold. See `ferstore.train.run.train`."""
        from ferstore.train.run import train

        return train(
            self.store,
            request,
            resume=resume,
            address=address,
            insecure=insecure,
            dry_run=dry_run,
            progress=progress,
        )

    def predict(self, run_id: str, urls: Sequence[str]) -> list[Prediction]:
        """Classify image files with a trained run, through the extractor its features came from.

        Raises:
            InputError: no such run, one without weights, or no image among the files.
            WeightsError: the extractor's weights are gone or changed.
        """
        from ferstore.extract.single import features_of_files
        from ferstore.train.predict import Classifier

        classifier = Classifier(self.store, run_id)
        extractor = self._extractor_row(classifier.extractor_id)
        schemas = [self.store.schemas[layer] for layer in classifier.layers]
        files = features_of_files(urls, schemas, extractor, classifier.views)
        return [
            classifier.failed(url, found) if isinstance(found, FerstoreError) else classifier.classify(url, found)
            for url, found in files
        ]

    def figures(
        self,
        image: str,
        *,
        output: str | os.PathLike[str],
        run: str | None = None,
        extractor_id: str | None = None,
        progress: Progress | None = None,
    ) -> FiguresReport:
        """Draw the paper's Figures 1 to 4 for an image. See `ferstore.figures.run.figures_of_store`."""
        from ferstore.figures.run import figures_of_store

        return figures_of_store(
            self.store, image, Path(output), run_id=run, extractor_id=extractor_id, progress=progress
        )

    def similar(
        self, image: str, *, k: int = 10, layer: str = "pool_3", extractor_id: str | None = None, at: str | None = None
    ) -> list[similar.Neighbour]:
        """Images nearest to a stored one (by image_id) or to an image file, which is computed first.

        Vectors that were read stay in memory for the next question, up to an eighth of the machine's and 2 GiB.

        Raises:
            InputError: neither an image of the store nor an image file.
        """
        pin = self.store.pin(at)
        if similar.is_image_id(image):
            vector, found = similar.stored_vector(self.store, pin, image, layer, extractor_id, vectors=self._vectors)
            return similar.nearest(
                self.store, pin, vector, layer=layer, extractor_id=found, k=k, without=image, vectors=self._vectors
            )
        from ferstore.extract.single import vector_of_file

        schema = self.store.schemas.get(layer)
        extractor = self._extractor(layer, extractor_id, at)
        if schema is None or extractor is None:
            raise InputError(
                f"no {layer} features to compare with" + (f" by extractor {extractor_id}" if extractor_id else ""),
                hint="compute them first: ferstore extract",
            )
        vector = vector_of_file(image, schema, extractor)
        return similar.nearest(
            self.store,
            pin,
            vector,
            layer=layer,
            extractor_id=extractor["extractor_id"],
            k=k,
            vectors=self._vectors,
        )

    def report(
        self,
        output: str | os.PathLike[str],
        *,
        training_set: str | None = None,
        at: str | None = None,
        faces: bool = False,
        notice: str | None = None,
        progress: Progress | None = None,
    ) -> ReportMade:
        """Make one page with the tables and figures of all trainings, or of one training set's.

        Args:
            output: the folder of the page, its figures and CSV files.
            training_set: one; None for all.
            at: a tag, snapshot id or time; None is the newest state.
            faces: put small pictures of faces on the page.
            notice: what must be read before any number, such as that faces are drawn.
            progress: told of every stage.

        Raises:
            InputError: no such training set or state, or a folder that cannot be one; nothing was written.
        """
        from ferstore.report.make import make_report

        return make_report(
            self._own_session(at),
            _head_of,
            Path(output),
            store=self.url,
            map_dtype=self.store.map_dtype,
            training_set=training_set,
            notice=notice,
            faces=faces,
            progress=progress,
        )

    def confusion_matrix(self, run_id: str, *, part: str = "test", at: str | None = None) -> Figure:
        """Confusion of one training as a matplotlib figure. See `ferstore.report.notebook.confusion_matrix`."""
        from ferstore.report.notebook import confusion_matrix

        return confusion_matrix(self._own_session(at), run_id, part)

    def curve(self, run_id: str, *, at: str | None = None) -> Figure:
        """Accuracy and loss of one training as a matplotlib figure. See `ferstore.report.notebook.curve`."""
        from ferstore.report.notebook import curve

        return curve(self._own_session(at), run_id)

    def neighbour_grid(
        self, image: str, *, k: int = 10, layer: str = "pool_3", extractor_id: str | None = None, at: str | None = None
    ) -> Figure:
        """An image and those nearest to it as a matplotlib figure; arguments and errors are those of `similar`."""
        from ferstore.report.notebook import neighbour_grid

        found = self.similar(image, k=k, layer=layer, extractor_id=extractor_id, at=at)
        return neighbour_grid(self._own_session(at), image if similar.is_image_id(image) else None, image, found)

    def _extractor(self, layer: str, extractor_id: str | None, at: str | None) -> dict[str, Any] | None:
        pin = self.store.pin(at)
        if layer not in self.store.schemas:
            return None
        used = read_rows(self.store, pin, layer, ["extractor_id", "extracted_at"]).sort_by(
            [("extracted_at", "descending")]
        )
        wanted = extractor_id or (used["extractor_id"][0].as_py() if len(used) else None)
        rows = read_rows(self.store, pin, "extractors", where=pc.field("extractor_id") == wanted).to_pylist()
        return rows[0] if rows else None

    def _extractor_row(self, extractor_id: str | None) -> dict[str, Any]:
        rows = read_rows(self.store, self.store.pin(), "extractors", where=pc.field("extractor_id") == extractor_id)
        if not len(rows):
            raise InputError(f"no extractor {extractor_id!r} in this store", hint="list them: from extractors")
        row: dict[str, Any] = rows.to_pylist()[0]
        return row

    def tables(self) -> list[TableInfo]:
        """Every table with its size."""
        return list_tables(self.store)

    def snapshots(self) -> list[SnapshotInfo]:
        """Every kept snapshot, newest first."""
        return list_snapshots(self.store)

    def tag(self, name: str, *, at: str | None = None) -> dict[str, int]:
        """Name a state for ever. See `ferstore.store.tags.create_tag`."""
        return create_tag(self.store, name, at)

    def tags(self) -> dict[str, dict[str, int]]:
        """Snapshot of each table, by tag and table."""
        return self.store.pin().tags()

    def runs(self) -> list[dict[str, Any]]:
        """Rows of ``runs``, newest first."""
        rows = read_rows(self.store, self.store.pin(), "runs").sort_by([("started_at", "descending")])
        found: list[dict[str, Any]] = rows.to_pylist()
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """Rows of ``job_runs``, newest first; the state of one that died at work is ``killed``."""
        return shown_jobs(self.store, self.store.pin())

    def diff(self, first: str, second: str) -> Diff:
        """What changed between two tags, snapshots or times."""
        pin = self.store.pin()
        return diff(self.store, pin.resolve(first), pin.resolve(second))

    def compact(self, *, dry_run: bool = False, progress: Progress | None = None) -> CompactReport:
        """Merge small data files. See `ferstore.store.compact.compact`."""
        return compact(self.store, dry_run=dry_run, progress=progress)

    def vacuum(
        self,
        *,
        keep: timedelta = KEEP,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> VacuumReport:
        """Expire old snapshots and remove what nothing needs. See `ferstore.store.vacuum.vacuum`."""
        return vacuum(self.store, keep=keep, grace=grace, dry_run=dry_run, progress=progress)

    def erase(
        self,
        *,
        subject: str | None = None,
        image_id: str | None = None,
        dataset: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> EraseReport:
        """Remove a person or a picture, everywhere and for ever. See `ferstore.store.erase.erase`."""
        return erase(
            self.store, subject=subject, image_id=image_id, dataset=dataset, dry_run=dry_run, progress=progress
        )

    def abandon(self, run_id: str) -> None:
        """Declare a run dead that died out of sight. See `ferstore.store.at_work.abandon`."""
        abandon(self.store, run_id)

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Read every live file back. See `ferstore.store.verify.verify`."""
        return verify(self.store, progress)

    def doctor(self) -> list[Finding]:
        """Check the store. See `ferstore.store.doctor.doctor`."""
        return doctor(self.store)


def _head_of(classes: int) -> Head:
    """Table 1 for so many classes, read off the head that `ferstore.train` builds at full width."""
    from ferstore.report.contents import Head, HeadLayer
    from ferstore.report.entries import PAPER_WIDTH
    from ferstore.train.table_1 import table_1

    return Head(classes, tuple(HeadLayer(*row) for row in table_1(classes, PAPER_WIDTH)))
