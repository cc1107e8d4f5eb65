"""The train stage killed at its worst moments, each chosen by the event itself, and run again."""

import signal
from pathlib import Path

import attrs
import pytest
from tiny_training import TRAINING, write_tokens
from train_project import Project

from llmrecipe import Parallelism, Steps, artifacts
from llmrecipe.engines.runs.checkpoints import KIND

pytestmark = pytest.mark.slow

SHORT = attrs.evolve(TRAINING, duration=Steps(8))
# Both ranks write shards.
LAYOUT = Parallelism(tensor=2, micro_batch_size=4)


def project(root: Path, tokens: Path) -> Project:
    """Eight steps, with checkpoints at 2, 4, 6 and 8, of which the last two are kept."""
    return Project(root, tokens, LAYOUT, SHORT, checkpoint_interval=2)


def switch(event: str, path: str, count: int = 1, *, rank: str | None = "0", victims: list[str] | str) -> dict:
    return {"event": event, "path": path, "count": count, "rank": rank, "victims": victims}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def straight(tokens, tmp_path_factory) -> Project:
    straight = project(tmp_path_factory.mktemp("project") / "straight", tokens)
    straight.finish()
    return straight


def check_end(killed: Project, straight: Project) -> None:
    """What must hold once the stage has ended, whatever happened before."""
    killed.finish()
    assert killed.outputs() == straight.outputs()
    assert killed.steps_logged() == list(range(1, 9))
    assert killed.checkpoints() == [6, 8]
    # Nothing is left over; what was measured of a run goes with it.
    assert files(killed.state) <= files(straight.state)


@pytest.mark.parametrize("alone", [True, False], ids=["a rank", "all"])
def test_killed_at_each_moment_of_a_checkpoint_a_training_ends_with_the_same_bytes(tokens, tmp_path, straight, alone):
    """One training, killed again each time that it has been continued."""
    killed = project(tmp_path / "killed", tokens)
    whole = files(straight.state / "checkpoints" / "8")

    def kill(victim: str, event: str, path: str, count: int = 1) -> Path:
        """Run into this event of this rank; the folder where checkpoints are written."""
        status, message = killed.run_into(switch(event, path, count, rank=victim, victims=[victim] if alone else "all"))
        assert status == (1 if alone else -signal.SIGKILL)
        if alone:
            assert f"rank {victim} was killed by SIGKILL" in message
        return killed.state / "checkpoints" / ".writing"

    # How many folders a rank makes depends on which the other has made; this many in any case.
    part = files(kill("1", "os.mkdir", r"\.writing/2/model/", 12) / "2")
    # Of the shard at work, and whatever else the other rank was writing, a part.
    assert part & whole
    assert whole - part - {artifacts.MANIFEST}
    assert killed.checkpoints() == []

    every_shard = files(kill("0", "open", r"\.writing/2/\.manifest.json.tmp") / "2")
    assert every_shard == whole - {artifacts.MANIFEST}
    assert killed.checkpoints() == []

    sealed = kill("0", "os.rename", r"/checkpoints/4$") / "4"
    artifacts.verify(sealed, KIND)
    assert killed.checkpoints() == [2]

    kill("0", "shutil.rmtree", r"/checkpoints/2$")
    assert killed.checkpoints() == [2, 4, 6]

    check_end(killed, straight)


def test_a_rank_killed_while_another_renames_the_checkpoint_costs_no_byte(tokens, tmp_path, straight):
    """The first rank goes on: the checkpoint is there or not, as it happens."""
    killed = project(tmp_path / "killed", tokens)
    assert killed.run_into(switch("os.rename", r"/checkpoints/4$", victims=["1"]))[0] == 1
    check_end(killed, straight)


def test_killed_outside_its_steps_a_training_leaves_no_part_of_anything(tokens, tmp_path, straight):
    killed = project(tmp_path / "killed", tokens)

    assert killed.run_into(switch("os.rename", "/first$", rank=None, victims="all"))[0] == -signal.SIGKILL
    assert (killed.state / ".first.tmp").exists()
    assert not (killed.state / "first").exists()

    # The last checkpoint is in place, and one more than is kept.
    assert killed.run_into(switch("shutil.rmtree", r"/checkpoints/4$", victims="all"))[0] == -signal.SIGKILL
    assert killed.checkpoints() == [4, 6, 8]

    writing = killed.output.with_name(".train.tmp")
    for event, path in (("open", r"\.train.tmp/\.metrics.json.tmp"), ("os.rename", "/train$")):
        assert killed.run_into(switch(event, path, rank=None, victims="all"))[0] == -signal.SIGKILL
        assert (writing / "checkpoint" / artifacts.MANIFEST).exists()
        assert not killed.output.exists()

    check_end(killed, straight)
    assert not writing.exists()
