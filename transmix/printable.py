"""Text that comes from files, made fit for a terminal; needs nothing but Python, so that any complaint can use it."""


def printable(text: str) -> str:
    """Write a text on one line that any terminal and file takes: escapes for control characters, letters stay."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
