"""Prepare and tokenize, interrupted and run again."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import yaml
from corpora import contents, run, write_jsonl
from datatrove.executor.base import PipelineExecutor
from paths import SUPPORT

from llmrecipe import artifacts, wiring
from llmrecipe.engines.datatrove import documents, tokenize
from llmrecipe.engines.datatrove.executors import tasks
from llmrecipe.errors import StageError
from llmrecipe.recipe.deduplication import ExactDedup
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE
from llmrecipe.sections import PrepareSection, TokenizerSection, TokenizeSection
from llmrecipe.stages import prepare as prepare_stage
from llmrecipe.stages import resumable, runner
from llmrecipe.wiring import Wiring

SECTION = PrepareSection(
    source=JsonlFiles(paths=("data/*.jsonl",)), clean=(ExactDedup(),), heldout=Fraction(0.3), shards=4
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Four files, one for each shard; one text stands in all."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        texts = [f"file {number}, document {line:02}" for line in range(40)]
        write_jsonl(tmp_path / f"data/{number}.jsonl", ["the same in all of the files", *texts])
    # As some data sets bring one; it is no artifact's, and says nothing of the other files.
    (tmp_path / "data/manifest.json").write_text('{"files": 4}')
    return tmp_path


@pytest.fixture
def begun(monkeypatch) -> list[tuple[str, int]]:
    """The tasks that are begun in this process."""
    tasks_begun, begin = [], PipelineExecutor._run_for_rank

    def note(self, rank, *arguments):
        tasks_begun.append((self.what, rank))
        return begin(self, rank, *arguments)

    monkeypatch.setattr(PipelineExecutor, "_run_for_rank", note)
    return tasks_begun


def interrupt(project: Path, monkeypatch) -> None:
    """A stage that ends while the last pass is at its third shard, and leaves its state."""

    def interrupted(self, document, *arguments):
        if document.text == "file 2, document 20":
            raise StageError("interrupted")
        return write(self, document, *arguments)

    write = documents.DocumentWriter.write
    with monkeypatch.context() as patch:
        patch.setattr(documents.DocumentWriter, "write", interrupted)
        with pytest.raises(StageError, match="interrupted"):
            prepare(project, "interrupted")


def prepare(project: Path, name: str, section: PrepareSection = SECTION, machine: Machine | None = None):
    """Run the stage, with the same scratch each time."""
    output = project / name
    output.mkdir()
    context = runner.StageContext(
        name="corpus-prepare",
        section=section,
        inputs={"source": Path("data")},
        output=output,
        machine=machine or Machine(workers=1),
        scratch=project / "scratch",
    )
    prepare_stage.run(context)
    return context


def test_what_was_finished_is_not_done_again(project, monkeypatch, begun, caplog):
    whole = prepare(project, "straight")
    assert [rank for what, rank in begun if what == "splitting"] == [0, 1, 2, 3]
    interrupt(project, monkeypatch)
    begun.clear()
    with caplog.at_level("INFO"):
        resumed = prepare(project, "resumed")
    assert begun == [("splitting", 2), ("splitting", 3)]
    assert contents(resumed.output) == contents(whole.output)
    read = json.loads((whole.output / "metrics.json").read_text())["read"]["documents"]
    assert f"reading: {read} documents, 100 %, finished by an earlier run" in caplog.text
    assert re.search(r"splitting: \d+ documents, 50 %, finished by an earlier run", caplog.text)
    assert f"splitting: {read} documents, 100 %, " in caplog.text
    assert not resumed.scratch.exists()
    # The rate of half the work would be twice as high.
    assert (set(whole.measured), set(resumed.measured)) == ({"documents_per_second", "megabytes_per_second"}, set())


def test_it_goes_on_with_another_number_of_workers(project, monkeypatch):
    whole = prepare(project, "straight")
    interrupt(project, monkeypatch)
    (state,) = (project / "scratch").iterdir()
    finished = {path.name: path.stat().st_mtime_ns for path in (state / "documents/train").glob("0000[01]*")}
    resumed = prepare(project, "resumed", machine=Machine(workers=2))
    assert contents(resumed.output) == contents(whole.output)
    train = resumed.output / "documents/train"
    assert {name: (train / name).stat().st_mtime_ns for name in finished} == finished


def change_section(section: PrepareSection) -> PrepareSection:
    return attrs.evolve(section, heldout=Fraction(0.4))


def change_input(section: PrepareSection) -> PrepareSection:
    write_jsonl(Path("data/0.jsonl"), [f"other {number}" for number in range(41)])
    return section


def add_input(section: PrepareSection) -> PrepareSection:
    write_jsonl(Path("data/4.jsonl"), ["one more"])
    return section


@pytest.mark.parametrize("change", [change_section, change_input, add_input])
def test_another_section_or_input_begins_anew(project, monkeypatch, begun, change):
    interrupt(project, monkeypatch)
    (old,) = (project / "scratch").iterdir()
    section = change(SECTION)
    begun.clear()
    changed = prepare(project, "changed", section)
    assert not old.exists()
    assert [rank for what, rank in begun if what == "reading"] == [0, 1, 2, 3]
    assert contents(changed.output) == contents(prepare(project, "fresh", section).output)


def test_another_python_or_package_begins_anew(project, monkeypatch, begun):
    interrupt(project, monkeypatch)
    monkeypatch.setattr(resumable.platform, "python_version", lambda: "3.99.0")
    begun.clear()
    prepare(project, "changed")
    assert ("reading", 0) in begun


def test_a_task_counts_as_finished_only_once_its_files_are_on_the_disk(project, monkeypatch):
    marked, synced, sync, mark = [], [], artifacts.sync_file_system, PipelineExecutor.mark_rank_as_completed

    def note_sync(path: Path) -> None:
        sync(path)
        synced.append({file.relative_to(project / "scratch") for file in (project / "scratch").rglob("*.zst")})

    def note_mark(self, rank: int) -> None:
        marked.append((self.what, rank, len(synced)))
        mark(self, rank)

    monkeypatch.setattr(tasks.artifacts, "sync_file_system", note_sync)
    monkeypatch.setattr(PipelineExecutor, "mark_rank_as_completed", note_mark)
    prepare(project, "out")
    assert [count for *_, count in marked] == list(range(1, len(marked) + 1))
    # All that the last task has written was there.
    assert len(synced[-1]) == 8


def test_tokenize_goes_on_too(project, monkeypatch, begun):
    corpus = prepare(project, "corpus").output / "documents"
    tokenizer = run(
        "tokenizer", TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=300)), project, {"documents": corpus}
    )
    inputs = {"documents": corpus, "tokenizer": tokenizer.output / "tokenizer"}
    whole = run("tokenize", TokenizeSection(), project / "straight", inputs)

    encode = tokenize.FileTokenizer.run

    def interrupted(self, data, rank=0, world_size=1):
        if rank == 2:
            raise StageError("interrupted")
        yield from encode(self, data, rank, world_size) or ()

    with monkeypatch.context() as patch:
        patch.setattr(tokenize.FileTokenizer, "run", interrupted)
        with pytest.raises(StageError, match="interrupted"):
            run("tokenize", TokenizeSection(), project / "again", inputs)
    os.rename(project / "again/tokenize", project / "again/old")
    begun.clear()
    resumed = run("tokenize", TokenizeSection(), project / "again", inputs)
    assert begun[0] == ("tokenizing", 2)
    assert (set(whole.measured), set(resumed.measured)) == ({"tokens_per_second"}, set())
    assert contents(resumed.output) == contents(whole.output)


# Killed


def stage(project: Path, switch: dict | None) -> subprocess.CompletedProcess:
    """The stage as `dvc.yaml` calls it, killed at what the switch says."""
    options = ["--output", "artifacts/prepare"]
    paths = [str(SUPPORT / "kill_switch"), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if switch:
        environment["KILL_SWITCH"] = json.dumps(switch | {"rank": None, "victims": "all"})
    return subprocess.run(
        [sys.executable, "-m", "llmrecipe", "stage", "prepare", "--name", "c-prepare", *options],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_prepare_goes_on_and_ends_with_the_same_bytes(project):
    whole = contents(prepare(project, "straight").output)
    section = wiring.written(SECTION, Wiring(inputs={"source": "data"}))
    params = {"c-prepare": section, "machine": {"default": {"workers": 1}}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    expected = ""
    for event, path, next_says in (
        # In the midst of the first pass's third task.
        ("open", r"0/documents/00002\.jsonl$", r"reading: \d+ documents, 50 %, finished"),
        # The last pass's second task has written everything, and isn't marked yet.
        ("open", r"(split|pass1)/logs/completions/00001$", r"splitting: \d+ documents, 25 %, finished"),
        # All tasks are finished, and the documents are being sealed.
        ("open", r"documents/\.manifest\.json\.tmp$", r"splitting: \d+ documents, 100 %, finished"),
    ):
        killed = stage(project, {"event": event, "path": path, "count": 1})
        assert killed.returncode == -signal.SIGKILL
        assert re.search(expected, killed.stderr)
        assert not (project / "artifacts/prepare").exists()
        expected = next_says
    # The documents have gone to the output, which goes with the stage, and the rest is still there.
    killed = stage(project, {"event": "shutil.rmtree", "path": r"\.llmrecipe/c-prepare$", "count": 1})
    assert killed.returncode == -signal.SIGKILL
    assert re.search(expected, killed.stderr)
    assert list(project.glob(".llmrecipe/c-prepare/*/*/logs/completions/*"))
    ended = stage(project, None)
    assert "finished by an earlier run" not in ended.stderr
    assert contents(project / "artifacts/prepare") == whole
    assert not (project / ".llmrecipe/c-prepare").exists()
