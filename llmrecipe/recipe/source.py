"""Where the documents of a corpus come from."""

import re

import attrs

from llmrecipe.recipe import hub
from llmrecipe.recipe.kinds import Source
from llmrecipe.recipe.schema import FieldError, define, kind
from llmrecipe.recipe.validators import no_duplicates, not_empty

__all__ = [
    "CsvFiles",
    "HubDataset",
    "JsonlFiles",
    "ParquetFiles",
    "PythonPackages",
    "PythonStdlib",
    "TextFiles",
    "WarcFiles",
]

PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
"""A Python package with its version, `attrs==26.1.0`."""


def _pinned_packages(owner: object, attribute: attrs.Attribute, value: tuple[str, ...]) -> None:
    for package in value:
        if not PINNED.fullmatch(package):
            reason = f"{package!r} is not a package with its version; write it as in 'attrs==26.1.0'"
            raise FieldError(owner, attribute.name, reason)


def installed_package(owner: object, attribute: attrs.Attribute, value: str) -> None:
    """A validator: a Python package with its version."""
    _pinned_packages(owner, attribute, (value,))


def _python_version(owner: object, attribute: attrs.Attribute, value: str) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+\w*", value):
        raise FieldError(owner, attribute.name, f"must be a whole version, such as '3.11.7', got {value!r}")


@kind
class Files(Source):
    """Files, in the project's folder or behind URLs."""

    paths: tuple[str, ...] = attrs.field(validator=not_empty)
    """Where the files are.

    Glob patterns relative to the project, such as `data/books/**/*.txt.gz`; gzip, bzip2, xz and zstd by suffix. DVC
    watches the folder that a pattern searches, and a file with a `.dvc` file next to it works like any other. A path
    that exists as it is written is that file, whatever signs are in it; in a pattern, `[[]` stands for a bracket.

    Or URLs of any protocol that fsspec knows, such as `s3://bucket/books/*.txt` or `https://host/book.txt.gz`, with
    patterns where the other side can list its files. They are read when the stage runs and **not watched**: the same
    URL may hold other text tomorrow. `dvc import-url URL data/` pins one, and DVC watches the file that it leaves.
    """


@kind
class RowFiles(Files):
    """Files with a document in each row or line, of which one field is the text."""

    text_field: str = attrs.field(default="text", validator=not_empty)
    """The key or column that holds the text; `text` is what most data sets use."""

    url_field: str = ""
    """The one that holds the address of the page that the text is from, for cleaners that look at it; "" if none."""

    @property
    def has_addresses(self) -> bool:
        """Whether documents come with the address of the page that they are from."""
        return bool(self.url_field)


@define("python_stdlib")
class PythonStdlib(Source):
    """The source code of Python's own standard library, one document a module.

    Real text that every machine has. Tests, generated tables and third-party packages are left out. The selection and
    its order depend on the Python version alone.
    """

    version: str | None = attrs.field(default=None, validator=attrs.validators.optional(_python_version))
    """The Python that has to run the stage, `3.11.7`; None for the one that plans, which the plan then names."""


@define("python_packages")
class PythonPackages(Source):
    """The source code of Python packages that are installed here, one document a module.

    Tests and generated tables are left out. Another version than the one named is an error when the stage starts.
    """

    packages: tuple[str, ...] = attrs.field(validator=attrs.validators.and_(not_empty, no_duplicates, _pinned_packages))
    """Each with its version: `("attrs==26.1.0", "rich==15.0.0")`."""


@define("text_files")
class TextFiles(Files):
    """Plain UTF-8 text files, one document a file."""


@define("jsonl_files")
class JsonlFiles(RowFiles):
    """JSON lines, one document a line."""


@define("parquet_files")
class ParquetFiles(RowFiles):
    """Parquet tables, one document a row."""


def _one_sign(owner: object, attribute: attrs.Attribute, value: str) -> None:
    if len(value) != 1 or value in '"\r\n' or not value.isascii():
        raise FieldError(owner, attribute.name, f"must be one sign, such as ';' or '\\t', and no quote, got {value!r}")


@define("csv_files")
class CsvFiles(RowFiles):
    """Comma-separated files (RFC 4180) with a header line, one document a row; they end in .csv, .tsv or .tab."""

    delimiter: str = attrs.field(default=",", validator=_one_sign)
    """What separates the columns; `;` where commas are decimal points, and `\\t` for tabs."""


@define("warc_files")
class WarcFiles(Files):
    """Web archives (WARC, ISO 28500), one document a page.

    A page is a `response` record with HTML in it; its main text is found by trafilatura (Barbaresi, 2021,
    https://aclanthology.org/2021.acl-demo.15), set to favour precision and to leave comments out, as for FineWeb
    (https://arxiv.org/abs/2406.17557). Unlike there, a page gets all the time that it needs and is never compared with
    the pages before it: its text depends on nothing else. Pages without main text count as dropped by `empty`.
    The `conversion` records of Common Crawl's WET files are taken as they are.
    """

    @property
    def has_addresses(self) -> bool:
        """Whether documents come with the address of the page that they are from."""
        return True


@define("hub_dataset")
class HubDataset(Source):
    """A data set of the Hugging Face Hub at one commit, one document a row.

    It is streamed while the stage runs, from the hub or what `HF_ENDPOINT` names in its place; nothing of it is kept
    but the documents. `HF_TOKEN` opens data sets that are gated.
    """

    name: str = attrs.field(validator=hub.name)
    """As on the hub: `HuggingFaceFW/fineweb-edu`."""

    revision: str = attrs.field(validator=hub.commit)
    """The commit's hash, whole: what a branch or a tag means can change."""

    subset: str = ""
    """One of its configurations, such as `sample-10BT`; "" for the only one or the default."""

    split: str = attrs.field(default="train", validator=not_empty)
    """One of its splits."""

    text_field: str = attrs.field(default="text", validator=not_empty)
    """The column that holds the text; `text` is what most data sets use."""

    url_field: str = ""
    """The column that holds the address of the page that the text is from, for cleaners that look at it; "" if none."""

    @property
    def has_addresses(self) -> bool:
        """Whether documents come with the address of the page that they are from."""
        return bool(self.url_field)
