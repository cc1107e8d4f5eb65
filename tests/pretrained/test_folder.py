import json

import pytest
from published import (
    LLAMA,
    ROWS,
    change_config,
    llama_weights,
    write_folder,
    write_safetensors,
    write_shards,
    write_tokenizer,
)

from llmrecipe.pretrained.contents import Tokens
from llmrecipe.pretrained.folder import contents_of

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    write_shards(tmp_path / "sharded")
    return tmp_path / "sharded"


def only_fault(folder):
    (fault,) = contents_of(folder).faults
    return fault


def test_a_folder_with_one_file_of_weights_is_read(folder):
    found = contents_of(folder)
    assert found.faults == ()
    assert found.config == LLAMA
    assert found.files == ("model.safetensors",)
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == llama_weights()
    assert found.tokenizer == Tokens(ROWS, True, False)


def test_a_folder_with_shards_is_read(sharded):
    found = contents_of(sharded)
    assert found.faults == ()
    assert found.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == llama_weights()
    assert {tensor.file for tensor in found.tensors.values()} == set(found.files)


def test_a_pickle_beside_safetensors_is_nobodys_business(folder):
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert contents_of(folder).faults == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "config.json holds no mapping"),
        ("version https://git-lfs.github.com/spec/v1\n", "config.json is a pointer of Git LFS"),
        ("[" * 100_000, "config.json is not JSON"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_told(folder, text, reason):
    (folder / "config.json").write_text(text)
    assert reason in only_fault(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe")
    assert "config.json is not JSON" in only_fault(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "special_tokens_map.json"])
def test_what_stands_for_a_file_that_is_not_here_is_named(folder, name):
    (folder / f"{name}.dvc").write_text(f"outs:\n- path: {name}\n")
    (folder / name).touch()
    (folder / "picture.png").symlink_to("nowhere")
    assert not any(".dvc" in fault for fault in contents_of(folder).faults)
    (folder / name).unlink()
    assert only_fault(folder) == f"'{name}.dvc': it stands for '{name}', which DVC keeps; `dvc pull` brings that"
    (folder / f"{name}.dvc").unlink()
    (folder / name).symlink_to("nowhere")
    assert only_fault(folder).startswith(f"'{name}' is a link to 'nowhere', where nothing is")


def test_a_missing_configuration_is_told(folder):
    (folder / "config.json").unlink()
    assert only_fault(folder) == "config.json is missing; save the model there with save_pretrained"
    (folder / "x.gguf").touch()
    assert only_fault(folder) == "config.json is missing; name the file, x.gguf"


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert only_fault(sharded) == (
        f"model-00002-of-00002.safetensors is missing, a shard that {INDEX} names; download it"
    )


def test_a_damaged_shard_is_named(sharded):
    path = sharded / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "model-00001-of-00002.safetensors is cut short by 1 bytes" in only_fault(sharded)


def test_what_index_and_shards_say_differently_is_told(sharded):
    index = json.loads((sharded / INDEX).read_text())["weight_map"]
    extra = dict(index, invented="model-00001-of-00002.safetensors")
    del extra["model.norm.weight"]
    (sharded / INDEX).write_text(json.dumps({"weight_map": extra}))
    lacking, unnamed = contents_of(sharded).faults
    assert f"{INDEX} puts 'invented' in model-00001-of-00002.safetensors, which lacks it" in lacking
    assert f"holds 'model.norm.weight', which {INDEX} doesn't name" in unnamed


def test_a_tensor_in_two_shards_is_told(tmp_path):
    index = write_shards(tmp_path, {"a": (2,), "b": (2,)})
    write_safetensors(tmp_path / index["b"], {"a": (2,), "b": (2,)})
    (fault,) = contents_of(tmp_path).faults
    assert fault.startswith("'a' is in several shards: model-00001-of-00002.safetensors, model-00002-of-00002")
    assert f"keep it in {index['a']}, where {INDEX} puts it" in fault


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{", f"{INDEX} is not JSON"),
        ("{}", f"{INDEX} has no weight_map"),
        ('{"weight_map": {}}', f"{INDEX} has no weight_map"),
        ('{"weight_map": {"a": 1}}', f"{INDEX} has no weight_map"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "names '../x.safetensors', and weights are read from"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "names 'pytorch_model.bin', and weights are read from"),
    ],
)
def test_an_index_that_is_none_is_told(sharded, index, reason):
    (sharded / INDEX).write_text(index)
    assert reason in only_fault(sharded)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["model.h5"], "holds weights as 'model.h5', of another library"),
        (["flax_model.msgpack"], "holds weights as 'flax_model.msgpack', of another library"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter, and no whole model; merge it"),
        (["consolidated.safetensors"], "holds 'consolidated.safetensors' without model.safetensors; a single file"),
        (["model-1.safetensors", "model-2.safetensors"], f"without the index, {INDEX}; download it"),
        (["training_args.bin", "optimizer.pt"], "holds neither model.safetensors nor"),
        ([], "holds neither model.safetensors nor"),
    ],
)
def test_a_folder_without_weights_says_what_it_has_instead(folder, files, reason):
    (folder / "model.safetensors").unlink()
    for name in files:
        (folder / name).touch()
    assert reason in only_fault(folder)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("pytorch_model.bin",), ("pytorch_model-1.bin", "pytorch_model-2.bin"), ("a.pt",)])
