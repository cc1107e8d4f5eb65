"""No document calibrates or teaches that is measured on: of a corpus, and of mixtures that share theirs."""

import json
import re
from pathlib import Path

import attrs
import pytest
from corpora import read_documents, run, write_jsonl
from tiny_distillation import section as distillation
from tokenizers import Tokenizer

from llmrecipe import Fraction, clean, source
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.evaluation.heldout import heldout_texts
from llmrecipe.engines.finetuning.distillation.batches import Reader, heldout_batches, training_batches
from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.recipe.tokenizer import ByteLevelBPE
from llmrecipe.sections import MixSection, PrepareSection, TokenizerSection, TokenizeSection

LENGTH = 16

NAME = re.compile(r"<([a-z]+\d+)>")


def text(name: str) -> str:
    """A document that says its name again and again, so a few tokens of it tell which it is."""
    return f"<{name}> " * 12


def texts(corpus: str, first: int, last: int) -> list[str]:
    return [text(f"{corpus}{number}") for number in range(first, last)]


NEWS = source.JsonlFiles(paths=("news.jsonl",))
TALES = source.JsonlFiles(paths=("tales.jsonl",))
TEST = source.JsonlFiles(paths=("test.jsonl",))

QUARTER = Fraction(0.25)

# Some documents are there three times, and the tales hold some of the news and of the test.
WRITTEN = {
    "news": texts("news", 0, 40) + 2 * texts("news", 0, 12),
    "tales": texts("tale", 0, 30) + texts("news", 20, 40) + 3 * texts("test", 0, 4),
    "test": texts("test", 0, 10),
}

CORPORA = {
    "news": PrepareSection(source=NEWS, clean=(), heldout=QUARTER, shards=2),
    "once": PrepareSection(source=NEWS, clean=(clean.ExactDedup(),), heldout=QUARTER, shards=2),
    "tales": PrepareSection(source=TALES, clean=(clean.FixUnicode(), clean.ExactDedup()), heldout=QUARTER, shards=3),
    "tested": PrepareSection(source=TALES, clean=(), heldout=TEST, shards=2),
}

TEXTS = {
    "a corpus": {"news": 1.0},
    "a corpus without equals": {"once": 1.0},
    "a source that is held out": {"tested": 1.0},
    "a mixture": {"news": 1.0, "tales": 1.0},
    "the same with other weights": {"news": 1.0, "tales": 9.0},
    "one without equals": {"once": 5.0, "tales": 1.0},
}


@attrs.frozen
class Project:
    """Texts as the stages leave them."""

    folder: Path
    vocabulary: Tokenizer
    documents: dict[str, Path]
    tokens: dict[str, Path]

    def opened(self, mixed: dict[str, float]) -> Tokens:
        """A corpus, or a mixture of those by name."""
        if len(mixed) == 1:
            return Tokens.of({"tokens": self.tokens[next(iter(mixed))]})
        parts = {f"tokens.{name}": self.tokens[name] for name in mixed}
        made = run(
            "mix",
            MixSection(shares=tuple(mixed.values())),
            self.folder / f"mix{len(list(self.folder.iterdir()))}",
            inputs=parts,
        )
        return Tokens.of(parts | {"mixture": made.output / "mixture"})

    def split(self, mixed: dict[str, float], split: str) -> set[str]:
        """The names of a split's documents, read with nothing of the project."""
        found = (row["text"] for name in mixed for row in read_documents(self.documents[name], split))
        return {name for each in found for name in NAME.findall(each)}

    def named(self, rows) -> set[str]:
        """The names in rows of tokens."""
        return {name for row in rows for name in NAME.findall(self.vocabulary.decode(list(map(int, row))))}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, each in WRITTEN.items():
            write_jsonl(folder / f"{name}.jsonl", each)
        documents = {
            name: run("prepare", section, folder / name).output / "documents" for name, section in CORPORA.items()
        }
        trained = run(
            "tokenizer",
            TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=300)),
            folder / "bpe",
            inputs={"documents": documents["tales"]},
        )
        tokenizer = trained.output / "tokenizer"
        tokens = {
            name: run(
                "tokenize", TokenizeSection(), folder / name, inputs={"documents": each, "tokenizer": tokenizer}
            ).output
            / "tokens"
            for name, each in documents.items()
        }
    return Project(folder, Tokenizer.from_file(str(tokenizer / "tokenizer.json")), documents, tokens)


