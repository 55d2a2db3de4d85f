"""Served models: what people read about them, for whom they are, their aliases, their end."""

from django.contrib import messages
from django.db import IntegrityError
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import Route, ServedModel
from keyportal.operators.access import OperatorRequest, lock_operators, operator_view
from keyportal.operators.lists import count_of, searched
from keyportal.operators.model_forms import AliasForm, ModelDetailsForm
from keyportal.teams.sign_in.reauthentication import recently_authenticated


@require_safe
@operator_view
def model_list(request: OperatorRequest) -> HttpResponse:
    models = ServedModel.objects.select_related("team").annotate(
        route_count=count_of(Route, "model"),
        alias_count=count_of(Alias, "model"),
        group_count=count_of(ServedModel.only_teams.through, "servedmodel"),
    )
    context = searched(
        request, models.order_by("name").distinct(), "name", "description", "aliases__name"
    )
    return render(request, "operators/models.html", context)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def model(request: OperatorRequest, model_id: int) -> HttpResponse:
    row = _model(model_id)
    if request.method != "POST":
        return _page(request, row, ModelDetailsForm(instance=row), AliasForm())
    form = ModelDetailsForm(request.POST, instance=_model(model_id))
    mails = 0
    try:
        with lock_operators(request.user):
            if form.is_valid():
                mails = form.save_changes()
    except IntegrityError:
        form.add_error(None, "A team or model that you chose was deleted meanwhile.")
    if not form.is_valid():
        return _page(request, row, form, AliasForm(), status=422)
    told = f" Owners of keys that call it get a mail: {mails}." if mails else ""
    messages.success(request, f"The model {row} is changed.{told}")
    return redirect("operators:model", model_id)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def alias_add(request: OperatorRequest, model_id: int) -> HttpResponse:
    row = _model(model_id)
    if request.method != "POST":
        return redirect("operators:model", model_id)
    form = AliasForm(request.POST, instance=Alias(model=row))
    with lock_operators(request.user):
        is_valid = form.is_valid()
        if is_valid:
            form.save()
    if not is_valid:
        return _page(request, row, ModelDetailsForm(instance=row), form, status=422)
    messages.success(request, f"{form.instance} leads to {row} now.")
    return redirect("operators:model", model_id)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def alias_delete(request: OperatorRequest, model_id: int, alias_id: int) -> HttpResponse:
    if request.method != "POST":
        return redirect("operators:model", model_id)
    with lock_operators(request.user):
        alias = Alias.objects.filter(model=model_id, pk=alias_id).first()
        if alias is None:
            raise Http404
        alias.delete()
    messages.success(request, f"{alias} is deleted.")
    return redirect("operators:model", model_id)


def _model(model_id: int) -> ServedModel:
    return get_object_or_404(ServedModel.objects.select_related("team"), pk=model_id)


def _page(
    request: OperatorRequest,
    row: ServedModel,
    form: ModelDetailsForm,
    alias_form: AliasForm,
    *,
    status: int = 200,
) -> HttpResponse:
    context = {
        "model": row,
        "form": form,
        "alias_form": alias_form,
        "aliases": Alias.objects.filter(model=row).select_related("team").order_by("name"),
        "routes": Route.objects.filter(model=row).select_related("upstream").order_by("pk"),
    }
    return render(request, "operators/model.html", context, status=status)
