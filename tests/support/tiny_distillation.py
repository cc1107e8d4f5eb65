"""A distillation of seconds, in this process or in ranks of its own, and a plain loop that it is compared with."""

import multiprocessing
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from forked_ranks import forked_ranks, start_server
from torch.distributed.tensor import DTensor
from transformers import BertConfig, BertForMaskedLM

from llmrecipe import Bert, Llama, Machine, MaskedLM, Parallelism, Steps, Training, distil, evolve
from llmrecipe.cards import MaskingCard
from llmrecipe.engines.finetuning import running
from llmrecipe.engines.finetuning.distillation import launcher, worker
from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.finetuning.distillation.trainer import DistillationTrainer
from llmrecipe.engines.finetuning.running import FinishedRun
from llmrecipe.engines.runs import jobs
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.schedule import Constant
from llmrecipe.sections import DistilSection

LENGTH = tiny_model.SEQUENCE_LENGTH

SMALLER = Llama(hidden_size=32, num_layers=1, num_attention_heads=4, num_key_value_heads=2)
"""A student that isn't there yet."""

TRAINING = Training(
    duration=Steps(6),
    global_batch_size=8,
    optimizer=AdamW(learning_rate=3e-3),
    schedule=Constant(warmup=Steps(2)),
    seed=5,
    validation_interval=3,
    validation_sequences=10,
)

ENCODER = Bert(hidden_size=32, num_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)
MASKED = MaskedLM(sequence_length=LENGTH)
MASKING = MaskingCard(mask_token_id=2, special_ids=(0, 1, 2), continuing_ids=())


def section(
    network=SMALLER,
    loss=None,
    hard_loss_weight=0.0,
    training=TRAINING,
    hidden_states=None,
    teacher_logits=None,
    **parallelism,
) -> DistilSection:
    return DistilSection(
        network=network,
        loss=loss or distil.ForwardKL(),
        hard_loss_weight=hard_loss_weight,
        training=training,
        parallelism=Parallelism(**{"micro_batch_size": 4} | parallelism),
        hidden_states=hidden_states,
        teacher_logits=teacher_logits,
    )


def distilled(
    what: DistilSection, inputs: dict[str, Path], scratch: Path, *, ranks: bool = False, **machine
) -> FinishedRun:
    """A finished run, in this process, or in `ranks` that are forked."""
    scratch.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, forked_ranks() if ranks else nullcontext():
        if not ranks:
            patch.setattr(running, "run_ranks", _train_here)
        return launcher.distil(
            what,
            name="t-distil",
            tokens=Tokens.of(inputs),
            student=inputs.get("student"),
            teacher=inputs["teacher"],
            predictions=inputs.get("predictions"),
            machine=Machine(**{"device": "cpu"} | machine),
            scratch=scratch,
            events=scratch / "events",
        )


def _train_here(_name: str, _module: str, arguments: list[str], **_: Any) -> None:
    worker.train(jobs.read(Path(arguments[0]), Job))


def killed(what: DistilSection, inputs: dict[str, Path], scratch: Path, event: str, path: str, **machine) -> int | None:
    """The exit status of a process that runs as `distilled` does, and is killed as it does such a thing to a path."""
    start_server()
    process = multiprocessing.get_context("forkserver").Process(
        target=_run_into, args=(what, inputs, scratch, event, path, machine)
    )
    process.start()
    process.join(120)
    return process.exitcode


def held_bytes(job: Job, folder: Path, **parallelism) -> list[dict[str, int]]:
    """Of each rank, the bytes of weights and of the optimizer's state that it holds at the end of such a run."""
    return _on_ranks(_count_held, job, folder, **parallelism)


def kept_bytes(job: Job, folder: Path, **parallelism) -> list[int]:
    """Of each rank, the bytes of whole weights of the student's layers that a step keeps for its backward pass."""
    return _on_ranks(_count_kept, job, folder, **parallelism)


