"""A lock on a counter stops only what counts there, and a host that vanished loses its locks."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyportal.gateway.admission import limiter_sql
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.database import close, database
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import User
from keyportal.usage.models import Kind, key_subject

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "admission"]),
    pytest.mark.postgresql,  # SQLite has one lock for the whole file.
]
Issue = Callable[..., tuple[ApiKey, str]]


class OtherHost:
    """A session of another host, with the settings of the admission thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def count(self, *keys: ApiKey) -> None:
        """Count a request of each key in a transaction, which stays open."""
        self._thread.submit(self._count, keys).result(60)

    def _count(self, keys: tuple[ApiKey, ...]) -> None:
        database().begin()
        subjects = sorted(key_subject(key.public_id) for key in keys)
        limiter_sql.add([(subject, Kind.MINUTE, 1, 0) for subject in subjects])

    def close(self) -> None:
        self._thread.submit(close).result(60)
        self._thread.shutdown()


@pytest.fixture
def other_host() -> Iterator[OtherHost]:
    other_host = OtherHost()
    yield other_host
    other_host.close()


@pytest.fixture
def admission(db: None) -> Iterator[Admission]:
    admission = Admission("worker")
    yield admission
    asyncio.run(admission.close())
    admission._thread.shutdown()  # Waits: an open connection would prevent dropping the database.


@pytest.fixture
def limited(alice: User, issue: Issue) -> Callable[..., tuple[ApiKey, str]]:
    def limited(name: str, **limits: int) -> tuple[ApiKey, str]:
        key, text = issue(alice, name)
        ApiKey.objects.filter(pk=key.pk).update(limits=Limits(**limits))
        return key, text

    return limited


async def admit(admission: Admission, text: str) -> str:
    """Return `Admitted`, or the name of the error."""
    try:
        digest = keystring.digest(text.encode())
        return type(await admission.admit(digest, None, is_counted=True)).__name__
    except Exception as error:
        return type(error).__name__


def test_locks_of_a_host_that_vanished_before_its_commit_end_within_three_seconds(
    admission: Admission, other_host: OtherHost, limited: Callable[..., tuple[ApiKey, str]]
) -> None:
    key, text = limited("test-key", requests_per_minute=60)
    other_host.count(key)  # And then nothing more, as if its cable had been cut.
    began = time.monotonic()

    async def admit_again() -> str:
        while (outcome := await admit(admission, text)) != "Admitted":
            assert outcome == "DatabaseUnavailable"
        return outcome

    assert asyncio.run(asyncio.wait_for(admit_again(), 60)) == "Admitted"
    assert time.monotonic() - began < 10  # Three on a machine that is idle.
