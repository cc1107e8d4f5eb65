"""What stages recipes become, and which can't be planned together."""

from typing import ClassVar

import attrs
import pytest
from tiny_recipe import BASE, BOOKS, RECIPE, SMALLER

from llmrecipe import (
    ByteLevelBPE,
    Corpus,
    Distilled,
    FineTuned,
    Mixture,
    Part,
    PretrainedModel,
    PretrainedTokenizer,
    Pruned,
    Quantized,
    Recipe,
    Release,
    Trained,
    augment,
    clean,
    distil,
    evolve,
    gate,
    measure,
    prune,
    scheme,
    source,
    task,
)
from llmrecipe.errors import PlanError
from llmrecipe.extend import CustomScores
from llmrecipe.plan.draft import Draft
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.planner import plan
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.kinds import Source, Tokenizer
from llmrecipe.recipe.schema import define, members
from llmrecipe.sections import ExportSection, MeasureSection, PrepareSection, QuantizeSection, ReleaseSection, Section

WEB = Corpus(name="web", source=source.TextFiles(paths=("data/web/*.txt",)))
MIXED = evolve(BASE, name="mixed", text=Mixture(parts=(Part(corpus=WEB, weight=3.0), Part(corpus=BOOKS))))


def by_name(*recipes: Recipe) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(recipes).stages}


def read_from(*sources: Source, **changes) -> dict[str, str]:
    """The inputs of the stage that prepares a corpus with these sources."""
    corpus = Corpus(name="books", source=sources[0], **changes)
    return by_name(evolve(RECIPE, models=(evolve(BASE, text=corpus),)))["books-prepare"].inputs


def test_every_kind_of_stage_is_planned_with_its_own_class_of_section():
    # Five kinds are planned only where there is something to do.
    mixed = evolve(MIXED, text__parts=(Part(corpus=evolve(WEB, augment=(augment.ShuffleSpans(),))), Part(corpus=BOOKS)))
    theirs = PretrainedModel(name="theirs", path="models/theirs")
    release = Release(candidates=(mixed,), gates=(gate.Size(at_most_mb=1.0),))
    rounded = Quantized(model=mixed, scheme=scheme.W8A16(), propagate_error=False)
    sparse = Pruned(model=mixed, method=prune.Wanda(sparsity=0.5))
    taught = Distilled(
        name="taught", student=rounded, teacher=mixed, training=mixed.training, teacher_logits=distil.Stored(top_k=8)
    )
    texts = task.Classification(name="tones", train="data/tones.csv")
    models = (mixed, rounded, sparse, theirs, taught, FineTuned(name="tuned", start=mixed, task=texts))
    stages = plan([evolve(RECIPE, models=models, release=release)]).stages
    assert {stage.kind: type(stage.section) for stage in stages} == members(Section)


def test_stages_bear_the_name_of_the_value_that_they_make():
    assert list(by_name(RECIPE)) == [
        "books-prepare",
        "books-bpe-300-tokenizer",
        "books-bpe-300-tokenize",
        "tiny-train",
        "tiny-export",
        "tiny-perplexity",
        "tiny-w4a16-quantize",
        "tiny-w4a16-perplexity",
        "small-report",
    ]


def test_every_artifact_that_a_stage_reads_is_made_by_an_earlier_one():
    made: set[str] = set()
    for stage in plan([RECIPE, evolve(RECIPE, name="other", models=(MIXED,))]).stages:
        assert {path for path in stage.inputs.values() if path.startswith("artifacts/")} <= made
        made.update(stage.products)


def test_the_inputs_of_each_stage_are_what_its_work_needs():
    assert {name: set(stage.inputs) for name, stage in by_name(RECIPE).items()} == {
        "books-prepare": {"source0"},
        "books-bpe-300-tokenizer": {"documents"},
        "books-bpe-300-tokenize": {"documents", "tokenizer"},
        "tiny-train": {"tokens"},
        "tiny-export": {"checkpoint", "tokenizer"},
        "tiny-perplexity": {"model", "tokens"},
        "tiny-w4a16-quantize": {"model", "tokens"},
        "tiny-w4a16-perplexity": {"model", "tokens"},
        "small-report": {
            f"{model}.{what}"
            for model in ("tiny", "tiny-w4a16")
            for what in ("model", "perplexity", "perplexity.documents")
        },
    }


