"""The transport's own arithmetic, without a server."""

from __future__ import annotations

import pytest

from bananas.transport import BACKOFF_BASE_S, BACKOFF_CAP_S, Transport


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_pauses_double_up_to_a_cap_and_are_spread(chance: float) -> None:
    """Between half and whole of each, so that a fleet does not come back at one moment."""
    transport = Transport("redis://127.0.0.1:1", chance=lambda: chance)
    wholes = [min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**n) for n in range(40)]
    assert wholes[0] < wholes[1] < wholes[-1] == BACKOFF_CAP_S
    pauses = [transport._backoff_s() for _ in wholes]
    assert pauses == pytest.approx([whole * (0.5 + chance / 2) for whole in wholes])
    await transport.close()
