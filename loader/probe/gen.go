package probe

// The object is committed, so that building lvx needs Go alone. Both
// multiarch directories are named because only the one of the building host
// exists.
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -output-stem probe -type address raw ../../bpf/probe.c -- -O2 -g -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
