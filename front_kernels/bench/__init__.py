"""`python -m front_kernels.bench`: the ops against the machine's limit and against other libraries.

Arrows point one way: __main__ -> measure -> problems, peers, libraries, clocks -> cases. Nothing else imports this.
"""
