"""What can't work is said in the user's words, with what to do, and leaves nothing that looks whole."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from corpora import contents, read_documents, run
from dvc_project import create, repro, write
from paths import SUPPORT
from strategies import train_section
from tiny_recipe import BASE, RECIPE
from tokenizers import Tokenizer, models

from llmrecipe import Fraction, Recipe, artifacts, evolve, source
from llmrecipe.cli.main import main
from llmrecipe.errors import RecipeError, StageError, refusal
from llmrecipe.recipe import checks
from llmrecipe.sections import PrepareSection
from llmrecipe.stages.runner import run_stage

TINY = (SUPPORT / "tiny_recipe.py").read_text() + "\n\ndef tiny():\n    return RECIPE\n"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A planned project, with text in it, of which nothing has run."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/tiny.py").write_text(TINY)
    (tmp_path / "data/books").mkdir(parents=True)
    for number in range(200):
        (tmp_path / f"data/books/{number}.txt").write_text(f"the text number {number}")
    write(tmp_path, RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWNERS = {
    "prepare": "books",
    "tokenizer": "books-bpe-300",
    "tokenize": "books-bpe-300",
    "train": "tiny",
    "export": "tiny",
    "perplexity": "tiny",
    "quantize": "tiny-w4a16",
}
"""By stage of the tiny recipe, the value that it belongs to."""


def set_param(project: Path, label: str, path: str, value: object) -> str:
    """What `dvc exp run -S path=value` does to a section; anything may be set. Returns where the section is."""
    file, name = f"params/{OWNERS[label]}.yaml", f"{OWNERS[label]}-{label}"
    params = yaml.safe_load((project / file).read_text())
    *parents, last = path.split(".")
    section = params[name]
    for parent in parents:
        section = section[parent]
    section[last] = value
    (project / file).write_text(yaml.safe_dump(params))
    return f"{file}:{name}"


def stage(label: str, *inputs: str, output: str | None = None) -> int:
    owner = OWNERS[label]
    kind = "measure" if label == "perplexity" else label
    file, name = f"params/{owner}.yaml", f"{owner}-{label}"
    if inputs:
        set_param(Path(), label, "inputs", dict(item.split("=", 1) for item in inputs))
    return main(["stage", kind, "--name", name, "--params", file, "--output", output or f"artifacts/{owner}/{label}"])


# Parameters edited by hand, or by `dvc exp run --set-param`


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("parallelism.tensor", 3, "parallelism.tensor: 3 does not divide num_attention_heads = 4; use 1, 2 or 4"),
        ("parallelism.pipeline", 3, "parallelism.pipeline: 3 ranks can't share num_layers = 2; use at most 2"),
        ("network.hidden_size", 66, "network.hidden_size: 66 does not give num_attention_heads = 4 heads of"),
        ("training.global_batch_size", 0, "training.global_batch_size: must be between 1 and 100,000,000, got 0"),
        ("parallelism.micro_batch_size", 3, "training.global_batch_size: 4 is not a multiple of data × micro"),
        ("objective.sequence_length", 4096, "objective.sequence_length: 4096 exceeds the network's"),
        ("training.schedule.warmup", {"type": "steps", "count": 20}, "training.schedule.warmup: this Steps is 20"),
        ("training.optimizer.type", "adam", "training.optimizer.type: no such type 'adam' (str); did you mean 'adamw'"),
        ("training.sed", 3, "training.sed: no such field; did you mean 'seed'?"),
        ("network", 3, "network: must be a mapping with `type: bert` or a mapping with `type: llama` or a mapping"),
    ],
)
def test_an_edited_section_that_can_not_work_is_refused_before_any_rank_starts(project, capsys, path, value, message):
    Path("tokens").mkdir()
    where = set_param(project, "train", path, value)
    assert stage("train", "tokens=tokens") == 1
    assert f"{where}.{message}" in capsys.readouterr().err
    assert not Path("artifacts").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"parallelism__tensor": 3},
        {"parallelism__pipeline": 4, "parallelism__data": 3, "start__num_attention_heads": 6},
        {"objective__sequence_length": 5000, "training__seed": 2**33},
        {"start__make_vocab_size_divisible_by": 3, "parallelism__tensor": 2},
    ],
)
def test_a_section_breaks_the_rules_that_its_recipe_breaks(changes):
    model = evolve(BASE, **changes)
    recipe = Recipe(name="small", models=(model,))
    of_recipe = [
        (
            violation.path.replace("small.models[0].start.", "tiny.network.").replace("small.models[0]", "tiny"),
            violation.reason,
        )
        for violation in checks.violations(recipe)
        if "measures" not in violation.path
    ]
    of_section = checks.section_violations(train_section(model), "tiny")
    assert sorted((violation.path, violation.reason) for violation in of_section) == sorted(of_recipe)
    assert of_recipe


@pytest.mark.parametrize(
    ("label", "field", "value"),
    [
        ("prepare", "heldout.of_total", 1.1),
        ("prepare", "shards", 0),
        ("quantize", "calibration_samples", 0),
        ("quantize", "seed", -1),
        ("perplexity", "measure.max_tokens", 0),
    ],
)
def test_the_fields_of_a_section_have_the_limits_of_the_recipes(project, label, field, value):
    where = set_param(project, label, field, value)
    owner, kind = OWNERS[label], "measure" if label == "perplexity" else label
    with pytest.raises(RecipeError, match=rf"^{where}\.{field}: must be .*, got {value}"):
        run_stage(kind, name=f"{owner}-{label}", output=Path("out"), params=Path(f"params/{owner}.yaml"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "{}"],
        ["check", "recipes/{}.py"],
        ["report", "{}@HEAD"],
        ["init", "{}"],
        ["stage", "train", "--name", "a", "--output", "a", "--params", "{}"],
    ],
)
def test_a_name_on_the_command_line_that_no_file_can_have_is_told(project, capsys, arguments):
    assert main([argument.format("n" * 300) for argument in arguments]) == 1
    assert "File name too long; a name may have 255 bytes" in capsys.readouterr().err


def test_a_section_keeps_the_rules_of_a_text(project):
    set_param(project, "prepare", "heldout", {"type": "fraction", "of_total": 0.6})
    with pytest.raises(RecipeError, match=r"books-prepare\.heldout: must be at most Fraction\(0\.5\), got"):
        run_stage("prepare", name="books-prepare", output=Path("out"), params=Path("params/books.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machine: fast", "params.yaml:machine: must be a mapping of machines, got 'fast' (str); run `llmrecipe plan`"),
        ("machine: {books: [1]}", "params.yaml:machine.books: must be a mapping with the fields of Machine"),
        ("machine: {books: {device: tpu}}", "params.yaml:machine.books.device: must be 'auto' or 'cpu' or 'cuda'"),
        ("machine: {books: {devic: cpu}}", "params.yaml:machine.books.devic: no such field; did you mean 'device'?"),
        ("machine: [", "params.yaml: not YAML"),
    ],
)
def test_wrong_machines_are_refused(project, capsys, text, message):
    (project / "params.yaml").write_text(f"{text}\n")
    assert stage("prepare") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- a list", "text", "\x00", "a: 1\na: 2"])
def test_parameters_that_are_no_mapping_are_refused(project, capsys, text):
    (project / "params/books.yaml").write_text(text)
    assert stage("prepare") == 1
    assert capsys.readouterr().err.startswith("error")


# Inputs and outputs of a stage


@pytest.mark.parametrize(
    ("label", "missing"),
    [
        ("tokenizer", "documents"),
        ("tokenize", "documents"),
        ("train", "tokens"),
        ("export", "checkpoint"),
        ("quantize", "model"),
        ("perplexity", "model"),
    ],
)
def test_a_stage_without_an_input_that_it_needs_names_it(project, capsys, label, missing):
    assert stage(label, "other=data") == 1
    said = f"its section names no `inputs.{missing}`, which the stage needs; given: other; run `llmrecipe plan`"
    assert said in capsys.readouterr().err
    assert not list(project.glob("artifacts/*/*"))


def test_an_input_that_was_deleted_is_named(project, capsys):
    shutil.rmtree(project / "data")
    assert stage("prepare", "source0=data/books") == 1
    assert "error: data/books: no such file or folder" in capsys.readouterr().err


def test_an_input_that_dvc_keeps_and_that_is_not_here_is_to_be_pulled(project, capsys):
    shutil.rmtree(project / "data/books")
    (project / "data/books.dvc").write_text("outs:\n- path: books\n")
    assert stage("prepare", "source0=data/books") == 1
    assert "(the source0 input); data/books.dvc says that DVC keeps it; `dvc pull`" in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_any_more_is_named(project, capsys):
    for path in (project / "data/books").iterdir():
        path.unlink()
    assert stage("prepare", "source0=data/books") == 1
    assert "error: data/books/**/*.txt: no file matches this pattern" in capsys.readouterr().err
    assert not list(project.glob("artifacts/books/*"))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("data", "--output data: its content is replaced, and data/books is in it; name another folder"),
        ("data/books", "its content is replaced, and data/books is in it"),
        (".", "its content is replaced, and . is in it"),
        ("params.yaml", "params.yaml: a file, where the stage's output folder goes; move it away"),
    ],
)
def test_an_output_never_replaces_what_a_user_has_there(project, capsys, output, message):
    before = contents(project / "data")
    assert stage("prepare", "source0=data/books", output=output) == 1
    assert message in capsys.readouterr().err
    assert contents(project / "data") == before


# Artifacts


def test_an_artifact_that_is_sealed_twice_has_the_same_manifest(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/part.bin").write_bytes(b"12345")
    artifacts.seal(tmp_path, "model")
    once = (tmp_path / artifacts.MANIFEST).read_bytes()
    artifacts.seal(tmp_path, "model")
    assert (tmp_path / artifacts.MANIFEST).read_bytes() == once
    assert json.loads(once)["files"].keys() == {"a/part.bin"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no model artifact here; `dvc repro` makes it"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "no model artifact here"),
        (lambda folder: (folder / "manifest.json").unlink(), "no model artifact here"),
        (lambda folder: (folder / "manifest.json").write_text(""), r"manifest\.json: not the manifest of an artifact"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff"), "not the manifest of an artifact"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not the manifest of an artifact"),
        (lambda folder: (folder / "manifest.json").write_text('{"kind": "model"}'), "not the manifest of an artifact"),
        (lambda folder: artifacts.seal(folder, "tokens"), "expected a model artifact, found 'tokens'"),
        (lambda folder: (folder / "a.bin").unlink(), r"a\.bin: is missing, .* 5 bytes; .*`dvc repro`"),
        (
            lambda folder: (folder / "a.bin").write_bytes(b"1"),
            r"a\.bin: has 1 bytes, .* 5 bytes; .*`dvc repro`",
        ),
    ],
)
def test_a_damaged_artifact_is_refused_with_its_place(tmp_path, damage, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"12345")
    artifacts.seal(folder, "model")
    artifacts.open_artifact(folder, "model")
    damage(folder)
    with pytest.raises(StageError, match=f"^{re.escape(str(folder))}.*{message}"):
        artifacts.open_artifact(folder, "model")


# What the operating system refuses


@pytest.fixture
def full(tmp_path) -> Path:
    """A file on a full disk: the kernel refuses every write."""
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    return link


def refused(act) -> str | None:
    with pytest.raises(Exception) as caught:
        act()
    return refusal(caught.value)


def test_a_full_disk_is_known_in_whatever_library_meets_it(full, tmp_path):
    assert refused(lambda: full.write_text("x")) == "No space left on device; free some space, then run this again"
    assert refused(lambda: Tokenizer(models.BPE()).save(str(full))).startswith("No space left on device")

    def wrapped():
        try:
            full.write_text("x")
        except OSError as error:
            raise RuntimeError("the library's own words") from error

    assert refused(wrapped).startswith("No space left on device")


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert refused((tmp_path / "file/below").mkdir) == (
        f"{tmp_path}/file/below: Not a directory; a file is where a folder should be, move it away, then run this again"
    )
    missing = tmp_path / "missing/file"
    assert refused(lambda: safetensors.torch.save_file({"a": torch.ones(1)}, missing)) is None
    assert refusal(OSError(errno.EROFS, os.strerror(errno.EROFS), "a")).startswith("a: Read-only file system; make it")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "x", "y"), ValueError("x"), RuntimeError("(os error 2)"), None])
def test_other_errors_keep_their_traceback(error):
    assert refusal(error) is None


def test_planning_on_a_full_disk_leaves_the_files_as_they_were(project, capsys):
    (project / "recipes/tiny.py").write_text(TINY.replace("num_layers=2", "num_layers=3"))
    before = {name: (project / name).read_bytes() for name in ("dvc.yaml", "params.yaml")}
    (project / ".dvc.yaml.tmp").symlink_to("/dev/full")
    assert main(["plan", "tiny"]) == 1
    assert capsys.readouterr().err == "error: No space left on device; free some space, then run this again\n"
    assert {name: (project / name).read_bytes() for name in before} == before
    (project / ".dvc.yaml.tmp").unlink()
    assert main(["plan", "tiny"]) == 0


def test_a_file_in_place_of_the_scratch_folder_is_named(project, capsys):
    (project / ".llmrecipe").touch()
    assert stage("prepare", "source0=data/books") == 1
    assert "error: .llmrecipe: Not a directory; a file is where" in capsys.readouterr().err


# Recipes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('paths=("data/books/**/*.txt",)', 'paths="data/books/*.txt"', "paths: must be a tuple of str, got 'data"),
        (
            '("data/books/**/*.txt",)',
            '"a"',
            "small.models[0].text.source.paths: .*; a tuple of one needs a comma: (…,)",
        ),
        ('("data/books/**/*.txt",)', '["a"]', "got ['a'] (list); write (…) in place of […]"),
        ("data/books/**/*.txt", "data/books", "that is a folder; name the files in it, as in 'data/books/*'"),
        ("data/books/**/*.txt", "data/novels/*.txt", "no file matches 'data/novels/*.txt'; there is no folder"),
        ("(BASE, SMALLER)", "BASE", "small.models: .*; a tuple of one needs a comma"),
        ("(BASE, SMALLER)", "[BASE, SMALLER]", "small.models: .*; write (…) in place of […]"),
    ],
)
def test_a_common_slip_is_explained(project, capsys, old, new, message):
    text = TINY.replace(old, new)
    assert text != TINY
    (project / "recipes/tiny.py").write_text(text)
    assert main(["check", "tiny"]) == 1
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), capsys.readouterr().err)


def test_a_path_without_its_suffix_gets_the_file(project, capsys):
    assert main(["check", "recipes/tiny"]) == 1
    assert "recipes/tiny: no such file; did you mean 'recipes/tiny.py'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "plan", "report"])
def test_outside_a_project_every_command_says_where_to_go(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main([command]) == 1
    error = "error: no folder recipes here; go to the project's folder, or make one with `llmrecipe init`\n"
    assert capsys.readouterr().err == error
    assert not list(tmp_path.iterdir())


# Text files from elsewhere


@pytest.mark.parametrize(
    ("name", "origin", "lines"),
    [
        ("a.txt", source.TextFiles(paths=("a.txt",)), ["one", "two, three", ""]),
        ("a.csv", source.CsvFiles(paths=("a.csv",)), ["n,text", *(f'{n},"text, {n}"' for n in range(50))]),
        ("a.jsonl", source.JsonlFiles(paths=("a.jsonl",)), [json.dumps({"text": f"text, {n}"}) for n in range(50)]),
    ],
)
def test_windows_line_ends_and_a_byte_order_mark_change_no_text(tmp_path, monkeypatch, name, origin, lines):
    read = []
    for start, end in ((b"", "\n"), (b"\xef\xbb\xbf", "\r\n")):
        folder = tmp_path / end.encode().hex()
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / name).write_bytes(start + end.join(lines).encode())
        if name == "a.txt":
            for number in range(50):
                (folder / f"{number}.txt").write_bytes(start + end.join([*lines, str(number)]).encode())
            origin = source.TextFiles(paths=("*.txt",))
        section = PrepareSection(source=origin, clean=(), heldout=Fraction(0.3), shards=1)
        output = run("prepare", section, folder / "out").output
        read.append([read_documents(output / "documents", split) for split in ("train", "heldout")])
    assert read[0] == read[1]
    assert len(read[0][0]) + len(read[0][1]) >= 50


# With real DVC


@pytest.mark.slow
def test_a_failed_run_works_once_its_input_is_mended(tmp_path):
    recipe = Recipe(name="small", models=(evolve(BASE, text__heldout=Fraction(0.1)),))
    project = create(tmp_path / "Größe – 日本" / "my project", recipe)
    book = project / "data/books/7.txt"
    text = book.read_bytes()
    book.write_bytes(b"caf\xe9")
    with pytest.raises(AssertionError, match=r"error: data/books/7\.txt:1: not UTF-8") as failed:
        repro(project, "repro", "books-prepare")
    assert "Traceback" not in str(failed.value)
    assert not list(project.glob("artifacts/books/prepare*"))
    book.write_bytes(text)
    assert repro(project, "repro", "books-prepare") == ["books-prepare"]
    assert repro(project, "repro", "books-prepare") == []
