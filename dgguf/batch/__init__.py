"""Files of prompts: each row gets an answer, whatever stops the run meanwhile, on one machine or on many.

sources.py   reads the input: JSON lines, plain lines, CSV, Parquet
rows.py      a line as a request, checked as far as that needs no model
index.py     what is known of each row, on the disk, and the order in which rows are computed
journal.py   finished rows, beside the results, until all are there
work.py      computes a row with a session
results.py   what a row has become: OpenAI's batch results, JSON lines, CSV, Parquet
run.py       all of it together
cluster.py   workers on Ray
"""
