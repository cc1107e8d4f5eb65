import json
import logging
from pathlib import Path

import pytest
from tiny_recipe import BASE, RECIPE

from llmrecipe import (
    Distilled,
    Llama,
    Machine,
    Parallelism,
    PretrainedTokenizer,
    Recipe,
    Steps,
    distil,
    evolve,
    hardware,
    memory,
    optimizer,
)
from llmrecipe.cli.main import main
from llmrecipe.dvcfiles import write
from llmrecipe.errors import StageError
from llmrecipe.machines import Machines
from llmrecipe.plan.planner import plan
from llmrecipe.stages.runner import run_stage

LLAMA_2 = evolve(
    BASE,
    start=Llama(
        hidden_size=4096, num_layers=32, num_attention_heads=32, num_key_value_heads=32, intermediate_size=11_008
    ),
    tokenizer__vocab_size=32_000,
)
WEIGHTS = 6_738_415_616
"""Of Llama 2 7B, as the Hugging Face Hub counts them."""

HUGE = evolve(BASE, name="huge", start__hidden_size=64 * 2**10, start__num_layers=100)


def held(vocab_size=32_000, **changes):
    run = evolve(LLAMA_2, **changes)
    return memory.rank_bytes(run.network, run.training, run.parallelism, vocab_size)


def refused(model, machine=None, root=Path()):
    machines = Machines({"default": machine or Machine()}, "")
    return [
        [(each.path, each.reason) for each in found]
        for found in memory.too_large(Recipe(models=(model,), name="r"), machines, root)
    ]


@pytest.mark.parametrize(
    ("changes", "bytes_a_weight"),
    [
        ({}, 4 + 4 + 8),
        ({"training__optimizer": optimizer.SGD(learning_rate=1, momentum=0.9)}, 4 + 4 + 4),
        ({"training__optimizer": optimizer.SGD(learning_rate=1, momentum=0)}, 4 + 4),
        # In bfloat16: weights and gradients, and in float32 gradients, weights and the two means.
        ({"training__precision": "bfloat16"}, 2 + 2 + 4 + 4 + 8),
        ({"training__precision": "float8"}, 2 + 2 + 4 + 4 + 8),
        ({"parallelism": Parallelism(tensor=4, pipeline=2)}, 16 / 8),
        ({"parallelism": Parallelism(data=4)}, 16),
        ({"parallelism": Parallelism(data=4, zero_stage=1)}, 4 + 4 + 8 / 4),
    ],
)
def test_a_rank_holds_weights_gradients_and_the_optimizers_state(changes, bytes_a_weight):
    assert held(**changes) == pytest.approx(WEIGHTS * bytes_a_weight, rel=1e-9)


def test_weights_that_do_not_learn_have_neither_gradients_nor_state():
    assert held(training__parameters="head") == WEIGHTS * 4 + 32_000 * 4096 * 12


def test_a_model_that_can_not_fit_the_machine_that_it_is_planned_for_is_an_error(monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: 2 * 10**12)
    planned, here = refused(LLAMA_2, Machine(device="cpu", memory_gb=107))
    assert not here
    assert [path for path, _ in planned] == ["r.models[0].start"]
    assert "107.8 GB" in planned[0][1]
    assert "memory_gb = 108" in planned[0][1]
    assert refused(LLAMA_2, Machine(device="cpu", memory_gb=108)) == [[], []]


def test_without_a_machine_it_is_a_warning_about_this_one(monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: 64 * 10**9)
    planned, here = refused(LLAMA_2)
    assert not planned
    assert "this machine has 64.0 GB" in here[0][1]
    assert refused(BASE) == [[], []]


def test_all_ranks_share_the_memory_of_a_cpu_and_each_has_a_gpu_of_its_own(monkeypatch):
    halves, twice = (evolve(LLAMA_2, parallelism=each) for each in (Parallelism(tensor=2), Parallelism(data=2)))
    assert "107.8 GB" in refused(halves, Machine(device="cpu", memory_gb=80))[0][0][1]
    assert refused(halves, Machine(device="cuda", memory_gb=80)) == [[], []]
    assert "215.6 GB" in refused(twice, Machine(device="cpu", memory_gb=200))[0][0][1]
    assert "107.8 GB on each GPU" in refused(twice, Machine(device="cuda", memory_gb=80))[0][0][1]


