"""Ray: connecting to it, the resources of trials, and the checks before a run.

Public: `connect.connect`, `resources.Resources` and `Cluster`, `preflight.preflight`. Ray reads its
environment when it is first imported, so no module here imports it at module level.
"""
