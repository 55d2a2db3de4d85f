"""Pages on other origins call the gateway from a real browser."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.server import CHAT, Server, chat_body

pytestmark = [pytest.mark.browser, pytest.mark.any_database]

CALL = """async ([url, key, body]) => {
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers: {Authorization: `Bearer ${key}`, "Content-Type": "application/json",
                "X-Stainless-OS": "Unknown"},
      body: JSON.stringify(body),
    });
    return {status: answer.status, id: answer.headers.get("x-request-id"),
            challenge: answer.headers.get("www-authenticate"), text: await answer.text()};
  } catch (error) {
    return {refused: error.name};
  }
}"""


def test_only_a_page_of_an_allowed_origin_reads_a_stream(
    live: Server,
    new_page: Callable[..., Page],
    alice: User,
    issue: Callable[..., tuple[ApiKey, str]],
    model: ServedModel,
) -> None:
    _, key = issue(alice)

    def call(address: str, key: str) -> Any:
        page = new_page()
        page.goto(address)
        return page.evaluate(CALL, [live.url + CHAT, key, chat_body(model.name, stream=True)])

    allowed = f"{live.page_origin}/v1/models"  # Without a key, a page with an error and no CSP.
    answer = call(allowed, key)
    assert answer["status"] == 200
    assert answer["id"].startswith("req_")
    assert answer["text"].endswith("data: [DONE]\n\n")
    refused = call(allowed, "sk-kp-nonsense")
    assert refused["status"] == 401, "an error can be read too"
    assert "invalid_token" in refused["challenge"]
    assert call("about:blank", key) == {"refused": "TypeError"}
