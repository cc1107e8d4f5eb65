"""How every source is read: its parts dealt over the tasks, and what can't be read named, never skipped."""

import io
import lzma
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import IO, Any, ClassVar, cast
from urllib.parse import urlsplit

import fsspec
import pyarrow
from backports.zstd import ZstdError
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from llmrecipe import origins
from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.readers import signs
from llmrecipe.errors import StageError


class SourceReader(PipelineStep):
    """Base of the readers: deals the documents of a source's parts over the tasks.

    The parts' bytes, laid end to end, are cut into one equal share for each task. A part within one share belongs to
    that task; the documents of a part that reaches over several shares go to their tasks in turn, so one large
    file keeps every worker busy.
    """

    type = "READER"

    def __init__(self, sizes: Mapping[str, int], text_field: str = "text", url_field: str = "") -> None:
        """
        Args:
            sizes: the parts' names, which also name the documents, in the order of reading, with their bytes.
            text_field: column or key of the text.
            url_field: column or key of the page's address, or "".
        """
        super().__init__()
        self.sizes = sizes
        self.text_field = text_field
        self.url_field = url_field

    @abstractmethod
    def rows(self, name: str) -> Iterator[tuple[str, Any]]:
        """What a part holds, a document each, with its place: whatever is cheap to tell apart."""

    @abstractmethod
    def document(self, row: Any, place: str) -> Document:
        """A row as a document."""

    @abstractmethod
    def refuse(self, name: str, error: Exception) -> StageError | None:
        """What stops the reading of a part, in the user's words; None if `error` is no fault of the part."""

    def owners(self, world_size: int) -> Iterator[tuple[str, range]]:
        """Each part with the tasks that share its documents."""
        total, start = sum(self.sizes.values()), 0
        for name, size in self.sizes.items():
            first = min(start * world_size // total, world_size - 1)
            last = max((start + size - 1) * world_size // total, first)
            yield name, range(first, last + 1)
            start += size

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """This task's documents."""
        for name, owners in self.owners(world_size):
            if rank not in owners:
                continue
            try:
                for index, (place, row) in enumerate(self.rows(name)):
                    if owners[index % len(owners)] == rank:
                        document = self.document(row, place)
                        companions.SHARD.put(document, rank)
                        self.stat_update("documents")
                        self.stat_update("bytes", value=_num_bytes(document))
                        yield document
            except StageError:
                raise
            except Exception as error:
                refused = self.refuse(name, error)
                if refused is None:
                    raise
                raise refused from error

    def of_fields(self, fields: Mapping[str, Any], place: str) -> Document:
        """The document in these columns or keys."""
        document = Document(text=self._text_of(fields, "text_field", place), id=place)
        if self.url_field:
            companions.URL.put(document, self._text_of(fields, "url_field", place))
        return document

    def require_fields(self, names: Iterable[str], place: str) -> None:
        """Refuse a table or an object without the fields of the text and the address."""
        names = list(names)
        for option in ("text_field", "url_field"):
            wanted = getattr(self, option)
            if wanted and wanted not in names:
                listed = f"one of {', '.join(map(repr, names))}" if names else "another: there are none"
                raise StageError(f"{place}: no {wanted!r} here; set `{option}` to {listed}")
            if names.count(wanted) > 1:
                raise StageError(f"{place}: {names.count(wanted)} columns are named {wanted!r}; rename all but one")

    def _text_of(self, fields: Mapping[str, Any], option: str, place: str) -> str:
        """The text in a field; a missing value is an empty text."""
        name = getattr(self, option)
        value = fields[name]
        if value is None:
            return ""
        if not isinstance(value, str):
            raise StageError(
                f"{place}: {name!r} holds {type(value).__name__}, not text; set `{option}` to what holds it"
            )
        return value


class FileReader(SourceReader):
    """Base of the readers of files, in folders or behind URLs."""

    kind: ClassVar[str]
    """What a file is, for messages."""

    suffixes: ClassVar[tuple[str, ...]]
    """How its name may end, before the suffix of a compression."""

    compressed: ClassVar[bool] = True
    """Whether it may be compressed as a whole."""

    damaged: ClassVar[tuple[type[Exception], ...]] = (
        OSError, EOFError, zlib.error, lzma.LZMAError, ZstdError, pyarrow.ArrowException
    )  # fmt: skip
    """What reading a damaged file raises."""

    sign: ClassVar[bytes] = b""
    """How every file of the format begins."""

    def __init__(self, files: Mapping[str, Path | str], **fields: str) -> None:
        """
        Args:
            files: the files' names, in the order of reading, with their places: a path, or a URL as text.
            fields: as for `SourceReader`.

        Raises:
            StageError: a URL can't be reached, a file can't be of this format, or all are empty.
        """
        # fsspec remembers what a relative path once meant.
        self.files = {name: place.absolute() if isinstance(place, Path) else place for name, place in files.items()}
        super().__init__({name: _size(place) for name, place in self.files.items()}, **fields)
        for name, size in self.sizes.items():
            self.check_file(name, size)
            if origins.is_url(name) and 0 < size < origins.LARGEST_POINTER:
                self._refuse_pointer(name)
        if sum(self.sizes.values()) == 0:
            raise StageError(f"{next(iter(self.sizes))}: empty, and so is every other file of the source")

    @classmethod
    def check_file(cls, name: str, size: int) -> None:
        """Refuse, by name and size, a file that can't be of this format."""
        if format_suffix(name) not in cls.suffixes or (not cls.compressed and compression_suffix(name)):
            raise StageError(
                f"{name}: a {cls.kind} ends in {' or '.join(cls.suffixes)}"
                + (f", and in {', '.join(signs.COMPRESSIONS)} after that if it is compressed" if cls.compressed else "")
                + f"; {signs.RENAME}"
            )
        if size == 0:
            raise StageError(f"{name}: empty (0 bytes); fetch it again, or delete it")

    def _refuse_pointer(self, name: str) -> None:
        system, path = self._place(name)
        try:
            with system.open(path, "rb") as file:
                pointer = origins.pointer(name, file.read(len(origins.LFS_POINTER)))
        # A file system behind a URL has errors of its own.
        except Exception as error:
            raise unreachable(name, error) from error
        if pointer:
            raise StageError(pointer)

    def open_text(self, name: str, newline: str | None = None) -> IO[str]:
        """Open a text file, compressed or not; a byte order mark is no part of the text."""
        file = io.BufferedReader(cast(io.RawIOBase, self.open(name)))
        found = signs.other_format(file.peek(signs.HEAD))
        if found:
            file.close()
            raise StageError(f"{name}: not a {self.kind}, but {found}")
        return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)

    def open(self, name: str, mode: str = "rb", **options: Any) -> IO:
        """Open a file of the source, unpacked; `options` as for fsspec."""
        system, path = self._place(name)
        return system.open(path, mode, compression=signs.COMPRESSIONS.get(compression_suffix(name)), **options)

    def _not_utf8(self, name: str) -> StageError:
        offset = 0
        with self.open(name) as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    if b"\0" in line:
                        return StageError(
                            f"{name}:{number}: holds zeros and bytes that aren't UTF-8, as no text does; {signs.NARROW}"
                        )
                    byte, offset = line[error.start], offset + error.start
                    return StageError(
                        f"{name}:{number}: not UTF-8: byte 0x{byte:02x} at offset {offset:,} of the "
                        f"{'unpacked ' if compression_suffix(name) else ''}file; mend that line if it is the only one, "
                        "or convert the file: `iconv -f ENCODING -t UTF-8`, with its own encoding, such as WINDOWS-1252"
                    )
                offset += len(line)
        return StageError(f"{name}: not UTF-8 when it was read, and changed since; run this again")

    def _other_than_named(self, name: str) -> str | None:
        system, path = self._place(name)
        try:
            with system.open(path, "rb") as file:
                head = file.read(signs.HEAD)
        except OSError:
            return None
        return signs.other_than_named(head, self.kind, self.sign, compression_suffix(name))

    def _place(self, name: str) -> tuple[AbstractFileSystem, str]:
        place = self.files[name]
        # Opened by fsspec's own function, a path would be searched for protocols: "a::b.txt".
        return (LocalFileSystem(), str(place)) if isinstance(place, Path) else fsspec.core.url_to_fs(place)

    def refuse(self, name: str, error: Exception) -> StageError | None:
        """Damage; behind a URL, whatever its file system makes of a failure."""
        if isinstance(error, UnicodeDecodeError):
            return self._not_utf8(name)
        if isinstance(error, self.damaged):
            found = self._other_than_named(name)
            if found:
                return StageError(f"{name}: {found}")
            return StageError(
                f"{name}: can't be read as a {self.kind} ({error}); it may be damaged or cut short, fetch it again"
            )
        if origins.is_url(name):
            return unreachable(name, error)
        return None


def _num_bytes(document: Document) -> int:
    try:
        return len(document.text.encode())
    except UnicodeEncodeError as error:
        half = document.text[error.start]
        raise StageError(
            f"{document.id}: the text holds half a character ({half!r}, at {error.start:,}), which no UTF-8 has; "
            "whatever wrote the file cut a surrogate pair: mend or delete the line"
        ) from None


def unreachable(url: str, error: BaseException) -> StageError:
    """What to say of a URL that can't be read."""
    # fsspec calls whatever keeps it from a server a missing file.
    while error.__cause__:
        error = error.__cause__
    return StageError(
        f"{url}: can't be read ({type(error).__name__}: {error}); check the address, the network and who may read it, "
        f"or keep a copy with the project: `dvc import-url {url} data/`"
    )


def compression_suffix(name: str) -> str:
    """`.gz` and the like at the end of a file's name; "" if it isn't compressed."""
    suffix = _last_part(name).suffix
    return suffix if suffix in signs.COMPRESSIONS else ""


def format_suffix(name: str) -> str:
    """The suffix that tells the format: the one before the suffix of a compression, in lower case."""
    last = _last_part(name)
    return (PurePath(last.stem) if compression_suffix(name) else last).suffix.lower()


def _last_part(name: str) -> PurePath:
    # A URL may continue after the name: https://host/a.jsonl.gz?download=true
    return PurePath(urlsplit(name).path if origins.is_url(name) else name)


def _size(place: Path | str) -> int:
    if isinstance(place, Path):
        return place.stat().st_size
    try:
        system, path = fsspec.core.url_to_fs(place)
        size = system.info(path)["size"]
    # A file system behind a URL has errors of its own.
    except Exception as error:
        raise unreachable(place, error) from error
    if size is None:
        raise StageError(
            f"{place}: the server doesn't say how large it is, so the work can't be shared out; keep a copy with "
            f"the project: `dvc import-url {place} data/`"
        )
    return size
