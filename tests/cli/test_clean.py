"""`llmrecipe clean` deletes what no run will ask for, after it has said what; nothing else."""

from pathlib import Path

import pytest
from dvc_project import write
from tiny_recipe import BASE, RECIPE

from llmrecipe import Machine, artifacts, evolve
from llmrecipe.cli.clean import leftovers
from llmrecipe.cli.main import main
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.meaning import folder_of, meaning_of
from llmrecipe.launch.lock import exclusive
from llmrecipe.plan.planner import plan

STAGE = next(stage for stage in plan([RECIPE]).stages if stage.name == "tiny-train")
ROW = '{"loss": 1.5, "step": 20}\n'


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A planned project whose tokens are there."""
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    write(Path(), RECIPE)
    make_tokens("once upon a time")
    return tmp_path


def make_tokens(text: str) -> None:
    """The tokens that the planned run reads."""
    tokens = Path(STAGE.inputs["tokens"])
    tokens.mkdir(parents=True, exist_ok=True)
    (tokens / "00000.ds").write_text(text)
    artifacts.seal(tokens, "tokens")


def make_state(**training) -> Path:
    """The state of a run, with these changes to the planned one, that has logged a step and saved a checkpoint."""
    job = Job(
        section=evolve(STAGE.section, training=evolve(BASE.training, **training)),
        network=BASE.network,
        machine=Machine(),
        name=STAGE.name,
        modules=(),
        tokens=(STAGE.inputs["tokens"],),
        shares=(1.0,),
        vocab_size=300,
        rows=300,
        tokenizer=None,
        end_of_text_id=0,
        start=None,
        state="",
        events="",
        resume=None,
        compiled=False,
        math_library=None,
    )
    state = folder_of(meaning_of(job, job.section), Path(".llmrecipe/tiny-train"))
    (state / "metrics.jsonl").write_text(ROW)
    (state / "checkpoints/20").mkdir(parents=True)
    (state / "checkpoints/20/weights").write_bytes(b"0" * 2_000_000)
    return state


def hand_over() -> None:
    """Let the run of a state be finished: its result is an output."""
    checkpoint = Path(STAGE.product("checkpoint"))
    checkpoint.mkdir(parents=True)
    (checkpoint / "metrics.jsonl").write_text(ROW)


def found() -> dict[str, str]:
    return {str(leftover.path): leftover.reason for leftover in leftovers(Path())}


def test_a_state_that_the_planned_run_would_resume_stays(capsys):
    make_state()
    assert found() == {}
    assert main(["clean", "--yes"]) == 0
    assert "nothing in .llmrecipe is left over" in capsys.readouterr().out


def test_a_state_of_another_run_goes_and_the_difference_is_told():
    make_state()
    other = make_state(seed=8)
    assert found() == {str(other): "of another run than the planned one: training.seed: 8 → 42"}


def test_a_state_of_other_text_goes():
    state = make_state()
    make_tokens("twice upon a time")
    assert found() == {str(state): "of another run than the planned one: its inputs"}


def test_a_state_stays_as_long_as_the_text_that_it_would_read_is_not_there():
    make_state()
    (Path(STAGE.inputs["tokens"]) / artifacts.MANIFEST).unlink()
    assert found() == {}


def test_another_layout_or_reaction_to_anomalies_is_the_same_run():
    changed = evolve(BASE, parallelism__micro_batch_size=2, training__anomalies__action="skip")
    make_state()
    write(Path(), evolve(RECIPE, models=(changed,)))
    assert found() == {}


def test_a_state_whose_result_is_handed_over_goes_and_the_result_stays():
    state = make_state()
    hand_over()
    assert "its run is finished" in found()[str(state)]
    assert main(["clean", "--yes"]) == 0
    assert not state.exists()
    assert Path(STAGE.product("checkpoint"), "metrics.jsonl").read_text() == ROW


def test_a_state_whose_result_was_not_handed_over_stays():
    state = make_state()
    hand_over()
    (state / "metrics.jsonl").write_text(ROW * 2)
    assert found() == {}


def test_a_damaged_checkpoint_goes_and_the_others_stay():
    state = make_state()
    (state / "checkpoints/damaged-10").mkdir()
    assert found() == {str(state / "checkpoints/damaged-10"): "a damaged checkpoint, put aside"}
    assert main(["clean", "--yes"]) == 0
    assert [path.name for path in (state / "checkpoints").iterdir()] == ["20"]


def test_what_stages_without_a_plan_left_goes():
    Path(".llmrecipe/old-train/0123").mkdir(parents=True)
    Path(".llmrecipe/books-prepare/4567.discarded").mkdir(parents=True)
    Path(".llmrecipe/books-prepare/89ab").mkdir()
    Path(".llmrecipe/certify/small/straight").mkdir(parents=True)
    # Outputs in DVC's cache may come back, and these belong to them.
    Path(".llmrecipe/times/old-train/0123").mkdir(parents=True)
    assert found() == {
        ".llmrecipe/certify/small": "left by a proof that didn't pass",
        ".llmrecipe/books-prepare/4567.discarded": "discarded, and its deletion was interrupted",
        ".llmrecipe/old-train": "no planned stage has this name",
    }


@pytest.mark.parametrize("lock", [".llmrecipe/tiny-train.lock", "ranks.lock"])
def test_a_state_that_is_in_use_stays(lock):
    state = make_state(seed=8)
    assert len(found()) == 1
    with exclusive(Path(lock) if "/" in lock else state / lock, "training"):
        assert found() == {}
    assert len(found()) == 1


def test_a_proof_that_is_under_way_and_a_stage_that_runs_without_a_plan_stay():
    Path(".llmrecipe/certify/small").mkdir(parents=True)
    Path(".llmrecipe/old-train/0123").mkdir(parents=True)
    with exclusive(Path(".llmrecipe/certify/small.lock"), "certifying"):
        assert found().keys() == {".llmrecipe/old-train"}
        with exclusive(Path(".llmrecipe/old-train.lock"), "training"):
            assert found() == {}


def test_what_would_go_is_listed_with_its_size_and_nothing_goes_unasked(capsys):
    state = make_state(seed=8)
    for option in (["--dry-run"], []):
        assert main(["clean", *option]) == 0
        out = capsys.readouterr().out
        assert f"2.0 MB  {state}: of another run than the planned one" in out
        assert "2.0 MB  in all" in out
        assert ("`llmrecipe clean --yes` deletes all of these" in out) == (not option)
        assert state.exists()


@pytest.mark.parametrize(("answer", "goes"), [("y", True), ("yes", True), ("n", False), ("", False)])
def test_at_a_terminal_it_asks(monkeypatch, answer, goes):
    state = make_state(seed=8)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["clean"]) == 0
    assert state.exists() == (not goes)


def test_a_folder_without_a_scratch_folder_is_clean(capsys):
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "nothing in .llmrecipe is left over\n"
