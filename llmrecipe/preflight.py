"""What a recipe needs of this machine and this folder."""

import glob
import importlib.util
import itertools
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from llmrecipe import hardware, origins
from llmrecipe.errors import Violation
from llmrecipe.pretrained.place import Missing, locate, source_of
from llmrecipe.pretrained.vocabulary import has_chat_template, ids_for
from llmrecipe.recipe import augment, checks, names
from llmrecipe.recipe.corpus import ANY_SHARDS, Corpus
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.fine_tuned_checks import needs_template
from llmrecipe.recipe.kinds import SPLITS, Augmenter, Task
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.measure import LMEval
from llmrecipe.recipe.model import PretrainedModel, Trained
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.place import Place, Ray, Slurm
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields
from llmrecipe.recipe.schema import Word
from llmrecipe.recipe.source import CsvFiles, Files, JsonlFiles, PythonPackages, TextFiles
from llmrecipe.recipe.tokenizer import PretrainedTokenizer
from llmrecipe.taskfiles import SUFFIXES, TaskFiles

CPU_FLAGS = Path("/proc/cpuinfo")

_READ = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Files of a folder in the transformers format: its weights, its tokenizer, and what is said of them."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

_MASK_TOKENS = ("[MASK]", "<mask>")
"""How BERT and RoBERTa, and most that came after them, write it."""

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Roles of tokens in transformers."""


def violations(recipe: Recipe, root: Path, planned: Collection[str] = ()) -> list[Violation]:
    """The files, URLs and packages that `recipe` names and that can't be read here; `root` is the project's folder.

    What is in one of `planned`, patterns of what the project's stages make, needn't be there yet.

    Other wrong fields hide none of them.
    """
    found: list[Violation] = []
    fields = Fields()
    words = list(names.words(recipe, checks.path_of(recipe)))
    for path, word in words:
        if fields.wrong(word):
            continue
        if isinstance(word, Files):
            found += _files(path, word.paths, root, planned)
        elif isinstance(word, Task):
            found += _examples(path, word, root, planned)
        elif isinstance(word, Corpus):
            found += _shards(path, word, root)
        elif isinstance(word, LMEval):
            found += _task_files(path, word, root, planned)
        elif isinstance(word, PythonPackages):
            found += _packages(path, word.packages)
        elif isinstance(word, Augmenter):
            # A model that is made here needs no folder yet.
            for name, folder in augment.models(word).items():
                found += _model(f"{path}.{name}", folder, root, planned) if isinstance(folder, str) else ()
        elif isinstance(word, PretrainedTokenizer) and word.path is not None:
            found += _tokenizer(f"{path}.path", word.path, root, planned)
    for _, word in words:
        if isinstance(word, Trained) and fields.has(word, "objective") and fields.has(word, "vocabulary.origin"):
            tokenizer = word.vocabulary.origin
            if isinstance(tokenizer, PretrainedTokenizer):
                found += _needs_of(word, tokenizer, words, root)
    for path, word in words:
        if isinstance(word, Distilled) and fields.has(word, "vocabulary") and fields.has(word, "teacher.vocabulary"):
            found += _other_tokens(path, word, root)
        if isinstance(word, FineTuned) and fields.has(word, "task.template") and fields.has(word, "vocabulary.origin"):
            found += _no_template(path, word, root)
    return found


def warnings(recipe: Recipe, machine: Machine) -> list[Violation]:
    """What will work, but badly, on this machine; or only on another."""
    gpus = hardware.num_gpus()
    on_cpu = machine.device == "cpu" or (machine.device == "auto" and gpus == 0)
    found = []
    if not on_cpu and gpus == 0:
        reason = "'cuda', and this machine has no NVIDIA GPU; run it where there is one, or use 'auto'"
        found.append(Violation("machine.device", reason))
    found.extend(_place(machine.text_on))
    for index, kind in enumerate(machine.events):
        if importlib.util.find_spec(kind) is None:
            reason = f"{kind!r}, and its package isn't installed here; `pip install 'llmrecipe[{kind}]'`"
            found.append(Violation(f"machine.events[{index}]", reason))
    for path, word in names.words(recipe, recipe.name):
        if isinstance(word, Trained | Distilled | FineTuned):
            found.extend(_layout_warnings(path, word.parallelism, on_cpu, gpus))
        if isinstance(word, LMEval) and importlib.util.find_spec("lm_eval") is None:
            reason = "LMEval, and lm-eval isn't installed here; `pip install 'llmrecipe[lmeval]'`"
            found.append(Violation(path, reason))
        if isinstance(word, Trained | FineTuned):
            reasons = _precision(word.training.precision, on_cpu)
            found.extend(Violation(f"{path}.training.precision", reason) for reason in reasons)
    return found


def _precision(precision: str, on_cpu: bool) -> Iterator[str]:
    if precision == "float8" and importlib.util.find_spec("torchao") is None:
        yield "'float8', and torchao isn't installed here; `pip install 'llmrecipe[float8]'`"
    if on_cpu and precision == "float8":
        yield (
            "'float8' is emulated on a CPU, where it is slower than any other: good for a rehearsal; use a GPU of "
            'Ada, Hopper or newer, or precision="float32", which gives another model'
        )
    elif on_cpu and precision == "bfloat16" and not _multiplies_bfloat16():
        yield (
            "'bfloat16' is many times slower than 'float32' on this CPU, which lacks avx512_bf16; use "
            'precision="float32", which gives another model, or another machine'
        )
    elif not on_cpu and precision == "float32":
        # TF32, by which GPUs multiply float32 faster, keeps three digits of it, so it is never switched on.
        yield (
            "'float32' is many times slower than 'bfloat16' on a GPU, whose units for matrices multiply no such "
            'numbers; use precision="bfloat16", which gives another model'
        )


def _layout_warnings(path: str, parallelism: Parallelism, on_cpu: bool, gpus: int) -> Iterator[Violation]:
    ranks, threads, cores = parallelism.world_size, parallelism.threads_per_rank, len(os.sched_getaffinity(0))
    degrees = f"{parallelism.data} × {parallelism.tensor} × {parallelism.pipeline}"
    layout = f"data × tensor × pipeline = {degrees} = {ranks} ranks"
    if not on_cpu and ranks > gpus > 0:
        reason = f"{layout}, each with a GPU of its own, and this machine has {_count(gpus, 'GPU')}"
        yield Violation(f"{path}.parallelism", f"{reason}; lower a degree, or run it on a larger machine")
    elif on_cpu and ranks > cores:
        reason = f"{layout} will wait for each other on {_count(cores, 'core')}"
        yield Violation(f"{path}.parallelism", f"{reason}; lower a degree, or run it on a larger machine")
    elif on_cpu and ranks * threads > cores:
        reason = f"{_count(ranks, 'rank')} of {threads} threads will wait for each other on {_count(cores, 'core')}"
        yield Violation(f"{path}.parallelism.threads_per_rank", f"{reason}; use {cores // ranks}")


def _place(place: Place) -> Iterator[Violation]:
    if isinstance(place, Slurm) and shutil.which("sbatch") is None:
        reason = "Slurm, and this machine has no `sbatch`; run `dvc repro` on a login node of the cluster"
        yield Violation("machine.text_on", reason)
    if isinstance(place, Ray) and importlib.util.find_spec("ray") is None:
        reason = "Ray, and its package isn't installed here; `pip install 'llmrecipe[ray]'`"
        yield Violation("machine.text_on", reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _multiplies_bfloat16() -> bool:
    return any(flag in CPU_FLAGS.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def _files(path: str, patterns: tuple[str, ...], root: Path, planned: Collection[str]) -> Iterator[Violation]:
    for index, pattern in enumerate(patterns):
        reason = origins.refusal(pattern) or (None if origins.is_url(pattern) else _missing(pattern, root, planned))
        if reason:
            yield Violation(f"{path}.paths[{index}]", reason)


def _examples(path: str, task: Task, root: Path, planned: Collection[str]) -> Iterator[Violation]:
    for split in SPLITS:
        file = getattr(task, split)
        if not isinstance(file, str):
            continue
        reason = origins.outside(file) or origins.too_long(file)
        if reason is None and origins.is_url(file):
            reason = f"{file!r} is a URL, and examples are files of the project; `dvc import-url` brings one"
        if reason is None and not origins.is_made(file, planned) and not (root / file).is_file():
            what = origins.not_pulled(file, root) or _what_is_there(file, root)
            reason = f"there is no file {file!r}; {what}"
        if reason is None and (root / file).is_file():
            reason = origins.unreadable(file, root)
        if reason:
            yield Violation(f"{path}.{split}", reason)


def _task_files(path: str, asked: LMEval, root: Path, planned: Collection[str]) -> Iterator[Violation]:
    """Whether the files of lm-eval's tasks are there, and have those that are asked for."""
    folder = asked.folder
    refused = origins.outside(folder) or origins.too_long(folder)
    if refused:
        yield Violation(f"{path}.folder", refused)
    elif (root / folder).is_dir():
        reason = next(origins.absent_in(folder, SUFFIXES, root), None)
        if reason:
            yield Violation(f"{path}.folder", reason)
            return
        files = TaskFiles.read(root / folder)
        faults = ((index, files.fault(name)) for index, name in enumerate(asked.tasks))
        yield from (Violation(f"{path}.tasks[{index}]", f"{folder!r}: {fault}") for index, fault in faults if fault)
    elif not origins.is_made(folder, planned):
        what = origins.not_pulled(folder, root) or "write files of tasks there, as lm-eval reads them"
        yield Violation(f"{path}.folder", f"there is no folder {folder!r}; {what}")


