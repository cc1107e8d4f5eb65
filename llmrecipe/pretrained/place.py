"""Where a model lies on this machine: in the project, in an installed package, or in the local cache of the Hub."""

from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

from llmrecipe import origins
from llmrecipe.pretrained import hub
from llmrecipe.pretrained.hub import download
from llmrecipe.pretrained.missing import Missing
from llmrecipe.recipe.model import PretrainedModel

__all__ = ["Missing", "download", "locate", "source_of"]

_SUFFIX = ".gguf"


def locate(model: PretrainedModel, root: Path) -> Path:
    """The folder or the `.gguf` file of a model, in the project at `root`, in a package, or in the Hub's local cache.

    Of a model of the Hub that isn't in the cache, the configuration is fetched, without the weights.

    Raises:
        Missing: it isn't there, or isn't such a file.
    """
    if model.package is not None:
        return _in_package(model.package, model.path)
    if model.path is not None:
        return _in_project(model.path, root)
    return hub.cached(model) or hub.configuration(model)


def source_of(model: PretrainedModel) -> tuple[str, str]:
    """The field that says where a model is, and what it says."""
    return next((field, value) for field in ("path", "package", "hub") if (value := getattr(model, field)) is not None)


def _in_project(path: str, root: Path) -> Path:
    if origins.is_url(path):
        raise Missing("path", f"{path!r} is a URL; download the model into the project and name it from there")
    reason = origins.outside(path)
    if reason:
        raise Missing("path", reason)
    if not (root / path).exists():
        what = origins.not_pulled(path, root) or _hint(path, root)
        raise Missing(
            "path", f"there is no folder or {_SUFFIX} file {path!r}, and no stage in dvc.yaml makes it; {what}"
        )
    return _folder_or_gguf(root / path, path)


def _hint(path: str, root: Path) -> str:
    parts = PurePosixPath(path).parts
    if len(parts) == 2 and not (root / parts[0]).exists():
        return f"put the model there, or, if it is one of the Hub, name it by hub={path!r} with its revision"
    return "put the model there in the transformers format"


def _folder_or_gguf(place: Path, path: str) -> Path:
    if place.is_dir() or place.suffix.lower() == _SUFFIX:
        return place
    parent = PurePosixPath(path).parent.as_posix()
    reason = f"{path!r} is a file, and no {_SUFFIX}"
    raise Missing("path", f"{reason}; name the folder of a model in the transformers format, {parent!r}")


def _in_package(package: str, path: str | None) -> Path:
    refused = origins.package_refusal(package)
    if refused:
        raise Missing("package", refused)
    found = distribution(package.partition("==")[0])
    # Relative to where it is installed.
    files = [PurePosixPath(file.as_posix()) for file in found.files or ()]
    models = sorted(_models(files))
    listed = ", ".join(map(repr, models))
    if not models:
        what = "no folder with config.json and *.safetensors, and no .gguf file"
        raise Missing("package", f"{package!r} has no model: {what}")
    if path is None:
        if len(models) > 1:
            raise Missing("path", f"is missing, and {package!r} has several models; name one of {listed}")
        return Path(str(found.locate_file(models[0])))
    wanted = PurePosixPath(path)
    if not any(wanted == file or wanted in file.parents for file in files) or ".." in wanted.parts:
        raise Missing("path", f"{package!r} has no {path!r}; its models are {listed}")
    return _folder_or_gguf(Path(str(found.locate_file(path))), path)


def _models(files: list[PurePosixPath]) -> Iterator[str]:
    """Folders in the transformers format and GGUF files among those of a package."""
    configured = {file.parent for file in files if file.name == "config.json"}
    weighted = {file.parent for file in files if file.suffix == ".safetensors"}
    yield from (folder.as_posix() for folder in configured & weighted)
    yield from (file.as_posix() for file in files if file.suffix.lower() == _SUFFIX)
