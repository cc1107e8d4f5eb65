"""SpinQuant as llmcompressor has it, mended. Imported when it is needed, as `modifiers` is."""

from compressed_tensors.transform import TransformScheme
from llmcompressor.modifiers.transform.spinquant import SpinQuantModifier
from transformers import PreTrainedModel

ROTATED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Classes whose layers are called and connected as llmcompressor takes those of every class to be."""


class Rotation(SpinQuantModifier):
    """SpinQuant's rotations R1 and R2 of any width, in blocks of the largest power of two that divides it."""

    def _center_embeddings(self, model: PreTrainedModel) -> None:
        """Nothing: llmcompressor would subtract means, which LayerNorm does itself, and decoders' RMSNorm doesn't."""

    def _create_r2_scheme(self, head_dim: int) -> TransformScheme:
        return super()._create_r2_scheme(block_of(head_dim))


def block_of(width: int) -> int:
    """The largest power of two that divides a width: of that there is a Hadamard matrix."""
    return width & -width
