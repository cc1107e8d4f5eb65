"""The reader of each task."""

from typing import Any

from llmrecipe.engines.tasks.reading.chats import ChatsReader
from llmrecipe.engines.tasks.reading.names import NamesReader
from llmrecipe.engines.tasks.reading.pairs import PairsReader
from llmrecipe.engines.tasks.reading.preferences import PreferencesReader
from llmrecipe.engines.tasks.reading.questions import QuestionsReader
from llmrecipe.engines.tasks.reading.reader import Reader
from llmrecipe.engines.tasks.reading.texts import TextsReader
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Task

_READERS: dict[str, type[Reader[Any]]] = {
    each.tag: each for each in (NamesReader, TextsReader, ChatsReader, PreferencesReader, QuestionsReader, PairsReader)
}


def reader_of(task: Task) -> Reader[Any]:
    """What reads the files of a task.

    Raises:
        StageError: nothing does.
    """
    if task.tag not in _READERS:
        raise StageError(f"{task.name}: nothing reads examples of {type(task).__name__}")
    return _READERS[task.tag](task)
