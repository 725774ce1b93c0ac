# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V4's operators in a compiled graph, for vLLM v0.20 to v0.22; later V4 isn't compiled.

They write into a tensor that they are given. torch wraps such a call, so that the graph is free of
side effects, and takes the wrapper off again at the end, but not where an argument is E8M0: then
compiling ends in "auto_functionalized was not removed". V4's scales are E8M0 where no DeepGEMM
rewrites them, which is so on SM12x. vLLM's own pass takes off the wrappers of operators that it
knows, and knows none of V4's.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized

PASS = "FixFunctionalizationPass"
# Each is called with a new tensor to write into, so nobody else sees that it is written.
OPERATORS = frozenset(
    f"vllm::{name}"
    for name in (
        "deepseek_v4_attention",
        "deepseek_v4_fp8_einsum",
        "deepseek_v4_mega_moe_experts",
        "hc_head_fused_kernel",
        "hc_head_fused_kernel_tilelang",
        "hc_head_triton",
    )
)


def bind(names: MutableMapping[str, Any]) -> None:
    """Put our pass, which is upstream's after V4's operators, into its module's namespace."""
    upstream = names[PASS]

    # Its name stays what it is: torch's cache has the source of a pass in its key, looked up by it.
    class V4Pass(upstream):  # type: ignore[misc, valid-type]
        def __call__(self, graph: torch.fx.Graph) -> None:
            self.nodes_to_remove: list[torch.fx.Node] = []
            for node in list(graph.nodes):
                if is_ours(node):
                    written, arguments = by_name(node.args[0])
                    # By position: a keyword that is called `out` means something else to Inductor.
                    self.defunctionalize(graph, node, written, args=arguments)
            for node in self.nodes_to_remove:
                graph.erase_node(node)
            super().__call__(graph)

    names[PASS] = V4Pass


def is_ours(node: torch.fx.Node) -> bool:
    """Whether a node is the wrapped call of one of V4's operators."""
    if node.op != "call_function" or node.target is not auto_functionalized:
        return False
    schema = getattr(node.args[0], "_schema", None)
    return schema is not None and schema.name in OPERATORS


def by_name(operator: Any) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the arguments that an operator writes, by their place in what the wrapped call
    returns, and all its arguments in their order.
    """
    arguments = operator._schema.arguments
    written = [one.name for one in arguments if one.alias_info and one.alias_info.is_write]
    return dict(enumerate(written, 1)), tuple(one.name for one in arguments)
