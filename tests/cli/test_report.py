"""The report says what the recipe's artifacts say."""

import argparse
import json
import subprocess
import sys

import pytest

from llmrecipe import artifacts
from llmrecipe.cli import report
from llmrecipe.errors import LoadError, StageError

METRICS = {
    "dense": {"perplexity": 21.5, "bits_per_byte": 1.75, "size_mb": 21.908384},
    "quantized": {"perplexity": 22.0, "bits_per_byte": 1.7625, "recovery_percent": 97.727, "size_mb": 6.7116},
    "unigram": {"perplexity": 1234.5, "bits_per_byte": 4.0},
}
SAMPLES = [{"prompt": f"def f{i}", "completion": f"():\n\treturn {i}\x1b[31m"} for i in range(4)]
MEASURED = {
    "communication_percent": {"data": 5.6, "other": 0.2},
    "peak_memory_mb": [1403, 1412],
    "seconds": 12.0,
    "tokens_per_second": 2140.4,
}

RECIPE = """
from llmrecipe import *

def mine():
    return Recipe(
        name="mine", corpus=Corpus(name="c", source=PythonStdlib()), tokenizer=ByteLevelBPE(vocab_size=300),
        model=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
        objective=CausalLM(sequence_length=32),
        training=Training(duration=Steps(9), global_batch_size=4, optimizer=AdamW(learning_rate=1e-3)),
    )
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose recipe `mine` (of another name than its file) has been carried out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/file.py").write_text(RECIPE)
    folder = tmp_path / "artifacts/mine"
    for path in ("export/model", "quantize/model"):
        (folder / path).mkdir(parents=True)
        (folder / path / "config.json").write_text("{}")
        artifacts.seal(folder / path, "model")
    (folder / "evaluate").mkdir()
    (folder / "evaluate/metrics.json").write_text(json.dumps(METRICS))
    (folder / "evaluate/samples.json").write_text(json.dumps({"dense": [], "quantized": SAMPLES}))
    (folder / "pretrain.run.json").write_text(json.dumps(MEASURED))
    return tmp_path


def shown(capsys) -> str:
    assert report.run(argparse.Namespace(recipe="file")) == 0
    return capsys.readouterr().out


def test_every_number_and_place_is_shown(project, capsys):
    text = shown(capsys)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["mine:"] == ["mine:", "artifacts/mine/quantize/model"]
    assert rows["dense"] == ["dense", "21.50", "1.750", "21.91", "MB", "artifacts/mine/export/model"]
    assert rows["quantized"][1:] == ["22.00", "1.762", "97.7", "%", "6.71", "MB", "artifacts/mine/quantize/model"]
    assert rows["unigram"][1:3] == ["1,234.50", "4.000"]
    assert " ".join(rows["training:"]) == (
        "training: 2,140 tokens/s, 6 % of the time waiting for communication (data 6 %, other 0.2 %), "
        "peak memory 1,412 MB a rank"
    )


def test_masked_metrics_are_shown_in_the_place_of_the_others(project, capsys):
    metrics = {
        "dense": {"masked_accuracy_percent": 45.67, "masked_perplexity": 12.345, "size_mb": 4.5},
        "unigram": {"masked_accuracy_percent": 6.0, "masked_perplexity": 280.0},
    }
    metrics["dense"]["pseudo_perplexity"], metrics["unigram"]["pseudo_perplexity"] = 9.876, 281.0
    (project / "artifacts/mine/evaluate/metrics.json").write_text(json.dumps(metrics))
    (project / "artifacts/mine/evaluate/samples.json").write_text(json.dumps({"dense": []}))
    table = shown(capsys).split("\n\n")[1].splitlines()
    assert [line.split() for line in table] == [
        ["held-out", "text", "masked", "perplexity", "accuracy", "pseudo-perplexity", "size"],
        ["dense", "12.35", "45.7", "%", "9.88", "4.50", "MB", "artifacts/mine/export/model"],
        ["unigram", "280.00", "6.0", "%", "281.00", "(token", "frequencies", "alone)"],
    ]


def test_what_was_not_measured_is_not_shown(project, capsys):
    (project / "artifacts/mine/pretrain.run.json").write_text(
        json.dumps({"communication_percent": {}, "peak_memory_mb": [412], "tokens_per_second": 2140.4})
    )
    assert "training: 2,140 tokens/s, peak memory 412 MB a rank\n" in shown(capsys)

    (project / "artifacts/mine/pretrain.run.json").write_text(json.dumps({"tokens_per_second": 2140.4}))
    assert "training: 2,140 tokens/s\n" in shown(capsys)


def test_three_completions_of_the_final_model_are_shown_without_control_characters(project, capsys):
    text = shown(capsys)
    for index in range(3):
        assert f"    def f{index}():\n    \treturn {index}\ufffd[31m" in text
    assert "f3" not in text
    assert "\x1b" not in text


def test_a_recipe_without_compression_has_its_dense_model_reported(project, capsys):
    folder = project / "artifacts/mine"
    (folder / "evaluate/metrics.json").write_text(json.dumps({"dense": {"size_mb": 21.9}}))
    (folder / "evaluate/samples.json").write_text(json.dumps({"dense": SAMPLES[:1]}))
    text = shown(capsys)
    assert text.startswith("mine: artifacts/mine/export/model\n")
    assert "quantize" not in text


def test_a_training_from_the_cache_is_said_not_to_have_run_here(project, capsys):
    (project / "artifacts/mine/pretrain.run.json").unlink()
    assert "training: not run on this machine" in shown(capsys)


@pytest.mark.parametrize("missing", ["evaluate/metrics.json", "evaluate/samples.json", "quantize/model/manifest.json"])
def test_a_missing_result_is_named_with_what_makes_it(project, missing):
    (project / "artifacts/mine" / missing).unlink()
    with pytest.raises(StageError, match=r"artifacts/mine/.*dvc repro"):
        report.run(argparse.Namespace(recipe="file"))


def test_an_unknown_recipe_is_refused(project):
    with pytest.raises(LoadError, match="no such recipe"):
        report.run(argparse.Namespace(recipe="other"))


def test_reporting_imports_no_heavy_library(project):
    program = (
        "import argparse, sys; from llmrecipe.cli import report; report.run(argparse.Namespace(recipe='file'))\n"
        "sys.exit(str({'torch', 'transformers', 'dvc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    assert done.stderr == "set()\n"
    assert "quantized" in done.stdout


def test_a_pipe_whose_reader_has_left_is_no_error(project):
    command = f"{sys.executable} -m llmrecipe report file | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True)
    assert done.stderr == ""
