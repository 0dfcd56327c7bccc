"""What outlives a process: the ledger of finished folds and its checkpoints.

Public: `ledger.Ledger`, `Unit` and `Identity`; `out_of_fold` joins the folds of a configuration;
`layout.Store` knows every path of a store.
"""
