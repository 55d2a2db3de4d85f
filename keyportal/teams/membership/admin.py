"""Memberships in Django's admin: a team keeps an owner, and a membership its team and user."""

from collections.abc import Collection, Iterable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.forms import BaseInlineFormSet
from django.http import HttpRequest

from keyportal.teams.access import lock_teams_of
from keyportal.teams.forms import VersionedModelForm
from keyportal.teams.membership.changes import LastOwner, last_owners
from keyportal.teams.models import Membership, Role, User


class MembershipForm(VersionedModelForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            # Attack: an owner's row is given to another person or team, and nothing notices.
            for name in {"team", "user"} & {*self.fields}:
                self.fields[name].disabled = True

    def clean(self) -> dict[str, Any] | None:
        rows = Membership.objects.filter(pk=self.instance.pk)
        lock_teams_of(rows)
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("role", Role.OWNER) != Role.OWNER:
            require_owners(rows)
        return cleaned


class MembershipFormSet(BaseInlineFormSet):  # type: ignore[type-arg]  # not generic at run time
    """The members on the page of a team, or the teams on that of a user."""

    def clean(self) -> None:
        """Several owners can't go at once either: somebody who stays must be an owner already."""
        super().clean()
        ending = [form.instance.pk for form in self.initial_forms if self._is_ending(form)]
        require_owners(Membership.objects.filter(pk__in=ending))

    def _is_ending(self, form: Any) -> bool:
        role = getattr(form, "cleaned_data", {}).get("role", Role.OWNER)
        return form in self.deleted_forms or role != Role.OWNER


def require_owners(memberships: QuerySet[Membership]) -> None:
    """Raises `LastOwner`, a `ValidationError`. The caller has locked the teams."""
    for owner in last_owners(memberships):
        raise LastOwner(owner.user)


class KeepsOwners:
    """For admin pages that delete memberships: those of users, and of memberships."""

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        deleted, counts, permissions, protected = super().get_deleted_objects(objs, request)  # type: ignore[misc]  # a mixin
        owners = last_owners(_memberships_of(objs))
        return deleted, counts, permissions, [*protected, *map(_sentence, owners)]

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            _require_owners_under_lock([obj])
            super().delete_model(request, obj)  # type: ignore[misc]  # a mixin

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            _require_owners_under_lock([*queryset])
            super().delete_queryset(request, queryset)  # type: ignore[misc]  # a mixin


def _require_owners_under_lock(rows: Collection[User | Membership]) -> None:
    """Two operators may have confirmed at the same moment. Raises `PermissionDenied`."""
    memberships = _memberships_of(rows)
    lock_teams_of(memberships)
    if sentences := [*map(_sentence, last_owners(memberships))]:
        raise PermissionDenied(" ".join(sentences))


def _memberships_of(rows: Iterable[User | Membership]) -> QuerySet[Membership]:
    condition = Q(pk__in=[])
    for row in rows:
        condition |= Q(user=row.pk) if isinstance(row, User) else Q(pk=row.pk)
    return Membership.objects.filter(condition)


def _sentence(owner: Membership) -> str:
    return f"{owner.team}: {LastOwner(owner.user).message}"
