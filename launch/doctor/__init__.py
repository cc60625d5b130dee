"""``python -m launch doctor``: what would stop a training, before it is started; on this machine, or on every host of a hostfile.

::

    hosts ──ssh──► agent ──► host.py: facts of a host ─┐
                        ──► marks.py: is it one folder ─┼─► gather.py ─► findings.py (pure) ─► command.py: a table
                        ──► bandwidth.py: a few ranks  ─┘
"""
