"""Recipes as they were planned and run: now, at a commit, or in an experiment; no file of the project is touched."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts, dvccache, identity, layout, times
from llmrecipe.cli.listing import one
from llmrecipe.dvcfiles import PIPELINE_FILE, Recorded, recorded_in
from llmrecipe.errors import LoadError, suggestion
from llmrecipe.loader import RECIPES_DIR

_EXPERIMENTS = "refs/exps"


@attrs.frozen(kw_only=True)
class Version:
    """A recipe of a state of the project, with what DVC has noted of its stages."""

    title: str
    """How it was asked for: `quickstart@HEAD~1`."""

    recipe: Recorded
    """The recipe as it was planned."""

    locked: Mapping[str, Any]
    """The stages of `dvc.lock`, by name: the parameters they have run with, and digests of what they left."""

    planned: Mapping[str, Any]
    """Parameters that its stages have in the project now, if that is the state."""

    cache: Path | None
    """DVC's cache."""

    @property
    def report(self) -> str:
        """The stage that compares its models."""
        return f"{self.recipe.name}-report"

    @property
    def release(self) -> str:
        """The stage that releases one of them, if there is one."""
        return f"{self.recipe.name}-release"

    @property
    def owners(self) -> dict[str, str]:
        """The value that each of its stages belongs to."""
        found = {name: entry["meta"]["llmrecipe"] for name, entry in self.recipe.stages.items()}
        return {name: meta["owner"] if isinstance(meta, dict) else meta for name, meta in found.items()}

    def section(self, stage: str) -> Mapping[str, Any] | None:
        """The parameters that a stage has run with; None if it hasn't."""
        files = self.locked.get(stage, {}).get("params") or {}
        return next((file[stage] for file in files.values() if stage in file), None)

    def files(self, stage: str) -> dict[str, str]:
        """Digests of what a stage has read that no stage has made, by path."""
        read = self.locked.get(stage, {}).get("deps") or ()
        return {each["path"]: each["md5"] for each in read if "md5" in each and not _is_made(each["path"])}

    def data(self, stage: str, name: str) -> Any:
        """The data of a JSON file that a stage has left; None if it left none, or it is nowhere any more."""
        for out in self._outs(stage):
            if Path(out["path"]).name == name:
                file = dvccache.file_of(out["md5"], Path(out["path"]), self.cache)
                return None if file is None else artifacts.read_json(file)
        return None

    def times(self, stage: str) -> dict[str, Any] | None:
        """What was measured of the run that left what the stage has left; None if it wasn't on this machine."""
        digests = {}
        for out in self._outs(stage):
            path = Path(out["path"])
            name, file = path.name, dvccache.file_of(out["md5"], path, self.cache)
            if file is not None and out["md5"].endswith(".dir"):
                listed = {entry["relpath"]: entry["md5"] for entry in artifacts.read_json(file)}
                # An artifact is what its manifest says.
                manifest = path / artifacts.MANIFEST
                name = f"{name}/{artifacts.MANIFEST}"
                file = dvccache.file_of(listed.get(artifacts.MANIFEST, ""), manifest, self.cache)
            if file is None:
                return None
            digests[name] = artifacts.file_digest(file)
        return times.of(stage, identity.of_work(digests))

    def _outs(self, stage: str) -> Sequence[Mapping[str, Any]]:
        return self.locked.get(stage, {}).get("outs") or ()


def versions(references: Sequence[str]) -> list[Version]:
    """What was asked for; `RECIPE@REVISION` alone stands for that and for what the recipe is now.

    Raises:
        LoadError: there is no such revision, or no such recipe is planned in it.
    """
    cache = dvccache.cache()
    asked = [*references, references[0].partition("@")[0]] if len(references) == 1 else references
    return [_version(each, cache) for each in asked]


def is_revision(reference: str) -> bool:
    """Whether a reference names a commit or an experiment as well."""
    return "@" in reference and not Path(reference).exists()


def _is_made(path: str) -> bool:
    return path.startswith(f"{layout.ARTIFACTS}/")


def _version(reference: str, cache: Path | None) -> Version:
    name, sign, revision = reference.partition("@") if is_revision(reference) else (reference, "", "")
    if sign and not revision:
        raise LoadError(f"{reference}: no commit or experiment is named after `@`; the last commit is {name}@HEAD")
    commit = _commit(revision) if revision else None
    recipes = recorded_in(_read(PIPELINE_FILE, commit))
    recipe = _find(name or one(), recipes)
    if recipe is None:
        where = f" at {revision}" if revision else ""
        raise LoadError(f"{reference}: no recipe of that name is planned{where}{suggestion(name, list(recipes))}")
    locked = _read(str(dvccache.LOCK_FILE), commit).get("stages") or {}
    planned = {} if commit else recipe.sections(Path())
    return Version(title=reference or recipe.name, recipe=recipe, locked=locked, planned=planned, cache=cache)


def _find(name: str, recipes: Mapping[str, Recorded]) -> Recorded | None:
    """A planned recipe by its name, or by where it was found."""
    for each in recipes.values():
        file = each.reference.partition(":")[0]
        if name in (each.name, each.reference, file, Path(file).stem if Path(file).parent == RECIPES_DIR else ""):
            return each
    return None


def _read(file: str, commit: str | None) -> dict[str, Any]:
    if commit is None:
        text = Path(file).read_bytes() if Path(file).is_file() else b""
    else:
        text = _git("show", f"{commit}:./{file}") or b""
    return yaml.load(text, Loader=yaml.CSafeLoader) or {}


def _commit(revision: str) -> str:
    """The commit of a revision, or of one of DVC's experiments, which have names that git doesn't know."""
    experiments = (_git("for-each-ref", "--format=%(refname)", _EXPERIMENTS) or b"").decode().split()
    for ref in (revision, *(each for each in experiments if each.rpartition("/")[2] == revision)):
        found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if found:
            return found.decode().strip()
    raise LoadError(f"{revision}: git knows no such commit, branch or tag, and DVC no such experiment")


def _git(*arguments: str) -> bytes | None:
    """What git prints; None if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True)
    return done.stdout if done.returncode == 0 else None
