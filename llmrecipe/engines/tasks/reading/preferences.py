"""Files of pairs of answers, a JSON line each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmrecipe.engines.tasks import files
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.engines.tasks.reading.chats import bare, wrong_turns
from llmrecipe.engines.tasks.reading.reader import Reader
from llmrecipe.errors import StageError
from llmrecipe.recipe.task import Preferences


class PreferencesReader(Reader[Preferences]):
    """A chat that ends with a question, and two answers to it."""

    tag: ClassVar[str] = Preferences.tag

    def asked(self, example: Example) -> Any:
        """What both answers are to."""
        return example["messages"]

    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The pairs, those of the same chat together."""
        task, faults = self.task, Faults(name)
        groups: dict[str, list[Example]] = {}
        for number, row in files.json_rows(path, name, faults):
            given = files.value(row, task.messages_field, number, faults)
            wrong = [] if given is None else wrong_turns(given, task.messages_field, last="user")
            for reason in wrong:
                faults.add(number, reason)
            chosen = files.text(row, task.chosen_field, number, faults)
            rejected = files.text(row, task.rejected_field, number, faults)
            # Templates leave out what is around a text.
            if chosen.strip() and chosen.strip() == rejected.strip():
                keys = f"{task.chosen_field!r} and {task.rejected_field!r}"
                faults.add(number, f"{keys} are the same text, of which neither is preferred; remove the pair")
            if given is not None and not wrong:
                messages = bare(given)
                example = {"id": str(number), "messages": messages, "chosen": chosen, "rejected": rejected}
                groups.setdefault(json.dumps(messages), []).append(example)
        faults.refuse()
        if not groups:
            raise StageError(f"{name}: holds no pair")
        return list(groups.values())

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How often the chosen answer is the longer one, and how often the rejected one is: what length gives away."""
        lengths = [(len(row["chosen"]), len(row["rejected"])) for row in rows]
        return {
            "chosen_is_longer": sum(chosen > rejected for chosen, rejected in lengths),
            "rejected_is_longer": sum(chosen < rejected for chosen, rejected in lengths),
        }
