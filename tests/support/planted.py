"""Bugs of one line each, and the ordinary test that must catch it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One line of the package replaced.

    Attributes:
        what: it does wrong.
        file: below ``ferstore/``.
        line: as it stands there, once.
        planted: what takes its place.
        caught_by: a test of the ordinary suite.
    """

    what: str
    file: str
    line: str
    planted: str
    caught_by: str


BUGS = (
    Bug(
        "a file has its name before its bytes are on disk",
        "store/files.py",
        "            os.fsync(stream.fileno())",
        "            pass",
        "tests/store/test_files.py::test_bytes_are_on_disk_before_the_name_is",
    ),
    Bug(
        "verify does not look at the digest",
        "store/verify.py",
        '    return f"has digest {digest}" if recorded and recorded != digest else None',
        "    return None",
        "tests/store/test_verify_doctor.py::test_one_flipped_bit_anywhere_in_a_file_is_named_with_the_digest_it_has_now",
    ),
    Bug(
        "several tables are committed one after another",
        "store/catalog.py",
        "                    if swapped.rowcount != 1:  # type: ignore[attr-defined]",
        "                    if session.commit() or swapped.rowcount != 1:",
        "tests/store/test_commit_races.py::test_a_conflict_error_from_the_catalog_promises_that_nothing_landed",
    ),
    Bug(
        "a file is overwritten where it must be new",
        "store/files.py",
        "        os.link(partial, path)",
        "        partial.replace(path)",
        "tests/store/test_files.py::test_an_exclusive_file_is_not_replaced",
    ),
    Bug(
        "a file is written in place, so that a crash leaves a part of it",
        "store/files.py",
        '        with partial.open("xb") as stream:',
        '        with (path if not exclusive else partial).open("wb") as stream:',
        "tests/store/test_files.py::test_a_crash_before_the_name_is_given_leaves_what_was_there",
    ),
    Bug(
        "metadata is written short",
        "store/files.py",
        "            write_file(self._url, data, exclusive=self._exclusive)",
        "            write_file(self._url, data[:-1], exclusive=self._exclusive)",
        "tests/store/test_files.py::test_metadata_appears_on_close_and_is_never_replaced",
    ),
    Bug(
        "the catalog swaps whatever is there",
        "store/catalog.py",
        "                            IcebergTables.metadata_location == current.metadata_location,",
        "                            IcebergTables.table_name == name,",
        "tests/store/test_commit_races.py::test_a_conflict_error_from_the_catalog_promises_that_nothing_landed",
    ),
    Bug(
        "rows that another job committed meanwhile are added again",
        "extract/committer.py",
        "                mine = [key not in foreign for key in keys]",
        "                mine = [True for key in keys]",
        "tests/extract/test_committer.py::test_overlapping_shards_of_two_jobs_leave_every_key_once_and_the_layers_agree",
    ),
    Bug(
        "what landed elsewhere is counted as computed here too",
        "extract/committer.py",
        "                kept |= stay",
        "                kept |= set(keys)",
        "tests/extract/test_committer.py::test_a_shard_that_another_job_did_in_full_adds_nothing",
    ),
    Bug(
        "a commit whose answer was lost is taken for one that failed",
        "store/commit.py",
        "        if any(tables <= landed for tables in open_outcomes):",
        "        if False:",
        "tests/sources/test_ingest.py::test_a_commit_whose_answer_was_lost_is_told_as_it_landed",
    ),
    Bug(
        "an item that failed is dropped in silence",
        "extract/committer.py",
        "        for failure in failures:",
        "        for failure in failures[:0]:",
        "tests/extract/test_committer.py::test_attempts_grow_from_run_to_run_and_the_first_time_stays",
    ),
    Bug(
        "another extractor's features are taken for these",
        "store/rows.py",
        '        rows = rows.filter(pc.equal(rows["extractor_id"], extractor_id))',
        "        rows = rows.slice(0)",
        "tests/extract/test_committer.py::test_two_extractors_do_not_take_each_other_for_done",
    ),
    Bug(
        "the extractor is ignored when what is missing is planned",
        "extract/run.py",
        "    done = {layer: read_keys(pin, layer, extractor.extractor_id) for layer in request.layers}",
        '    done = {layer: read_rows(store, pin, layer, ["image_id", "view"]) for layer in request.layers}',
        "tests/extract/test_missing.py::test_another_extractor_finds_everything_missing",
    ),
    Bug(
        "features are stored under the digest of other bytes",
        "extract/worker.py",
        "            if hashlib.sha256(data).hexdigest() == item.image_id:",
        "            if data:",
        "tests/extract/test_worker.py::test_a_file_that_changed_since_ingest_is_never_computed_under_its_old_identity",
    ),
    Bug(
        "a picture that kills its process is tried again and again",
        "extract/decide.py",
        "        elif shard.kills + 1 >= KILLS_TO_QUARANTINE:",
        "        elif shard.kills + 1 >= 4 * KILLS_TO_QUARANTINE:",
        "tests/extract/test_decide.py::test_a_poison_item_is_quarantined_after_two_deaths_alone_and_all_others_are_done",
    ),
    Bug(
        "a commit is tried without measure",
        "store/attempts.py",
        "            if attempt >= _ATTEMPTS and (self._problem or started - began > _PATIENCE):",
        "            if attempt >= 4 * _ATTEMPTS and (self._problem or started - began > _PATIENCE):",
        "tests/store/test_commits.py::test_a_writer_that_never_wins_ends_in_a_conflict",
    ),
    Bug(
        "a key with null is never the same key",
        "store/rows.py",
        '        table = table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], "\\0"))',
        "        table = table.set_column(table.column_names.index(name), name, table[name])",
        "tests/store/test_commits.py::test_null_in_a_key_equals_null",
    ),
    Bug(
        "compact drops the last row group",
        "store/rewrite.py",
        "        for group in range(file.num_row_groups):",
        "        for group in range(max(1, file.num_row_groups - 1)):",
        "tests/store/test_compact.py::test_every_row_group_of_a_file_is_merged",
    ),
    Bug(
        "compact brings back rows that left meanwhile",
        "store/compact.py",
        "        left = any(source.file_path not in live for source in sources)",
        "        left = all(source.file_path not in live for source in sources)",
        "tests/store/test_compact.py::test_rows_that_left_meanwhile_do_not_come_back",
    ),
    Bug(
        "vacuum does not wait for a job at work",
        "store/vacuum.py",
        "    limit = min([now - grace, *(run.started_at - _SLACK for run in working if run.alive)])",
        "    limit = now - grace",
        "tests/store/test_vacuum.py::test_what_a_running_job_has_written_stays_however_old",
    ),
    Bug(
        "vacuum has no grace",
        "store/vacuum.py",
        "    limit = min([now - grace, *(run.started_at - _SLACK for run in working if run.alive)])",
        "    limit = min([now, *(run.started_at - _SLACK for run in working if run.alive)])",
        "tests/store/test_vacuum.py::test_leftovers_go_once_they_are_old",
    ),
    Bug(
        "vacuum expires what a tag names",
        "store/vacuum.py",
        "    kept = {ref.snapshot_id for ref in table.metadata.refs.values()} | set(needed)",
        "    kept = {table.metadata.current_snapshot_id} | set(needed)",
        "tests/store/test_vacuum.py::test_a_tag_keeps_its_state_for_ever",
    ),
    Bug(
        "erase forgets a table",
        "store/erase.py",
        "        for url, described in files[name].items() if columns else ():",
        '        for url, described in files[name].items() if columns and name != "conv4" else ():',
        "tests/store/test_erase.py::test_nothing_of_a_person_is_left_in_any_byte",
    ),
    Bug(
        "a job that read a person before the erasure commits the person again",
        "store/commit.py",
        "        if since is not None and erasures(pin) != erasures(since):",
        "        if False:",
        "tests/store/test_erase.py::test_a_job_that_began_before_an_erasure_commits_nothing",
    ),
    Bug(
        "an ingest loses what could not be read",
        "sources/ingest.py",
        "                errors.append(_error_row(dataset, entry, None, found.problem))",
        "                continue",
        "tests/sources/test_ingest.py::test_an_item_listed_twice_is_declared_and_one_that_contradicts_itself_is_quarantined",
    ),
)
