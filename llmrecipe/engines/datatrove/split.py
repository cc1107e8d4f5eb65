"""Which documents are held out: a function of their text."""

import hashlib

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from llmrecipe.engines.datatrove import companions


class SplitByHash(PipelineStep):
    """Puts each document into a split, by its text alone."""

    type = "SPLIT"
    name = "by hash of the text"

    def __init__(self, heldout_fraction: float) -> None:
        super().__init__()
        self.heldout_fraction = heldout_fraction

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The documents, each with its split."""
        for document in data:
            companions.SPLIT.put(document, split_of(document.text, self.heldout_fraction))
            yield document


def split_of(text: str, heldout_fraction: float) -> str:
    """`heldout` for about this share of all texts, else `train`; equal texts never part."""
    digest = hashlib.sha256(text.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < heldout_fraction * 2**64 else "train"
