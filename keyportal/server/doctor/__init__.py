"""`manage.py doctor`: looks at everything that an installation needs, and says what to do."""

from collections.abc import Iterator

from keyportal.server.doctor import database, host, model_servers, network, sign_in
from keyportal.server.doctor.findings import Finding

ALWAYS = (
    *(host.configuration, host.secrets, host.static_files, host.disk),
    *(network.mail, network.public_address),
)
WITH_DATABASE = (
    *(database.migrations, database.connections),
    *(model_servers.upstreams, sign_in.identity_providers),
)


def examine() -> Iterator[Finding]:
    """All findings. Without a database, those that need one are left out."""
    of_database = [*database.access()]
    yield from of_database
    has_database = not of_database[-1].is_problem
    for check in (*ALWAYS, *(WITH_DATABASE if has_database else ())):
        yield from check()
