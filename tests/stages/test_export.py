"""Trained weights to a transformers directory, checked against nanotron's own forward pass."""

from pathlib import Path

import attrs
import pytest
import torch
from tiny_model import stage_context, write_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
)

from llmrecipe import Bert, CausalLM, Llama, MaskedLM, ModernBert, Ratio, artifacts, cards, identity
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.bert.architecture import ARCHITECTURE as BERT
from llmrecipe.engines.models.llama.architecture import ARCHITECTURE as LLAMA
from llmrecipe.engines.nanotron import weights
from llmrecipe.errors import StageError
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.networks.network import Network
from llmrecipe.sections import ExportSection
from llmrecipe.stages import export

VOCAB_SIZE = 320
NETWORK = Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1)
MODELS = {
    "grouped": NETWORK,
    "tied": attrs.evolve(NETWORK, tie_word_embeddings=True),
    "multi-head": attrs.evolve(NETWORK, num_key_value_heads=4),
    "long-range": attrs.evolve(NETWORK, rope_theta=500_000.0, rms_norm_eps=1e-6),
}
ENCODER = Bert(hidden_size=64, num_layers=2, num_attention_heads=4, max_position_embeddings=48, initializer_range=0.1)
ENCODERS = {
    "usual": ENCODER,
    "modern": ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4, rope_theta=500.0, initializer_range=0.1),
    "narrow": attrs.evolve(ENCODER, num_layers=3, intermediate_size=Ratio(1.5), layer_norm_eps=1e-5),
}

METRICS = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "loss": 2.0, "validation_loss": 2.5},
    {"step": 3, "loss": 2.0, "validation_loss": 2.6},
]
"""The second step is the best, and the third the last."""


def checkpoint(directory: Path, model: Network, network: PreTrainedModel, tokenizer: str, step: int | None = 3) -> Path:
    """A checkpoint artifact with this network's weights."""
    directory.mkdir()
    weights.save(architecture_of(model).from_transformers(network.state_dict(), model), directory)
    card = ModelCard(
        network=model,
        objective=(MaskedLM if model.reads_both_sides else CausalLM)(sequence_length=32),
        vocab_size=VOCAB_SIZE,
        end_of_text_id=0,
        tokenizer=tokenizer,
        made_by="train",
        parents={},
        step=step,
    )
    cards.write(directory, card)
    artifacts.write_jsonl(directory / "metrics.jsonl", METRICS)
    artifacts.seal(directory, "checkpoint")
    return directory


def inputs(directory: Path, model: Network, network: PreTrainedModel, step: int | None = 3) -> dict[str, Path]:
    write_tokenizer(directory / "tokenizer")
    artifacts.seal(directory / "tokenizer", "tokenizer")
    return {
        "checkpoint": checkpoint(
            directory / "checkpoint", model, network, identity.of_artifact(directory / "tokenizer"), step
        ),
        "tokenizer": directory / "tokenizer",
    }


def new_network(model: Llama) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LLAMA.transformers_config(model, VOCAB_SIZE, 0))


@pytest.mark.parametrize("kind", MODELS)
def test_the_exported_model_is_the_trained_one(tmp_path, kind):
    model = MODELS[kind]
    network = new_network(model)
    context = stage_context(ExportSection(), inputs(tmp_path, model, network), tmp_path / "out")
    export.run(context)

    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    tokens = tokenizer("def main():", return_tensors="pt")["input_ids"]
    assert torch.equal(exported(tokens).logits, network(tokens).logits)
    assert exported.config.rope_parameters["rope_theta"] == model.rope_theta
    assert exported.config.eos_token_id == tokenizer.eos_token_id
    assert 0 < context.measured["logits_difference"] < 1e-4


def new_encoder(model: Network) -> PreTrainedModel:
    torch.manual_seed(0)
    config = architecture_of(model).transformers_config(model, VOCAB_SIZE, 0)
    network = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        # transformers starts biases at 0 and norms at 1, where a mix-up would not be seen.
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return network


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_exported_encoder_is_the_trained_one_for_every_task(tmp_path, kind):
    network = new_encoder(ENCODERS[kind])
    context = stage_context(ExportSection(), inputs(tmp_path, ENCODERS[kind], network), tmp_path / "out")
    export.run(context)
    folder = tmp_path / "out" / "model"
    assert 0 < context.measured["logits_difference"] < 1e-4

    exported, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokens = tokenizer(["def main():", "x = 1"], return_tensors="pt", padding=True, padding_side="right")
    assert tokens["attention_mask"].sum() < tokens["attention_mask"].numel()
    assert torch.equal(exported(**tokens).logits, network(**tokens).logits)
    states = network.base_model(**tokens).last_hidden_state
    for other in (AutoModelForTokenClassification, AutoModelForSequenceClassification):
        loaded, info = other.from_pretrained(folder, output_loading_info=True)
        assert torch.equal(loaded.base_model(**tokens).last_hidden_state, states)
        # What a task brings of its own is new, and nothing else.
        assert {name.split(".")[-2] for name in info["missing_keys"]} <= {"classifier", "dense"}


