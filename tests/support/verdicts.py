"""The verdict on a key, as the admission thread reads it."""

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission import database
from keyportal.gateway.admission.verdict import Verdict, read_verdicts
from keyportal.keys import keystring


def read_verdict(key_string: str) -> Verdict:
    """Closes the connection, which is not to be used after Django has closed it too."""
    digest = keystring.digest(key_string.encode())
    try:
        return read_verdicts([digest], Snapshot.empty()).verdicts[digest]
    finally:
        database.close()
