"""The files of signatures: small in memory, and none missing unseen."""

from typing import Any

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, ExactDedupSignature, get_sig_dtype
from datatrove.utils.typeshelper import ExtensionHelperSD

from llmrecipe.engines.datatrove.companions import is_heldout
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.errors import StageError


class FileForEach:
    """Mixed into a step of datatrove's that signs: it writes a file for each finder, even an empty one."""

    finder_workers: int
    output_folder: LocalFolder

    def save_hashes(self, rank: int, signatures: Any) -> None:
        """Write the files of this task."""
        for finder in range(self.finder_workers):
            name = f"{finder:04d}/{rank:05d}{ExtensionHelperSD.stage_1_signature}"
            self.output_folder.open(name, "wb").close()
        super().save_hashes(rank, signatures)  # type: ignore[misc]


class AllSigned(PipelineStep):
    """Refuses to look for duplicates while signatures are missing: with fewer, fewer would be found."""

    type = "DEDUP"
    name = "signatures"

    def __init__(self, signatures: LocalFolder, finders: str, tasks: int) -> None:
        """
        Args:
            signatures: where they are.
            finders: the folder of each finder in there, by its number.
            tasks: how many have signed.
        """
        super().__init__()
        self.signatures, self.finders, self.tasks = signatures, finders, tasks

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Count the files as the finder will.

        Raises:
            StageError: there are fewer, or more, than tasks wrote.
        """
        folder = self.finders.format(rank)
        found = len(self.signatures.list_files(folder, glob_pattern="sig"))
        if found != self.tasks:
            raise StageError(
                f"{self.signatures.path}/{folder}: {found} of the {self.tasks} files of signatures are there, and with "
                "fewer, fewer duplicates would be found; something else has changed this folder. Delete the folder of "
                "this stage in .llmrecipe and run `dvc repro` again"
            )


class CompactSignature(FileForEach, ExactDedupSignature):
    """datatrove's step, with 14 bytes a document instead of some 200 for Python's tuples; writes the same files."""

    def __init__(self, folder: LocalFolder, config: ExactDedupConfig, *, skips_heldout: bool) -> None:
        super().__init__(folder, config)
        self.skips_heldout = skips_heldout

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Hash the documents, and write the hashes of all, sorted."""
        hashes = (
            self.get_hashes(document, index)[0]
            for index, document in enumerate(data)
            if not (self.skips_heldout and is_heldout(document))
        )
        self.save_hashes(rank, np.fromiter(hashes, get_sig_dtype(self.config.hash_config)))
