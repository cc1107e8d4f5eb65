"""Where the documents of a corpus come from."""

import attrs

from llmrecipe.recipe.schema import define, not_empty


@define("python_stdlib")
class PythonStdlib:
    """The source code of the running Python's own standard library, one document a module.

    Real text that every machine has. Tests, generated tables and third-party packages are left out. The
    selection and its order depend on the Python version alone.
    """


@define("text_files")
class TextFiles:
    """Plain UTF-8 text files, one document a file."""

    paths: tuple[str, ...] = attrs.field(validator=not_empty)
    """Glob patterns relative to the project, such as `data/books/**/*.txt.gz`; gzip, bzip2, xz and zstd by suffix."""


@define("jsonl_files")
class JsonlFiles:
    """JSON lines, one document a line."""

    paths: tuple[str, ...] = attrs.field(validator=not_empty)
    """Glob patterns relative to the project; gzip, bzip2, xz and zstd by suffix."""

    text_field: str = attrs.field(default="text", validator=not_empty)
    """The key that holds the text; `text` is what most data sets use."""


@define("parquet_files")
class ParquetFiles:
    """Parquet tables, one document a row."""

    paths: tuple[str, ...] = attrs.field(validator=not_empty)
    """Glob patterns relative to the project."""

    text_field: str = attrs.field(default="text", validator=not_empty)
    """The column that holds the text; `text` is what most data sets use."""


@define("csv_files")
class CsvFiles:
    """Comma-separated files with a header line, one document a row."""

    paths: tuple[str, ...] = attrs.field(validator=not_empty)
    """Glob patterns relative to the project; gzip, bzip2, xz and zstd by suffix."""

    text_field: str = attrs.field(default="text", validator=not_empty)
    """The column that holds the text; `text` is what most data sets use."""


Source = PythonStdlib | TextFiles | JsonlFiles | ParquetFiles | CsvFiles
