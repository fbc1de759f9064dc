"""The same backbone and deltas in PyTorch: transformers' T5 with our weights, and our deltas put on it through forward hooks."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deltas import Adapter, Attached, Backbone, LoRA, Prefix
from deltas.backbones import t5
from deltas.backbones.loading import find_folder


def device() -> str:
    """Where PyTorch computes: beside JAX."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until PyTorch's device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def tensor(values: Any) -> Any:
    """An array as a tensor beside the model."""
    import torch

    return torch.as_tensor(np.array(values), device=device())


def load(backbone: Backbone, threads: int) -> Any:
    """transformers' model of the backbone's folder, float32, frozen, without dropout, on `threads` threads."""
    import torch
    from transformers import T5ForConditionalGeneration
    from transformers.utils import logging

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")  # on a GPU, as JAX does by default; nothing changes on a processor
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model: Any = T5ForConditionalGeneration.from_pretrained(find_folder(backbone.name), dtype=torch.float32)
    if not backbone.config.tied:  # transformers ties the head whatever the file holds
        model.lm_head.weight = torch.nn.Parameter(torch.as_tensor(np.array(backbone.module.head.kernel[...]).T.copy()))
    return model.requires_grad_(False).eval().to(device())


def module_name(backbone: Backbone, site: str) -> str:
    """transformers' name of a site's module: `encoder.0.attn` → `encoder.block.0.layer.0.SelfAttention`."""
    theirs = {ours.removesuffix(".kernel"): name.removesuffix(".weight") for name, ours in t5.names(backbone.config).items()}
    if site in theirs:
        return theirs[site]
    return theirs[f"{site}.{'out' if site.endswith('.ff') else 'o'}"].rpartition(".")[0]


def put_on(model: Any, attached: Attached) -> Callable[[Any], None]:
    """Hooks for every part of the delta on the model; the result sets θ [D], which the next forward pass uses.

    Prefix rows are for inputs without padding: the mask that the hooks pass on knows none.
    """
    current: dict[str, Any] = {}
    parts: dict[str, list[str]] = {}
    for name in attached.layout.names:
        parts.setdefault(name.rpartition(".")[0], []).append(name)
    for site, names in parts.items():
        module = model.get_submodule(module_name(attached.backbone, site))
        if isinstance(attached.config, LoRA):
            module.register_forward_hook(_lora(current, names, attached.config.alpha / attached.config.rank))
        elif isinstance(attached.config, Adapter):
            module.register_forward_hook(_adapter(current, names))
        elif isinstance(attached.config, Prefix):
            keys, values = names
            rows = _Rows(current, keys, values, attached.config.length)
            module.register_forward_pre_hook(_prefix(rows), with_kwargs=True)
    layout = attached.layout

    def set_theta(theta: Any) -> None:
        for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
            current[name] = theta[start : start + int(np.prod(shape))].view(shape)

    return set_theta


def _lora(current: Mapping[str, Any], names: list[str], scale: float) -> Callable[..., Any]:
    a, b = names
    return lambda module, args, y: y + scale * (args[0] @ current[a]) @ current[b]


def _adapter(current: Mapping[str, Any], names: list[str]) -> Callable[..., Any]:
    import torch

    a, b = names

    def hook(module: Any, args: Any, y: Any) -> Any:
        out = y[0] if isinstance(y, tuple) else y
        out = out + torch.nn.functional.silu(out @ current[a]) @ current[b]
        return (out, *y[1:]) if isinstance(y, tuple) else out

    return hook


class _Rows:
    """Prefix rows in the place of a cache of earlier tokens: attention takes its keys, values and their positions from there."""

    def __init__(self, current: Mapping[str, Any], keys: str, values: str, length: int) -> None:
        self.current, self.names, self.length = current, (keys, values), length

    def get_seq_length(self, layer: int | None = None) -> int:
        return self.length

    def update(self, keys: Any, values: Any, layer: int | None = None, **others: Any) -> tuple[Any, ...]:
        import torch

        rows = (self.current[name].transpose(0, 1) for name in self.names)  # [heads, P, head_dim]
        return tuple(torch.cat([r.expand(len(x), -1, -1, -1), x], dim=2) for r, x in zip(rows, (keys, values), strict=True))


def _prefix(rows: _Rows) -> Callable[..., Any]:
    import torch

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask, size = None, args[0].shape[1]
        if module.is_decoder:
            mask = torch.full((size, size), -1e9, device=args[0].device).triu(1)
            mask = torch.nn.functional.pad(mask, (rows.length, 0))[None, None]
        name = "cache" if "cache" in kwargs else "past_key_values"  # transformers renamed it in 5.24
        return args, {**kwargs, name: rows, "mask": mask}

    return hook
