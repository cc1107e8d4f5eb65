"""Text written by pretrained models, in batches whose results depend on nothing but their texts and seeds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
)

from llmrecipe.engines.models import folders
from llmrecipe.engines.models.drawing import Draw
from llmrecipe.errors import StageError
from llmrecipe.recipe.augment import PLACEHOLDER, BeamSearch, HubModel, Pretrained, Sampling
from llmrecipe.recipe.kinds import Decoding

_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""What a model's generation_config.json says of its tokens: those that it begins and ends with, and never writes."""


class Writer:
    """A model that answers texts."""

    def __init__(
        self,
        model: Pretrained,
        *,
        where: str,
        decoding: Decoding,
        max_new_tokens: int,
        device: torch.device,
        prompt: str = PLACEHOLDER,
    ) -> None:
        """
        Args:
            model: a folder or a model of the hub.
            where: its place in the section, for messages.
            decoding: how it writes.
            max_new_tokens: most tokens of an answer.
            device: where it works.
            prompt: what it is asked, with a placeholder for the text.

        Raises:
            StageError: it can't be loaded, or has no place for so many new tokens.
        """
        self._decoding, self._max_new_tokens, self._prompt = decoding, max_new_tokens, prompt
        name, options = _address(model)
        try:
            self.config = AutoConfig.from_pretrained(name, **options)
            self.is_causal = not self.config.is_encoder_decoder
            side = "left" if self.is_causal else "right"
            self._tokenizer = AutoTokenizer.from_pretrained(name, padding_side=side, **options)
            # In bfloat16 a CPU is many times slower.
            dtype = torch.float32 if device.type == "cpu" else "auto"
            architecture = AutoModelForCausalLM if self.is_causal else AutoModelForSeq2SeqLM
            self._model = folders.load_weights(architecture, name, dtype=dtype, **options).to(device)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise StageError(f"{where}: transformers can't load {name}: {reason}{_way_out(model)}") from error
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        published = self._model.generation_config
        # How it writes is in the recipe; and a forced end would make a text look finished that isn't.
        defaults = GenerationConfig(**{name: getattr(published, name, None) for name in _TOKENS})
        self._model.generation_config = defaults
        ends = defaults.eos_token_id if defaults.eos_token_id is not None else self._tokenizer.eos_token_id
        self._ends = torch.tensor(ends, device=device).reshape(-1)
        # A model with relative positions has no such number, and a tokenizer that wasn't told a huge one.
        positions = getattr(self.config, "max_position_embeddings", None) or sys.maxsize
        longest = min(positions, self._tokenizer.model_max_length)
        self._room = longest - max_new_tokens if self.is_causal else longest
        if longest <= max_new_tokens:
            raise StageError(
                f"{where}: {name} has {longest} positions, too few for max_new_tokens = {max_new_tokens}; use at most "
                f"{longest // 2}"
            )

    def check_room(self, piece_tokens: int, where: str) -> None:
        """Refuse pieces that are too long.

        Raises:
            StageError: a piece of so many tokens doesn't fit the model's positions.
        """
        room = self._room - self.lengths([""])[0]
        if piece_tokens > room:
            besides = f"the prompt and max_new_tokens = {self._max_new_tokens}" if self.is_causal else "the prompt"
            raise StageError(
                f"{where}.piece_tokens: {piece_tokens} is more than the model takes besides {besides}; use at most "
                f"{room}"
            )

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of the prompt with each of `texts`."""
        return [len(ids) for ids in self._encode(texts)]

    def text_lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each of `texts` alone."""
        if not texts:
            # A fast tokenizer fails on no text at all.
            return []
        return [len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    @torch.inference_mode()
    def answer(self, texts: Sequence[str], seeds: Sequence[int]) -> tuple[list[str | None], int]:
        """What the model writes for each of `texts`, and how many tokens that took.

        Args:
            texts: the batch; together they decide about padding, and so about rounding.
            seeds: for each the seed of what is drawn.

        Returns:
            None for a text that is too long for the model, or whose answer hasn't ended in time.
        """
        encoded = self._encode(texts)
        fitting = [index for index, ids in enumerate(encoded) if len(ids) <= self._room]
        answers: list[str | None] = [None] * len(texts)
        if not fitting:
            return answers, 0
        batch = self._tokenizer.pad({"input_ids": [encoded[index] for index in fitting]}, return_tensors="pt")
        batch = batch.to(self._model.device)
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": self._max_new_tokens}
        match self._decoding:
            case Sampling():
                options["num_beams"] = 1
                generators = [np.random.default_rng(seeds[index]) for index in fitting]
                drawn = Draw(generators, self._decoding.temperature, self._decoding.top_p)
                options["logits_processor"] = LogitsProcessorList([drawn])
            case BeamSearch():
                options["num_beams"] = self._decoding.beams
        written = self._model.generate(**batch, pad_token_id=self._tokenizer.pad_token_id, **options)
        # A sequence-to-sequence model's begins with a token of its own.
        written = written[:, batch["input_ids"].shape[1] if self.is_causal else 1 :]
        is_end = torch.isin(written, self._ends)
        lengths = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, written.shape[1])
        for index, row, ended in zip(fitting, written, is_end.any(1).tolist(), strict=True):
            if ended:
                answers[index] = self._tokenizer.decode(row, skip_special_tokens=True).strip()
        return answers, int(lengths.sum())

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        asked = [self._prompt.replace(PLACEHOLDER, text) for text in texts]
        if self._tokenizer.chat_template is None:
            return self._tokenizer(asked, verbose=False)["input_ids"]
        chats = [[{"role": "user", "content": content}] for content in asked]
        asked = self._tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        # The template has them already.
        return self._tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]


def _address(model: Pretrained) -> tuple[str | Path, dict[str, Any]]:
    """What `from_pretrained` needs to find a model, and to run no code of its own.

    A plan names a model that is made here by its folder.
    """
    if isinstance(model, HubModel):
        return model.name, {"revision": model.revision, "trust_remote_code": False}
    return Path(cast(str, model)), {"local_files_only": True, "trust_remote_code": False}


def _way_out(model: Pretrained) -> str:
    if isinstance(model, HubModel):
        return "; where there is no hub, download the model elsewhere and name its folder in place of HubModel(…)"
    return ""
