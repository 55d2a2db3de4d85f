"""Model names with a former slug of their team: they work for 90 days after it changed."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction

from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import ServedModel, change_version
from keyportal.teams.models import UsedSlug


class FormerName(NamedTuple):
    name: str
    now: str
    """The present name of the model."""
    replaced_at: datetime
    works_until: datetime


def former_names(names: Iterable[str], using: str) -> Iterator[FormerName]:
    """The former names of these served models that still work."""
    slugs: dict[str, list[UsedSlug]] = {}
    for used in UsedSlug.objects.using(using).former().select_related("team"):
        slugs.setdefault(used.team.slug if used.team else "", []).append(used)
    for name in names:
        slug, _, rest = name.partition("/")
        for used in slugs.get(slug, ()) if rest else ():
            if used.replaced_at and used.works_until:
                yield FormerName(f"{used.slug}/{rest}", name, used.replaced_at, used.works_until)


def require_free(name: str) -> None:
    """Raises `ValidationError` if a served model has this name, or had it and still works by it.

    Both go before an alias, which would lead nowhere.
    """
    if ServedModel.objects.filter(name=name).exists():
        raise ValidationError("A model has this name.")
    slug, _, rest = name.partition("/")
    used = UsedSlug.objects.former().filter(slug=slug).select_related("team").first()
    now = f"{used.team.slug}/{rest}" if used and used.team else ""
    if used and used.works_until and ServedModel.objects.filter(name=now).exists():
        raise ValidationError(
            f"This is the former name of {now}, which works until {used.works_until:%Y-%m-%d}."
        )


def forget_outlived(*, should_continue: Callable[[], bool] = lambda: True) -> None:
    """Let all workers read the catalog again when former names work no longer.

    The slugs stay with their team: groups of an identity provider may still name it by one of them.
    """
    with transaction.atomic():
        if should_continue() and UsedSlug.objects.outlived().update(is_end_known=True):
            change_version()


def rename_models(former: str, slug: str) -> None:
    """Give the models of a team its new slug. The caller has locked the team.

    Raises `ValidationError` if a name becomes too long, or another model has it.
    """
    models = ServedModel.objects.filter(team__slug=slug, name__startswith=f"{former}/")
    for model in models.select_for_update(no_key=True).order_by("pk"):
        own, _, rest = model.name.partition("/")
        if own != former:  # SQLite ignores case here.
            continue
        model.name = f"{slug}/{rest}"
        # Its name must be valid, and no other model may have it.
        model.full_clean(exclude=["team"])
        # Attack: an owner takes the first part of an alias as slug, and the alias ends for others.
        if Alias.objects.filter(name=model.name).exclude(team=model.team).exists():
            raise ValidationError(f"{model.name} is the name of another one.")
        model.save(update_fields=["name"])