def _on_ranks(measure: Callable[..., None], job: Job, folder: Path, **parallelism) -> list[Any]:
    job = evolve(job, state=str(folder), resumed=0, section__parallelism=Parallelism(**parallelism))
    folder.mkdir()
    jobs.write(job, folder / "job.json")
    start_server()
    context = multiprocessing.get_context("forkserver")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    found, ranks = context.Queue(), job.parallelism.data
    processes = [
        context.Process(target=_measure, args=(measure, folder / "job.json", rank, port, found))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    held = dict(found.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return [held[rank] for rank in range(ranks)]


def _measure(measure: Callable[..., None], path: Path, rank: int, port: int, found: Any) -> None:
    job = jobs.read(path, Job)
    of_ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.parallelism.data}
    os.environ |= {name: str(value) for name, value in of_ranks.items()}
    os.environ |= {"LOCAL_WORLD_SIZE": os.environ["WORLD_SIZE"], "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with pytest.MonkeyPatch.context() as patch:
        measure(patch, lambda number: found.put((rank, number)))
        worker.train(job)


def _count_held(patch: pytest.MonkeyPatch, tell: Callable[[Any], None]) -> None:
    def count(trainer: DistillationTrainer) -> None:
        state = [each for of in trainer.optimizer.state.values() for name, each in of.items() if name != "step"]
        parts = {"student": trainer.model.parameters(), "teacher": trainer.teacher.parameters(), "optimizer": state}
        here = {
            name: [each.to_local() if isinstance(each, DTensor) else each for each in of] for name, of in parts.items()
        }
        tell({name: sum(each.nbytes for each in of) for name, of in here.items()})

    patch.setattr(DistillationTrainer, "finish", count)


def _count_kept(patch: pytest.MonkeyPatch, tell: Callable[[Any], None]) -> None:
    found, computed = [], DistillationTrainer.summed_loss

    def watched(trainer: DistillationTrainer, model: Any, inputs: Any) -> torch.Tensor:
        saved: list[torch.Tensor] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = computed(trainer, model, inputs)
        shapes = [weight.shape for name, weight in model.named_parameters() if ".layers." in name and weight.dim() == 2]
        # Some are kept transposed.
        shapes += [shape[::-1] for shape in shapes]
        whole = {each.data_ptr(): each for each in saved if each.shape in shapes and each.untyped_storage().nbytes()}
        found.append(sum(each.nbytes for each in whole.values() if each.dtype == torch.bfloat16))
        return loss

    patch.setattr(DistillationTrainer, "summed_loss", watched)
    patch.setattr(DistillationTrainer, "measured", lambda trainer: {"validation_loss": 0.0})
    patch.setattr(DistillationTrainer, "finish", lambda trainer: tell(found[-1]))


def _run_into(
    what: DistilSection, inputs: dict[str, Path], scratch: Path, event: str, path: str, machine: dict[str, Any]
) -> None:
    def watch(name: str, arguments: tuple) -> None:
        # Python raises an event before it does what the event says.
        subject = str(arguments[1] if name == "os.rename" else arguments[0]) if name == event else ""
        if subject and re.search(path, subject):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    distilled(what, inputs, scratch, **machine)


def make_masked(directory: Path) -> dict[str, Path]:
    """An encoder with random weights that drops a lot as it was published, and tokens to be masked."""
    tokenizer = tiny_model.write_tokenizer(directory / "tokenizer")
    texts = tiny_model.documents(tiny_model.argparse)
    splits = {"train": [texts[:20]], "heldout": [texts[20:30]]}
    tokens = tiny_model.write_tokens(directory / "tokens", splits, tokenizer, masking=MASKING)
    models = {}
    for seed, role in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=320,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            hidden_dropout_prob=0.5,
            attention_probs_dropout_prob=0.5,
            initializer_range=0.2,
        )
        models[role] = tiny_model.write_model(
            BertForMaskedLM(config), directory / "tokenizer", directory / role, network=ENCODER, objective=MASKED
        )
    return {"tokens": tokens, **models}


def kl(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """KL(of ‖ to) by its definition, of probabilities in float64."""
    return (of * (of.log() - to.log())).sum(-1)


def plain_losses(student, teacher, tokens: Path, divergence, steps: int = 6) -> list[float]:
    """The losses of a plain loop over the same windows: whole batches, AdamW of torch, two steps of warm-up."""
    row = np.concatenate(TokenFiles.open(tokens, "train").shards).astype(np.int64)
    order = np.random.default_rng([TRAINING.seed, 0]).permutation((len(row) - 1) // LENGTH)
    matrices = [weight for weight in student.parameters() if weight.dim() == 2]
    vectors = [weight for weight in student.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    stepper = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(steps):
        starts = [window * LENGTH for window in order[step * 8 :][:8].tolist()]
        batch = torch.from_numpy(np.stack([row[start : start + LENGTH + 1] for start in starts]))
        inputs, labels = batch[:, :-1], batch[:, 1:]
        with torch.no_grad():
            its = teacher(input_ids=inputs).logits
        loss = divergence(student(input_ids=inputs).logits[..., :320], its[..., :320], labels)
        stepper.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in stepper.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 2)
        stepper.step()
        losses.append(loss.item())
    return losses


def column(run: FinishedRun, name: str) -> list[float]:
    return [row[name] for row in run.metrics if name in row]


def weights(run: FinishedRun) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in launcher.student_of(run).state_dict().items()}


def with_training(what: DistilSection, **changes) -> DistilSection:
    return evolve(what, training=evolve(what.training, **changes))
