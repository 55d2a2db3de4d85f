"""Who may open the operators' pages, and act there: active superusers.

Everybody else gets 404, as for a team that they are no member of. As in `keyportal.teams.access`,
it is judged twice: by `operator_view` for what a page shows, and under the lock for what it
changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers
from django_htmx.middleware import HtmxDetails

from keyportal.teams.access import Outsider
from keyportal.teams.models import User

P = ParamSpec("P")


class OperatorRequest(HttpRequest):
    """A request of an operator; `operator_view` has checked it."""

    user: User
    htmx: HtmxDetails


def operator_view(
    view: Callable[Concatenate[OperatorRequest, P], HttpResponse],
) -> Callable[..., HttpResponse]:
    """Decorate a view under `/operators/`. Raises `Http404` for everybody else."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_superuser:  # Nobody who is inactive is signed in.
            raise Http404
        response = view(cast("OperatorRequest", request), *args, **kwargs)
        # No cache may keep these pages, as those of a team.
        add_never_cache_headers(response)
        return response

    return guarded


@contextmanager
def lock_operators(actor: User) -> Iterator[None]:
    """A transaction in which `actor` is an operator to its end, and the set of operators is locked.

    Raises `Outsider`. Attack: a person who stops being an operator while their request waits would
    still change what only operators may.
    """
    with transaction.atomic():
        if actor.pk not in locked_operators():
            raise Outsider
        yield


def locked_operators() -> set[int]:
    """The ids of all operators, whose rows are locked until the end of the transaction.

    In the order of their ids, so that two operators who change each other never wait for each
    other.
    """
    operators = User.objects.filter(is_superuser=True, is_active=True).order_by("pk")
    return {user.pk for user in operators.select_for_update(no_key=True)}
