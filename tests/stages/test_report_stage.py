"""Comparing says what the measurements say, and how much of the reference each model has kept."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import tiny_model

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.errors import StageError
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.objective import CausalLM, MaskedLM
from llmrecipe.sections import ReportSection
from llmrecipe.stages import report

CARD = ModelCard(
    network=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
    objective=CausalLM(sequence_length=32),
    vocab_size=320,
    end_of_text_id=0,
    tokenizer="a" * 64,
    made_by="export",
    parents={},
)
ENCODER = attrs.evolve(
    CARD, network=Bert(hidden_size=64, num_layers=1, num_attention_heads=2), objective=MaskedLM(sequence_length=32)
)
OTHER_TOKENIZER = {"tokenizer": "b" * 64}


class Compared:
    """Models with measurements in a folder, and what the stage makes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs: dict[str, Path] = {}

    def model(self, name: str, card: ModelCard = CARD, megabytes: float = 1.0, **measurements: dict[str, Any]) -> None:
        """Add a model."""
        directory = self.folder / name / "export/model"
        directory.mkdir(parents=True)
        (directory / "model-1.safetensors").write_bytes(b"0" * round(megabytes * 1e6 - 1000))
        (directory / "model-2.safetensors").write_bytes(b"0" * 1000)
        (directory / "tokenizer.json").write_text("{}")
        cards.write(directory, card)
        artifacts.seal(directory, "model")
        self.inputs[f"{name}.model"] = directory
        for measure, numbers in measurements.items():
            path = self.folder / name / measure / "metrics.json"
            path.parent.mkdir()
            artifacts.write_json(path, numbers)
            self.inputs[f"{name}.{measure}"] = path

    def documents(self, name: str, measure: str, rows: list[dict[str, Any]]) -> None:
        """Say what a measure of a model has found of each document."""
        path = self.folder / name / measure / "documents.jsonl"
        artifacts.write_jsonl(path, rows)
        self.inputs[f"{name}.{measure}.documents"] = path

    def scores(self, name: str, measure: str, scores: dict[str, Any]) -> None:
        """Say how a measure of a model has scored each document."""
        path = self.folder / name / measure / "scores.json"
        artifacts.write_json(path, scores)
        self.inputs[f"{name}.{measure}.scores"] = path

    def result(self, output: str = "report") -> dict[str, Any]:
        """What `metrics.json` holds."""
        context = tiny_model.stage_context(ReportSection(), self.inputs, self.folder / output)
        report.run(context)
        return json.loads((context.output / "metrics.json").read_text())


@pytest.fixture
def compared(tmp_path) -> Compared:
    return Compared(tmp_path)


def causal(perplexity: float, bits_per_byte: float) -> dict[str, Any]:
    """A measurement by Perplexity."""
    return {
        "perplexity": perplexity,
        "bits_per_byte": bits_per_byte,
        "unigram": {"perplexity": 500.0, "bits_per_byte": 4.0},
    }


def masked(perplexity: float, accuracy: float) -> dict[str, Any]:
    """A measurement by Perplexity of an encoder."""
    return {"masked_perplexity": perplexity, "masked_accuracy_percent": accuracy}


def test_sizes_and_numbers_are_shown_and_recovery_is_the_ratio_of_the_perplexities(compared):
    compared.model("base", megabytes=4, perplexity=causal(20.0, 1.7), samples={})
    compared.model("base-w4a16", megabytes=1.5, perplexity=causal(25.0, 1.8), samples={})
    assert compared.result() == {
        "base": {"size_mb": 4.0, **causal(20.0, 1.7)},
        "base-w4a16": {
            "size_mb": 1.5,
            **causal(25.0, 1.8),
            "recovery_percent": 80.0,
            "recovery_by": "token",
        },
    }


def test_recovery_of_encoders_is_the_ratio_of_the_masked_perplexities(compared):
    compared.model("base", ENCODER, perplexity=masked(9.0, 50.0), pseudo_perplexity={"pseudo_perplexity": 5.0})
    compared.model("small", ENCODER, perplexity=masked(10.0, 48.0), pseudo_perplexity={"pseudo_perplexity": 6.0})
    found = compared.result()
    assert found["small"]["recovery_percent"] == pytest.approx(90)
    assert found["small"]["recovery_by"] == "token"
    assert found["small"]["pseudo_perplexity"] == 6.0
    assert found["small"]["recoveries"] == {
        "pseudo_perplexity": {"recovery_percent": pytest.approx(500 / 6), "recovery_by": "token"}
    }