def _shards(path: str, corpus: Corpus, root: Path) -> Iterator[Violation]:
    """Whether a corpus is spread over more files than it has documents, as far as that can be told from outside."""
    if corpus.shards <= ANY_SHARDS or not isinstance(corpus.source, TextFiles | JsonlFiles | CsvFiles):
        return
    patterns = corpus.source.paths
    if any(origins.refusal(pattern) or origins.is_url(pattern) for pattern in patterns):
        return
    files = [name for pattern in patterns for name in origins.matches(pattern, root) if (root / name).is_file()]
    if not files or any(name.endswith(_COMPRESSED) for name in files):
        return
    is_text = isinstance(corpus.source, TextFiles)
    most = len(files) if is_text else _lines((root / name for name in files), corpus.shards)
    if corpus.shards > max(most, ANY_SHARDS):
        documents = f"{most:,} documents, one a {'file' if is_text else 'line'}"
        reason = f"{corpus.shards:,} files are too many for at most {documents}"
        yield Violation(f"{path}.shards", f"{reason}; use at most {max(most, ANY_SHARDS)}")


def _lines(files: Iterable[Path], at_most: int) -> int:
    """How many lines files have together, counted no further than `at_most`."""
    count = 0
    for path in files:
        with open(path, "rb") as file:
            count += sum(1 for _ in itertools.islice(file, at_most - count))
    return count