def test_a_tokenizer_that_is_not_read_yet_counts_for_nothing():
    with_unknown = evolve(LLAMA_2, tokenizer=PretrainedTokenizer(path="data/tokenizer"))
    assert refused(with_unknown, Machine(device="cpu", memory_gb=104)) == [[], []]
    assert refused(with_unknown, Machine(device="cpu", memory_gb=103))[0]


def test_a_vocabulary_alone_can_be_too_large(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "memory", lambda: 10**9)
    assert refused(evolve(BASE, tokenizer__vocab_size=10_000_000))[1]
    # As far as it can be read, one that exists counts, too.
    (tmp_path / "tokenizer").mkdir()
    vocabulary = {f"t{index}": index for index in range(300_000)}
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    taken = evolve(BASE, tokenizer=PretrainedTokenizer(path="tokenizer"))
    assert refused(evolve(taken, start__hidden_size=64), root=tmp_path) == [[], []]
    assert refused(evolve(taken, start__hidden_size=1024), root=tmp_path)[1]


@pytest.mark.parametrize(
    ("changes", "bytes_a_token"),
    [
        ({}, 33 * 4096 * 4),
        ({"training__precision": "bfloat16"}, 33 * 4096 * 2),
        ({"training__precision": "float8"}, 33 * 4096 * 2),
        ({"training__parameters": "head"}, 4096 * 4),
        ({"parallelism": Parallelism(tensor=4)}, 33 * 4096 * 4),
        ({"parallelism": Parallelism(tensor=4, tensor_parallel_mode="reduce_scatter")}, (32 / 4 + 1) * 4096 * 4),
        ({"parallelism": Parallelism(pipeline=2)}, 33 * 4096 * 4 / 2),
        ({"tokenizer__vocab_size": 256_000}, 33 * 4096 * 4),
    ],
)
def test_a_sequence_keeps_the_inputs_of_layers_and_of_the_output_layer_and_no_logits(changes, bytes_a_token):
    run = evolve(LLAMA_2, **changes)
    held = memory.sequence_bytes(run.network, run.objective, run.training, run.parallelism)
    assert held == run.objective.sequence_length * bytes_a_token


def test_a_micro_batch_that_can_not_fit_is_told_with_the_largest_that_may(monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: 10**10)
    many = evolve(BASE, training__global_batch_size=10**6, parallelism=Parallelism(micro_batch_size=10**6))
    ((path, reason),) = refused(many)[1]
    assert path == "r.models[0].parallelism.micro_batch_size"
    most = int(reason.partition("use at most ")[2].partition(", or")[0].replace(",", ""))
    assert refused(evolve(many, parallelism__micro_batch_size=most)) == [[], []]
    assert refused(evolve(many, parallelism__micro_batch_size=most + 1))[1]
    monkeypatch.setattr(hardware, "memory", lambda: 10**9)
    long = evolve(BASE, objective__sequence_length=10**7, start__max_position_embeddings=10**7)
    assert [path for path, _ in refused(long)[1]] == ["r.models[0].objective.sequence_length"]


