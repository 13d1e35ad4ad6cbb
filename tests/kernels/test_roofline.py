"""The machine's rates: positive where there is such a unit, zero where there is none."""

from __future__ import annotations

import pytest

from cierzo import kernels

VECTOR_UNITS = ("f32", "int8")
TILE_UNITS = ("amx_bf16", "amx_bf16_l1", "amx_int8", "amx_int8_l1")


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_instruction_set_has_its_units(isa: str) -> None:
    before = kernels.isa()
    kernels.set_isa(isa)
    try:
        assert all(kernels.multiply_rate(unit, 0.0) > 0 for unit in VECTOR_UNITS)
        rates = [kernels.multiply_rate(unit, 0.0) for unit in TILE_UNITS]
        assert all(rate > 0 for rate in rates) if isa == "amx" else rates == [0.0] * len(rates)
        assert kernels.read_rate(2**20 + 1, 0.0) > 0
    finally:
        kernels.set_isa(before)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="one of f32, int8, amx_int8"):
        kernels.multiply_rate("f64", 0.1)
    with pytest.raises(ValueError, match="nbytes must be"):
        kernels.read_rate(1000, 0.1)
    with pytest.raises(ValueError, match=r"seconds must be in \[0, 60\]"):
        kernels.read_rate(2**20, -1.0)
