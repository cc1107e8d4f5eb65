"""Adapters: what of a model learns by one, that it is peft's, and that the merged model computes the same."""

import json

import pytest
import tiny_model
import tiny_tasks
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_tasks import NAMES, TONES, TUNING, section, tuned
from torch.nn import functional
from transformers import AutoModel, AutoModelForTokenClassification

from llmrecipe import Bert, Llama, Mistral, ModernBert, Qwen2, Qwen3, Steps, adapter, artifacts, cards, evolve
from llmrecipe.cards import ModelCard
from llmrecipe.engines.finetuning.learning import learning
from llmrecipe.engines.finetuning.tasks import adapting
from llmrecipe.engines.finetuning.tasks.launcher import model_of, trained_parameters
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.classification import ClassificationWork
from llmrecipe.engines.tasks.heads import card_of, with_head, work_of
from llmrecipe.engines.tasks.items import steps as read
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.schedule import Constant
from llmrecipe.stages import finetune

WIDTHS = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}

NETWORKS = [
    Llama(num_key_value_heads=2, tie_word_embeddings=True, **WIDTHS),
    Mistral(num_key_value_heads=2, head_dim=16, **WIDTHS),
    Qwen2(num_key_value_heads=2, **WIDTHS),
    Qwen3(num_key_value_heads=2, head_dim=16, **WIDTHS),
    Bert(max_position_embeddings=16, **WIDTHS),
    ModernBert(**WIDTHS),
]

KINDS = [adapter.LoRA(rank=4), adapter.DoRA(rank=4)]

EXACT = evolve(TUNING, dropout=0.0, average_decay=None, optimizer=AdamW(learning_rate=2e-2))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_tasks.stage_inputs(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """A start of each family, with random weights, that predicts text."""
    root = tmp_path_factory.mktemp("starts")
    tiny_model.write_tokenizer(root / "tokenizer")
    found = {}
    for network in NETWORKS:
        torch.manual_seed(1)
        known = architecture_of(network)
        model = known.transformers_class(known.transformers_config(network, 320, 0))
        found[network.tag] = tiny_model.write_model(model, root / "tokenizer", root / network.tag, network=network)
    return found


def tones(start):
    return work_of(card_of(TONES, ("a", "b"), cards.read(start, ModelCard).network), folders.load_tokenizer(start))


def column(run, name):
    return [row[name] for row in run.metrics if name in row]


@pytest.mark.parametrize("what", KINDS, ids=lambda what: what.tag)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.tag)
def test_weights_are_counted_as_peft_counts_them(network, what):
    """peft finds by itself every linear layer of a body, which is given without a pooler."""
    config = architecture_of(network).transformers_config(network, 320, 0)
    body = AutoModel.from_config(config, **({"add_pooling_layer": False} if network.tag == "bert" else {}))
    theirs = LoraConfig(r=what.rank, target_modules="all-linear", use_dora=what.tag == "dora")
    assert what.num_parameters(network) == get_peft_model(body, theirs).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("what", KINDS, ids=lambda what: what.tag)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.tag)
def test_a_body_learns_by_its_adapter_and_its_head_as_a_whole(starts, network, what):
    work = tones(starts[network.tag])
    model = with_head(starts[network.tag], work, seed=0, dropout=None)
    plain = {name: weight.shape for name, weight in model.named_parameters()}
    adapting.adapted(model, work, what, seed=0)
    small = {name for name in learning(model) if "lora_" in name}
    assert sum(learning(model)[name].numel() for name in small) == what.num_parameters(network)
    whole = {name.replace(".modules_to_save.default", "") for name in learning(model).keys() - small}
    assert whole == {name for name in plain if name.startswith(("classifier.", "score.", "head.", "bert.pooler."))}


class Bare(ClassificationWork):
    """A task of a body without a head."""

    head = ""


def bare(start):
    return Bare(tones(start).card, folders.load_tokenizer(start))


