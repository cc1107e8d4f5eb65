"""Trained students to their folders."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from llmrecipe.engines.compression.quantization import save_compressed
from llmrecipe.engines.compression.saving import save_plain
from llmrecipe.engines.finetuning.learning import is_quantized, straight
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.inputs import Tokens


def probe(tokens: Tokens, sequence_length: int) -> torch.Tensor:
    """A sequence to compare what models compute by: `int64[1, sequence_length]`."""
    return folders.windows(tokens.open("train"), [0], sequence_length)[:, :-1]


def save(student: PreTrainedModel, directory: Path) -> None:
    """Write weights and configuration to `directory`: a quantized student's in the compressed-tensors format."""
    student.to("cpu")
    if is_quantized(student):
        straight().compress_when_saved(student)
        save_compressed(student, directory)
    else:
        save_plain(student, directory)
