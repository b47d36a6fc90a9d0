"""
Batches that wait on disk: what a sink has not got yet outlives the agent.

::

    <directory>/<sink>/cursor              what is settled
    <directory>/<sink>/<number>.segment    frames, in order; the number of the first one
"""
