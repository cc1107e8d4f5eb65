"""Models with the head of a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe import cards
from llmrecipe.cards import ModelCard, TaskCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.vocabulary import check_embeddings
from llmrecipe.engines.tasks.classification import ClassificationWork
from llmrecipe.engines.tasks.embeddings import EmbeddingsWork
from llmrecipe.engines.tasks.instructions import InstructionsWork
from llmrecipe.engines.tasks.named_entities import NamedEntitiesWork
from llmrecipe.engines.tasks.preferences import PreferencesWork
from llmrecipe.engines.tasks.question_answering import QuestionAnsweringWork
from llmrecipe.engines.tasks.work import Work
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Task
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.task import CASES, Classification, Embeddings

_WORKS: dict[str, type[Work[Any]]] = {
    each.tag: each
    for each in (
        NamedEntitiesWork,
        ClassificationWork,
        InstructionsWork,
        PreferencesWork,
        QuestionAnsweringWork,
        EmbeddingsWork,
    )
}

_POOLER = ".pooler."
"""What some encoders have below the head and leave out where they predict text."""

_DECIDING = ("classifier.", "score.", "qa_outputs.")
"""What transformers calls the layer that decides."""


def card_of(task: Task, labels: tuple[str, ...], network: Network) -> TaskCard:
    """What a model's card says of a task that it learns; of vectors, how this network gives them."""
    pooling = task.pooling(network) if isinstance(task, Embeddings) else None
    return TaskCard(task=task.on_examples, labels=labels, pooling=pooling)


def work_of(card: TaskCard, tokenizer: PreTrainedTokenizerBase) -> Work[Any]:
    """A task, for a model with this card and tokenizer.

    Raises:
        StageError: nothing knows the task.
    """
    tag = card.task.tag
    if tag not in _WORKS:
        raise StageError(f"nothing does the task {tag!r}; known: {', '.join(_WORKS)}")
    return _WORKS[tag](card, tokenizer)


def with_head(start: Path, work: Work[Any], *, seed: int, dropout: float | None) -> PreTrainedModel:
    """The model in `start` with the head for a task, in float32, on the CPU.

    What both have is the start's, but for the layer that decides, which is drawn; so is the pooler of an encoder below
    it, unless the start has one. The head that predicts text is the start's, too.

    Raises:
        StageError: transformers has no such head for this network, or it is quantized.
    """
    source, known = folders.load_model(start), cards.read(start, ModelCard)
    check_embeddings(start, known, source)
    if hasattr(source.config, "quantization_config"):
        raise StageError(f"{start}: this model is quantized, and can't learn; start from the one that it was made from")
    config = _config(start, work, dropout)
    auto = getattr(transformers, f"AutoModelFor{work.head}" if work.head else "AutoModel")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            drawn: Any = auto.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise StageError(f"{start}: transformers has no {work.head} for this network: {error}") from error
    own, weights = drawn.state_dict(), (source if work.head else source.base_model).state_dict()
    if work.head and source.base_model is source:
        weights = {f"{drawn.base_model_prefix}.{name}": weight for name, weight in weights.items()}
    taken = {name: weight.float() for name, weight in weights.items() if _is_kept(name, weight, own)}
    body = f"{drawn.base_model_prefix}." if work.head and not work.task.keeps_text else ""
    missing = [name for name in own if name.startswith(body) and _POOLER not in f".{name}" and name not in taken]
    if missing:
        raise StageError(f"{start}: {type(drawn).__name__} has weights that it lacks: {', '.join(missing)}")
    drawn.load_state_dict(taken, strict=False)
    if not work.task.keeps_text:
        # Only now: an embedding that knows it learns nothing for the token that fills up, which ends texts as well.
        drawn.config.pad_token_id = work.fill_id
    model = cast(PreTrainedModel, drawn.eval())
    if not work.head:
        # The body's classes have it, and nothing reads it.
        for name, weight in model.named_parameters():
            weight.requires_grad_(_POOLER not in f".{name}")
    if work.task.token_types is not None and (known.task is None or known.task.task.token_types is None):
        _tell_case(model)
    return model


def _is_kept(name: str, weight: torch.Tensor, own: Mapping[str, torch.Tensor]) -> bool:
    return name in own and own[name].shape == weight.shape and not name.startswith(_DECIDING)


def _config(start: Path, work: Work[Any], dropout: float | None) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(start, local_files_only=True)
    if work.head.endswith("Classification"):
        labels = work.card.labels or ("score",)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    if isinstance(work.task, Classification):
        kind = "multi_label_classification" if work.task.answer == "several" else "single_label_classification"
        config.problem_type = kind if work.card.labels else "regression"
    if work.head == "QuestionAnswering":
        # Of beginnings and of ends; the start may have learned to tell more things apart.
        config.num_labels = 2
    if dropout is not None:
        for name, value in config.to_dict().items():
            if "dropout" in name and isinstance(value, int | float | None) and not isinstance(value, bool):
                setattr(config, name, dropout)
    return config


def _tell_case(model: PreTrainedModel) -> None:
    """Give a model a token type for each way to write a word, all of them as what it has for the first of its own."""
    embeddings: Any = model.base_model.embeddings
    known = embeddings.token_type_embeddings.weight.detach()
    table = torch.nn.Embedding(len(CASES), known.shape[1])
    table.weight.data.copy_(known[:1].expand(len(CASES), -1))
    embeddings.token_type_embeddings = table
    model.config.type_vocab_size = len(CASES)
