"""Benchmarks: our way and another, in turn in one run on the same threads; `deltaspace bench` prints the table.

| module | one comparison |
|---|---|
| `steps` | (a) a training step of one LoRA against transformers + PEFT; (b) bucketed batches against batches padded to 512 tokens |
| `decomposition` | (c) joint_svd of 180 × 1M numbers against scikit-learn's randomized SVD, and its singular values against a dense SVD |
| `decomposition_size` | joint_svd of 2,000 × 1M numbers on the disk against reading the files once and the float64 product alone |
| `autoencoder` | (d) a multi-task autoencoder step against the same step written plainly in PyTorch |
| `flight` | (e) throughput of training against the number of solutions in flight |
| `originals` | the same backbone and deltas in PyTorch |
| `timing` | pinned threads, rounds in turn, medians and ratios |

Both sides of (a) and (d) start from the same numbers and must reach the same losses: the results carry the difference.
"""
