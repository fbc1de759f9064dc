"""One solution as one file, to send or to put on a hub: whoever has the backbone can run it.

The file is a bank's file of a solution (deltas/bank.py) that carries its θ0 too: `vector` and `theta0`, float32 [D], and all else in the
header. A bank stores θ0 once for all solutions of a type, which is what comparing them needs; a file that travels alone has no bank.
"""

import json
from pathlib import Path

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.bank import Solution, checksum
from deltas.errors import InputError
from deltas.files import replacing, sha256
from deltas.layout import Layout
from deltas.types import delta_type

FORMAT = "deltaspace.solution.1"


def save_solution(solution: Solution, path: str | Path) -> None:
    """Write the solution to the file `path`, whole or not at all.

    Example:
        deltas.save_solution(bank.load("lora", "sst2", 0), "sst2.safetensors")
    """
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in (("vector", solution.vector), ("theta0", solution.theta0))}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=solution.header()))


def load_solution(path: str | Path, backbone: Backbone) -> Solution:
    """The solution in a file that `save_solution` wrote.

    Args:
        path: the file.
        backbone: what it was trained on; the fingerprint of its weights is compared.

    Raises:
        InputError: no such file, another kind of file, contents that are not as they were written, or a solution of another backbone.

    Example:
        backbone.logits(batch, deltas.load_solution("sst2.safetensors", backbone))
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a solution's file, got nothing at {path}; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            texts = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected a whole solution's file at {path}, got '{error}'; fetch it again") from None
    if set(tensors) != {"vector", "theta0"}:
        raise InputError(f"expected vector and theta0 of a solution in {path}, got {', '.join(sorted(tensors)) or 'nothing'}; "
                         "write one with save_solution")
    told = texts.pop("checksum", "")
    if json.dumps(checksum(texts, tensors["vector"])) != told:
        raise _changed(path)
    header = {name: json.loads(text) for name, text in texts.items()}
    if header.get("format") != FORMAT:
        raise InputError(f"expected a file of format {FORMAT}, got {header.get('format')!r} in {path}; update deltaspace")
    layout = Layout.from_json(header["layout"])
    if sha256(tensors["theta0"].tobytes(), str(layout.to_json())) != header["theta0"]:
        raise _changed(path)
    if header["backbone"] != backbone.fingerprint:
        raise InputError(f"expected a solution of backbone {backbone.fingerprint}, got {path} of backbone {header['backbone']}; use the "
                         "backbone it was trained with")
    return Solution(task=header["task"], seed=header["seed"], config=delta_type(header["type"]), layout=layout, vector=tensors["vector"],
                    theta0=tensors["theta0"], backbone=header["backbone"], theta0_fingerprint=header["theta0"], scores=header["scores"],
                    provenance=header["provenance"])


def _changed(path: Path) -> InputError:
    return InputError(f"expected {path} as it was written, got other contents (its checksum differs); fetch it again")
