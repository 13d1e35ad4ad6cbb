"""Rotary position embedding: frequencies, their scalings, and the angles of one step.

The kernels rotate; this module says by how much. Frequencies are worked out in
float64, as a rounding error in a frequency grows with the position.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cierzo.config import FrequencyFactors, LinearScaling, Llama3Scaling, ModelConfig, YarnScaling

Frequencies = NDArray[np.float64]
Angles = NDArray[np.float32]


class RotaryEmbedding:
    """cos, sin and the query scale for any positions of one model.

    The angles are looked up: working them out takes longer than a small model's layer. The table
    grows with the positions that come up.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._frequencies, self._attention_factor = rope_frequencies(config)
        self._softmax_scale = float(config.head_dim) ** -0.5
        self._temperature = config.query_temperature
        self._cos, self._sin = self._table(0, 1024)

    def angles(self, positions: NDArray[np.int32]) -> tuple[Angles, Angles]:
        """cos and sin, each float32 [num_tokens, head_dim / 2], times YaRN's attention factor."""
        if len(positions) == 1:  # a view costs a small model's step less than a copy
            at = int(positions[0])
            if at >= len(self._cos):
                self._lengthen_table(at + 1)
            return self._cos[at : at + 1], self._sin[at : at + 1]
        try:
            return self._cos[positions], self._sin[positions]
        except IndexError:
            self._lengthen_table(int(positions.max()) + 1)
            return self._cos[positions], self._sin[positions]

    def _lengthen_table(self, num_positions: int) -> None:
        begin = len(self._cos)
        cos, sin = self._table(begin, max(num_positions, 2 * begin))
        self._cos, self._sin = np.concatenate([self._cos, cos]), np.concatenate([self._sin, sin])

    def _table(self, begin: int, end: int) -> tuple[Angles, Angles]:
        angle = np.arange(begin, end)[:, None] * self._frequencies
        cos, sin = np.cos(angle), np.sin(angle)
        if self._attention_factor != 1.0:
            cos *= self._attention_factor
            sin *= self._attention_factor
        return cos.astype(np.float32), sin.astype(np.float32)

    def query_scale(self, positions: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [num_tokens]: 1/√head_dim, times the query temperature where a model has one."""
        if self._temperature is None:
            return np.full(len(positions), self._softmax_scale, np.float32)
        spans = positions // self._temperature.original_max_position_embeddings
        temperature = 1.0 + self._temperature.beta * np.log1p(spans)
        scale: NDArray[np.float32] = (self._softmax_scale * temperature).astype(np.float32)
        return scale


def rope_frequencies(config: ModelConfig) -> tuple[Frequencies, float]:
    """Angle per position for each of head_dim / 2 pairs, and the factor on cos and sin."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    match config.rope_scaling:
        case None:
            return frequencies, 1.0
        case LinearScaling(factor=factor):
            return frequencies / factor, 1.0
        case FrequencyFactors(factors=factors):
            return frequencies / np.asarray(factors), 1.0
        case Llama3Scaling() as scaling:
            return _llama3(frequencies, scaling), 1.0
        case YarnScaling() as scaling:
            return _yarn(frequencies, scaling, config), _yarn_attention_factor(scaling)


def _llama3(frequencies: Frequencies, scaling: Llama3Scaling) -> Frequencies:
    """Waves longer than the trained context are stretched, short ones kept, a ramp between."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return keep * frequencies + (1.0 - keep) * frequencies / scaling.factor


def _yarn(frequencies: Frequencies, scaling: YarnScaling, config: ModelConfig) -> Frequencies:
    """Interpolate the pairs that turn fewer than `beta_slow` times over the trained context."""

    def pair_that_turns(turns: float) -> float:
        wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return config.head_dim * math.log(wavelengths) / (2 * math.log(config.rope_theta))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), config.head_dim - 1)
    width = high - low if high != low else 0.001
    interpolated = np.clip((np.arange(len(frequencies)) - low) / width, 0.0, 1.0)
    return frequencies * (1.0 - interpolated + interpolated / scaling.factor)


def _yarn_attention_factor(scaling: YarnScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def magnitude(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)
