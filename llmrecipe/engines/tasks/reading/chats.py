"""Files of chats, a JSON line each."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmrecipe.engines.tasks import files
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.engines.tasks.reading.reader import Reader
from llmrecipe.errors import StageError
from llmrecipe.recipe.task import Instructions

ROLES = ("system", "user", "assistant")

_SAYS = {"user": "question", "assistant": "answer"}
"""What a role's message is."""


class ChatsReader(Reader[Instructions]):
    """Messages that take turns, and what tests the last answer."""

    tag: ClassVar[str] = Instructions.tag

    def asked(self, example: Example) -> Any:
        """What comes before the last answer."""
        return example["messages"][:-1]

    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The chats, those that ask the same together."""
        faults, groups = Faults(name), dict[str, list[Example]]()
        for number, row in files.json_rows(path, name, faults):
            given = files.value(row, self.task.messages_field, number, faults)
            example: Example = {"id": str(number)}
            wrong = [] if given is None else wrong_turns(given, self.task.messages_field)
            for reason in wrong:
                faults.add(number, reason)
            if self.task.tests_field in row:
                example["tests"] = files.text(row, self.task.tests_field, number, faults)
            if given is not None and not wrong:
                example["messages"] = bare(given)
                groups.setdefault(json.dumps(self.asked(example)), []).append(example)
        faults.refuse()
        if not groups:
            raise StageError(f"{name}: holds no chat")
        return list(groups.values())

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How many messages there are of each role."""
        return dict(sorted(Counter(message["role"] for row in rows for message in row["messages"]).items()))


def wrong_turns(given: Any, field: str, last: str = "assistant") -> list[str]:
    """What is wrong with the messages of a chat, in which one of this role has the last word."""
    shape = 'a list of objects such as {"role": "user", "content": "…"}'
    if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
        return [f"{field!r} must be {shape}"]
    found = []
    for place, message in enumerate(given, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            found.append(f"message {place} has the role {role!r}; known: {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            found.append(f"message {place} has the content {content!r}; it must be a text that isn't empty")
    if found:
        return found
    roles = [message["role"] for message in given]
    turns = roles[1:] if roles[0] == "system" else roles
    if last not in turns:
        return [f"has no {_SAYS[last]}: no message is the {last}'s; add one, or remove the chat"]
    for place, role in enumerate(turns):
        expected = ROLES[1 + place % 2]
        if role != expected:
            place += len(roles) - len(turns) + 1
            return [f"message {place} is the {role}'s, where the {expected} has a turn; user and assistant alternate"]
    if turns[-1] != last:
        article = "a question" if last == "assistant" else "an answer"
        return [f"ends with {article}; the last message must be the {last}'s"]
    return []


def bare(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The messages without what else they hold, of which no template here is told."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]
