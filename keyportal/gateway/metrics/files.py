"""Files by which workers pass their counts to the one that Prometheus asks.

Each worker writes its own once a second. When a worker has ended, the master adds its counts to a
file for all ended workers, so that the sums never fall, and removes its file.
"""

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from keyportal.gateway.metrics.families import Snapshot, Totals

PREFIX = "keyportal-metrics-"
LOCK = "lock"
ENDED = "ended.json"
MAX_REMEMBERED = 100


class WorkerFile(msgspec.Struct):
    """The counts of one worker."""

    id: str
    snapshot: Snapshot


class EndedFile(msgspec.Struct):
    """The counts of all workers that have ended."""

    snapshot: Snapshot = {}
    ids: list[str] = []
    """The last workers whose counts are in it."""


class MetricsFolder:
    """A folder in the system's place for temporary files, made before the workers are.

    The master and its workers hold a lock on a file in it, so that a later start finds the folders
    whose processes were killed.
    """

    def __init__(self) -> None:
        remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # It gets its name when it is locked: another start must not take it for an abandoned one.
        new = self.path / f"{LOCK}.new"
        self._lock = os.open(new, os.O_CREAT | os.O_WRONLY, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def write(self, worker: str, snapshot: Snapshot) -> None:
        """Called in a worker; `worker` is its id."""
        self._replace(f"{os.getpid()}.json", WorkerFile(worker, snapshot))

    def end_worker(self, pid: int) -> None:
        """Called in the master when a worker has ended, however it did.

        It waits for no lock: a process that is stopped while it has one would stop the master.
        """
        file = self.path / f"{pid}.json"
        try:
            last = msgspec.json.decode(file.read_bytes(), type=WorkerFile)
        except (OSError, msgspec.DecodeError):
            return  # It has never written one.
        ended = self._read_ended()
        totals = Totals()
        totals.add(ended.snapshot)
        totals.add(last.snapshot, is_over=True)
        ids = [*ended.ids, last.id][-MAX_REMEMBERED:]
        self._replace(ENDED, EndedFile(totals.snapshot(), ids))
        file.unlink(missing_ok=True)

    def read(self) -> tuple[Snapshot, int]:
        """The sums of all workers, and how many of them are running.

        A worker can end meanwhile. So the file of the ended ones is read last, and says whose
        counts it has: they are neither missing nor counted twice.
        """
        workers = [*filter(None, map(self._read_worker, self.path.glob("[0-9]*.json")))]
        ended = self._read_ended()
        running = [worker for worker in workers if worker.id not in ended.ids]
        totals = Totals()
        totals.add(ended.snapshot)
        for worker in running:
            totals.add(worker.snapshot)
        return totals.snapshot(), len(running)

    @staticmethod
    def _read_worker(file: Path) -> WorkerFile | None:
        try:
            return msgspec.json.decode(file.read_bytes(), type=WorkerFile)
        except FileNotFoundError:
            return None

    def _read_ended(self) -> EndedFile:
        try:
            return msgspec.json.decode((self.path / ENDED).read_bytes(), type=EndedFile)
        except FileNotFoundError:
            return EndedFile()

    def _replace(self, name: str, content: msgspec.Struct) -> None:
        """Write it under another name first, so that no reader finds a part of it."""
        temporary = self.path / f"{name}.{secrets.token_hex(4)}"
        temporary.write_bytes(msgspec.json.encode(content))
        temporary.replace(self.path / name)


def remove_abandoned() -> None:
    """Remove the folders of processes that were killed, in which nobody holds the lock any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    """Attack: another user makes such a name a link to our files; so only what is ours is opened.

    Raises an OSError if the folder is in use.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    lock = os.open(folder / LOCK, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
