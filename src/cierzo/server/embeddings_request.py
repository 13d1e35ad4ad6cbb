"""An embeddings request's texts → prompts to read; hidden states → vectors as asked for."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.engine.readout import Readout, ReadPrompt, Row, unit_length
from cierzo.errors import ContextOverflowError, RequestError
from cierzo.server.prompt_size import refuse_endless_text
from cierzo.server.schemas.embeddings import EmbeddingRequest
from cierzo.server.served_model import ServedModel
from cierzo.tokenizer.tokenizer import encode_whole


def prepare_embeddings(body: EmbeddingRequest, model: ServedModel) -> list[ReadPrompt]:
    """One prompt per input. Tokenizes: call it off the event loop. Raises RequestError."""
    if (body.output_dimension or body.dimensions or 1) > model.embedding_dim:
        raise RequestError(
            f"{body.model} makes vectors of {model.embedding_dim} numbers; ask for no more",
            param="output_dimension" if body.output_dimension else "dimensions",
        )
    if "binary" in (body.output_dtype or "") and _dimension(body, model) % 8:
        raise RequestError(
            f"eight numbers make a byte of a binary vector, and {_dimension(body, model)} is no "
            "multiple of 8; ask for an output_dimension that is",
            param="output_dimension",
        )
    readout = Readout(pooling=model.pooling)
    return [
        ReadPrompt(_token_ids(text, position, model), readout)
        for position, text in enumerate(_inputs(body))
    ]


def vector_json(hidden: Row, body: EmbeddingRequest, model: ServedModel) -> Any:
    """`hidden` as the answer's `embedding`: numbers, or base64 of their bytes."""
    vector = unit_length(unit_length(hidden)[: _dimension(body, model)])
    values = _as_dtype(vector, body.output_dtype or "float")
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


def _dimension(body: EmbeddingRequest, model: ServedModel) -> int:
    return body.output_dimension or body.dimensions or model.embedding_dim


def _inputs(body: EmbeddingRequest) -> list[Any]:
    """Each a text or a list of token ids."""
    value = body.input
    if isinstance(value, str) or isinstance(value[0], int):
        return [value]
    return list(value)


def _token_ids(text: str | list[int], position: int, model: ServedModel) -> tuple[int, ...]:
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
