"""Text of others, such as a web page's, a file's name or a model's, for a terminal."""

import logging
import unicodedata


def foreign(text: str) -> str:
    """The text with `\ufffd` for each sign that a terminal would obey.

    Line breaks and tabs stay, every kind of space, and what joins, parts or turns letters, as Persian and emoji need.
    """
    return "".join("\ufffd" if _is_obeyed(character) else character for character in text.replace("\r\n", "\n"))


def _is_obeyed(character: str) -> bool:
    # Half of a surrogate pair can't be printed at all.
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"


class ForeignFormatter(logging.Formatter):
    """Formats a log whose messages, and those of the libraries, may hold text of others."""

    def format(self, record: logging.LogRecord) -> str:
        """A message as it may be shown."""
        return foreign(super().format(record))
