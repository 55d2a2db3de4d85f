"""The page of what `manage.py doctor` finds."""

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from keyportal.operators.access import OperatorRequest, operator_view
from keyportal.server.doctor import examine


@require_safe
@operator_view
def home(_: OperatorRequest) -> HttpResponse:
    return redirect("operators:teams")


@require_safe
@operator_view
def health(request: OperatorRequest) -> HttpResponse:
    findings = list(examine())
    problems = [finding for finding in findings if finding.is_problem]
    context = {"findings": findings, "problem_count": len(problems)}
    return render(request, "operators/health.html", context)
