"""Validators for pinned references to the Hugging Face Hub: owner/name and a full commit hash."""

import re

import attrs

from llmrecipe.recipe.schema import FieldError

_COMMIT = re.compile(r"[0-9a-f]{40}")

# `datasets` would take a name without an owner for a format, "buckets/…" for a place that knows no commits.
_NAME = re.compile(r"(?!buckets/)[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


def name(owner: object, attribute: attrs.Attribute, value: str) -> None:
    """A validator: owner and name of a data set or a model."""
    if not _NAME.fullmatch(value):
        reason = f"must be an owner and a name as on the hub, such as 'HuggingFaceFW/fineweb-edu', got {value!r}"
        raise FieldError(owner, attribute.name, reason)


def commit(owner: object, attribute: attrs.Attribute, value: str) -> None:
    """A validator: the whole hash of a commit."""
    if not _COMMIT.fullmatch(value):
        raise FieldError(
            owner,
            attribute.name,
            f"must be the hash of a commit, 40 of 0-9 and a-f, got {value!r}: a branch or a tag may mean something "
            "else tomorrow; copy the hash from 'Files and versions', 'History' on its page",
        )
