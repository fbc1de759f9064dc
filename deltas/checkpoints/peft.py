"""PEFT checkpoints, in and out: `adapter_config.json` and `adapter_model.safetensors`."""

import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from deltas.attach import sites
from deltas.backbones.loading import Backbone
from deltas.bank import Solution
from deltas.checkpoints import low_rank, peft_config, peft_lora, peft_modules, peft_rows
from deltas.checkpoints.names import Names
from deltas.checkpoints.reading import Tensors, read_config, read_tensors
from deltas.checkpoints.solutions import parameters_of, solution_of
from deltas.errors import InputError
from deltas.files import replacing, write_json
from deltas.functional import Attached
from deltas.types import IA3, DeltaType, Full, LoRA, Prefix, Prompt

CONFIG, SAFE, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
Arrays = dict[str, np.ndarray]


def load_peft(folder: str | Path, backbone: Backbone, *, task: str | None = None, seed: int = 0, label: str | None = None,
              allow_pickle: bool = False, without_head: bool = False) -> Solution:
    """The delta in a PEFT checkpoint, on the backbone it was trained on.

    LORA (with rank and alpha patterns, rslora, DoRA), IA3, PREFIX_TUNING, PROMPT_TUNING and LN_TUNING, which becomes `full` at the norms
    it has. θ0 is 0, and 1 for the factors of ia3, so that θ is the file's tensors.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        backbone: whose names and shapes the checkpoint must have.
        task: what the solution is called in a bank; the folder's name where not given.
        seed: its number there.
        label: of the delta, in a bank and in tables; the type's name where not given.
        allow_pickle: read `adapter_model.bin` where there are no safetensors, weights alone, with PyTorch.
        without_head: leave out the prediction head that PEFT saved with the adapter (`modules_to_save`), which is refused otherwise.

    Raises:
        InputError: a type or a switch that changes the mathematics and is not built, by its name; tensors that are missing, left over or of
            another shape, all of them; a pickle; a damaged file.

    Warns:
        UserWarning: keys of the configuration that are not known; rows that PEFT itself never reads.

    Example:
        >>> delta = deltas.load_peft("adapter_folder/", backbone)
        >>> logits = backbone.logits(batch, delta)
    """
    folder = Path(folder)
    raw = read_config(folder, "peft_type")
    path = folder / CONFIG
    kind = peft_config.check(raw, path, without_head=without_head)
    values = read_tensors(folder, SAFE, PICKLED, allow_pickle=allow_pickle)
    tensors = Tensors(peft_config.headless(raw, values, without_head=without_head), folder)
    names = Names.of(backbone)
    prefixed = names.prefixed(key.removeprefix(peft_config.BASE) for key in tensors.values)
    config, parameters = interpret(kind, raw, tensors, names, path, label or "", backbone)
    origin = {"format": "peft", "folder": str(folder), "prefixed": prefixed, "task_type": raw.get("task_type"),
              "base_model": raw.get("base_model_name_or_path")}
    return solution_of(backbone, config, parameters, task=folder.resolve().name if task is None else task, seed=seed,
                       provenance={"checkpoint": origin})


def interpret(kind: str, raw: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, label: str,
              backbone: Backbone) -> tuple[DeltaType, Arrays]:
    """The configuration and the parameters that a checkpoint's settings and tensors are on the backbone; `path` is what errors name."""
    if kind == "LORA":
        return peft_lora.read(raw, tensors, names, path, label)
    if kind == "IA3":
        return peft_modules.read_ia3(raw, tensors, names, path, label)
    if kind == "LN_TUNING":
        return peft_modules.read_norms(raw, tensors, names, path, label)
    if kind == "PREFIX_TUNING":
        return peft_rows.read_prefix(raw, tensors, names, path, label, backbone)
    return peft_rows.read_prompt(raw, tensors, path, label, backbone)


