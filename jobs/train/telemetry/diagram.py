"""A network as TensorBoard's Graphs page draws it: a box per layer, with its weights inside, and arrows with shapes.

Traced by TensorFlow, the same network is one box of 50 operations with names such as `max_pooling2d_1_2`.
"""

from collections.abc import Iterable
from typing import Any

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef


def diagram(model: Any) -> GraphDef:
    """Return a keras.Model's layers as a graph. What a layer computes has the name of its class.

    A layer without weights is one node. One with weights is a box of its name, in which they are variables.
    """
    graph = GraphDef()
    made_by: dict[int, str] = {}  # the node of each output, by the identity of Keras's tensor
    for layer in model.layers:
        kind = type(layer).__name__
        inputs = [made_by[id(tensor)] for tensor in _listed(layer.input) if id(tensor) in made_by]
        name = layer.name
        if layer.weights:
            variables = [f"{layer.name}/{variable.name}" for variable in layer.weights]
            graph.node.extend(
                _node(each, "VariableV2", (), [variable.shape])
                for each, variable in zip(variables, layer.weights, strict=True)
            )
            name, inputs = f"{layer.name}/{kind}", inputs + variables
        outputs = _listed(layer.output)
        made_by.update((id(tensor), name) for tensor in outputs)
        graph.node.append(_node(name, kind, inputs, [tensor.shape for tensor in outputs]))
    return graph


def _node(name: str, kind: str, inputs: Iterable[str], shapes: Iterable[Any]) -> NodeDef:
    """Return a node; TensorBoard writes the shapes of its outputs beside the arrows. A size of None is unknown."""
    node = NodeDef(name=name, op=kind, input=inputs)
    for shape in shapes:
        listed = node.attr["_output_shapes"].list.shape.add()
        for size in shape:
            listed.dim.add(size=-1 if size is None else size)
    return node


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]
