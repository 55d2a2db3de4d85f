"""Keyportal below a path, through a real nginx that keeps the path or removes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.browser.conftest import KEYS
from tests.support.nginx import nginx
from tests.support.pages import button, close_panel, create, delete, names, sign_in
from tests.support.server import Server, chat_body, free_port

pytestmark = [pytest.mark.browser, pytest.mark.any_database]
BASE_PATH = "/keyportal"
# As in docs/deployment.md, with the port in Host, because these nginx listen on others than 80.
LOCATION = """
server {{
    listen 127.0.0.1:{port};
    location /keyportal/ {{
        proxy_pass http://127.0.0.1:{keyportal}{slash};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_buffering off;
    }}
}}
"""


def test_people_use_the_portal_below_a_path(
    new_page: Callable[..., Page],
    own_server: Callable[..., Server],
    with_password: Callable[[User], User],
    bob: User,
    tmp_path: Path,
) -> None:
    server = own_server(
        KEYPORTAL_URL="http://127.0.0.1/keyportal", KEYPORTAL_TRUSTED_PROXIES="127.0.0.1"
    )
    with_password(bob)
    ports = {slash: free_port() for slash in ("", "/")}
    servers = [
        LOCATION.format(port=port, keyportal=server.port, slash=slash)
        for slash, port in ports.items()
    ]
    with nginx("".join(servers), tmp_path):
        for port in ports.values():
            use_portal(new_page(), f"http://127.0.0.1:{port}{BASE_PATH}")


def use_portal(page: Page, url: str) -> None:
    """Sign in, create a key, call the gateway with it, delete it, and sign out."""
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(url)
    expect(page).to_have_url(f"{url}/accounts/login/?next={BASE_PATH}/")
    sign_in(page, "bob")
    expect(page).to_have_url(f"{url}{KEYS}")
    key_string = create(page, "below-a-path")
    address = f"{url}/chat/completions"
    headers = {"Authorization": f"Bearer {key_string}"}
    answer = page.request.post(address, data=chat_body("unknown"), headers=headers)
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
    close_panel(page)
    delete(page, "below-a-path")
    assert not ApiKey.objects.exists()
    expect(names(page)).to_have_count(0)
    page.locator("summary", has_text="bob").click()
    button(page, "Sign out").click()
    expect(page).to_have_url(f"{url}/accounts/login/")
    assert [each for each in requested if not each.startswith(url)] == []
