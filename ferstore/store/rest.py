"""A REST catalog: how it is opened, and a commit of several tables at once where its server can do that.

The specification has ``POST /v1/{prefix}/transactions/commit`` for several tables' commits, all or none; a server that
has it says so in the answer to ``GET /v1/config``. PyIceberg 0.12 does not call it.
https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from pyiceberg.catalog.rest import API_PREFIX, Endpoint, RestCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    RESTError,
    ServiceUnavailableError,
)
from pyiceberg.table import CommitTableRequest, Namespace, TableIdentifier, Transaction
from pyiceberg.table.update import AssertTableUUID
from pyiceberg.typedef import IcebergBaseModel
from pyiceberg.utils.config import Config
from requests import Response

_TOGETHER = Endpoint.from_string(f"POST {API_PREFIX}/transactions/commit")
_FIRST = ("extractors",)
_LAST = ("training_sets", "runs", "job_runs")


class _CommitTogether(IcebergBaseModel):
    table_changes: list[CommitTableRequest] = Field(alias="table-changes")


class TogetherRestCatalog(RestCatalog):
    """PyIceberg's, with commits of several tables."""

    @property
    def commits_together(self) -> bool:
        """Whether the server commits several tables all or none."""
        return _TOGETHER in self._supported_endpoints

    def commit_all(self, transactions: Sequence[Transaction]) -> None:
        """Commit the transactions of several tables: at once, or one after another where the server has no other way.

        One after another, those tables come last whose rows make the others' count: whoever reads in between, or after
        a fault, finds features without a run that says done, and never the reverse.

        Raises:
            CommitFailedException: a table moved on. Those before it have been committed, unless all go together.
            CommitStateUnknownException: nobody knows.
        RESTError: the server refuses.
        """
        left = sorted(transactions, key=_rank)
        try:
            if self.commits_together and len(left) > 1:
                self._post(left)
                return
            while left:
                left[0].commit_transaction()
                del left[0]
        except CommitFailedException:  # promises that nothing of this landed: what was written for it can go
            for producer in (producer for transaction in left for producer in transaction._snapshot_producers):
                producer._clean_all_uncommitted()
            raise

    def _post(self, transactions: Sequence[Transaction]) -> None:
        changes = []
        for transaction in transactions:
            *namespace, name = transaction._table.name()
            requirements = (*transaction._requirements, AssertTableUUID(uuid=transaction._table.metadata.table_uuid))
            changes.append(
                CommitTableRequest(
                    identifier=TableIdentifier(namespace=Namespace(namespace), name=name),
                    requirements=requirements,
                    updates=transaction._updates,
                )
            )
        body = _CommitTogether.model_validate({"table-changes": changes}).model_dump_json()
        answer = self._session.post(self.url("transactions/commit"), data=body.encode())
        if answer.ok:
            return
        raise _refusal(answer)


def _refusal(answer: Response) -> Exception:
    said = f"{answer.status_code}: {answer.text[:300]}"
    if answer.status_code == 409:
        return CommitFailedException(said)
    if answer.status_code in (429, 503):
        return ServiceUnavailableError(said)
    if answer.status_code < 500:  # a wrong token, or a body that the server does not take
        return RESTError(said)
    return CommitStateUnknownException(said)


def _rank(transaction: Transaction) -> int:
    """Order of commits one after another: names of states, what others point at, rows, what makes these count."""
    name = transaction._table.name()[-1]
    if not transaction._snapshot_producers:
        return 0
    return 1 if name in _FIRST else 3 if name in _LAST else 2


def open_rest(uri: str, **properties: str) -> TogetherRestCatalog:
    """Open it. Its token or credential, and its warehouse where it has several, are PyIceberg's configuration.

    That is ``PYICEBERG_CATALOG__FERSTORE__TOKEN``, ``…__CREDENTIAL``, ``…__WAREHOUSE`` and so on, or the same under
    ``catalog: ferstore:`` in ``~/.pyiceberg.yaml``.
    """
    given: dict[str, Any] = dict(Config().get_catalog_config("ferstore") or {})
    ours = {"uri": uri, "py-io-impl": properties["py-io-impl"]}
    return TogetherRestCatalog("ferstore", **{**properties, **given, **ours})
