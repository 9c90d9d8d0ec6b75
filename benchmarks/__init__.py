"""What a64patch costs, beside its peers, measured in one run: `scripts/bench`, or `python -m benchmarks`.

Read on: __main__.py for how it is run, measure.py for how it is measured, one file a benchmark.
"""