def test_memory_is_that_of_the_container_and_of_the_smallest_gpu(tmp_path, monkeypatch):
    meminfo, limit = tmp_path / "meminfo", tmp_path / "limit"
    meminfo.write_text("MemTotal:       16000 kB\nMemFree:        5 kB\n")
    monkeypatch.setattr(hardware, "_MEMINFO", meminfo)
    monkeypatch.setattr(hardware, "_LIMITS", (limit,))
    assert hardware.memory() == 16_000 * 1024
    limit.write_text("max\n")
    assert hardware.memory() == 16_000 * 1024
    limit.write_text("4096\n")
    assert hardware.memory() == 4096
    (tmp_path / "gpus" / "0").mkdir(parents=True)
    monkeypatch.setattr(hardware, "GPUS", tmp_path / "gpus")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.gpu_memory() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81559\necho 40960\n")
    program.chmod(0o755)
    assert hardware.gpu_memory() == 40_960 * 2**20


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "data/books").mkdir(parents=True)
    (tmp_path / "data/books/1.txt").write_text("A book.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "memory", lambda: 10**10)
    monkeypatch.setattr("llmrecipe.stages.prepare.run", lambda context: None)

    def planned(*recipes, **machines):
        write(plan(recipes), tmp_path, references={each.name: "r.py" for each in recipes}, machines_of=machines or None)
        return tmp_path

    return planned


def prepare(project):
    run_stage(
        "prepare",
        name="books-prepare",
        output=project / "artifacts/books/prepare",
        params=project / "params/books.yaml",
    )


def test_the_first_stage_of_a_run_that_can_not_be_trained_here_refuses_to_begin(project):
    folder = project(Recipe(name="r", models=(HUGE,)))
    with pytest.raises(StageError, match=r"(?s)books-prepare is begun in vain:.*huge-train can't run: .*10\.0 GB"):
        prepare(folder)
    assert not (folder / "artifacts").exists()


def test_a_model_that_starts_from_another_is_known_by_that(project):
    tuned = evolve(HUGE, name="tuned", start=HUGE, text=evolve(HUGE.text, name="others"), tokenizer=None)
    folder = project(Recipe(name="r", models=(tuned,)))
    with pytest.raises(StageError, match="tuned-train can't run"):
        run_stage("prepare", name="others-prepare", output=folder / "x", params=folder / "params/others.yaml")


def test_a_stage_that_another_recipe_needs_as_well_runs_with_a_warning(project, caplog):
    folder = project(Recipe(name="r", models=(HUGE,)), RECIPE)
    with caplog.at_level(logging.WARNING):
        prepare(folder)
    assert "huge-train can't run" in caplog.text
    assert (folder / "artifacts/books/prepare").is_dir()


def test_a_stage_runs_for_a_model_that_is_planned_for_a_larger_machine(project, caplog):
    prepare(project(Recipe(name="r", models=(HUGE,)), default=Machine(), huge=Machine(memory_gb=1e6)))
    assert "can't run" not in caplog.text


def test_check_says_it_for_the_machine_of_the_model(project, capsys):
    folder = project(RECIPE, default=Machine(), huge=Machine(device="cpu", memory_gb=10))
    (folder / "r.py").write_text(
        "from llmrecipe import *\nfrom tiny_recipe import BASE\n"
        "def r():\n    huge = evolve(BASE, name='huge', start__hidden_size=2**16, start__num_layers=100)\n"
        "    return Recipe(models=(huge,))\n"
    )
    assert main(["check", "r.py"]) == 1
    assert "error: r.models[0].start: its" in capsys.readouterr().err


def test_a_student_has_its_teacher_beside_it(monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: 2 * 10**12)
    taught = Distilled(name="taught", student=BASE.start, teacher=LLAMA_2, training=BASE.training)

    def of_student(model, memory_gb):
        planned, _ = refused(model, Machine(device="cpu", memory_gb=memory_gb))
        # To train the teacher takes more than any of this.
        return {path: reason for path, reason in planned if not path.startswith("r.models[0].teacher")}

    needs = (WEIGHTS * 4 + 16 * BASE.start.num_parameters(32_000)) / 1e9
    reason = of_student(taught, needs - 0.1)["r.models[0].student"]
    assert f"the optimizer's states and its teacher {needs:,.1f} GB" in reason
    assert "zero_stage" not in reason
    assert of_student(taught, needs + 0.1) == {}
    # Replicas hold all of that twice, unless they share it.
    twice = evolve(taught, parallelism=Parallelism(data=2), training__global_batch_size=2)
    assert (
        "use a smaller network or vocabulary, zero_stage = 3"
        in of_student(twice, 2 * needs - 0.1)["r.models[0].student"]
    )
    shared = evolve(twice, parallelism__zero_stage=3)
    assert "r.models[0].student" in of_student(shared, needs - 0.1)
    assert of_student(shared, needs + 0.2) == {}
    # Of each sequence there are three times the logits of all its tokens.
    many = evolve(taught, parallelism=Parallelism(micro_batch_size=4), training__global_batch_size=4)
    logits = 3 * 4 * 32_000 * BASE.objective.sequence_length / 1e9
    reason = of_student(many, needs + 3.5 * logits)["r.models[0].parallelism.micro_batch_size"]
    assert "use at most 3" in reason
    assert of_student(many, needs + 4.5 * logits) == {}
    # In bfloat16 these are half as large, and weights aren't.
    half = evolve(many, training__precision="bfloat16")
    assert "use at most 3" in of_student(half, needs + 1.75 * logits)["r.models[0].parallelism.micro_batch_size"]
    assert of_student(half, needs + 2.25 * logits) == {}
    # What is stored takes none of them, nor the teacher.
    stored = evolve(many, teacher_logits=distil.Stored(), training__duration=Steps(10))
    alone = needs - WEIGHTS * 4 / 1e9
    assert "use at most 3" in of_student(stored, alone + 2.5 * logits)["r.models[0].parallelism.micro_batch_size"]
    assert of_student(stored, alone + 3.5 * logits) == {}
