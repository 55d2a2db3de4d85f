"""One letter a person and report; and nobody who makes keys can have people mailed without end,
nor keep a letter about somebody else's key from them."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.core import mail as django_mail
from django.core.mail import EmailMessage
from django.db import DatabaseError
from django.utils import timezone

from keyportal.activity.models import Action, Alarm, AuditEvent
from keyportal.keys import changes, leaks, notices
from keyportal.keys.cases import Ended
from keyportal.keys.letter_counts import MOST
from keyportal.keys.models import ApiKey, LetterCount, Secret
from keyportal.keys.reports import GITHUB, OPERATOR, SOMEBODY, Found, Report
from keyportal.keys.rotation import Grace, bury_ended, rotate
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy
from tests.keys.crowd import at_once

pytestmark = pytest.mark.django_db
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def mallory(team: Team) -> User:
    """A member who would like to trouble everybody."""
    user = User.objects.create_user("mallory", "mallory@example.com")
    Membership.objects.create(team=team, user=user, role=Role.MEMBER)
    return user


def report(*keys: str, reporter: str = SOMEBODY) -> list[Ended]:
    return leaks.report(Report([Found(key) for key in keys], reporter))


def sent_to(person: User) -> list[EmailMessage]:
    return [letter for letter in django_mail.outbox if letter.to == [person.email]]


def make(issue: Issue, maker: User, name: str, owner: User | None = None) -> tuple[ApiKey, str]:
    """As the portal does it, with the maker in the audit."""
    key, text = issue(maker, name, actor=maker)
    if owner is not None:
        key = changes.hand_over(key, owner, actor=maker)
    return key, text


def use_up(issue: Issue, mallory: User, owner: User | None = None) -> None:
    """All the letters that mallory can cause, and some more."""
    for number in range(MOST + 2):
        _, text = make(issue, mallory, f"m{number}", owner)
        assert len(report(text)) == 1


def test_one_report_of_several_keys_is_one_letter_to_each_person(
    alice: User, bob: User, mallory: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    """Each reads of the keys that concern them, in all their teams."""
    Membership.objects.create(team=other_team, user=alice, role=Role.ADMIN)
    (one, a), (two, b) = issue(bob, "one"), issue(bob, "two & more")
    three, c = issue(mallory, "three")
    four, d = issue(charlie, "four", team=other_team)
    report(a, b, c, d)
    for person, keys in (
        (alice, [one, two, three, four]),
        (bob, [one, two]),
    ):
        (letter,) = sent_to(person)
        assert letter.subject == f"[Keyportal] {len(keys)} keys leaked and are disabled"
        told = [line for line in letter.body.splitlines() if line.startswith("- ")]
        assert told == [
            f'- The API key "{key.name}" ({key.public_id}) of {key.owner.get_username()} in the '
            f'team "{key.team.name}" is disabled.'
            for key in keys
        ]
        assert "as leaked by somebody who holds them." in letter.body
    for person, key in ((mallory, three), (charlie, four)):
        (letter,) = sent_to(person)
        assert letter.subject == f"[Keyportal] The API key {key.name} leaked and is disabled"
    assert one.team.slug not in sent_to(charlie)[0].body
    counts = LetterCount.objects.order_by("person").values_list("person", "letters", "untold")
    assert [*counts] == [("bob", 1, 0), ("charlie", 1, 0), ("mallory", 1, 0)]


def test_a_letter_of_several_keys_tells_the_fate_of_each(
    ada: User, bob: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    Team.objects.filter(pk=other_team.pk).update(policy=Policy(on_leak="delete"))
    Membership.objects.create(team=other_team, user=bob, role=Role.MEMBER)
    (_, a), (held, b) = issue(bob, "one"), issue(bob, "held")
    changes.disable(held, actor=ada)
    report(a, b, issue(bob, "three", team=other_team)[1])
    (letter,) = sent_to(bob)
    assert letter.subject == "[Keyportal] 3 keys leaked and are disabled or deleted"
    assert 'in the team "Acme" is disabled.\n' in letter.body
    assert 'in the team "Acme" is disabled, as it was before.\n' in letter.body
    assert 'in the team "Charlie\'s" is deleted.\n' in letter.body
    assert "that makes one like it." in letter.body


def test_a_name_in_a_list_is_one_line_too(bob: User, issue: Issue) -> None:
    key, a = issue(bob, "a")
    _, b = issue(bob, "b")
    ApiKey.objects.filter(pk=key.pk).update(name="a\r\n\r\nEnter your password at\u202e evil")
    report(a, b)
    assert '"a Enter your password at evil" (' in sent_to(bob)[0].body


def test_a_letter_lists_so_many_keys_and_counts_the_rest(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LISTED", 2)
    report(*(issue(bob, f"key {number}")[1] for number in range(5)))
    (letter,) = sent_to(bob)
    assert letter.subject == "[Keyportal] 5 keys leaked and are disabled"
    assert letter.body.count("- The API key") == 2
    assert "- And 3 more, which the audit lists." in letter.body


def test_what_was_ended_is_told_though_the_report_fails_after_it(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported again, it would be no news: nobody would ever read of it."""
    (first, a), (_, b) = issue(bob, "first"), issue(bob, "second")
    save = ApiKey.save

    def fail(key: ApiKey, **more: object) -> None:
        if key.pk != first.pk:
            raise DatabaseError
        save(key, **more)  # type: ignore[arg-type]  # as it was asked

    monkeypatch.setattr(ApiKey, "save", fail)
    with pytest.raises(DatabaseError):
        report(a, b)
    (letter,) = sent_to(bob)
    assert "The API key first leaked" in letter.subject


