"""Sec. IV-C, Table II. The paper's settings: which cohort of INBreast each one is evaluated on.

Setting (a) uses the backbone alexnet, (b) and (c) use resnet50. Setting (d) is a private data set of one
division 8:1:1 (`cgn cache manifest --splits 8:1:1`), with alexnet.
"""

from collections.abc import Mapping

SETTING_COHORTS: Mapping[str, str] = {"a": "mass", "b": "mass", "c": "mixed"}
