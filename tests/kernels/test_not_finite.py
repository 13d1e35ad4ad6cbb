"""A row that is not finite stays its own affair: the other rows keep their bits.

Under sanitizers (`python -m tests.fuzz --tests tests/kernels`) it must also overflow nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

from cierzo.config import WeightDtype
from cierzo.kernels import Tensor, matmul
from tests.kernels.weights import FORMATS, normal, random_weight


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_rows_beside_it(each_isa: str, dtype: WeightDtype, affine: bool, value: float) -> None:
    weight = random_weight(dtype, affine, 33, 70, 1).packed
    x = normal(2, 20, 70)
    alone, beside = Tensor(0, 33), Tensor(0, 33)
    matmul(alone, Tensor.from_numpy(x), weight)
    x[3] = value
    x[17, 5] = value
    matmul(beside, Tensor.from_numpy(x), weight)
    others = [row for row in range(20) if row not in (3, 17)]
    np.testing.assert_array_equal(beside.numpy()[others], alone.numpy()[others])