@pytest.mark.parametrize("on_leak", ["disable", "delete"])
def test_who_makes_reports_and_deletes_keys_has_nobody_mailed_without_end(
    alice: User, mallory: User, team: Team, issue: Issue, on_leak: str
) -> None:
    Team.objects.update(policy=Policy(on_leak=on_leak))
    for number in range(MOST + 3):
        key, text = make(issue, mallory, "again")
        (ended,) = report(text)
        assert ended.is_deleted == (on_leak == "delete")
        if not ended.is_deleted:
            key.refresh_from_db()
            assert key.disabled_at
            key.revoke(actor=mallory)
        letters = sent_to(alice)
        assert len(letters) == min(number + 1, MOST)
        assert ("This is the last letter before" in letters[-1].body) == (number + 1 >= MOST)
    assert not ApiKey.objects.exists()
    assert AuditEvent.objects.filter(action=Action.KEY_REPORTED).count() == MOST + 3
    assert len(sent_to(mallory)) == MOST


def test_the_next_letter_tells_what_came_without_one(
    alice: User, mallory: User, issue: Issue
) -> None:
    use_up(issue, mallory)
    assert len(report(*(make(issue, mallory, name)[1] for name in ("x", "y")))) == 2
    LetterCount.objects.update(since=timezone.now() - timedelta(hours=1))
    for name in ("next", "last"):
        report(make(issue, mallory, name)[1])
    *_, then, last = sent_to(alice)
    assert len(sent_to(alice)) == MOST + 2
    assert "4 other keys of mallory were reported and ended without a letter" in then.body
    assert "without a letter" not in last.body


def test_what_a_report_tells_of_anyway_is_told_with_it(
    alice: User, bob: User, mallory: User, issue: Issue
) -> None:
    use_up(issue, mallory)
    report(make(issue, mallory, "mine")[1], make(issue, bob, "yours")[1])
    letter = sent_to(alice)[-1]
    assert len(sent_to(alice)) == MOST + 1
    assert letter.subject == "[Keyportal] 2 keys leaked and are disabled"
    assert len(sent_to(mallory)) == MOST
    assert "The API key yours leaked" in sent_to(bob)[0].subject


def arrives(alice: User, text: str) -> bool:
    """Whether the team's admins read that this key leaked."""
    before = len(sent_to(alice))
    assert len(report(text)) == 1
    return len(sent_to(alice)) > before


def test_with_keys_of_their_own_nobody_silences_the_letter_about_anothers(
    alice: User, bob: User, mallory: User, issue: Issue
) -> None:
    _, text = make(issue, bob, "real")
    use_up(issue, mallory)
    assert arrives(alice, text)
    assert len(sent_to(bob)) == 1


def test_nor_with_keys_that_they_hand_over(
    alice: User, bob: User, mallory: User, issue: Issue
) -> None:
    """Nobody is asked whether they want one."""
    _, text = make(issue, bob, "real")
    use_up(issue, mallory, owner=bob)
    assert arrives(alice, text)


def test_nor_with_keys_that_an_admin_gave_them(
    alice: User, ada: User, bob: User, mallory: User, issue: Issue
) -> None:
    """Whom an admin gives a key answers for it; and so does who hands that on."""
    texts = [make(issue, ada, name, owner)[1] for name, owner in (("a", bob), ("b", ada))]
    for number in range(MOST + 1):
        key, text = make(issue, ada, f"given {number}", mallory)
        if number % 2:
            changes.hand_over(key, bob, actor=mallory)
        report(text)
    assert len(sent_to(mallory)) > 0
    assert len(sent_to(alice)) == MOST
    assert all(arrives(alice, text) for text in texts)


