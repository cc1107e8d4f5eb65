"""The train stage from a model that exists, in place of the first weights of a network."""

import json
import logging
from pathlib import Path

import attrs
import pytest
import torch
from forked_ranks import forked_ranks
from tiny_model import stage_context, write_tokenizer
from tiny_training import LENGTH, MASKING, NETWORK, SHORT, STILL, section, write_tokens

from llmrecipe import Bert, MaskedLM, MultiMaskLM, Parallelism, artifacts, cards, identity
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import weights
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.sections import ExportSection
from llmrecipe.stages import export, train

FURTHER = attrs.evolve(section(training=STILL), network=None)


def run(what, inputs: dict[str, Path], output: Path):
    context = stage_context(what, inputs, output, device="cpu")
    with forked_ranks():
        train.run(context)
    return context


def exported(inputs: dict[str, Path], output: Path) -> Path:
    export.run(stage_context(ExportSection(), inputs, output, device="cpu"))
    return output / "model"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """Tokens, their tokenizer, and a model that was trained on them."""
    folder = tmp_path_factory.mktemp("start")
    write_tokenizer(folder / "tokenizer")
    artifacts.seal(folder / "tokenizer", "tokenizer")
    digest = identity.of_artifact(folder / "tokenizer")
    tokens = write_tokens(folder / "tokens", tokenizer=digest, masking=MASKING, train=20_000, heldout=2_000)
    run(section(training=SHORT), {"tokens": tokens}, folder / "train")
    files = {"checkpoint": folder / "train" / "checkpoint", "tokenizer": folder / "tokenizer"}
    return {"tokens": tokens, "start": exported(files, folder / "export"), **files}


def stage_inputs(inputs: dict[str, Path]) -> dict[str, Path]:
    return {role: inputs[role] for role in ("tokens", "start")}


def sealed_copy(directory: Path, copy: Path, **changes) -> Path:
    """The artifact with other facts on its card."""
    copy.mkdir()
    for file in directory.iterdir():
        if file.name != artifacts.MANIFEST:
            (copy / file.name).write_bytes(file.read_bytes())
    cards.write(copy, attrs.evolve(cards.read(directory, ModelCard), **changes))
    artifacts.seal(copy, "model")
    return copy


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_its_model_and_its_card_names_it(inputs, tmp_path):
    context = run(FURTHER, stage_inputs(inputs), tmp_path / "further")
    checkpoint = context.output / "checkpoint"

    before, after = weights.load(inputs["checkpoint"]), weights.load(checkpoint)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    card = cards.read(checkpoint, ModelCard)
    assert (card.network, card.made_by, card.step) == (NETWORK, "train", 1)
    assert card.parents["start"] == identity.of_artifact(inputs["start"])


@pytest.mark.slow
def test_another_start_is_another_run_and_the_same_one_is_resumed(inputs, tmp_path, caplog):
    other = sealed_copy(inputs["start"], tmp_path / "other", step=None)
    caplog.set_level(logging.INFO, logger="llmrecipe")
    for number, start in enumerate((inputs["start"], other, inputs["start"])):
        context = stage_context(
            FURTHER, {"tokens": inputs["tokens"], "start": start}, tmp_path / f"{number}", device="cpu"
        )
        with forked_ranks():
            train.run(attrs.evolve(context, scratch=tmp_path / "scratch"))

    assert len(list((tmp_path / "scratch").iterdir())) == 2
    digests = [identity.of_artifact(start) for start in (inputs["start"], other)]
    assert f'start: "{digests[0][:12]}…" → "{digests[1][:12]}…"' in caplog.text
    assert "resumes after step 1 of 1" in caplog.text


@pytest.mark.slow
def test_an_encoder_starts_from_an_encoder_with_a_new_head_for_what_comes_before_spans(inputs, tmp_path):
    network = Bert(hidden_size=64, num_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH)
    first = attrs.evolve(section(network=network, training=SHORT), objective=MaskedLM(sequence_length=LENGTH))
    run(first, {"tokens": inputs["tokens"]}, tmp_path / "train")
    files = {"checkpoint": tmp_path / "train" / "checkpoint", "tokenizer": inputs["tokenizer"]}
    start = exported(files, tmp_path / "export")
    further = attrs.evolve(FURTHER, objective=MultiMaskLM(sequence_length=LENGTH))

    context = run(further, {"tokens": inputs["tokens"], "start": start}, tmp_path / "further")

    before, after = weights.load(files["checkpoint"]), weights.load(context.output / "checkpoint")
    assert all(torch.equal(after[name], before[name]) for name in before)
    head = architecture_of(network).context_head(network, STILL.seed)
    assert after.keys() - before.keys() == head.keys()
    # A bias of 0 moves by next to nothing.
    assert all(torch.allclose(after[name], head[name], rtol=0, atol=1e-20) for name in head)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vocab_size": 499}, "vocabulary of 499 ≠ 500"),
        ({"end_of_text_id": 1}, "end of text 1 ≠ 0"),
        ({"tokenizer": "f" * 64}, "tokenizer ffffffffffffffff ≠ "),
    ],
)
def test_a_model_of_another_tokenizer_is_refused(inputs, tmp_path, changes, told):
    start = sealed_copy(inputs["start"], tmp_path / "other", **changes)
    with pytest.raises(StageError, match=f"other: its tokenizer is not that of .*{told}.*leave `tokenizer` out"):
        run(FURTHER, {"tokens": inputs["tokens"], "start": start}, tmp_path / "further")


@pytest.mark.slow
def test_a_quantized_model_is_refused(inputs, tmp_path):
    start = sealed_copy(inputs["start"], tmp_path / "quantized")
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    artifacts.seal(start, "model")
    with pytest.raises(StageError, match=r"its weights are quantized.*start from the model that it was made from"):
        run(FURTHER, {"tokens": inputs["tokens"], "start": start}, tmp_path / "further")


@pytest.mark.slow
def test_a_section_that_does_not_go_with_the_network_of_its_start_is_refused(inputs, tmp_path):
    for what, told in (
        (attrs.evolve(FURTHER, parallelism=Parallelism(tensor=3, micro_batch_size=4)), "3 does not divide"),
        (attrs.evolve(FURTHER, objective=MaskedLM(sequence_length=LENGTH)), "MaskedLM predicts a token from"),
    ):
        with pytest.raises(RecipeError, match=told):
            run(what, stage_inputs(inputs), tmp_path / told.replace(" ", "-"))
