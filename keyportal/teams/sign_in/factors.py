"""Second factors: where Keyportal differs from allauth's authenticator apps, passkeys and codes."""

from typing import ClassVar
from urllib.parse import urlsplit

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.template.loader import render_to_string

from keyportal.database import encryption
from keyportal.teams.models import User
from keyportal.teams.signals import end_sessions


class FactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]  # untyped base
    error_messages: ClassVar = DefaultMFAAdapter.error_messages | {
        "incorrect_code": ("This code or passkey is wrong, or was used already. Try again."),
        "cannot_generate_recovery_codes": "Add a passkey or an authenticator app first.",
    }

    def encrypt(self, text: str) -> str:
        """Attack: with a backup of the database, somebody makes valid codes."""
        return encryption.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        return encryption.decrypt(encrypted_text)

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """Passkeys belong to the host name of the public address; browsers accept no IP address."""
        host = urlsplit(settings.PUBLIC_URL).hostname
        entity: dict[str, str] = super().get_public_key_credential_rp_entity()
        is_name = host is not None and host not in settings.LOOPBACK_ADDRESSES
        return {"id": str(host) if is_name else entity["id"], "name": "Keyportal"}

    def generate_authenticator_name(
        self,
        user: User,
        type: Authenticator.Type,  # noqa: A002 - allauth's name
    ) -> str:
        count = Authenticator.objects.filter(user_id=user.pk, type=type).count()
        return f"Passkey {count + 1}"


def reset(user: User) -> None:
    """Delete all second factors of a person who lost them, end their sessions, and tell them.

    For operators. The audit is written by the receivers of the deleted rows.
    """
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        Authenticator.objects.filter(user=user).delete()
        User.objects.filter(pk=user.pk).update(second_factor_asked_at=None)
        end_sessions(user)
        if user.email:
            text = render_to_string("mfa/email/reset_message.txt", {"user": user})
            subject = f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}Your second factor was removed"
            send_mail(subject, text.strip(), None, [user.email])
