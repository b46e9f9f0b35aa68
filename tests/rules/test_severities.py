"""What is a note where no engine is named, and louder where one is."""

from __future__ import annotations

import pytest

from fp8load.rules.samples import STATIC, TENSOR_WISE
from rules.examples import checkpoint_of

Q_SCALE = "model.layers.0.self_attn.q_proj.weight_scale"


@pytest.mark.parametrize("code", ["F8L402", "F8L704"])
@pytest.mark.parametrize(("engine", "severity"), [(None, "info"), ("vllm@0.33", "warning")])
def test_a_convention_is_warned_of_where_an_engine_is_named(code, engine, severity):
    report = checkpoint_of(STATIC + TENSOR_WISE, {Q_SCALE: 0.5}).verify("scales", engine=engine)

    assert {finding.severity for finding in report.findings if finding.code == code} == {severity}
