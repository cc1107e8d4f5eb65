import json
import re

import attrs
import pytest
from published import write_folder, write_gguf
from strategies import SMALL, SMALL_MODEL, small
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llmrecipe import (
    CausalLM,
    Distilled,
    FillInTheMiddle,
    FineTuned,
    Machine,
    MaskedLM,
    Mixture,
    Parallelism,
    Part,
    PretrainedModel,
    PretrainedTokenizer,
    Recipe,
    augment,
    clean,
    evolve,
    hardware,
    measure,
    place,
    preflight,
    source,
    task,
)
from llmrecipe.engines.tokenizing import folders
from llmrecipe.pretrained.completed import made_by

TEXT = "small.models[0].text"


def reading(*paths, kind=source.TextFiles):
    return small(text__source=kind(paths=paths))


def found(recipe, root):
    violations = preflight.violations(recipe, root)
    assert len({violation.path for violation in violations}) == len(violations)
    return {violation.path: violation.reason for violation in violations}


def warned(machine=None, **changes):
    return {warning.path: warning.reason for warning in preflight.warnings(small(**changes), machine or Machine())}


def alone(**changes):
    """A recipe of one model, changed."""
    return Recipe(name="small", models=(evolve(SMALL_MODEL, **changes),))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so many cores and GPUs."""

    def make(cores, gpus, flags="avx2"):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
        for index in range(gpus):
            (tmp_path / "gpus" / str(index)).mkdir(parents=True)
        (tmp_path / "cpuinfo").write_text(flags)
        monkeypatch.setattr(hardware, "GPUS", tmp_path / "gpus")
        monkeypatch.setattr(preflight, "CPU_FLAGS", tmp_path / "cpuinfo")

    return make


@pytest.fixture
def project(tmp_path):
    (tmp_path / "data/deep/er").mkdir(parents=True)
    (tmp_path / "data/a.txt").touch()
    (tmp_path / "data/deep/er/b.txt").touch()
    return tmp_path


def test_patterns_that_match_files_are_fine(project):
    assert found(reading("data/a.txt", "data/*.txt", "data/**/b.txt"), project) == {}


def test_a_pattern_that_matches_no_file_is_refused_with_what_is_there(project):
    assert found(reading("data/*.txt", "data/x*.txt", "date/*.txt", "data/de*", kind=source.JsonlFiles), project) == {
        "small.models[0].text.source.paths[1]": "no file matches 'data/x*.txt'; 'data' holds a.txt, deep",
        "small.models[0].text.source.paths[2]": "no file matches 'date/*.txt'; there is no folder 'date'",
        "small.models[0].text.source.paths[3]": "no file matches 'data/de*'; 'data' holds a.txt, deep",
    }


@pytest.mark.parametrize("name", ["x" * 252 + ".txt", "é" * 128 + "*", "y" * 300 + "/*", "/".join(["z" * 200] * 25)])
def test_a_path_that_no_file_can_have_is_refused(project, name):
    (reason,) = found(reading(f"data/{name}"), project).values()
    assert "bytes, and" in reason
    assert len(reason) < 200


def test_an_evaluation_set_must_be_there_too(project):
    sets = (source.TextFiles(paths=("data/a.txt",)), source.TextFiles(paths=("data/b.txt",)))
    recipe = small(text__clean=(clean.Decontaminate(against=sets),))
    assert list(found(recipe, project)) == [f"{TEXT}.clean[0].against[1].paths[0]"]


def test_a_held_out_source_must_be_there_too(project):
    assert found(small(text__heldout=source.TextFiles(paths=("data/a.txt",))), project) == {}
    recipe = small(text__heldout=source.TextFiles(paths=("data/b.txt",)))
    assert list(found(recipe, project)) == [f"{TEXT}.heldout.paths[0]"]


def test_files_are_looked_for_wherever_a_recipe_names_them_once(project):
    missing = evolve(SMALL_MODEL.text, name="missing", source=source.TextFiles(paths=("no/a.txt",)))
    mixture = Mixture(parts=(Part(corpus=SMALL_MODEL.text), Part(corpus=missing)))
    start = evolve(SMALL_MODEL, text=mixture, tokenizer=PretrainedTokenizer(path="no/tokenizer"))
    further = evolve(SMALL_MODEL, name="further", start=start, tokenizer=None, text=missing)
    recipe = Recipe(
        name="small",
        models=(further, start),
        measures=(measure.Perplexity(text=evolve(missing, name="other", source__paths=("no/b.txt",))),),
    )
    assert list(found(recipe, project)) == [
        "small.models[0].start.text.parts[1].corpus.source.paths[0]",
        "small.models[0].start.tokenizer.path",
        "small.measures[0].text.source.paths[0]",
    ]


def test_missing_files_are_named_whatever_else_is_wrong(project):
    with attrs.validators.disabled():
        recipe = small(
            text__source=source.TextFiles(paths=("data/x.txt",)),
            text__shards=0,
            text__augment=(augment.Paraphrase(model=3), augment.Paraphrase(model="no/model", share=2.0)),
            tokenizer=PretrainedTokenizer(path="data/tok"),
            start__hidden_size="wide",
            objective=None,
        )
        recipe = evolve(recipe, measures=None)
    assert list(found(recipe, project)) == [f"{TEXT}.source.paths[0]", "small.models[0].tokenizer.path"]


def test_what_a_planned_stage_makes_needs_no_folder(project):
    taken = evolve(
        SMALL_MODEL,
        name="taken",
        tokenizer=PretrainedTokenizer(model=SMALL_MODEL),
        text__name="more",
        text__augment=(augment.Paraphrase(model=SMALL_MODEL),),
    )
    assert found(small(taken), project) == {}


def test_an_augmenters_model_must_be_there(project):
    recipe = small(text__augment=(augment.Paraphrase(model="models/a"),))
    assert found(recipe, project)[f"{TEXT}.augment[0].model"].startswith("there is no folder 'models/a'; save a model")


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.txt", "data/../../a.txt"])
def test_a_path_out_of_the_project_is_refused_even_if_it_exists(project, path):
    (project / "a.txt").touch()
    assert "leads out of the project" in found(reading(path), project / "data")["small.models[0].text.source.paths[0]"]
    recipe = alone(tokenizer=PretrainedTokenizer(path=path))
    assert "leads out of the project" in found(recipe, project / "data")["small.models[0].tokenizer.path"]


def test_a_tokenizer_folder_must_hold_a_tokenizer(project):
    recipe = alone(tokenizer=PretrainedTokenizer(path="data/tok"))
    assert found(recipe, project)["small.models[0].tokenizer.path"].startswith("there is no folder 'data/tok'")
    (project / "data/tok").mkdir()
    assert found(recipe, project)["small.models[0].tokenizer.path"].startswith("'data/tok' holds no tokenizer.json")
    (project / "data/tok/tokenizer.json").touch()
    assert found(recipe, project) == {}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_what_stands_for_a_file_of_a_tokenizer_is_named(project, name):
    (project / "data/tok").mkdir()
    (project / "data/tok/tokenizer.json").touch()
    (project / "data/tok" / name).write_text(POINTER)
    (project / "data/tok/picture.png").write_text(POINTER)
    recipe = alone(tokenizer=PretrainedTokenizer(path="data/tok"))
    assert found(recipe, project) == {
        "small.models[0].tokenizer.path": f"'data/tok/{name}' is a pointer of Git LFS, which stands for the file; "
        "`git lfs pull` brings that"
    }


def test_a_tokenizer_that_dvc_keeps_is_not_taken_for_none(project):
    (project / "data/tok").mkdir()
    (project / "data/tok/tokenizer.json.dvc").write_text("outs:\n- path: tokenizer.json\n")
    assert found(alone(tokenizer=PretrainedTokenizer(path="data/tok")), project) == {
        "small.models[0].tokenizer.path": "'data/tok/tokenizer.json.dvc': it stands for 'data/tok/tokenizer.json', "
        "which DVC keeps; `dvc pull` brings that"
    }


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_stands_for_a_file_of_an_augmenters_model_is_named(project, name):
    (project / "data/writer").mkdir()
    (project / "data/writer/config.json").touch()
    recipe = alone(text__augment=(augment.Paraphrase(model="data/writer"),))
    assert found(recipe, project) == {}
    (project / "data/writer" / name).unlink(missing_ok=True)
    (project / "data/writer" / name).symlink_to("gone")
    assert found(recipe, project) == {
        "small.models[0].text.augment[0].model": f"'data/writer/{name}' is a link to 'gone', where nothing is; "
        "bring it back, or delete the link"
    }


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        ({"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}, False),
        ({"tokenizer_class": "BertTokenizer", "mask_token": {"__type": "AddedToken", "content": "[MASK]"}}, False),
        # As on the hub: transformers' BertTokenizer knows it.
        ({"tokenizer_class": "BertTokenizer"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": None}, True),
        ({}, True),
    ],
)
def test_a_masked_objective_needs_a_tokenizer_with_a_mask_token(project, config, is_refused):
    folder = project / "data/tok"
    folder.mkdir()
    # What transformers makes of these is what is expected here.
    stored = Tokenizer(models.WordPiece({"[UNK]": 0, "[MASK]": 1, "a": 2}, unk_token="[UNK]"))
    stored.add_special_tokens(["[MASK]"])
    stored.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert (folders.load(folder).mask_token_id is None) == is_refused
    causal = alone(tokenizer=PretrainedTokenizer(path="data/tok"))
    masked = alone(tokenizer=PretrainedTokenizer(path="data/tok"), objective=MaskedLM(sequence_length=32))

    assert found(causal, project) == {}
    assert list(found(masked, project)) == (["small.models[0].tokenizer.path"] if is_refused else [])
    if is_refused:
        assert 'as in "mask_token": "[MASK]"' in found(masked, project)["small.models[0].tokenizer.path"]


def test_fill_in_the_middle_needs_special_tokens_of_a_tokenizer_that_exists(project):
    folder = project / "data/tok"
    folder.mkdir()
    stored = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    stored.add_special_tokens(["<|endoftext|>", "<PRE>", "<MID>"])
    stored.add_tokens(["<SUF>"])
    PreTrainedTokenizerFast(tokenizer_object=stored, eos_token="<|endoftext|>").save_pretrained(folder)
    options = FillInTheMiddle(prefix_token="<PRE>", middle_token="<MID>", suffix_token="<SUF>")
    recipe = alone(
        tokenizer=PretrainedTokenizer(path="data/tok"),
        objective=CausalLM(sequence_length=32, fill_in_the_middle=options),
    )
    assert folders.special_tokens(folder) == {"<PRE>": 2, "<MID>": 3}
    (path, reason), *others = found(recipe, project).items()
    assert (path, others) == ("small.models[0].tokenizer.path", [])
    assert "has no special token '<SUF>' without a role of its own, which the objective of small-model puts" in reason
    described = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(described).replace('"special": false', '"special": true'))
    assert folders.special_tokens(folder).keys() == {"<PRE>", "<MID>", "<SUF>"}
    assert found(recipe, project) == {}

    # As CodeLlama's does, a tokenizer may have names of its own for them; those that all know are taken.
    named = {"prefix_token": "<PRE>", "middle_token": "<MID>", "sep_token": "<SUF>"}
    PreTrainedTokenizerFast(tokenizer_object=stored, eos_token="<|endoftext|>", **named).save_pretrained(folder)
    assert folders.special_tokens(folder).keys() == {"<PRE>", "<MID>"}
    assert "no special token '<SUF>' without a role" in found(recipe, project)["small.models[0].tokenizer.path"]


@pytest.mark.parametrize("added", [None, ["<PRE>"], [{"special": True}], "<PRE>"])
def test_a_broken_tokenizer_is_left_to_the_stage_that_loads_it(project, added):
    (project / "data/tok").mkdir()
    (project / "data/tok/tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    recipe = alone(tokenizer=PretrainedTokenizer(path="data/tok"))
    assert found(recipe, project) == {}
    objective = CausalLM(sequence_length=32, fill_in_the_middle=FillInTheMiddle())
    recipe = alone(tokenizer=PretrainedTokenizer(path="data/tok"), objective=objective)
    assert list(found(recipe, project)) == ["small.models[0].tokenizer.path"]


def test_as_many_threads_as_cores_are_fine(machine):
    machine(cores=4, gpus=0)
    assert warned(parallelism=Parallelism(data=2, threads_per_rank=2)) == {}


def test_more_threads_than_cores_get_a_warning_with_a_number_that_fits(machine):
    machine(cores=7, gpus=0)
    (reason,) = warned(parallelism=Parallelism(tensor=2, threads_per_rank=4)).values()
    assert reason == "2 ranks of 4 threads will wait for each other on 7 cores; use 3"


def test_more_ranks_than_cores_get_a_warning(machine):
    machine(cores=2, gpus=0)
    reason = warned(parallelism=Parallelism(data=2, pipeline=2))["small.models[0].parallelism"]
    assert reason.startswith(
        "data × tensor × pipeline = 2 × 1 × 2 = 4 ranks will wait for each other on 2 cores; lower"
    )


def test_more_ranks_than_gpus_get_a_warning_unless_they_run_on_the_cpu(machine):
    machine(cores=64, gpus=1)
    reason = warned(parallelism=Parallelism(data=4))["small.models[0].parallelism"]
    assert reason.startswith("data × tensor × pipeline = 4 × 1 × 1 = 4 ranks, each with a GPU of its own, and this")
    assert warned(parallelism=Parallelism(data=4), machine=Machine(device="cpu")) == {}


def test_cuda_without_a_gpu_gets_a_warning(machine):
    machine(cores=64, gpus=0)
    assert list(warned(Machine(device="cuda"), training__precision="bfloat16")) == ["machine.device"]


def test_bfloat16_on_a_cpu_without_it_gets_a_warning(machine):
    machine(cores=64, gpus=0)
    reason = warned(training__precision="bfloat16")["small.models[0].training.precision"]
    assert 'use precision="float32", which gives another model, or another machine' in reason
    machine(cores=64, gpus=0, flags="avx512_bf16")
    assert warned(training__precision="bfloat16") == {}
    machine(cores=64, gpus=1)
    assert warned(training__precision="bfloat16") == {}


def test_float32_on_a_gpu_gets_a_warning(machine):
    machine(cores=64, gpus=1)
    reason = warned(training__precision="float32")["small.models[0].training.precision"]
    assert 'use precision="bfloat16", which gives another model' in reason
    assert warned(Machine(device="cpu"), training__precision="float32") == {}


def test_float8_gets_a_warning_on_a_cpu_and_without_its_package(machine, monkeypatch):
    path = "small.models[0].training.precision"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    machine(cores=64, gpus=0, flags="avx512_bf16")
    assert "'float8' is emulated on a CPU" in warned(training__precision="float8")[path]
    machine(cores=64, gpus=1)
    assert warned(training__precision="float8") == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "`pip install 'llmrecipe[float8]'`" in warned(training__precision="float8")[path]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (place.Slurm(partition="cpu", time_limit="1:00:00"), r"no `sbatch`; run `dvc repro` on a login node"),
        (place.Ray(), r"`pip install 'llmrecipe\[ray\]'`"),
    ],
)
def test_a_place_that_is_not_there_gets_a_warning(machine, monkeypatch, where, reason):
    machine(8, 0)
    there = Machine(text_on=where)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (path,) = warned(there)
    assert path == "machine.text_on"
    assert re.search(reason, warned(there)[path])
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/sbatch")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: "found")
    assert warned(there) == {}


@pytest.mark.parametrize("limit", ["90", "8:00:00", "90:00", "2-12", "2-12:30:00"])
def test_slurms_time_limits_are_taken(limit):
    assert place.Slurm(partition="cpu", time_limit=limit).time_limit == limit


@pytest.mark.parametrize("limit", ["", "8h", "1:2:3:4", "8:0"])
def test_another_time_limit_is_refused(limit):
    with pytest.raises(ValueError, match="must be a time limit of Slurm's, such as '8:00:00'"):
        place.Slurm(partition="cpu", time_limit=limit)


def test_a_tokenizer_that_a_planned_stage_makes_need_not_be_there(tmp_path):
    path = "artifacts/stdlib-bpe-512/tokenizer/tokenizer"
    recipe = small(tokenizer=PretrainedTokenizer(path=path))
    assert "artifacts/stdlib-bpe-512" in set(made_by(SMALL))
    assert len(preflight.violations(recipe, tmp_path)) == 1
    assert preflight.violations(recipe, tmp_path, set(made_by(SMALL))) == []


def test_more_shards_than_documents_are_refused_where_files_tell_how_many_there_are(project):
    (project / "data/rows.jsonl").write_text('{"text": "a"}\n' * 100)
    (project / "data/rows.jsonl.gz").write_bytes(b"")
    texts, rows = reading("data/**/*.txt"), reading("data/rows.jsonl", kind=source.JsonlFiles)
    packed = reading("data/rows.jsonl.gz", kind=source.JsonlFiles)

    def refused(recipe, shards):
        return found(evolve(recipe, models=(evolve(recipe.models[0], text__shards=shards),)), project)

    assert "use at most 64" in refused(texts, 10_000)[f"{TEXT}.shards"]
    assert "use at most 100" in refused(rows, 101)[f"{TEXT}.shards"]
    assert not any(refused(recipe, shards) for recipe, shards in ((texts, 64), (rows, 100), (packed, 10_000)))


@pytest.mark.parametrize("planned", ["made", "made/gen", "made/gen/a.txt", "made/gen/*", "*/gen", "made/*"])
@pytest.mark.parametrize(
    "changes",
    [
        {"text__source": source.TextFiles(paths=("made/gen/*.txt",))},
        {"text__source": source.TextFiles(paths=("made/**/a.txt", "data/**/*.txt"))},
        {"text__heldout": source.JsonlFiles(paths=("./made/gen/a.txt",))},
        {"text__clean": (clean.Decontaminate(against=(source.TextFiles(paths=("made/gen/a.txt",)),)),)},
        {"text__augment": (augment.Paraphrase(model="made/gen/a.txt"),)},
        {"tokenizer": PretrainedTokenizer(path="made/gen/a.txt")},
    ],
)
def test_inputs_that_a_stage_makes_need_not_be_there_and_others_do(project, changes, planned):
    recipe = Recipe(name="small", models=(evolve(SMALL_MODEL, **changes),))
    assert preflight.violations(recipe, project, {planned}) == []
    assert len(preflight.violations(recipe, project, {"data/made", "makes/gen"})) == 1


def test_a_student_and_a_teacher_that_exist_have_the_same_tokens(project):
    def saved(name, *tokens):
        vocabulary = {token: index for index, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=tokens[0]))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tokens[0]).save_pretrained(project / name)
        return PretrainedModel(name=name, path=name, network=SMALL_MODEL.start, objective=SMALL_MODEL.objective)

    student, alike, other = saved("student", "a", "b"), saved("alike", "a", "b"), saved("other", "a", "c")
    taught = Distilled(
        name="taught", student=student, teacher=alike, text=SMALL_MODEL.text, training=SMALL_MODEL.training
    )
    assert found(Recipe(name="small", models=(taught,)), project) == {}
    assert found(Recipe(name="small", models=(evolve(taught, teacher=other),)), project) == {
        "small.models[0].teacher": "other knows 2 tokens and the student 2, and 2 differ, such as 'b'; what the one "
        "predicts means nothing to the other: use a teacher and a student with one tokenizer"
    }
    # A folder that isn't there yet says nothing, and its stage will.
    gone = evolve(alike, name="gone", path="gone")
    assert found(Recipe(name="small", models=(evolve(taught, teacher=gone),)), project) == {}


def test_a_tokenizer_that_exists_has_a_chat_template_or_chats_are_written_plainly(project):
    write_folder(project / "folder")
    start = PretrainedModel(name="m", path="folder", network=SMALL_MODEL.start, objective=SMALL_MODEL.objective)
    chats = task.Instructions(name="chats", train="data/chats.jsonl")
    (project / chats.train).write_text("")
    chatting = FineTuned(name="chatting", start=start, task=chats)

    def refused(model):
        return found(Recipe(name="small", models=(model,)), project).get("small.models[0].task.template")

    assert refused(chatting) == "'own', and the tokenizer of m has no chat template; use 'plain', which gives it one"
    assert refused(evolve(chatting, task__template="plain")) is None
    # What has learned from chats has one, wherever it began.
    taught = FineTuned(name="taught", start=start, task=evolve(chats, template="plain"))
    assert refused(evolve(chatting, start=taught)) is None
    for number, values in enumerate(({}, {"tokenizer.chat_template": "{{ messages }}"})):
        write_gguf(project / f"{number}.gguf", values=values)
        assert bool(refused(evolve(chatting, start__path=f"{number}.gguf"))) is (number == 0)
    (project / "folder/chat_template.jinja").write_text("{{ messages }}")
    assert refused(chatting) is None
    (project / "folder/chat_template.jinja").unlink()
    assert refused(chatting) is not None
    written = project / "folder/tokenizer_config.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | {"chat_template": "{{ messages }}"}))
    assert refused(chatting) is None


def test_replicas_of_a_student_wait_for_cores_as_others_do(machine):
    machine(cores=2, gpus=0)
    taught = Distilled(
        name="taught",
        student=SMALL_MODEL.start,
        teacher=SMALL_MODEL,
        training=evolve(SMALL_MODEL.training, precision="bfloat16"),
        parallelism=Parallelism(data=4),
    )
    warned_of = [each.path for each in preflight.warnings(Recipe(name="small", models=(taught,)), Machine())]
    assert warned_of == ["small.models[0].parallelism"]
