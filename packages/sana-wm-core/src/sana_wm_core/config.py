"""The shape of a transformer, in the field names of the published config.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Activation = Literal["silu", "gelu", "relu"] | None


class TransformerConfig(BaseModel):
    """Sizes and switches of a SANA-WM transformer; the defaults are the released 2.66 B model.

    Field names are those of the diffusers class SanaWMTransformer3DModel, so its config.json loads as it is.
    Fields below the line `cam_rms_downscale_gdn` are ours and are written to disk only when changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = Field(128, ge=1, description="Latent channels, in and out.")
    num_layers: int = Field(20, ge=1, description="Blocks.")
    hidden_size: int = Field(2240, ge=8, description="Width of the token stream.")
    num_attention_heads: int = Field(20, ge=1, description="Heads of text cross-attention only; divides hidden_size.")
    patch_size: tuple[int, int, int] = Field((1, 1, 1), description="Latent cells per token in time, rows, columns.")
    softmax_every_n: int = Field(4, ge=0, description="Every n-th block attends with softmax; 0 means none does.")
    linear_head_dim: int = Field(112, ge=8, multiple_of=8, description="Width of a self-attention head, both kinds.")
    ffn_type: Literal["GLUMBConvTemp", "mlp"] = Field("GLUMBConvTemp", description="Feed-forward layer.")
    t_kernel_size: int = Field(3, ge=1, description="Latent frames seen by the feed-forward's temporal filter; odd.")
    conv_kernel_size: int = Field(4, ge=0, description="Taps of the temporal filter on GDN keys; 0 means no filter.")
    k_conv_only: bool = Field(True, description="Filter the keys only, not queries and values.")
    pos_embed_type: Literal["wan_rope"] = Field("wan_rope", description="Kind of position code.")
    qk_norm: bool = Field(True, description="RMS-normalise self-attention queries and keys.")
    cross_norm: bool = Field(True, description="RMS-normalise cross-attention queries and keys.")
    y_norm: bool = Field(True, description="RMS-normalise the projected text.")
    cam_attn_compress: Literal[1] = Field(1, description="The camera branch is as wide as the main one.")
    init_cam_from_base: bool = Field(True, description="Kept from the published file; training init always does so.")
    use_chunk_plucker_post_attn: bool = Field(True, description="Add Pluecker rays after self-attention.")
    chunk_plucker_channels: int = Field(48, ge=1, description="6 ray numbers times 8 raw frames per latent frame.")
    chunk_plucker_post_attn_blocks: int = Field(20, description="First blocks that add the rays; negative means all.")
    fp32_attention: bool = Field(True, description="Kept from the published file; not read.")
    image_size: int = Field(720, description="Kept from the published file; not read.")
    caption_channels: int = Field(2304, ge=1, description="Width of the text encoder's output.")
    mlp_ratio: float = Field(3.0, gt=0, description="Feed-forward width over hidden_size.")
    mlp_acts: tuple[Activation, Activation, Activation] = Field(
        ("silu", "silu", None), description="Activations: after the inner projection, on the gate, after the outer one."
    )
    use_pe: bool = Field(True, description="Rotary positions; without them every position looks the same.")
    learn_sigma: bool = Field(False, description="Kept from the published file; not read.")
    pred_sigma: Literal[False] = Field(False, description="The model predicts a velocity and nothing else.")
    mixed_precision: str = Field("bf16", description="Kept from the published file; not read.")

    cam_rms_downscale_gdn: bool = Field(
        True, description="GDN blocks: a camera transform may not raise the RMS of a head vector (diffusers does this)."
    )
    cam_rms_downscale_softmax: bool = Field(True, description="The same in softmax blocks.")
    cam_softmax_scale: Literal["padded", "head_dim"] = Field(
        "padded", description="Camera logits over sqrt of the padded head width (128 for 112), or of the head width."
    )
    chunk_softmax_scale: Literal["padded", "head_dim"] = Field(
        "padded", description="The same for the main branch, in chunk-causal and streaming passes only."
    )
    cam_conv_context: Literal["carried", "local"] = Field(
        "carried", description="Camera keys' temporal filter reaches back across chunks, or starts anew in each."
    )
    softmax_dtype: Literal["bfloat16", "model"] = Field(
        "bfloat16", description="float32 softmax blocks attend in bfloat16, as diffusers does, or in the model's type."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_private_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {k: v for k, v in values.items() if not (isinstance(k, str) and k.startswith("_"))}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> TransformerConfig:
        for name in ("linear_head_dim", "num_attention_heads"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of {name}={getattr(self, name)}")
        if self.patch_size[0] != 1 or min(self.patch_size) < 1:
            raise ValueError(f"patch_size={self.patch_size} must start with 1 and be positive, for example (1, 2, 2)")
        if self.t_kernel_size % 2 == 0:
            raise ValueError(f"t_kernel_size={self.t_kernel_size} must be odd, for example 3")
        return self

    @property
    def heads(self) -> int:
        """Heads of self-attention."""
        return self.hidden_size // self.linear_head_dim

    def is_softmax(self, block: int) -> bool:
        """Whether block number `block` (from 0) attends with softmax."""
        return self.softmax_every_n > 0 and (block + 1) % self.softmax_every_n == 0

    def has_plucker(self, block: int) -> bool:
        """Whether block number `block` (from 0) adds Pluecker rays."""
        first = self.chunk_plucker_post_attn_blocks
        return self.use_chunk_plucker_post_attn and (first < 0 or block < first)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> TransformerConfig:
        """Build from the contents of a config.json.

        Raises:
            ValueError: An unknown field or a value out of range; one line naming the first.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "fields"
            if first["type"] == "extra_forbidden":
                raise ValueError(
                    f"{source}: unknown field {name}={values.get(name)!r}; allowed are the fields of "
                    "TransformerConfig, for example num_layers=20"
                ) from error
            raise ValueError(f"{source}: {name}={first.get('input')!r}: {first['msg']}") from error

    def to_dict(self) -> dict[str, Any]:
        """Fields for a config.json that diffusers reads too: our own fields appear only when changed."""
        fields = list(type(self).model_fields)
        own = fields[fields.index("cam_rms_downscale_gdn") :]
        values = self.model_dump(mode="json")
        unchanged = [name for name in own if values[name] == type(self).model_fields[name].default]
        return {name: value for name, value in values.items() if name not in unchanged}
