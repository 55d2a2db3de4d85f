"""What a key may be called, whoever names it: a form, the admin or a command."""

from django.core.exceptions import ValidationError

from keyportal.keys import secret


def require_printable(text: str) -> None:
    """Invisible and direction-changing characters make two names look like one."""
    if not text.isprintable():
        raise ValidationError("Use printable characters only.")


def require_no_key(text: str) -> None:
    """Names are stored in clear and shown to the whole team, which a key must never be."""
    if secret.redact(text) != text:
        raise ValidationError("This holds an API key. Never keep a key where others can read it.")


def split_words(text: str) -> list[str]:
    """As people type a list: divided by spaces, commas or lines."""
    return text.replace(",", " ").split()


def plain_lines(text: str) -> str:
    """A text of several lines, which browsers end in two characters; it is kept with one.

    Raises `ValidationError` where anything else of it is invisible.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    for line in lines:
        require_printable(line)
    return "\n".join(lines)
