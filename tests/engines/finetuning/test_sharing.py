"""What a rank holds of models that ranks share, and what they keep and refuse."""

import pytest
import tiny_model
import torch
from tiny_distillation import column, distilled, held_bytes, kept_bytes, make_masked, section, weights, with_training
from transformers import AutoModelForCausalLM

from llmrecipe import Steps, artifacts, cards, evolve
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.finetuning import sharing
from llmrecipe.engines.finetuning.distillation.models import first_student
from llmrecipe.engines.models import folders
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD
from llmrecipe.recipe.scheme import W3A16, RoundToNearest
from llmrecipe.sections import QuantizeSection

pytestmark = pytest.mark.slow

SHARED = {"data": 2, "micro_batch_size": 2, "zero_stage": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher and its tokens."""
    inputs = tiny_model.make(tmp_path_factory.mktemp("made"))
    return {"teacher": inputs["model"], "tokens": inputs["tokens"]}


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_holds_its_rows_alone_of_student_teacher_and_optimizer(made, tmp_path, ranks):
    what = with_training(section(), duration=Steps(1), schedule__warmup=Steps(0))
    job = distilled(what, made, tmp_path / "alone").job
    student, teacher = (
        sum(weight.numel() for weight in model.parameters())
        for model in (first_student(job), folders.load_model(made["teacher"]))
    )
    whole = {"student": 4 * student, "teacher": 4 * teacher, "optimizer": 8 * student}
    shared = held_bytes(job, tmp_path / "shared", data=ranks, micro_batch_size=1, zero_stage=3)
    assert held_bytes(job, tmp_path / "whole", data=ranks, micro_batch_size=1) == ranks * [whole]
    for name, size in whole.items():
        # All rows are somewhere, and nowhere twice; no rank has more than its share but for what doesn't divide.
        assert sum(each[name] for each in shared) == size
        assert max(each[name] for each in shared) < 1.1 * size / ranks


def test_in_bfloat16_ranks_that_share_learn_what_one_alone_does(made, tmp_path):
    alone, shared = (
        distilled(
            with_training(section(**how), optimizer=SGD(learning_rate=1.0), precision="bfloat16"),
            made,
            tmp_path / str(len(how)),
            ranks=bool(how),
        )
        for how in ({}, SHARED)
    )
    assert column(alone, "loss")[-1] < 0.9 * column(alone, "loss")[0]
    for name in ("loss", "validation_loss", "grad_norm"):
        assert column(shared, name) == pytest.approx(column(alone, name), rel=2e-2)
    assert {weight.dtype for weight in weights(shared).values()} == {torch.float32}


def test_in_bfloat16_no_rank_keeps_whole_weights_until_the_backward_pass(made, tmp_path):
    what = with_training(section(), duration=Steps(1), schedule__warmup=Steps(0), precision="bfloat16")
    job = distilled(what, made, tmp_path / "alone").job
    whole = sum(
        2 * weight.numel()
        for name, weight in first_student(job).named_parameters()
        if ".layers." in name and weight.dim() == 2
    )
    # Replicas keep them: what each multiplies by is rounded once a step.
    assert kept_bytes(job, tmp_path / "replicas", data=2, micro_batch_size=2) == [whole, whole]
    assert kept_bytes(job, tmp_path / "shared", data=2, micro_batch_size=2, zero_stage=3) == [0, 0]


def test_zeros_stay_zeros_bit_for_bit_in_rows_that_ranks_share(made, tmp_path):
    student = folders.load_model(made["teacher"])
    generator = torch.Generator().manual_seed(0)
    places = {}
    for name, module in student.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            at = torch.rand(module.weight.shape, generator=generator) < 0.5
            places[f"{name}.weight"] = at
            module.weight.data = torch.randn(at.shape, generator=generator).mul_(0.2).masked_fill(at, 0)
    sparse = tiny_model.write_model(student, made["teacher"], tmp_path / "sparse")
    cards.write(sparse, evolve(cards.read(sparse, ModelCard), sparse=True))
    artifacts.seal(sparse, "model")
    what = with_training(section(network=None, **SHARED), optimizer=SGD(learning_rate=1.0, momentum=0.9))
    found = distilled(what, made | {"student": sparse}, tmp_path / "run", ranks=True)
    assert found.job.keep_zeros
    for name, at in places.items():
        # Not `== 0`, which a zero with a sign is as well.
        assert (weights(found)[name].view(torch.int32) == 0)[at].all()
        assert (weights(found)[name] != 0)[~at].float().mean() > 0.99
        assert not weights(found)[name].equal(folders.load_model(sparse).state_dict()[name])


def test_an_encoder_whose_output_layer_is_tied_is_shared(tmp_path):
    masked = make_masked(tmp_path / "made")
    # Biases of keys have no gradient but for rounding, which AdamW would make as large as any.
    alone, shared = (
        distilled(
            with_training(section(network=None, **how), optimizer=SGD(learning_rate=1.0)),
            masked,
            tmp_path / str(len(how)),
            ranks=bool(how),
        )
        for how in ({}, SHARED)
    )
    assert column(alone, "loss")[-1] < 0.9 * column(alone, "loss")[0]
    for name in ("loss", "validation_loss", "grad_norm"):
        assert column(shared, name) == pytest.approx(column(alone, name), rel=1e-5)
    for name, weight in weights(alone).items():
        torch.testing.assert_close(weights(shared)[name], weight, rtol=0, atol=1e-5)


def test_a_quantized_model_is_not_shared(made, tmp_path):
    model = folders.load_model(made["teacher"])
    what = QuantizeSection(
        scheme=W3A16(group_size=32, observer="minmax", rounding=RoundToNearest()), calibration_samples=1, seed=0
    )
    nothing = torch.zeros((0, 32), dtype=torch.int64)
    quantization.quantize(model, folders.load_tokenizer(made["teacher"]), what, nothing, torch.device("cpu"))
    quantization.save_compressed(model, tmp_path / "rounded")
    with pytest.raises(StageError, match=r"parallelism\.zero_stage: 3 has ranks share models that aren't quantized"):
        sharing.share(AutoModelForCausalLM.from_pretrained(tmp_path / "rounded"), torch.device("cpu"), is_half=False)
