"""Models to numbers and samples."""

import math
from pathlib import Path

import attrs
import numpy as np

from llmrecipe import artifacts
from llmrecipe.engines import hf
from llmrecipe.engines.device import set_up
from llmrecipe.engines.token_files import TokenFiles
from llmrecipe.errors import StageError
from llmrecipe.recipe.evaluation import Perplexity, Samples
from llmrecipe.sections import EvaluateSection
from llmrecipe.stages.runner import StageContext

REFERENCE = "dense"
"""The role of the model that the others are compared with, and so comes before them."""


def run(context: StageContext) -> None:
    """Measure every model among the inputs on the held-out split of `tokens`: `dense` and what was made from it.

    `metrics.json` holds for each model `size_mb` (weights files, 1 MB = 10^6 bytes) and, if the section asks for
    perplexity, `perplexity`, `bits_per_byte` and, but for the dense one, `recovery_percent`; and, for scale, those of
    the `unigram` model, which knows how often each token occurs in the training split and nothing else.
    `samples.json` holds for each model the prompts and what it makes of them.

    Recovery is this project's definition: the dense model's perplexity over the other's, in percent. 100 means that
    nothing was lost; since less perplexity is better, the ratio is the inverse of the usual one of accuracies.
    """
    section: EvaluateSection = context.section
    device = set_up(context.runtime)
    directory = context.inputs["tokens"]
    heldout = TokenFiles.open(directory, "heldout")
    metrics: dict[str, dict[str, float]] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    for role, source in ({REFERENCE: context.inputs[REFERENCE]} | context.inputs).items():
        if role == "tokens":
            continue
        model = hf.load_model(source).to(device)
        hf.check_vocabulary(model, heldout, source)
        metrics[role] = {"size_mb": hf.weights_bytes(source) / 1e6}
        samples[role] = []
        for measure in section.measures:
            match measure:
                case Perplexity(max_tokens=max_tokens):
                    text = HeldoutText.read(heldout, max_tokens, section.sequence_length, directory)
                    if "unigram" not in metrics:
                        metrics["unigram"] = text.measures(text.unigram_nats(directory), "unigram")
                    nats = hf.negative_log_likelihood(model, heldout, text.num_windows, text.sequence_length)
                    metrics[role] |= text.measures(nats, role)
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


@attrs.frozen(kw_only=True)
class HeldoutText:
    """What a perplexity is measured on: the first windows of the held-out split."""

    tokens: TokenFiles
    num_windows: int
    sequence_length: int

    @classmethod
    def read(cls, tokens: TokenFiles, max_tokens: int, sequence_length: int, directory: Path) -> "HeldoutText":
        """As many whole windows as `max_tokens` allows and the split has.

        Raises:
            StageError: there is none, or nothing in it but empty documents.
        """
        if max_tokens < sequence_length:
            raise StageError(
                f"perplexity.max_tokens: {max_tokens} is less than one sequence of {sequence_length} tokens; "
                f"use {sequence_length} or more"
            )
        num_windows = min(tokens.num_windows(sequence_length), max_tokens // sequence_length)
        if num_windows == 0 or tokens.text_bytes == 0:
            raise StageError(
                f"{directory}: the held-out split has {tokens.num_tokens} tokens for {tokens.text_bytes} bytes of "
                f"text, too little for one sequence of {sequence_length}; use more text or a larger "
                "corpus.heldout_fraction"
            )
        return cls(tokens=tokens, num_windows=num_windows, sequence_length=sequence_length)

    def measures(self, nats: float, name: str) -> dict[str, float]:
        """What a model's loss over all targets, in nats, amounts to.

        `perplexity` = exp(nats / targets), where every token of the windows but the very first is a target once,
        end-of-text tokens included.

        `bits_per_byte` = nats / ln 2 / bytes, where bytes is the split's text (UTF-8) × the share of its text tokens
        that are targets. A text token is any but end-of-text, which stands for no byte; its own cost is counted all
        the same, because a text isn't known before its end is. Read whole, this is the length in bits of the text
        compressed by the model over the length of the text, and doesn't depend on the tokenizer.

        Raises:
            StageError: the loss is not finite.
        """
        loss = nats / (self.num_windows * self.sequence_length)
        if not math.isfinite(loss):
            raise StageError(
                f"{name}: the loss on held-out text is {loss}; the weights are broken, most often by a learning rate "
                "that is too high"
            )
        targets = self.target_counts()
        text_targets = int(targets.sum() - targets[self.tokens.end_of_text_id])
        text_tokens = self.tokens.num_tokens - self.tokens.num_documents
        num_bytes = self.tokens.text_bytes * text_targets / text_tokens
        return {"perplexity": math.exp(loss), "bits_per_byte": nats / math.log(2) / num_bytes}

    def target_counts(self) -> np.ndarray:
        """How often each token of the vocabulary is a target, `int64[vocab_size]`."""
        counts = np.zeros(self.tokens.vocab_size, dtype=np.int64)
        for index in range(self.num_windows):
            window = self.tokens.window(index, self.sequence_length)
            counts += np.bincount(window[1:], minlength=len(counts))
        return counts

    def unigram_nats(self, directory: Path) -> float:
        """The loss over all targets of the training split's token frequencies, each count raised by one (Laplace)."""
        counts = TokenFiles.open(directory, "train").token_counts() + 1
        return float(-(self.target_counts() * np.log(counts / counts.sum())).sum())