def writing(start):
    network = cards.read(start, ModelCard).network
    return work_of(card_of(tiny_tasks.CHATS, (), network), folders.load_tokenizer(start))


@pytest.mark.parametrize("kind", [bare, writing])
def test_without_a_new_head_the_adapter_alone_learns(starts, kind):
    start = starts["llama"]
    work = kind(start)
    model = with_head(start, work, seed=0, dropout=None)
    # By the names of a model with a head, also of one without.
    adapting.adapted(model, work, adapter.LoRA(layers=("model.layers.0.*",)), seed=0)
    assert len(learning(model)) == 2 * 7
    assert all(".lora_" in name and "layers.0." in name for name in learning(model))


def test_of_layers_that_a_pattern_names_only_these_learn(starts):
    start = starts["llama"]
    model = with_head(start, tones(start), seed=0, dropout=None)
    adapting.adapted(model, tones(start), adapter.LoRA(layers=("v_proj", "layers.1.*.down_proj")), seed=0)
    found = {name.partition(".lora_")[0] for name in learning(model) if ".lora_" in name}
    assert found == {f"model.layers.{each}" for each in ("0.self_attn.v_proj", "1.self_attn.v_proj", "1.mlp.down_proj")}


def test_the_first_weights_are_those_of_the_seed(starts):
    def first(seed):
        model = with_head(starts["bert"], tones(starts["bert"]), seed=0, dropout=None)
        torch.rand(seed)
        adapting.adapted(model, tones(starts["bert"]), adapter.LoRA(), seed=seed)
        return {name: weight.detach() for name, weight in learning(model).items() if ".lora_A" in name}

    one, again, other = first(1), first(1), first(2)
    assert all(torch.equal(weight, again[name]) for name, weight in one.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("what", KINDS, ids=lambda what: what.tag)
@pytest.mark.parametrize("network", [NETWORKS[0], *NETWORKS[-2:]], ids=lambda network: network.tag)
def test_a_merged_model_is_the_plain_one_and_computes_the_same(starts, network, what):
    start = starts[network.tag]
    work = tones(start)
    model = with_head(start, work, seed=0, dropout=None)
    plain = [(name, weight.shape, weight.requires_grad) for name, weight in model.named_parameters()]
    ids = torch.arange(1, 9)[None]
    before = model(input_ids=ids).logits
    hand = adapting.adapted(model, work, what, seed=0)
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-6)
    torch.manual_seed(2)
    for weight in learning(model).values():
        weight.data += 0.1 * torch.randn_like(weight)
    expected = model.eval()(input_ids=ids).logits
    found = adapting.merged(hand)
    assert type(found) is type(with_head(start, work, seed=0, dropout=None))
    assert [(name, weight.shape, weight.requires_grad) for name, weight in found.named_parameters()] == plain
    assert not torch.allclose(expected, before, atol=1e-2)
    torch.testing.assert_close(found(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_kept_adapter_names_every_layer_in_full(tmp_path):
    """From twenty on, peft shortens them to what tells them apart in this model, which has no pooler."""
    network = Bert(max_position_embeddings=16, **WIDTHS | {"num_layers": 4})
    known = architecture_of(network)
    tiny_model.write_tokenizer(tmp_path / "tokenizer")
    model = known.transformers_class(known.transformers_config(network, 320, 0))
    start = tiny_model.write_model(model, tmp_path / "tokenizer", tmp_path / "start", network=network)
    work = work_of(card_of(NAMES, ("O", "B-X"), cards.read(start, ModelCard).network), folders.load_tokenizer(start))
    hand = adapting.adapted(with_head(start, work, seed=0, dropout=None), work, adapter.LoRA(), seed=0)
    adapting.save(hand, tmp_path / "adapter")
    config = artifacts.read_json(tmp_path / "adapter" / "adapter_config.json")
    assert config["target_modules"] == sorted(network.inner_layers)


def test_an_adapter_for_no_layer_is_refused(starts):
    model = with_head(starts["bert"], tones(starts["bert"]), seed=0, dropout=None)
    with pytest.raises(StageError, match=r"'q_proj',.* matches no linear layer of this model"):
        adapting.adapted(model, tones(starts["bert"]), adapter.LoRA(layers=("q_proj",)), seed=0)


def plain_losses(made, training, steps):
    """Of a plain loop with peft and torch's AdamW over the same items."""
    network, labels = cards.read(made["start"], ModelCard).network, examples.card_of(made["examples"]).labels
    work = work_of(card_of(NAMES, labels, network), folders.load_tokenizer(made["start"]))
    items, _ = work.items(examples.read(made["examples"], "train"))
    plain = with_head(made["start"], work, seed=training.seed, dropout=0.0)
    names = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
    config = LoraConfig(
        r=training.adapter.rank,
        lora_alpha=16,
        target_modules=list(names),
        modules_to_save=["classifier"],
        use_dora=training.adapter.tag == "dora",
    )
    torch.manual_seed(training.seed)
    model = get_peft_model(plain, config).train()
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    biases = [weight for name, weight in model.named_parameters() if weight.requires_grad and name.endswith("bias")]
    decayed = [weight for weight in learned if all(weight is not bias for bias in biases)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    stepper = torch.optim.AdamW(groups, lr=2e-2, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step, chosen in zip(range(steps), read(items, 8, training.seed, by_length=True, first=0), strict=False):
        total, count = 0.0, 0
        for item in chosen:
            logits = model(input_ids=torch.tensor([item.input_ids])).logits[0]
            labels = torch.tensor(item.labels)
            total = total + functional.cross_entropy(logits, labels, reduction="sum")
            count += int((labels >= 0).sum())
        loss = total / count
        stepper.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        for group in stepper.param_groups:
            group["lr"] = 2e-2 * min(1, (step + 1) / 2)
        stepper.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("what", KINDS, ids=lambda what: what.tag)
def test_losses_are_those_of_a_plain_loop_with_peft(made, tmp_path, what):
    training = evolve(EXACT, adapter=what)
    run = tuned(section(training=training), made, tmp_path)
    losses = column(run, "loss")
    assert losses[:6] == pytest.approx(plain_losses(made, training, 6), rel=1e-4)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_what_is_kept_to_go_on_is_what_learns(made, tmp_path):
    """With a mean of weights and a best epoch, both of the adapter and the head alone."""
    training = evolve(TUNING, adapter=KINDS[0], optimizer=AdamW(learning_rate=2e-2))
    run = tuned(section(training=training), made, tmp_path)
    checkpoint = run.state.checkpoint(run.metrics[-1]["step"])
    labels = len(run.job.task.labels)
    count = KINDS[0].num_parameters(cards.read(made["start"], ModelCard).network) + labels * (32 + 1)
    for part in ("weights", "average", "best"):
        assert sum(weight.numel() for weight in load_file(checkpoint / f"{part}.safetensors").values()) == count
    assert trained_parameters(run) == count
    model, _ = model_of(run)
    best = load_file(checkpoint / "best.safetensors")
    assert torch.equal(model.classifier.weight, best["classifier.modules_to_save.default.weight"])
    first = with_head(made["start"], run.job.work(), seed=run.job.training.seed, dropout=None).state_dict()
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, first[name])}
    assert moved == {
        *(f"{name}.weight" for name in cards.read(made["start"], ModelCard).network.inner_layers),
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
@pytest.mark.parametrize("what", KINDS, ids=lambda what: what.tag)
def test_two_ranks_learn_what_one_does(made, tmp_path, what, zero_stage):
    training = evolve(EXACT, adapter=what, average_decay=0.9)
    alone = tuned(section(training=training), made, tmp_path / "alone")
    spread = section(training=training, data=2, zero_stage=zero_stage)
    together = tuned(spread, made, tmp_path / "together", ranks=True)
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=1e-3)
    assert column(together, "validation_loss") == pytest.approx(column(alone, "validation_loss"), rel=1e-3)
    shapes = [
        {name: weight.shape for name, weight in load_file(run.state.checkpoint(12) / f"{part}.safetensors").items()}
        for run in (alone, together)
        for part in ("weights", "average", "best")
    ]
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.slow
def test_layers_nearer_to_the_text_change_less(made, tmp_path):
    def moved(decay):
        changes = {"epochs": 0.17, "schedule": Constant(warmup=Steps(0))}
        training = evolve(EXACT, adapter=KINDS[0], layer_decay=decay, **changes)
        run = tuned(section(training=training), made, tmp_path / str(decay))
        weights = load_file(run.state.checkpoint(1) / "weights.safetensors")
        return {name: weight.abs().max().item() for name, weight in weights.items() if ".lora_B" in name}

    whole, less = moved(1.0), moved(0.5)
    for layer, depth in ((1, 1), (0, 2)):
        name = f"bert.encoder.layer.{layer}.output.dense.lora_B.default.weight"
        assert less[name] == pytest.approx(whole[name] * 0.5**depth, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("what", KINDS, ids=lambda what: what.tag)
def test_the_stage_leaves_a_plain_model_and_the_adapter_that_peft_reads(made, tmp_path, what):
    """With types of tokens for case, which are new as well."""
    task = evolve(NAMES, case_as_token_types=True)
    inputs = made | {"examples": tiny_tasks.make_names(tmp_path / "names", what=task)}
    training = evolve(TUNING, adapter=evolve(what, keep=True), optimizer=AdamW(learning_rate=2e-2))
    context = tiny_tasks.stage_context(section(task, training), inputs, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmrecipe.engines.finetuning.running.run_ranks",
            lambda _name, _module, arguments, **_: tiny_tasks.train_here(arguments),
        )
        finetune.run(context)
    merged = AutoModelForTokenClassification.from_pretrained(tmp_path / "out" / "model")
    base = AutoModelForTokenClassification.from_pretrained(
        made["start"], num_labels=merged.config.num_labels, type_vocab_size=4, ignore_mismatched_sizes=True
    )
    theirs = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    read = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "token_type_ids": torch.tensor([[0, 1, 2, 3]])}
    torch.testing.assert_close(theirs(**read).logits, merged(**read).logits, rtol=1e-4, atol=1e-5)
    types = merged.bert.embeddings.token_type_embeddings.weight
    assert not torch.equal(types[0], types[1])
    said = (tmp_path / "out" / "adapter" / "adapter_config.json").read_text()
    assert json.loads(said)["base_model_name_or_path"] is None
    assert str(tmp_path) not in said
    assert str(made["start"]) not in said
    numbers = artifacts.read_json(tmp_path / "out" / "metrics.json")
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert numbers["trained_parameters"] == sum(weight.numel() for weight in weights.values())
    assert numbers["parameters"] == sum(weight.numel() for weight in merged.parameters())


@pytest.mark.slow
def test_what_a_start_from_elsewhere_cannot_have_is_refused_before_a_step(made, tmp_path):
    card = evolve(cards.read(made["start"], ModelCard), sparse=True)
    folders.save_model(folders.load_model(made["start"]), made["start"], tmp_path / "sparse")
    cards.write(tmp_path / "sparse", card)
    artifacts.seal(tmp_path / "sparse", "model")
    what = section(training=evolve(EXACT, adapter=adapter.LoRA(rank=64, layers=("v_proj", "value"))))
    with pytest.raises(RecipeError) as error:
        tuned(what, made | {"start": tmp_path / "sparse"}, tmp_path / "run")
    assert "training.adapter: is given, and the model has zeros, which an adapter fills" in str(error.value)
    assert "training.adapter.layers[0]: 'v_proj' matches no layer" in str(error.value)
    assert "training.adapter.rank: 64, and" in str(error.value)
