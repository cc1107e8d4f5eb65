"""Tasks of seconds: made examples, an encoder to learn them, and runs in this process or in ranks of their own."""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny_distillation
import tiny_model
import torch
from forked_ranks import forked_ranks, start_server

from llmrecipe import FineTuning, Machine, Parallelism, Steps, task
from llmrecipe.engines.finetuning import running
from llmrecipe.engines.finetuning.running import FinishedRun
from llmrecipe.engines.finetuning.tasks import launcher, worker
from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.runs import jobs
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.reading.readers import reader_of
from llmrecipe.recipe.kinds import Task
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.schedule import Constant
from llmrecipe.sections import FineTuneSection

PEOPLE, PLACES = ("Ada", "Grace Hopper", "Alan"), ("London", "New York", "Rome")

TUNING = FineTuning(
    epochs=2,
    global_batch_size=8,
    optimizer=AdamW(learning_rate=3e-3),
    schedule=Constant(warmup=Steps(2)),
    dropout=0.1,
    average_decay=0.9,
    seed=5,
)

NAMES = task.NamedEntities(name="names", train="train.conll", max_length=32)

TONES = task.Classification(name="tones", train="train.jsonl", max_length=32)

CHATS = task.Instructions(name="chats", train="train.jsonl", max_length=96, template="plain", tests_field="tests")

QUESTIONS = task.QuestionAnswering(
    name="questions", train="train.jsonl", max_length=48, doc_stride=12, max_answer_length=12, unanswerable=True
)

PAIRS = task.Embeddings(name="pairs", train="train.jsonl", max_length=32)

CHOICES = task.Preferences(name="pairs", train="train.jsonl", max_length=96, template="plain", beta=0.5)


def conll(count: int, seed: int = 0, document: int = 0) -> str:
    """Sentences about people in places; a document begins before each `document` of them."""
    draw, lines = random.Random(seed), []
    for index in range(count):
        if document and index % document == 0:
            lines += ["-DOCSTART- O", ""]
        person, place = draw.choice(PEOPLE), draw.choice(PLACES)
        for kind, words in (("PER", person), ("O", draw.choice(["met", "saw"])), ("LOC", place), ("O", ".")):
            for number, word in enumerate(words.split()):
                lines.append(word + " " + ("O" if kind == "O" else f"{'I' if number else 'B'}-{kind}"))
        lines.append("")
    return "\n".join(lines)


def make_names(directory: Path, count: int = 60, what: Task = NAMES) -> Path:
    """An examples artifact of sentences."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.conll"
    path.write_text(conll(count))
    return make(directory, what, {"train": reader_of(what).read(path, "train.conll")})


def asked(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions where people were seen, a third of which have no answer; some contexts are read in windows."""
    draw, rows = random.Random(seed), []
    for index in range(count):
        place = draw.choice(PLACES) if index % 3 else ""
        before = f"{index}: {'so, ' * draw.randrange(12)}{draw.choice(PEOPLE)} saw "
        answers = {"text": [place], "answer_start": [len(before)]} if place else {"text": [], "answer_start": []}
        context = f"{before}{place or 'nobody'} again."
        rows.append({"id": f"q{index}", "context": context, "question": "Where?", "answers": answers})
    return rows


def make_questions(directory: Path, count: int = 60, what: Task = QUESTIONS) -> Path:
    """An examples artifact of questions."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, asked(count))))
    return make(directory, what, {"train": reader_of(what).read(path, "train.jsonl")})


def make(directory: Path, what: Task, found: dict[str, Any]) -> Path:
    """An examples artifact of what was read."""
    splits = examples.divided(what, found)
    return examples.write(directory / "examples", splits, what.tag, reader_of(what).labels_of(splits))


def chats(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sums to write as programs, some of which are asked twice."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        one, other = draw.randint(1, 9), draw.randint(1, 9)
        messages = [
            {"role": "user", "content": f"add {one} to {other}"},
            {"role": "assistant", "content": f"x = {one} + {other}"},
        ]
        again = [{"role": "user", "content": "once more"}, messages[1]] if draw.random() < 0.3 else []
        rows.append({"messages": [*messages, *again], "tests": f"assert x == {one + other}"})
    return rows


def make_chats(directory: Path, count: int = 60, what: Task = CHATS) -> Path:
    """An examples artifact of chats."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in chats(count)))
    return make(directory, what, {"train": reader_of(what).read(path, "train.jsonl")})