def test_a_student_and_its_teacher_are_read_with_the_text_that_they_know():
    taught = Distilled(name="taught", student=SMALLER, teacher=BASE, training=BASE.training)
    drawn = evolve(taught, name="drawn", student=BASE.start, text=WEB)
    stages = by_name(evolve(RECIPE, models=(taught, drawn), measures=(measure.Perplexity(text=BOOKS),)))
    assert stages["taught-distil"].inputs == {
        "tokens": "artifacts/books-bpe-300/tokenize/tokens",
        "student": "artifacts/tiny-w4a16/quantize/model",
        "teacher": "artifacts/tiny/export/model",
    }
    assert stages["taught-distil"].section.network is None
    assert stages["drawn-distil"].inputs == {
        "tokens": "artifacts/web-books-bpe-300/tokenize/tokens",
        "teacher": "artifacts/tiny/export/model",
    }
    assert stages["drawn-distil"].section.network == BASE.start
    assert stages["taught-perplexity"].inputs["model"] == "artifacts/taught/distil/model"


def test_students_of_one_run_share_what_their_teacher_predicts():
    taught = Distilled(
        name="taught", student=SMALLER, teacher=BASE, training=BASE.training, teacher_logits=distil.Stored(top_k=8)
    )
    faster = evolve(taught, name="faster", training__optimizer__learning_rate=1e-4, loss=distil.ReverseKL())
    other = evolve(taught, name="other", training__seed=9)
    stages = by_name(evolve(RECIPE, models=(taught, faster, other)))
    count = BASE.training.duration.count * BASE.training.global_batch_size
    first, second = (f"tiny-books-top8-seed{seed}-{count}-64" for seed in (BASE.training.seed, 9))
    assert [name for name, stage in stages.items() if stage.kind == "predict"] == [
        f"{first}-predict",
        f"{second}-predict",
    ]
    assert stages[f"{first}-predict"].inputs == {
        "tokens": "artifacts/books-bpe-300/tokenize/tokens",
        "teacher": "artifacts/tiny/export/model",
    }
    for name, owner in (("taught", first), ("faster", first), ("other", second)):
        assert stages[f"{name}-distil"].inputs["predictions"] == f"artifacts/{owner}/predict/predictions"


def test_a_report_names_the_models_in_the_order_of_the_recipe():
    turned = evolve(RECIPE, models=(SMALLER, BASE))
    assert list(by_name(turned)["small-report"].inputs) == [
        "tiny-w4a16.model",
        "tiny-w4a16.perplexity",
        "tiny-w4a16.perplexity.documents",
        "tiny.model",
        "tiny.perplexity",
        "tiny.perplexity.documents",
    ]


@define("scores_of_planner")
class Scores(CustomScores):
    better: ClassVar = {"accuracy": "higher"}

    def scores(self, model):
        return iter(())


def test_scores_of_documents_are_compared():
    stages = by_name(evolve(RECIPE, measures=(measure.Perplexity(), Scores(name="mine"))))
    assert stages["tiny-mine"].outs == ("scores.json",)
    assert stages["small-report"].inputs["tiny.mine.scores"] == "artifacts/tiny/mine/scores.json"


