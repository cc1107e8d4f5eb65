"""Models to numbers and samples."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from llmrecipe import artifacts
from llmrecipe.engines.device import set_up
from llmrecipe.engines.evaluation.heldout import HeldoutText, heldout_texts
from llmrecipe.engines.evaluation.scores import CausalScore, MaskedScore, Means, PseudoScore, Score
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.recipe.evaluation import Perplexity, PseudoPerplexity, Samples
from llmrecipe.recipe.objective import CausalLM, Objective
from llmrecipe.sections import EvaluateSection
from llmrecipe.stages.runner import StageContext

REFERENCE = "dense"
"""The role of the model that the others are compared with, and so comes before them."""


def run(context: StageContext) -> None:
    """Measure every model among the inputs on the held-out split of its corpora: `dense` and what was made from it.

    `metrics.json` holds for each model `size_mb` (weights files, 1 MB = 10^6 bytes) and, if the section asks for
    perplexity, that of the objective: `perplexity` and `bits_per_byte`, or `masked_perplexity` and
    `masked_accuracy_percent`; `pseudo_perplexity`, if asked for; and, but for the dense one, `recovery_percent`. For
    scale, it holds those of the `unigram` model, which knows how often each token occurs in the training split and
    nothing else. In a mixture loss and accuracy are the means over its corpora, weighted like the training, and
    `corpora` holds the numbers of each. Where the training restarted at documents, so does the reading, so that the
    loss is that of its validation. `samples.json` holds for each model the prompts and what it makes of them.

    Recovery is this project's definition: the dense model's perplexity over the other's, in percent. 100 means that
    nothing was lost; since less perplexity is better, the ratio is the inverse of the usual one of accuracies.
    """
    section: EvaluateSection = context.section
    device = set_up(context.runtime)
    directories = context.corpora("tokens")
    heldout = TokenMixture.open(list(directories.values()), "heldout", section.weights)
    scored: list[Scored] = []
    for measure in section.measures:
        if not isinstance(measure, Samples):
            length, name = section.objective.sequence_length, measure.tag
            texts = heldout_texts(heldout, directories, measure.max_tokens, length, name)
            scored.append(Scored(_score(measure, section.objective, heldout), texts, heldout.shares))
    metrics: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    if scored:
        metrics["unigram"] = _together(each.summary("unigram", each.score.of_frequencies) for each in scored)
    for role, source in ({REFERENCE: context.inputs[REFERENCE]} | context.inputs).items():
        if source in directories.values():
            continue
        model = folders.load_model(source).to(device)
        folders.check_vocabulary(model, heldout, source)
        of_model = [each.summary(role, functools.partial(each.score.of_model, model)) for each in scored]
        metrics[role] = {"size_mb": folders.weights_bytes(source) / 1e6} | _together(of_model)
        perplexity = "perplexity" if isinstance(section.objective, CausalLM) else "masked_perplexity"
        if role != REFERENCE and perplexity in metrics[role]:
            ratio = metrics[REFERENCE][perplexity] / metrics[role][perplexity]
            metrics[role]["recovery_percent"] = 100 * ratio
        samples[role] = []
        for measure in section.measures:
            if isinstance(measure, Samples):
                tokenizer = folders.load_tokenizer(source)
                for prompt in measure.prompts:
                    completion = folders.complete(
                        model, tokenizer, prompt, measure.max_new_tokens, heldout.end_of_text_id
                    )
                    samples[role].append({"prompt": prompt, "completion": completion})
    artifacts.write_json(context.output / "metrics.json", metrics)
    artifacts.write_json(context.output / "samples.json", samples)


def _score(measure: Perplexity | PseudoPerplexity, objective: Objective, heldout: TokenMixture) -> Score:
    if isinstance(measure, PseudoPerplexity):
        return PseudoScore(vocabulary=heldout.masked_vocabulary)
    if isinstance(objective, CausalLM):
        return CausalScore(objective=objective)
    return MaskedScore(objective=objective, vocabulary=heldout.masked_vocabulary)


@attrs.frozen
class Scored:
    """A score, and the texts that it is measured on."""

    score: Score
    texts: list[HeldoutText]
    shares: Sequence[float]
    """Of each text in the mixture."""

    def summary(self, name: str, means_of: Callable[[HeldoutText], Means]) -> dict[str, Any]:
        """What a model's means over each text amount to: those of the mixture, and `corpora` if there is more than one.

        Raises:
            StageError: a loss is not finite.
        """
        means = [means_of(text) for text in self.texts]
        for each in means:
            if not math.isfinite(each["loss"]):
                raise StageError(
                    f"{name}: the loss on held-out text is {each['loss']}; the weights are broken, most often by a "
                    "learning rate that is too high"
                )
        mixed = {
            key: math.fsum(each[key] * share for each, share in zip(means, self.shares, strict=True))
            for key in means[0]
        }
        found: dict[str, Any] = self.score.summary(mixed)
        if len(means) > 1:
            each_corpus = zip(self.texts, means, strict=True)
            found["corpora"] = {text.corpus: self.score.summary(each) for text, each in each_corpus}
        return found


def _together(summaries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of all scores, and below `corpora` those of each corpus."""
    found: dict[str, Any] = {}
    for summary in summaries:
        corpora = found.get("corpora", {})
        found |= summary
        if corpora:
            found["corpora"] = {name: corpora[name] | numbers for name, numbers in summary["corpora"].items()}
    return found
