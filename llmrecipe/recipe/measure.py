"""What is measured of a model."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe import kinds
from llmrecipe.recipe.chat_tasks import PASSED
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Model, Objective, Text
from llmrecipe.recipe.schema import UNWRITTEN, FieldError, Word, define, kind
from llmrecipe.recipe.validators import at_least, between, greater_than, no_duplicates, not_empty

RECOVERY = ("recovery_percent", "recovery_by", "recovery_low_percent", "recovery_high_percent", "recovery_documents")
"""What a comparison says of how much of a reference's quality a model has."""

RECOVERIES = "recoveries"
"""Where it says the same of numbers that are no perplexity, by their names."""

UNBOUNDED = "recovery_is_unbounded"
"""What it says of a model that has nothing of what should be little, where the reference has some."""

OF_RUN = ("tokens_per_second", "peak_memory_mb", "bits_per_weight")
"""What `llmrecipe compare` adds."""

TAKEN = ("model", "unigram", "corpora", "size_mb", RECOVERIES, *RECOVERY, *OF_RUN)
"""What a comparison says of a model besides its measures."""


LAYERS = "layers.jsonl"
"""What a measure of layers leaves of each layer."""

DOCUMENTS = "documents.jsonl"
"""What a measure of tokens leaves of each document."""

SCORES = "scores.json"
"""What a measure that scores documents leaves: by the name of a score, whether `higher` or `lower` is `better`, and
that of each of the `documents` in turn."""


ERRORS = "errors.jsonl"
"""What a measure of a task leaves of the worst answers."""

TASK_FILES = "tasks"
"""The role of the folder in which a measure finds tasks of lm-eval."""

ANSWERS = "answers.svg"
"""The picture that it leaves."""


def _free(owner: object, attribute: attrs.Attribute, value: str | None) -> None:
    if value in TAKEN:
        raise FieldError(owner, "name", f"{value!r} has a meaning of its own in a report; use another name")


__all__ = [
    "LMEval",
    "LayerErrors",
    "Perplexity",
    "PseudoPerplexity",
    "Samples",
    "Task",
]


@kind
class Measure(Word):
    """What is measured of a model, on held-out text; one stage for each model and text."""

    given_name: str | None = attrs.field(default=None, alias="name", validator=_free, metadata=UNWRITTEN)
    """What it is called after the model's name, `small-code-perplexity`; its tag unless given."""

    text: Text | None = attrs.field(default=None, metadata=UNWRITTEN)
    """The text whose held-out split it is measured on; None for the one that the models were trained on."""

    reads_text: ClassVar[bool] = True
    """Whether it reads held-out text at all."""

    reads_parent: ClassVar[bool] = False
    """Whether it compares a model layer by layer with the one that it was made from, and reads that too; models that
    don't compare so are left out."""

    reads_examples: ClassVar[bool] = False
    """Whether it reads the examples of the task that a model has learned; models without are left out."""

    files: ClassVar[tuple[str, ...]] = ()
    """Files that its stage leaves next to `metrics.json`."""

    pictures: ClassVar[tuple[str, ...]] = ()
    """Files of it that `dvc plots show` draws."""

    @property
    def name(self) -> str:
        """What it is called after the model's name."""
        return self.given_name or self.tag

    @property
    def inputs(self) -> Mapping[str, str]:
        """What it reads of the project besides what stages make: paths by role."""
        return {}

    @property
    def on_inputs(self) -> "Measure":
        """This measure as its stage has it: its name, its text and where its inputs lie are nothing of it."""
        return evolve(self, text=None, name=None)

    def is_of(self, model: Model) -> bool:
        """Whether it is taken of a model at all."""
        if not (model.task is not None if self.reads_examples else model.predicts_text):
            return False
        return not self.reads_parent or model.compares_by_layer

    def misfit(self, objective: Objective) -> str | None:
        """Why it says nothing of a model with this objective, and what to do; None if it does."""
        return None

    def too_few_tokens(self, sequence_length: int, smallest_share: float) -> str | None:
        """Why it reads less than a sequence of each corpus, and what would do; None if it reads enough."""
        return None


@kind
class TextMeasure(Measure):
    """A measure that reads the first tokens of a held-out split."""

    max_tokens: int = attrs.field(default=100_000, validator=between(1, 10**12))
    """Held-out tokens that are read, from the start of the split."""

    def too_few_tokens(self, sequence_length: int, smallest_share: float) -> str | None:
        """Why it reads less than a sequence of each corpus, and what would do; None if it reads enough."""
        if self.max_tokens < sequence_length:
            return (
                f"{self.max_tokens} is less than one sequence of sequence_length = {sequence_length}; use at least "
                f"{sequence_length}"
            )
        least = sequence_length * math.ceil(1 / smallest_share)
        if self.max_tokens < least:
            return (
                f"{self.max_tokens} leaves the smallest part of the mixture less than one sequence of sequence_length "
                f"= {sequence_length}; use at least {least}"
            )
        return None