def _packages(path: str, packages: tuple[str, ...]) -> Iterator[Violation]:
    for index, package in enumerate(packages):
        reason = origins.package_refusal(package)
        if reason:
            yield Violation(f"{path}.packages[{index}]", reason)


def _missing(pattern: str, root: Path, planned: Collection[str]) -> str | None:
    found = origins.matches(pattern, root)
    if found:
        return next((reason for name in found if (reason := _unfit(name, pattern, root))), None)
    if origins.is_made(pattern, planned):
        return None
    what = origins.not_pulled(pattern, root) or _what_is_there(pattern, root) + origins.brackets(pattern)
    return f"no file matches {pattern!r}; {what}"


def _unfit(name: str, pattern: str, root: Path) -> str | None:
    behind = origins.behind_link(name, pattern, root)
    return f"{name!r} {behind}" if behind else origins.unreadable(name, root)


def _tokenizer(path: str, directory: str, root: Path, planned: Collection[str]) -> Iterator[Violation]:
    missing = "save a tokenizer there in the transformers format"
    yield from _folder(path, directory, root, planned, "tokenizer.json", missing, "the tokenizer")


def _model(path: str, directory: str, root: Path, planned: Collection[str]) -> Iterator[Violation]:
    missing = "save a model there in the transformers format, or name one of the hub by HubModel(name=…, revision=…)"
    yield from _folder(path, directory, root, planned, "config.json", missing, "model and tokenizer")


def _folder(
    path: str, directory: str, root: Path, planned: Collection[str], file: str, missing: str, what: str
) -> Iterator[Violation]:
    """Whether a folder in the transformers format, with `what` and at least `file` in it, is there or will be."""
    refused = origins.outside(directory) or origins.too_long(directory)
    if refused:
        yield Violation(path, refused)
    elif origins.is_made(directory, planned):
        return
    elif not (root / directory).is_dir():
        yield Violation(path, f"there is no folder {directory!r}; {missing}")
    elif absent := list(origins.absent_in(directory, _READ, root)):
        yield from (Violation(path, reason) for reason in absent)
    elif not os.path.lexists(root / directory / file):
        yield Violation(path, f"{directory!r} holds no {file}; save {what} there with save_pretrained")
    else:
        read = [name for name in sorted(os.listdir(root / directory)) if name.endswith(_READ)]
        reasons = (origins.unreadable(f"{directory}/{name}", root) for name in read)
        yield from (Violation(path, reason) for reason in reasons if reason)


