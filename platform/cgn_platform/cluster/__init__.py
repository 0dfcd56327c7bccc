"""Ray: connect to it, what a trial needs of a node, and the checks before a run.

Public: `connect.connect`, `resources.Resources` and `Cluster`, `preflight.preflight`. Ray reads its
environment when it is first imported, so nothing here imports it at module level.
"""
