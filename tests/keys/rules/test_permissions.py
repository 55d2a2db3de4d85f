"""Permissions of a key: patterns of names, endpoints, and networks."""

import json
import re

import pytest
from django.core.exceptions import ValidationError
from hypothesis import assume, given
from hypothesis import strategies as st

from keyportal.keys import keystring
from keyportal.keys.rules.permissions import (
    MAX_ENTRIES,
    MAX_PATTERN_LENGTH,
    NO_NETWORK,
    UNRESTRICTED,
    Endpoints,
    NamePatterns,
    Permissions,
    covers_models,
    is_within,
    normalize_networks,
    normalize_patterns,
    parse_models,
    parse_networks,
)

# Few letters, so that what is made up matches often; and what a regular expression takes for more.
PATTERNS = st.text("ab.**", min_size=1, max_size=6)
TEXTS = st.text("ab/.+", max_size=4)


def narrowed(pattern: str) -> st.SearchStrategy[str]:
    """Others with something in the place of each star."""
    parts = [PATTERNS if part == "*" else st.just(part) for part in pattern]
    return st.tuples(*parts).map("".join)


def naive(pattern: str, name: str) -> bool:
    """What a star means, said once more, with no regard to how long it takes."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(naive(pattern[1:], name[start:]) for start in range(len(name) + 1))
    return name[:1] == pattern[0] and naive(pattern[1:], name[1:])


# Models.


@pytest.mark.parametrize(
    ("pattern", "name", "does_match"),
    [
        ("public/*", "public/small", True),
        ("public/*", "public/", True),
        ("public/*", "public/a/b", True),  # Slashes too.
        ("public/*", "public", False),
        ("public/*", "xpublic/small", False),
        ("*/small", "u-1/small", True),
        ("*/small", "u-1/small-2", False),
        ("u-1/*-2026*", "u-1/big-2026-01", True),
        ("u-1/llama-3.1", "u-1/llama-3x1", False),  # A dot is a dot.
        ("u-1/llama-3.*", "u-1/llama-3x1", False),
        ("a", "A", False),
        ("ab*ba", "aba", False),  # The two ends don't overlap.
        ("a*", "a\nb", True),  # Any text.
        ("**", "", True),
    ],
)
def test_star_matches_any_text_and_other_characters_are_literal(
    pattern: str, name: str, does_match: bool
) -> None:
    assert (name in NamePatterns([pattern])) is does_match


@given(st.lists(PATTERNS, max_size=4), TEXTS)
def test_matching_agrees_with_a_simple_search(patterns: list[str], name: str) -> None:
    assert (name in NamePatterns(patterns)) == any(naive(one, name) for one in patterns)


@given(st.lists(PATTERNS, min_size=1, max_size=3), st.data())
def test_covering_patterns_match_every_name_of_the_covered(
    allowed: list[str], data: st.DataObject
) -> None:
    """Soundness: no pattern that a policy lets pass opens a model that the policy doesn't."""
    # Few are within another one by chance; so some are made of it.
    requested = data.draw(PATTERNS | st.sampled_from(allowed).flatmap(narrowed))
    assume(covers_models(allowed, [requested]))
    name = re.sub(r"\*", lambda _: data.draw(st.text("ab/\n", max_size=3)), requested)
    assert name in NamePatterns([requested])
    assert name in NamePatterns(allowed)


@given(st.lists(PATTERNS, max_size=3))
def test_patterns_cover_themselves(patterns: list[str]) -> None:
    assert covers_models(patterns, patterns)
    assert covers_models([], patterns)


@pytest.mark.parametrize(
    ("allowed", "requested", "does_cover"),
    [
        (["public/*"], ["public/a", "public/b*"], True),
        (["public/*"], [], False),  # None asked for: all models.
        (["public/*"], ["*"], False),
        (["public/a", "public/b"], ["public/*"], False),
        (["*/a"], ["x*/a"], True),
        (["x*/a"], ["*/a"], False),
        (["a*b*"], ["a*"], False),
        (["a*"], ["a*b*"], True),
    ],
)
def test_pattern_covers_narrower_patterns(
    allowed: list[str], requested: list[str], does_cover: bool
) -> None:
    assert covers_models(allowed, requested) is does_cover


def test_matching_is_fast_for_any_pattern() -> None:
    """Whoever writes a key's patterns can't hold up the event loop, in which they are matched. It
    takes milliseconds; a regular expression that tries all ways of matching takes years.
    """
    patterns = NamePatterns([f"*a*a*{'a' * length}b" for length in range(1, MAX_ENTRIES + 1)])
    assert "a" * MAX_PATTERN_LENGTH not in patterns


def test_patterns_are_sorted_and_unique() -> None:
    assert normalize_patterns(["b", "public/*", "b", "a"]) == ("a", "b", "public/*")
    assert normalize_patterns([]) == ()


@pytest.mark.parametrize("star", ["*", "**", "***"])
def test_star_alone_means_all(star: str) -> None:
    assert normalize_patterns(["public/a", star]) == ()


@pytest.mark.parametrize(
    "text",
    ["", "a b", " a", "a\n", "a\u202eb", "x" * (MAX_PATTERN_LENGTH + 1), "a*b*c*d*", "****"],
)
def test_invalid_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        normalize_patterns(["public/a", text])


def test_maximum_number_of_patterns() -> None:
    names = [f"m{number}" for number in range(MAX_ENTRIES + 1)]
    assert len(normalize_patterns(names[:MAX_ENTRIES])) == MAX_ENTRIES
    with pytest.raises(ValidationError, match="At most 100"):
        normalize_patterns(names)


