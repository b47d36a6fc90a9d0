"""
Grafana's boards, made from code: ``python -m dashboards [--check]``.

A board is rows of panels: add a :class:`~dashboards.panel.Row` to a board's module and run
``make dashboards``. A new board is a module like the others, named in ``catalogue.py``.
"""
