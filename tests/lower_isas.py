"""Prints the instruction sets of this machine below its best one, for `make test`."""

from cierzo import kernels

if __name__ == "__main__":
    print(*(isa for isa in kernels.available_isas() if isa != kernels.isa()))
