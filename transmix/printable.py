"""Make text from files safe for a terminal, and short enough.

Needs only the standard library, so that any error message can use it.
"""


def printable(text: str) -> str:
    """Write a text as one safe line: control characters are escaped, letters stay."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def shorten(text: str, most: int) -> str:
    """Leave out the middle of a text longer than `most` letters; names often differ at their end."""
    if len(text) <= most:
        return text
    end = (most - 1) // 3
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"
