"""List, create, change and delete the templates of a team. Only for admins."""

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.keys.forms.template import TemplateForm
from keyportal.keys.models import KeyTemplate, delete_template, lock_template, save_template
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.forms import Conflict
from keyportal.teams.models import Role


@require_safe
@team_view(Role.ADMIN)
def template_list(request: TeamRequest) -> HttpResponse:
    policy = request.team.policy
    rows = [
        (template, template.violations(policy))
        for template in KeyTemplate.objects.for_team(request.team)
    ]
    return render(request, "keys/templates.html", {"rows": rows})


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def template_create(request: TeamRequest) -> HttpResponse:
    return _edit(request, KeyTemplate(team=request.team), "The template {} is created.")


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def template_change(request: TeamRequest, template_id: int) -> HttpResponse:
    return _edit(request, _template_or_404(request, template_id), "The template {} is changed.")


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def template_delete(request: TeamRequest, template_id: int) -> HttpResponse:
    template = _template_or_404(request, template_id)
    if request.method != "POST":
        return render(request, "keys/template_delete.html", {"template": template})
    try:
        delete_template(template, actor=request.user, address=request.META["REMOTE_ADDR"])
    except KeyTemplate.DoesNotExist:
        raise Http404 from None
    return _done(request, f"The template {template.name} is deleted.")


def _template_or_404(request: TeamRequest, template_id: int) -> KeyTemplate:
    """404 both for a template of another team and for one that does not exist."""
    template = (
        KeyTemplate.objects.for_team(request.team)
        .filter(pk=template_id)
        .select_related("team")
        .first()
    )
    if template is None:
        raise Http404
    return template


def _edit(request: TeamRequest, template: KeyTemplate, message: str) -> HttpResponse:
    form = TemplateForm(request.POST if request.method == "POST" else None, template=template)
    if not form.is_valid():
        return _form(request, form)
    try:
        with lock_template(template, actor=request.user) as row:
            form.require_current(row)
            form.apply_to(row)
            save_template(row, actor=request.user, address=request.META["REMOTE_ADDR"])
    except Conflict as conflict:
        return _form(request, TemplateForm(template=row, conflict=str(conflict)))
    except ValidationError as error:
        form.add_save_error(error)
        return _form(request, form)
    except KeyTemplate.DoesNotExist:
        raise Http404 from None
    return _done(request, message.format(row.name))


def _form(request: TeamRequest, form: TemplateForm) -> HttpResponse:
    return render(request, "keys/template.html", {"form": form}, status=form.status)


def _done(request: TeamRequest, message: str) -> HttpResponse:
    messages.success(request, message)
    return redirect("keys:templates", request.team.slug)