def test_a_release_reads_the_comparison_and_its_candidates_and_runs_of_what_it_asks_the_times_of():
    gates = (gate.Recovery(at_least=0.98), gate.Speed(at_least=1.0, processor="abacus"))
    recipe = evolve(RECIPE, release=Release(candidates=(SMALLER, BASE), gates=gates[:1]))
    release = by_name(recipe)["small-release"]
    assert release.section == ReleaseSection(candidates=("tiny-w4a16", "tiny"), reference="tiny", gates=gates[:1])
    models = {"tiny-w4a16.model": "artifacts/tiny-w4a16/quantize/model", "tiny.model": "artifacts/tiny/export/model"}
    assert release.inputs == {"comparison": "artifacts/small/report/metrics.json", **models}
    timed = by_name(evolve(recipe, release__gates=gates))["small-release"].inputs
    assert timed.keys() - release.inputs.keys() == {"tiny.perplexity", "tiny-w4a16.perplexity"}


def test_a_recipe_ends_in_a_stage_that_depends_on_all_of_its_others():
    released = Release(candidates=(SMALLER,), gates=(gate.Size(at_most_mb=1.0),))
    others = (evolve(RECIPE, name="other", models=(MIXED,), measures=()), evolve(RECIPE, release=released))
    for recipe in (RECIPE, *others):
        stages = by_name(recipe)
        makers = {product: stage.name for stage in stages.values() for product in stage.products}
        found, left = set(), [name for name, stage in stages.items() if stage.ends_recipe]
        assert len(left) == 1
        while left:
            name = left.pop()
            found.add(name)
            left += [makers[path] for path in stages[name].inputs.values() if path in makers]
        assert found == set(stages)


def test_a_section_holds_what_the_recipe_says():
    stages = by_name(RECIPE)
    assert stages["books-prepare"].section == PrepareSection(
        source=BOOKS.source, clean=(), heldout=BOOKS.heldout, shards=4
    )
    assert stages["tiny-w4a16-quantize"].section == QuantizeSection(
        scheme=scheme.W4A16(group_size=32), calibration_samples=8, seed=3
    )


def test_a_measure_has_a_stage_for_each_model_and_its_section_names_neither_text_nor_name():
    named = measure.Perplexity(name="on-web", text=WEB, max_tokens=64)
    stages = by_name(evolve(RECIPE, measures=(measure.Perplexity(), named, measure.Samples(prompts=("a",)))))
    assert stages["tiny-on-web"].section == MeasureSection(measure=measure.Perplexity(max_tokens=64))
    assert stages["tiny-on-web"].inputs["tokens"] == "artifacts/web-books-bpe-300/tokenize/tokens"
    assert stages["tiny-samples"].inputs == {"model": "artifacts/tiny/export/model"}
    assert {"tiny-w4a16-on-web", "tiny-w4a16-perplexity", "tiny-w4a16-samples"} <= set(stages)


def test_tasks_of_lm_eval_are_an_input_wherever_their_folder_lies():
    asked = measure.LMEval(tasks=("places",), folder="./data/evals/")
    stage = by_name(evolve(RECIPE, measures=(*RECIPE.measures, asked)))["tiny-lmeval"]

    assert stage.inputs["tasks"] == "data/evals"
    assert stage.section.measure == evolve(asked, folder="tasks")
    assert stage.outs == ("scores.json", "errors.jsonl")


def test_without_measures_models_are_compared_all_the_same():
    stages = by_name(evolve(RECIPE, models=(BASE,), measures=()))
    assert "tiny-perplexity" not in stages
    assert stages["small-report"].inputs == {"tiny.model": "artifacts/tiny/export/model"}


def test_an_existing_tokenizer_is_read_from_its_folder_and_not_from_documents():
    pretrained = evolve(BASE, tokenizer=PretrainedTokenizer(path="data/gpt2.v1"))
    stages = by_name(evolve(RECIPE, models=(pretrained,)))
    assert stages["gpt2-v1-tokenizer"].inputs == {"source": "data/gpt2.v1"}
    assert stages["tiny-train"].inputs == {"tokens": "artifacts/books-gpt2-v1/tokenize/tokens"}


