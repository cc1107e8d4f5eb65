"""What a file is by its first bytes, whatever its name."""

HEAD = 512
"""Bytes of a file that tell."""

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""Names of compressions, by the suffix of a file."""

NARROW = "narrow the pattern of the source"
"""What to do about a file that is no text at all."""

RENAME = f"rename it, or {NARROW}"
"""The same where its name may be wrong."""

_COMPRESSED = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
"""How compressed files begin."""

_UNPACK = "unpack it, and name the files in it"
_SAVE = "save it as plain text in UTF-8"
_SIGNS = {
    b"\x1f\x8b": "gzip data; name it as that, with .gz at the end, or unpack it",
    b"BZh": "bzip2 data; name it as that, with .bz2 at the end, or unpack it",
    b"\xfd7zXZ\x00": "xz data; name it as that, with .xz at the end, or unpack it",
    b"\x28\xb5\x2f\xfd": "zstd data; name it as that, with .zst at the end, or unpack it",
    b"PK\x03\x04": "a ZIP archive (an office document, perhaps); unpack it or save it as text",
    b"7z\xbc\xaf\x27\x1c": f"a 7-Zip archive; {_UNPACK}",
    b"Rar!\x1a\x07": f"a RAR archive; {_UNPACK}",
    b"%PDF-": "a PDF document; extract its text, for instance with pdftotext",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"an old office document (.doc, .xls); {_SAVE}",
    b"{\\rtf": f"an RTF document; {_SAVE}",
    b"PAR1\x15": "a Parquet table; read it with ParquetFiles",
    b"ARROW1\x00\x00": "an Arrow table; write it as Parquet, and read it with ParquetFiles",
    b"\xff\xfe\x00\x00": "UTF-32; convert it with `iconv -f UTF-32 -t UTF-8`",
    b"\x00\x00\xfe\xff": "UTF-32; convert it with `iconv -f UTF-32 -t UTF-8`",
    b"\xff\xfe": "UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`",
    b"\x7fELF": f"a program; {NARROW}",
    b"\x89PNG": f"an image; {NARROW}",
    b"\xff\xd8\xff": f"an image; {NARROW}",
    b"GIF87a": f"an image; {NARROW}",
    b"GIF89a": f"an image; {NARROW}",
    b"ID3\x03": f"a recording; {NARROW}",
    b"ID3\x04": f"a recording; {NARROW}",
    b"\x93NUMPY": f"a NumPy array; {NARROW}",
    b"SQLite format 3\x00": "an SQLite database; write its texts as JSON lines",
}


def other_format(head: bytes) -> str | None:
    """What begins with these bytes, and what to do with it; None if they may be those of UTF-8 text."""
    found = next((what for sign, what in _SIGNS.items() if head.startswith(sign)), None)
    if found:
        return found
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    encoding = _wide_encoding(head[: min(64, len(head) // 4 * 4)])
    return encoding and f"{encoding}; convert it with `iconv -f {encoding} -t UTF-8`"


def other_than_named(head: bytes, kind: str, sign: bytes, suffix: str) -> str | None:
    """What a file is that can't be read as its name says, and what to do with it; None if it may be damaged.

    Args:
        head: its first bytes.
        kind: what its name says that it is.
        sign: how every file of that kind begins.
        suffix: that of a compression, `.gz`, or "".
    """
    found = other_format(head)
    if suffix:
        if head.startswith(_COMPRESSED[suffix]):
            return None
        plain = f"not compressed, whatever its name says; take {suffix} away from it"
        return f"not {COMPRESSIONS[suffix]} data, but {found}" if found else plain
    if head.startswith(sign):
        return None
    return f"not a {kind}, but {found or f'begins with {head[:16]!r}; {RENAME}'}"


def _wide_encoding(head: bytes) -> str | None:
    """The encoding of a text in 2 or 4 bytes a character, by the zeros in it, if it doesn't say so itself."""
    zeros = "".join("x" if any(head[place::4]) else "0" for place in range(4))
    return {"x000": "UTF-32LE", "000x": "UTF-32BE", "x0x0": "UTF-16LE", "0x0x": "UTF-16BE"}.get(zeros)
