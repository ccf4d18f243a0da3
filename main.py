"""python main.py [--lr 0.1] [--resume] … : trains, as `featherweight train` does (the structure of pytorch-cifar)."""

import sys

from featherweight.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
