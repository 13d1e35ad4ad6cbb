"""A line is done and charged, or neither; a job ends with all its lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cierzo.errors import StoreNotFoundError
from cierzo.ids import new_id
from cierzo.store import batch_jobs, ledger
from cierzo.store.batch_jobs import BatchJob, Filter
from cierzo.store.db import Database
from cierzo.store.tables import DEFAULT_ID
from tests.store.test_files import record as file_record
from tests.store.test_ledger import record


def made(database: Database, labels: dict[str, str] | None = None) -> BatchJob:
    job = BatchJob(new_id(), DEFAULT_ID, None, "/v1/embeddings", "tiny", labels, ["f"], None, 1)
    batch_jobs.create(database, job)
    batch_jobs.start(database, job.id, 9)
    return job


def keep(database: Database, job: BatchJob, number: int, *, is_success: bool = True) -> bool:
    rows = [record(f"{job.id}:{number}{part}") for part in ("", ":guardrail-1")]
    return batch_jobs.keep_line(database, job.id, number, b"{}\n", rows, is_success=is_success)


def test_a_line_counts_once(database: Database) -> None:
    job = made(database)
    for _ in range(2):
        assert keep(database, job, 4)
    keep(database, job, 2, is_success=False)
    found = batch_jobs.get(database, DEFAULT_ID, job.id)
    assert (found.status, found.num_succeeded, found.num_failed) == ("RUNNING", 1, 1)
    assert batch_jobs.answered_lines(database, job.id) == {2, 4}
    assert ledger.find(database, f"{job.id}:4") is not None
    assert ledger.find(database, f"{job.id}:4:guardrail-1") is not None


def test_a_job_ends_with_all_its_lines_or_not_yet(database: Database) -> None:
    job = made(database)
    output = file_record(new_id(), num_lines=1)
    keep(database, job, 0)
    keep(database, job, 1)
    assert not batch_jobs.finish(database, job.id, "SUCCESS", [], output, None)
    assert batch_jobs.answered_lines(database, job.id) == {0, 1}
    output = replace(output, num_lines=2)
    assert batch_jobs.finish(database, job.id, "SUCCESS", [], output, None)
    assert not batch_jobs.finish(database, job.id, "CANCELLED", [], output, None)
    found = batch_jobs.get(database, DEFAULT_ID, job.id)
    assert (found.status, found.output_file, found.error_file) == ("SUCCESS", output.id, None)
    assert batch_jobs.answered_lines(database, job.id) == set()


def test_after_its_end_a_job_takes_and_charges_nothing(database: Database) -> None:
    job, gone = made(database), made(database)
    batch_jobs.request_cancellation(database, job.id)
    keep(database, job, 0)  # was being computed
    output = file_record(new_id(), num_lines=1)
    assert batch_jobs.finish(database, job.id, "CANCELLED", [], output, None)
    batch_jobs.remove(database, gone.id)
    for ended in (job, gone):
        assert not keep(database, ended, 1)
        assert ledger.find(database, f"{ended.id}:1") is None
    batch_jobs.request_cancellation(database, job.id)
    assert batch_jobs.get(database, DEFAULT_ID, job.id).status == "CANCELLED"
    with pytest.raises(StoreNotFoundError):
        batch_jobs.remove(database, gone.id)


def test_what_was_cut_off_is_noted_for_nothing_once_the_job_is_over(database: Database) -> None:
    ended, gone = made(database), made(database)
    for job in (ended, gone):
        row = record(f"{job.id}:7", is_batch=True, price_micros=9)
        batch_jobs.record_cut_off(database, job.id, [row])
        assert ledger.find(database, row.request_id) is None, "it may still be answered"
        if job is gone:
            batch_jobs.remove(database, job.id)
        else:
            assert batch_jobs.finish(database, job.id, "CANCELLED", [], None, None)
        batch_jobs.record_cut_off(database, job.id, [row])
        found = ledger.find(database, row.request_id)
        assert found is not None
        assert (found.status, found.price_micros) == ("aborted", 0)
        assert found.completion_tokens == row.completion_tokens


def test_lists(database: Database) -> None:
    one, other = made(database, {"a": "1", "b": "2"}), made(database, {"a": "2"})

    def ids(chosen: Filter, *, oldest_first: bool = False) -> list[str]:
        found = batch_jobs.list_jobs(
            database, DEFAULT_ID, chosen, 0, 10, oldest_first=oldest_first
        )[0]
        return [job.id for job in found]

    assert set(ids(Filter())) == {one.id, other.id}
    assert ids(Filter(), oldest_first=True) == ids(Filter())[::-1]
    assert ids(Filter(labels=(("a", "1"), ("b", "2")))) == [one.id]
    assert ids(Filter(labels=(("a", "1"), ("b", "3")))) == []
    assert ids(Filter(statuses=("QUEUED",), model="tiny")) == []
    assert len(ids(Filter(statuses=("RUNNING",), model="tiny"))) == 2
    assert ids(Filter(created_after_ms=2**50)) == []
