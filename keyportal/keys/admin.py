"""API keys in Django's admin. Operators can change and delete keys, but not create them.

Changes and deletions are recorded in the audit. The key string is never displayed.
"""

from collections.abc import Iterator
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import (
    change_text,
    is_earlier,
    manage_unless_own,
    save_managed,
)
from keyportal.keys.exceptions import NameTaken
from keyportal.keys.models import ApiKey, Secret, lock_key
from keyportal.keys.rules.permissions import covers_models
from keyportal.teams.access import Operator, lock_team, require_change
from keyportal.teams.forms import VersionedModelForm
from keyportal.teams.models import Role, User


class ApiKeyForm(VersionedModelForm):
    allowed_models = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="The models that the key may call. None selected: all models of the team.",
    )

    class Meta:
        model = ApiKey
        fields = (
            "name",
            "owner",
            "expires_at",
            "disabled_at",
            "allowed_models",
            "limits",
            "is_managed",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        key = self.instance
        # Only members: the key of another user would be refused. The current owner may have left.
        owners = User.objects.filter(Q(memberships__team=key.team) | Q(pk=key.owner_id)).distinct()
        names = ServedModel.objects.callable_by(key.team).values_list("name", flat=True)
        self._offer("owner", "queryset", owners)
        self._offer(
            "allowed_models",
            "choices",
            [(name, name) for name in sorted({*names, *key.allowed_models})],
        )

    def _offer(self, field: str, attribute: str, values: Any) -> None:
        """Set the choices of a field. With only the view permission, the form lacks the field."""
        if field in self.fields:
            setattr(self.fields[field], attribute, values)

    def clean_name(self) -> str:
        """Check that the name is unique in the team. Raises `ValidationError`.

        The team is no field of this form, so Django doesn't check the unique constraint. The team
        is locked until the form is saved, as by everything that names a key: of two concurrent
        requests for the same name, the later one gets the error message here.
        """
        name = str(self.cleaned_data["name"])
        with lock_team(self.instance.team, actor=None, role=Role.ADMIN):
            # Until the end of the admin's own transaction. `save_model` judges the operator.
            same_name = ApiKey.objects.for_team(self.instance.team).filter(name=name)
        if same_name.exclude(pk=self.instance.pk).exists():
            raise ValidationError(str(NameTaken()))
        return name


class SecretInline(admin.TabularInline):  # type: ignore[type-arg]  # not generic at run time
    model = Secret
    fields = readonly_fields = (
        "last4",
        "created_at",
        "expires_at",
        "last_used_at",
        "last_used_address",
        "last_used_user_agent",
    )
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Yes: who may view a key may also view when and from where its secrets were used."""
        return True


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    form = ApiKeyForm
    fields = ["masked", "team", *ApiKeyForm.Meta.fields, "disabled_by", "version"]
    readonly_fields = ["masked", "team", "disabled_by"]
    inlines = [SecretInline]
    list_display = ["name", "masked", "team", "owner", "created_at", "expires_at", "disabled_at"]
    list_filter = [
        "created_at",
        ("expires_at", admin.EmptyFieldListFilter),
        ("disabled_at", admin.EmptyFieldListFilter),
    ]
    search_fields = ["name", "public_id", "team__slug", "team__name", "owner__username"]
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return ApiKey.objects.for_display().select_related("team", "owner").order_by("-id")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "owner" and field:
            # Users are created and deleted on their own pages.
            field.widget.can_add_related = field.widget.can_delete_related = False
        return field

    @admin.display(description="API key")
    def masked(self, key: ApiKey) -> str:
        return key.masked

    def has_add_permission(self, request: HttpRequest) -> bool:
        """No: a new key string is displayed once, to the user who creates the key in the portal."""
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not form.changed_data:
            return
        columns = {*form.changed_data}
        source = _source(request, "keys.change_apikey")
        with lock_key(obj, actor=source["actor"], right=require_change) as former:
            if "expires_at" in columns:
                obj.expiry_set_at = former.read_at
                columns.add("expiry_set_at")
            if "disabled_at" in columns:
                obj.disabled_by = _disabled_by(obj, request.user.pk)
                columns.add("disabled_by")
            obj.save(update_fields=columns - {"is_managed"})
            AuditEvent.objects.record_changes(
                Action.KEY_CHANGED,
                target=str(former),
                key=obj,
                changes=[*_changes(former, obj, form.changed_data)],
                team=obj.team,
                **source,
            )
            if "is_managed" in columns:
                save_managed(obj, obj.is_managed, **source)
            elif _is_narrower(obj, former):
                manage_unless_own(obj, **source)

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        _revoke(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            _revoke(request, key)


def _is_narrower(key: ApiKey, former: ApiKey) -> bool:
    """Whether the key was disabled or restricted. The form has no field for the endpoints."""
    return (
        (key.disabled_at is not None and key.disabled_at != former.disabled_at)
        or is_earlier(key.expires_at, former.expires_at)
        or not covers_models(key.allowed_models, former.allowed_models)
        or bool(former.limits.above(key.limits))
    )


def _disabled_by(key: ApiKey, operator_id: int | None) -> str:
    if key.disabled_at is None:
        return ""
    is_owner = key.owner_id == operator_id
    return ApiKey.DisabledBy.OWNER if is_owner else ApiKey.DisabledBy.ADMIN


def _changes(former: ApiKey, key: ApiKey, fields: list[str]) -> Iterator[str]:
    """A text for each changed field, with the old and the new value."""
    for field in fields:
        before, now = getattr(former, field), getattr(key, field)
        if field == "limits":
            yield from now.changes_from(before)
        elif field == "allowed_models":
            yield from key.permissions.changes_from(former.permissions)
        elif field != "is_managed" and before != now:
            yield change_text(field, before, now)


def _revoke(request: HttpRequest, key: ApiKey) -> None:
    try:
        key.revoke(**_source(request, "keys.delete_apikey"))
    except ApiKey.DoesNotExist:
        return  # Another request has already deleted it.


def _source(request: HttpRequest, permission: str) -> dict[str, Any]:
    actor = Operator(cast("User", request.user), permission)
    return {"actor": actor, "address": request.META.get("REMOTE_ADDR")}
