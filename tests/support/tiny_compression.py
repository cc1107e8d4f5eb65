"""Fixtures of tests that compress a tiny model: pytest finds them by the names that a module gives them."""

import pytest
import tiny_model

from llmrecipe.engines.compression import reloading


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained model and its tokens, by role."""
    return tiny_model.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def fresh_process():
    """The process that loads a saved model again."""


@pytest.fixture(autouse=True)
def reloaded(request, monkeypatch):
    """Spare tests that don't ask for it that process, which takes seconds to start."""
    if "fresh_process" not in request.fixturenames:
        monkeypatch.setattr(
            reloading,
            "logits_in_a_fresh_process",
            lambda directory, token_ids, scratch: reloading.plain_logits(directory, token_ids),
        )
