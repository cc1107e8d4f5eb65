"""Models to numbers and samples."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from llmrecipe import artifacts
from llmrecipe.engines import hf
from llmrecipe.engines.device import set_up
from llmrecipe.engines.token_files import TokenFiles
from llmrecipe.engines.token_mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.recipe.evaluation import Perplexity, Samples
from llmrecipe.sections import EvaluateSection
from llmrecipe.stages.runner import StageContext

REFERENCE = "dense"
"""The role of the model that the others are compared with, and so comes before them."""


def run(context: StageContext) -> None:
    """Measure every model among the inputs on the held-out split of its corpora: `dense` and what was made from it.

    `metrics.json` holds for each model `size_mb` (weights files, 1 MB = 10^6 bytes) and, if the section asks for
    perplexity, `perplexity`, `bits_per_byte` and, but for the dense one, `recovery_percent`; and, for scale, those of
    the `unigram` model, which knows how often each token occurs in the training split and nothing else. In a mixture
    the loss is the mean over its corpora, weighted like the training, and `corpora` holds the numbers of each. Where
    the training restarted at documents, so does the reading, so that the loss is that of its validation.
    `samples.json` holds for each model the prompts and what it makes of them.

    Recovery is this project's definition: the dense model's perplexity over the other's, in percent. 100 means that
    nothing was lost; since less perplexity is better, the ratio is the inverse of the usual one of accuracies.
    """
    section: EvaluateSection = context.section
    device = set_up(context.runtime)
    directories = context.corpora("tokens")
    heldout = TokenMixture.open(list(directories.values()), "heldout", section.weights)
    metrics: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    for role, source in ({REFERENCE: context.inputs[REFERENCE]} | context.inputs).items():
        if source in directories.values():
            continue
        model = hf.load_model(source).to(device)
        hf.check_vocabulary(model, heldout, source)
        metrics[role] = {"size_mb": hf.weights_bytes(source) / 1e6}
        samples[role] = []
        for measure in section.measures:
            match measure:
                case Perplexity(max_tokens=max_tokens):
                    texts = _texts(heldout, directories, max_tokens, section.sequence_length)
                    if "unigram" not in metrics:
                        nats = [text.unigram_nats() for text in texts]
                        metrics["unigram"] = _measures(texts, nats, heldout.shares, "unigram")
                    nats = [
                        hf.negative_log_likelihood(
                            model,
                            text.tokens,
                            text.num_windows,
                            text.sequence_length,
                            restart_at_documents=section.restart_at_documents,
                        )
                        for text in texts
                    ]
                    metrics[role] |= _measures(texts, nats, heldout.shares, role)
                    if role != REFERENCE:
                        ratio = metrics[REFERENCE]["perplexity"] / metrics[role]["perplexity"]
                        metrics[role]["recovery_percent"] = 100 * ratio
                case Samples(prompts=prompts, max_new_tokens=max_new_tokens):
                    tokenizer = hf.load_tokenizer(source)
                    for prompt in prompts:
                        completion = hf.complete(model, tokenizer, prompt, max_new_tokens, heldout.end_of_text_id)
                        samples[role].append({"prompt": prompt, "completion": completion})
    artifacts.write_json(context.output / "metrics.json", metrics)
    artifacts.write_json(context.output / "samples.json", samples)


@attrs.frozen(kw_only=True, slots=False)
class HeldoutText:
    """What a perplexity is measured on: the first windows of the held-out split of a corpus."""

    corpus: str
    """The corpus's name; empty if it is no part of a mixture."""

    directory: Path
    """Its tokens artifact."""

    tokens: TokenFiles
    num_windows: int
    sequence_length: int

    @property
    def num_targets(self) -> int:
        """Every token of the windows but the very first is a target once, end-of-text tokens included."""
        return self.num_windows * self.sequence_length

    @cached_property
    def target_counts(self) -> np.ndarray:
        """How often each token of the vocabulary is a target, `int64[vocab_size]`."""
        counts = np.zeros(self.tokens.vocab_size, dtype=np.int64)
        for index in range(self.num_windows):
            window = self.tokens.window(index, self.sequence_length)
            counts += np.bincount(window[1:], minlength=len(counts))
        return counts

    @property
    def bytes_per_target(self) -> float:
        """Bytes (UTF-8) of the split's text × the share of its text tokens that are targets, by target.

        A text token is any but end-of-text, which stands for no byte.
        """
        text_targets = self.num_targets - int(self.target_counts[self.tokens.end_of_text_id])
        text_tokens = self.tokens.num_tokens - self.tokens.num_documents
        return self.tokens.text_bytes * text_targets / text_tokens / self.num_targets

    def unigram_nats(self) -> float:
        """The loss over all targets of the training split's token frequencies, each count raised by one (Laplace)."""
        counts = TokenFiles.open(self.directory, "train").token_counts() + 1
        return float(-(self.target_counts * np.log(counts / counts.sum())).sum())


