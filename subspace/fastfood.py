"""Fastfood: k random directions of R^D, each written down in O(D log D) from O(D) random numbers.

    θ = S H G Π H B z,   z padded with zeros to L = 2^⌈log₂ max(D, k)⌉, θ cut to its first D entries

H is the Walsh-Hadamard matrix [L, L] of ±1, B a diagonal of random signs, Π a random permutation, G a Gaussian diagonal, S a diagonal that
gives the rows of the matrix the lengths of Gaussian ones. Row i of the basis is the image of the unit vector e_i, all with one draw of
B, Π, G, S. Entries of the matrix are nearly Gaussian and nearly uncorrelated; what it saves is the k·D numbers that an independent draw needs.

Source: Le, Sarlós and Smola 2013 (Fastfood, ICML); as the map from few numbers to all parameters: Li et al. 2018 (arXiv 1804.08838) and
Aghajanyan et al. 2020 (arXiv 2012.13255). Departure: there the map is applied at every step; here its rows are formed once.
"""

import numpy as np
from jaxtyping import Float32


def fastfood(k: int, size: int, rng: np.random.Generator) -> Float32[np.ndarray, "k D"]:
    """The images of k unit vectors in R^size; up to rounding and chance every entry has mean 0 and variance 1."""
    length = 1 << (max(k, size) - 1).bit_length()
    signs = rng.choice(np.array([-1, 1], np.float32), k)  # of B only the first k entries meet a unit vector
    order, g = rng.permutation(length), rng.standard_normal(length, np.float32)
    s = np.sqrt(rng.chisquare(length, length)).astype(np.float32) / np.float32(np.linalg.norm(g) * np.sqrt(length))
    out = np.empty((k, size), np.float32)
    for i in range(k):
        x = np.zeros(length, np.float32)
        x[i] = signs[i]
        out[i] = (s * hadamard(g * hadamard(x)[order]))[:size]
    return out


def hadamard(x: Float32[np.ndarray, " L"]) -> Float32[np.ndarray, " L"]:
    """H x in place, L a power of 2: log₂ L passes of sums and differences."""
    length, half = len(x), 1
    while half < length:
        pairs = x.reshape(-1, 2, half)
        first = pairs[:, 0].copy()
        pairs[:, 0] += pairs[:, 1]
        np.subtract(first, pairs[:, 1], out=pairs[:, 1])
        half *= 2
    return x
