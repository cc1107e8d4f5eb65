"""What a recipe needs of this machine and this folder."""

import glob
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llmrecipe import origins
from llmrecipe.errors import Violation
from llmrecipe.recipe import augmentation
from llmrecipe.recipe.execution import Place, Ray, Slurm
from llmrecipe.recipe.objective import CausalLM, Objective
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.source import Files, PythonPackages, Source
from llmrecipe.recipe.tokenizer import PretrainedTokenizer

GPUS = Path("/proc/driver/nvidia/gpus")
"""One folder for each NVIDIA GPU, with or without CUDA installed."""

CPU_FLAGS = Path("/proc/cpuinfo")

_MASK_TOKENS = ("[MASK]", "<mask>")
"""How BERT and RoBERTa, and most that came after them, write it."""

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Of tokens in transformers."""


def violations(recipe: Recipe, root: Path) -> list[Violation]:
    """The files, URLs and packages that `recipe` names and that can't be read here; `root` is the project's folder."""
    found = []
    for path, corpus in recipe.corpora():
        for place, source in {"source": corpus.source, **corpus.evaluation_sets()}.items():
            found.extend(_source(f"{recipe.name}.{path}.{place}", source, root))
        for index, augmenter in enumerate(corpus.augment):
            for name, model in augmentation.models(augmenter).items():
                if isinstance(model, str):
                    found.extend(_model(f"{recipe.name}.{path}.augment[{index}].{name}", model, root))
    tokenizer = recipe.tokenizer
    if isinstance(tokenizer, PretrainedTokenizer):
        found.extend(_tokenizer(f"{recipe.name}.tokenizer.path", tokenizer.path, root, recipe.objective))
    return found


def warnings(recipe: Recipe) -> list[Violation]:
    """What will work, but badly, on this machine; or only on another."""
    ranks, threads = recipe.parallelism.world_size, recipe.parallelism.threads_per_rank
    gpus, cores = num_gpus(), len(os.sched_getaffinity(0))
    on_cpu = recipe.runtime.device == "cpu" or (recipe.runtime.device == "auto" and gpus == 0)
    found = []
    if not on_cpu and gpus == 0:
        reason = "'cuda', and this machine has no NVIDIA GPU; run it where there is one, or use 'auto'"
        found.append(Violation(f"{recipe.name}.runtime.device", reason))
    elif not on_cpu and ranks > gpus:
        reason = f"{_layout(recipe)}, each with a GPU of its own, and this machine has {_count(gpus, 'GPU')}"
        found.append(
            Violation(f"{recipe.name}.parallelism", f"{reason}; lower a degree, or run it on a larger machine")
        )
    elif on_cpu and ranks > cores:
        reason = f"{_layout(recipe)} will wait for each other on {_count(cores, 'core')}"
        found.append(
            Violation(f"{recipe.name}.parallelism", f"{reason}; lower a degree, or run it on a larger machine")
        )
    elif on_cpu and ranks * threads > cores:
        reason = f"{_count(ranks, 'rank')} of {threads} threads will wait for each other on {_count(cores, 'core')}"
        found.append(Violation(f"{recipe.name}.parallelism.threads_per_rank", f"{reason}; use {cores // ranks}"))
    found.extend(_execution(f"{recipe.name}.runtime.execution.on", recipe.runtime.execution.on))
    if on_cpu and recipe.training.precision == "bfloat16" and not _multiplies_bfloat16():
        reason = "'bfloat16' is many times slower than 'float32' on this CPU, which lacks avx512_bf16; use 'by_device'"
        found.append(Violation(f"{recipe.name}.training.precision", reason))
    return found


def num_gpus() -> int:
    """NVIDIA GPUs in this machine, without asking CUDA."""
    return len(list(GPUS.iterdir())) if GPUS.is_dir() else 0


def _execution(path: str, place: Place) -> Iterator[Violation]:
    if isinstance(place, Slurm) and shutil.which("sbatch") is None:
        reason = "Slurm, and this machine has no `sbatch`; run `dvc repro` on a login node of the cluster"
        yield Violation(path, reason)
    if isinstance(place, Ray) and importlib.util.find_spec("ray") is None:
        yield Violation(path, "Ray, and its package isn't installed here; `pip install 'llmrecipe[ray]'`")


def _layout(recipe: Recipe) -> str:
    parallelism = recipe.parallelism
    degrees = f"{parallelism.data} × {parallelism.tensor} × {parallelism.pipeline}"
    return f"data × tensor × pipeline = {degrees} = {parallelism.world_size} ranks"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _multiplies_bfloat16() -> bool:
    return any(flag in CPU_FLAGS.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def _source(path: str, source: Source, root: Path) -> Iterator[Violation]:
    if isinstance(source, Files):
        for index, pattern in enumerate(source.paths):
            reason = origins.refusal(pattern) or (None if origins.is_url(pattern) else _missing(pattern, root))
            if reason:
                yield Violation(f"{path}.paths[{index}]", reason)
    elif isinstance(source, PythonPackages):
        for index, package in enumerate(source.packages):
            reason = origins.package_refusal(package)
            if reason:
                yield Violation(f"{path}.packages[{index}]", reason)


def _missing(pattern: str, root: Path) -> str | None:
    if any((root / match).is_file() for match in glob.iglob(pattern, root_dir=root, recursive=True)):
        return None
    what = origins.not_pulled(pattern, root) or _what_is_there(pattern, root)
    return f"no file matches {pattern!r}; {what}"


def _tokenizer(path: str, directory: str, root: Path, objective: Objective) -> Iterator[Violation]:
    outside = origins.outside(directory)
    if outside:
        yield Violation(path, outside)
    elif not (root / directory).is_dir():
        yield Violation(path, f"there is no folder {directory!r}; save a tokenizer there in the transformers format")
    elif not (root / directory / "tokenizer.json").is_file():
        reason = f"{directory!r} holds no tokenizer.json; save the tokenizer there with save_pretrained"
        yield Violation(path, reason)
    elif isinstance(objective, CausalLM):
        options = objective.fill_in_the_middle
        special = _special_tokens(root / directory) if options else set()
        missing = [token for token in (options.tokens if options else ()) if token not in special]
        if missing:
            yield Violation(
                path,
                f"the tokenizer in {directory!r} has no special token {', '.join(map(repr, missing))} without a role "
                "of its own, which objective.fill_in_the_middle puts before the parts of a document; name there three "
                'that it has, or make them "special": true if they are among the added_tokens of its tokenizer.json',
            )
    elif not _has_mask_token(root / directory):
        yield Violation(
            path,
            f"the tokenizer in {directory!r} has no mask token, which the objective puts in the place of others; use "
            'one of an encoder, or name the token in tokenizer_config.json, as in "mask_token": "[MASK]"',
        )


def _special_tokens(directory: Path) -> set[str]:
    """Those without a role, such as the end of a text."""
    added = _json(directory / "tokenizer.json").get("added_tokens") or ()
    config = _json(directory / "tokenizer_config.json")
    given = [config.get(f"{role}_token") for role in _ROLES]
    roles = [role.get("content") if isinstance(role, dict) else role for role in given]
    return {token.get("content") for token in added if isinstance(token, dict) and token.get("special")} - {*roles}


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


def _model(path: str, directory: str, root: Path) -> Iterator[Violation]:
    outside = origins.outside(directory)
    if outside:
        yield Violation(path, outside)
    elif not (root / directory).is_dir():
        reason = "save a model there in the transformers format, or name one of the hub by HubModel(name=…, revision=…)"
        yield Violation(path, f"there is no folder {directory!r}; {reason}")
    elif not (root / directory / "config.json").is_file():
        reason = "save model and tokenizer there with save_pretrained"
        yield Violation(path, f"{directory!r} holds no config.json; {reason}")


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
