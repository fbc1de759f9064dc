"""What many solutions share: per delta type a decoder θ_t = θ0_t + μ_t + z U_t with ONE z ∈ R^k for all types.

base         the contract: Subspace with encode, decode, save, load
gram         exact Gram matrices of solutions, streamed
joint_svd    the closed form: the SVD of [X_A | X_L | …], each block centred and scaled
autoencoder  the paper's learned projections; learning is their loop
controls     mean_only, random_basis, shuffled
optimize     stage 2: tune z alone through one type
transfer     stage 3: decode it by every other type
scores       relative and chance-normalised scores with bootstrap intervals
inspection   what a subspace holds, for `deltas.inspect`
"""

from subspace import inspection
from subspace.autoencoder import Autoencoder, autoencoder
from subspace.base import Network, Part, Subspace
from subspace.controls import mean_only, random_basis, shuffled
from subspace.gcca import gcca
from subspace.granularity import by_group
from subspace.joint_svd import gram_correlation, joint_svd
from subspace.optimize import Found, optimize, optimize_many
from subspace.pca import pca
from subspace.refine import Refine, refine
from subspace.sources import Sources, gather
from subspace.transfer import TransferTable, transfer

__all__ = [
    "Autoencoder", "Found", "Network", "Part", "Refine", "Sources", "Subspace", "TransferTable", "autoencoder", "by_group", "gather", "gcca",
    "gram_correlation", "inspection", "joint_svd", "mean_only", "optimize", "optimize_many", "pca", "random_basis", "refine", "shuffled",
    "transfer",
]