def _needs_of(
    model: Trained, tokenizer: PretrainedTokenizer, words: Sequence[tuple[str, Word]], root: Path
) -> Iterator[Violation]:
    """What the objective of a model needs of a tokenizer and doesn't find in its folder."""
    given: Word = tokenizer
    if tokenizer.path is not None and not (origins.outside(tokenizer.path) or origins.too_long(tokenizer.path)):
        folder, field, directory = root / tokenizer.path, "path", tokenizer.path
    elif isinstance(tokenizer.model, PretrainedModel) and tokenizer.model.hub is None:
        given, (field, directory) = tokenizer.model, source_of(tokenizer.model)
        try:
            folder = locate(tokenizer.model, root)
        except Missing:
            return
    else:
        return
    if not (folder / "tokenizer.json").is_file():
        return
    path = next(f"{path}.{field}" for path, other in words if other == given)
    special = _special_tokens(folder) if model.objective.special_tokens else set()
    missing = [token for token in model.objective.special_tokens if token not in special]
    if missing:
        yield Violation(
            path,
            f"the tokenizer in {directory!r} has no special token {', '.join(map(repr, missing))} without a role of "
            f"its own, which the objective of {model.name} puts before the parts of a document; name there three that "
            'it has, or make them "special": true if they are among the added_tokens of its tokenizer.json',
        )
    if model.objective.is_masked and not _has_mask_token(folder):
        yield Violation(
            path,
            f"the tokenizer in {directory!r} has no mask token, and the objective of {model.name} needs one; "
            'use one of an encoder, or name the token in tokenizer_config.json, as in "mask_token": "[MASK]"',
        )


def _other_tokens(path: str, model: Distilled, root: Path) -> Iterator[Violation]:
    """Why a student and a teacher that both exist already read other tokens."""
    mine, its = (ids_for(vocabulary.origin, root) for vocabulary in (model.vocabulary, model.teacher.vocabulary))
    if mine is not None and its is not None and mine != its:
        differing = sorted({token for token, _ in mine.items() ^ its.items()})
        yield Violation(
            f"{path}.teacher",
            f"{model.teacher.name} knows {len(its):,} tokens and the student {len(mine):,}, and {len(differing):,} "
            f"differ, such as {differing[0]!r}; what the one predicts means nothing to the other: use a teacher and a "
            "student with one tokenizer",
        )


def _no_template(path: str, model: FineTuned, root: Path) -> Iterator[Violation]:
    """Why a model whose files are there can't learn from chats."""
    tokenizer = model.vocabulary.origin
    if needs_template(model) and has_chat_template(tokenizer, root) is False:
        reason = f"'own', and the tokenizer of {tokenizer.name} has no chat template; use 'plain', which gives it one"
        yield Violation(f"{path}.task.template", reason)


def _special_tokens(directory: Path) -> set[str]:
    """Those without a role, such as the end of a text."""
    added = _json(directory / "tokenizer.json").get("added_tokens") or ()
    config = _json(directory / "tokenizer_config.json")
    given = [config.get(f"{role}_token") for role in _ROLES]
    roles = [role.get("content") if isinstance(role, dict) else role for role in given]
    special = {str(token.get("content")) for token in added if isinstance(token, dict) and token.get("special")}
    return special - {*roles}


def _has_mask_token(directory: Path) -> bool:
    """Whether transformers finds a mask token for the tokenizer there."""
    config = _json(directory / "tokenizer_config.json")
    if config.get("mask_token") or _json(directory / "special_tokens_map.json").get("mask_token"):
        return True
    # A class for one kind of tokenizer knows the name of its mask token without being told.
    added = _json(directory / "tokenizer.json").get("added_tokens", ())
    knows_its_tokens = config.get("tokenizer_class") not in (None, "PreTrainedTokenizerFast", "TokenizersBackend")
    return knows_its_tokens and any(token.get("content") in _MASK_TOKENS for token in added)


def _json(path: Path) -> dict[str, Any]:
    """A JSON file; empty if there is none, or it can't be read, as the stage that loads it will say better."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _what_is_there(pattern: str, root: Path) -> str:
    """What is wrong with `pattern`, or the deepest folder of it that exists, with some of what it holds."""
    if (root / pattern).is_dir():
        return f"that is a folder; name the files in it, as in '{PurePosixPath(pattern) / '*'}'"
    folder = Path()
    for part in PurePosixPath(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        if not (root / folder / part).is_dir():
            return f"there is no folder '{folder / part}'"
        folder /= part
    names = sorted(entry.name for entry in (root / folder).iterdir() if not entry.name.startswith("."))
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"'{folder}' holds {shown}" if names else f"'{folder}' is empty"