def test_a_tokenizer_can_be_that_of_a_model_and_an_augmenter_can_use_a_model():
    other = evolve(BASE, name="other", tokenizer=PretrainedTokenizer(model=BASE))
    told = evolve(BOOKS, name="told", augment=(augment.Paraphrase(model=BASE),))
    third = evolve(BASE, name="third", text=told, tokenizer=other.tokenizer)
    stages = by_name(evolve(RECIPE, models=(other, third), measures=(measure.Perplexity(text=BOOKS),)))
    assert stages["tiny-tokenizer"].inputs == {"source": "artifacts/tiny/export/model"}
    assert stages["told-augment"].inputs["model0"] == "artifacts/tiny/export/model"
    assert stages["told-augment"].section.augment[0].model == "artifacts/tiny/export/model"


def test_a_model_that_starts_from_another_reads_its_weights_and_its_tokens():
    further = Trained(name="further", start=BASE, text=WEB, objective=BASE.objective, training=BASE.training)
    stages = by_name(evolve(RECIPE, models=(further,), measures=(measure.Perplexity(text=BOOKS),)))
    assert stages["further-train"].inputs["start"] == "artifacts/tiny/export/model"
    assert stages["further-train"].inputs["tokens"] == "artifacts/web-books-bpe-300/tokenize/tokens"
    assert stages["further-train"].section.network is None
    assert stages["tiny-train"].section.network == BASE.start


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
    assert list(read_from(source.TextFiles(paths=paths)).values()) == watched


def test_evaluation_sets_and_held_out_text_are_watched_like_the_source_and_each_path_once():
    sets = (
        source.TextFiles(paths=("data/eval/*.txt", "data/a.txt")),
        source.PythonStdlib(),
        source.TextFiles(paths=("data/b.txt",)),
    )
    cleaners = tuple(clean.Decontaminate(against=against) for against in (sets[:2], sets[2:], sets))
    heldout = source.TextFiles(paths=("data/test.txt", "data/a.txt"))
    assert read_from(source.TextFiles(paths=("data/a.txt",)), clean=cleaners, heldout=heldout) == {
        "source0": "data/a.txt",
        "heldout0": "data/test.txt",
        "evaluation0": "data/eval",
        "evaluation1": "data/b.txt",
    }


@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt", "artifacts/*.txt", "artifacts/books/*/documents/x"])
def test_a_corpus_can_not_search_a_folder_that_stages_write_into(pattern):
    with pytest.raises(PlanError, match=r"books-prepare.*a folder of their own"):
        read_from(source.TextFiles(paths=(pattern,)))


def test_the_python_library_needs_no_files_and_its_section_names_the_python():
    stages = by_name(evolve(RECIPE, models=(evolve(BASE, text=Corpus(name="code", source=source.PythonStdlib())),)))
    assert stages["code-prepare"].inputs == {}
    assert stages["code-prepare"].section.source.version is not None


def test_a_mixture_tokenizes_each_corpus_once_and_mixes_their_tokens():
    stages = by_name(evolve(RECIPE, models=(MIXED,)))
    tokens = {
        "tokens.web": "artifacts/web-web-books-bpe-300/tokenize/tokens",
        "tokens.books": "artifacts/books-web-books-bpe-300/tokenize/tokens",
    }
    assert set(stages["web-books-bpe-300-tokenizer"].inputs) == {"documents.web", "documents.books"}
    assert stages["web-books-bpe-300-mix"].inputs == tokens
    assert stages["web-books-bpe-300-mix"].section.shares == (3.0, 1.0)
    mixture = "artifacts/web-books-bpe-300/mix/mixture"
    assert stages["mixed-train"].inputs == {"mixture": mixture, **tokens}
    assert stages["mixed-perplexity"].inputs == {
        "model": "artifacts/mixed/export/model",
        "mixture": mixture,
        **tokens,
    }


def test_a_ladder_of_five_sizes_trains_one_tokenizer_and_tokenizes_once():
    sizes = tuple(evolve(BASE, name=f"tiny-{width}", start__hidden_size=width) for width in (64, 128, 192, 256, 320))
    kinds = [stage.kind for stage in plan([Recipe(name="ladder", models=sizes)]).stages]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "prepare": 1,
        "tokenizer": 1,
        "tokenize": 1,
        "train": 5,
        "export": 5,
        "measure": 5,
        "report": 1,
    }


