"""KEYPORTAL_OIDC_PROVIDERS: what is accepted, and one sentence for what is not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from keyportal.teams.openid.configuration import parse

pytestmark = pytest.mark.any_database
CORP = {
    "id": "corp",
    "name": "Corp",
    "issuer": "https://sso.example.com/realms/staff",
    "client_id": "keyportal",
    "client_secret": "very-s3cret",
}
ROOT = Path(__file__).parents[3]


def test_nothing_is_no_provider() -> None:
    assert parse("") == ()


def test_value_is_json_or_a_file(tmp_path: Path) -> None:
    text = json.dumps([CORP, CORP | {"id": "other", "issuer": "https://other.example.com"}])
    file = tmp_path / "providers.json"
    file.write_text(text)
    assert parse(text) == parse(str(file))
    assert [provider.id for provider in parse(text)] == ["corp", "other"]


def test_secret_may_be_in_a_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("very-s3cret\n")
    fields = {name: value for name, value in CORP.items() if name != "client_secret"}
    (provider,) = parse(json.dumps([fields | {"client_secret_file": str(file)}]))
    assert provider.client_secret == "very-s3cret"
    assert "s3cret" not in repr(provider)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"issuer": "http://sso.example.com"}, "issuer that begins with https://"),
        ({"issuer": "https://user@sso.example.com"}, "issuer that begins with https://"),
        ({"issuer": "https://sso.example.com:port"}, "issuer that begins with https://"),
        ({"issuer": 7}, "issuer"),
        ({"id": "../x"}, "id"),
        ({"id": "A"}, "id"),
        ({"name": ""}, "name"),
        ({"client_secret": ""}, "client_secret or a client_secret_file"),
        ({"client_secret_file": "/nowhere/secret"}, "a file that it names can't be read"),
        ({"scopes": ["email"]}, "scope openid"),
        ({"create_accounts": True}, "domains, such as"),
        ({"trust_addresses": True}, "to make accounts or to be trusted for addresses"),
        ({"trust_adresses": True}, "trust_adresses"),
    ],
)
def test_wrong_values_are_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(said)) as caught:
        parse(json.dumps([CORP | change]))
    assert str(caught.value).startswith("KEYPORTAL_OIDC_PROVIDERS")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["[", "{}", "[1]", '{"client_secret": "very-s3cret"}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(text)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["id", "issuer"])
def test_ids_and_issuers_are_unique(name: str) -> None:
    """Attack: who signs in with the second one of an issuer keeps the roles of the first."""
    other = CORP | {"id": "other", "issuer": "https://other.example.com"}
    with pytest.raises(ImproperlyConfigured, match=f"the same {name}"):
        parse(json.dumps([CORP, other | {name: CORP[name]}]))


def test_issuer_on_this_machine_may_be_http() -> None:
    for issuer in ("http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080/realm"):
        assert parse(json.dumps([CORP | {"issuer": issuer}]))


def test_domains_are_compared_whole_and_without_case() -> None:
    (provider,) = parse(json.dumps([CORP | {"domains": ["Example.com"]}]))
    assert provider.accepts("dora@example.COM")
    assert not provider.accepts("dora@sub.example.com")
    assert not provider.accepts("dora@badexample.com")
    (open_to_all,) = parse(json.dumps([CORP | {"domains": ["*"], "create_accounts": True}]))
    assert open_to_all.accepts("dora@anything.example")


def test_examples_of_the_docs_are_accepted(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^ *```json\n( *\[.*?)```$",
        (ROOT / "docs/identity-providers.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert len(blocks) >= 6
    file = tmp_path / "secret"
    file.write_text("secret")
    for block in blocks:
        assert parse(re.sub(r'"/run/secrets/\w+"', json.dumps(str(file)), block))
