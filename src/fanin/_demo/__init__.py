"""``python -m fanin demo``: all of fanin on real data, beside plain NumPy."""
