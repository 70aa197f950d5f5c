"""The words of the page in the user's language."""


def t(text: str) -> str:
    """Return an English text in the user's language."""
    return text
