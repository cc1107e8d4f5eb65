"""`llmrecipe compare` shows all numbers of all models."""

import csv
import io
import json
from pathlib import Path

import pytest

from llmrecipe import artifacts, cards, times
from llmrecipe.cards import ModelCard
from llmrecipe.cli.main import main
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.objective import CausalLM

RECIPE = """
from llmrecipe import *

def made() -> Recipe:
    base = Trained(
        name="base",
        start=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
        text=Corpus(name="stdlib", source=source.PythonStdlib()),
        tokenizer=ByteLevelBPE(vocab_size=300),
        objective=CausalLM(sequence_length=32),
        training=Training(duration=Steps(4), global_batch_size=4, optimizer=optimizer.AdamW(learning_rate=1e-3)),
    )
    return Recipe(name="NAME", models=(base, Quantized(model=base, scheme=scheme.FP8())))
"""
NETWORK = Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2)
METRICS = {
    "base": {"size_mb": 0.2, "perplexity": 20.0, "corpora": {"web": {"perplexity": 19.0, "share": 1.0}}},
    "base-fp8": {
        "size_mb": 0.05,
        "perplexity": 21.0,
        "recovery_percent": 95.2,
        "recovery_by": "token",
        "recovery_documents": 40,
        "recovery_low_percent": 94.0,
        "recovery_high_percent": 96.4,
    },
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    for name in ("one", "two"):
        Path(f"recipes/{name}.py").write_text(RECIPE.replace("NAME", name))
        Path(f"artifacts/{name}/report").mkdir(parents=True)
        artifacts.write_json(Path(f"artifacts/{name}/report/metrics.json"), METRICS)
    for path in ("artifacts/base/export/model", "artifacts/base-fp8/quantize/model"):
        folder = Path(path)
        folder.mkdir(parents=True)
        card = ModelCard(
            network=NETWORK,
            objective=CausalLM(sequence_length=32),
            vocab_size=300,
            end_of_text_id=0,
            tokenizer="",
            made_by="export",
            parents={},
        )
        cards.write(folder, card)
        artifacts.seal(folder, "model")
    measured = Path("artifacts/base/perplexity")
    measured.mkdir()
    artifacts.write_json(measured / "metrics.json", {"perplexity": 20.0})
    run = {"tokens_per_second": 1234.5, "peak_memory_mb": 321, "processor": "2 cores of abacus", "seconds": 9.0}
    times.write("base-perplexity", measured, run, {})
    return tmp_path


def test_every_number_is_in_the_table_with_what_is_known_of_the_run(project, capsys):
    assert main(["compare", "one"]) == 0
    text = capsys.readouterr().out
    head, base, small = text.splitlines()[:3]
    assert head.split() == ["model", "perplexity", "speed", "recovery", "size", "bits/weight", "peak", "memory"]
    bits = 8e6 * 0.2 / NETWORK.num_parameters(300)
    assert base.split() == ["base", "20.00", "1,234", "tokens/s", "0.20", "MB", f"{bits:.2f}", "321", "MB"]
    assert small.split() == ["base-fp8", "21.00", "95.2", "%", "(94.0–96.4)", "0.05", "MB", f"{bits / 4:.2f}"]
    assert text.endswith("speed and memory: reading held-out text on 2 cores of abacus\n")


def test_recoveries_of_other_numbers_have_columns_of_their_own(project, capsys):
    kept = {"recovery_percent": 80.0, "recovery_low_percent": 72.0, "recovery_high_percent": 88.0}
    small = METRICS["base-fp8"] | {"accuracy": 0.6, "recoveries": {"accuracy": kept | {"recovery_documents": 100}}}
    small["second"] = {"accuracy": 0.3, "recoveries": {"accuracy": {"recovery_percent": 60.0}}}
    artifacts.write_json(Path("artifacts/one/report/metrics.json"), METRICS | {"base-fp8": small})
    assert main(["compare", "one"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()[:3]
    for title in ("accuracy recovery", "second: accuracy recovery"):
        assert f" {title} " in f"{head} "
    assert "80.0 % (72.0–88.0)" in row
    assert row.split("(94.0–96.4)")[0].endswith("95.2 % ")
    assert " 60.0 %" in row
    assert main(["compare", "one", "--csv"]) == 0
    *_, line = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(line["recoveries.accuracy.recovery_low_percent"]) == 72.0


def test_models_of_several_recipes_are_told_apart(project, capsys):
    assert main(["compare", "one", "two"]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:5] == ["one: base", "one: base-fp8", "two: base", "two: base-fp8"]


def test_as_csv_numbers_are_whole(project, capsys):
    assert main(["compare", "one", "--csv"]) == 0
    base, small = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (base["recipe"], base["model"], base["processor"]) == ("one", "base", "2 cores of abacus")
    assert float(base["tokens_per_second"]) == 1234.5
    assert float(base["corpora.web.perplexity"]) == 19.0
    assert json.loads(small["recovery_low_percent"]) == 94.0
    assert small["tokens_per_second"] == small["processor"] == ""


def test_a_recipe_as_it_was_is_left_to_the_report(project, capsys):
    assert main(["compare", "one@HEAD", "two"]) == 1
    assert "one@HEAD: `compare` shows the models that are in this folder now; `llmrecipe report one@HEAD`" in (
        capsys.readouterr().err
    )


def test_a_result_that_is_missing_is_named_with_what_makes_it(project, capsys):
    Path("artifacts/two/report/metrics.json").unlink()
    assert main(["compare", "one", "two"]) == 1
    assert "run `dvc repro two-report`, which makes it" in capsys.readouterr().err
