"""Whether damage is noticed, wherever a bit is another."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from llmrecipe import artifacts, dvccache, integrity
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere
from llmrecipe.recipe.model import PretrainedModel


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sealed(folder: str = "artifacts/web/tokenize/tokens") -> Path:
    directory = Path(folder)
    (directory / "train").mkdir(parents=True)
    (directory / "train/00000.ds").write_bytes(bytes(range(200)))
    artifacts.write_json(directory / "card.json", {"tokens": 100})
    artifacts.seal(directory, "tokens")
    return directory


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def opened(directory: Path) -> None:
    """As a stage does."""
    integrity.verify([directory])
    # The kind can be another without a contradiction in the artifact.
    artifacts.open_artifact(directory, "tokens")


def locked(path: str, md5: str) -> None:
    entry = {"outs": [{"path": path, "hash": "md5", "md5": md5}]}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"web-tokenize": entry}}))


def test_what_was_sealed_is_whole():
    integrity.verify([sealed()])


def test_another_bit_in_any_byte_of_any_file_is_noticed():
    directory = sealed()
    for path in (directory / "train/00000.ds", directory / "card.json", directory / "manifest.json"):
        for bit in range(0, 8 * path.stat().st_size, 7):
            flip(path, bit)
            try:
                with pytest.raises(StageError, match=f"^{directory}"):
                    opened(directory)
            finally:
                flip(path, bit)


def test_a_stage_that_reads_cards_only_looks_at_cards_only():
    directory = sealed()
    flip(directory / "train/00000.ds", 0)
    integrity.verify([directory], only_cards=True)
    flip(directory / "card.json", 20)
    with pytest.raises(StageError, match=r"card\.json: damaged"):
        integrity.verify([directory], only_cards=True)


def test_a_manifest_is_named_whatever_of_it_is_damaged_if_dvc_knows_it(monkeypatch):
    """A name or a size that isn't right says first that another file is missing, or damaged."""
    directory = sealed()
    manifest = directory / artifacts.MANIFEST
    whole = manifest.read_bytes()
    digest = hashlib.md5(whole).hexdigest()
    monkeypatch.setattr(dvccache, "digest_of", lambda path: digest if path == manifest else None)
    told = []
    for bit in range(8 * len(whole)):
        flip(manifest, bit)
        for only_cards in (False, True):
            try:
                integrity.verify([directory], only_cards=only_cards)
                artifacts.open_artifact(directory, "tokens")
            except StageError as error:
                told.append(str(error))
        manifest.write_bytes(whole)
    assert len(told) > 8 * len(whole)
    assert {reason.partition(":")[0] for reason in told} == {str(manifest)}


def test_a_file_that_is_gone_is_damage():
    directory = sealed()
    (directory / "train/00000.ds").unlink()
    with pytest.raises(StageError, match=r"train/00000\.ds: damaged"):
        integrity.verify([directory])


def test_somebody_elses_folder_and_raw_text_have_no_digests():
    Path("theirs").mkdir()
    Path("theirs/manifest.json").write_text('{"icons": []}')
    Path("raw.txt").write_text("text")
    locked("other.txt", "0" * 32)
    integrity.verify([Path("theirs"), Path("raw.txt")])


def test_an_output_that_is_a_file_is_compared_with_the_lock():
    path = Path("artifacts/web/perplexity/metrics.json")
    written = json.dumps({"perplexity": 12.5})
    path.parent.mkdir(parents=True)
    path.write_text(written)
    locked(str(path), hashlib.md5(path.read_bytes()).hexdigest())
    assert integrity.read_json(path) == {"perplexity": 12.5}
    path.write_text(written.replace("12", "13"))
    with pytest.raises(StageError, match=r"perplexity/metrics\.json: damaged"):
        integrity.read_json(path)


def test_weights_that_lie_elsewhere_are_read_too():
    place = Path("data/model")
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(bytes(64))
    directory = Path("artifacts/published/import/model")
    directory.mkdir(parents=True)
    elsewhere.write(directory, PretrainedModel(name="published", path="data/model"), place, ("model.safetensors",))
    artifacts.seal(directory, "model")
    integrity.verify([directory])
    flip(place / "model.safetensors", 100)
    integrity.verify([directory], only_cards=True)
    with pytest.raises(StageError, match=r"^data/model/model\.safetensors: damaged"):
        integrity.verify([directory])


def test_many_damaged_files_are_counted():
    directory = Path("artifacts/web/tokenize/tokens")
    directory.mkdir(parents=True)
    for number in range(9):
        (directory / f"{number}.ds").write_bytes(b"tokens")
    artifacts.seal(directory, "tokens")
    for number in range(9):
        flip(directory / f"{number}.ds", number)
    with pytest.raises(StageError, match="and 4 more files"):
        integrity.verify([directory])


def added(path: str, md5: str, kind: str = "hash: md5\n  ") -> None:
    """As `dvc add` leaves it."""
    text = f"outs:\n- md5: {md5}\n  size: 9\n  {kind}path: {Path(path).name}\n"
    Path(f"{path}.dvc").write_text(text)


def cached(content: bytes, suffix: str = "") -> str:
    md5 = hashlib.md5(content).hexdigest()
    place = Path(".dvc/cache/files/md5", md5[:2], md5[2:] + suffix)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return md5 + suffix


@pytest.fixture
def data(monkeypatch):
    """A folder with a text, and a cache."""
    monkeypatch.setattr(dvccache, "cache", lambda: Path(".dvc/cache"))
    text = Path("data [1]/one.txt")
    text.parent.mkdir()
    text.write_bytes(b"some text")
    return text


@pytest.mark.parametrize("asked", ["data [1]", "data [1]/one.txt"])
@pytest.mark.parametrize("tracked", ["data [1]", "data [1]/one.txt"])
def test_data_that_the_user_has_added_is_compared_with_what_dvc_has_of_it(data, asked, tracked):
    md5 = cached(data.read_bytes())
    if tracked != str(data):
        entries = [{"md5": md5, "relpath": "one.txt"}, {"md5": md5, "relpath": "gone.txt"}]
        md5 = cached(json.dumps(entries).encode(), ".dir")
    added(tracked, md5)
    integrity.verify([Path(asked)])
    flip(data, 3)
    expected = rf"one\.txt: damaged.*`rm -f 'data \[1\]/one\.txt' && dvc checkout '{re.escape(tracked)}'`"
    with pytest.raises(StageError, match=expected + r".*`dvc commit 'data \[1\]"):
        integrity.verify([Path(asked)])


def test_added_data_whose_copy_is_damaged_too_comes_from_elsewhere(data):
    added(str(data), cached(data.read_bytes()))
    flip(data, 3)
    flip(next(path for path in Path(".dvc/cache").rglob("*") if path.is_file()), 3)
    with pytest.raises(StageError, match=r"copy is damaged, too: `rm -f \.dvc/cache/.*`dvc pull"):
        integrity.verify([data.parent])


def test_digests_of_dvc_2_are_of_other_bytes_and_compared_with_none(data):
    added(str(data), "0" * 32, kind="")
    integrity.verify([data.parent])