def choices(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sums of which the answer that says please is preferred; some answers are the longer ones, some the shorter."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        one, other = draw.randint(1, 9), draw.randint(1, 9)
        said = f"x = {one} + {other}"
        earlier = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}] * (draw.random() < 0.3)
        rows.append(
            {
                "messages": [*earlier, {"role": "user", "content": f"add {one} to {other}"}],
                "chosen": f"please {said}",
                "rejected": f"{said} {draw.choice(['', 'and that was all of it'])}".strip(),
            }
        )
    return rows


def make_choices(directory: Path, count: int = 60, what: Task = CHOICES) -> Path:
    """An examples artifact of pairs."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in choices(count)))
    return make(directory, what, {"train": reader_of(what).read(path, "train.jsonl")})


def make_writer(directory: Path) -> Path:
    """A decoder with random weights."""
    tiny_model.write_tokenizer(directory / "tokenizer")
    return tiny_model.write_model(tiny_model.new_model(), directory / "tokenizer", directory / "model")


def pairs(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Queries of two made words, with a text that has them the other way round, and one that has but one of them."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abdeiklmnorst", k=3)) for _ in range(40)]
    found = []
    for index in range(count):
        one, other, third = draw.sample(words, 3)
        texts = (f"{one} with {other}", f"the page on {other} and on {one}", f"the page on {other} and on {third}")
        found.append([dict(zip(("query", "positive", "negative"), texts, strict=True)) | {"id": str(index)}])
    return found


def make_pairs(directory: Path, count: int = 80, what: Task = PAIRS) -> Path:
    """An examples artifact of pairs."""
    return make(directory, what, {"train": pairs(count)})


def make_start(directory: Path) -> Path:
    """An encoder with random weights."""
    return tiny_distillation.make_masked(directory)["teacher"]


def section(what: Task = NAMES, training: FineTuning = TUNING, **parallelism: Any) -> FineTuneSection:
    return FineTuneSection(
        task=what.on_examples,
        training=training,
        parallelism=Parallelism(**{"micro_batch_size": 4} | parallelism),
    )


def tuned(
    what: FineTuneSection, inputs: dict[str, Path], scratch: Path, *, ranks: bool = False, **machine: Any
) -> FinishedRun[Job]:
    """A finished run, in this process, or in `ranks` that are forked."""
    scratch.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, forked_ranks() if ranks else nullcontext():
        if not ranks:
            patch.setattr(running, "run_ranks", lambda _name, _module, arguments, **_: train_here(arguments))
        return launcher.fine_tune(
            what,
            name="t-finetune",
            start=inputs["start"],
            examples=inputs["examples"],
            machine=Machine(**{"device": "cpu"} | machine),
            scratch=scratch,
            events=scratch / "events",
        )


def train_here(arguments: list[str]) -> None:
    """As a rank does, which has a thread: with several, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        worker.train(jobs.read(Path(arguments[0]), Job))
    finally:
        torch.set_num_threads(threads)


def killed(
    what: FineTuneSection,
    inputs: dict[str, Path],
    scratch: Path,
    event: str,
    path: str,
    *,
    checkpoint_interval: int = 2,
) -> int | None:
    """The exit status of a process that runs as `tuned` does, and is killed as it does such a thing to a path."""
    start_server()
    process = multiprocessing.get_context("forkserver").Process(
        target=_run_into, args=(what, inputs, scratch, event, path, checkpoint_interval)
    )
    process.start()
    process.join(120)
    return process.exitcode


def _run_into(
    what: FineTuneSection, inputs: dict[str, Path], scratch: Path, event: str, path: str, interval: int
) -> None:
    def watch(name: str, arguments: tuple) -> None:
        # Python raises an event before it does what the event says.
        subject = str(arguments[1] if name == "os.rename" else arguments[0]) if name == event else ""
        if subject and re.search(path, subject):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    tuned(what, inputs, scratch, checkpoint_interval=interval)


def stage_inputs(directory: Path) -> dict[str, Path]:
    """What the finetune stage reads."""
    return {"start": make_start(directory / "start"), "examples": make_names(directory / "names")}


def stage_context(what: FineTuneSection, inputs: dict[str, Path], output: Path, **machine: Any) -> Any:
    """What the runner gives the stage."""
    return tiny_model.stage_context(what, inputs, output, **{"device": "cpu"} | machine)
