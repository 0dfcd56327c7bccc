"""The results of a finished table or sweep: its facts as JSON, and the page that shows them.

Public: `table_facts.table_facts`, `sweep_facts.sweep_facts`, `facts.read_facts` and `write_facts`,
`page.write_report`. `row_charts`, `curve_charts`, `trial_charts` and `film_pictures` fill the page.
"""
