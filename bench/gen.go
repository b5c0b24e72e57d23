package main

//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -output-stem bench Raw ../bpf/bench/bench.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -output-stem race Race ../bpf/bench/race.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
