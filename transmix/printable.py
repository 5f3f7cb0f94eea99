"""Text that comes from files, made fit for a terminal and for the room there is.

Needs nothing but Python, so that any complaint can use it.
"""


def printable(text: str) -> str:
    """Write a text on one line that any terminal and file takes: escapes for control characters, letters stay."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def shorten(text: str, most: int) -> str:
    """Leave out the middle of a text longer than `most` letters; names often differ at their end."""
    if len(text) <= most:
        return text
    end = (most - 1) // 3
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"