def test_schemes_that_propagate_no_error_share_the_hessians_of_their_model_text_samples_and_seed():
    def rounded(name, how, **changes):
        return Quantized(name=name, model=BASE, scheme=how, propagate_error=False, **changes)

    alike = (rounded("four", scheme.W4A16(group_size=32)), rounded("eight", scheme.W8A16()))
    others = (rounded("fewer", scheme.W8A16(), calibration_samples=8), rounded("elsewhere", scheme.W8A16(), seed=3))
    stages = by_name(evolve(RECIPE, models=(BASE, *alike, *others)))
    folders = {name: stages[f"{name}-quantize"].inputs["hessians"] for name in ("four", "eight", "fewer", "elsewhere")}
    text = BASE.text.name
    assert folders == {
        "four": f"artifacts/{BASE.name}-{text}-128/hessians/hessians",
        "eight": f"artifacts/{BASE.name}-{text}-128/hessians/hessians",
        "fewer": f"artifacts/{BASE.name}-{text}-8/hessians/hessians",
        "elsewhere": f"artifacts/{BASE.name}-{text}-128-seed3/hessians/hessians",
    }
    read_by_itself = evolve(RECIPE, models=(BASE, Quantized(model=BASE, scheme=scheme.W8A16())))
    assert not [stage for stage in plan([read_by_itself]).stages if stage.kind == "hessians"]


def test_recipes_that_differ_in_their_compression_train_once():
    eight = evolve(RECIPE, name="eight", models=(BASE, Quantized(model=BASE, scheme=scheme.W8A16())))
    stages = plan([RECIPE, eight]).stages
    assert [stage.name for stage in stages if stage.kind == "train"] == ["tiny-train"]
    assert [stage.name for stage in stages].count("tiny-perplexity") == 1


def test_the_order_of_recipes_changes_nothing():
    other = evolve(RECIPE, name="other", models=(MIXED, BASE), measures=(measure.Perplexity(text=BOOKS),))
    assert plan([RECIPE, other]) == plan([other, RECIPE])


def test_one_name_for_two_values_is_refused_with_paths_and_both_values():
    other = Recipe(name="other", models=(evolve(BASE, training__seed=8, text__shards=2),), measures=())
    with pytest.raises(PlanError) as refused:
        plan([RECIPE, other])
    assert "other.models[0]" in str(refused.value)
    assert "small.models[0]" in str(refused.value)
    assert "training.seed: 8 ≠ 42" in str(refused.value)
    assert "text.shards: 2 ≠ 4" in str(refused.value)


def test_models_of_every_kind_share_one_namespace():
    twin = Quantized(model=BASE, scheme=scheme.FP8(), name="tiny")
    with pytest.raises(PlanError, match="'tiny'"):
        plan([RECIPE, Recipe(name="other", models=(twin,))])


def test_two_recipes_with_one_name_are_refused():
    with pytest.raises(PlanError, match="'small'"):
        plan([RECIPE, evolve(RECIPE, models=(evolve(BASE, name="other"),))])


def test_a_tokenizer_can_have_a_name_of_its_own():
    named = evolve(BASE, tokenizer=ByteLevelBPE(vocab_size=300, name="letters"))
    assert {"letters-tokenizer", "books-letters-tokenize"} <= set(by_name(evolve(RECIPE, models=(named,))))


def test_two_stages_with_one_name_or_one_product_are_refused():
    stage = Stage(owner="a", section=ExportSection(), inputs={}, outs=("model",))
    with pytest.raises(PlanError, match="two stages have the name a-export"):
        Pipeline(stages=(stage, attrs.evolve(stage, outs=("other",))))
    twice = attrs.evolve(stage, outs=("model", "model"))
    with pytest.raises(PlanError, match="two stages have the output artifacts/a/export/model"):
        Pipeline(stages=(twice,))


