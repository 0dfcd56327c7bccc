"""Bilateral Asymmetry Guided Counterfactual Generating Network for Mammogram Classification.

Wang, Li, Zhang, Sun, Dong, Yu, Wang; IEEE Transactions on Image Processing, 2021 (arXiv 2009.14406).
This package implements the paper. It does not depend on clusters, studies or tracking and can be used alone.
"""
