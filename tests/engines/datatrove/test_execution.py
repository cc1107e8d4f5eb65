"""The same bytes wherever text is prepared. Slurm is that of `fake_slurm`: it runs the real job script, here."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import attrs
import dill
import pytest
from backports import zstd
from corpora import contents, run, write_jsonl
from datatrove.pipeline.base import PipelineStep
from paths import SUPPORT

from llmrecipe.engines.datatrove.executors import executor, ray, slurm
from llmrecipe.errors import StageError
from llmrecipe.extensions import load_extension
from llmrecipe.recipe.cleaning import FixUnicode, GopherQuality
from llmrecipe.recipe.deduplication import ExactDedup
from llmrecipe.recipe.kinds import Cleaner
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.place import Ray, Slurm
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.schema import members
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE
from llmrecipe.sections import PrepareSection, TokenizerSection, TokenizeSection

ON_SLURM = Machine(text_on=Slurm(partition="cpu", time_limit="1:00:00", account="us"))

SECTION = PrepareSection(
    source=JsonlFiles(paths=("data/*.jsonl",)),
    clean=(FixUnicode(), GopherQuality(min_words=3, min_alphabetic_words=0, min_stop_words=0)),
    heldout=Fraction(0.3),
    shards=2,
)

TOKENIZER = TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=260))


class Once(PipelineStep):
    """Counts its runs in the folder's files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data=None, rank=0, world_size=1):
        with open(self.folder / f"ran{rank}", "a") as file:
            file.write("x")
        self.stat_update("documents", value=rank)
        yield from ()


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"document {number % 50}, with a text of its own" for number in range(60)]
    write_jsonl(tmp_path / "data/a.jsonl", ["too short", *texts])
    return tmp_path


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Slurm that is asked without a pause."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{SUPPORT / 'fake_slurm'}:{os.environ['PATH']}")
    for name, seconds in (("LOOK_SECONDS", 0.02), ("ASK_SECONDS", 0.02), ("GRACE_SECONDS", 0.1)):
        monkeypatch.setattr(slurm, name, seconds)
    return folder


def calls(cluster: Path) -> list[str]:
    return (cluster / "calls").read_text().split()


def count(folder: Path, tasks: int = 3, machine: Machine = ON_SLURM):
    """What a pass counts whose tasks count their numbers."""
    return executor.run("counting", [("once", Once(folder))], tasks=tasks, machine=machine, work=folder / "work")


@pytest.mark.slow
def test_a_corpus_has_the_same_bytes_from_slurm_and_its_errors_come_back(project, cluster, capfd):
    here = run("prepare", SECTION, project / "here")
    there = run("prepare", SECTION, project / "there", machine=ON_SLURM)
    assert contents(there.output) == contents(here.output)
    scripts = [path.read_text() for path in sorted(cluster.glob("*.sh"))]
    assert len(scripts) == 1
    for option in ("partition=cpu", "time=1:00:00", "account=us", "array=0-1%2", "mem-per-cpu=4G"):
        assert f"#SBATCH --{option}\n" in scripts[0]
    assert "--qos" not in scripts[0]
    assert capfd.readouterr().err == ""

    write_jsonl(project / "data/b.jsonl", []).write_text("no json\n" * 60)
    with pytest.raises(StageError, match=r"^data/b\.jsonl:1: not JSON"):
        run("prepare", SECTION, project / "broken", machine=ON_SLURM)
    assert not list((cluster / "queue").iterdir())


SHOUT = """
from llmrecipe.extend import CustomCleaner, define


@define("shout_on_a_node")
class Shout(CustomCleaner):
    def clean(self, text: str) -> str | None:
        return text.upper()
"""


