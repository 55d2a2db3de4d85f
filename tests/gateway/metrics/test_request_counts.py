"""Counts of requests by endpoint, model and team."""

import pytest

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.metrics import request_counts as module
from keyportal.gateway.metrics.ended_requests import EndedRequest, endpoint_label
from keyportal.gateway.metrics.families import Snapshot
from keyportal.gateway.metrics.request_counts import RequestCounts

CATALOG = {
    "public/one": CatalogEntry("public/one", None, "public", 0, ()),
    "acme/own": CatalogEntry("acme/own", 7, "acme", 0, ()),
}
CHAT = "/chat/completions"


def ended(model: str = "public/one", status: int = 200, **more: object) -> EndedRequest:
    request = EndedRequest("req_1", CHAT, status, 0.3, model=model, team="acme", public_id="abc")
    return request._replace(**more)  # type: ignore[arg-type]  # names of fields


def counted(*requests: EndedRequest, names_teams: bool = False) -> Snapshot:
    counts = RequestCounts(CATALOG.get, names_teams=names_teams)
    for request in requests:
        counts(request)
    return counts.collect()


def samples(snapshot: Snapshot, name: str) -> dict[tuple[str, ...], list[float]]:
    return dict(snapshot[f"keyportal_{name}"])


def test_requests_are_counted_by_the_class_of_their_status() -> None:
    snapshot = counted(ended(), ended(), ended(status=502), ended(status=499))
    assert samples(snapshot, "requests") == {
        (CHAT, "public/one", "", "2xx"): [2],
        (CHAT, "public/one", "", "4xx"): [1],
        (CHAT, "public/one", "", "5xx"): [1],
    }


def test_only_served_requests_have_a_duration() -> None:
    snapshot = counted(ended(), ended(status=503, seconds=0.001))
    (values,) = samples(snapshot, "request_duration_seconds").values()
    assert (sum(values[:-1]), values[-1]) == (1, 0.3)


def test_first_byte_and_tokens() -> None:
    snapshot = counted(
        ended(first_byte_seconds=0.25, prompt_tokens=10, completion_tokens=3),
        ended(first_byte_seconds=400.0, prompt_tokens=1),
    )
    (values,) = samples(snapshot, "time_to_first_byte_seconds").values()
    assert values[5] == 1  # Up to 0.25 s, with the bound.
    assert values[-2:] == [1, 400.25]
    assert samples(snapshot, "tokens") == {
        (CHAT, "public/one", "", "prompt"): [11],
        (CHAT, "public/one", "", "completion"): [3],
    }


def test_refusals_by_code() -> None:
    refused = EndedRequest("req_1", CHAT, 401, 0.1, "invalid_api_key")
    snapshot = counted(refused, refused, ended(status=400))
    assert samples(snapshot, "refusals") == {("invalid_api_key",): [2]}


def test_names_of_teams_only_where_they_are_switched_on() -> None:
    requests = ended("acme/own"), ended("gone/deleted")
    names = {labels[1:3] for labels in samples(counted(*requests), "requests")}
    assert names == {("(team)", "")}
    shown = {labels[1:3] for labels in samples(counted(*requests, names_teams=True), "requests")}
    assert shown == {("acme/own", "acme"), ("gone/deleted", "acme")}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/models", "/models"),
        ("/v1/models/any/name", "/models"),
        ("/v1/key", "/key"),
        ("/v1/made-up", "other"),
    ],
)
def test_paths_that_callers_make_up_are_no_labels(path: str, label: str) -> None:
    assert endpoint_label(path) == label


def test_memory_does_not_grow_with_names_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: an admin of a team gives the team's own model one name after the other."""
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    counts = RequestCounts(CATALOG.get, names_teams=False)
    for number in range(100):
        counts(ended(f"acme/{number}"))
        counts(ended())
    assert len(vars(counts)["_series"]) <= 10
    assert samples(counts.collect(), "requests") == {
        (CHAT, "(team)", "", "2xx"): [100],
        (CHAT, "public/one", "", "2xx"): [100],
    }
