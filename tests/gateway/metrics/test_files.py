"""Workers' counts in files: sums never fall, whatever happens to a worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyportal.gateway.metrics.families import CALLS, REQUESTS, Snapshot
from keyportal.gateway.metrics.files import (
    ENDED,
    LOCK,
    MAX_REMEMBERED,
    MetricsFolder,
    remove_abandoned,
)

LABELS = ("/chat/completions", "public/one", "", "2xx")


@pytest.fixture
def folder() -> Iterator[MetricsFolder]:
    folder = MetricsFolder()
    yield folder
    folder.remove()
    assert not folder.path.exists()


def snapshot(requests: float, calls: float = 0) -> Snapshot:
    return {REQUESTS.name: [(LABELS, [requests])], CALLS.name: [((), [calls])]}


def write(folder: MetricsFolder, pid: int, worker: str, content: Snapshot) -> None:
    folder.write(worker, content)
    (folder.path / f"{os.getpid()}.json").rename(folder.path / f"{pid}.json")


def requests(folder: MetricsFolder) -> float:
    return dict(folder.read()[0][REQUESTS.name])[LABELS][0]


def test_workers_are_summed(folder: MetricsFolder) -> None:
    write(folder, 1, "a", snapshot(3, calls=2))
    write(folder, 2, "b", snapshot(4, calls=5))
    sums, workers = folder.read()
    assert workers == 2
    assert dict(sums[REQUESTS.name]) == {LABELS: [7]}
    assert dict(sums[CALLS.name]) == {(): [7]}


def test_an_ended_worker_leaves_its_counts_but_no_gauge_and_no_file(folder: MetricsFolder) -> None:
    write(folder, 1, "a", snapshot(3, calls=2))
    write(folder, 2, "b", snapshot(4, calls=5))
    folder.end_worker(1)
    sums, workers = folder.read()
    assert workers == 1
    assert dict(sums[REQUESTS.name]) == {LABELS: [7]}
    assert dict(sums[CALLS.name]) == {(): [5]}
    assert sorted(file.name for file in folder.path.iterdir()) == ["2.json", ENDED, LOCK]


def test_a_worker_that_ends_while_the_sums_are_read_counts_once(
    folder: MetricsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is read, and then it is added to the ended ones."""
    write(folder, 1, "a", snapshot(3))
    read_ended = folder._read_ended

    def read_after_end() -> object:
        monkeypatch.undo()
        folder.end_worker(1)
        return read_ended()

    monkeypatch.setattr(folder, "_read_ended", read_after_end)
    assert requests(folder) == 3
    assert requests(folder) == 3


def test_a_worker_that_ends_twice_or_never_wrote_counts_nothing(folder: MetricsFolder) -> None:
    write(folder, 1, "a", snapshot(3))
    for _ in range(2):
        folder.end_worker(1)
    folder.end_worker(99)
    assert requests(folder) == 3


def test_many_restarts_keep_one_small_file(folder: MetricsFolder) -> None:
    for number in range(MAX_REMEMBERED + 20):
        write(folder, 1, f"worker-{number}", snapshot(1))
        folder.end_worker(1)
    assert requests(folder) == MAX_REMEMBERED + 20
    assert {file.name for file in folder.path.iterdir()} == {ENDED, LOCK}
    assert (folder.path / ENDED).stat().st_size < 4000


def test_others_on_the_machine_cannot_read_it(folder: MetricsFolder) -> None:
    assert folder.path.stat().st_mode & 0o077 == 0


def test_folder_of_a_killed_process_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its last worker has ended, and nothing that is another's or a link."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / LOCK).touch()
    link = tmp_path / "keyportal-metrics-link"
    link.symlink_to(outside)
    unfinished = tmp_path / "keyportal-metrics-new"
    unfinished.mkdir()
    killed = MetricsFolder()
    script = "print(flush=True); input()"
    # As a worker that goes on without its master.
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[killed._lock],
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        os.close(killed._lock)
        remove_abandoned()
        assert killed.path.exists()
        worker.kill()
    running = MetricsFolder()
    assert not killed.path.exists()
    remove_abandoned()
    assert {*tmp_path.iterdir()} == {outside, link, unfinished, running.path}
    assert (outside / LOCK).exists()
    running.remove()
