import json

import pytest
from published import write_folder, write_gguf, write_shards

from llmrecipe import PretrainedModel
from llmrecipe.pretrained.place import Missing, download, locate

HUB = {"hub": "owner/name", "revision": "0123456789" * 4}


def model(**place):
    return PretrainedModel(name="start", **place)


def missing(root, **place):
    with pytest.raises(Missing) as caught:
        locate(model(**place), root)
    return caught.value.field, caught.value.reason


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package of these files."""

    def install(*files, version="1.0"):
        site = tmp_path / "site"
        info = site / f"models_of_mine-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: models-of-mine\nVersion: {version}\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).touch()
        monkeypatch.syspath_prepend(str(site))
        return site

    return install


def test_a_folder_or_a_gguf_file_of_the_project_is_found(tmp_path):
    write_folder(tmp_path / "models/x")
    write_gguf(tmp_path / "models/y.gguf")
    assert locate(model(path="models/x"), tmp_path) == tmp_path / "models/x"
    assert locate(model(path="./models/y.gguf"), tmp_path) == tmp_path / "models/y.gguf"


def test_a_path_that_leads_nowhere_says_what_would_help(tmp_path):
    (tmp_path / "models").mkdir()
    path = "models/x"
    assert missing(tmp_path, path=path) == (
        "path",
        "there is no folder or .gguf file 'models/x', and no stage in dvc.yaml makes it; put the model there in the "
        "transformers format",
    )
    _, reason = missing(tmp_path, path="owner/name")
    assert "if it is one of the Hub, name it by hub='owner/name' with its revision" in reason
    (tmp_path / "models/x.dvc").write_text(json.dumps({"outs": [{"path": "x", "md5": "0.dir"}]}))
    _, reason = missing(tmp_path, path=path)
    assert "models/x.dvc says that DVC keeps it; `dvc pull` brings it" in reason


def test_a_path_out_of_the_project_is_refused(tmp_path):
    for path in ("/models/x", "../x", "models/../../x"):
        field, reason = missing(tmp_path, path=path)
        assert (field, "leads out of the project" in reason) == ("path", True)
    for path in ("hf://owner/name", "https://huggingface.co/owner/name", "file:///x"):
        field, reason = missing(tmp_path, path=path)
        assert (field, "is a URL; download the model" in reason) == ("path", True)


def test_a_file_of_weights_is_no_model(tmp_path):
    write_folder(tmp_path / "models/x")
    _, reason = missing(tmp_path, path="models/x/model.safetensors")
    assert "is a file, and no .gguf; name the folder of a model in the transformers format, 'models/x'" in reason


def test_the_only_model_of_a_package_is_found(package, tmp_path):
    site = package("mine/model/config.json", "mine/model/model.safetensors", "mine/model/1_Pooling/config.json")
    assert locate(model(package="models-of-mine==1.0"), tmp_path) == site / "mine/model"


def test_the_only_gguf_file_of_a_package_is_found(package, tmp_path):
    site = package("mine/a.gguf", "mine/__init__.py")
    assert locate(model(package="models-of-mine==1.0"), tmp_path) == site / "mine/a.gguf"


def test_of_several_models_in_a_package_one_is_named(package, tmp_path):
    site = package("mine/a.gguf", "mine/b/config.json", "mine/b/model.safetensors")
    asked = {"package": "models-of-mine==1.0"}
    assert missing(tmp_path, **asked) == (
        "path",
        "is missing, and 'models-of-mine==1.0' has several models; name one of 'mine/a.gguf', 'mine/b'",
    )
    assert locate(model(**asked, path="mine/b"), tmp_path) == site / "mine/b"
    assert locate(model(**asked, path="mine/a.gguf"), tmp_path) == site / "mine/a.gguf"
    for path in ("mine/c", "/mine/a.gguf", "../site/mine/b", "b"):
        field, reason = missing(tmp_path, **asked, path=path)
        assert (field, "its models are 'mine/a.gguf', 'mine/b'" in reason) == ("path", True)
    _, reason = missing(tmp_path, **asked, path="mine/b/model.safetensors")
    assert "name the folder of a model in the transformers format, 'mine/b'" in reason


def test_a_package_without_a_model_is_refused(package, tmp_path):
    package("mine/__init__.py")
    assert missing(tmp_path, package="models-of-mine==1.0") == (
        "package",
        "'models-of-mine==1.0' has no model: no folder with config.json and *.safetensors, and no .gguf file",
    )


def test_the_version_of_a_package_is_exact(package, tmp_path):
    package("mine/a.gguf", version="2.0")
    field, reason = missing(tmp_path, package="models-of-mine==1.0")
    assert (field, "models-of-mine 2.0 is installed" in reason) == ("package", True)
    field, reason = missing(tmp_path, package="not-there-at-all==1.0")
    assert (field, "is not installed; `pip install not-there-at-all==1.0`" in reason) == ("package", True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub/models--owner--name/snapshots" / HUB["revision"]


def test_a_model_of_the_hub_is_found_in_the_local_cache(cache, tmp_path):
    write_shards(cache)
    assert locate(model(**HUB), tmp_path) == cache
    assert download(model(**HUB)) == cache


def test_without_cache_and_network_the_way_to_get_a_model_is_said(cache, tmp_path):
    field, reason = missing(tmp_path, **HUB)
    assert field == "hub"
    assert reason == (
        "'owner/name' is not in this machine's cache, and there is no network; where it can be had: `hf download "
        f"owner/name --revision {HUB['revision']} --local-dir models/name`, then path='models/name' in place of hub "
        "and revision"
    )
    with pytest.raises(Missing, match="there is no network"):
        download(model(**HUB))


@pytest.fixture
def network(cache, monkeypatch):
    """A Hub that answers with these files, or errors, by name."""
    monkeypatch.setattr("llmrecipe.pretrained.hub._is_in_reach", lambda: True)

    def answer(files):
        def fetch(hub, name, revision):
            assert (hub, revision) == (HUB["hub"], HUB["revision"])
            if isinstance(files[name], Exception):
                raise files[name]
            cache.mkdir(parents=True, exist_ok=True)
            (cache / name).write_text(files[name])
            return str(cache / name)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)

    return answer


def errors():
    import httpx
    from huggingface_hub import errors

    answer = httpx.Response(404, request=httpx.Request("HEAD", "https://huggingface.co"))
    return {
        "gated": errors.GatedRepoError("no", response=answer),
        "revision": errors.RevisionNotFoundError("no", response=answer),
        "repository": errors.RepositoryNotFoundError("no", response=answer),
        "entry": errors.EntryNotFoundError("no"),
        "local": errors.LocalEntryNotFoundError("no"),
        "broken": httpx.ConnectError("no route"),
    }


def test_only_configuration_and_index_are_fetched_while_a_recipe_is_checked(network, cache, tmp_path):
    network({"config.json": "{}", "model.safetensors.index.json": "{}"})
    assert locate(model(**HUB), tmp_path) == cache
    assert sorted(path.name for path in cache.iterdir()) == ["config.json", "model.safetensors.index.json"]
    (cache / "config.json").unlink()
    network({"config.json": "{}", "model.safetensors.index.json": errors()["entry"]})
    assert locate(model(**HUB), tmp_path) == cache


@pytest.mark.parametrize(
    ("error", "field", "reason"),
    [
        ("gated", "hub", "is for those who accepted its terms; do so on its page, and `hf auth login`"),
        ("revision", "revision", f"'owner/name' has no commit {HUB['revision']}"),
        ("repository", "hub", "the Hub has no model 'owner/name', or it is private"),
        ("entry", "hub", "has no config.json at this commit"),
        ("local", "hub", "not in this machine's cache, and the Hub doesn't answer"),
        ("broken", "hub", "not in this machine's cache, and the Hub can't be reached (no route); where it"),
    ],
)
def test_what_the_hub_refuses_is_said_in_the_users_words(network, tmp_path, error, field, reason):
    network({"config.json": errors()[error]})
    found = missing(tmp_path, **HUB)
    assert (found[0], reason in found[1]) == (field, True), found


def test_without_a_network_the_answer_is_quick(monkeypatch):
    from llmrecipe.pretrained import hub

    def unknown(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert not hub._is_in_reach()
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub._is_in_reach()
