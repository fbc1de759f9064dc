"""Weight ensembling: a start for a new task as a weighted mean of source solutions of one delta type.

    w_j = softmax_j(−s̃_j/τ),    θ_start = θ0 + Σ_j w_j (θ_j − θ0),    then few-shot training from there

closeness   s_j of logits and one-hot targets: loss, KL, EL2N, cosine; pure
judging     all sources over one target's rows, each batch once; GraNd, whole and by block
weighting   z-scores, softmax, τ by leaving one source out, cosines of weights, a category's mean
starting    the start in factors, in products of LoRAs, by codes of a shared space
learned     weights by gradient on the few rows
blocks      what belongs to a block of the backbone; cosines of hidden states

Source: Lv et al. 2023, "Parameter-efficient Weight Ensembling Facilitates Task-level Knowledge Transfer" (ACL, short papers).
"""

from subspace.ensembling.blocks import blocks_of, hidden_cosines
from subspace.ensembling.judging import Judged, batches_of, judge
from subspace.ensembling.learned import learn_weights
from subspace.ensembling.starting import can_be_products, code_start, factor_start, of_one_type, product_start
from subspace.ensembling.weighting import LARGER_IS_NEARER, TAUS, at_least_two, best_tau, cosine, normalised, of_category, softmax

__all__ = [
    "LARGER_IS_NEARER", "TAUS", "Judged", "at_least_two", "batches_of", "best_tau", "blocks_of", "can_be_products", "code_start", "cosine",
    "factor_start", "hidden_cosines", "judge", "learn_weights", "normalised", "of_category", "of_one_type", "product_start", "softmax",
]
