"""Somebody's model goes on learning, and what it was published with comes out at the other end."""

import json
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from forked_ranks import forked_ranks
from plain_training import plain_losses
from theirs import TOKENS, bert, imported, llama, saved
from tiny_model import stage_context, write_tokenizer
from tiny_training import LENGTH, MASKING, SHORT, STILL, TRAINING, column, section, trained, write_tokens
from train_project import Project
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from llmrecipe import MaskedLM, Parallelism, Steps, artifacts, cards, identity, prune, scheme
from llmrecipe.cards import ModelCard
from llmrecipe.errors import StageError
from llmrecipe.sections import ExportSection, PruneSection, QuantizeSection
from llmrecipe.stages import export, quantize, train
from llmrecipe.stages import prune as pruning

pytestmark = pytest.mark.slow

FURTHER = attrs.evolve(section(training=STILL), network=None)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tokens_of(tokenizer: Path, directory: Path, **options) -> Path:
    vocab_size = len(AutoTokenizer.from_pretrained(tokenizer))
    digest = identity.of_artifact(tokenizer)
    return write_tokens(directory, tokenizer=digest, vocab_size=vocab_size, train=20_000, heldout=2_000, **options)


def carried_on(what, inputs: dict[str, Path], tokenizer: Path, name: str) -> Path:
    """The exported model of a run from `start`."""
    with forked_ranks():
        train.run(stage_context(what, inputs, Path(name) / "train", device="cpu"))
    files = {"checkpoint": Path(name) / "train/checkpoint", "tokenizer": tokenizer, "start": inputs["start"]}
    export.run(stage_context(ExportSection(), files, Path(name) / "export", device="cpu"))
    return Path(name) / "export/model"


@pytest.mark.parametrize("layout", [Parallelism(micro_batch_size=4), Parallelism(tensor=2, micro_batch_size=4)])
def test_what_somebody_published_comes_through_training_and_quantizing(project, layout):
    # More rows than tokens, and not a multiple of the padding.
    source = saved(llama(vocab_size=330), project / "models/theirs")
    (source / "chat_template.jinja").write_text("{{ messages }}\n")
    (source / "generation_config.json").write_text('{"eos_token_id": [0, 7],  "top_p": 0.9}')
    config = json.loads((source / "config.json").read_text()) | {"eos_token_id": [0, 7], "bos_token_id": 5}
    (source / "config.json").write_text(json.dumps(config))
    start = imported()
    tokenizer = start.parent / "tokenizer"
    tokens = tokens_of(tokenizer, project / "tokens")

    folder = carried_on(attrs.evolve(FURTHER, parallelism=layout), {"tokens": tokens, "start": start}, tokenizer, "on")

    before, after = (AutoModelForCausalLM.from_pretrained(each) for each in (source, folder))
    assert torch.equal(after(TOKENS).logits, before(TOKENS).logits)
    assert after.get_input_embeddings().weight.shape == (330, 64)
    assert (after.config.eos_token_id, after.config.bos_token_id) == ([0, 7], 5)
    assert cards.read(folder, ModelCard).rows == 330
    rounded = QuantizeSection(scheme=scheme.W8A16(), calibration_samples=4, seed=0)
    quantize.run(stage_context(rounded, {"model": folder, "tokens": tokens}, Path("quantized"), device="cpu"))
    for made in (folder, Path("quantized/model")):
        for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (made / name).read_bytes() == (source / name).read_bytes()
    quantized = AutoModelForCausalLM.from_pretrained("quantized/model")
    assert quantized.get_input_embeddings().weight.shape == (330, 64)
    assert (quantized(TOKENS).logits - before(TOKENS).logits).abs().max() < 0.05 * before(TOKENS).logits.abs().max()


def test_a_model_with_fewer_heads_channels_and_layers_goes_on_learning_as_itself(project):
    source = saved(llama(num_hidden_layers=3), project / "models/theirs")
    dense = imported()
    tokenizer = dense.parent / "tokenizer"
    tokens = tokens_of(tokenizer, project / "tokens")
    narrow = prune.Width(hidden_size=48, intermediate_size=96, num_key_value_heads=1)
    short = prune.Layers(num_layers=2)
    start = dense
    for name, method in (("narrow", narrow), ("short", short)):
        how = PruneSection(method=method, calibration_samples=8, seed=0)
        pruning.run(stage_context(how, {"model": start, "tokens": tokens}, Path(name), device="cpu"))
        start = Path(name) / "model"

    folder = carried_on(FURTHER, {"tokens": tokens, "start": start}, tokenizer, "on")

    before, after = (AutoModelForCausalLM.from_pretrained(each) for each in (start, folder))
    assert torch.equal(after(TOKENS).logits, before(TOKENS).logits)
    network = cards.read(dense, ModelCard).network
    assert cards.read(folder, ModelCard).network == short.pruned(narrow.pruned(network))
    assert after.config.head_dim == AutoModelForCausalLM.from_pretrained(source).config.head_dim == 16
    assert (after.config.num_attention_heads, after.config.num_key_value_heads) == (2, 1)
    assert after.config.hidden_size == 48


