"""What many solutions share: per delta type a decoder θ_t = θ0_t + μ_t + z U_t with ONE z ∈ R^k for all types.

the contract     base: Subspace with encode, decode, save, load
what is decomposed
                 sources: solutions by type, complete or not; foreign: folders of adapters; rows: read a block of columns at a time;
                 gram, sharded: exact Gram matrices and combinations, on one device or many; product: LoRA by ΔW = AB; alignment, gauges, ranks
decompositions   joint_svd (missing: where some solutions are), gcca, pca, autoencoder (learning; looping), refine; granularity: a z a layer;
                 controls: mean_only, random_basis (fastfood), shuffled
choosing k       choosing, validation (held_out_scores: by the backbone), stability, similarity, maps; remembered: Gram matrices asked again
working in it    optimize (several: types at once), gradient_free, few_shot, warm_start, transfer, merging (rules), project, export
packages         ensembling: a start for a new task, sources weighed by how near they are to it; continual: classes learned step by step
growing          growth: newcomers; compression: a bank as bases and codes
scores           relative and chance-normalised scores with bootstrap intervals; ranking: which method is better, task by task;
                 task_transfer: what a task's solution is worth on others, inside a category and across
inspection       what a subspace holds, for `deltas.inspect`
"""

from subspace import continual, ensembling, inspection
from subspace.alignment import align_to, aligned
from subspace.autoencoder import Autoencoder, autoencoder
from subspace.base import Network, Part, Subspace
from subspace.choosing import gaussian_null, permutation_null
from subspace.compression import Compressed, compress, decompress, scores_kept
from subspace.controls import mean_only, random_basis, shuffled
from subspace.export import export, placed
from subspace.few_shot import few_shot
from subspace.foreign import gather_folders
from subspace.gcca import gcca
from subspace.gradient_free import search
from subspace.gram import resumable
from subspace.granularity import by_group
from subspace.growth import extend, missed, with_grams
from subspace.held_out_scores import HeldOutScores, cross_validated_scores
from subspace.joint_svd import gram_correlation, joint_svd
from subspace.maps import code_points, points_of, task_map
from subspace.merging import Merged, merge, merge_codes, merge_factors, merge_solutions
from subspace.optimize import Found, optimize, optimize_many
from subspace.pca import pca
from subspace.product import in_product_space
from subspace.project import Projection, project
from subspace.ranks import of_one_rank
from subspace.refine import Refine, refine
from subspace.remembered import duplicates, remembered
from subspace.rules import Dare, Mean, Rule, TaskArithmetic, Ties
from subspace.sharded import sharded
from subspace.similarity import task_cosines, type_similarity
from subspace.sources import Sources, gather
from subspace.stability import angles_between, over_halves, over_seeds
from subspace.transfer import TransferTable, transfer
from subspace.validation import cross_validated, recommended
from subspace.warm_start import WarmStart, warm_start

__all__ = [
    "Autoencoder", "Compressed", "Dare", "Found", "HeldOutScores", "Mean", "Merged", "Network", "Part", "Projection", "Refine", "Rule",
    "Sources", "Subspace", "TaskArithmetic", "Ties", "TransferTable", "WarmStart", "align_to", "aligned", "angles_between", "autoencoder",
    "by_group", "code_points", "compress", "continual", "cross_validated", "cross_validated_scores", "decompress", "duplicates",
    "ensembling", "export", "extend", "few_shot", "gather", "gather_folders", "gaussian_null", "gcca", "gram_correlation",
    "in_product_space", "inspection", "joint_svd", "mean_only", "merge", "merge_codes", "merge_factors", "merge_solutions", "missed",
    "of_one_rank", "optimize", "optimize_many", "over_halves", "over_seeds", "pca", "permutation_null", "placed", "points_of", "project",
    "random_basis", "recommended", "refine", "remembered", "resumable", "scores_kept", "search", "sharded", "shuffled", "task_cosines",
    "task_map", "transfer", "type_similarity", "warm_start", "with_grams",
]
