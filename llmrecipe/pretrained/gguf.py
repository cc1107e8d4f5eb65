"""Headers of GGUF files, in transformers' terms."""

from pathlib import Path

from llmrecipe.pretrained.contents import Contents


def contents_of(place: Path) -> Contents:
    """What is in a GGUF file, with everything that is wrong with it; a file that isn't one has no tensors."""
    raise NotImplementedError
