"""The commands: `python launch/NAME.py` in a checkout, `python -m derta.launch.NAME` where derta is installed."""
