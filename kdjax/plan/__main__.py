"""`python -m kdjax.plan --config=configs/digits/kd.py --topology=v5e:4x4`."""

from kdjax.cli import plan

if __name__ == "__main__":
    plan()
