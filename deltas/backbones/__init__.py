"""Frozen pretrained transformers, all built from the same blocks, so that sites have the same names everywhere.

sites      a site and its table of attached parts
blocks     linear maps, norms, relative positions, attention, feed-forward
t5         the T5 family: configuration → blocks, weight-name table
generate   greedy generation with a cache
loading    Hugging Face folders and hub ids → `Backbone`
"""

from deltas.backbones.loading import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
