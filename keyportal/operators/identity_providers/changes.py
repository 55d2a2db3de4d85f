"""The lock under which operators change a provider."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.shortcuts import get_object_or_404

from keyportal.operators.access import lock_operators
from keyportal.teams.models import User
from keyportal.teams.openid.stored import StoredProvider


@contextmanager
def lock_provider(actor: User, pk: int) -> Iterator[StoredProvider]:
    """A transaction in which `actor` is an operator, and nobody signs in at the provider.

    Raises `Outsider`, or `Http404` if it was deleted meanwhile.
    """
    with transaction.atomic():
        # A sign-in locks the provider before the person, who may be an operator.
        row = get_object_or_404(StoredProvider.objects.select_for_update(no_key=True), pk=pk)
        with lock_operators(actor):
            yield row
