"""Text from files and arguments, made fit for a terminal."""


def visible(text: object) -> str:
    """The text with control characters, which a hostile file may hold in its names, written out as `\\x1b`."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))
