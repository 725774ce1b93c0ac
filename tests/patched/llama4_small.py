# SPDX-License-Identifier: Apache-2.0
"""A small Llama 4: configurations, checkpoints, and a count of the tensors in memory."""

from collections.abc import Callable, Iterator
from typing import Any

Checkpoint = dict[str, Any]

EXPERTS, HIDDEN, EXPERT, HEADS, KV_HEADS, LAYERS, VOCABULARY = 8, 256, 256, 4, 2, 8, 512
HEAD = HIDDEN // HEADS
VISION_WIDTH = 64
TEXT = {
    "model_type": "llama4_text",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": EXPERT,
    "intermediate_size_mlp": EXPERT,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "num_local_experts": EXPERTS,
    "interleave_moe_layer_step": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "use_qk_norm": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "model_type": "llama4_vision_model",
    "hidden_size": VISION_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vision_output_dim": VISION_WIDTH,
    "image_size": 28,
    "patch_size": 14,
    "projector_input_dim": VISION_WIDTH,
    "projector_output_dim": VISION_WIDTH,
}
MULTIMODAL = {
    "model_type": "llama4",
    "architectures": ["Llama4ForConditionalGeneration"],
    "text_config": TEXT,
    "vision_config": VISION,
    "boi_token_index": 3,
    "eoi_token_index": 4,
    "image_token_index": 5,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "Llama4ForCausalLM": {**TEXT, "architectures": ["Llama4ForCausalLM"]},
    "Llama4ForConditionalGeneration": MULTIMODAL,
}
MODELOPT = {  # one scale a tensor; in ModelOpt's checkpoints one for all experts
    "quant_method": "modelopt",
    "quantization": {"quant_algo": "FP8"},
    "ignore": ["*self_attn*", "*shared_expert*", "*lm_head*"],
}
CHANNELWISE = {  # a scale for each output channel of each expert
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["re:.*self_attn.*", "re:.*shared_expert.*", "re:.*lm_head", "re:.*router"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8, "type": "float", "strategy": "token", "dynamic": True
            },
        }
    },
}  # fmt: skip


