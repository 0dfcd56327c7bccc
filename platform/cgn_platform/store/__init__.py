"""What outlives a process: the ledger of finished folds, its checkpoints, and the paths of a store.

Public: `ledger.Ledger`, `Unit` and `Identity`; `out_of_fold`, which joins the folds of a configuration;
`layout.Store`, every path of a store; `databases`.
"""
