"""An embeddings request's texts → prompts to read; hidden states → vectors as asked for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cierzo.engine.readout import Readout, ReadPrompt, Row, unit_length
from cierzo.errors import ContextOverflowError, RequestError
from cierzo.server.prompt_size import refuse_endless_text
from cierzo.server.schemas.embeddings import EmbeddingRequest
from cierzo.tokenizer.tokenizer import encode_whole

if TYPE_CHECKING:
    from cierzo.server.token_model import TokenModel


def prepare_embeddings(body: EmbeddingRequest, model: TokenModel) -> list[ReadPrompt]:
    """One prompt per input. Tokenizes: call it off the event loop. Raises RequestError."""
    check_dimension(body, model.embedding_dim)
    readout = Readout(pooling=model.pooling)
    return [
        ReadPrompt(_token_ids(text, position, model), readout)
        for position, text in enumerate(_inputs(body))
    ]


def check_dimension(body: EmbeddingRequest, dim: int) -> None:
    """Raise RequestError for vectors that a model of `dim` numbers cannot make."""
    wanted = _dimension(body, dim)
    if wanted > dim:
        raise RequestError(
            f"{body.model} makes vectors of {dim} numbers; ask for no more",
            param="output_dimension" if body.output_dimension else "dimensions",
        )
    if "binary" in (body.output_dtype or "") and wanted % 8:
        raise RequestError(
            f"eight numbers make a byte of a binary vector, and {wanted} is no "
            "multiple of 8; ask for an output_dimension that is",
            param="output_dimension",
        )


def vector_json(hidden: Row, body: EmbeddingRequest) -> Any:
    """`hidden` as the answer's `embedding`: numbers, or base64 of their bytes."""
    vector = unit_length(hidden[: _dimension(body, len(hidden))])
    return _encoded(_as_dtype(vector, body.output_dtype or "float"), body)


def as_sent(values: Sequence[float], body: EmbeddingRequest) -> Any:
    """A vector that an upstream has made in the wanted dimension and type already."""
    dtype = {"uint8": np.uint8, "ubinary": np.uint8, "int8": np.int8, "binary": np.int8}
    array = np.array(values, dtype.get(body.output_dtype or "", np.float32))
    return _encoded(array, body)


def _encoded(values: NDArray[Any], body: EmbeddingRequest) -> Any:
    if body.encoding_format == "base64":
        return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()
    return values


def _as_dtype(vector: Row, dtype: str) -> NDArray[Any]:
    """Whole numbers span the vector's own range, which leaves its direction as it is."""
    if dtype == "float":
        return vector
    if dtype in ("int8", "uint8"):
        largest = max(float(np.abs(vector).max()), float(np.finfo(np.float32).tiny))
        levels: NDArray[np.int8] = np.rint(vector * (127 / largest)).astype(np.int8)
        return levels if dtype == "int8" else (levels.astype(np.int16) + 128).astype(np.uint8)
    bits = np.packbits(vector > 0)
    return bits if dtype == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)


def _dimension(body: EmbeddingRequest, dim: int) -> int:
    return body.output_dimension or body.dimensions or dim


def _inputs(body: EmbeddingRequest) -> list[Any]:
    """Each a text or a list of token ids."""
    value = body.input
    if isinstance(value, str) or isinstance(value[0], int):
        return [value]
    return list(value)


def _token_ids(text: str | list[int], position: int, model: TokenModel) -> tuple[int, ...]:
    if isinstance(text, str):
        refuse_endless_text([text], model.max_context_length, param="input")
        text = encode_whole(model.text.tokenizer, text) if text else []
    if not text:
        raise RequestError(f"input {position} is empty; leave it out", param="input")
    if len(text) >= model.max_context_length:
        raise ContextOverflowError(
            f"input {position} has {len(text)} tokens, over the {model.max_context_length - 1} "
            "that fit the context; shorten or split it",
            param="input",
        )
    return tuple(text)