def test_pickles_are_refused_with_the_line_that_converts_them(folder, names):
    import subprocess
    import sys

    import torch

    (folder / "model.safetensors").unlink()
    shapes = llama_weights()
    parts = [dict(list(shapes.items())[index :: len(names)]) for index in range(len(names))]
    for name, part in zip(names, parts, strict=True):
        torch.save({key: torch.ones(shape) for key, shape in part.items()}, folder / name)
    (folder / "training_args.bin").write_bytes(b"a pickle of a class")
    fault = only_fault(folder)
    assert "which are pickled, and a pickle can run any code when it is read" in fault
    command = fault.partition("python -c ")[2]
    subprocess.run(f"{sys.executable} -c {command}", shell=True, check=True)
    found = contents_of(folder)
    assert found.faults == ()
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == shapes


def test_tokens_are_counted_without_loading_them(folder):
    write_tokenizer(folder, 30, added=("<a>", "<b>"))
    assert contents_of(folder).tokenizer == Tokens(32, True, False)
    write_tokenizer(folder, 30, ends={"sep_token": {"content": "[SEP]"}})
    assert contents_of(folder).tokenizer == Tokens(30, False, True)
    write_tokenizer(folder, 30, ends={"eos_token": "<none>"})
    assert contents_of(folder).tokenizer == Tokens(30, False, False)
    stored = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["</s>", -1.0]]}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert contents_of(folder).tokenizer == Tokens(2, True, False)


def test_a_class_of_tokenizers_knows_its_tokens(folder):
    write_tokenizer(folder, ends={"tokenizer_class": "BertTokenizer"})
    assert contents_of(folder).tokenizer.has_separator


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ("{}", "tokenizer.json has no vocabulary"),
        ('{"model": {"vocab": {"a": "b"}}}', "tokenizer.json has no vocabulary"),
        ('{"model": {"vocab": {}}}', "tokenizer.json has no vocabulary"),
        ('{"model": {"vocab": {"a": 0, "b": 2}}}', "has 2 tokens with ids up to 2, and a model has a row of weights"),
        ("<html>", "tokenizer.json is not JSON"),
        ("version https://git-lfs.github.com/spec/v1\n", "tokenizer.json is a pointer of Git LFS"),
    ],
)
def test_a_tokenizer_that_is_none_is_told(folder, stored, reason):
    (folder / "tokenizer.json").write_text(stored)
    assert reason in only_fault(folder)


def test_a_tokenizer_that_asks_for_code_is_refused(folder):
    write_tokenizer(folder, ends={"auto_map": {"AutoTokenizer": ["x.Y", None]}, "eos_token": "</s>"})
    assert "tokenizer_config.json asks for code of its own (auto_map), which is never run" in only_fault(folder)


def test_what_is_still_to_be_fetched_may_be_missing(sharded, folder):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    (sharded / "tokenizer.json").unlink()
    found = contents_of(sharded, is_whole=False)
    assert (found.faults, found.tensors, found.tokenizer) == ((), {}, None)
    assert contents_of(folder, is_whole=False) == contents_of(folder)
    (folder / "model.safetensors").write_bytes(b"")
    change_config(folder, hidden_size=8)
    assert contents_of(folder, is_whole=False).faults == ("model.safetensors is empty",)