def test_nor_with_a_key_that_an_operator_made_for_them(
    alice: User, bob: User, mallory: User, issue: Issue
) -> None:
    _, text = issue(bob, "real")
    for number in range(MOST + 1):
        report(issue(mallory, f"m{number}")[1])
    assert len(sent_to(alice)) == MOST
    assert arrives(alice, text)


def test_nor_by_a_rotation_that_ends_when_the_key_is_anothers(
    alice: User, bob: User, mallory: User, issue: Issue
) -> None:
    """What then enables the key has no actor, but somebody who saw to it."""
    _, real = make(issue, bob, "real")
    for number in range(MOST + 1):
        key, text = make(issue, mallory, f"m{number}")
        report(text)
        new = rotate(key, Grace.HOUR, actor=mallory)
        changes.hand_over(key, bob, actor=mallory)
        hour_ago = timezone.now() - timedelta(hours=1)
        Secret.objects.filter(key=key, expires_at__isnull=False).update(expires_at=hour_ago)
        assert bury_ended() == 1
        Alarm.objects.all().delete()
        assert len(report(new.text)) == 1
    assert arrives(alice, real)


def test_nor_by_enabling_and_rotating_what_they_were_given(
    alice: User, ada: User, mallory: User, issue: Issue
) -> None:
    _, real = make(issue, ada, "real")
    key, text = make(issue, ada, "given", mallory)
    for number in range(2 * MOST):
        assert len(report(text)) == 1
        if number % 2:
            text = rotate(key, Grace.NOW, actor=mallory).text
        else:
            changes.enable(key, actor=mallory)
        Alarm.objects.all().delete()
    assert len(sent_to(alice)) == MOST
    assert arrives(alice, real)


def test_who_left_the_team_still_answers_for_what_they_made(
    alice: User, bob: User, mallory: User, issue: Issue
) -> None:
    texts = [make(issue, mallory, f"m{number}", bob)[1] for number in range(MOST + 1)]
    _, real = make(issue, bob, "real")
    mallory.memberships.all().delete()
    for text in texts:
        report(text)
    assert len(sent_to(alice)) == MOST
    assert arrives(alice, real)


def test_each_team_hears_of_its_own(
    alice: User, mallory: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    Membership.objects.create(team=other_team, user=mallory, role=Role.MEMBER)
    use_up(issue, mallory)
    report(issue(mallory, "there", team=other_team, actor=mallory)[1])
    assert len(sent_to(charlie)) == 1


@pytest.mark.parametrize("reporter", [GITHUB, OPERATOR])
def test_what_github_or_an_operator_reports_has_no_bound_and_uses_none_up(
    alice: User, bob: User, issue: Issue, reporter: str
) -> None:
    for number in range(MOST + 2):
        report(make(issue, bob, f"b{number}")[1], reporter=reporter)
    assert len(sent_to(alice)) == MOST + 2
    assert not LetterCount.objects.exists()
    assert arrives(alice, make(issue, bob, "real")[1])


def test_a_report_that_comes_to_nothing_counts_for_nothing(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    _, text = make(issue, bob, "a")
    with monkeypatch.context() as patched:
        patched.setattr(ApiKey, "save", fail)
        with pytest.raises(DatabaseError):
            report(text)
    assert not LetterCount.objects.exists()
    assert not sent_to(bob)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_leak", ["disable", "delete"])
def test_reports_of_one_key_at_one_time_are_one_letter(
    bob: User, team: Team, issue: Issue, on_leak: str
) -> None:
    Team.objects.update(policy=Policy(on_leak=on_leak))
    _, text = make(issue, bob, "a")
    at_once(*[partial(report, text)] * 6)
    assert len(sent_to(bob)) == 1
    assert AuditEvent.objects.filter(action=Action.KEY_REPORTED).count() == 1


@pytest.mark.django_db(transaction=True)
def test_reports_of_many_keys_at_one_time_are_counted_exactly(bob: User, issue: Issue) -> None:
    texts = [make(issue, bob, f"b{number}")[1] for number in range(MOST + 3)]
    at_once(*(partial(report, text) for text in texts))
    assert len(sent_to(bob)) == MOST
    count = LetterCount.objects.get()
    assert (count.person, count.letters, count.untold) == ("bob", MOST, 3)
    assert not ApiKey.objects.filter(reported_at=None).exists()
