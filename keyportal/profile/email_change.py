"""A new e-mail address: a link goes to it, and nothing changes before its person opens the link.

Attack: someone at an open session sets an address of theirs, and has a new password sent there. So
the password is asked for again, the old address is told, and the link works only for the person who
asked, while signed in.
"""

import logging
from typing import NamedTuple
from urllib.parse import urljoin

from django.conf import settings
from django.core import signing
from django.core.mail import send_mail
from django.db import IntegrityError, transaction
from django.template.loader import render_to_string
from django.urls import reverse

from keyportal.teams.models import User

logger = logging.getLogger(__name__)
SALT = "new e-mail address"
MAX_AGE_SECONDS = 24 * 3600


class EmailChange(NamedTuple):
    user_id: int
    former: str
    email: str


def send_link(user: User, email: str) -> None:
    """Mail a link to the new address, unless another person has it: the page says the same then.

    Attack: find out who has an account here.
    """
    if User.objects.filter(email__iexact=email).exists():
        logger.info("No link is mailed to confirm an address, because it is in use.")
        return
    token = signing.dumps(EmailChange(user.pk, user.email, email), salt=SALT)
    path = reverse("profile:email_confirm", args=[token])
    url = urljoin(settings.PUBLIC_URL or f"http://127.0.0.1:{settings.PORT}", path)
    _send("confirm", user, email, url=url)


def read(token: str, user: User) -> EmailChange | None:
    """What the link changes. None: it is of another person, too old, or was used."""
    try:
        change = EmailChange(*signing.loads(token, salt=SALT, max_age=MAX_AGE_SECONDS))
    except (signing.BadSignature, TypeError):
        return None
    return change if (change.user_id, change.former) == (user.pk, user.email) else None


def apply(token: str, user: User) -> bool:
    """Change the address and tell the former one. False: the link no longer holds."""
    try:
        with transaction.atomic():
            row = User.objects.select_for_update(no_key=True).get(pk=user.pk)
            change = read(token, row)
            if change is None or User.objects.filter(email__iexact=change.email).exists():
                return False
            row.email = change.email
            row.save(update_fields=["email"])
            if change.former:
                _send("changed", row, change.former)
    except IntegrityError:  # Another person got the address in the meantime.
        return False
    return True


def _send(name: str, user: User, to: str, **context: str) -> None:
    context["username"] = user.get_username()
    text = render_to_string(f"profile/email/{name}_message.txt", context)
    subject = render_to_string(f"profile/email/{name}_subject.txt").strip()
    send_mail(f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}{subject}", text.strip(), None, [to])
