"""What a person sees in a terminal: live progress and tables.

Public: `live.SweepConsole`, `live.TableScreen`, `live.make_console`, and the functions of `tables`.
"""
