"""What a finished table or sweep says: its facts as JSON, and the page that shows them.

Public: `table_facts.table_facts`, `sweep_facts.sweep_facts`, `facts.read_facts`, `page.write_report`.
"""
