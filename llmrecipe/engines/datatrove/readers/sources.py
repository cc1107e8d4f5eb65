"""From a source to its reader, with its files found."""

from collections.abc import Iterable
from pathlib import Path, PurePath

import fsspec

from llmrecipe import origins
from llmrecipe.engines.datatrove.readers import python_code
from llmrecipe.engines.datatrove.readers.files import CsvReader, JsonlReader, ParquetReader, PythonReader, TextReader
from llmrecipe.engines.datatrove.readers.reading import FileReader, SourceReader, unreachable
from llmrecipe.engines.datatrove.readers.warc import WarcReader
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Source
from llmrecipe.recipe.source import (
    CsvFiles,
    Files,
    HubDataset,
    JsonlFiles,
    ParquetFiles,
    PythonPackages,
    PythonStdlib,
    RowFiles,
    TextFiles,
    WarcFiles,
)

_READERS: dict[type[Files], type[FileReader]] = {
    TextFiles: TextReader,
    JsonlFiles: JsonlReader,
    ParquetFiles: ParquetReader,
    WarcFiles: WarcReader,
}


def reader_of(source: Source, where: str = "corpus.source") -> SourceReader:
    """The reader of a source, after its files were found; `where` is its place in the recipe, for messages.

    Raises:
        StageError: a pattern matches no file, a file can't be of the source's format, a URL or the hub can't be
            reached, or Python or a package is here in another version.
    """
    match source:
        case PythonStdlib():
            python_code.refuse_version(source.version, where)
            return PythonReader(python_code.standard_library())
        case PythonPackages():
            return PythonReader(python_code.installed(source.packages, where))
        case HubDataset():
            # Only here: it takes half a second to import, in every worker process.
            from llmrecipe.engines.datatrove.readers.hub import HubReader

            return HubReader(source, where)
        case CsvFiles():
            return CsvReader(
                _found(source.paths, where),
                delimiter=source.delimiter,
                text_field=source.text_field,
                url_field=source.url_field,
            )
        case RowFiles():
            fields = {"text_field": source.text_field, "url_field": source.url_field}
            return _READERS[type(source)](_found(source.paths, where), **fields)
        case Files():
            return _READERS[type(source)](_found(source.paths, where))
    raise StageError(f"{where}: nothing reads {type(source).__name__}; use a source of this package")


def _found(paths: Iterable[str], where: str) -> dict[str, Path | str]:
    """The files of these patterns by name, sorted."""
    files: dict[str, Path | str] = {}
    for path in paths:
        if origins.is_url(path):
            files |= {url: url for url in _urls(path, where)}
        else:
            files |= {PurePath(name).as_posix(): Path(name) for name in _names(path)}
    return dict(sorted(files.items()))


def _names(pattern: str) -> list[str]:
    refused = origins.too_long(pattern)
    if refused:
        raise StageError(refused)
    found = origins.matches(pattern, Path())
    if not found:
        here = f"it is relative to the project, {Path.cwd()}{origins.brackets(pattern)}"
        what = origins.not_pulled(pattern, Path()) or here
        raise StageError(f"{pattern}: no file matches this pattern; {what}")
    for path in found:
        unseen = origins.behind_link(path, pattern, Path())
        if unseen:
            raise StageError(f"{path}: {unseen}")
        wrong = origins.unreadable(path, Path())
        if wrong:
            raise StageError(f"{pattern}: {wrong}")
    return found


def _urls(pattern: str, where: str) -> list[str]:
    refused = origins.refusal(pattern)
    if refused:
        raise StageError(f"{where}.paths: {refused}")
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        # "?" begins the query of a URL, and a pattern on no server.
        found = system.glob(path) if set(path) & set("*[") and not system.exists(path) else [path]
    # A file system behind a URL has errors of its own.
    except Exception as error:
        raise unreachable(pattern, error) from error
    if not found:
        raise StageError(f"{pattern}: no file there matches this pattern; look at what the server lists")
    return [system.unstrip_protocol(name) for name in found]
