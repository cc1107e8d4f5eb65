"""Weights that lie where somebody has put them: a stage's folder says where, and which they were."""

from pathlib import Path

from llmrecipe import artifacts, codec
from llmrecipe.errors import StageError
from llmrecipe.pretrained import place
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.schema import Word, define

FILE = "weights.json"


@define("weights_file")
class WeightsFile(Word):
    """A file of weights."""

    bytes: int
    """Its size."""

    sha256: str
    """Its digest."""


@define("weights_card")
class WeightsCard(Word):
    """Where the weights of a model artifact lie, if they are in no file of its own."""

    path: str | None
    """The folder, relative to the project, or to where `package` is installed."""

    hub: str | None
    """Its name on the Hugging Face Hub."""

    revision: str | None
    """The commit there."""

    package: str | None
    """The installed package that has it, with its version."""

    files: dict[str, WeightsFile]
    """The files in it, relative to it."""

    version: int = 1


def write(directory: Path, model: PretrainedModel, lies_in: Path, names: tuple[str, ...]) -> None:
    """Write down in the artifact `directory` that the weights are those in `lies_in`, after reading all of them."""
    files = {
        name: WeightsFile(bytes=(lies_in / name).stat().st_size, sha256=artifacts.file_digest(lies_in / name))
        for name in names
    }
    card = WeightsCard(path=model.path, hub=model.hub, revision=model.revision, package=model.package, files=files)
    artifacts.write_json(directory / FILE, codec.unstructure(card))


def read(directory: Path) -> WeightsCard | None:
    """Where the weights of the artifact `directory` lie; None if in its own files.

    Raises:
        RecipeError: it says so in a form that can't be read.
    """
    if not (directory / FILE).is_file():
        return None
    return codec.structure(artifacts.read_json(directory / FILE), WeightsCard, str(directory / FILE))


def files_of(directory: Path) -> tuple[Path, ...]:
    """The files that hold the weights of the model artifact `directory`, wherever they lie.

    Raises:
        StageError: one isn't there any more, or has another size.
    """
    return (*_lying(directory), *sorted(directory.glob("*.safetensors")))


def digests(directory: Path) -> dict[Path, str]:
    """The weights of the artifact `directory` that lie elsewhere, with the SHA-256 that each had on its import.

    Raises:
        StageError: one isn't there any more, or has another size.
    """
    return {path: entry.sha256 for path, entry in _lying(directory).items()}


def size_of(directory: Path) -> int:
    """Bytes of the files that hold the weights of a model artifact, as its own files say."""
    card = read(directory)
    elsewhere = sum(entry.bytes for entry in card.files.values()) if card else 0
    return elsewhere + sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _lying(directory: Path) -> dict[Path, WeightsFile]:
    card = read(directory)
    if card is None:
        return {}
    asked = PretrainedModel(name="weights", path=card.path, hub=card.hub, revision=card.revision, package=card.package)
    try:
        folder = place.locate(asked, Path())
    except place.Missing as error:
        raise StageError(f"{directory}: its weights lie elsewhere, and {error.reason}") from None
    for name, entry in card.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry.bytes:
            what = "is missing" if size is None else f"has {size:,} bytes"
            raise StageError(
                f"{path}: {what}, and it had {entry.bytes:,} when the model was imported; put it back, or run "
                "`dvc repro`, which imports the model as it is now"
            )
    return {folder / name: entry for name, entry in card.files.items()}
