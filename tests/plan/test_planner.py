"""What stages a recipe becomes, and which recipes can't be planned together."""

import attrs
import pytest
from tiny_recipe import RECIPE

from llmrecipe import (
    W4A16,
    ByteLevelBPE,
    Corpus,
    Decontaminate,
    Execution,
    FixUnicode,
    PretrainedTokenizer,
    PythonStdlib,
    Recipe,
    Runtime,
    ShuffleSpans,
    TextFiles,
)
from llmrecipe.errors import PlanError
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.planner import plan
from llmrecipe.plan.stage import Stage
from llmrecipe.sections import SECTION_OF_KIND, ExportSection, PrepareSection, QuantizeSection


def by_name(*recipes: Recipe) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(recipes).stages}


def sourced(source) -> Recipe:
    return attrs.evolve(RECIPE, corpus=Corpus(name="books", source=source))


def test_a_recipe_becomes_one_stage_of_each_kind_with_its_own_class_of_section():
    # One kind is planned only where there is something to do.
    augmented = attrs.evolve(RECIPE, corpus=attrs.evolve(RECIPE.corpus, augment=(ShuffleSpans(),)))
    stages = plan([augmented]).stages
    assert [stage.kind for stage in stages] == list(SECTION_OF_KIND)
    assert [type(stage.section) for stage in stages] == list(SECTION_OF_KIND.values())


def test_a_corpus_names_its_own_stage_and_a_recipe_the_others():
    names = list(by_name(RECIPE))
    assert names[0] == "books-prepare"
    assert all(name.startswith("tiny-") for name in names[1:])


def test_every_artifact_that_a_stage_reads_is_made_by_an_earlier_one():
    made: set[str] = set()
    for stage in plan([RECIPE]).stages:
        assert {path for path in stage.inputs.values() if path.startswith("artifacts/")} <= made
        made.update(stage.products)


def test_the_inputs_of_each_stage_are_what_its_work_needs():
    assert {name: set(stage.inputs) for name, stage in by_name(RECIPE).items()} == {
        "books-prepare": {"source0"},
        "tiny-tokenizer": {"documents"},
        "tiny-tokenize": {"documents", "tokenizer"},
        "tiny-pretrain": {"tokens"},
        "tiny-export": {"checkpoint", "tokenizer"},
        "tiny-quantize": {"model", "tokens"},
        "tiny-evaluate": {"tokens", "dense", "quantized"},
    }


def test_a_section_holds_what_the_recipe_says():
    stages = by_name(RECIPE)
    assert stages["books-prepare"].section == PrepareSection(
        source=RECIPE.corpus.source, clean=(), heldout_fraction=0.02, shards=4
    )
    assert stages["tiny-quantize"].section == QuantizeSection(
        scheme=W4A16(group_size=32), calibration_samples=8, sequence_length=32, seed=3
    )


@pytest.mark.parametrize("restart", [False, True])
def test_evaluation_reads_sequences_as_the_training_does(restart):
    objective = attrs.evolve(RECIPE.objective, restart_at_documents=restart)
    assert by_name(attrs.evolve(RECIPE, objective=objective))["tiny-evaluate"].section.objective == objective


def test_without_compression_nothing_is_quantized_and_only_the_dense_model_is_evaluated():
    stages = by_name(attrs.evolve(RECIPE, compression=()))
    assert "tiny-quantize" not in stages
    assert set(stages["tiny-evaluate"].inputs) == {"tokens", "dense"}


def test_an_existing_tokenizer_is_read_from_its_folder_and_not_from_documents():
    stages = by_name(attrs.evolve(RECIPE, tokenizer=PretrainedTokenizer(path="data/tokenizer")))
    assert stages["tiny-tokenizer"].inputs == {"source": "data/tokenizer"}


@pytest.mark.parametrize(
    ("paths", "watched"),
    [
        (("data/a.txt",), ["data/a.txt"]),
        (("./data/a.txt",), ["data/a.txt"]),
        (("data/books/**/*.txt.gz",), ["data/books"]),
        (("data/books/v[12]/a.txt",), ["data/books"]),
        (("data/*/part?.txt", "data/*.txt", "data/b.txt"), ["data", "data/b.txt"]),
    ],
)
def test_a_pattern_watches_the_folder_it_searches_and_a_name_its_file(paths, watched):
    assert list(by_name(sourced(TextFiles(paths=paths)))["books-prepare"].inputs.values()) == watched


