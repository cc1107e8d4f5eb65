"""Files that say what lm-eval asks of a model, read without lm-eval."""

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import yaml

from llmrecipe.errors import suggestion

SUFFIXES = (".yaml", ".py", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
"""How what a folder of tasks holds ends."""

_FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""What `dataset_path` calls files."""

_HIDDEN = {"__pycache__", ".ipynb_checkpoints"}

Config = Mapping[str, Any]


class Function(str):
    """The name of a function of the user's own, `!function utils.doc_to_text`."""


class _Loader(yaml.SafeLoader):
    """YAML in which functions are names."""


_Loader.add_constructor("!function", lambda loader, node: Function(node.value))


@attrs.frozen(kw_only=True)
class TaskFiles:
    """A folder of YAML files of lm-eval."""

    folder: Path

    configs: dict[str, Config]
    """What its files say, with what they include, by the name of the task or group."""

    broken: dict[str, str]
    """Files that can't be read, and why; lm-eval leaves them out."""

    @classmethod
    def read(cls, folder: Path) -> "TaskFiles":
        """Those in `folder` and below it."""
        configs: dict[str, Config] = {}
        broken: dict[str, str] = {}
        for path in sorted(folder.glob("**/*.yaml"), key=Path.as_posix):
            name = path.relative_to(folder)
            if _HIDDEN & {*name.parts}:
                continue
            try:
                config = _whole(path, ())
            except (OSError, ValueError, yaml.YAMLError) as error:
                broken[name.as_posix()] = " ".join(str(error).split())
                continue
            # Those without one are there to be included.
            known = config.get("group", config.get("task"))
            if isinstance(known, str):
                configs.setdefault(known, config)
        return cls(folder=folder, configs=configs, broken=broken)

    @property
    def names(self) -> list[str]:
        """What can be asked for: tasks, groups and tags."""
        return sorted({*self.configs, *(tag for config in self.configs.values() for tag in _tags(config))})

    def fault(self, name: str) -> str | None:
        """Why what is called `name` can't be asked for, and what helps; None if it can."""
        if name not in self.names:
            unread = "".join(f"; {file} can't be read: {reason}" for file, reason in self.broken.items())
            return f"no YAML file there defines {name!r}{suggestion(name, self.names)}{unread}"
        return next((fault for task, config in self.tasks(name) if (fault := self._fault(task, config))), None)

    def tasks(self, name: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Config]]:
        """The tasks that are asked for by a name, as far as the files tell, and what they are; `above` are groups that
        they are in."""
        config = self.configs.get(name)
        if config is None:
            tagged = (task for task, each in self.configs.items() if name in _tags(each))
            yield from ((task, self.configs[task]) for task in tagged)
        elif "group" in config:
            yield from self._members(config, (*above, name))
        else:
            yield name, config

    def _members(self, group: Config, above: tuple[str, ...]) -> Iterator[tuple[str, Config]]:
        members = group.get("task")
        for member in members if isinstance(members, list) else []:
            changes = member if isinstance(member, Mapping) else {}
            name = str(changes.get("group", changes.get("task", member)))
            if name in above:
                continue
            if name in self.names:
                own = {key: value for key, value in changes.items() if key not in ("group", "task")}
                yield from ((task, {**config, **own}) for task, config in self.tasks(name, above))
            elif "group" in changes:
                yield from self._members(changes, above)
            else:
                yield name, changes

    def _fault(self, task: str, config: Config) -> str | None:
        metrics = config.get("metric_list")
        for metric in metrics if isinstance(metrics, list) else []:
            if isinstance(metric, Mapping) and metric.get("hf_evaluate"):
                return (
                    f"{task!r} asks for the metric {metric.get('metric')!r} of the Hub (hf_evaluate), which isn't "
                    "fetched; use one of lm-eval's own, or a !function"
                )
        # Code of the user's own brings the documents.
        return None if {"class", "custom_dataset"} & {*config} else self._missing(task, config)

    def _missing(self, task: str, config: Config) -> str | None:
        """Why a task's documents can't be read."""
        options, place = config.get("dataset_kwargs"), config.get("dataset_path")
        given = options if isinstance(options, Mapping) else {}
        named = [*_paths(given.get("data_files")), *_paths(given.get("data_dir"))]
        if not isinstance(place, str):
            return f"{task!r} names no data set; {_HOW}"
        if place not in _FORMATS:
            if _is_outside(place) or not (self.folder / place).is_dir():
                return f"{task!r} asks for the data set {place!r} of the Hub, which isn't fetched; {_HOW}"
        elif not named:
            return f"{task!r} names no files to read as {place!r}; {_HOW}"
        for path in named:
            if _is_outside(path):
                return f"{task!r} reads {path!r}, which leads out of the folder; put it there"
            if not glob.glob(path, root_dir=self.folder, recursive=True):
                return f"{task!r} reads {path!r}, and the folder has no such file; paths are meant from the folder"
        return None


_HOW = (
    "put its documents there as a file, and write `dataset_path: json` and `dataset_kwargs: {data_files: {test: "
    "documents.jsonl}}`"
)


def _whole(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """What a file says, with what it includes."""
    if path.resolve() in above:
        raise ValueError(f"{path.name} includes itself")
    with open(path, "rb") as file:
        # As safe as that of its base.
        own = yaml.load(file, Loader=_Loader)
    if not isinstance(own, dict):
        raise ValueError("it holds no keys with values")
    included = own.pop("include", None) or []
    found: dict[str, Any] = {}
    for each in included if isinstance(included, list) else [included]:
        found |= _whole(path.parent / str(each), (*above, path.resolve()))
    return found | own


def _tags(config: Config) -> list[str]:
    tags = config.get("tag") or []
    return [str(tag) for tag in (tags if isinstance(tags, list) else [tags])] if "group" not in config else []


def _paths(given: Any) -> Iterator[str]:
    """The paths in what a task names: one, several, or those of each split."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping | list):
        for each in given.values() if isinstance(given, Mapping) else given:
            yield from _paths(each)


def _is_outside(path: str) -> bool:
    pure = PurePosixPath(path)
    return "://" in path or pure.is_absolute() or ".." in pure.parts