def test_a_stage_before_the_one_whose_product_it_reads_is_refused():
    first, *others = plan([RECIPE]).stages
    with pytest.raises(PlanError, match="books-bpe-300-tokenizer: its input 'artifacts/books/prepare/documents'"):
        Pipeline(stages=(*others, first))


def test_a_value_that_nothing_plans_is_refused():
    with pytest.raises(PlanError, match="nothing plans Sealed; declare a function"):
        Draft().need(Sealed())


@define("sealed")
class Sealed(Tokenizer):
    name = "sealed"


# What of another recipe's a recipe can read, by where it is named.
GIVEN = [
    lambda folder: evolve(BASE, text=evolve(WEB, source=source.TextFiles(paths=(f"{folder}/*.txt",)))),
    lambda folder: evolve(BASE, text=evolve(WEB, heldout=source.JsonlFiles(paths=(f"./{folder}/a.jsonl",)))),
    lambda folder: evolve(BASE, text=evolve(WEB, augment=(augment.Paraphrase(model=f"{folder}/"),))),
    lambda folder: evolve(BASE, text=WEB, tokenizer=PretrainedTokenizer(path=f"./{folder}", name="taken")),
    lambda folder: Quantized(model=PretrainedModel(path=folder, name="given"), scheme=scheme.FP8(), text=WEB),
]


@pytest.mark.parametrize("folder", ["artifacts/two/export/model", "artifacts/two/train", "artifacts/two/export"])
@pytest.mark.parametrize("given", GIVEN)
def test_what_another_recipe_makes_is_read_after_it_is_made_whatever_the_order(given, folder):
    reader = Recipe(name="a", models=(evolve(given(folder), name="one"),), measures=())
    maker = Recipe(name="b", models=(evolve(BASE, name="two"),))
    pipelines = [plan(recipes) for recipes in ((reader, maker), (maker, reader))]
    assert pipelines[0] == pipelines[1]
    assert {stage.name for stage in pipelines[0].stages} > {"two-train"}


@pytest.mark.parametrize(
    ("folder", "is_made"),
    [
        ("artifacts/two/export/model", True),
        ("artifacts/two/export", True),
        ("artifacts/two/export/model/inner", True),
        ("artifacts/two/tokenizer/tokenizer", False),
        ("artifacts/three", False),
        ("data", True),
    ],
)
def test_a_path_among_the_artifacts_that_no_stage_makes_is_told(folder, is_made):
    taken = evolve(BASE, name="one", tokenizer=PretrainedTokenizer(path=folder, name="taken"))
    pipeline = plan([Recipe(name="a", models=(taken, evolve(BASE, name="two")))])
    assert list(pipeline.unmade()) == ([] if is_made else [("taken-tokenizer", folder)])


@pytest.mark.parametrize(
    "folder", ["artifacts/web/prepare/documents", "artifacts/web/prepare", "artifacts/web/prepare/documents/train"]
)
def test_a_corpus_that_reads_what_is_made_of_it_is_refused(folder):
    circle = evolve(BASE, text=evolve(WEB, source=source.JsonlFiles(paths=(f"{folder}/*.jsonl",))))
    with pytest.raises(PlanError, match=f"web-prepare: its input '{folder}'"):
        plan([Recipe(name="a", models=(circle,))])


def test_two_recipes_that_read_what_the_other_makes_are_refused():
    def reading(name, other):
        text = evolve(
            WEB, name=f"{name}-text", source=source.TextFiles(paths=(f"artifacts/{other}/export/model/*.txt",))
        )
        return Recipe(name=f"r-{name}", models=(evolve(BASE, name=name, text=text),))

    with pytest.raises(
        PlanError, match=r"(one|two)-text-prepare: its input .* which needs (one|two)-text-prepare first"
    ):
        plan([reading("one", "two"), reading("two", "one")])
