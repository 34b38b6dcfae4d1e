"""Tables, figures and the page, made from results files only.

runs (evaluations and their measures by label) -> table (Markdown), collected, collected_tables (of a sweep)
                            -> figures, training_curves, responses, directions -> page_content -> html (report.html)
report: writes all of them.
"""
