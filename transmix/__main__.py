"""`python -m transmix`, and `torchrun -m transmix`."""

from transmix.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