def test_recovery_between_tokenizers_is_by_byte(compared):
    compared.model("base", perplexity=causal(20.0, 1.7))
    # Its tokens are longer, so each is harder to predict, and a byte is easier.
    compared.model("longer", attrs.evolve(CARD, **OTHER_TOKENIZER), perplexity=causal(40.0, 1.6))
    found = compared.result()["longer"]
    nats_per_byte = [bits * math.log(2) for bits in (1.7, 1.6)]
    assert found["recovery_percent"] == pytest.approx(100 * math.exp(nats_per_byte[0] - nats_per_byte[1]))
    assert found["recovery_percent"] > 100
    assert found["recovery_by"] == "byte"


@pytest.mark.parametrize(
    ("card", "numbers"),
    [
        (ENCODER, masked(9.0, 50.0)),
        (attrs.evolve(ENCODER, **OTHER_TOKENIZER), masked(9.0, 50.0)),
        (attrs.evolve(CARD, objective=CausalLM(sequence_length=64)), {"entropy": 1.0}),
    ],
    ids=["masked", "masked by another tokenizer", "no perplexity"],
)
def test_there_is_no_recovery_where_numbers_do_not_compare(compared, card, numbers):
    compared.model("base", perplexity=causal(20.0, 1.7))
    compared.model("other", card, perplexity=numbers)
    assert compared.result()["other"] == {"size_mb": 1.0, **numbers}


@pytest.mark.parametrize("changes", [{}, OTHER_TOKENIZER], ids=["by token", "by byte"])
def test_nothing_recovers_a_reference_that_has_diverged(compared, changes):
    compared.model("base", perplexity=causal(math.exp(709), 2000.0))
    compared.model("other", attrs.evolve(CARD, **changes), perplexity=causal(1.0, 1.7))
    assert "recovery_percent" not in compared.result()["other"]


def test_a_model_that_has_diverged_recovers_nothing(compared):
    compared.model("base", perplexity=causal(20.0, 1.7))
    compared.model("other", attrs.evolve(CARD, **OTHER_TOKENIZER), perplexity=causal(math.exp(709), 2000.0))
    assert compared.result()["other"]["recovery_percent"] == pytest.approx(0)


@pytest.mark.parametrize(
    "changes", [OTHER_TOKENIZER, {"objective": MaskedLM(sequence_length=32, mask_rate=0.3)}], ids=["tokenizer", "masks"]
)
def test_masked_perplexities_of_other_tokens_do_not_compare(compared, changes):
    compared.model("base", ENCODER, perplexity=masked(9.0, 50.0))
    compared.model("other", attrs.evolve(ENCODER, **changes), perplexity=masked(9.0, 50.0))
    assert "recovery_percent" not in compared.result()["other"]


def test_decoders_that_read_more_at_once_compare(compared):
    compared.model("base", perplexity=causal(20.0, 1.7))
    compared.model("longer", attrs.evolve(CARD, objective=CausalLM(sequence_length=64)), perplexity=causal(16.0, 1.6))
    assert compared.result()["longer"]["recovery_percent"] == 125


def test_two_measures_of_one_kind_appear_under_their_names(compared):
    for name, factor in (("base", 1.0), ("small", 1.25)):
        compared.model(
            name,
            perplexity=causal(20.0 * factor, 1.7),
            web=causal(30.0 * factor * factor, 1.9),
            pseudo_perplexity={"pseudo_perplexity": 7.0, "unigram": {"pseudo_perplexity": 90.0}},
        )
    found = compared.result()
    assert found["small"]["perplexity"] == 25
    assert found["small"]["recovery_percent"] == 80
    assert found["small"]["web"] == {
        **causal(46.875, 1.9),
        "recovery_percent": pytest.approx(64),
        "recovery_by": "token",
    }
    assert found["base"]["web"] == causal(30.0, 1.9)
    assert found["base"]["unigram"] == {"perplexity": 500.0, "bits_per_byte": 4.0, "pseudo_perplexity": 90.0}


