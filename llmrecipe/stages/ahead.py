"""What comes after a stage: whether this machine can finish anything that the stage begins."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import yaml

from llmrecipe import cards, codec, identity, layout, memory, wiring
from llmrecipe.cards import DocumentsCard
from llmrecipe.dvccache import LOCK_FILE
from llmrecipe.errors import LoadError, RecipeError, StageError
from llmrecipe.extensions import load_extension
from llmrecipe.recipe.gate import LEAST_DOCUMENTS, LEAST_OF_CORPUS, NEEDED, Recovery
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.measure import TokenMeasure
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.quantity import Epochs
from llmrecipe.recipe.tokenizer import TrainedTokenizer
from llmrecipe.sections import (
    DistilSection,
    ImportSection,
    MeasureSection,
    ReleaseSection,
    ReportSection,
    Section,
    TokenizerSection,
    TrainSection,
    section_of_kind,
)

log = logging.getLogger(__name__)


_READ = (
    DistilSection,
    ImportSection,
    MeasureSection,
    ReleaseSection,
    ReportSection,
    TokenizerSection,
    TrainSection,
)
"""Sections that tell what can't be made."""


@attrs.frozen
class _Stage:
    """A stage of the project, as its section is written."""

    entry: Any
    """Its entry of the parameters, as DVC notes it when it has run."""

    raw: Any
    extensions: tuple[str, ...]

    inputs: Mapping[str, str]
    """What it reads, by role."""

    makers: Mapping[str, str]
    """The stages that make what it reads, by role."""

    def section(self) -> Section | None:
        """Its section; None if it can't be read: that stage says why."""
        cls = section_of_kind(self.raw.get(codec.TAG, "")) if isinstance(self.raw, Mapping) else None
        if cls not in _READ:
            return None
        try:
            for path in self.extensions:
                load_extension(Path(path))
            return codec.structure(self.raw, cls, "")
        except (LoadError, RecipeError):
            return None


def refuse_vain(name: str, entries: Mapping[str, Any], machine_of: Callable[[str, str], Machine]) -> None:
    """Refuse a stage if all that it leads to can't be made.

    That is what needs a training that can't fit the memory of its machine, a step beyond the end of this one, or an
    interval of more documents than there are. Where only some of that does, it is a warning: the rest may be what was
    asked for.

    Args:
        name: the stage's.
        entries: the sections of the project's stages, with their wiring, by stage.
        machine_of: the machine of a stage, by its name and its owner.

    Raises:
        StageError: it is such a stage.
    """
    stages = {each: _linked(entry, entries) for each, entry in entries.items()}
    if isinstance(stages[name].section(), ReportSection):
        # What is compared is of use, whatever is released.
        return
    after = _after(name, stages)
    reasons = {each: reason for each in after if (reason := _reason(each, stages, machine_of))}
    reasons |= _beyond_the_end(name, stages)
    reasons |= {each: reason for each in after if (reason := _too_few_documents(each, stages))}
    if not reasons:
        return
    message = "\n".join(f"{each} can't run: {reason}" for each, reason in reasons.items())
    lost = {last for each in reasons for last in _after(each, stages)}
    is_read = {maker for stage in stages.values() for maker in stage.makers.values()}
    if lost >= after - is_read:
        raise StageError(message if name in reasons else f"{name} is begun in vain:\n{message}")
    log.warning("%s", message)


def _linked(entry: Any, entries: Mapping[str, Any]) -> _Stage:
    try:
        raw, tied = wiring.read(entry, "")
    except RecipeError:
        return _Stage(entry, None, (), {}, {})
    makers = {role: maker for role, path in tied.inputs.items() if (maker := layout.stage_of(path)) in entries}
    return _Stage(entry, raw, tied.extensions, tied.inputs, makers)


def _after(name: str, stages: Mapping[str, _Stage]) -> set[str]:
    """The stage, and all that read what it makes, or what those make."""
    found, left = {name}, [name]
    while left:
        current = left.pop()
        readers = {each for each, stage in stages.items() if current in stage.makers.values()}
        left += readers - found
        found |= readers
    return found


def _reason(name: str, stages: Mapping[str, _Stage], machine_of: Callable[[str, str], Machine]) -> str | None:
    """Why a training can't fit its machine; None for any other stage, or if its network isn't known yet."""
    section, network = stages[name].section(), _network(name, stages)
    if not isinstance(section, TrainSection) or network is None:
        return None
    machine = machine_of(name, name.removesuffix(f"-{section.tag}"))
    size = _vocab_size(stages[name], stages)
    refusal = memory.refusal(network, section.objective, section.training, section.parallelism, size, machine)
    return None if refusal is None else refusal.reason


def _beyond_the_end(name: str, stages: Mapping[str, _Stage]) -> dict[str, str]:
    """By stage, why a step that it reads of a training is none; one in epochs knows its length with its tokens."""
    section = stages[name].section()
    if not isinstance(section, TrainSection) or not isinstance(section.training.duration, Epochs):
        return {}
    from llmrecipe.engines.tokens.inputs import Tokens

    length = section.objective.sequence_length
    try:
        tokens = Tokens.of({role: Path(path) for role, path in stages[name].inputs.items()})
        steps = section.training.settled(tokens.open("train").num_windows(length)).num_steps(length)
    except (KeyError, StageError):
        # The training says what is wrong with its tokens.
        return {}
    kept = {
        each: int(PurePosixPath(path).name)
        for each, stage in stages.items()
        for path in stage.inputs.values()
        if layout.stage_of(path) == name and PurePosixPath(path).parent.name == "kept"
    }
    return {
        each: f"it reads step {step} of {name}, and {section.training.duration} of this text are {steps} steps; "
        "name an earlier step, or train for longer"
        for each, step in kept.items()
        if step > steps
    }