def checkpoint(model: Any, layout: str, scales: str = "none") -> Checkpoint:
    """Weights for `model` in the order and with the names that published checkpoints have.

    layout is fused or single (a tensor for each expert); scales are none, modelopt (one value),
    channelwise (a tensor for each expert) or channelwise fused.
    """
    import torch

    rng = torch.Generator().manual_seed(5)
    weights: Checkpoint = {}

    def add(name: str, *shape: int, dtype: Any = torch.bfloat16) -> None:
        weights[name] = torch.randn(shape, generator=rng).to(dtype)

    multimodal = hasattr(model, "language_model")
    prefix = "language_model." if multimodal and scales != "modelopt" else ""
    for name, parameter in model.named_parameters():
        if name.startswith("vision_model."):
            parts = ("q", "k", "v") if ".qkv_proj." in name else ("qkv",)
            for part in parts:
                rows = parameter.shape[0] // len(parts)
                add(name.replace("qkv_proj", f"{part}_proj"), rows, *parameter.shape[1:])
    add(f"{prefix}lm_head.weight", VOCABULARY, HIDDEN)
    add(f"{prefix}model.embed_tokens.weight", VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        stem = f"{prefix}model.layers.{layer}"
        add_experts(add, f"{stem}.feed_forward.experts", layout, scales)
        add(f"{stem}.feed_forward.router.weight", EXPERTS, HIDDEN)
        add(f"{stem}.feed_forward.shared_expert.down_proj.weight", HIDDEN, EXPERT)
        add(f"{stem}.feed_forward.shared_expert.gate_proj.weight", EXPERT, HIDDEN)
        add(f"{stem}.feed_forward.shared_expert.up_proj.weight", EXPERT, HIDDEN)
        add(f"{stem}.input_layernorm.weight", HIDDEN)
        add(f"{stem}.post_attention_layernorm.weight", HIDDEN)
        add(f"{stem}.self_attn.k_proj.weight", KV_HEADS * HEAD, HIDDEN)
        add(f"{stem}.self_attn.o_proj.weight", HIDDEN, HEADS * HEAD)
        add(f"{stem}.self_attn.q_proj.weight", HEADS * HEAD, HIDDEN)
        add(f"{stem}.self_attn.v_proj.weight", KV_HEADS * HEAD, HIDDEN)
    add(f"{prefix}model.norm.weight", HIDDEN)
    if multimodal:
        add("multi_modal_projector.linear_1.weight", HIDDEN, VISION_WIDTH)
    return weights


def add_experts(add: Callable[..., None], stem: str, layout: str, scales: str) -> None:
    import torch

    dtype = torch.bfloat16 if scales == "none" else torch.float8_e4m3fn
    if layout == "fused":
        add(f"{stem}.down_proj", EXPERTS, EXPERT, HIDDEN, dtype=dtype)
        add(f"{stem}.gate_up_proj", EXPERTS, HIDDEN, 2 * EXPERT, dtype=dtype)
    if scales == "modelopt":
        for projection in ("down_proj", "gate_up_proj"):
            add(f"{stem}.{projection}_input_scale", dtype=torch.float32)
            add(f"{stem}.{projection}_weight_scale", dtype=torch.float32)
    if scales == "channelwise fused":
        add(f"{stem}.down_proj_scale", EXPERTS, 1, HIDDEN, dtype=torch.float32)
        add(f"{stem}.gate_up_proj_scale", EXPERTS, 1, 2 * EXPERT, dtype=torch.float32)
    for expert in range(EXPERTS):
        for projection in ("down_proj", "gate_proj", "up_proj"):
            rows, columns = (HIDDEN, EXPERT) if projection == "down_proj" else (EXPERT, HIDDEN)
            if layout == "single":
                add(f"{stem}.{expert}.{projection}.weight", rows, columns, dtype=dtype)
            if scales == "channelwise":
                add(f"{stem}.{expert}.{projection}.weight_scale", rows, 1, dtype=torch.float32)


def is_language(name: str) -> bool:
    return name.startswith(("language_model.", "model.", "lm_head."))


class PrivateCopies:
    """Gives a checkpoint as copies, and counts the bytes of those that have not been let go."""

    def __init__(self, weights: Checkpoint, counted: Callable[[str], bool] = is_language) -> None:
        self.weights = weights
        self.counted = counted
        sizes = [tensor.nbytes for name, tensor in weights.items() if counted(name)]
        self.total, self.largest, self.peak = sum(sizes), max(sizes), 0

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from torch.multiprocessing.reductions import StorageWeakRef

        given: list[tuple[Any, int]] = []
        for name, tensor in self.weights.items():
            copy = tensor.clone()
            if self.counted(name):
                given.append((StorageWeakRef(copy.untyped_storage()), copy.nbytes))
                given = [(storage, size) for storage, size in given if not storage.expired()]
                self.peak = max(self.peak, sum(size for _, size in given))
            yield name, copy
            del copy


class DeviceShards:
    """Gives a checkpoint as loaders do that read a shard into the GPU's memory: views of a buffer.

    `peak` counts the buffers that somebody held at once; `used` is what was done with the views,
    by name, besides looking at them another way.
    """

    def __init__(self, weights: Checkpoint, a_shard: int = 24) -> None:
        names = list(weights)
        self.shards = [names[at : at + a_shard] for at in range(0, len(names), a_shard)]
        self.weights = weights
        self.peak = 0
        self.used: dict[str, list[str]] = {name: [] for name in names}
        self._given: dict[int, str] = {}

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        import torch
        from torch.multiprocessing.reductions import StorageWeakRef

        buffers: list[Any] = []
        for shard in self.shards:
            sizes = [-(-self.weights[name].nbytes // 64) * 64 for name in shard]
            buffer = torch.empty(sum(sizes), dtype=torch.uint8)
            buffers = [one for one in buffers if not one.expired()]
            buffers.append(StorageWeakRef(buffer.untyped_storage()))
            self.peak = max(self.peak, len(buffers))
            at = 0
            for name, size in zip(shard, sizes, strict=True):
                whole = self.weights[name]
                part = buffer[at : at + whole.nbytes].view(whole.dtype).view(whole.shape)
                part.copy_(whole)
                self._given[part.data_ptr()] = name
                yield name, part
                del self._given[part.data_ptr()], part
                at += size
            del buffer

    def noting(self) -> Any:
        """A mode in which `used` is written."""
        from torch.utils._python_dispatch import TorchDispatchMode

        shards = self

        class Uses(TorchDispatchMode):  # type: ignore[misc]
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                reads = args[1:] if func.__name__.startswith("copy_") else args
                name = shards.name_of(reads[0]) if reads else None
                is_view = any(r.alias_info is not None for r in func._schema.returns)
                if name is not None and (not is_view or reads is not args):
                    shards.used[name].append(func.__name__)
                return func(*args, **(kwargs or {}))

        return Uses()

    def name_of(self, tensor: Any) -> str | None:
        """Whose view this is, or a part of it."""
        import torch

        if not isinstance(tensor, torch.Tensor) or not self._given:
            return None
        (start, name), *_ = self._given.items()
        inside = 0 <= tensor.data_ptr() - start < max(1, self.weights[name].nbytes)
        return name if inside else None
