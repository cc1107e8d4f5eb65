"""Web archives: the text of the pages in them."""

import contextlib
import logging
from collections.abc import Iterator
from typing import IO

import attrs
import brotli
import trafilatura
from datatrove.data import Document
from trafilatura.deduplication import LRUCache
from trafilatura.utils import detect_encoding
from w3lib.encoding import html_to_unicode
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader
from warcio.statusandheaders import StatusAndHeaders, StatusAndHeadersParserException

from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.readers.reading import FileReader
from llmrecipe.errors import StageError

_HTML = {"text/html", "application/xhtml+xml"}

_RECORD_END = b"\r\n\r\n"

# It reports every page without a main text as an error.
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)


@attrs.frozen
class Page:
    """A record with text in it."""

    url: str
    content_type: str
    body: bytes

    @property
    def is_html(self) -> bool:
        """Whether the text has to be found in it."""
        return _media_type(self.content_type) in _HTML


class WarcReader(FileReader):
    """Web archives, one document a page; see `WarcFiles` for what is one."""

    name = "WARC"
    kind = "web archive"
    suffixes = (".warc", ".wet")
    damaged = (*FileReader.damaged, ArchiveLoadFailed, StatusAndHeadersParserException)

    def rows(self, name: str) -> Iterator[tuple[str, Page]]:
        """Its pages; the place is the record's number, from 1, whatever the records are."""
        with self.open(name) as file:
            for number, record in enumerate(_records(file), 1):
                place = f"{name}:{number}"
                page = _page(record, place)
                if page:
                    yield place, page

    def document(self, row: Page, place: str) -> Document:
        """The page's main text."""
        text = main_text(row) if row.is_html else _utf8(row.body, place)
        document = Document(text=text, id=place)
        companions.URL.put(document, row.url)
        return document


def _utf8(body: bytes, place: str) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise StageError(
            f"{place}: not UTF-8, which such a record is by its format: byte 0x{body[error.start]:02x} at offset "
            f"{error.start:,} of its text; write the archive again, or leave it out"
        ) from None


def main_text(page: Page) -> str:
    """The main text of a page of HTML; "" if there is none."""
    try:
        # As datatrove's reader: what is valid in UTF-8 is UTF-8, whatever it says of itself.
        html = page.body.decode()
    except UnicodeDecodeError:
        # As a browser does it.
        _, html = html_to_unicode(page.content_type, page.body, auto_detect_fun=_detect)
    # As datatrove's Trafilatura, which is FineWeb's, but for `deduplicate`: the cache that it shares between pages
    # would let the text of one depend on those that the same process has seen.
    text = trafilatura.extract(html, favor_precision=True, include_comments=False, deduplicate=LRUCache(maxsize=4096))
    return text or ""


def _detect(body: bytes) -> str | None:
    return next(iter(detect_encoding(body)), None)


def _records(file: IO[bytes]) -> Iterator[ArcWarcRecord]:
    """The records of an archive, each read to its end.

    Raises:
        OSError: the archive ends within a record, which warcio takes for the end of the archive, or stumbles over.
    """
    strict = _Strict(file)
    records = ArchiveIterator(strict)
    records.loader = _Loader()
    while True:
        try:
            record = next(records, None)
        except AttributeError as error:
            raise OSError("half a header") from error
        if record is None:
            break
        yield record
        stream = record.raw_stream
        while stream.read(2**20):
            pass
        if getattr(stream, "limit", 1):
            raise OSError("it ends within a record")
    if strict.end != _RECORD_END:
        raise OSError("it doesn't end as a record does")


class _Loader(ArcWarcRecordLoader):
    """A record that ends before its page isn't the archive's end, which warcio takes it for."""

    def load_http_headers(self, rec_type: str, uri: str, stream: IO[bytes], length: int) -> StatusAndHeaders | None:
        try:
            return super().load_http_headers(rec_type, uri, stream, length)
        except EOFError as error:
            raise OSError("it ends within a record") from error


class _Strict:
    """A file that is cut short says so with an error that warcio doesn't take for its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell
        self.end = b""

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except EOFError as error:
            raise OSError(str(error)) from error
        self.end = (self.end + data[-len(_RECORD_END) :])[-len(_RECORD_END) :]
        return data


def _page(record: ArcWarcRecord, place: str) -> Page | None:
    headers, http = record.rec_headers, record.http_headers
    if record.rec_type == "response" and http:
        content_type = http.get_header("Content-Type", "")
        wanted = _HTML
    elif record.rec_type == "conversion":
        content_type = headers.get_header("Content-Type", "")
        wanted = {"text/plain"}
    else:
        return None
    # What a crawler has found out counts for more than what a server has said.
    found = headers.get_header("WARC-Identified-Payload-Type", content_type)
    if _media_type(found) not in wanted:
        return None
    url = headers.get_header("WARC-Target-URI", "")
    if _media_type(content_type) != _media_type(found):
        content_type = found
    return Page(url, content_type, _body(record, place))


def _body(record: ArcWarcRecord, place: str) -> bytes:
    http = record.http_headers
    encoding = http.get_header("Content-Encoding", "").lower() if http else ""
    if encoding == "br":
        # warcio knows how to with an older brotli only.
        http.remove_header("Content-Encoding")
        body = record.content_stream().read()
        # As warcio takes what turns out not to be compressed.
        with contextlib.suppress(brotli.error):
            body = brotli.decompress(body)
        return body
    if encoding not in ("", "identity", "gzip", "deflate"):
        # warcio would give the page as it is, and no text would be found in it.
        raise StageError(f"{place}: a page compressed by {encoding!r}, which can't be unpacked; leave this archive out")
    return record.content_stream().read()


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
