"""The report says what the recipe's artifacts say."""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmrecipe import CausalLM, Llama, artifacts, cards, times
from llmrecipe.cards import ModelCard
from llmrecipe.cli import report
from llmrecipe.errors import LoadError, StageError
from llmrecipe.loader import find
from llmrecipe.plan.planner import plan
from llmrecipe.sections import TokenizeSection

UNIGRAM = {"perplexity": 1234.5, "bits_per_byte": 4.0}
METRICS = {
    "base": {"perplexity": 21.5, "bits_per_byte": 1.75, "size_mb": 21.908384, "unigram": UNIGRAM},
    "base-w4a16": {
        "perplexity": 22.0,
        "bits_per_byte": 1.7625,
        "recovery_percent": 97.727,
        "recovery_by": "token",
        "size_mb": 6.7116,
        "unigram": UNIGRAM,
    },
}
SAMPLES = [{"prompt": f"def f{i}", "completion": f"():\n\treturn {i}\x1b[31m"} for i in range(4)]
MEASURED = {
    "math_library": "oneDNN",
    "communication_percent": {"data": 5.6, "other": 0.2},
    "peak_memory_mb": [1403, 1412],
    "seconds": 12.0,
    "tokens_per_second": 2140.4,
}

RECIPE = """
from llmrecipe import *

def mine():
    base = Trained(
        name="base", start=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
        text=Corpus(name="c", source=source.PythonStdlib()), tokenizer=ByteLevelBPE(vocab_size=300),
        objective=CausalLM(sequence_length=32),
        training=Training(duration=Steps(9), global_batch_size=4, optimizer=optimizer.AdamW(learning_rate=1e-3)),
    )
    small = Quantized(model=base, scheme=scheme.W4A16(group_size=64))
    return Recipe(
        name="mine", models=(base, small)[:MODELS], measures=(measure.Perplexity(), measure.Samples(prompts=("def ",)))
    )
"""