@kind
class TokenMeasure(TextMeasure):
    """A measure of the loss of tokens.

    `documents.jsonl` holds a line for each document that is read, in order: `corpus` (in a mixture), `id`, `tokens`
    (those predicted), `bytes` (UTF-8, those of the predicted tokens: all bytes of the text × the share of its tokens
    that are predicted, also where the tokens lost some of it) and `loss` (in nats, the sum over these tokens).
    A document that is cut by the end of what is read counts with its part. Sums of tokens and losses are those of the
    metrics.
    """

    files: ClassVar[tuple[str, ...]] = (DOCUMENTS,)


@define("perplexity")
class Perplexity(TokenMeasure):
    """How well held-out tokens are predicted, in the way that the objective predicts them.

    CausalLM: exp of the mean cross-entropy of a token, and the same in bits per byte of text. MaskedLM, MultiMaskLM:
    exp of the mean cross-entropy of a masked token, and the share of them whose likeliest token is right. Tokens are
    chosen for masking as in training, by one seed for every model, and all of them become the mask token: one that
    is left as it is would tell the answer. The two kinds of perplexity can't be compared with each other.
    """


@define("pseudo_perplexity")
class PseudoPerplexity(TokenMeasure):
    """exp of the mean cross-entropy of a held-out token when it alone is masked (Salazar et al. 2020).

    For masked objectives. Every token is predicted from all others of its sequence, so a sequence is read as often as
    it has tokens.
    """

    max_tokens: int = attrs.field(default=10_000, validator=between(1, 10**12))
    """Held-out tokens that are masked, from the start of the split; the time it takes grows with their number × the
    length of a sequence."""

    def misfit(self, objective: Objective) -> str | None:
        """Why it says nothing of a model with this objective, and what to do; None if it does."""
        if objective.is_masked:
            return None
        learned = type(objective).__name__
        return f"PseudoPerplexity masks single tokens, which {learned} doesn't learn to predict; use Perplexity"


@define("layer_errors")
class LayerErrors(TextMeasure):
    """Where a quantized model loses most, layer by layer; of the models of a recipe, those that are `Quantized`, unless
    their activations are evened out or rotated (SmoothQuant, AWQ, `rotate`), so that a layer alone says nothing.

    Each linear layer is exchanged by itself: on what it reads in the model that was quantized, how far does what it
    gives move (`output_error`), and how far what its block hands on (`stream_error`)? Both are the square of the
    difference over the square of what is right, in the mean over tokens. `layers.jsonl` has a line for each `layer`,
    with its `weights` and `bits`; `llmrecipe report` names the worst, and overrides that would help.
    """

    reads_parent: ClassVar[bool] = True

    files: ClassVar[tuple[str, ...]] = (LAYERS,)

    max_tokens: int = attrs.field(default=4_096, validator=between(1, 10**12))
    """Held-out tokens that are read, from the start of the split; each is read about eight times."""


@define("samples")
class Samples(Measure):
    """Greedy completions, for a person to read: `samples.json` lists each `prompt` with its `completion`."""

    reads_text: ClassVar[bool] = False

    files: ClassVar[tuple[str, ...]] = ("samples.json",)

    prompts: tuple[str, ...] = attrs.field(validator=not_empty)
    """What the model continues."""

    max_new_tokens: int = attrs.field(default=48, validator=between(1, 1_000_000))
    """Length of a completion."""

    def misfit(self, objective: Objective) -> str | None:
        """Why it says nothing of a model with this objective, and what to do; None if it does."""
        if not objective.is_masked:
            return None
        return f"Samples continues a text, which {type(objective).__name__} doesn't learn; remove it"


