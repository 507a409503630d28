"""The scores that are published on labelled data sets, and the loop that computes them.

For each `sample` of an opened data set: `sample.load()`, a prediction, `score.add(...)`; then
`score.result()`.
"""
