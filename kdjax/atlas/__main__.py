"""`python -m kdjax.atlas --family=logits --dataset=fashion_mnist --workdir=/tmp/atlas`."""

from kdjax.cli import atlas

if __name__ == "__main__":
    atlas()