def too_few_documents(entries: Mapping[str, Any]) -> dict[str, str]:
    """By release, why it can't say how sure a recovery is, as far as its documents are counted.

    Args:
        entries: the sections of stages, with their wiring, by stage; planned in this folder, or to be.
    """
    stages = {each: _linked(entry, entries) for each, entry in entries.items()}
    return {each: reason for each in stages if (reason := _too_few_documents(each, stages))}


def _too_few_documents(name: str, stages: Mapping[str, _Stage]) -> str | None:
    """Why a release can't say how sure a recovery is; None for any other stage, or where documents aren't counted yet.

    What a measure reads ends with a sequence, whose length only the model knows: it may be less than is counted here.
    """
    section = stages[name].section()
    asked = [gate for gate in getattr(section, "gates", ()) if isinstance(gate, Recovery)]
    if not isinstance(section, ReleaseSection) or not asked:
        return None
    for candidate in section.candidates:
        for gate in asked:
            measured = f"{candidate}-{gate.measure}"
            counts = _documents(stages[measured], stages) if measured in stages else None
            if counts is None or candidate == section.reference:
                continue
            if sum(counts) < LEAST_DOCUMENTS or min(counts) < LEAST_OF_CORPUS:
                has = " + ".join(map(str, counts))
                return f"{NEEDED}, and {measured} has {has} to read; raise its max_tokens, or hold out more text"
    return None


def _documents(measure: _Stage, stages: Mapping[str, _Stage]) -> list[int] | None:
    """How many documents, at most, a measure reads of each corpus; None if that isn't known yet."""
    section = measure.section()
    if not isinstance(section, MeasureSection) or not isinstance(section.measure, TokenMeasure):
        return None
    text = {role: maker for role, maker in measure.makers.items() if role.startswith(("tokens", "mixture"))}
    prepared = [stages[maker] for role, maker in text.items() if role != "mixture"]
    try:
        if _are_current(text.values(), stages):
            from llmrecipe.engines.tokens.inputs import Tokens

            heldout = Tokens.of({role: Path(path) for role, path in measure.inputs.items()}).open("heldout")
            shares = heldout.divide(section.measure.max_tokens)
            return [files.documents_within(share) for files, share in zip(heldout.corpora, shares, strict=True)]
        if _are_current([stage.makers["documents"] for stage in prepared], stages):
            # Known before its tokens are.
            folders = [Path(stage.inputs["documents"]) for stage in prepared]
            return [cards.read(folder, DocumentsCard).documents["heldout"] for folder in folders]
    except (KeyError, RecipeError, StageError):
        # The measure says what is wrong with its text.
        pass
    return None


def _are_current(makers: Iterable[str], stages: Mapping[str, _Stage]) -> bool:
    """Whether DVC has run stages, and what they are made from, as they are planned now, of the files that are there.

    Of those that no stage makes sizes are compared, which costs nothing however many there are.
    """
    read = yaml.load(LOCK_FILE.read_bytes(), Loader=yaml.CSafeLoader) if LOCK_FILE.is_file() else None
    locked: dict[str, Any] = (read or {}).get("stages") or {}
    made = {out["path"]: out.get("md5") for stage in locked.values() for out in stage.get("outs") or ()}
    left = list(makers)
    while left:
        maker = left.pop()
        lock = locked.get(maker, {})
        if all(file.get(maker) != stages[maker].entry for file in (lock.get("params") or {}).values()):
            return False
        for dependency in lock.get("deps") or ():
            path, digest = dependency["path"], dependency.get("md5")
            if made[path] != digest if path in made else _size(Path(path)) != dependency.get("size"):
                return False
        left += stages[maker].makers.values()
    return True


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(size for size, _ in identity.of_files(path).values())


def _network(name: str, stages: Mapping[str, _Stage]) -> Network | None:
    """What a stage trains, or the shape of the model that it starts from or is made from."""
    match stages[name].section():
        case TrainSection(network=Network() as network) | DistilSection(network=Network() as network):
            return network
        case ImportSection(model=model):
            return model.given_network
    makers = stages[name].makers
    above = next((makers[role] for role in ("start", "checkpoint", "model", "student") if role in makers), None)
    return None if above is None else _network(above, stages)


def _vocab_size(training: _Stage, stages: Mapping[str, _Stage]) -> int:
    """Tokens that a training reads; 0 if a tokenizer decides that exists already."""
    for role, maker in training.makers.items():
        if role.startswith("tokens"):
            made = stages.get(stages[maker].makers.get("tokenizer", ""))
            match made and made.section():
                case TokenizerSection(tokenizer=TrainedTokenizer() as tokenizer):
                    return tokenizer.vocab_size
    return 0