def _texts(
    heldout: TokenMixture, directories: dict[str, Path], max_tokens: int, sequence_length: int
) -> list[HeldoutText]:
    """Of each corpus as many whole windows as its share of `max_tokens` allows and its split has.

    Raises:
        StageError: there is none, or nothing in it but empty documents.
    """
    texts = []
    shares = heldout.divide(max_tokens // sequence_length)
    for (corpus, directory), tokens, share in zip(directories.items(), heldout.corpora, shares, strict=True):
        if share == 0:
            raise StageError(
                f"perplexity.max_tokens: {max_tokens} is less than one sequence of {sequence_length} tokens for each "
                f"corpus; use {math.ceil(1 / min(heldout.shares)) * sequence_length} or more"
            )
        num_windows = min(tokens.num_windows(sequence_length), share)
        if num_windows == 0 or tokens.text_bytes == 0:
            raise StageError(
                f"{directory}: the held-out split has {tokens.num_tokens} tokens for {tokens.text_bytes} bytes of "
                f"text, too little for one sequence of {sequence_length}; use more text or a larger "
                "corpus.heldout_fraction"
            )
        texts.append(
            HeldoutText(
                corpus=corpus,
                directory=directory,
                tokens=tokens,
                num_windows=num_windows,
                sequence_length=sequence_length,
            )
        )
    return texts


def _measures(texts: list[HeldoutText], nats: list[float], shares: Sequence[float], name: str) -> dict[str, Any]:
    """What a model's losses over all targets of each corpus, in nats, amount to.

    `perplexity` = exp(loss), where loss is the mean of nats / targets over the corpora, weighted by their shares.

    `bits_per_byte` = loss / ln 2 / bytes, where bytes is the weighted mean of the bytes by target. The cost of an
    end-of-text token is counted, because a text isn't known before its end is. Of a text read whole, this is the
    length in bits of the text compressed by the model over the length of the text, and doesn't depend on the tokenizer.

    Raises:
        StageError: a loss is not finite.
    """
    losses = [loss / text.num_targets for text, loss in zip(texts, nats, strict=True)]
    sizes = [text.bytes_per_target for text in texts]
    for loss in losses:
        if not math.isfinite(loss):
            raise StageError(
                f"{name}: the loss on held-out text is {loss}; the weights are broken, most often by a learning rate "
                "that is too high"
            )
    found: dict[str, Any] = _perplexity(_mean(losses, shares), _mean(sizes, shares))
    if len(texts) > 1:
        found["corpora"] = {
            text.corpus: _perplexity(loss, size) for text, loss, size in zip(texts, losses, sizes, strict=True)
        }
    return found


def _mean(values: Sequence[float], shares: Sequence[float]) -> float:
    return math.fsum(value * share for value, share in zip(values, shares, strict=True))


def _perplexity(loss: float, bytes_per_target: float) -> dict[str, Any]:
    return {"perplexity": math.exp(loss), "bits_per_byte": loss / math.log(2) / bytes_per_target}
