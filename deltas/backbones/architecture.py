"""What tells one transformer from another: sizes and switches, one configuration for every family."""

from dataclasses import dataclass
from typing import Literal

from deltas.backbones.blocks import Rotary

Kind = Literal["encoder-decoder", "decoder", "encoder"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes and switches of a transformer, under Hugging Face's names where there is one.

    num_layers and num_decoder_layers are those of the encoder and of the decoder; 0 leaves the stack out. d_kv is the size of a head,
    num_kv_heads the number of heads of keys and values (None: as many as queries have).
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int = 0
    num_decoder_layers: int = 0
    num_kv_heads: int | None = None

    rms: bool = True
    """RMS norms, or else layer norms with biases."""
    layer_norm_epsilon: float = 1e-6
    norm_first: bool = True
    """x + f(norm(x)), or else norm(x + f(x))."""
    embed_norm: bool = False
    """A norm after the embeddings."""

    act: str = "relu"
    gated: bool = False
    bias: bool = False
    """Biases of the linear maps of attention and feed-forward."""
    qkv_bias: bool | None = None
    """Those of queries, keys and values, where they differ from `bias`."""
    scaled_attention: bool = True
    """Scores over the square root of d_kv."""

    positions: Literal["relative", "learned", "rotary"] = "relative"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    max_positions: int = 512
    """Rows of a table of learned positions, of which the first `position_offset` are never used."""
    position_offset: int = 0
    rotary: Rotary | None = None
    window: int | None = None
    """How far back a decoder sees, its own token included."""

    embed_scale: float = 1.0
    token_types: int = 0
    tied: bool = True
    """The output head is the transposed embedding."""
    scaled: bool = False
    """Whether the decoder's output is multiplied by d_model^-1/2 before the head, as in T5 1.0."""
    head_bias: bool = False
    masked_head: bool = False
    """A masked-language head: dense, activation, norm, tied embedding, bias."""
    head_act: str = "gelu"
    """The activation of that head."""

    pad_token_id: int = 0
    eos_token_id: int = 1
    """What ends an answer: the token that is trained on."""
    other_ends: tuple[int, ...] = ()
    """Further tokens that end an answer."""
    decoder_start_token_id: int = 0

    @property
    def kind(self) -> Kind:
        """Which stacks there are."""
        if self.num_layers and self.num_decoder_layers:
            return "encoder-decoder"
        return "encoder" if self.num_layers else "decoder"

    @property
    def room(self) -> int | None:
        """How many tokens a stack can tell apart by a table of positions, or None where there is no limit."""
        return self.max_positions - self.position_offset if self.positions == "learned" else None

    @property
    def final_norm(self) -> bool:
        """Whether a norm follows the last block: where the norms come first."""
        return self.norm_first
