"""Chats as text, by a chat template, and which of its tokens are answers."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from llmrecipe import artifacts
from llmrecipe.cards import TaskCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks.items import UNLABELLED, Item
from llmrecipe.engines.tasks.work import Work
from llmrecipe.errors import StageError
from llmrecipe.recipe.chat_tasks import ChatTask
from llmrecipe.recipe.networks.network import Network

PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A chat template for tokenizers without: each message a line behind its role, and the end of text behind answers."""

_BEGIN = "{{ bos_token }}"

_DAY = datetime.date(2024, 7, 26)
"""What day it is for a template: what those of Llama 3 take where they can't know it."""

Messages = Sequence[dict[str, str]]

_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@attrs.frozen(kw_only=True)
class Rendered:
    """A chat in tokens."""

    input_ids: list[int]

    is_answer: list[bool]
    """Of each token, whether it is learned."""

    def item(self, most: int, example: int) -> Item | None:
        """Its first `most` tokens with a label at each that is learned; None if there is none among them."""
        ids = self.input_ids[:most]
        # The first token follows none.
        known = zip(ids[1:], self.is_answer[1 : len(ids)], strict=True)
        labels = [UNLABELLED, *(token if own else UNLABELLED for token, own in known)]
        if all(label == UNLABELLED for label in labels):
            return None
        return Item(input_ids=ids, labels=labels, example=example)


class Template:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, is_plain: bool) -> None:
        """Use the tokenizer's own, or give it the plain one.

        Raises:
            StageError: it has none, or nothing in it ends an answer.
        """
        if is_plain:
            begins = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("")["input_ids"]
            tokenizer.chat_template = _BEGIN * begins + PLAIN
        elif tokenizer.chat_template is None:
            raise StageError("the tokenizer has no chat template; use template='plain', which gives it one")
        self._tokenizer, self._special = tokenizer, list(map(str, tokenizer.all_special_tokens))
        special = set(tokenizer.all_special_ids)
        ids, is_answer = self._tokens(_PROBE, "a chat")
        ends = [token for token, own in zip(ids, is_answer, strict=True) if own and token in special]
        if not ends:
            raise StageError(
                "the tokenizer's chat template has no special token behind an answer, so a model wouldn't learn where "
                "to stop; use template='plain'"
            )
        self.end: int = ends[-1]
        """The token that ends an answer."""

    def rendered(self, messages: Messages, name: str, *, last_alone: bool = False) -> Rendered:
        """A chat, of which answers, or the last one alone, are learned up to the token that ends each.

        Raises:
            StageError: the template refuses it, or writes what came before otherwise when more follows.
        """
        self._refuse_special(messages, name)
        ids, is_answer = self._tokens(messages, name, len(messages) - 1 if last_alone else 0)
        last = None
        # What follows the end of an answer, such as a line break, is written by no model.
        for place in range(len(ids) - 1, -1, -1):
            if not is_answer[place]:
                last = None
            elif last is None and ids[place] == self.end:
                last = place
            is_answer[place] = is_answer[place] and last is not None
        return Rendered(input_ids=ids, is_answer=is_answer)

    def prompt(self, messages: Messages, name: str) -> list[int]:
        """The tokens that an answer to these messages follows.

        Raises:
            StageError: as `rendered`.
        """
        self._refuse_special(messages, name)
        text = self._text(messages, name, asks=True)
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _refuse_special(self, messages: Messages, name: str) -> None:
        """Else what somebody wrote would be read as the end of a message, or the beginning of another."""
        for place, message in enumerate(messages, 1):
            held = [token for token in self._special if token in message["content"]]
            if held:
                raise StageError(
                    f"{name}: message {place} holds {held[0]!r}, which the tokenizer takes for a special token, as one "
                    "that ends a message; take it out, or write it otherwise"
                )

    def _tokens(self, messages: Messages, name: str, first: int = 0) -> tuple[list[int], list[bool]]:
        """The tokens of a chat, and which are of answers from message `first` on."""
        whole = self._text(messages, name)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and index >= first:
                before = self._text(messages[:index], name, asks=True)
                through = self._text(messages[: index + 1], name)
                if not (through.startswith(before) and whole.startswith(through)):
                    raise StageError(
                        f"{name}: the tokenizer's chat template writes a chat otherwise when more follows, so a model "
                        "would learn what it is never asked; use template='plain', or chats of one question"
                    )
                spans.append((len(before), len(through)))
        found = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        is_answer = [
            any(begin < last and first < end and last <= end for begin, end in spans)
            for first, last in found["offset_mapping"]
        ]
        return list(found["input_ids"]), is_answer

    def _text(self, messages: Messages, name: str, *, asks: bool = False) -> str:
        asked: list[Any] = [dict(message) for message in messages]
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": asks}
        try:
            # Some templates write the day that it is, by which a run would depend on when it is made.
            text: Any = self._tokenizer.apply_chat_template(asked, strftime_now=_DAY.strftime, **options)
        except (TemplateError, TypeError) as error:
            raise StageError(f"{name}: the tokenizer's chat template refuses it: {error}") from error
        return str(text)


C = TypeVar("C", bound=ChatTask)


class ChatWork(Work[C]):
    """A task that is learned from chats, by the head that predicts text."""

    head: ClassVar[str] = "CausalLM"

    def __init__(self, card: TaskCard, tokenizer: PreTrainedTokenizerBase) -> None:
        """For a model with this card and tokenizer.

        Raises:
            StageError: the tokenizer has no chat template that does.
        """
        super().__init__(card, tokenizer)
        self._template = Template(tokenizer, is_plain=self.task.template == "plain")

    def files(self, directory: Path, network: Network) -> dict[str, str]:
        """The chat template, of a model whose start had another or none; and that its answers end where it learned."""
        path = directory / folders.GENERATION_FILE
        how = artifacts.read_json(path) if path.exists() else {}
        known = how.get("eos_token_id")
        ends = known if isinstance(known, list) else [] if known is None else [known]
        how["eos_token_id"] = [self._template.end, *(end for end in ends if end != self._template.end)]
        found = {folders.GENERATION_FILE: artifacts.to_json(how)}
        if self.task.template == "plain":
            found["chat_template.jinja"] = str(self.tokenizer.chat_template)
        return found
