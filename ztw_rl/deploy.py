"""Runs an exported early-exit model with numpy and ONNX Runtime or LiteRT; torch is not needed.

    model = load("pong.onnx")
    decision = model.predict(frames, threshold=0.9)
    decision.labels, decision.exits, decision.confidences

A model is one ``.onnx`` file in which the control flow lives, for one input at a time; a zip of one
ONNX graph per exit and ``metadata.json``, so that samples that have left a batch can be dropped in
between; or one ``.tflite`` file, which serves both.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from ztw_rl import tflite
from ztw_rl.deployed import DeployedModel, LitertModel, OneFileModel, outputs_by
from ztw_rl.errors import UserError
from ztw_rl.interpreters import Interpreters, require_package

Format = Literal["onnx", "onnx-stages", "litert", "aoti"]
"""What can be exported."""
Weights = Literal["float32", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "onnx-stages": ".zip",
    "litert": ".tflite",
    "aoti": ".zip",
}
"""How files of each format end."""
FORMAT = 1
STAGES, ONE_FILE, LITERT = "onnx", "onnx-file", "litert"
"""What metadata call the kinds that ONNX Runtime and LiteRT run."""
KEY = "ztw_rl"
"""Of the metadata, JSON, among those of an ``.onnx`` file."""
METADATA_FILE = "metadata.json"
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError),
    *(KeyError, TypeError, ValueError),
)
"""What reading a damaged artefact raises; RuntimeError where it seems to be encrypted."""


def format_of(path: Path, wanted: Format | None) -> Format:
    """What is exported to a file: what is wanted, else what its suffix says.

    Raises:
        UserError: The two contradict each other, or neither tells.
    """
    suffix = path.suffix.lower()
    if wanted is None:
        # The first of those that share a suffix.
        for kind, own in SUFFIXES.items():
            if suffix == own:
                return kind
        raise UserError(f"{path} must end in .onnx, in .zip for one graph per exit, or in .tflite")
    if suffix != SUFFIXES[wanted]:
        raise UserError(
            f"the format {wanted} is written to a {SUFFIXES[wanted]} file, not to {path}"
        )
    return wanted


def check_weights(kind: Format, weights: Weights) -> None:
    """Find out whether a format has such weights.

    Raises:
        UserError: It has not.
    """
    if weights != "float32" and kind != "litert":
        raise UserError(f"the format {kind} has no {weights} weights; take the format litert")


def graph_file(m: int) -> str:
    """Name of exit m's graph inside the artefact."""
    return f"exit_{m}.onnx"


def open_session(graph: bytes, n_threads: int, source: str) -> Any:
    """An ONNX Runtime session on the CPU.

    Raises:
        UserError: ONNX Runtime is missing or cannot read the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is missing; pip install 'ztw-rl[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} cannot be run ({reason}); export it again") from None
    return session


def kind_of(path: str | Path) -> str | None:
    """What a file says that it is: ``onnx``, ``onnx-file``, ``litert`` or ``aoti``; else None."""
    try:
        if _begins_as_tflite(path):
            kind = tflite.metadata_of(Path(path).read_bytes())["kind"]
        elif not zipfile.is_zipfile(path):
            kind = _one_file_metadata(_open_file(Path(path), 1))["kind"]
        else:
            with zipfile.ZipFile(path) as archive:
                kind = json.loads(archive.read(METADATA_FILE))["kind"]
    except (*UNREADABLE, UserError):
        return None
    return kind if isinstance(kind, str) else None


def check_replaceable(path: Path) -> None:
    """Find out whether an export may be written here.

    Raises:
        UserError: Something else is there.
    """
    if path.exists() and kind_of(path) is None:
        raise UserError(f"{path} is there, and no exported model; name another file")


def _begins_as_tflite(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return tflite.is_tflite(file.read(8))


def load(path: str | Path, n_threads: int = 1) -> DeployedModel | OneFileModel:
    """Read what ``ztw-rl export`` wrote.

    Args:
        path: The file, of the format ``onnx``, ``onnx-stages`` or ``litert``.
        n_threads: For the work inside a layer.

    Raises:
        UserError: The file is missing, damaged, no such model, or what runs it is missing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; make it with: ztw-rl export")
    try:
        if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
            return _load_stages(path, n_threads)
        if path.suffix.lower() == SUFFIXES["litert"] or _begins_as_tflite(path):
            return _load_tflite(path, n_threads)
        session = _open_file(path, n_threads)
        metadata = _one_file_metadata(session)
        if metadata["format"] != FORMAT or metadata["kind"] != ONE_FILE:
            raise UserError(f"{path} is no ONNX file of format {FORMAT}; export it again")
        with _told(path, "metadata"):
            return OneFileModel(session, metadata)
    except UNREADABLE as error:
        raise UserError(f"{path} is damaged ({error}); export it again") from None


def _load_stages(path: Path, n_threads: int) -> DeployedModel:
    """Read a zip.

    Raises:
        UserError: It is no such zip, or something in it cannot be run.
    """
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read(METADATA_FILE))
        if metadata["format"] != FORMAT or metadata["kind"] != STAGES:
            raise UserError(f"{path} is no ONNX artefact of format {FORMAT}; export it again")
        graphs = [archive.read(graph_file(m)) for m in range(metadata["n_exits"])]
    sessions = [open_session(graph, n_threads, str(path)) for graph in graphs]
    with _told(path, METADATA_FILE):
        return DeployedModel(sessions, metadata)


def _load_tflite(path: Path, n_threads: int) -> LitertModel:
    """Read a ``.tflite`` file.

    Raises:
        UserError: It is no such file, or LiteRT is missing or cannot run it.
    """
    require_package()
    content = path.read_bytes()
    metadata = tflite.metadata_of(content)
    if metadata["format"] != FORMAT or metadata["kind"] != LITERT:
        raise UserError(f"{path} is no LiteRT file of format {FORMAT}; export it again")
    with _told(path, "metadata"):
        return open_tflite(content, metadata, n_threads, str(path))


def open_tflite(
    content: bytes, metadata: Mapping[str, Any], n_threads: int, source: str
) -> LitertModel:
    """A model from a ``.tflite`` file's content.

    Args:
        content: See ``tflite``.
        metadata: What it says of itself.
        n_threads: For the work inside a layer.
        source: Where it comes from, for errors.

    Raises:
        UserError: LiteRT is missing or cannot run it, or the metadata contradict each other.
        KeyError: Something is missing in the metadata.
    """
    outputs = outputs_by(metadata.get("rule", "confidence"))
    graphs = tflite.exits_of(content, outputs, int(metadata["n_exits"]))
    return LitertModel([Interpreters(graph, n_threads, source) for graph in graphs], metadata)


@contextmanager
def _told(path: Path, where: str) -> Iterator[None]:
    """Errors of metadata that cannot be used name the file.

    Raises:
        UserError: They cannot.
    """
    try:
        yield
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({where}: {error}); export it again") from None


def _open_file(path: Path, n_threads: int) -> Any:
    """A session of an ``.onnx`` file; see ``open_session``."""
    return open_session(path.read_bytes(), n_threads, str(path))


def _one_file_metadata(session: Any) -> dict[str, Any]:
    """What an ``.onnx`` file says of itself.

    Raises:
        KeyError: It is no export of ours.
    """
    found: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    return found