def test_bfloat16_weights_stay_bfloat16(tmp_path):
    context = stage_context(
        ExportSection(), inputs(tmp_path, NETWORK, new_network(NETWORK).bfloat16()), tmp_path / "out"
    )
    export.run(context)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").dtype == torch.bfloat16


def test_a_conversion_that_changes_the_logits_fails_the_stage(tmp_path, monkeypatch):
    context = stage_context(ExportSection(), inputs(tmp_path, NETWORK, new_network(NETWORK)), tmp_path / "out")
    monkeypatch.setattr("llmrecipe.engines.models.table.deinterleave", lambda weight, _: weight.contiguous())
    with pytest.raises(StageError, match=r"differ from nanotron's by .*, and rounding to float32 changes them by"):
        export.run(context)


def test_an_encoder_whose_logits_change_fails_the_stage(tmp_path, monkeypatch):
    context = stage_context(ExportSection(), inputs(tmp_path, ENCODER, new_encoder(ENCODER)), tmp_path / "out")
    to_transformers, bias = BERT.to_transformers, "bert.encoder.layer.1.attention.output.LayerNorm.bias"

    def moved(*arguments):
        state = to_transformers(*arguments)
        return state | {bias: state[bias] + 0.01}

    monkeypatch.setattr(BERT, "to_transformers", moved)
    with pytest.raises(StageError, match=r"differ from nanotron's by .*, and rounding to float32 changes them by"):
        export.run(context)


def test_large_weights_of_a_wide_and_deep_model_are_exported(tmp_path):
    network = evolve(NETWORK, hidden_size=512, num_layers=8, num_attention_heads=8)
    model = new_network(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.2)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 64), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    context = stage_context(ExportSection(), inputs(tmp_path, network, model), tmp_path / "out")
    export.run(context)
    # A bound of 1e-4, which is enough for ordinary weights, would be too narrow here; by how much depends on the
    # processor and its threads, 5e-4 to 8e-4.
    assert context.measured["logits_rounding"] > 1.5e-4
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert all(torch.equal(exported.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_weight_that_was_rounded_on_its_way_fails_the_stage(tmp_path, monkeypatch, kind):
    model, network = (NETWORK, new_network(NETWORK)) if kind == "decoder" else (ENCODER, new_encoder(ENCODER))
    context = stage_context(ExportSection(), inputs(tmp_path, model, network), tmp_path / "out")
    architecture = architecture_of(model)
    to_transformers, embedding = architecture.to_transformers, architecture.embedding(model)

    def rounded(*arguments):
        state = to_transformers(*arguments)
        # A token that the logits were not computed for.
        state[embedding] = state[embedding].clone()
        state[embedding][7] = state[embedding][7].bfloat16().float()
        return state

    monkeypatch.setattr(type(architecture), "to_transformers", lambda _, *arguments: rounded(*arguments))
    told = "doesn't hold the trained weights of|differ from nanotron's"
    with pytest.raises(StageError, match=told):
        export.run(context)


def test_the_same_weights_export_to_the_same_bytes(tmp_path):
    digests = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        files = inputs(tmp_path / name, NETWORK, new_network(NETWORK))
        export.run(stage_context(ExportSection(), files, tmp_path / name / "out"))
        digests.append(identity.of_artifact(tmp_path / name / "out" / "model"))
    assert digests[0] == digests[1]


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    files = inputs(tmp_path, NETWORK, new_network(NETWORK))
    files["checkpoint"] = files["tokenizer"]
    with pytest.raises(StageError, match="expected a checkpoint artifact, found 'tokenizer'"):
        export.run(stage_context(ExportSection(), files, tmp_path / "out"))


@pytest.mark.parametrize("step", [2, 3])
def test_the_exported_step_is_the_last_or_the_best_and_stands_on_the_card(tmp_path, step):
    files = inputs(tmp_path, NETWORK, new_network(NETWORK), step)
    context = stage_context(ExportSection(), files, tmp_path / "out")
    export.run(context)

    card = cards.read(tmp_path / "out" / "model", ModelCard)
    assert (card.network, card.step, card.made_by, card.parents) == (NETWORK, step, "export", context.parents)
    assert card.parents["checkpoint"] == identity.of_artifact(files["checkpoint"])


@pytest.mark.parametrize("step", [1, None])
def test_weights_of_neither_the_last_step_nor_the_best_are_refused(tmp_path, step):
    files = inputs(tmp_path, NETWORK, new_network(NETWORK), step)
    told = rf"of step {step}, which is neither the last of the run \(3\) nor its best \(2\)"
    with pytest.raises(StageError, match=told):
        export.run(stage_context(ExportSection(), files, tmp_path / "out"))


def test_a_tokenizer_that_the_model_was_not_trained_with_is_refused(tmp_path):
    files = inputs(tmp_path, NETWORK, new_network(NETWORK))
    write_tokenizer(tmp_path / "other", vocab_size=300)
    artifacts.seal(tmp_path / "other", "tokenizer")
    with pytest.raises(StageError, match=r"trained with another tokenizer than .*other"):
        export.run(stage_context(ExportSection(), files | {"tokenizer": tmp_path / "other"}, tmp_path / "out"))
