"""Iceberg properties of every table, with the reason for each."""

from __future__ import annotations

from collections.abc import Mapping

from pyiceberg.table import TableProperties

TABLE_PROPERTIES: Mapping[str, str] = {
    "format-version": "2",
    # Conflicts are ferstore's to judge: a blind retry of an append would add an image twice.
    TableProperties.COMMIT_NUM_RETRIES: "0",
    TableProperties.MANIFEST_MERGE_ENABLED: "true",
    TableProperties.METADATA_PREVIOUS_VERSIONS_MAX: "20",
    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
    # Keys are digests and features have no order: bounds in manifests would be bytes without use.
    "write.metadata.metrics.default": "counts",
}

HISTORY_GAP = "ferstore.history-gap"
"""Set on a table whose older snapshots were vacuumed or erased: before its oldest one it was not simply empty."""

ERASURES = "ferstore.erasures"
"""How many erasures a table has seen. A job that began before the last one must not commit what it read."""