def save_peft(solution: Solution, folder: str | Path, backbone: Backbone, *, rank: int | None = None, energy: float | None = None) -> None:
    """Write the solution as a PEFT checkpoint that computes the same on the backbone's Hugging Face model.

    lora, ia3, prefix (decoders, `shift=True`), prompt, and full at norms alone, as LN_TUNING. With `rank` or `energy`, any difference of
    linear kernels (lora, full on linear sites, ia3 without biases, several together) as a LoRA of at most that rank, or of the least rank
    that keeps that share of |ΔW|² in each module.

    Args:
        solution: on this backbone; one that came from `load_peft` goes back under the names it had.
        folder: where `adapter_config.json` and `adapter_model.safetensors` are written.
        backbone: the one it was trained on.
        rank: of the LoRA, at least 1.
        energy: the share of the squared norm it keeps, in (0, 1].

    Raises:
        InputError: a type without a form in PEFT, or what in it has none, by name; a solution of another backbone.
    """
    low_rank.check(rank, energy)
    names = Names.of(backbone)
    origin = solution.provenance.get("checkpoint", {})
    prefixed = bool(origin.get("prefixed", names.headed))
    Attached.of(backbone, solution.config, theta0=solution.theta0).check(solution)
    if rank is not None or energy is not None:
        raw, tensors = _low_rank(solution, backbone, names, prefixed, rank, energy)
    else:
        raw, tensors = _exact(solution, backbone, names, prefixed)
    task_type = {"encoder-decoder": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}.get(backbone.kind)
    if task_type is None and raw["peft_type"] in ("PROMPT_TUNING", "PREFIX_TUNING"):
        task_type = "FEATURE_EXTRACTION"  # without one, PEFT reads the rows and never uses them
    raw |= {"task_type": origin.get("task_type", task_type), "base_model_name_or_path": origin.get("base_model") or backbone.name}
    write(Path(folder), raw, tensors)


def _exact(solution: Solution, backbone: Backbone, names: Names, prefixed: bool) -> tuple[dict[str, Any], Arrays]:
    config, parameters = solution.config, parameters_of(solution)
    match config:
        case LoRA():
            return peft_lora.write(config, parameters, names, prefixed)
        case IA3():
            return peft_modules.write_ia3(config, parameters, names, prefixed)
        case Prefix():
            return peft_rows.write_prefix(config, _rows(solution, backbone), backbone)
        case Prompt():
            return peft_rows.write_prompt(parameters, backbone)
        case Full() if peft_modules.norms_alone(parameters, names):
            return peft_modules.write_norms(parameters, names, prefixed)
        case Full():
            raise InputError(f"expected a rank or an energy, to write {solution.label} as LoRA, got neither; choose one")
    raise InputError(f"expected lora, ia3, prefix, prompt or full, to write it for PEFT, got {config.name}, of which PEFT has no form; "
                     "keep it in this package's own files")


def _rows(solution: Solution, backbone: Backbone) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Keys and values of a prefix by attention site, whatever network makes them."""
    attached = Attached.of(backbone, solution.config, theta0=solution.theta0)
    module = attached.module(jnp.asarray(solution.theta), attached.frozen)
    found = {}
    for name, site in sites(module).items():
        for part in site.parts():
            if (rows := part.rows()) is not None:
                found[name] = tuple(np.asarray(each, np.float32) for each in rows)
    return found


def _low_rank(solution: Solution, backbone: Backbone, names: Names, prefixed: bool, rank: int | None,
              energy: float | None) -> tuple[dict[str, Any], Arrays]:
    tensors: Arrays = {}
    ranks: dict[str, int] = {}
    for module, (a, b) in _approximations(solution, backbone, names, rank, energy):
        full = peft_config.BASE + names.full(module, prefixed)
        ranks[module] = a.shape[1]
        tensors |= {f"{full}.lora_A.weight": a.T, f"{full}.lora_B.weight": b.T}
    default = max(ranks.values())
    return peft_lora.settings(ranks, ranks, names, prefixed, rank=default, alpha=default), tensors  # alpha = rank: the scale is 1


def _approximations(solution: Solution, backbone: Backbone, names: Names, rank: int | None,
                    energy: float | None) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Each module that is changed, and its factors; a difference [in, out] is formed only of what is no product already."""
    config = solution.config
    if isinstance(config, LoRA) and not config.dora:
        for module, (a, b, alpha) in peft_lora.by_module(config, parameters_of(solution), names).items():
            scale = alpha / (math.sqrt(a.shape[1]) if config.rslora else a.shape[1])
            yield module, low_rank.of_product(a, scale * b, rank=rank, energy=energy)
        return
    changes, modules = low_rank.differences(solution, backbone), names.module_of()
    for module in dict.fromkeys(modules[site] for site in changes):
        n_in = names.sizes(module)[0]
        members = [changes.get(site, np.zeros((n_in, names.size(site)[1]), np.float32)) for site in names.modules[module]]
        yield module, low_rank.factors(np.concatenate(members, axis=1), rank=rank, energy=energy)


def write(folder: Path, raw: Mapping[str, Any], tensors: Arrays) -> None:
    """The two files of a checkpoint, the tensors first: a folder with a configuration is whole."""
    from safetensors.numpy import save_file

    if bad := sorted(name for name, value in tensors.items() if not np.all(np.isfinite(value))):
        warnings.warn(f"{folder / SAFE} has numbers that are not finite: {', '.join(bad)}", UserWarning, stacklevel=3)
    whole = {name: np.ascontiguousarray(value, np.float32) for name, value in sorted(tensors.items())}
    with replacing(folder / SAFE) as temporary:
        save_file(whole, temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG, dict(sorted(raw.items())))
