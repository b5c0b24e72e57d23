package loader

// The committed object means that building lvx needs no clang. Debian keeps
// the asm/ headers below the architecture's directory, which -idirafter finds
// for whichever there is.
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -output-stem lb -type scheduler -type service_flag -type setting -type vip -type port -type peer Raw ../bpf/lb.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