def test_numbers_of_corpora_come_together(compared):
    corpora = {"code": {"perplexity": 19.0, "share": 0.5}, "text": {"perplexity": 21.0, "share": 0.5}}
    perplexity = causal(20.0, 1.7) | {"corpora": corpora}
    pseudo = {"pseudo_perplexity": 7.0, "corpora": {"code": {"pseudo_perplexity": 6.0, "share": 0.5}}}
    compared.model("base", perplexity=perplexity, pseudo_perplexity=pseudo)
    assert compared.result()["base"]["corpora"] == {
        "code": {"perplexity": 19.0, "pseudo_perplexity": 6.0, "share": 0.5},
        "text": {"perplexity": 21.0, "share": 0.5},
    }


def rows(losses: list[float], tokens: int = 10, corpus: str = "") -> list[dict[str, Any]]:
    """Documents with these mean losses."""
    where = {"corpus": corpus} if corpus else {}
    return [
        where | {"id": f"{corpus}{index}", "tokens": tokens, "bytes": 4.0 * tokens, "loss": tokens * loss}
        for index, loss in enumerate(losses)
    ]


def test_thirty_documents_make_an_interval_around_the_recovery(compared):
    # Some lose nothing, others twice as much as in the mean.
    for name, lost in (("base", (0.0, 0.0)), ("small", (0.0, 0.2))):
        compared.model(name, perplexity=causal(math.exp(3 + sum(lost) / 2), 1.7))
        compared.documents(name, "perplexity", rows([3 + each for each in lost] * 15))
    found = compared.result()["small"]
    wide = 1.96 * 0.1 / math.sqrt(30)
    assert found["recovery_percent"] == pytest.approx(100 * math.exp(-0.1))
    assert found["recovery_documents"] == 30
    assert found["recovery_low_percent"] == pytest.approx(100 * math.exp(-0.1 - wide), rel=0.005)
    assert found["recovery_high_percent"] == pytest.approx(100 * math.exp(-0.1 + wide), rel=0.005)


@pytest.mark.parametrize("count", [29, 0])
def test_fewer_documents_make_none_and_are_counted(compared, count):
    for name, loss in (("base", 3.0), ("small", 3.1)):
        compared.model(name, perplexity=causal(math.exp(loss), 1.7))
        compared.documents(name, "perplexity", rows([loss] * count))
    found = compared.result()["small"]
    assert found["recovery_percent"] == pytest.approx(100 * math.exp(-0.1))
    assert found.get("recovery_documents", 0) == count
    assert not {"recovery_low_percent", "recovery_high_percent"} & found.keys()


def test_documents_that_only_one_model_has_read_do_not_count(compared):
    # It reads longer sequences, and so ends elsewhere.
    for name, count in (("base", 40), ("small", 35)):
        compared.model(name, perplexity=causal(20.0, 1.7))
        compared.documents(name, "perplexity", rows([3.0] * count))
    assert compared.result()["small"]["recovery_documents"] == 35


def test_each_corpus_of_a_mixture_has_a_recovery_of_its_own(compared):
    lost = {"code": 0.1, "text": 0.3}
    for name, factor in (("base", 0), ("small", 1)):
        corpora = {corpus: causal(math.exp(3 + factor * each), 1.7) | {"share": 0.5} for corpus, each in lost.items()}
        compared.model(name, perplexity=causal(math.exp(3 + factor * 0.2), 1.7) | {"corpora": corpora})
        found = [row for corpus, each in lost.items() for row in rows([3 + factor * each] * 20, corpus=corpus)]
        compared.documents(name, "perplexity", found)
    small = compared.result()["small"]
    assert small["recovery_percent"] == pytest.approx(100 * math.exp(-0.2))
    assert small["recovery_documents"] == 40
    # Every document of a corpus loses as much, so other documents of it tell nothing else.
    assert small["recovery_low_percent"] == pytest.approx(100 * math.exp(-0.2))
    for corpus, each in lost.items():
        assert small["corpora"][corpus]["recovery_percent"] == pytest.approx(100 * math.exp(-each))
        assert small["corpora"][corpus]["recovery_documents"] == 20
        assert "recovery_low_percent" not in small["corpora"][corpus]