def test_key_string_as_pattern_or_network_is_refused_and_not_repeated() -> None:
    """Permissions are stored in clear, and shown to the whole team and in the audit."""
    key = keystring.generate().text
    for read in (normalize_patterns, normalize_networks):
        with pytest.raises(ValidationError) as refusal:
            read([key])
        assert key[14:] not in str(refusal.value)


# Endpoints.


@pytest.mark.parametrize("wider", Endpoints)
@pytest.mark.parametrize("narrower", Endpoints)
def test_all_endpoints_cover_read_and_all_covers_each(
    wider: Endpoints, narrower: Endpoints
) -> None:
    expected = wider in (Endpoints.ALL, narrower) or narrower is Endpoints.READ
    assert wider.covers(narrower) is expected


# Networks.


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8:0::1", "2001:db8::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_normalized(text: str, kept: str) -> None:
    assert normalize_networks([text]) == (kept,)


def test_networks_are_sorted_and_unique() -> None:
    texts = ["2001:db8::/32", "192.0.2.9", "10.0.0.0/8", "192.0.2.9/32"]
    assert normalize_networks(texts) == ("10.0.0.0/8", "192.0.2.9/32", "2001:db8::/32")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an address"),
        ("example.com", "not an address"),
        ("192.0.2.0/33", "not an address"),
        ("192.0.2.0/24/8", "not an address"),
        ("192.0.2", "not an address"),
        ("010.0.0.1", "not an address"),  # Octal to some, decimal to others.
        ("192.0.2.7/24", "did you mean 192.0.2.0/24"),
        ("2001:db8::1/64", "did you mean 2001:db8::/64"),
        ("::ffff:192.0.2.1", "as IPv4"),
        ("::ffff:192.0.2.0/120", "as IPv4"),
        ("::ffff:0:0/96", "as IPv4"),
        ("fe80::1%eth0", "interface"),
        ("fe80::%eth0/64", "interface"),
    ],
)
def test_invalid_network_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        normalize_networks(["10.0.0.0/8", text])


def test_maximum_number_of_networks() -> None:
    addresses = [f"10.0.{number}.1" for number in range(MAX_ENTRIES + 1)]
    assert len(normalize_networks(addresses[:MAX_ENTRIES])) == MAX_ENTRIES
    with pytest.raises(ValidationError, match="At most 100"):
        normalize_networks(addresses)


@pytest.mark.parametrize(
    ("address", "network", "is_in"),
    [
        ("192.0.2.1", "192.0.2.0/24", True),
        ("192.0.3.1", "192.0.2.0/24", False),
        ("2001:db8::5", "2001:db8::/32", True),
        ("2001:db9::5", "2001:db8::/32", False),
        ("192.0.2.1", "::/0", False),  # Of the other family.
        ("2001:db8::5", "0.0.0.0/0", False),
        ("fe80::1%eth0", "fe80::/10", True),  # As a link-local peer is seen.
        ("", "0.0.0.0/0", False),
        ("not an address", "0.0.0.0/0", False),
        ("unix:", "::/0", False),
    ],
)
def test_address_is_matched_with_networks(address: str, network: str, is_in: bool) -> None:
    assert is_within(address, parse_networks(json.dumps([network]))) is is_in


@pytest.mark.parametrize(
    ("allowed", "requested", "does_cover"),
    [
        ((), ("10.0.0.0/8",), True),
        ((), (), True),
        (("10.0.0.0/8",), (), False),
        (("10.0.0.0/8",), ("10.1.0.0/16", "10.2.3.4/32"), True),
        (("10.0.0.0/8",), ("10.0.0.0/7",), False),
        (("10.0.0.0/8",), ("2001:db8::/32",), False),
        (("0.0.0.0/0", "::/0"), ("2001:db8::/32", "10.0.0.0/8"), True),
    ],
)
def test_networks_cover_their_subnets(
    allowed: tuple[str, ...], requested: tuple[str, ...], does_cover: bool
) -> None:
    wider, narrower = Permissions(networks=allowed), Permissions(networks=requested)
    assert wider.covers(narrower) is does_cover


# All three together.


def test_permissions_cover_what_is_not_wider_in_any_part() -> None:
    some = Permissions(("public/*",), Endpoints.CHAT, ("10.0.0.0/8",))
    assert UNRESTRICTED.covers(some)
    assert some.covers(some)
    assert not some.covers(some._replace(models=()))
    assert not some.covers(some._replace(endpoints=Endpoints.EMBEDDINGS))
    assert not some.covers(some._replace(networks=()))
    assert some.covers(Permissions(("public/a",), Endpoints.READ, ("10.0.0.1/32",)))


def test_changes_are_described_with_old_and_new_values() -> None:
    some = Permissions(("public/*", "u-1/a"), Endpoints.CHAT, ("10.0.0.0/8",))
    assert some.changes_from(UNRESTRICTED) == [
        "Models: all → public/* u-1/a",
        "Endpoints: all → chat",
        "Networks: all → 10.0.0.0/8",
    ]
    assert UNRESTRICTED.changes_from(some)[2] == "Networks: 10.0.0.0/8 → all"
    assert some.changes_from(some) == []


# As a row has them.


def test_empty_columns_mean_unrestricted() -> None:
    assert parse_models("[]") is None
    assert parse_networks("[]") == ()


@pytest.mark.parametrize("text", ["", "null", "{}", '"public/*"', "[1]", "[", '["10.0.0.1/8"]'])
def test_unreadable_columns_match_nothing_and_raise_nothing(text: str) -> None:
    """A row that was spoilt must not be a key to everything, nor fail the batch it is read in."""
    assert parse_networks(text) == NO_NETWORK
    assert not is_within("10.0.0.1", NO_NETWORK)
    if "10." not in text:
        patterns = parse_models(text)
        assert patterns is not None
        assert "public/a" not in patterns