def test_quantizing_what_was_published_needs_no_training(project):
    source = saved(llama(vocab_size=330).bfloat16(), project / "models/theirs")
    model = imported()
    tokens = tokens_of(model.parent / "tokenizer", project / "tokens")
    rounded = QuantizeSection(scheme=scheme.W4A16(group_size=32), calibration_samples=4, seed=0)
    quantize.run(stage_context(rounded, {"model": model, "tokens": tokens}, Path("quantized"), device="cpu"))

    quantized, dense = (
        AutoModelForCausalLM.from_pretrained(each, dtype="auto") for each in ("quantized/model", source)
    )
    assert quantized.dtype == torch.bfloat16
    difference = (quantized(TOKENS).logits - dense(TOKENS).logits).abs().max() / dense(TOKENS).logits.abs().max()
    assert 0 < difference < 1
    # And what is quantized comes back as somebody's, if that is said.
    shutil.copytree("quantized/model", "models/quantized")
    (Path("models/quantized") / artifacts.MANIFEST).unlink()
    expanded = imported("expanded", path="models/quantized", dequantize=True)
    again = AutoModelForCausalLM.from_pretrained(expanded, dtype="auto")
    assert torch.equal(again(TOKENS).logits, quantized(TOKENS).logits)
    assert not hasattr(again.config, "quantization_config")


def test_another_tokenizer_is_refused_and_gets_embeddings_where_that_is_asked_for(project):
    saved(llama(vocab_size=330), project / "models/theirs")
    start = imported()
    write_tokenizer(project / "other", vocab_size=300)
    artifacts.seal(project / "other", "tokenizer")
    inputs = {"tokens": tokens_of(project / "other", project / "tokens"), "start": start}
    with pytest.raises(StageError, match=r"or use resize_embeddings=True"):
        carried_on(FURTHER, inputs, project / "other", "refused")

    resized = attrs.evolve(FURTHER, resize_embeddings=True)
    folder = carried_on(resized, inputs | {"tokenizer": project / "other"}, project / "other", "resized")

    before, after = (AutoModelForCausalLM.from_pretrained(each) for each in ("models/theirs", folder))
    old, new = (AutoTokenizer.from_pretrained(each).get_vocab() for each in ("models/theirs", project / "other"))
    assert cards.read(folder, ModelCard).rows == 300
    for kind in ("get_input_embeddings", "get_output_embeddings"):
        theirs, ours = (getattr(model, kind)().weight for model in (before, after))
        assert ours.shape == (300, 64)
        mean = theirs[sorted(old.values())].mean(0)
        for token, number in new.items():
            torch.testing.assert_close(ours[number], theirs[old[token]] if token in old else mean)


def test_a_head_learns_alone_and_a_dropped_pooler_is_told(project):
    saved(bert(), project / "models/theirs")
    start = imported()
    masking = attrs.evolve(MASKING, continuing_ids=tuple(range(6, 320, 3)))
    tokens = tokens_of(start.parent / "tokenizer", project / "tokens", masking=masking)
    head = attrs.evolve(
        FURTHER,
        objective=MaskedLM(sequence_length=LENGTH),
        training=attrs.evolve(SHORT, parameters="head"),
        parallelism=Parallelism(data=2, micro_batch_size=2),
    )
    folder = carried_on(head, {"tokens": tokens, "start": start}, start.parent / "tokenizer", "head")

    before, after = (AutoModelForMaskedLM.from_pretrained(each).state_dict() for each in ("models/theirs", folder))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("cls.") and name != "cls.predictions.decoder.weight"}


def test_a_continued_run_that_is_killed_ends_with_the_bytes_of_a_whole_one(project):
    saved(llama(vocab_size=500, max_position_embeddings=LENGTH), project / "models/theirs")
    start = imported().resolve()
    tokens = tokens_of(start.parent / "tokenizer", project / "tokens")
    whole, killed = (Project(project / name, tokens, Parallelism(micro_batch_size=4)) for name in ("whole", "killed"))
    for each in (whole, killed):
        text = (each.root / "params.yaml").read_text()
        parameters = text.replace(text[text.index("  network:") : text.index("  objective:")], "  network: null\n")
        parameters = parameters.replace("  inputs:\n", f"  inputs:\n    start: {start}\n")
        (each.root / "params.yaml").write_text(parameters)
        (each.root / "models").symlink_to(project / "models")
    whole.finish()
    process = killed.start()
    killed.wait_for_step(12, process)
    process.kill()
    process.wait()
    assert "resumes after step" in killed.finish()
    assert killed.outputs() == whole.outputs()


def test_a_continued_run_learns_as_a_plain_loop_from_the_same_weights_does(project):
    # 330 rows, which are padded to 384 where they are trained.
    source = saved(llama(vocab_size=330), project / "models/theirs")
    start = imported()
    tokens = tokens_of(start.parent / "tokenizer", project / "tokens")
    training = attrs.evolve(TRAINING, duration=Steps(6))
    what = attrs.evolve(section(Parallelism(tensor=2, micro_batch_size=4), training=training), network=None)

    result = trained(what, tokens, project / "scratch", start=start)

    expected = plain_losses(tokens, training, model=AutoModelForCausalLM.from_pretrained(source))
    assert column(result, "loss") == pytest.approx(expected, rel=1e-4)
