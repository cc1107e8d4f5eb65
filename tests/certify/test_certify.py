"""`llmrecipe certify`: what passes, what doesn't, and what is said of it."""

import math
import re
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from paths import RECIPES
from safetensors.torch import save_file
from tiny_training import MASKING, write_tokens

from llmrecipe import CausalLM, FillInTheMiddle, MaskedLM, artifacts
from llmrecipe.certify import proof, tokens
from llmrecipe.certify.comparison import EXACT, ROUNDING, WeightsDifference, compare, tolerance_of, widened
from llmrecipe.certify.run import Run
from llmrecipe.cli.main import main
from llmrecipe.engines.models.difference import weights_difference
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.recipe.optimizer import SGD, AdamW

ROWS = [
    {"step": step, "tokens": 512 * step, "loss": 6.0 - 0.1 * step, "learning_rate": 1e-3 * step, "grad_norm": 1.0}
    | {"samples": f"{step:02x}"}
    | ({"validation_loss": 5.0} if step % 2 == 0 else {})
    for step in range(1, 9)
]
CAUSAL = CausalLM(sequence_length=64)
SAME = WeightsDifference(largest=0.0, where="")
FLOAT32 = ROUNDING["float32"]

SMALL = """
from llmrecipe import *

def small() -> Recipe:
    tiny = Trained(
        name="tiny",
        start=Llama(hidden_size=128, num_layers=4, num_attention_heads=4, num_key_value_heads=2),
        text=Corpus(name="books", source=source.TextFiles(paths=("data/books/*.txt",))),
        tokenizer=ByteLevelBPE(vocab_size=300),
        objective=CausalLM(sequence_length=256),
        training=Training(
            duration=Steps(1000),
            global_batch_size=64,
            optimizer=optimizer.AdamW(learning_rate=1e-3),
            dropout=Dropout(residual=0.1, attention=0.1, embedding=0.1),
            z_loss=1e-4,
        ),
    )
    return Recipe(name="small", models=(tiny,))
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with our own recipes and a small one, whose text isn't there."""
    shutil.copytree(RECIPES, tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "recipes/small.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(step: int, **values) -> list[dict]:
    return [row | values if row["step"] == step else row for row in ROWS]


def failing(found, weights=SAME, tolerance=EXACT) -> dict[str, str]:
    """The columns that don't pass, and where."""
    return {column.name: column.where for column in compare(ROWS, found, weights, tolerance) if not column.passes}


@pytest.mark.parametrize("tolerance", [EXACT, *ROUNDING.values()])
def test_equal_trainings_pass(tolerance):
    columns = compare(ROWS, [dict(row) for row in ROWS], SAME, tolerance)

    assert [column.name for column in columns] == ["learning rate", "samples", "loss", "weights"]
    assert all(column.difference == 0 and column.passes for column in columns)


@pytest.mark.parametrize("tolerance", [EXACT, *ROUNDING.values()])
def test_a_learning_rate_or_a_sample_is_never_rounded(tolerance):
    next_rate = math.nextafter(6e-3, 1)

    assert failing(changed(6, learning_rate=next_rate), tolerance=tolerance) == {
        "learning rate": "learning_rate of step 6"
    }
    assert failing(changed(6, samples="ff"), tolerance=tolerance) == {"samples": "samples of step 6"}


def test_the_first_rate_of_a_resume_that_starts_at_zero_is_seen():
    assert failing(changed(5, learning_rate=0.0), tolerance=FLOAT32) == {"learning rate": "learning_rate of step 5"}


def test_an_interruption_may_not_change_the_last_bit_of_anything_logged():
    for name, value in (("loss", 5.5), ("validation_loss", 5.0), ("grad_norm", 1.0), ("tokens", 2048)):
        assert failing(changed(4, **{name: math.nextafter(value, 9)})) == {"loss": f"{name} of step 4"}


def test_a_layout_may_round_a_loss_and_a_weight_and_no_more():
    near, far = 5.6 * (1 + 9e-6), 5.6 * (1 + 2e-5)
    assert failing(changed(4, loss=near), WeightsDifference(largest=9e-5, where="w"), FLOAT32) == {}
    assert failing(changed(4, loss=far), WeightsDifference(largest=2e-4, where="w"), FLOAT32) == {
        "loss": "loss of step 4",
        "weights": "w",
    }
    for name in ("context_loss", "validation_loss"):
        assert failing(changed(4, **{name: 5.001}), tolerance=FLOAT32) == {"loss": f"{name} of step 4"}


@pytest.mark.parametrize(
    ("precision", "optimizer", "weights"),
    [
        ("float32", AdamW(learning_rate=3e-4), 1e-4),
        ("float32", AdamW(learning_rate=1e-2), 1e-3),
        ("float32", SGD(learning_rate=0.5), 1e-4),
        ("bfloat16", AdamW(learning_rate=1e-2), 2**-5),
        ("float8", AdamW(learning_rate=1e-2), 2**-4),
    ],
)
def test_a_large_rate_of_adam_explains_more_of_a_weight(precision, optimizer, weights):
    assert tolerance_of(precision, optimizer).weights == pytest.approx(weights)


def test_rounding_is_measured_where_it_goes_far_and_never_explains_everything():
    def allowed(loss: float, weight: float) -> tuple[float, float]:
        apart = WeightsDifference(largest=weight, where="w")
        found = widened(FLOAT32, compare(ROWS, changed(4, loss=5.6 * (1 + loss), grad_norm=9.0), apart, FLOAT32))
        return found.loss, found.weights

    assert allowed(0.0, 0.0) == (1e-5, 1e-4)
    assert allowed(2e-4, 1e-3) == pytest.approx((16 * 2e-4, 16e-3), rel=1e-3)
    assert allowed(0.5, 1e-3) == pytest.approx((1e-2, 16e-3))


@pytest.mark.slow
@pytest.mark.parametrize(("rounded", "passes"), [(2e-5, False), (4e-4, True)])
def test_another_layout_is_measured_by_a_run_that_differs_in_rounding_alone(capfd, monkeypatch, rounded, passes):
    def train(run: Run) -> list[dict]:
        run.checkpoint.parent.mkdir(parents=True)
        write_checkpoint(run.checkpoint, {"w": torch.tensor([1.0])})
        apart = {"moved": 1e-3, "rounded": rounded}.get(run.root.name, 0.0)
        return changed(8, loss=5.2 * (1 + apart))

    monkeypatch.setattr(Run, "train", train)
    monkeypatch.setattr(Run, "train_until_killed", lambda run, step: (step, 2))

    assert main(["certify", "small", "--steps", "8"]) == (0 if passes else 1)

    out, err = capfd.readouterr()
    assert "run 4, since that is more than rounding usually is: other micro-batches, one rank" in err
    assert re.search(rf"^under tensor 2 .* 1.0e-03 +identical {'passes' if passes else 'fails'} *$", out, re.M)


def test_a_number_that_is_none_passes_nowhere():
    for tolerance in (EXACT, FLOAT32, ROUNDING["bfloat16"]):
        assert failing(changed(3, loss=math.nan), tolerance=tolerance) == {"loss": "loss of step 3"}
        assert failing(changed(4, validation_loss=None), tolerance=tolerance) == {"loss": "validation_loss of step 4"}


def test_every_step_is_logged_once_and_with_its_samples():
    assert failing([*ROWS[:6], *ROWS[4:]]) == {"samples": "step 5, logged 2 times"}
    assert failing([*ROWS[:4], *ROWS[5:]]) == {"samples": "step 5, logged 0 times"}
    unknown = [{name: value for name, value in row.items() if name != "samples"} for row in ROWS]
    assert failing(unknown) == {"samples": "step 1, logged without its samples"}
    assert failing([*ROWS, ROWS[-1] | {"step": 9}]) == {"samples": "9 steps in place of 8"}


def write_checkpoint(directory: Path, weights: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    save_file(weights, directory / "model.safetensors")
    artifacts.seal(directory, "checkpoint")
    return directory


def test_weights_are_compared_by_name_shape_and_format(tmp_path):
    weights = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.zeros(2, 2, dtype=torch.bfloat16)}
    straight = write_checkpoint(tmp_path / "straight", weights)

    def found(name: str, other: dict[str, torch.Tensor]) -> tuple[float, str]:
        difference = weights_difference(straight, write_checkpoint(tmp_path / name, other))
        return difference["largest"], difference["where"]

    assert found("equal", weights) == (0.0, "")
    assert found("rounded", weights | {"a": torch.tensor([1, 1 + 2**-7, 1], dtype=torch.bfloat16)}) == (2**-7, "a")
    assert found("in another format", weights | {"a": weights["a"].float()}) == (math.inf, "a")
    assert found("of another shape", weights | {"a": weights["a"][:2]}) == (math.inf, "a")
    assert found("lost", {"a": weights["a"]}) == (math.inf, "b")
    assert found("broken", weights | {"b": weights["b"] * math.nan}) == (math.inf, "b")


def test_weights_of_other_bits_are_not_identical(tmp_path):
    one = write_checkpoint(tmp_path / "one", {"w": torch.zeros(2)})
    other = write_checkpoint(tmp_path / "other", {"w": -torch.zeros(2)})

    difference = proof.weights_difference(one, other)

    assert failing(ROWS, difference) == {"weights": difference.where}
    assert failing(ROWS, difference, FLOAT32) == {}


def find_or_make(own: Path, objective, made: Path) -> tokens.Tokens:
    return tokens.find_or_make({"tokens": own}, [1.0], objective, made)


def test_made_tokens_are_a_tokens_artifact(tmp_path):
    made = find_or_make(tmp_path / "none", CAUSAL, tmp_path / "made")
    (directory,) = made.inputs.values()
    files = TokenFiles.open(directory, "train")

    assert "no tokens artifact here" in made.origin
    assert files.num_windows(64) >= 8
    assert files.vocab_size == made.vocab_size > int(files.window(0, 64).max())
    assert not files.masked_vocabulary.is_special.all()
    assert files.masked_vocabulary.is_special[[files.end_of_text_id, files.masked_vocabulary.mask_id]].all()
    assert TokenFiles.open(directory, "heldout").num_windows(64) >= 1


def test_the_recipes_own_tokens_are_taken_if_they_are_of_use(tmp_path, monkeypatch):
    own = write_tokens(tmp_path / "own", train=2_000, heldout=200)

    assert find_or_make(own, CAUSAL, tmp_path / "unused").inputs == {"tokens": own}
    assert not (tmp_path / "unused").exists()
    short = write_tokens(tmp_path / "short", train=500, heldout=200)
    assert "500 tokens, too few" in find_or_make(short, CAUSAL, tmp_path / "made").origin
    monkeypatch.setattr(tokens, "LARGEST_VOCAB", 499)
    assert "vocabulary of 500" in find_or_make(own, CAUSAL, tmp_path / "other").origin
    monkeypatch.undo()
    monkeypatch.setattr(tokens, "SMALLEST_VOCAB", 501)
    assert "vocabulary of 500 is less than" in find_or_make(own, CAUSAL, tmp_path / "third").origin
    monkeypatch.undo()
    masked = MaskedLM(sequence_length=64)
    assert "no mask token" in find_or_make(own, masked, tmp_path / "fourth").origin
    other = attrs.evolve(CAUSAL, fill_in_the_middle=FillInTheMiddle(suffix_token="<s>"))
    assert "no special token '<s>'" in find_or_make(own, other, tmp_path / "fifth").origin
    masking = write_tokens(tmp_path / "masking", masking=MASKING, train=2_000, heldout=200)
    assert find_or_make(masking, masked, tmp_path / "unused").inputs == {"tokens": masking}
    (own / "train/00000.ds").unlink()
    assert "00000.ds: is missing" in find_or_make(own, CAUSAL, tmp_path / "another").origin


def test_a_recipe_that_cannot_work_is_refused_as_by_check(capsys, project):
    (project / "recipes/small.py").write_text(SMALL.replace("num_key_value_heads=2", "num_key_value_heads=3"))

    assert main(["certify", "small"]) == 1
    refused = capsys.readouterr().err
    assert "small.models[0].start.num_key_value_heads: 3 does not divide num_attention_heads = 4" in refused
    assert main(["check", "small"]) == 1
    # And, there, the text that is missing.
    assert refused.removeprefix("error: ") in capsys.readouterr().err
    assert not (project / ".llmrecipe").exists()


@pytest.mark.parametrize("steps", ["7", "-20", "x"])
def test_too_few_steps_are_wrong_usage(steps, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["certify", "--steps", steps])
    assert caught.value.code == 2
    assert "at least 8" in capsys.readouterr().err


REARRANGED = {
    "vocab_size=300": f"vocab_size=300, special_tokens={FillInTheMiddle().tokens}",
    "sequence_length=256": "sequence_length=256, fill_in_the_middle=FillInTheMiddle()",
}
MASKED = {
    "ByteLevelBPE": "WordPiece",
    "Llama": "Bert",
    ", num_key_value_heads=2": "",
    "CausalLM": "MultiMaskLM",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", [REARRANGED, MASKED], ids=["causal", "masked"])
def test_an_exact_training_is_certified(capfd, project, words):
    text = SMALL
    for word, other in words.items():
        text = text.replace(word, other)
    (project / "recipes/small.py").write_text(text)

    assert main(["certify", "small"]) == 0

    out, err = capfd.readouterr()
    assert re.search(r"^tokens: made ones \(artifacts/books-\w+-300/tokenize/tokens: no tokens artifact", out, re.M)
    header, killed, moved, verdict = out.splitlines()[-4:]
    assert header.split() == ["learning", "rate", "samples", "loss", "weights", "verdict"]
    step = int(re.match(r"killed at step (\d+) and resumed +(identical +){4}passes *$", killed)[1])
    assert re.match(r"under tensor 2 +(identical +){2}\S+ +\S+ +passes *$", moved)
    assert verdict == "certified: tiny trains exactly, interrupted and in another layout"
    assert [line for line in err.splitlines() if line.startswith("run ")] == [
        "run 1 of 3: straight through, one rank",
        "run 2 of 3: killed and resumed, one rank",
        "run 3 of 3: under another layout, tensor 2",
    ]
    saved = int(re.search(rf"killed at step {step}; the newest checkpoint is that of step (\d+)", err)[1])
    assert 0 < saved < 20
    assert f"tiny-train: resumes after step {saved} of 20" in err
    assert not (project / ".llmrecipe/certify/tiny").exists()


@pytest.mark.parametrize(
    ("machine", "status", "promised"),
    [
        ("device: cuda, deterministic: false", 0, False),
        ("device: cuda", 1, True),
        ("device: cpu, deterministic: false", 1, True),
    ],
)
def test_faster_kernels_may_round_a_resumed_training_and_it_is_said(
    capfd, project, monkeypatch, machine, status, promised
):
    def train(run: Run) -> list[dict]:
        run.checkpoint.parent.mkdir(parents=True)
        write_checkpoint(run.checkpoint, {"w": torch.tensor([1.0, 1.00001 if run.root.name == "killed" else 1.0])})
        return ROWS

    monkeypatch.setattr(Run, "train", train)
    monkeypatch.setattr(Run, "train_until_killed", lambda run, step: (step, 2))
    monkeypatch.setattr("llmrecipe.hardware.num_gpus", lambda: 8)
    (project / "params.yaml").write_text(f"machine: {{tiny: {{{machine}}}}}\n")

    assert main(["certify", "small", "--steps", "8"]) == status

    assert ("machine.deterministic = False promises no bits" in capfd.readouterr().out) is not promised


@pytest.mark.slow
def test_a_training_that_is_not_exact_fails_and_is_kept(capfd, project, monkeypatch):
    """Of an engine that starts a resumed training with a learning rate of 0, and so learns a little less."""

    def train(run: Run) -> list[dict]:
        resumed = run.root.name == "killed"
        run.checkpoint.parent.mkdir(parents=True)
        write_checkpoint(run.checkpoint, {"w": torch.tensor([1.0, 0.5 if resumed else 0.25])})
        return changed(3, learning_rate=0.0) if resumed else ROWS

    monkeypatch.setattr(Run, "train", train)
    monkeypatch.setattr(Run, "train_until_killed", lambda run, step: (step, 2))

    assert main(["certify", "small", "--steps", "8"]) == 1

    out, _ = capfd.readouterr()
    assert re.search(
        r"^killed at step 3 and resumed +1.0e\+00 identical identical +2.5e-01 fails *$", out, re.MULTILINE
    )
    assert re.search(r"^under tensor 2 +(identical +){4}passes *$", out, re.MULTILINE)
    assert out.endswith(
        "not certified: tiny is not exact; the runs are kept in .llmrecipe/certify/tiny\n"
        "  killed at step 3 and resumed: learning rate 1.0e+00 apart, learning_rate of step 3; must be identical\n"
        "  killed at step 3 and resumed: weights 2.5e-01 apart, w; must be identical\n"
    )
    assert (project / ".llmrecipe/certify/tiny/killed/params.yaml").exists()


@pytest.mark.slow
def test_a_stage_that_fails_is_shown_as_it_is(capfd, project):
    (project / "recipes/small.py").write_text(
        SMALL.replace("optimizer.AdamW(learning_rate=1e-3)", "optimizer.SGD(learning_rate=1e30), clip_grad_norm=None")
    )

    assert main(["certify", "small"]) == 1

    _, err = capfd.readouterr()
    assert "lower training.optimizer.learning_rate" in err
    assert "error: .llmrecipe/certify/tiny/straight: this run failed, for the reason above" in err


FURTHER = """
    further = Trained(
        name="further",
        start=tiny,
        text=tiny.text,
        objective=CausalLM(sequence_length=128),
        training=evolve(tiny.training, seed=8),
    )
    return Recipe(name="small", models=(further,))
"""


@pytest.fixture
def chain(project, monkeypatch):
    """A recipe of a model that starts from another, and trainings that are exact and take no time."""

    def train(run: Run) -> list[dict]:
        run.checkpoint.parent.mkdir(parents=True)
        write_checkpoint(run.checkpoint, {"w": torch.tensor([1.0])})
        return ROWS

    monkeypatch.setattr(Run, "train", train)
    monkeypatch.setattr(Run, "train_until_killed", lambda run, step: (step, 2))
    body = SMALL[: SMALL.index("    return Recipe")]
    (project / "recipes/small.py").write_text(body + FURTHER.removeprefix("\n"))


@pytest.mark.usefixtures("chain")
@pytest.mark.slow
def test_all_models_that_a_recipe_trains_are_certified_each_after_the_one_that_it_starts_from(capfd):
    assert main(["certify", "small", "--steps", "8"]) == 0

    out, _ = capfd.readouterr()
    assert re.findall(r"^certified: (\w+) trains exactly", out, re.M) == ["tiny", "further"]
    assert re.search(r"^further, shrunk: .*from first weights of its network, not from tiny$", out, re.M)
    assert not re.search(r"^tiny, shrunk: .*not from", out, re.M)


@pytest.mark.usefixtures("chain")
@pytest.mark.slow
def test_one_model_can_be_named_and_one_that_is_not_there_is_refused(capfd):
    assert main(["certify", "small", "--steps", "8", "--model", "further"]) == 0
    out, _ = capfd.readouterr()
    assert re.findall(r"^certified: (\w+) trains", out, re.M) == ["further"]

    assert main(["certify", "small", "--model", "furthr"]) == 1
    assert "small trains no model of that name; did you mean 'further'?" in capfd.readouterr().err


@pytest.mark.usefixtures("chain")
@pytest.mark.slow
def test_a_proof_runs_on_the_machine_of_the_plan_with_checkpoints_of_its_own(project, monkeypatch):
    seen = []
    create = Run.create

    def watched(root, model, inputs, machine):
        seen.append(machine)
        return create(root, model, inputs, machine)

    monkeypatch.setattr(Run, "create", watched)
    (project / "params.yaml").write_text("machine: {tiny: {device: cpu, log_level: error}}\n")

    assert main(["certify", "small", "--steps", "8", "--model", "tiny"]) == 0

    assert {machine.log_level for machine in seen} == {"error"}
    assert {machine.checkpoint_interval for machine in seen} == {2}
