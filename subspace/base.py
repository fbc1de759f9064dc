"""The one contract of every decomposition and every control.

For each delta type t a decoder, and an encoder back, with ONE z ∈ R^k shared by all types:

    decode_t(z) = θ0_t + μ_t + z U_t                       U_t [k, D_t]
    encode_t(θ) = (θ − θ0_t − μ_t) U_t⁺                    least squares, so that decode∘encode is a projection
    encode_t(θ) = W2 tanh(W1 (θ − θ0_t − μ_t) + b1) + b2   where the encoder was learned

Types may differ in size. z is whitened: over the source solutions each of its coordinates has mean 0 and variance 1, so z = 0 is the
mean solution of every type and one step size serves every subspace.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from deltas.bank import Bank
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType, LoRA, delta_type
from subspace.sources import Block, Pair
from subspace.tensors import checksum, open_tensors, write_tensors

FILE = "subspace.safetensors"
FORMAT = "deltaspace.subspace.2"
CUTOFF = 1e-6
"""Singular values of U_t below this share of the largest are no directions of it."""
MEMORY = 2**26
"""Bytes of the block of columns that a basis is handled in."""


@dataclass(frozen=True, eq=False)
class Network:
    """A learned encoder: x ↦ W2 tanh(W1 x + b1) + b2."""

    w1: Float32[np.ndarray, "k D"]
    b1: Float32[np.ndarray, " k"]
    w2: Float32[np.ndarray, "k k"]
    b2: Float32[np.ndarray, " k"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """What a subspace knows of one delta type."""

    config: DeltaType
    layout: Layout
    theta0: Float32[np.ndarray, " D"]
    mean: Float32[np.ndarray, " D"]
    basis: Float32[np.ndarray, "k D"]
    theta0_fingerprint: str
    network: Network | None = None
    """The learned encoder; None is least squares on the basis."""

    @cached_property
    def offset(self) -> Float32[np.ndarray, " D"]:
        """θ0 + μ, where z = 0 lies."""
        return self.theta0 + self.mean

    @cached_property
    def encoder(self) -> Float32[np.ndarray, "k D"]:
        """(U⁺)ᵀ, formed in float64 through the k×k Gram matrix; directions below the cut-off are encoded as 0.

        Blocks of columns at a time: beside the basis, which may be mapped from a file, there is this one array of its size.
        """
        metric, found = np.zeros((len(self.basis),) * 2), np.empty(self.basis.shape, np.float32)
        for columns in _blocks(self.basis):
            block = self.basis[:, columns].astype(np.float64)
            metric += block @ block.T
        values, vectors = np.linalg.eigh(metric)
        kept = values > CUTOFF**2 * max(values[-1], 0.0)
        inverse = np.divide(1.0, values, where=kept, out=np.zeros_like(values))
        inverse = (vectors * inverse) @ vectors.T
        for columns in _blocks(self.basis):
            found[:, columns] = inverse @ self.basis[:, columns]
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Subspace:
    """A k-dimensional space shared by several delta types.

    Args:
        method: the decomposition or control that made it.
        backbone: the backbone's fingerprint.
        pairs: the (task, seed) of each source solution.
        codes: z of each source solution, whitened.
        parts: the types by label.
        spectrum: singular values of [X_A | X_L | …], each block centred and of unit norm; their squares sum to the number of types.
            Empty where there are none.
        null: the same for Gaussian noise of the same shapes.
        energy: by type, the share of the solutions' variance that decoding their codes gives back.
        space: what was compared: the delta's "factors", or the "product" of a LoRA's.
        align: how solutions were aligned before they were compared.
        settings, history: what the method was given, and what it logged.
        grams: by type, the Gram matrix of its solutions as they are (not centred), where it was kept: with it solutions are added without
            the inner products of the old ones (`subspace.growth`).
    """

    method: str
    backbone: str
    pairs: tuple[Pair, ...]
    codes: Float32[np.ndarray, "N k"]
    parts: Mapping[str, Part]
    spectrum: Float64[np.ndarray, " modes"] = field(default_factory=lambda: np.zeros(0))
    null: Float64[np.ndarray, " modes"] = field(default_factory=lambda: np.zeros(0))
    energy: Mapping[str, float] = field(default_factory=dict)
    space: str = "factors"
    align: str = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    grams: Mapping[str, Float64[np.ndarray, "n n"]] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """The dimension of z."""
        return self.codes.shape[1]

    @property
    def labels(self) -> list[str]:
        """The delta types by label."""
        return list(self.parts)

    def part(self, label: str) -> Part:
        """What is known of a type; an unknown label is refused."""
        if label not in self.parts:
            raise InputError(f"expected a delta type of the subspace ({', '.join(self.parts)}), got {label!r}; choose one of them")
        return self.parts[label]

    def decode(self, label: str, z: Any) -> Any:
        """θ [..., D] of z [..., k]: θ0 + μ + z U.

        numpy in, numpy out; JAX in, JAX out, under jit, vmap and grad too. A large basis is better passed to a jitted function as an
        argument (`part(label).offset`, `.basis`) than decoded in it, where it becomes a constant of the program.

        Example:
            theta = space.decode("adapter", space.encode("lora", solution.theta))
        """
        part, z = self.part(label), _floats(z)
        self._sized(z, self.k, f"z for a subspace of k = {self.k}")
        return part.offset + _times(z, part.basis)

    def encode(self, label: str, theta: Any) -> Any:
        """z [..., k] of θ [..., D], by least squares or by the learned encoder."""
        part, theta = self.part(label), _floats(theta)
        self._sized(theta, len(part.theta0), f"θ of {label}")
        x = theta - part.offset
        if part.network is None:
            return _times(x, part.encoder.T)
        net = part.network
        hidden = _times(x, net.w1.T) + net.b1
        return _times(jnp.tanh(hidden) if isinstance(x, jax.Array) else np.tanh(hidden), net.w2.T) + net.b2

    @staticmethod
    def _sized(x: Any, size: int, what: str) -> None:
        if x.ndim == 0 or x.shape[-1] != size:
            raise InputError(f"expected {size} numbers on the last axis of {what}, got shape {tuple(x.shape)}; pass others")

    def check(self, bank: Bank) -> None:
        """Refuse a bank of another backbone, or of another θ0 of a type."""
        if bank.fingerprint != self.backbone:
            raise InputError(f"expected a bank of the subspace's backbone {self.backbone}, got {bank.path} of backbone {bank.fingerprint}; "
                             "decompose that bank instead")
        for label, part in self.parts.items():
            if self.space == "product" and isinstance(part.config, LoRA):
                continue  # its θ0 is the core of the products, whatever the solutions started from
            if (theirs := bank.theta0_fingerprint(label)) != part.theta0_fingerprint:
                raise InputError(f"expected {label} of the subspace's θ0 {part.theta0_fingerprint}, got {bank.path} with θ0 {theirs}; "
                                 "decompose that bank instead")

    def describe(self) -> dict[str, Any]:
        """All but the arrays, as JSON."""
        return {
            "method": self.method, "k": self.k, "space": self.space, "align": self.align, "backbone": self.backbone, "labels": self.labels,
            "pairs": [list(pair) for pair in self.pairs], "energy": dict(self.energy), "spectrum": self.spectrum.tolist(),
            "null": self.null.tolist(), "settings": dict(self.settings), "history": [dict(entry) for entry in self.history],
        }  # fmt: skip

    # ------------------------------------------------------------ files
    def save(self, folder: str | Path) -> None:
        """Write `folder`/subspace.safetensors: every array, and all else as JSON in its header; whole or not at all."""
        tensors = {"codes": self.codes, "spectrum": self.spectrum, "null": self.null}
        types = {}
        for label, part in self.parts.items():
            types[label] = {"config": part.config.to_json(), "layout": part.layout.to_json(), "theta0": part.theta0_fingerprint}
            arrays = {"theta0": part.theta0, "mean": part.mean, "basis": part.basis}
            if part.network is not None:
                arrays |= {f"network.{name}": value for name, value in vars(part.network).items()}
            if label in self.grams:
                arrays["gram"] = np.asarray(self.grams[label], np.float64)
            tensors |= {f"{label}/{name}": value for name, value in arrays.items()}
        about = {name: value for name, value in self.describe().items() if name not in ("k", "spectrum", "null")}
        header = {"format": FORMAT, **about, "types": types, "checksum": checksum(tensors)}
        write_tensors(Path(folder) / FILE, tensors, header)

    @classmethod
    def load(cls, folder: str | Path, bank: Bank | None = None) -> Self:
        """Read what `save` wrote: θ0, means and bases are mapped from the file, and read as they are used.

        Args:
            bank: one that it has to fit (see `check`).

        Raises:
            InputError: no subspace there, a damaged or altered one, or one of another backbone or θ0 than the bank's.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise InputError(f"expected a subspace at {path}, got nothing there; decompose a bank first")
        try:
            header, tensors = open_tensors(path)
            if header["format"] != FORMAT or "checksum" not in header:
                raise ValueError("its format differs")
            types = {label: delta_type(fields["config"]) for label, fields in header["types"].items()}
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"expected {path} as it was written, got a damaged or altered file ({error}); decompose again") from None
        parts, grams = {}, {}
        for label, config in types.items():
            arrays = {name.removeprefix(f"{label}/"): t for name, t in tensors.items() if name.startswith(f"{label}/")}
            network = {name.removeprefix("network."): arrays.pop(name) for name in list(arrays) if name.startswith("network.")}
            if "gram" in arrays:
                grams[label] = arrays.pop("gram")
            fields = header["types"][label]
            parts[label] = Part(config=config, layout=Layout.from_json(fields["layout"]), theta0_fingerprint=fields["theta0"], **arrays,
                                network=Network(**network) if network else None)
        space = cls(
            method=header["method"], backbone=header["backbone"], pairs=tuple((task, seed) for task, seed in header["pairs"]),
            codes=tensors["codes"], parts=parts, spectrum=tensors["spectrum"], null=tensors["null"], energy=header["energy"],
            space=header["space"], align=header["align"], settings=header["settings"], history=header["history"], grams=grams)
        if bank is not None:
            space.check(bank)
        return space


def part_of(block: Block, mean: np.ndarray, basis: np.ndarray, network: Network | None = None) -> Part:
    """A type's part at the sources' θ0."""
    return Part(config=block.config, layout=block.layout, theta0=block.theta0, mean=np.asarray(mean, np.float32),
                basis=np.asarray(basis, np.float32), theta0_fingerprint=block.fingerprint, network=network)


def _blocks(basis: np.ndarray) -> Iterator[slice]:
    """Columns whose numbers take MEMORY bytes in float64."""
    k, size = basis.shape
    width = max(1, MEMORY // (8 * max(k, 1)))
    for first in range(0, size, width):
        yield slice(first, min(first + width, size))


def _floats(x: Any) -> Any:
    return x.astype(jnp.float32) if isinstance(x, jax.Array) else np.asarray(x, np.float32)


def _times(x: Any, y: np.ndarray) -> Any:
    """x y, exact to float32 on every device: an accelerator's default precision would spoil the projection law."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST) if isinstance(x, jax.Array) else x @ y