@pytest.mark.slow
def test_a_cleaner_of_a_users_own_works_on_a_node(project, cluster, monkeypatch):
    (project / "shout_on_a_node.py").write_text(SHOUT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    load_extension(Path("shout_on_a_node.py"))
    section = attrs.evolve(SECTION, clean=(members(Cleaner)["shout_on_a_node"](),))
    here, there = (
        run("prepare", section, project / name, machine=on) for name, on in (("here", None), ("there", ON_SLURM))
    )
    assert b"DOCUMENT" in zstd.decompress((there.output / "documents/train/00000.jsonl.zst").read_bytes())
    assert contents(there.output) == contents(here.output)


def test_every_step_survives_the_way_to_a_node(project, cluster, monkeypatch):
    """Without the seconds that a job takes to start."""

    def submit(there: slurm.SlurmExecutor) -> None:
        for rank in there.get_incomplete_ranks():
            dill.loads(dill.dumps(there, fmode=dill.CONTENTS_FMODE))._run_for_rank(rank)

    monkeypatch.setattr(slurm.SlurmExecutor, "_submit", submit)
    monkeypatch.setenv("SLURM_NODELIST", "node7")
    section = attrs.evolve(SECTION, clean=(*SECTION.clean, ExactDedup()))
    outputs = []
    for name, machine in (("here", None), ("there", ON_SLURM)):
        documents = run("prepare", section, project / name, machine=machine).output / "documents"
        tokenizer = run("tokenizer", TOKENIZER, project / name, {"documents": documents}).output / "tokenizer"
        inputs = {"documents": documents, "tokenizer": tokenizer}
        outputs.append(contents(run("tokenize", TokenizeSection(), project / name, inputs, machine).output.parent))
    assert outputs[0] == outputs[1]


def test_a_job_that_ends_unfinished_is_named_with_its_log(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("FAKE_JOB", "echo slurmstepd: oom_kill")
    lost = r"task 0 ended before its work did: .*; its log is \S+/100_0\.out\. Raise"
    with pytest.raises(StageError, match=lost) as ended:
        count(tmp_path)
    log = str(ended.value).partition("its log is ")[2].partition(". Raise")[0]
    assert Path(log).read_text() == "slurmstepd: oom_kill\n"
    assert calls(cluster)[-1] == "scancel"


def test_what_slurm_refuses_is_an_error_that_leads_to_the_script(tmp_path, cluster, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_REFUSAL", "invalid partition specified: cpu")
    with pytest.raises(StageError, match=r"`sbatch` refused the job .*; its script is (\S+)") as refused:
        count(tmp_path)
    assert "partition=cpu" in Path(str(refused.value).rpartition(" ")[2]).read_text()
    assert "invalid partition specified: cpu" in capfd.readouterr().err


def test_without_slurm_the_error_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StageError, match=r"no `sbatch` on this machine; .* on a login node"):
        count(tmp_path)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_jobs_are_cancelled_when_the_stage_is_stopped(tmp_path, cluster, monkeypatch, number, raised):
    # Late enough for `sbatch` to have come back.
    monkeypatch.setenv("FAKE_JOB", "sleep 0.2; touch $FAKE_SLURM/begun; sleep 600")

    def stop() -> None:
        while not (cluster / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    with pytest.raises(raised):
        count(tmp_path)
    assert list((cluster / "queue").iterdir()) == []
    assert calls(cluster) == ["scancel", "sbatch", "scancel"]


def test_jobs_that_a_killed_stage_left_are_ended_before_new_ones_start(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("FAKE_JOB", "sleep 600")
    options = {"tasks": 3, "machine": ON_SLURM, "logs": tmp_path / "work/logs"}
    slurm.SlurmExecutor("counting", [Once(tmp_path)], **options).launch_job()
    assert len(list((cluster / "queue").iterdir())) == 3
    left = int((cluster / "100.pid").read_text())
    monkeypatch.setenv("FAKE_JOB", "true")
    with pytest.raises(StageError, match="ended before its work did"):
        count(tmp_path)
    assert not Path(f"/proc/{left}/cwd").exists()
    assert calls(cluster) == ["sbatch", "scancel", "sbatch", "scancel"]


def test_tasks_that_are_finished_need_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert count(tmp_path, machine=Machine()) == count(tmp_path)


def test_a_large_corpus_fits_an_array_of_jobs(tmp_path):
    options = {"machine": ON_SLURM, "logs": tmp_path}
    for tasks, per_job in ((1000, 1), (1001, 2), (25_000, 25)):
        assert slurm.SlurmExecutor("x", [Once(tmp_path)], tasks=tasks, **options).tasks_per_job == per_job


@pytest.mark.slow
def test_a_corpus_has_the_same_bytes_from_ray_and_its_errors_come_back(project):
    cluster = pytest.importorskip("ray")
    on_ray = Machine(text_on=Ray(memory_per_cpu_gb=1))
    here = run("prepare", SECTION, project / "here")
    try:
        there = run("prepare", SECTION, project / "there", machine=on_ray)
        assert contents(there.output) == contents(here.output)

        write_jsonl(project / "data/b.jsonl", []).write_text("no json\n" * 60)
        with pytest.raises(StageError, match=r"^data/b\.jsonl:1: not JSON"):
            run("prepare", SECTION, project / "broken", machine=on_ray)

        large = Machine(text_on=Ray(memory_per_cpu_gb=99_999))
        with pytest.raises(StageError, match=r"a task gets 1 cores and 99999 GB, and no node .* has as much"):
            run("prepare", SECTION, project / "large", machine=large)
    finally:
        cluster.shutdown()


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(ray.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StageError, match=r"`ray` is not installed; `pip install 'llmrecipe\[ray\]'`"):
        count(tmp_path, machine=Machine(text_on=Ray()))


def test_a_cluster_that_does_not_answer_is_an_error_at_once(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(StageError, match=r"^machine\.text_on\.address: no Ray cluster at '127\.0\.0\.1:1'"):
        count(tmp_path, machine=Machine(text_on=Ray(address="127.0.0.1:1")))
