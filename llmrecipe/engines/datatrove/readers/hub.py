"""Data sets of the Hugging Face Hub, streamed."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from datatrove.data import Document

from llmrecipe.engines.datatrove.readers.reading import SourceReader
from llmrecipe.errors import StageError
from llmrecipe.recipe.source import HubDataset

_SIZE = 2**30
"""All parts count as equally large: nobody says how large the parts are that `datasets` cuts a data set into."""


class HubReader(SourceReader):
    """A data set of the hub, one document a row."""

    name = "Hub"

    def __init__(self, source: HubDataset, where: str) -> None:
        """
        Args:
            source: what to read.
            where: its place in the recipe, for messages.

        Raises:
            StageError: the hub can't be reached, or has no such data set, commit, configuration or split.
        """
        self.source, self.where = source, where
        self.prefix = "/".join(part for part in (source.name, source.subset, source.split) if part)
        # Without the prefix `datasets` would read a folder of this name here. Without a hub it would take what it has
        # kept of the data set, at whatever commit: so it finds nothing kept.
        try:
            with TemporaryDirectory() as empty:
                self.dataset = datasets.load_dataset(
                    f"hf://datasets/{source.name}",
                    source.subset or None,
                    split=source.split,
                    revision=source.revision,
                    streaming=True,
                    cache_dir=empty,
                )
        # The hub's client has errors of many kinds, and so has the network below it.
        except Exception as error:
            raise self.refuse(self.prefix, error) from error
        numbers = range(self.dataset.num_shards)
        super().__init__({f"{number:05}": _SIZE for number in numbers}, source.text_field, source.url_field)

    def rows(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a part, numbered from 1."""
        part = self.dataset.shard(num_shards=len(self.sizes), index=int(name))
        for number, row in enumerate(part, 1):
            yield f"{self.prefix}/{name}:{number}", row

    def document(self, row: dict[str, Any], place: str) -> Document:
        """A row of the data set."""
        self.require_fields(row, place)
        return self.of_fields(row, place)

    def refuse(self, name: str, error: Exception) -> StageError:
        """Whatever stops the reading."""
        source = self.source
        return StageError(
            f"{self.where}: {source.name!r} at commit {source.revision} can't be read from the Hugging Face Hub "
            f"({type(error).__name__}: {error}); it takes a network, HF_HUB_OFFLINE not set, and HF_TOKEN if the data "
            "set is gated. Or download it where there is a network, with `hf download --repo-type dataset "
            f"--revision {source.revision} --local-dir data/{source.name} {source.name}`, and read its files with "
            "ParquetFiles or JsonlFiles"
        )