@define("task")
class Task(Measure):
    """How well a model does what it was fine-tuned for, on examples that it hasn't learned from.

    `NamedEntities`: precision, recall and F1 of whole entities (right if its words and its type are; equal to
    seqeval's) and of the tags of single words, by class and as micro and macro means. `Classification`: the same of
    labels, and `accuracy`; of scores, the mean squared error and Pearson's correlation. `QuestionAnswering`: exact
    match and F1 of words as in SQuAD (Rajpurkar et al. 2016). `Instructions`: the loss by token of known answers; of
    written ones ROUGE (Lin 2004), BLEU and chrF as sacrebleu has them, exact match and F1 as in SQuAD, and pass@k (Chen
    et al. 2021). `Preferences`: how often the chosen answer is held likelier by token. `Embeddings`: `ndcg_at_10`,
    `recall_at_1`, `recall_at_10` and `mrr` of what is right for a query among all positives of the split. Each with the
    ends of its 95 % interval, by drawing examples with replacement (Efron 1979), but for those of single classes.

    `calibration_error` says how far the share of right answers is from how likely they were held (Guo et al. 2017).
    `answers.svg` shows what was taken for what and how sure a model was, `errors.jsonl` the examples that were most
    clearly taken for something else, and `scores.json` what each example counts in the numbers that a recovery can be
    asked of.
    """

    reads_text: ClassVar[bool] = False

    reads_examples: ClassVar[bool] = True

    files: ClassVar[tuple[str, ...]] = (SCORES, ERRORS)

    pictures: ClassVar[tuple[str, ...]] = (ANSWERS,)

    split: Literal["test", "validation"] = "test"
    """Which of the task's examples: `validation` for what is still being tuned."""

    max_new_tokens: int = attrs.field(default=256, validator=between(1, 10**6))
    """Where answers are written: tokens of one at most."""

    samples: int = attrs.field(default=1, validator=between(1, 1_000))
    """Answers that are written to each question. One has the likeliest token each time; several are drawn, for the
    chance that one of them passes (pass@k); numbers other than that are of the first."""

    temperature: float = attrs.field(default=0.8, validator=greater_than(0, 1_000))
    """What logits are divided by where several answers are drawn."""

    run_code: bool = False
    """Whether answers are run as programs, with the tests that their examples have (`Instructions.tests_field`): in
    processes of their own, with limits of time and memory, without network. Linux has to permit user namespaces."""

    def scores_of(self, task: kinds.Task) -> tuple[str, ...]:
        """The numbers that each example of a task has a part in."""
        passing = tuple(f"pass_at_{k}" for k in sorted({1, self.samples})) if self.run_code else ()
        return tuple(score for score in task.scores if score != PASSED) + (passing if PASSED in task.scores else ())


@define("lmeval")
class LMEval(Measure):
    """What lm-eval asks of a causal model: tasks from YAML files of your own, on your own data.

    It needs `pip install 'llmrecipe[lmeval]'`. The numbers are those of lm-eval (`simple_evaluate`), named by task and
    metric, `capitals_acc`; where a task has filters of its own, with the filter, `sums_exact_match_strict`. Means over
    documents have the ends of their 95 % interval, by drawing documents with replacement (Efron 1979), and are scores
    that a recovery can be asked of. Other numbers, such as `word_perplexity`, BLEU and those of groups, are as they
    are.

    Nothing is fetched: a task names files in the folder (`dataset_path: json`, `dataset_kwargs: {data_files: {test:
    capitals.jsonl}}`), and a data set or a metric of the Hub is refused. Functions that a task names (`!function`) are
    run: they are your own.

    `errors.jsonl` shows what was answered wrongly: of a choice, the most clearly so first; of what the model writes,
    in the order of the documents. `scores.json` holds what each document counts.
    """

    reads_text: ClassVar[bool] = False

    files: ClassVar[tuple[str, ...]] = (SCORES, ERRORS)

    tasks: tuple[str, ...] = attrs.field(validator=[not_empty, no_duplicates])
    """Names of tasks, groups or tags, as the files have them."""

    folder: str = attrs.field(validator=not_empty)
    """The folder of the project that holds the YAML files, their data and their functions; paths in the files are meant
    from there."""

    num_fewshot: int | None = attrs.field(default=None, validator=between(0, 1000))
    """Answered examples in front of each question; None for as many as the task says. A task that says 0 keeps to
    it."""

    limit: int | None = attrs.field(default=None, validator=between(1, 10**9))
    """Documents of each task, from its start; None for all."""

    seed: int = attrs.field(default=0, validator=at_least(0))
    """Decides which examples are shown, and what is drawn where a task has the model draw."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """The folder."""
        return {TASK_FILES: self.folder}

    @property
    def on_inputs(self) -> Measure:
        """This measure as its stage has it."""
        return evolve(super().on_inputs, folder=TASK_FILES)

    def misfit(self, objective: Objective) -> str | None:
        """Why it says nothing of a model with this objective, and what to do; None if it does."""
        if not objective.is_masked:
            return None
        learned = type(objective).__name__
        return f"LMEval asks how a text goes on, which {learned} doesn't learn; remove it"
