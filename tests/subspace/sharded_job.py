"""A decomposition as one of several processes runs it: `sharded_job.py PROCESS COUNT PORT DEVICES BANK OUT`."""

import sys
from pathlib import Path

import jax
import numpy as np


def main(process: int, count: int, port: int, devices: int, bank: str, out: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, process)
    from deltas.bank import Bank
    from deltas.errors import InputError
    from subspace.gram import combine, gram, products, resumable, unexplained
    from subspace.joint_svd import joint_svd
    from subspace.rows import Stored
    from subspace.sharded import sharded

    folder = Path(out) / str(process)
    sources = sharded(Bank(bank))
    space = joint_svd(resumable(sources, Path(out) / "state"), k=3)
    space.save(folder)
    rows, rng = sources.blocks["lora"].rows, np.random.default_rng(0)
    read: set[int] = set()
    fill = Stored._fill
    Stored._fill = lambda self, block, there, which: (read.update(range(there.start, there.stop)), fill(self, block, there, which))[1]
    memory = 4 * 2 * 4 * len(rows) * 8
    found = {
        "gram": gram(rows, memory=memory),
        "read": np.array(sorted(read)),
        "combined": combine(rng.standard_normal((2, len(rows))) + process, rows, memory=memory),  # the first process's count
        "products": products(rng.standard_normal((2, rows.size)), rows, memory=memory),
        "unexplained": np.array(unexplained(rows, space.parts["lora"].mean, space.codes, space.parts["lora"].basis, memory=memory)),
        "devices": jax.device_count(),
    }
    np.savez(folder / "found.npz", **found)
    path = Bank(bank).file("lora", "task1", 0)
    if count > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("all have read")
        if process == 0:
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        sync_global_devices("one file is another one")
        try:
            joint_svd(sharded(Bank(bank)), k=3)
        except InputError as error:
            (folder / "refused").write_text(str(error))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), *sys.argv[5:])
