"""LiteRT's files as ``ztw-rl export`` writes them: what they say, and their exits one by one."""

from __future__ import annotations

import json
import zlib
from typing import Any

from ztw_rl.interpreters import require_package

IDENTIFIER = b"TFL3"
"""What the file has behind its first four bytes."""
KEY = b"ztw_rl"
"""Of the metadata, JSON."""
SEAL = b"ztw1"
"""Before the checksum at the end."""
OWN = "own_{}"
"""What an exit's own outputs are called inside the file; ``{}`` is what
``deployed.outputs_by`` calls them."""


def is_tflite(content: bytes) -> bool:
    """Whether this is a file of LiteRT's."""
    return content[4:8] == IDENTIFIER


def sealed(content: bytes) -> bytes:
    """With a checksum at the end, where LiteRT does not look: it would run a damaged file."""
    return content + SEAL + zlib.crc32(content).to_bytes(4, "little")


def metadata_of(content: bytes) -> dict[str, Any]:
    """What a file says of itself.

    Raises:
        ValueError: It is damaged, or no export of ours.
        UserError: LiteRT is missing.
    """
    whole, seal, checksum = content[:-8], content[-8:-4], content[-4:]
    if not is_tflite(content) or seal != SEAL:
        raise ValueError("it does not end as an export does")
    if zlib.crc32(whole).to_bytes(4, "little") != checksum:
        raise ValueError("its checksum is wrong")
    model = _model(content)
    for each in model.metadata:
        if each.name == KEY:
            found: dict[str, Any] = json.loads(bytes(model.buffers[each.buffer].data))
            return found
    raise ValueError("it does not say what it is")


def exits_of(content: bytes, outputs: tuple[str, ...], n_exits: int) -> list[bytes]:
    """Each exit as a model of its own, for single samples and batches.

    Args:
        content: Of a file in which the control flow lives: graph m is exit m, and what follows.
        outputs: Of every exit but the last; see ``deployed.outputs_by``.
        n_exits: E.

    Returns:
        E; see ``deployed.DeployedModel`` for inputs and outputs.
    """
    import flatbuffers

    made = []
    for m in range(n_exits):
        model = _model(content)
        model.subgraphs = [model.subgraphs[m]]
        model.metadata = []
        _cut(model, outputs if m < n_exits - 1 else outputs[2:4])
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        made.append(bytes(builder.Output()))
    return made


def _cut(model: Any, outputs: tuple[str, ...]) -> None:
    """Leave what some outputs of the only graph depend on."""
    graph = model.subgraphs[0]
    places = {tensor.name.decode(): index for index, tensor in enumerate(graph.tensors)}
    graph.outputs = [places[OWN.format(name)] for name in outputs]
    names = dict(zip(graph.outputs, outputs, strict=True))
    if "x" in places:
        names[places["x"]] = "features"
    for index, name in names.items():
        graph.tensors[index].name = name.encode()
    wanted = set(graph.outputs)
    steps = []
    for step in reversed(graph.operators):
        if wanted & set(step.outputs):
            steps.append(step)
            wanted |= set(step.inputs)
    graph.operators = steps[::-1]
    graph.inputs = [index for index in graph.inputs if index in wanted]
    # Of all that is left, its own content and no other's.
    kept = [model.buffers[0]]
    for index, tensor in enumerate(graph.tensors):
        if tensor.buffer:
            if index in wanted:
                kept.append(model.buffers[tensor.buffer])
            tensor.buffer = len(kept) - 1 if index in wanted else 0
    model.buffers = kept


def _model(content: bytes) -> Any:
    require_package()
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content, 0)
