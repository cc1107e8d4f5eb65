"""Models in the transformers format: loading, saving, measuring and sampling them."""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models import published
from llmrecipe.engines.models.architecture import architecture_of_model
from llmrecipe.engines.tokenizing.folders import copy_files, load
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.packing import PackedDocuments
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere

log = logging.getLogger(__name__)

GENERATION_FILE = "generation_config.json"
"""How a model writes, unless it is told otherwise."""


_HEADS = (
    (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
)
"""transformers' classes by what they predict, but for the next token."""


def load_model(directory: Path) -> PreTrainedModel:
    """The model artifact in `directory`, on the CPU, in the number format that it is stored in, ready for inference.

    Weights in the compressed-tensors format are expanded; quantized activations stay quantized in the forward pass.

    Raises:
        StageError: it is no whole model artifact, or its weights aren't exactly those of its configuration.
    """
    artifacts.open_artifact(directory, "model")
    if elsewhere.read(directory) is not None:
        return published.load(directory, cards.read(directory, ModelCard).network)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise StageError(f"{directory}: transformers can't load this model: {error}") from error
    name = (config.architectures or [""])[0]
    auto: Any = next((auto for auto, names in _HEADS if name in names.values()), AutoModelForCausalLM)
    if name in MODEL_MAPPING_NAMES.values() and _gives_vectors(directory):
        auto = AutoModel
    model: Any = load_weights(auto, directory, dtype="auto", local_files_only=True)
    if hasattr(config, "quantization_config"):
        # Else it waits for a first pass through the whole model, and an encoder's parts are called by themselves.
        model.hf_quantizer.compressor.decompress_model(model)
        from compressed_tensors.offload import remove_dispatch

        # Else its layers compute on the CPU, wherever the model is moved to.
        remove_dispatch(model)
    loaded: PreTrainedModel = model
    return loaded


def _gives_vectors(directory: Path) -> bool:
    """Whether a model is a body alone; publishers name that also of models that have a head."""
    task = cards.read(directory, ModelCard).task
    return task is not None and task.pooling is not None


def load_weights(
    architecture: Any,
    name: Path | str,
    **options: Any,
) -> PreTrainedModel:
    """The model `name`, on the CPU and ready for inference, by the `from_pretrained` of one of transformers' auto
    classes with these options.

    Raises:
        StageError: it can't be loaded, or its weights aren't exactly those of its configuration.
    """
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = architecture.from_pretrained(name, output_loading_info=True, **options)
        model, info = loaded
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StageError(f"{name}: transformers can't load this model: {error}") from error
    # transformers would draw a missing weight at random, with no more than a warning.
    if info["missing_keys"] or info["unexpected_keys"]:
        raise StageError(
            f"{name}: its weights are not those of its config.json: missing {sorted(info['missing_keys'])}, "
            f"unexpected {sorted(info['unexpected_keys'])}"
        )
    return model.eval()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `directory`.

    Raises:
        StageError: there is none, or it can't be read.
    """
    try:
        return load(directory)
    except (OSError, ValueError) as error:
        raise StageError(f"{directory}: transformers can't load this tokenizer: {error}") from error


def save_model(model: PreTrainedModel, tokenizer_directory: Path, directory: Path) -> None:
    """Write `model` and its tokenizer to `directory`: the same weights and configuration give the same bytes.

    Files: `config.json`, `generation_config.json`, `model.safetensors` (shards and an index beyond 5 GB) and the
    tokenizer's own.
    """
    transformers_logging.disable_progress_bar()
    model.save_pretrained(directory, max_shard_size="5GB")
    copy_files(tokenizer_directory, directory)


def continued_config(start: Path, config: PretrainedConfig, *, keeps_tokens: bool) -> PretrainedConfig:
    """The configuration of what was trained further: that of its start, with what this changes.

    Args:
        start: the folder of the model that it started from.
        config: that of the same network, made anew.
        keeps_tokens: whether the numbers of the special tokens are still those of the start.
    """
    made = AutoConfig.from_pretrained(start, local_files_only=True)
    made.architectures, made.vocab_size, made.dtype = config.architectures, config.vocab_size, None
    if not keeps_tokens:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"):
            if hasattr(made, name):
                setattr(made, name, getattr(config, name, None))
    return made


def copy_generation(source: Path, directory: Path) -> None:
    """Copy how the model in `source` writes to `directory` as it is, if that is said there."""
    if (source / GENERATION_FILE).is_file():
        shutil.copyfile(source / GENERATION_FILE, directory / GENERATION_FILE)


def dtype_of(directory: Path) -> str:
    """The number format of a model's weights that aren't quantized, as its `config.json` says: `bfloat16`."""
    return str(AutoConfig.from_pretrained(directory, local_files_only=True).dtype or "float32").removeprefix("torch.")


def weights_bytes(directory: Path) -> int:
    """Size of the weights files of a model, in bytes."""
    return elsewhere.size_of(directory)


def num_weights(directory: Path) -> int:
    """Numbers in the weights files of a model that is not compressed; tied weights count once."""
    total = 0
    for path in elsewhere.files_of(directory):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def windows(tokens: TokenFiles | TokenMixture, indices: Sequence[int], sequence_length: int) -> torch.Tensor:
    """Windows of a split as `int64[len(indices), sequence_length + 1]`."""
    rows = [tokens.window(index, sequence_length) for index in indices]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.inference_mode()
def logits(model: PreTrainedModel, token_ids: torch.Tensor, documents: PackedDocuments | None = None) -> torch.Tensor:
    """Logits of every next token, `float32[batch, length, vocab_size]`, after each of `token_ids[batch, length]`.

    Each of `documents` is read by itself; None reads every sequence as one document.
    """
    # transformers keeps attention within what positions say is one document.
    positions = documents.positions if documents else None
    return predicted(model(input_ids=token_ids, position_ids=positions, use_cache=False)).float()


def predicted(outputs: Any) -> torch.Tensor:
    """What a model of any head gives: its logits, those of beginnings and ends side by side, or its last states."""
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], -1)
    found: torch.Tensor = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    return found


def largest_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference, as a share of the largest absolute value expected."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def masked_logits(
    model: PreTrainedModel, token_ids: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """An encoder's logits for some places of `token_ids[batch, length]` alone, `float32[places, vocab_size]`.

    Place `i` is `positions[i]` in sequence `rows[i]`.
    """
    states = model.base_model(input_ids=token_ids).last_hidden_state
    # As one sequence: compressed-tensors scales activations by token only where there are three dimensions.
    states = states[rows, positions][None]
    return architecture_of_model(model).masked_logits(model, states)[0].float()


@torch.inference_mode()
def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int, end_of_text_id: int
) -> str:
    """What the model adds to `prompt`, taking the likeliest token each time, until the text ends.

    Raises:
        StageError: the prompt holds no token.
    """
    encoded = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    length = encoded["input_ids"].shape[1]
    if length == 0:
        raise StageError(f"the prompt {prompt!r} holds no token to continue from; give it some text")
    generator: Any = model
    published = generator.generation_config
    # What a model is published with, such as a penalty for repetitions, would go for all that a call leaves open.
    generator.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end_of_text_id, pad_token_id=end_of_text_id
    )
    try:
        generated = generator.generate(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
    finally:
        generator.generation_config = published
    positions = getattr(generator.config, "max_position_embeddings", None)
    if positions and generated.shape[1] > positions:
        log.warning(
            "max_new_tokens = %d: the prompt %r and what follows it have %d tokens, and the model reads at most %d; "
            "what it wrote beyond them means little",
            max_new_tokens,
            prompt,
            generated.shape[1],
            positions,
        )
    return continuation(tokenizer, generated[0].tolist(), length)


def continuation(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], length: int) -> str:
    """What the tokens after the first `length` add to their text, the space before their first word included.

    Tokenizers like SentencePiece's take the first space of whatever they decode for their own.
    """

    def text(part: Sequence[int]) -> str:
        # What is tidied up, such as the space before a comma, would differ by what comes next.
        return str(tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before, whole = text(tokens[:length]), text(tokens)
    # Bytes that are no text spoil those of the prompt that they follow.
    return whole.removeprefix(before) if whole.startswith(before) else text(tokens[length:])
