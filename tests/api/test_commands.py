from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from keyportal.api.models import ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import User
from tests.support.api_client import ApiClient, NewApiClient
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database


def issue(*arguments: str, owner: str = "ada", name: str = "deploy") -> str:
    out = StringIO()
    who = ["--team=u-8105f7322477", f"--owner={owner}", f"--name={name}", "--scopes=keys:read"]
    call_command("issue_management_key", *who, *arguments, stdout=out, stderr=StringIO())
    return out.getvalue().removesuffix("\n")


def test_command_prints_only_the_management_key(ada: User) -> None:
    text = issue("--scopes=keys:write")
    assert ApiClient(text).get("keys").status_code == 200
    key = ManagementKey.objects.get()
    assert key.scopes == ["keys:read", "keys:write"]
    assert key.expires_at
    assert abs(key.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert AuditEvent.objects.get(action=Action.MANAGEMENT_KEY_CREATED).actor == ""


def test_command_accepts_expiry_and_permissions(ada: User) -> None:
    issue("--no-expiry", "--models=public/*", "--endpoints=chat", "--networks=10.0.0.0/8")
    key = ManagementKey.objects.get()
    assert key.expires_at is None
    assert key.permissions == Permissions(("public/*",), Endpoints.CHAT, ("10.0.0.0/8",))


def test_invalid_arguments_give_a_one_sentence_error(ada: User, charlie: User) -> None:
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (["--days=0"], {}, "must be from 1 to 3650"),
        (["--days=99999"], {}, "must be from 1 to 3650"),
        (["--networks=x"], {}, "not an address"),
        (["--scopes=all"], {}, "invalid choice"),
        ([], {"owner": "nobody"}, "no user named nobody"),
        ([], {"owner": "charlie"}, "not in the team"),
        ([], {"name": "mk-kp-7QmX2aPdk3Tz"}, "contains an API key"),
        ([], {"name": ""}, "blank"),
    ]
    for arguments, more, message in cases:
        with own_case(arguments, more, message):
            with pytest.raises(CommandError, match=message):
                issue(*arguments, **more)
            assert not ManagementKey.objects.exists()


def test_taken_name_gives_a_one_sentence_error(ada: User) -> None:
    issue()
    with pytest.raises(CommandError, match="already exists"):
        issue()


def test_management_key_is_deleted(ada: User, new_api_client: NewApiClient) -> None:
    program = new_api_client(ada)
    call_command("delete_management_key", program.key.public_id, stderr=StringIO())
    assert program.get("self").status_code == 401
    with pytest.raises(CommandError, match="no management key"):
        call_command("delete_management_key", program.key.public_id)