def test_evaluation_sets_are_watched_like_the_source_and_each_path_once():
    sets = (TextFiles(paths=("data/eval/*.txt", "data/a.txt")), PythonStdlib(), TextFiles(paths=("data/b.txt",)))
    clean = (Decontaminate(against=sets[:2]), Decontaminate(against=sets[2:]), Decontaminate(against=sets))
    corpus = Corpus(name="books", source=TextFiles(paths=("data/a.txt",)), clean=clean)
    assert by_name(attrs.evolve(RECIPE, corpus=corpus))["books-prepare"].inputs == {
        "source0": "data/a.txt",
        "evaluation0": "data/eval",
        "evaluation1": "data/b.txt",
    }


@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt", "artifacts/*.txt", "artifacts/books/*/documents/x"])
def test_a_corpus_can_not_search_a_folder_that_stages_write_into(pattern):
    with pytest.raises(PlanError, match=r"books-prepare.*a folder of their own"):
        plan([sourced(TextFiles(paths=(pattern,)))])


def test_the_python_library_needs_no_files():
    assert by_name(sourced(PythonStdlib()))["books-prepare"].inputs == {}


def test_recipes_share_the_stage_of_their_common_corpus():
    other = attrs.evolve(RECIPE, name="other", tokenizer=ByteLevelBPE(vocab_size=400))
    stages = plan([RECIPE, other]).stages
    assert [stage.name for stage in stages if stage.kind == "prepare"] == ["books-prepare"]
    assert len(stages) == 1 + 2 * 6


def test_one_corpus_name_for_two_contents_is_refused_with_the_fields_that_differ():
    corpus = attrs.evolve(RECIPE.corpus, clean=(FixUnicode(),), shards=2)
    other = attrs.evolve(RECIPE, name="other", corpus=corpus)
    with pytest.raises(PlanError, match=r"other\.corpus: named 'books' .* 'tiny', .* in clean, shards;"):
        plan([RECIPE, other])


def test_two_recipes_with_one_name_are_refused():
    with pytest.raises(PlanError, match="two recipes are named 'tiny'"):
        plan([RECIPE, attrs.evolve(RECIPE, tokenizer=ByteLevelBPE(vocab_size=400))])


def test_two_compressions_of_one_kind_are_refused():
    with pytest.raises(PlanError, match="two stages have the name tiny-quantize"):
        plan([attrs.evolve(RECIPE, compression=RECIPE.compression * 2)])


def test_two_stages_with_one_name_or_one_product_are_refused():
    stage = Stage(kind="export", owner="a", section=ExportSection(), inputs={}, outs=("model",))
    with pytest.raises(PlanError, match="two stages have the name a-export"):
        Pipeline(stages=(stage, attrs.evolve(stage, outs=("other",))), runtimes={})
    twice = attrs.evolve(stage, outs=("model", "model"))
    with pytest.raises(PlanError, match="two stages have the output artifacts/a/export/model"):
        Pipeline(stages=(twice,), runtimes={})


def test_a_stage_before_the_one_whose_product_it_reads_is_refused():
    stages = plan([RECIPE]).stages
    with pytest.raises(PlanError, match="tiny-tokenizer: its input 'artifacts/books/prepare/documents'"):
        Pipeline(stages=(*stages[1:], stages[0]), runtimes={})


def test_a_corpus_runs_as_the_first_recipe_that_uses_it_says():
    first = attrs.evolve(RECIPE, runtime=Runtime(execution=Execution(workers=7)))
    second = attrs.evolve(RECIPE, name="other", runtime=Runtime(execution=Execution(workers=9)))
    assert plan([first, second]).runtimes == {
        "books": Runtime(execution=Execution(workers=7)),
        "tiny": Runtime(execution=Execution(workers=7)),
        "other": Runtime(execution=Execution(workers=9)),
    }


def test_runtime_choices_are_in_no_section():
    slow = attrs.evolve(RECIPE, runtime=Runtime(execution=Execution(workers=7), log_level="debug", device="cpu"))
    assert plan([slow]).stages == plan([RECIPE]).stages
