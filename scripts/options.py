"""What several commands take: backbone, tasks, types, and how text is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the command line answers --help without JAX
    from deltas import Backbone, DeltaType, Reading, Task

Answering = Literal["generate", "rank", "auto"]


@dataclass(frozen=True, kw_only=True)
class OnTasks:
    """A backbone and tasks."""

    backbone: str = "tiny"
    """A Hugging Face folder, a hub id, or "tiny" (the small T5 that comes with the package)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and computation."""
    tasks: str = "gym"
    """A folder with one folder a task (<task>_{train,dev,test}.tsv), or "gym" (the built-in tasks)."""
    names: tuple[str, ...] = ()
    """Which tasks; none named: all of the folder."""
    max_input: int = 128
    """Tokens kept of an input."""
    max_target: int = 32
    """Tokens kept of an answer."""
    decode: Answering = "generate"
    """Answers by greedy generation, by ranking the task's labels, or (auto) by ranking where a task has labels and generation elsewhere."""
    verbalizer: Literal["words", "cosine", "linear"] | None = None
    """How an encoder scores labels: words at mask tokens, cosine to the labels' embeddings, or a linear head fitted once and frozen; where
    not given, words with a masked-language head and cosine without."""
    cpu_devices: int | None = None
    """Split the processor into this many devices, to run as many solutions side by side."""

    def load(self) -> "tuple[Backbone, list[Task], Reading]":
        """The backbone, the tasks, the reading."""
        use_devices(self.cpu_devices)
        import deltas

        tasks = load_tasks(self.tasks, self.names)  # quick to refuse: before the weights are read
        reading = deltas.Reading(max_input=self.max_input, max_target=self.max_target, decode=self.decode, verbalizer=self.verbalizer)
        return deltas.load_backbone(self.backbone, dtype=self.dtype), tasks, reading


def use_devices(count: int | None) -> None:
    """Split the processor into `count` JAX devices; to be called before any computation. Compiled programs are kept between runs."""
    import jax

    if count is not None:
        jax.config.update("jax_num_cpu_devices", count)
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "deltaspace" / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def load_tasks(folder: str, names: Any = (), **options: Any) -> "list[Task]":
    """Tasks of a folder, or of the gym."""
    import deltas

    return deltas.gym(names=list(names) or None) if folder == "gym" else deltas.load_tasks(folder, list(names) or None, **options)


def parse_type(text: str) -> "DeltaType":
    """A delta type from `lora`, `lora:rank=4` or `lora:rank=4,label=small`; several sites as `lora:sites=q+v`."""
    from deltas.errors import InputError
    from deltas.types import delta_type

    kind, _, rest = text.partition(":")
    fields: dict[str, Any] = {"type": kind}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"expected a type as name:setting=value,…, got {text!r}; for example lora:rank=8")
        several = key in ("sites", "exclude", "inputs")
        fields[key] = tuple([value] if value.startswith("re:") else value.split("+")) if several else _number(value)
    return delta_type(fields)


def parse_rates(texts: "tuple[str, ...]", labels: "list[str]") -> dict[str, float]:
    """Learning rates from `label=rate`; a label that is not trained is refused."""
    from deltas.errors import InputError

    rates = {}
    for text in texts:
        label, _, rate = text.partition("=")
        if label not in labels or not isinstance(value := _number(rate), int | float) or value <= 0:
            raise InputError(f"expected label=rate with a label among {', '.join(labels)} and a rate above 0, got {text!r}; for example "
                             f"{labels[0]}=0.01")
        rates[label] = float(value)
    return rates


def _number(text: str) -> int | float | str | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def pairs_of(bank: Any, labels: Any, tasks: Any) -> list[tuple[str, int]]:
    """The (task, seed) pairs that every label has, of the named tasks or of all."""
    from deltas.errors import InputError

    pairs = bank.pairs(list(labels))
    for task in tasks:
        if task not in {name for name, _ in pairs}:
            raise InputError(f"expected solutions of {task} for {', '.join(labels)} in {bank.path}, got none; train them first")
    return [pair for pair in pairs if not tasks or pair[0] in tasks]
