"""The last release works on the tables of this version, as it must while hosts are updated."""

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.usage.models import Call
from tests.support.server import BareServer, Server, wait_until

pytestmark = pytest.mark.gateway


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=settings.BASE_DIR, capture_output=True)


def last_release() -> str:
    """The tag of the last release; empty if there is none in this checkout."""
    return git("describe", "--tags", "--abbrev=0", "--match=v[0-9]*").stdout.decode().strip()


def test_the_last_release_works_on_the_tables_of_this_version(
    own_server: Callable[..., Server],
    alice: User,
    issue: Callable[..., tuple[ApiKey, str]],
    model: ServedModel,
    tmp_path: Path,
) -> None:
    """With this version's packages. A column that it doesn't know must have a default."""
    if not (release := last_release()):
        pytest.skip("Not checked: this checkout has no tag of a release. There was none yet.")
    with tarfile.open(fileobj=io.BytesIO(git("archive", release).stdout)) as archive:
        archive.extractall(tmp_path / "release", filter="data")

    class LastRelease(BareServer):
        code = tmp_path / "release"

    server = own_server(LastRelease)
    assert server.request("GET", "/readyz").status == 200
    options = ("--team", alice.memberships.get().team.slug, "--owner", "alice", "--name", "new")
    server.manage("keys", "create", *options)
    key, text = issue(alice)
    assert server.chat(text, model.name).status == 200
    wait_until(lambda: Call.objects.filter(public_id=key.public_id).exists())
    server.manage("keys", "delete", key.public_id)
    assert server.chat(text, model.name).status == 401
