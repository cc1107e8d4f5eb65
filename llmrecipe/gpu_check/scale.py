"""How large everything is: for a GPU, and in small for a dry run on a CPU."""

from typing import Any, Literal

import attrs

from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.quantity import Steps
from llmrecipe.recipe.schedule import Cosine
from llmrecipe.recipe.source import TextFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE
from llmrecipe.recipe.training import Training

Precision = Literal["float32", "bfloat16", "float8"]


@attrs.frozen(kw_only=True)
class Case:
    """A training: a network, and what it reads at a step."""

    name: str
    """For tables."""

    network: Llama
    vocab_size: int
    sequence_length: int

    sequences: int
    """Sequences of a step."""

    micro_batch: int
    """Of them at once."""

    precision: Precision = "bfloat16"
    recompute: bool = False
    steps: int = 10

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.sequences * self.sequence_length

    def model(self, **parallelism: Any) -> Trained:
        """The case as a recipe has it; what it would be made from is never read."""
        return Trained(
            name="check",
            start=self.network,
            text=Corpus(name="made", source=TextFiles(paths=("data/*.txt",))),
            tokenizer=ByteLevelBPE(vocab_size=self.vocab_size),
            objective=CausalLM(sequence_length=self.sequence_length),
            training=Training(
                duration=Steps(self.steps),
                global_batch_size=self.sequences,
                optimizer=AdamW(learning_rate=1e-3),
                schedule=Cosine(warmup=Steps(2)),
                precision=self.precision,
                validation_sequences=1,
                seed=1,
            ),
            parallelism=Parallelism(
                micro_batch_size=self.micro_batch, recompute_activations=self.recompute, **parallelism
            ),
        )


@attrs.frozen(kw_only=True)
class Scale:
    """The trainings of all parts."""

    device: Literal["cuda", "cpu"]

    small: Case
    """Trained on the device and on the CPU, and over several ranks."""

    precisions: tuple[Precision, ...]
    """In which it is trained on both."""

    layouts: tuple[Literal["data", "tensor", "pipeline"], ...]
    """By which two ranks share it."""

    exact: Case
    """Trained twice and interrupted; in large enough pieces that sums on a GPU meet in any order, if they may."""

    machines: tuple[Machine, ...]
    """Those that it is trained on."""

    memory: tuple[Case, ...]
    """Whose peak is measured."""

    large: Case
    """Whose speed is measured."""

    micro_batches: tuple[int, ...]
    """With as many sequences at once."""

    new_tokens: int
    """Written by a quantized model."""

    @property
    def machine(self) -> Machine:
        """The machine of a part that doesn't ask for another; no checkpoint but the last."""
        return Machine(device=self.device, checkpoint_interval=10**9, log_level="warning")


_SMALL = Llama(hidden_size=256, num_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=768)
_MIDDLE = Llama(hidden_size=512, num_layers=8, num_attention_heads=8, num_key_value_heads=4)
_WIDE = Llama(hidden_size=1024, num_layers=16, num_attention_heads=16, num_key_value_heads=4)
_BILLION = Llama(
    hidden_size=2048,
    num_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=8192,
    tie_word_embeddings=True,
)


def _of_memory(name: str, network: Llama, micro_batch: int, vocab_size: int = 32_000, **fields: Any) -> Case:
    return Case(
        name=name,
        network=network,
        vocab_size=vocab_size,
        sequence_length=2048,
        sequences=2 * micro_batch,
        micro_batch=micro_batch,
        **fields,
    )


_SMALL_CASE = Case(
    name="small",
    network=_SMALL,
    vocab_size=512,
    sequence_length=256,
    sequences=8,
    micro_batch=4,
    precision="float32",
)

ON_GPU = Scale(
    device="cuda",
    small=_SMALL_CASE,
    precisions=("float32", "bfloat16"),
    layouts=("data", "tensor", "pipeline"),
    exact=Case(
        name="exact",
        network=evolve(_MIDDLE, num_layers=4),
        vocab_size=4096,
        sequence_length=1024,
        sequences=8,
        micro_batch=4,
        steps=20,
    ),
    machines=(
        Machine(device="cuda", checkpoint_interval=5, log_level="warning"),
        Machine(device="cuda", checkpoint_interval=5, log_level="warning", deterministic=False),
    ),
    memory=(
        _of_memory("8 layers × 512", _MIDDLE, 8),
        _of_memory("8 layers × 512", _MIDDLE, 8, precision="float32"),
        _of_memory("16 layers × 1024", _WIDE, 1),
        _of_memory("16 layers × 1024", _WIDE, 4),
        _of_memory("16 layers × 1024", _WIDE, 8),
        _of_memory("16 layers × 1024", _WIDE, 8, recompute=True),
        _of_memory("16 layers × 1024", _WIDE, 2, precision="float32", recompute=True),
        _of_memory("16 layers × 1024", _WIDE, 2, vocab_size=128_256),
    ),
    large=Case(
        name="1B",
        network=_BILLION,
        vocab_size=128_256,
        sequence_length=4096,
        sequences=8,
        micro_batch=4,
    ),
    micro_batches=(1, 2, 4, 8),
    new_tokens=64,
)

_TINY = Case(
    name="tiny",
    network=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=192),
    vocab_size=320,
    sequence_length=64,
    sequences=4,
    micro_batch=2,
    precision="float32",
)

DRY = Scale(
    device="cpu",
    small=_TINY,
    precisions=("bfloat16",),
    layouts=("tensor",),
    exact=attrs.evolve(_TINY, steps=20),
    machines=(Machine(device="cpu", checkpoint_interval=5, log_level="warning"),),
    memory=(_TINY,),
    large=_TINY,
    micro_batches=(2,),
    new_tokens=4,
)
"""A little of everything, within a minute or two: what they say of speed and memory means nothing."""
