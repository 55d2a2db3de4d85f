"""manage.py reencrypt: a new credential key takes the place of an old one."""

from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP
from cryptography.fernet import Fernet
from django.apps import apps
from django.core.management import CommandError, call_command
from pytest_django import Settings

from keyportal.audit.models import AuditEvent
from keyportal.catalog.models import Upstream
from keyportal.server.management.commands.reencrypt import COLUMNS
from keyportal.teams.models import User
from keyportal.teams.openid.stored import StoredProvider

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
TOTP_SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@pytest.fixture
def read(settings: Settings, bob: User) -> Callable[[], list[str]]:
    """Secrets of each kind, which the old key encrypts; a function that decrypts them."""
    settings.CREDENTIAL_KEYS = (OLD,)
    server = Upstream(name="gpu-1", base_url="http://127.0.0.1:9/v1")
    server.credential, server.headers = "sk-very-secret", "x-tenant: 7"
    server.save()
    Upstream.objects.create(name="open", base_url="http://127.0.0.1:8/v1")
    provider = StoredProvider(provider_id="corp", issuer="http://127.0.0.1:9")
    provider.client_secret = "of-the-provider"
    provider.save()
    TOTP.activate(bob, TOTP_SECRET)
    codes = RecoveryCodes.activate(bob).get_unused_codes()

    def read() -> list[str]:
        factors = Authenticator.objects.filter(user=bob)
        app, recovery = (factors.get(type=kind).wrap() for kind in ("totp", "recovery_codes"))
        assert app.instance.data["secret"] != TOTP_SECRET
        assert recovery.get_unused_codes() == codes
        found = Upstream.objects.get(name="gpu-1")
        return [found.credential, found.headers, StoredProvider.objects.get().client_secret]

    return read


def test_old_key_is_not_needed_afterwards(
    settings: Settings, read: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    before, events = read(), AuditEvent.objects.count()
    settings.CREDENTIAL_KEYS = (NEW, OLD)
    call_command("reencrypt")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "Secrets encrypted with the newest key: 5.\n")
    settings.CREDENTIAL_KEYS = (NEW,)
    assert read() == before == ["sk-very-secret", "x-tenant: 7", "of-the-provider"]
    assert AuditEvent.objects.count() == events


def test_what_no_key_decrypts_is_named_and_stays(
    settings: Settings, read: Callable[[], list[str]]
) -> None:
    settings.CREDENTIAL_KEYS = (NEW,)
    lost = "the credential of gpu-1, the headers of gpu-1, the secret of corp, the second factor"
    with pytest.raises(CommandError, match=f"None of the keys decrypts {lost} of bob"):
        call_command("reencrypt")
    settings.CREDENTIAL_KEYS = (OLD,)
    assert read()[0] == "sk-very-secret"


def test_it_knows_all_encrypted_columns() -> None:
    found = {
        (model, field.name)
        for model in apps.get_models()
        for field in model._meta.fields
        if field.name.startswith("encrypted_")
    }
    assert found == {*COLUMNS}
