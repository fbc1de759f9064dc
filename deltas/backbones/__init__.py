"""Frozen pretrained transformers, all built from the same blocks, so that sites have the same names everywhere.

sites         a site and its table of attached parts, and what a part can do there
blocks        linear maps, embeddings, norms, positions, attention, feed-forward
architecture  the sizes and switches that tell one transformer from another
transformer   embeddings, an encoder, a decoder or both, a head
family        what a family adds: configuration → architecture, weight-name table
t5 bart bert gpt2 llama    the families, a file each
generate      greedy generation with a cache
loading       Hugging Face folders and hub ids → `Backbone`
"""

from deltas.backbones.loading import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