def calibrating(project: Project, text: Tokens) -> set[str]:
    """The documents of which every sequence that can calibrate consists."""
    tokens = text.open("train")
    fewest = min(
        files.num_windows(LENGTH) / share for files, share in zip(tokens.corpora, tokens.fractions, strict=True)
    )
    chosen = CalibrationText(tokens=tokens, sequence_length=LENGTH, samples=int(fewest), seed=0)
    return project.named([*chosen.sequences(), *chosen.one()])


def reader(text: Tokens, split: str) -> tuple[Reader, Job]:
    what = distillation()
    job = Job(
        section=what,
        network=what.network,
        objective=CausalLM(sequence_length=LENGTH),
        machine=Machine(device="cpu"),
        name="taught-distil",
        modules=(),
        tokens=tuple(map(str, text.directories.values())),
        shares=text.shares,
        student=None,
        teacher="teacher",
        predictions=None,
        vocab_size=300,
        end_of_text_id=0,
        keep_zeros=False,
        state="state",
        events="events",
    )
    return Reader.of(job, split), job


def teaching(project: Project, text: Tokens) -> set[str]:
    """The documents of a run that reads every corpus more than once."""
    batches, tokens = training_batches(*reader(text, "train"), rank=0), text.open("train")
    steps = int(tokens.num_windows(LENGTH) / min(tokens.fractions))
    return project.named(row for _ in range(steps) for row in next(batches)["input_ids"])


def measured(project: Project, text: Tokens) -> set[str]:
    """The documents of which everything consists that is held out to be measured on, also on the way."""
    windows = text.open("heldout").num_windows(LENGTH)
    read = heldout_texts(text, 10 * windows, LENGTH)
    on_the_way = (row for batch, _ in heldout_batches(*reader(text, "heldout"), rank=0) for row in batch["input_ids"])
    return project.named(part.window(index) for part in read for index in range(part.num_windows)) | project.named(
        on_the_way
    )


@pytest.mark.parametrize("mixed", TEXTS.values(), ids=TEXTS)
def test_what_calibrates_and_teaches_is_not_what_is_measured_on(project, mixed):
    text = project.opened(mixed)
    learned, taught, on = calibrating(project, text), teaching(project, text), measured(project, text)
    assert not (learned | taught) & on
    # All of both splits is read, so nothing is apart by chance.
    assert on == project.split(mixed, "heldout")
    assert taught == project.split(mixed, "train")
    assert len(learned) > 10
    everything = {name for part in mixed for name in project.split({part: 1.0}, "train")} | on
    assert everything == taught | on


def test_what_one_mixture_teaches_is_not_what_another_of_the_same_corpora_measures(project):
    each, lessons = (project.opened(TEXTS[name]) for name in ("a mixture", "the same with other weights"))
    assert not (calibrating(project, each) | teaching(project, lessons)) & measured(project, each)
    assert not teaching(project, project.opened({"tales": 1.0})) & measured(project, each)
    assert not teaching(project, each) & measured(project, project.opened({"once": 1.0}))


def test_documents_of_both_corpora_and_of_the_test_are_in_what_is_compared(project):
    # What the other tests rest on: without it, they would say nothing.
    for split in ("train", "heldout"):
        both = project.split({"news": 1.0}, split) & project.split({"tales": 1.0}, split)
        assert any(name.startswith("news") for name in both)
    assert {f"test{number}" for number in range(10)} == project.split({"tested": 1.0}, "heldout")
    counted = json.loads((project.folder / "tested/prepare/metrics.json").read_text())
    assert counted["dropped"]["equals_heldout"] == 12