def test_a_score_has_a_recovery_by_the_same_documents(compared):
    # Where the one is right, so is the other but for every fifth; mistakes are fewer where that is better.
    before, after = [1.0, 0.5] * 50, [1.0, 0.5, 1.0, 0.5, 0.0] * 20
    scores = {"base": before, "small": after}
    for name, each in scores.items():
        wrong = [2 - score for score in each]
        compared.model(
            name, perplexity=causal(20.0, 1.7), mine={"accuracy": sum(each) / 100, "mistakes": sum(wrong) / 100}
        )
        both = {"accuracy": ("higher", each), "mistakes": ("lower", wrong)}
        compared.scores(
            name, "mine", {key: {"better": better, "documents": rows} for key, (better, rows) in both.items()}
        )
    small = compared.result()["small"]
    assert (small["recovery_percent"], small["accuracy"]) == (100, pytest.approx(0.6))
    for name, kept, (above, below) in (
        ("accuracy", 0.6 / 0.75, (after, before)),
        ("mistakes", 1.25 / 1.4, ([2 - score for score in before], [2 - score for score in after])),
    ):
        found = small["recoveries"][name]
        assert found["recovery_percent"] == pytest.approx(100 * kept)
        assert found["recovery_documents"] == 100
        # The delta method: the standard error of a ratio of means, whose documents are paired.
        above, below = np.array(above), np.array(below)
        wide = 1.96 * (above - kept * below).std() / below.mean() / math.sqrt(100)
        assert found["recovery_low_percent"] == pytest.approx(100 * (kept - wide), abs=1.0)
        assert found["recovery_high_percent"] == pytest.approx(100 * (kept + wide), abs=1.0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1.0] * 29, [0.5] * 29, {"recovery_percent": 50, "recovery_documents": 29}),
        ([1.0] * 40, [0.5] * 39, {"recovery_percent": 50}),
        ([0.0] * 40, [0.5] * 40, {"recovery_documents": 40}),
        ([0.0] * 39 + [1.0], [0.0] * 39 + [1.0], {"recovery_percent": 100, "recovery_documents": 40}),
    ],
    ids=["too few", "not the same", "nothing to keep", "nothing to divide by"],
)
def test_scores_without_an_interval(compared, before, after, expected):
    for name, each in (("base", before), ("small", after)):
        compared.model(name, mine={"accuracy": sum(each) / len(each)})
        compared.scores(name, "mine", {"accuracy": {"better": "higher", "documents": each}})
    assert compared.result()["small"]["recoveries"] == {"accuracy": expected}


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([0.0, 1.0] * 20, {"recovery_is_unbounded": True, "recovery_documents": 40}),
        (
            [0.0] * 40,
            {"recovery_percent": 100, "recovery_low_percent": 100, "recovery_high_percent": 100}
            | {"recovery_documents": 40},
        ),
    ],
    ids=["some before", "none before"],
)
def test_no_mistakes_at_all_are_not_less_than_any(compared, before, expected):
    for name, each in (("base", before), ("small", [0.0] * 40)):
        compared.model(name, mine={"mistakes": sum(each) / len(each)})
        compared.scores(name, "mine", {"mistakes": {"better": "lower", "documents": each}})
    assert compared.result()["small"]["recoveries"] == {"mistakes": expected}


def test_a_measure_that_is_named_like_a_number_is_refused(compared):
    compared.model("base", perplexity=causal(20.0, 1.7), entropy=causal(30.0, 1.9), mine={"entropy": 2.0})
    with pytest.raises(StageError, match="entropy: the name of a measure and of a number"):
        compared.result()


def test_the_same_bytes_come_of_the_same_measurements(compared):
    compared.model("base", perplexity=causal(20.0, 1.7))
    compared.model("small", perplexity=causal(25.0, 1.8))
    compared.result("first")
    compared.result("second")
    first, second = ((compared.folder / name / "metrics.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_missing_model_or_measurement_is_named(compared):
    compared.model("base", perplexity=causal(20.0, 1.7))
    (compared.inputs["base.model"] / "model-1.safetensors").unlink()
    with pytest.raises(StageError, match=r"model-1.safetensors: is missing"):
        compared.result()


def test_comparing_imports_no_heavy_library():
    program = (
        "import sys; from llmrecipe.stages import report\n"
        "sys.exit(str({'torch', 'transformers', 'datatrove'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "set()\n"