TRAINED = Path("artifacts/base/train")
MODELS = {"base": "artifacts/base/export/model", "base-w4a16": "artifacts/base-w4a16/quantize/model"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose recipe `mine` (of another name than its file) has been carried out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    write_recipe(tmp_path, models=2)
    for name, model in MODELS.items():
        (tmp_path / model).mkdir(parents=True)
        seal_model(tmp_path / model)
        write(tmp_path / f"artifacts/{name}/samples/samples.json", [] if name == "base" else SAMPLES)
    write(tmp_path / "artifacts/mine/report/metrics.json", METRICS)
    write(tmp_path / TRAINED / "metrics.json", {"loss": 2.5})
    times.write("base-train", TRAINED, MEASURED, {})
    return tmp_path


def seal_model(folder: Path, notes: tuple[str, ...] = ()) -> None:
    """A model artifact with nothing but its card."""
    card = ModelCard(
        network=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
        objective=CausalLM(sequence_length=32),
        vocab_size=300,
        end_of_text_id=0,
        tokenizer="",
        made_by="export",
        parents={},
        notes=notes,
    )
    cards.write(folder, card)
    artifacts.seal(folder, "model")


def write_recipe(project: Path, models: int) -> None:
    """The recipe with this many of its models."""
    (project / "recipes/file.py").write_text(RECIPE.replace("MODELS", str(models)))


def write(path: Path, data: Any) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def shown(capsys) -> str:
    assert report.run(argparse.Namespace(recipes=["file"])) == 0
    return capsys.readouterr().out


def test_every_number_and_place_is_shown(project, capsys):
    text = shown(capsys)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["mine:"] == ["mine:", MODELS["base-w4a16"]]
    assert rows["base"] == ["base", "21.50", "1.750", "21.91", "MB", MODELS["base"]]
    assert rows["base-w4a16"][1:] == ["22.00", "1.762", "97.7", "%", "6.71", "MB", MODELS["base-w4a16"]]
    assert rows["unigram"] == ["unigram", "1,234.50", "4.000", "(token", "frequencies", "alone)"]
    assert " ".join(rows["training"]) == (
        "training of base: 2,140 tokens/s, multiplied by oneDNN, 6 % of the time waiting for communication "
        "(data 6 %, other 0.2 %), peak memory 1,412 MB a rank"
    )


def test_what_is_kept_of_each_corpus_is_shown_with_its_interval(project, capsys):
    metrics = json.loads(json.dumps(METRICS))
    ends = {"recovery_low_percent": 95.04, "recovery_high_percent": 98.96, "recovery_documents": 31}
    metrics["base"]["corpora"] = {"web": {"perplexity": 21.0, "share": 0.5}, "code": {"perplexity": 9.0, "share": 0.5}}
    metrics["base-w4a16"] |= ends
    metrics["base-w4a16"]["corpora"] = {
        "web": {"perplexity": 22.0, "share": 0.5, "recovery_percent": 95.5, "recovery_by": "token"},
        "code": {"perplexity": 9.1, "share": 0.5, "recovery_percent": 98.9, "recovery_by": "token", **ends},
    }
    write(project / "artifacts/mine/report/metrics.json", metrics)
    lines = [line.split() for line in shown(capsys).splitlines()]
    assert ["base-w4a16", "22.00", "1.762", "97.7", "%", "(95.0–99.0)", "6.71", "MB", MODELS["base-w4a16"]] in lines
    start = lines.index(["recovery", "by", "corpus", "web", "code"])
    assert lines[start + 1 : start + 3] == [
        ["base", "(perplexity)", "21.00", "9.00"],
        ["base-w4a16", "95.5", "%", "98.9", "%", "(95.0–99.0)"],
    ]
    assert not any(line[1:4] == ["recovery", "by", "corpus"] for line in lines)


def test_so_is_what_another_perplexity_says_of_the_corpora_of_its_own_text(project, capsys):
    metrics = json.loads(json.dumps(METRICS))
    kept = {"recovery_percent": 90.0, "recovery_low_percent": 88.0, "recovery_high_percent": 92.0}
    for name, perplexity in (("base", 9.0), ("base-w4a16", 10.0)):
        corpora = {"talks": {"perplexity": perplexity, **(kept if perplexity == 10 else {})}}
        metrics[name]["domains"] = {"perplexity": perplexity, "corpora": corpora}
    write(project / "artifacts/mine/report/metrics.json", metrics)
    lines = [line.split() for line in shown(capsys).splitlines()]
    start = lines.index(["domains:", "recovery", "by", "corpus", "talks"])
    assert lines[start + 1 : start + 3] == [
        ["base", "(perplexity)", "9.00"],
        ["base-w4a16", "90.0", "%", "(88.0–92.0)"],
    ]
    assert ["recovery", "by", "corpus"] not in [line[:3] for line in lines]


def test_the_model_that_is_released_is_shown_with_what_it_passed(project, capsys):
    recipe = project / "recipes/file.py"
    release = "release=Release(candidates=(small, base), gates=(gate.Size(at_most_mb=9.0),)), models"
    recipe.write_text(recipe.read_text().replace("models", release))
    verdicts = [{"gate": "at most 9 MB", "found": "6.71 MB", "passes": True}]
    found = {"released": "base-w4a16", "candidates": {"base-w4a16": verdicts, "base": verdicts}}
    write(project / "artifacts/mine/release/metrics.json", found)
    text = shown(capsys)
    assert "\nreleased: base-w4a16, artifacts/mine/release/model\n  at most 9 MB: 6.71 MB\n" in text


def test_text_that_tokens_lost_is_shown_with_the_reason_for_what_is_missing(project, capsys):
    metrics = json.loads(json.dumps(METRICS))
    for numbers in metrics.values():
        del numbers["bits_per_byte"]
        numbers["text_lost_percent"] = 70.04
    write(project / "artifacts/mine/report/metrics.json", metrics)
    lost = {"share": 0.7004, "white_space": 0.0, "characters": "\x1bе"}
    (stage,) = (stage for stage in plan([find("file").value]).stages if isinstance(stage.section, TokenizeSection))
    counts = {"tokens": 9, "documents": 1}
    write(project / stage.product("metrics.json"), {"train": counts, "heldout": counts | {"lost": lost}})
    text = shown(capsys)
    row = next(line for line in text.splitlines() if line.startswith("base "))
    assert row.split()[1:6] == ["21.50", "70.0", "%", "21.91", "MB"]
    said = " ".join(text.split())
    assert f"{stage.name}: 70.0 % of the characters of the heldout text are lost in its tokens" in said
    assert r"(most often '\x1b', 'е')" in said
    assert "no number in bytes is given for it" in said
    assert "of the train text" not in said


def table(capsys) -> list[list[str]]:
    """The cells of the table."""
    lines = shown(capsys).split("\n\n")[1].splitlines()
    return [re.split(r"  +", line.strip()) for line in lines]


def test_what_a_reader_should_know_of_models_is_told_once_with_their_names(project, capsys):
    drawn, dropped = "its head was drawn with seed 3", "its pooler was left out"
    for model, notes in zip(MODELS.values(), ((drawn,), (drawn, dropped)), strict=True):
        seal_model(project / model, notes)
    told = shown(capsys).split("\n\n")[2].splitlines()
    assert told == [f"base, base-w4a16: {drawn}", f"base-w4a16: {dropped}"]


def test_masked_metrics_are_shown_in_the_place_of_the_others(project, capsys):
    write_recipe(project, models=1)
    unigram = {"masked_accuracy_percent": 6.0, "masked_perplexity": 280.0, "pseudo_perplexity": 281.0}
    numbers = {"masked_accuracy_percent": 45.67, "masked_perplexity": 12.345, "pseudo_perplexity": 9.876}
    metrics = {"base": {**numbers, "size_mb": 4.5, "unigram": unigram}}
    write(project / "artifacts/mine/report/metrics.json", metrics)
    assert table(capsys) == [
        ["held-out text", "masked perplexity", "accuracy", "pseudo-perplexity", "size"],
        ["base", "12.35", "45.7 %", "9.88", "4.50 MB", MODELS["base"]],
        ["unigram", "280.00", "6.0 %", "281.00", "(token frequencies alone)"],
    ]


def test_numbers_of_a_task_are_shown_with_their_intervals(project, capsys):
    write_recipe(project, models=1)
    numbers = {"accuracy": 0.75, "calibration_error": 0.125, "intervals": {"accuracy": {"low": 0.7, "high": 0.80006}}}
    write(project / "artifacts/mine/report/metrics.json", {"base": {**numbers, "macro_f1": 0.5, "size_mb": 4.5}})
    assert table(capsys) == [
        ["model", "accuracy", "macro F1", "calibration error", "size"],
        ["base", "0.7500 (0.7000–0.8001)", "0.5000", "0.1250", "4.50 MB", MODELS["base"]],
    ]


def test_numbers_of_further_measures_have_columns_of_their_own(project, capsys):
    write_recipe(project, models=1)
    web = {"perplexity": 30.0, "recovery_percent": 98.0, "unigram": {"perplexity": 900.0}}
    metrics = {"base": {"perplexity": 20.0, "entropy": 2.34567, "size_mb": 4.5, "web": web, "corpora": {"c": {"x": 1}}}}
    write(project / "artifacts/mine/report/metrics.json", metrics)
    assert table(capsys) == [
        ["held-out text", "perplexity", "entropy", "size", "web: perplexity", "web: recovery"],
        ["base", "20.00", "2.346", "4.50 MB", "30.00", "98.0 %", MODELS["base"]],
        ["unigram", "900.00", "(token frequencies alone)"],
    ]


def test_models_with_other_tokens_have_a_unigram_model_each_and_recovery_by_byte(project, capsys):
    small = METRICS["base-w4a16"] | {"recovery_by": "byte", "unigram": {"perplexity": 99.0, "bits_per_byte": 3.9}}
    write(project / "artifacts/mine/report/metrics.json", METRICS | {"base-w4a16": small})
    rows = {first: rest for first, *rest in table(capsys)}
    assert rows["base-w4a16"][2] == "97.7 % by byte"
    assert rows["unigram of base"][0] == "1,234.50"
    assert rows["unigram of base-w4a16"][0] == "99.00"


def test_what_was_not_measured_is_not_shown(project, capsys):
    measured = {"communication_percent": {}, "peak_memory_mb": [412], "tokens_per_second": 2140.4}
    times.write("base-train", TRAINED, measured, {})
    assert "training of base: 2,140 tokens/s, peak memory 412 MB a rank\n" in shown(capsys)

    times.write("base-train", TRAINED, {"tokens_per_second": 2140.4}, {})
    assert "training of base: 2,140 tokens/s\n" in shown(capsys)


def test_foreign_spaces_and_joiners_are_shown_as_they_are(project, capsys):
    sample = {"prompt": "　全角の\n", "completion": "می‌خواهم\u00a0👨‍👩‍👧\r\nend"}
    write(project / "artifacts/base-w4a16/samples/samples.json", [sample])
    assert "from '　全角の\\n':\n    　全角の\n    می‌خواهم\u00a0👨‍👩‍👧\n    end" in shown(capsys)


def test_three_completions_of_the_final_model_are_shown_without_control_characters(project, capsys):
    text = shown(capsys)
    for index in range(3):
        assert f"    def f{index}():\n    \treturn {index}\ufffd[31m" in text
    assert "f3" not in text
    assert "\x1b" not in text


def test_a_recipe_of_one_model_has_that_reported(project, capsys):
    write_recipe(project, models=1)
    write(project / "artifacts/mine/report/metrics.json", {"base": {"size_mb": 21.9}})
    text = shown(capsys)
    assert text.startswith(f"mine: {MODELS['base']}\n")
    assert "w4a16" not in text


def test_a_speed_is_that_of_the_run_whose_outputs_are_here(project, capsys):
    write(project / TRAINED / "metrics.json", {"loss": 2.4})
    assert "training of base: not run on this machine" in shown(capsys)
    times.write("base-train", TRAINED, {"tokens_per_second": 99.0}, {})
    assert "training of base: 99 tokens/s" in shown(capsys)
    shutil.rmtree(project / TRAINED)
    write(project / TRAINED / "metrics.json", {"loss": 2.5})
    assert f"training of base: {MEASURED['tokens_per_second']:,.0f} tokens/s" in shown(capsys)


@pytest.mark.parametrize("name", ["metrics.json", "curves.csv", "checkpoint/manifest.json"])
def test_a_damaged_file_by_which_a_run_is_known_is_named(project, name):
    folder = project / TRAINED
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "weights").write_text("weights")
    artifacts.seal(folder / "checkpoint", "checkpoint")
    (folder / "curves.csv").write_text("step,loss\n1,2.5\n")
    times.write("base-train", TRAINED, MEASURED, {})
    outs = {each: artifacts.file_digest(folder / each, "md5") for each in ("metrics.json", "curves.csv")}
    listed = [
        {"md5": artifacts.file_digest(file, "md5"), "relpath": file.name} for file in (folder / "checkpoint").iterdir()
    ]
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], check=True)
    md5 = hashlib.md5(json.dumps(listed).encode()).hexdigest()
    write(project / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}.dir", listed)
    outs["checkpoint"] = f"{md5}.dir"
    entries = [{"path": f"{TRAINED}/{each}", "hash": "md5", "md5": md5} for each, md5 in outs.items()]
    write(project / "dvc.lock", {"schema": "2.0", "stages": {"base-train": {"cmd": "", "outs": entries}}})
    report.run(argparse.Namespace(recipes=["file"]))
    damaged = bytearray((folder / name).read_bytes())
    damaged[-3] ^= 1
    (folder / name).write_bytes(damaged)
    with pytest.raises(StageError, match=rf"^{TRAINED}/{name}: damaged, .*dvc "):
        report.run(argparse.Namespace(recipes=["file"]))


@pytest.mark.parametrize(
    ("missing", "made_by"),
    [
        ("mine/report/metrics.json", "dvc repro mine-report"),
        ("base-w4a16/samples/samples.json", "dvc repro base-w4a16-samples"),
        ("base/export/model/manifest.json", "dvc repro"),
    ],
)
def test_a_missing_result_is_named_with_what_makes_it(project, missing, made_by):
    (project / "artifacts" / missing).unlink()
    with pytest.raises(StageError, match=f"artifacts/.*`{made_by}`"):
        report.run(argparse.Namespace(recipes=["file"]))


def test_an_unknown_recipe_is_refused(project):
    with pytest.raises(LoadError, match="no such recipe"):
        report.run(argparse.Namespace(recipes=["other"]))


def test_reporting_imports_no_heavy_library(project):
    program = (
        "import argparse, sys; from llmrecipe.cli import report; report.run(argparse.Namespace(recipes=['file']))\n"
        "sys.exit(str({'torch', 'transformers', 'dvc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    assert done.stderr == "set()\n"
    assert "base-w4a16" in done.stdout


def test_a_pipe_whose_reader_has_left_is_no_error(project):
    command = f"{sys.executable} -m llmrecipe report file | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True)
    assert done.stderr == ""
